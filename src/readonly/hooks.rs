//! What the server's hooks do, in safe words.

use std::ffi::CStr;

use super::error::GateError;
use super::gate;
use super::policy::{Plan, Utility, Verdict};
use crate::pg::elog;
use crate::pg::gate_area::{AREA, Activity, Node, NodeState};
use crate::pg::session;
use crate::pg::statement::Statement;
use crate::pg::xact_callbacks::{self, GateCallbacks};
use crate::report::Report;

/// What a session in the way of a switch says when it ends.
pub const VICTIM_MESSAGE: &CStr = c"system is now read only";
/// What its client can do.
pub const VICTIM_HINT: &CStr =
    c"Connect again to read.  To let this node write again, as a superuser: SELECT alter_system_read_write();";

/// What a client can do that was turned away.
pub const HINT: &CStr =
    c"To let this node write again, as a superuser: SELECT alter_system_read_write();";

/// Registers what is not a hook.  The server does not start where Citus is loaded later than this library:
/// its callbacks would run before the gate's.
pub fn install() {
    let libraries = session::preloaded();
    let place = |name: &str| libraries.iter().position(|library| library == name);
    if let (Some(citus), Some(own)) = (place("citus"), place("citus_fence"))
        && citus > own
    {
        elog::raise(&Report::from(&GateError::LoadOrder));
    }
    xact_callbacks::register_gate(GateCallbacks {
        pre_commit: gate::before_commit,
        pre_prepare: gate::before_prepare,
        ended: gate::ended,
        aborted: gate::aborted,
    });
}

/// Whether this transaction has passed, and may write: the gate has no more to say about its plans.
pub fn is_settled() -> bool {
    gate::has_passed() && !session::is_forced_read_only()
}

/// Whether what only reads goes on as it is: the node writes, and this transaction was not kept from it.
pub fn is_open() -> bool {
    AREA.node().is_none_or(|node| node.state() == NodeState::ReadWrite)
        && !session::is_forced_read_only()
}

/// Before the executor starts on a plan that it will run.
pub fn before_plan(plan: Plan, statement: Statement, is_distributed: bool) {
    let Some(node) = gate::guarded_node() else {
        return;
    };
    if is_distributed {
        gate::note_distributed();
    }
    match plan.verdict() {
        Verdict::Reads => keep_read_only(node),
        Verdict::MayWrite => gate::pass_or_read(node),
        Verdict::Writes | Verdict::EndsPrepared => gate::pass(node, || statement.name()),
    }
}

/// Before a utility statement does any work.  True says that the process is marked until the statement ends.
///
/// A statement that stands alone (in no transaction block, in no function) may commit on its way, and then
/// the lock is gone: what says that it still runs is the mark.  It is set while the lock is held, so there
/// is no moment at which neither is there.
pub fn before_utility(utility: Utility, statement: Statement, stands_alone: bool) -> bool {
    let Some(node) = gate::guarded_node() else {
        return false;
    };
    if matches!(utility, Utility::Code | Utility::Call) {
        gate::note_distributed();
    }
    match utility.verdict() {
        Verdict::Reads => {
            keep_read_only(node);
            false
        }
        Verdict::MayWrite => {
            gate::pass_or_read(node);
            false
        }
        Verdict::Writes => {
            gate::pass(node, || statement.name());
            if stands_alone {
                AREA.mark(Activity::Statement);
                match utility {
                    Utility::DropDatabase => AREA.mark(Activity::MustFinish),
                    Utility::Concurrently => AREA.mark(Activity::InSteps),
                    _ => {}
                }
            }
            stands_alone
        }
        // Elsewhere than alone it fails by itself.
        Verdict::EndsPrepared if stands_alone => {
            gate::before_ending_prepared(node, || statement.name());
            true
        }
        Verdict::EndsPrepared => false,
    }
}

/// After a utility statement that the process was marked for.
pub fn after_utility() {
    gate::end_with_transaction();
}

/// Before SET TRANSACTION, or SET transaction_read_only.
pub fn before_setting_read_only() {
    session::leave_read_only_to_client();
}

/// Before a function that writes without a statement.
pub fn before_function(name: &'static str, verdict: Verdict) {
    if let Some(node) = gate::guarded_node() {
        match verdict {
            Verdict::Writes | Verdict::EndsPrepared => gate::pass(node, || name.to_owned()),
            Verdict::MayWrite | Verdict::Reads => gate::pass_or_read(node),
        }
    }
}

/// On a read-only node every transaction that has not passed is a read-only one, whatever it is told.
fn keep_read_only(node: &Node) {
    if node.state() == NodeState::ReadWrite || gate::has_passed() {
        session::take_back_read_only();
    } else {
        session::force_read_only();
    }
}
