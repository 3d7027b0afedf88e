//! A memory context for a moment.

use pgrx::pg_sys;

/// What is allocated under [`Scratch::run`] is freed when this is dropped.
pub struct Scratch(pg_sys::MemoryContext);

impl Scratch {
    /// A new one under the current context, which frees it where an error jumps over its end.
    pub fn new() -> Self {
        // SAFETY: the name is a constant; the sizes are the server's defaults.
        Self(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                own!(" scratch").as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Runs `body` with allocations going here.  Its result must not point to any of them.
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        struct Restore(pg_sys::MemoryContext);
        impl Drop for Restore {
            fn drop(&mut self) {
                // SAFETY: the context that was current before.
                unsafe { pg_sys::CurrentMemoryContext = self.0 }
            }
        }
        // SAFETY: this context lives until self is dropped.
        let _restore = unsafe {
            let restore = Restore(pg_sys::CurrentMemoryContext);
            pg_sys::CurrentMemoryContext = self.0;
            restore
        };
        body()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: made in new(), and current nowhere any more.
        unsafe { pg_sys::MemoryContextDelete(self.0) }
    }
}
