//! Callbacks at the end of transactions, as plain functions, and what there is to know about the
//! transaction that they run in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::prelude::*;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::elog;
use crate::report::Report;

/// What is called when a transaction of this process ends.
#[derive(Clone, Copy)]
pub struct XactCallbacks {
    /// Just before it commits.  May raise an error, which aborts it; may use SPI, wait, be interrupted.
    pub pre_commit: fn(),
    /// Just before `PREPARE TRANSACTION`.  May raise an error.
    pub pre_prepare: fn(),
    /// It is committed; its locks are still held, interrupts are held too.  No catalog access.
    pub committed: fn(),
    /// It is aborted; its locks are still held, interrupts are held too.  No catalog access.
    pub aborted: fn(),
}

/// What the gate does when a transaction of any process ends.
#[derive(Clone, Copy, Debug)]
pub struct GateCallbacks {
    /// Just before it commits, and before anybody commits something elsewhere.  May raise an error, wait,
    /// be interrupted.
    pub pre_commit: fn(),
    /// Just before `PREPARE TRANSACTION`.  May raise an error.
    pub pre_prepare: fn(),
    /// It is committed or prepared; its locks and its number are still there.  Must raise nothing.
    pub ended: fn(),
    /// It is aborted; its locks are still there.  Must raise nothing.
    pub aborted: fn(),
}

static GATE: OnceLock<GateCallbacks> = OnceLock::new();
static ENGINE: OnceLock<XactCallbacks> = OnceLock::new();

/// Has the gate's called from now on, in this process and in all that come out of it.
///
/// The server calls those that were registered last first.  Citus registers its own while the postmaster
/// loads it; it is loaded before this library, so the gate turns a transaction away before Citus commits
/// or prepares any part of it on another node.
pub fn register_gate(callbacks: GateCallbacks) {
    let _ = GATE.set(callbacks);
    listen();
}

/// Has those of the embedded engine called from now on, in this process only, after the gate's: the engine
/// plays Citus.  The first call decides; more do nothing.
pub fn register(callbacks: XactCallbacks) {
    let _ = ENGINE.set(callbacks);
    listen();
}

fn listen() {
    static LISTENING: AtomicBool = AtomicBool::new(false);
    if !LISTENING.swap(true, Ordering::Relaxed) {
        // SAFETY: the list of callbacks lives as long as the process, and so does the function.
        unsafe { pg_sys::RegisterXactCallback(Some(on_event), std::ptr::null_mut()) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_event(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    if let Some(gate) = GATE.get() {
        match event {
            pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => (gate.pre_commit)(),
            pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => (gate.pre_prepare)(),
            pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PREPARE => {
                (gate.ended)();
            }
            pg_sys::XactEvent::XACT_EVENT_ABORT => (gate.aborted)(),
            _ => {}
        }
    }
    if let Some(engine) = ENGINE.get() {
        match event {
            pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => (engine.pre_commit)(),
            pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => (engine.pre_prepare)(),
            pg_sys::XactEvent::XACT_EVENT_COMMIT => unfailing("commit", engine.committed),
            pg_sys::XactEvent::XACT_EVENT_ABORT => unfailing("abort", engine.aborted),
            // Parallel workers do nothing of their own, and nothing is left to do after a PREPARE.
            _ => {}
        }
    }
}

/// After the commit or abort an ERROR would take the server down, so whatever unwinds ends here.
/// (pgrx has already taken an ERROR of the server off the server's own error stack.)
fn unfailing(event: &str, callback: fn()) {
    if catch_unwind(AssertUnwindSafe(callback)).is_err() {
        elog::emit(
            PgLogLevel::WARNING,
            &Report::new(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                format!("unexpected failure in the work on other nodes after a {event}"),
            )
            .hint("To finish what may be left: SELECT recover_prepared_transactions();"),
        );
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
