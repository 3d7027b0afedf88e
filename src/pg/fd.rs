//! Sockets count against the server's budget of file descriptors.

use pgrx::pg_sys;

/// So many descriptors reserved for connections; given back when dropped.
pub struct ReservedDescriptors(usize);

impl ReservedDescriptors {
    /// Reserves `count` descriptors, or none.  Cached files are closed to make room.
    pub fn acquire(count: usize) -> Option<Self> {
        let mut reserved = Self(0);
        while reserved.0 < count {
            // SAFETY: only does the server's own book-keeping.
            if !unsafe { pg_sys::AcquireExternalFD() } {
                return None;
            }
            reserved.0 += 1;
        }
        Some(reserved)
    }
}

impl Drop for ReservedDescriptors {
    fn drop(&mut self) {
        for _ in 0..self.0 {
            // SAFETY: each was acquired above.
            unsafe { pg_sys::ReleaseExternalFD() }
        }
    }
}
