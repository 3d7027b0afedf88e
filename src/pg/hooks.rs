//! The server's hooks, each chained by hand to whoever was there before: they gather plain facts, and ask a
//! [`Watch`] of plain functions.

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

use pgrx::{pg_guard, pg_sys};

use super::function::FIRST_OF_OTHERS;
use super::interrupts;
use super::report::Outgoing;
use super::statement::{self, Plan, Statement, Utility};

/// Who is asked about what is about to run.  What is asked for every statement must raise nothing and be quick:
/// it is called without the boundary that catches errors, which costs more than the answer.  The others may
/// raise errors, wait and be interrupted.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Whether a plan may run without another question; `only_reads` says that it is a SELECT that writes
    /// nothing itself and that the server runs alone.  Asked for every plan that will run.
    pub lets_plan: fn(only_reads: bool) -> bool,
    /// Before the executor starts on another plan that it will run.
    pub before_plan: fn(&Plan<'_>, Statement),
    /// Whether a statement that begins or ends a transaction, and none that is prepared, may run without
    /// another question.
    pub lets_begin_or_end: fn() -> bool,
    /// Before a utility statement does any work.  `stands_alone`: in no transaction block and in no function.
    /// True asks for [`Self::after_utility`].
    pub before_utility: fn(Utility<'_>, Statement, stands_alone: bool) -> bool,
    /// Before DROP EXTENSION of the one that this library is of.
    pub before_drop: fn(),
    /// When that statement has done its work; not after an error.
    pub after_utility: fn(),
    /// Before SET TRANSACTION, SET transaction_read_only, or BEGIN with READ ONLY or READ WRITE.
    pub before_set_read_only: fn(),
    /// Before the same is said of the transactions to come.
    pub before_set_default: fn(),
    /// Before DISCARD ALL and DISCARD TEMP.
    pub before_discard: fn(),
    /// Before DISCARD ALL, RESET ALL, and whatever says whose the session is.
    pub before_reset: fn(),
    /// Whether one of the server's own functions is to be told of.  Asked for every function of every
    /// expression that is set up.
    pub minds_function: fn(number: u32) -> bool,
    /// Before such a function, or one that is not the server's, is called by a plan that will run, or by a
    /// client.
    pub before_function: fn(number: u32),
    /// Before a report goes to the client and to the log.  Inside the server's error reporting, also while
    /// memory is short or the process ends: must raise nothing.
    pub before_report: fn(&mut Outgoing<'_>),
}

static WATCH: OnceLock<Watch> = OnceLock::new();

static mut NEXT_EXECUTOR_START: pg_sys::ExecutorStart_hook_type = None;
static mut NEXT_UTILITY: pg_sys::ProcessUtility_hook_type = None;
static mut NEXT_OBJECT_ACCESS: pg_sys::object_access_hook_type = None;
static mut NEXT_EMIT_LOG: pg_sys::emit_log_hook_type = None;

/// Puts ours in front of what is there.  Call once, from `_PG_init` of a preloaded library.
pub fn install(watch: Watch) {
    if WATCH.set(watch).is_err() {
        return;
    }
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

/// Whether there is nothing to ask before this plan.  That is so for nearly all of them, and nothing here
/// raises an error.
unsafe fn is_free(query: *mut pg_sys::QueryDesc, flags: c_int) -> bool {
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        return false;
    }
    EXPLAINING.set(0);
    // SAFETY: the caller's pointer.
    let only_reads = unsafe { statement::only_reads_here((*query).plannedstmt) };
    WATCH.get().is_none_or(|watch| (watch.lets_plan)(only_reads))
}

#[pg_guard]
extern "C-unwind" fn before_executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as i32 != 0 {
        EXPLAINING.set(current_subtransaction());
        return;
    }
    // SAFETY: the server's own pointer.
    let (plan, statement) = unsafe { statement::plan((*query).plannedstmt) };
    if let Some(watch) = WATCH.get() {
        (watch.before_plan)(&plan, statement);
    }
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
    let begins_or_ends = unsafe { statement::is_begin_or_end(statement) };
    let is_free = begins_or_ends && WATCH.get().is_none_or(|watch| (watch.lets_begin_or_end)());
    let is_watched = !is_free && before_utility(statement, context);
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
    if is_watched && let Some(watch) = WATCH.get() {
        (watch.after_utility)();
    }
}

#[pg_guard]
extern "C-unwind" fn before_utility(
    statement: *mut pg_sys::PlannedStmt,
    context: pg_sys::ProcessUtilityContext::Type,
) -> bool {
    let Some(watch) = WATCH.get() else { return false };
    // SAFETY: the server's own pointer.
    if unsafe { statement::sets_read_only(statement) } {
        (watch.before_set_read_only)();
    }
    // SAFETY: the server's own pointer.
    if unsafe { statement::sets_default_read_only(statement) } {
        (watch.before_set_default)();
    }
    // SAFETY: the server's own pointer.
    if unsafe { statement::discards_tables(statement) } {
        (watch.before_discard)();
    }
    // SAFETY: the server's own pointer.
    if unsafe { statement::resets_session(statement) } {
        (watch.before_reset)();
    }
    // SAFETY: the server's own pointer.
    if unsafe { statement::drops_own_extension(statement) } {
        (watch.before_drop)();
    }
    // SAFETY: the server's own pointer; reads this process' transaction state.
    let (utility, name, stands_alone) = unsafe {
        let (utility, name) = statement::utility(statement);
        let is_top = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
        (utility, name, is_top && !pg_sys::IsTransactionBlock())
    };
    (watch.before_utility)(utility, name, stands_alone)
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
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE {
        let number = object.to_u32();
        if number >= FIRST_OF_OTHERS
            || WATCH.get().is_some_and(|watch| (watch.minds_function)(number))
        {
            before_function(number);
        }
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
extern "C-unwind" fn before_function(number: u32) {
    let explaining = EXPLAINING.get();
    if (explaining == 0 || explaining != current_subtransaction())
        && let Some(watch) = WATCH.get()
    {
        (watch.before_function)(number);
    }
}

/// Runs inside the server's error reporting, also while memory is short or the process ends: raises
/// nothing, and looks only at what cannot fail.
unsafe extern "C-unwind" fn on_emit_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: the report in hand; the hook before ours.
    unsafe {
        if let Some(watch) = WATCH.get() {
            (watch.before_report)(&mut Outgoing::new(&mut *report));
        }
        if let Some(next) = NEXT_EMIT_LOG {
            next(report);
        }
    }
}
