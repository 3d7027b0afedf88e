//! The server's hooks that the gate stands in, each chained by hand to whoever was there before.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{pg_guard, pg_sys};

use super::gate_area::{AREA, NodeState};
use super::interrupts;
use super::report;
use super::statement;
use crate::readonly::hooks;
use crate::readonly::policy::{self, Verdict};

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

// The server's own functions without the boundary that pgrx puts around them.  An error of any statement
// passes through our hooks: it must arrive as it was raised, with the position, the constraint's name and
// the rest, and not as a copy.
#[allow(improper_ctypes, reason = "the server's own structures")]
unsafe extern "C-unwind" {
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

thread_local! {
    /// The subtransaction in which a plan is being started only to be shown; 0: none.  After an error that
    /// subtransaction is never the current one again in this transaction, and the next one starts from 0.
    static EXPLAINING: Cell<u32> = const { Cell::new(0) };
}

fn current_subtransaction() -> u32 {
    // SAFETY: reads this process' transaction state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// At the end of a transaction.
pub fn forget_explaining() {
    EXPLAINING.set(0);
}

unsafe extern "C-unwind" fn on_executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    interrupts::heed_cancels();
    // SAFETY: the server's own pointer.
    if !unsafe { is_free(query, flags) } {
        before_executor_start(query, flags);
    }
    // SAFETY: what the server, or the hook before ours, would have been called with.  No value that needs
    // to be dropped is on this frame, so an error may jump over it.
    unsafe {
        match NEXT_EXECUTOR_START {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
    }
    EXPLAINING.set(0);
}

/// Whether the gate has nothing to do before this plan.  That is so for nearly all of them, and told
/// without the boundary that catches errors, which costs more than the answer: nothing here raises any.
unsafe fn is_free(query: *mut pg_sys::QueryDesc, flags: c_int) -> bool {
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        return false;
    }
    EXPLAINING.set(0);
    // SAFETY: the caller's pointer.
    hooks::is_settled()
        || hooks::is_open() && unsafe { statement::only_reads_here((*query).plannedstmt) }
}

#[pg_guard]
extern "C-unwind" fn before_executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        EXPLAINING.set(current_subtransaction());
        return;
    }
    // SAFETY: the server's own pointer.
    let (plan, statement, is_distributed) = unsafe {
        let planned = (*query).plannedstmt;
        let (plan, statement) = statement::plan(planned);
        (plan, statement, statement::is_distributed(planned))
    };
    hooks::before_plan(plan, statement, is_distributed);
}

#[allow(clippy::too_many_arguments, reason = "the server's signature")]
unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    interrupts::heed_cancels();
    // SAFETY: the server's own pointer.
    let is_free = hooks::is_open() && unsafe { statement::is_begin_or_end(statement) };
    let marked = !is_free && before_utility(statement, context);
    // SAFETY: as in on_executor_start().
    unsafe {
        match NEXT_UTILITY {
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
            None => standard_ProcessUtility(
                statement,
                text,
                read_only_tree,
                context,
                params,
                environment,
                destination,
                completion,
            ),
        }
    }
    if marked {
        hooks::after_utility();
    }
}

/// Whether the process is marked for the statement.  If it fails, the end of the transaction takes that
/// back.
#[pg_guard]
extern "C-unwind" fn before_utility(
    statement: *mut pg_sys::PlannedStmt,
    context: pg_sys::ProcessUtilityContext::Type,
) -> bool {
    // SAFETY: the server's own pointer.
    if unsafe { statement::sets_read_only(statement) } {
        hooks::before_setting_read_only();
    }
    // SAFETY: the server's own pointer; reads this process' transaction state.
    let (utility, name, stands_alone) = unsafe {
        let (utility, name) = statement::utility(statement);
        let is_top = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
        (utility, name, is_top && !pg_sys::IsTransactionBlock())
    };
    hooks::before_utility(utility, name, stands_alone)
}

/// Called for every function in every expression that the executor sets up, and for those that clients
/// call by number: so nearly nothing is done for functions that are not on the list.
unsafe extern "C-unwind" fn on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut core::ffi::c_void,
) {
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
        && (policy::writing_function(object.to_u32()).is_some()
            || object.to_u32() >= pg_sys::FirstNormalObjectId)
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
    let explaining = EXPLAINING.get();
    if (explaining == 0 || explaining != current_subtransaction())
        && let Some((name, verdict)) = verdict_of_function(function)
    {
        hooks::before_function(name, verdict);
    }
}

fn verdict_of_function(function: pg_sys::Oid) -> Option<(&'static str, Verdict)> {
    match policy::writing_function(function.to_u32()) {
        Some(name) => Some((name, Verdict::Writes)),
        None if function.to_u32() >= pg_sys::FirstNormalObjectId => {
            forget_stale();
            KNOWN.with_borrow_mut(|known| {
                *known.entry(function.to_u32()).or_insert_with(|| look_at_function(function))
            })
        }
        None => None,
    }
}

thread_local! {
    /// What is known of functions whose numbers differ from database to database.
    static KNOWN: RefCell<HashMap<u32, Option<(&'static str, Verdict)>>> = RefCell::default();
    /// Whether some function has changed since.
    static IS_STALE: Cell<bool> = const { Cell::new(false) };
}

/// A function may become another one and keep its number.
fn forget_stale() {
    static LISTENS: AtomicBool = AtomicBool::new(false);
    if !LISTENS.swap(true, Ordering::Relaxed) {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        // SAFETY: the callback lives as long as the library.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(on_function), pg_sys::Datum::null());
        }
    }
    if IS_STALE.replace(false) {
        KNOWN.with_borrow_mut(HashMap::clear);
    }
}

/// May come at any moment at which the server reads its catalogs, also while one is looked at.
unsafe extern "C-unwind" fn on_function(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    IS_STALE.set(true);
}

/// One of Citus' functions, or one of the server's own by another name (LANGUAGE internal).
fn look_at_function(function: pg_sys::Oid) -> Option<(&'static str, Verdict)> {
    const PROCOID: i32 = pg_sys::SysCacheIdentifier::PROCOID as i32;
    // SAFETY: look-ups in the system cache, inside a transaction; texts are copied and freed, the entry is
    // given back, and after an error by the abort.
    unsafe {
        let entry = pg_sys::SearchSysCache1(PROCOID, pg_sys::Datum::from(function));
        if entry.is_null() {
            return None;
        }
        let column = |number: u32| {
            let mut is_null = false;
            let value = pg_sys::SysCacheGetAttr(PROCOID, entry, number as i16, &mut is_null);
            (!is_null).then_some(value)
        };
        let language = column(pg_sys::Anum_pg_proc_prolang).map_or(0, |value| value.value() as u32);
        let schema =
            column(pg_sys::Anum_pg_proc_pronamespace).map_or(0, |value| value.value() as u32);
        let verdict = if language == INTERNAL_LANGUAGE {
            column(pg_sys::Anum_pg_proc_prosrc).and_then(|source| {
                let name = pg_sys::text_to_cstring(source.cast_mut_ptr());
                let number = pg_sys::fmgr_internal_function(name);
                pg_sys::pfree(name.cast());
                policy::writing_function(number.to_u32()).map(|name| (name, Verdict::Writes))
            })
        } else if schema == PG_CATALOG {
            column(pg_sys::Anum_pg_proc_proname).and_then(|name| {
                let name = CStr::from_ptr(name.cast_mut_ptr::<pg_sys::NameData>().cast());
                name.to_str().ok().and_then(policy::writing_function_of_citus)
            })
        } else {
            None
        };
        pg_sys::ReleaseSysCache(entry);
        verdict
    }
}

/// `pg_language` of the server's own functions.
const INTERNAL_LANGUAGE: u32 = 12;
/// The schema that only the server's and Citus' own functions are in.
const PG_CATALOG: u32 = 11;

/// Runs inside the server's error reporting, also while memory is short or the process ends: raises
/// nothing, and looks only at what cannot fail.
unsafe extern "C-unwind" fn on_emit_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: the report in hand; constants.
    unsafe {
        let is_end = (*report).elevel == pg_sys::FATAL as i32
            && (*report).sqlerrcode == pgrx::PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32;
        if is_end && !pg_sys::MyProc.is_null() && AREA.am_victim() {
            report::replace(&mut *report, hooks::VICTIM_MESSAGE, hooks::VICTIM_HINT);
        }
        if (*report).elevel == pg_sys::PGERROR as i32
            && (*report).sqlerrcode
                == pgrx::PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION as i32
            && AREA.node().is_some_and(|node| node.state() != NodeState::ReadWrite)
        {
            report::same_words(&mut *report, hooks::HINT);
        }
        if let Some(next) = NEXT_EMIT_LOG {
            next(report);
        }
    }
}
