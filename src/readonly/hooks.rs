//! What the server's hooks do, in safe words.

use std::ffi::CStr;

use super::gate::{self, WhenReadOnly};
use super::policy::{Plan, Utility, Verdict};
use crate::pg::gate_area::{Activity, Mark, Node, NodeState};
use crate::pg::session;
use crate::pg::statement::Statement;
use crate::pg::xact_callbacks::{self, GateCallbacks};

/// What a session in the way of a switch says when it ends.
pub const VICTIM_MESSAGE: &CStr = c"system is now read only";
/// What its client can do.
pub const VICTIM_HINT: &CStr =
    c"Connect again to read.  To let this node write again, as a superuser: SELECT alter_system_read_write();";

/// Registers what is not a hook.
pub fn install() {
    xact_callbacks::register_gate(GateCallbacks {
        pre_commit: gate::before_commit,
        pre_prepare: gate::before_prepare,
        ended: gate::ended,
    });
}

/// Before the executor starts on a plan that it will run.
pub fn before_plan(plan: Plan, statement: Statement) {
    let Some(node) = gate::guarded_node() else {
        return;
    };
    match plan.verdict() {
        Verdict::Reads => keep_read_only(node),
        Verdict::MayWrite => gate::pass(node, WhenReadOnly::ReadOnly, || statement.name()),
        Verdict::Writes | Verdict::EndsPrepared => {
            gate::pass(node, WhenReadOnly::Refuse, || statement.name());
        }
    }
}

/// Before a utility statement does any work.  The mark, if there is one, stays until the statement ends.
pub fn before_utility(utility: Utility, statement: Statement) -> Option<Mark> {
    let node = gate::guarded_node()?;
    match utility.verdict() {
        Verdict::Reads | Verdict::MayWrite => {
            keep_read_only(node);
            None
        }
        Verdict::Writes => {
            gate::pass(node, WhenReadOnly::Refuse, || statement.name());
            // It may commit on its way, and then the lock is gone.  Set while the lock is still held, so
            // there is no moment at which neither is there.
            Mark::set(Activity::Statement)
        }
        Verdict::EndsPrepared => gate::before_ending_prepared(node, || statement.name()),
    }
}

/// Before a function that writes without a statement.
pub fn before_function(name: &'static str) {
    if let Some(node) = gate::guarded_node() {
        gate::pass(node, WhenReadOnly::Refuse, || name.to_owned());
    }
}

/// On a read-only node every transaction that has not passed is a read-only one, whatever it is told.
fn keep_read_only(node: &Node) {
    if node.state() != NodeState::ReadWrite && !gate::has_passed() {
        session::force_read_only();
    }
}
