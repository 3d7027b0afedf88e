//! Callbacks at the end of transactions, as plain functions, and what there is to know about the
//! transaction that they run in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::PgLogLevel;
use pgrx::prelude::*;

use super::{elog, hooks, interrupts};
use crate::report::Report;

/// What is called when a transaction ends.
#[derive(Clone, Copy, Debug)]
pub struct XactCallbacks {
    /// Just before it commits.  May raise an error, which aborts it; may use SPI, wait, be interrupted.
    pub pre_commit: fn(),
    /// Just before `PREPARE TRANSACTION`.  May raise an error.
    pub pre_prepare: fn(),
    /// It is committed; its locks and its number are still there, interrupts are held.  No catalog access; must
    /// raise nothing, see [`unfailing`].
    pub committed: fn(),
    /// It is prepared; as above.
    pub prepared: fn(),
    /// It is aborted; as above.
    pub aborted: fn(),
}

/// When a listener is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// First.
    First,
    /// After the first.
    Second,
}

static LISTENERS: [OnceLock<XactCallbacks>; 2] = [const { OnceLock::new() }; 2];

/// Has them called from now on, in this process and in all that come out of it.  There is one listener to a
/// turn, and the first to register has it.
///
/// The server calls libraries that registered last first.  So whoever is preloaded before this library is
/// called after all of these.
pub fn register(turn: Turn, callbacks: XactCallbacks) {
    static LISTENING: AtomicBool = AtomicBool::new(false);
    let _ = LISTENERS[turn as usize].set(callbacks);
    if !LISTENING.swap(true, Ordering::Relaxed) {
        // SAFETY: the list of callbacks lives as long as the process, and so does the function.
        unsafe { pg_sys::RegisterXactCallback(Some(on_event), std::ptr::null_mut()) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_event(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::*;
    let choose: fn(&XactCallbacks) -> fn() = match event {
        XACT_EVENT_PRE_COMMIT => |callbacks| callbacks.pre_commit,
        XACT_EVENT_PRE_PREPARE => |callbacks| callbacks.pre_prepare,
        XACT_EVENT_COMMIT => |callbacks| callbacks.committed,
        XACT_EVENT_PREPARE => |callbacks| callbacks.prepared,
        XACT_EVENT_ABORT => |callbacks| callbacks.aborted,
        // Parallel workers do nothing of their own.
        _ => return,
    };
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_PREPARE | XACT_EVENT_ABORT) {
        hooks::forget_explaining();
        interrupts::heed_cancels();
    }
    for callbacks in LISTENERS.iter().filter_map(OnceLock::get) {
        choose(callbacks)();
    }
}

/// After a commit or an abort an ERROR would take the server down, so whatever unwinds out of `body` ends here,
/// with a warning.  (pgrx has already taken an ERROR of the server off the server's own error stack.)
pub fn unfailing(body: fn(), warning: impl FnOnce() -> Report) {
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        elog::emit(PgLogLevel::WARNING, &warning());
    }
}

/// Whether this transaction is, right now, in a savepoint or in a PL/pgSQL block with EXCEPTION.
pub fn in_subtransaction() -> bool {
    // SAFETY: reads this process' transaction state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() > 1 }
}

/// Whether this transaction is read-only.
pub fn read_only() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::XactReadOnly }
}

/// Whether statements of this transaction keep one snapshot (repeatable read, serializable).
pub fn keeps_snapshot() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether this transaction has written here (or at least has the number that a writer gets).
pub fn has_written() -> bool {
    // Without the boundary that pgrx puts around it: every commit asks, and it raises nothing.
    unsafe extern "C-unwind" {
        fn GetTopTransactionIdIfAny() -> u32;
    }
    // SAFETY: the server's own function; reads this process' transaction state.
    unsafe { GetTopTransactionIdIfAny() != 0 }
}

/// The transaction's number, never used again in the life of this server.  Assigned if need be.
pub fn full_number() -> u64 {
    // SAFETY: the caller runs in a transaction; raises an error where none can be assigned.
    unsafe { pg_sys::GetTopFullTransactionId() }.value
}
