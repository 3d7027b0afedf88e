//! The server's clock.

use pgrx::pg_sys;

/// Now, in microseconds as `timestamptz` counts them.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
