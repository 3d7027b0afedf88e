//! The server's hooks that the gate stands in, each chained by hand to whoever was there before.

use std::cell::Cell;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{pg_guard, pg_sys};

use super::gate_area::AREA;
use super::statement;
use super::victim;
use crate::readonly::{hooks, policy};

static mut NEXT_EXECUTOR_START: pg_sys::ExecutorStart_hook_type = None;
static mut NEXT_UTILITY: pg_sys::ProcessUtility_hook_type = None;
static mut NEXT_OBJECT_ACCESS: pg_sys::object_access_hook_type = None;
static mut NEXT_EMIT_LOG: pg_sys::emit_log_hook_type = None;

/// Puts ours in front of what is there.  Call once, from `_PG_init` of a preloaded library.
pub fn install() {
    hooks::install();
    // SAFETY: _PG_init runs once, in the single-threaded postmaster.
    unsafe {
        NEXT_EXECUTOR_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(on_executor_start);
        NEXT_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(on_utility);
        NEXT_OBJECT_ACCESS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(on_object_access);
        NEXT_EMIT_LOG = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(on_emit_log);
    }
}

thread_local! {
    /// Whether plans are being started only to be shown.
    static EXPLAINING: Cell<bool> = const { Cell::new(false) };
}

/// Restores [`EXPLAINING`], also after an error.
struct Explaining(bool);

impl Drop for Explaining {
    fn drop(&mut self) {
        EXPLAINING.set(self.0);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_executor_start(
    query: *mut pg_sys::QueryDesc,
    flags: core::ffi::c_int,
) {
    let only_explains = flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0;
    let _explaining = Explaining(EXPLAINING.replace(only_explains));
    if !only_explains {
        // SAFETY: the server's own pointer.
        let (plan, statement) = unsafe { statement::plan((*query).plannedstmt) };
        hooks::before_plan(plan, statement);
    }
    // SAFETY: what the server, or the hook before ours, would have been called with.
    unsafe {
        pg_guard_ffi_boundary(|| match NEXT_EXECUTOR_START {
            Some(next) => next(query, flags),
            None => pg_sys::standard_ExecutorStart(query, flags),
        });
    }
}

#[pg_guard]
#[allow(clippy::too_many_arguments, reason = "the server's signature")]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const core::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server's own pointer.
    let (utility, name) = unsafe { statement::utility(statement) };
    let _mark = hooks::before_utility(utility, name);
    // SAFETY: what the server, or the hook before ours, would have been called with.
    unsafe {
        pg_guard_ffi_boundary(|| match NEXT_UTILITY {
            Some(next) => next(
                statement,
                text,
                read_only_tree,
                context,
                params,
                environment,
                destination,
                completion,
            ),
            None => pg_sys::standard_ProcessUtility(
                statement,
                text,
                read_only_tree,
                context,
                params,
                environment,
                destination,
                completion,
            ),
        });
    }
}

/// Called for every function in every expression that the executor sets up, and for those that clients
/// call by number: so nearly nothing is done for functions that are not on the list.
unsafe extern "C-unwind" fn on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: core::ffi::c_int,
    arg: *mut core::ffi::c_void,
) {
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
        && policy::writing_function(object.to_u32()).is_some()
    {
        before_function(object);
    }
    // SAFETY: the hook before ours, with what it would have been called with.  No value that needs to be
    // dropped is on this frame, so an error may jump over it.
    unsafe {
        if let Some(next) = NEXT_OBJECT_ACCESS {
            next(access, class, object, sub, arg);
        }
    }
}

#[pg_guard]
extern "C-unwind" fn before_function(function: pg_sys::Oid) {
    if !EXPLAINING.get()
        && let Some(name) = policy::writing_function(function.to_u32())
    {
        hooks::before_function(name);
    }
}

/// Runs inside the server's error reporting, also while memory is short or the process ends: raises
/// nothing, and looks only at what cannot fail.
unsafe extern "C-unwind" fn on_emit_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: the report in hand; constants.
    unsafe {
        let is_end = (*report).elevel == pg_sys::FATAL as i32
            && (*report).sqlerrcode == pgrx::PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32;
        if is_end && !pg_sys::MyProc.is_null() && AREA.am_victim() {
            victim::rewrite_report(&mut *report, hooks::VICTIM_MESSAGE, hooks::VICTIM_HINT);
        }
        if let Some(next) = NEXT_EMIT_LOG {
            next(report);
        }
    }
}
