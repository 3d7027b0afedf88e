//! Signals of the background worker, and cancels that came too late to matter.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::catch_unwind;
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
/// process from wherever it is.  SIGINT is how another process ends a wait for a local lock.
/// Both break off what runs only within [`cancellable`].
pub fn install_worker_handlers() {
    // SAFETY: called once at the start of a background worker, before signals are unblocked; the handler
    // is made for signals.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            pqsignal(signal, Some(on_signal));
        }
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The one handler.  Whatever was interrupted finds `errno` as it was, and nothing unwinds into it.
unsafe extern "C-unwind" fn on_signal(signal: c_int) {
    // SAFETY: this thread's own variable.
    let errno = unsafe { *errno_location() };
    let _ = catch_unwind(|| handle(signal));
    // SAFETY: as above.
    unsafe { *errno_location() = errno }
}

/// Sets flags and the latch: no more may be done in a handler.
fn handle(signal: c_int) {
    // The server's own functions without the boundary that pgrx puts around them: they raise nothing, and what
    // was interrupted may be in the middle of such a boundary.
    #[allow(improper_ctypes, reason = "the server's own structures")]
    unsafe extern "C-unwind" {
        fn SetLatch(latch: *mut pg_sys::Latch);
        fn StatementCancelHandler(signal: c_int);
    }
    if signal == libc::SIGTERM {
        TERMINATED.store(true, Ordering::Relaxed);
    }
    // SAFETY: the flag and both functions are made for signal handlers; MyLatch is valid in every worker.
    unsafe {
        if signal == libc::SIGHUP {
            std::ptr::write_volatile(&raw mut pg_sys::ConfigReloadPending, 1);
        } else if CANCELLABLE.load(Ordering::Relaxed) {
            StatementCancelHandler(signal);
        }
        SetLatch(pg_sys::MyLatch);
    }
}

fn errno_location() -> *mut c_int {
    // SAFETY: always valid, and this thread's own.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::__errno_location()
    }
    // SAFETY: as above.
    #[cfg(not(target_os = "linux"))]
    unsafe {
        libc::__error()
    }
}

/// Runs `body`, which SIGINT and SIGTERM can break off with an error; not at all if `stop` says so, which whoever
/// sends a SIGINT has made true before.  A cancel that comes too late to be served is forgotten, so that it does
/// not hit what comes next.
pub fn cancellable<R>(stop: impl FnOnce() -> bool, body: impl FnOnce() -> R) -> R {
    let _guard = Cancellable;
    CANCELLABLE.store(true, Ordering::Relaxed);
    if terminated() || stop() {
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

/// While it lives, SIGTERM ends this process at its next look for interrupts, as it does a session's, whatever
/// handler the process has set up: a worker that only notes the signal would wait on.
pub struct TerminationServed(libc::sigaction);

impl TerminationServed {
    /// Sets that up.
    pub fn begin() -> Self {
        // SAFETY: plain data, for which zeros are valid; the handler is made for signals, and what was there is
        // put back by Drop.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut now: libc::sigaction = std::mem::zeroed();
            now.sa_sigaction = on_termination as *const () as usize;
            now.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&mut now.sa_mask);
            libc::sigaction(libc::SIGTERM, &now, &mut before);
            Self(before)
        }
    }
}

impl Drop for TerminationServed {
    fn drop(&mut self) {
        // SAFETY: what was there before.
        unsafe { libc::sigaction(libc::SIGTERM, &self.0, std::ptr::null_mut()) };
    }
}

unsafe extern "C" fn on_termination(_signal: c_int) {
    // SAFETY: this thread's own variable; flags and a latch that are made for signal handlers.
    unsafe {
        let errno = *errno_location();
        terminate_me();
        *errno_location() = errno;
    }
}

/// Has this process end at its next look for interrupts.  For signal handlers too.
fn terminate_me() {
    // Without the boundary that pgrx puts around it: it raises nothing.
    #[allow(improper_ctypes, reason = "the server's own structures")]
    unsafe extern "C-unwind" {
        fn SetLatch(latch: *mut pg_sys::Latch);
    }
    // SAFETY: flags of this process, and its latch, which is valid in every process that waits.
    unsafe {
        std::ptr::write_volatile(&raw mut pg_sys::ProcDiePending, 1);
        std::ptr::write_volatile(&raw mut pg_sys::InterruptPending, 1);
        SetLatch(pg_sys::MyLatch);
    }
}

/// Ends this process if the server is stopping: it was told so once, and may have noted that just before it began to
/// wait.
pub fn end_with_server() {
    /// The line of the postmaster's file that says what it does.
    const STATUS: usize = 7;
    let file = std::fs::read_to_string("postmaster.pid").unwrap_or_default();
    if file.lines().nth(STATUS).is_some_and(|status| status.trim() == "stopping") {
        terminate_me();
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

/// Whether a cancel would not be served now: it comes too late, or what runs must not be broken off.
pub fn are_cancels_held() -> bool {
    // SAFETY: a counter of this process.
    unsafe { pg_sys::QueryCancelHoldoffCount != 0 }
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

thread_local! {
    static PUT_OFF: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, neither a cancel nor a termination unwinds: whoever waits asks [`are_waiting`] and has to end soon
/// after it says yes, having put back what was begun.  What else the server wants of this process is done.
pub struct PutOff(());

impl PutOff {
    /// Puts them off.
    pub fn begin() -> Self {
        // SAFETY: a counter of this process; the counterpart is in Drop.
        unsafe { pg_sys::InterruptHoldoffCount += 1 }
        PUT_OFF.set(true);
        Self(())
    }
}

impl Drop for PutOff {
    fn drop(&mut self) {
        PUT_OFF.set(false);
        // SAFETY: counted up in begin().  An ERROR has set the counter to 0.
        unsafe {
            pg_sys::InterruptHoldoffCount = pg_sys::InterruptHoldoffCount.saturating_sub(1);
        }
    }
}

/// Whether a cancel or a termination has come and waits to be served.
pub fn are_waiting() -> bool {
    // SAFETY: flags of this process, made for signal handlers.
    unsafe {
        let cancel = std::ptr::read_volatile(&raw const pg_sys::QueryCancelPending) != 0;
        let die = std::ptr::read_volatile(&raw const pg_sys::ProcDiePending) != 0;
        die || cancel && !are_cancels_held()
    }
}

/// Serves what has come, but for what is put off.
pub fn serve() {
    if !PUT_OFF.get() {
        pgrx::check_for_interrupts!();
    } else if !are_waiting() {
        // A cancel that comes right now goes on waiting.
        let _held = CancelsHeld::begin();
        // SAFETY: counted up in PutOff::begin().
        unsafe { pg_sys::InterruptHoldoffCount -= 1 }
        pgrx::check_for_interrupts!();
        // SAFETY: as above.
        unsafe { pg_sys::InterruptHoldoffCount += 1 }
    }
}
