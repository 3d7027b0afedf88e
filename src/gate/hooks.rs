//! What the server's hooks do, in safe words.

use std::ffi::CStr;

use pgrx::PgSqlErrorCode::{ERRCODE_ADMIN_SHUTDOWN, ERRCODE_READ_ONLY_SQL_TRANSACTION};

use super::area::{AREA, Activity, Node, NodeState};
use super::error::GateError;
use super::policy::{self, Verdict};
use super::{functions, passing, reservation, way_out};
use crate::citus;
use crate::pg::hooks::Watch;
use crate::pg::report::Outgoing;
use crate::pg::statement::{Plan, Statement, Utility};
use crate::pg::xact_callbacks::XactCallbacks;
use crate::pg::{elog, library, session};
use crate::report::Report;

/// What a session in the way of a switch says when it ends.
const VICTIM_MESSAGE: &CStr = c"system is now read only";
/// What its client can do.
const VICTIM_HINT: &CStr =
    c"Connect again to read.  To let the node write again, as a superuser or a role with EXECUTE, on it: SELECT alter_system_read_write();";

/// The same where the whole cluster is switched.
const VICTIM_CLUSTER_HINT: &CStr = c"Connect again to read.  The whole cluster is read only.  To let it write again, as a superuser or a role with EXECUTE, on its coordinator: SELECT citus_set_cluster_read_write();";

/// What the server's hooks ask.
pub const WATCH: Watch = Watch {
    lets_plan,
    before_plan,
    lets_begin_or_end: is_open,
    before_utility,
    // Whoever needs the extension says so himself.
    before_drop: || {},
    after_utility: passing::end_with_transaction,
    // The client itself says what this transaction may do.
    before_set_read_only: session::leave_read_only_to_client,
    before_set_default: session::leave_default_to_client,
    before_discard: passing::note_reset,
    // Whoever has the session next is somebody else.
    before_reset: reservation::leave,
    minds_function: functions::may_write,
    before_function,
    before_report,
};

/// What is done at the ends of transactions, before anybody else who comes with this library.
pub const CALLBACKS: XactCallbacks = XactCallbacks {
    pre_commit: passing::before_commit,
    pre_prepare: passing::before_prepare,
    committed: passing::ended,
    prepared: passing::ended,
    aborted: passing::aborted,
};

/// The server does not start where Citus is loaded later than this library.
///
/// The server calls those first that registered last.  Citus registers its own callbacks while the postmaster
/// loads it; where that is before this library, the gate turns a transaction away before Citus commits or
/// prepares any part of it on another node.
pub fn require_load_order() {
    let libraries = library::preloaded();
    let place = |name: &str| libraries.iter().position(|library| library == name);
    if let (Some(citus), Some(own)) =
        (place(citus::library::LIBRARY), place(env!("CARGO_PKG_NAME")))
        && citus > own
    {
        elog::raise(&Report::from(&GateError::LoadOrder));
    }
}

/// Whether the gate has nothing to say of a plan: this transaction has passed, and may write; or it only reads.
fn lets_plan(only_reads: bool) -> bool {
    passing::has_passed() && !session::is_forced_read_only() || only_reads && is_open()
}

/// Whether what only reads goes on as it is: the node writes, and this transaction was not kept from it.
fn is_open() -> bool {
    AREA.node().is_none_or(passing::is_admitted) && !session::is_forced_read_only()
}

/// Before the executor starts on a plan that it will run.
fn before_plan(plan: &Plan<'_>, statement: Statement) {
    let Some(node) = passing::guarded_node() else {
        return;
    };
    if policy::is_distributed(plan) {
        passing::note_distributed();
    }
    match policy::of_plan(plan) {
        Verdict::Reads => keep_read_only(node),
        Verdict::MayWrite => passing::pass_or_read(node),
        Verdict::Writes | Verdict::MovesNode | Verdict::EndsPrepared => {
            passing::pass(node, || statement.name());
        }
    }
}

/// Before a utility statement does any work.  True says that the process is marked until the statement ends.
///
/// A statement that stands alone (in no transaction block, in no function) may commit on its way, and then
/// the lock is gone: what says that it still runs is the mark.  It is set while the lock is held, so there
/// is no moment at which neither is there.
fn before_utility(utility: Utility<'_>, statement: Statement, stands_alone: bool) -> bool {
    let Some(node) = passing::guarded_node() else {
        return false;
    };
    if matches!(utility, Utility::Do | Utility::Call) {
        passing::note_distributed();
    }
    match policy::of_utility(utility, citus::library::is_preloaded()) {
        Verdict::Reads => {
            keep_read_only(node);
            false
        }
        Verdict::MayWrite => {
            passing::pass_or_read(node);
            false
        }
        Verdict::Writes | Verdict::MovesNode => {
            passing::pass(node, || statement.name());
            if stands_alone {
                AREA.mark(Activity::Statement);
                match utility {
                    // Ended in its middle it leaves a database that nobody can use.
                    Utility::DropDatabase => AREA.mark(Activity::MustFinish),
                    // It commits several times on its way.
                    Utility::Concurrently => AREA.mark(Activity::InSteps),
                    _ => {}
                }
            }
            stands_alone
        }
        // Elsewhere than alone it fails by itself.
        Verdict::EndsPrepared if stands_alone => {
            passing::before_ending_prepared(node, || statement.name());
            true
        }
        Verdict::EndsPrepared => false,
    }
}

/// Before a function that may write without a statement.
fn before_function(number: u32) {
    if let Some((name, verdict)) = functions::look_at(number)
        && let Some(node) = passing::guarded_node()
    {
        match verdict {
            Verdict::Writes | Verdict::EndsPrepared => passing::pass(node, || name.to_owned()),
            Verdict::MovesNode => passing::pass_moving_node(node, || name.to_owned()),
            Verdict::MayWrite | Verdict::Reads => passing::pass_or_read(node),
        }
    }
}

/// A session that is ended because of a switch is told so; and the server's words for a read-only transaction
/// become ours, for on a read-only node every transaction is one.
fn before_report(report: &mut Outgoing<'_>) {
    if report.is_fatal(ERRCODE_ADMIN_SHUTDOWN) && AREA.am_victim() {
        let with_cluster = AREA.node().is_some_and(Node::is_with_cluster);
        let hint = if with_cluster { VICTIM_CLUSTER_HINT } else { VICTIM_HINT };
        report.replace(ERRCODE_READ_ONLY_SQL_TRANSACTION, VICTIM_MESSAGE, hint);
    }
    if report.is_error(ERRCODE_READ_ONLY_SQL_TRANSACTION)
        && let Some(node) = AREA.node()
        && !passing::is_admitted(node)
    {
        let ours = match node.state() {
            NodeState::Reserved => ": this node is reserved for a clone",
            _ => ": system is now read only",
        };
        way_out::with_hint(node, |hint| {
            report.replace_end(" in a read-only transaction", ours, hint);
        });
    }
}

/// On a read-only node every transaction that has not passed is a read-only one, whatever it is told.
fn keep_read_only(node: &Node) {
    if passing::is_admitted(node) || passing::has_passed() {
        session::take_back_read_only();
    } else {
        passing::keep_read_only(node);
    }
}
