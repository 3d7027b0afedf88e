//! What is to be undone on every way out, or at the end of the process.
//!
//! An ERROR unwinds and drops the guard.  FATAL does not: `proc_exit` is called from where it was raised, and
//! what is on the stack is never dropped.  So each such duty has a static of its own, which the server calls
//! at the end of the process if the duty is still there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

/// A kind of duty, and the one of its kind that this process may have.
///
/// The server keeps few callbacks, and none can be taken out again but the last: each kind registers one, the
/// first time that it is used.  They run last come, first served.  The server aborts the transaction in the
/// one that it registers while the session connects; so a kind first used before that is served when the
/// session's locks are gone, and any other before.
pub struct Undo<T: Copy + Send + 'static> {
    undo: fn(T),
    end: End,
    duty: Mutex<Option<T>>,
    is_registered: AtomicBool,
}

#[derive(Clone, Copy)]
enum End {
    BeforeShmemExit,
    OnShmemExit,
}

impl<T: Copy + Send + 'static> Undo<T> {
    /// Served while this process can still do what its transactions could.
    pub const fn new(undo: fn(T)) -> Self {
        Self::with(undo, End::BeforeShmemExit)
    }

    /// Served when its transaction is gone, and its place in the array of processes is not.
    pub const fn at_the_very_end(undo: fn(T)) -> Self {
        Self::with(undo, End::OnShmemExit)
    }

    const fn with(undo: fn(T), end: End) -> Self {
        Self { undo, end, duty: Mutex::new(None), is_registered: AtomicBool::new(false) }
    }

    /// From now on it is undone when the guard is dropped, or at the end of the process.
    pub fn arm(&'static self, value: T) -> Armed<T> {
        self.at_exit(value);
        Armed(self)
    }

    /// From now on it is undone at the end of the process.
    pub fn at_exit(&'static self, value: T) {
        self.register();
        self.set(Some(value));
    }

    /// It is not undone any more.
    pub fn forget(&self) {
        self.set(None);
    }

    fn set(&self, duty: Option<T>) {
        *self.duty.lock().unwrap_or_else(PoisonError::into_inner) = duty;
    }

    fn serve(&self) {
        // The lock is free again before the duty is done.
        let duty = self.duty.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(value) = duty {
            (self.undo)(value);
        }
    }

    fn register(&'static self) {
        if self.is_registered.swap(true, Ordering::Relaxed) {
            return;
        }
        let argument = pg_sys::Datum::from(std::ptr::from_ref(self).expose_provenance());
        // SAFETY: the function lives as long as the library and turns the argument back into what it was.
        unsafe {
            match self.end {
                End::BeforeShmemExit => pg_sys::before_shmem_exit(Some(on_exit::<T>), argument),
                End::OnShmemExit => pg_sys::on_shmem_exit(Some(on_exit::<T>), argument),
            }
        }
    }
}

unsafe extern "C-unwind" fn on_exit<T: Copy + Send + 'static>(_code: i32, undo: pg_sys::Datum) {
    let serve = || {
        // SAFETY: register() made the argument from a reference of this type that lives for ever.
        let undo = unsafe { &*std::ptr::with_exposed_provenance::<Undo<T>>(undo.value()) };
        undo.serve();
    };
    // SAFETY: as #[pg_guard], which knows no generic functions, puts it around.
    unsafe { pgrx_extern_c_guard(serve) }
}

/// Undoes it when dropped.
#[must_use]
pub struct Armed<T: Copy + Send + 'static>(&'static Undo<T>);

impl<T: Copy + Send + 'static> Armed<T> {
    /// All is well: nothing is to be undone.
    pub fn done(self) {
        self.0.forget();
    }
}

impl<T: Copy + Send + 'static> Drop for Armed<T> {
    fn drop(&mut self) {
        self.0.serve();
    }
}
