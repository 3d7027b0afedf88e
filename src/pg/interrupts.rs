//! Signals of the background worker, and cancels that came too late to matter.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;
#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::pqsignal;
#[cfg(feature = "pg18")]
use pgrx::pg_sys::pqsignal_be as pqsignal;

static TERMINATED: AtomicBool = AtomicBool::new(false);
static CANCELLABLE: AtomicBool = AtomicBool::new(false);

/// Sets up a background worker's signals.
///
/// SIGTERM (`pg_terminate_backend`, shutdown) is remembered and wakes the worker, so that it comes
/// back to its loop, lets go in order and ends; it is not the server's `die`, which would end the
/// process from wherever it is.  SIGINT is how a requestor that leaves ends a wait for a local lock.
/// Both break off what runs only within [`cancellable`].
pub fn install_worker_handlers() {
    // SAFETY: called once at the start of a background worker, before signals are unblocked; the
    // handlers only set flags and the latch.
    unsafe {
        pqsignal(libc::SIGTERM, Some(on_sigterm));
        pqsignal(libc::SIGINT, Some(on_sigint));
        pqsignal(libc::SIGHUP, Some(on_sighup));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// A signal handler: it must not raise, allocate or unwind.
unsafe extern "C-unwind" fn on_sigterm(signal: core::ffi::c_int) {
    TERMINATED.store(true, Ordering::Relaxed);
    // SAFETY: the same conditions.
    unsafe { on_sigint(signal) }
}

/// As [`on_sigterm`].
unsafe extern "C-unwind" fn on_sighup(_signal: core::ffi::c_int) {
    // SAFETY: a flag that is made for signal handlers, and the latch as in on_sigint().
    unsafe {
        std::ptr::write_volatile(&raw mut pg_sys::ConfigReloadPending, 1);
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// As [`on_sigterm`].
unsafe extern "C-unwind" fn on_sigint(signal: core::ffi::c_int) {
    // SAFETY: both are made for signal handlers; MyLatch is valid in every worker.
    unsafe {
        if CANCELLABLE.load(Ordering::Relaxed) {
            pg_sys::StatementCancelHandler(signal);
        }
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// Runs `body`, which SIGINT and SIGTERM can break off with an error.  A cancel that comes too late to
/// be served is forgotten, so that it does not hit what comes next.
pub fn cancellable<R>(body: impl FnOnce() -> R) -> R {
    let _guard = Cancellable;
    CANCELLABLE.store(true, Ordering::Relaxed);
    if terminated() {
        // It came before the handlers knew that it could be served here.
        // SAFETY: flags of this process.
        unsafe {
            std::ptr::write_volatile(&raw mut pg_sys::QueryCancelPending, 1);
            std::ptr::write_volatile(&raw mut pg_sys::InterruptPending, 1);
        }
    }
    body()
}

/// Ends [`cancellable`], also by an unwind.
struct Cancellable;

impl Drop for Cancellable {
    fn drop(&mut self) {
        CANCELLABLE.store(false, Ordering::Relaxed);
        // SAFETY: a flag of this process; with CANCELLABLE false no handler sets it again.
        unsafe { std::ptr::write_volatile(&raw mut pg_sys::QueryCancelPending, 0) }
    }
}

/// Whether this worker was told to end.
pub fn terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

thread_local! {
    static IGNORING: Cell<bool> = const { Cell::new(false) };
}

/// From here to the end of the statement cancels come too late: what they would have stopped is done, and an
/// error would say that it is not.
pub fn ignore_cancels() {
    if !IGNORING.replace(true) {
        // SAFETY: a counter of this process; the counterpart is in heed_cancels().
        unsafe { pg_sys::QueryCancelHoldoffCount += 1 }
    }
}

/// At the start of the next statement, or the end of the transaction.  One that has come meanwhile was meant
/// for what is done.
pub fn heed_cancels() {
    if IGNORING.replace(false) {
        // SAFETY: counted up in ignore_cancels(), and set to 0 by an ERROR since then, if there was one; and a
        // flag of this process, made for signal handlers.
        unsafe {
            pg_sys::QueryCancelHoldoffCount = pg_sys::QueryCancelHoldoffCount.saturating_sub(1);
            std::ptr::write_volatile(&raw mut pg_sys::QueryCancelPending, 0);
        }
    }
}

/// While it lives, cancels of this session wait; a termination does not.
pub struct CancelsHeld(());

impl CancelsHeld {
    /// Holds them off.  Keep it short: what runs meanwhile must be bounded.
    pub fn begin() -> Self {
        // SAFETY: a counter of this process; the counterpart is in Drop.
        unsafe { pg_sys::QueryCancelHoldoffCount += 1 }
        Self(())
    }
}

impl Drop for CancelsHeld {
    fn drop(&mut self) {
        // SAFETY: counted up in begin().  An ERROR has set the counter to 0.
        unsafe {
            pg_sys::QueryCancelHoldoffCount = pg_sys::QueryCancelHoldoffCount.saturating_sub(1);
        }
    }
}
