//! Passing the gate, and the last net before a commit.
//!
//! Who passes takes the lock first and *then* reads the node's state; who closes the node writes the
//! state first and *then* looks for holders of the lock.  So every writer either sees the node closed, or
//! is seen and waited for.  The server gives the lock up after the commit record, and after the callbacks
//! in which Citus commits the other nodes' parts.  Whoever holds it may commit: the state is read only
//! when the lock is taken.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::area::{AREA, Activity, Node, NodeState};
use super::closing::holds_closed;
use super::error::GateError;
use super::kind::{Kind, kind};
use super::policy::{Gate, gate_of_session};
use super::{lock, reservation};
use crate::citus::{daemon, library};
use crate::pg::elog;
use crate::pg::ident;
use crate::pg::session;
use crate::pg::xact_callbacks as xact;
use crate::report::Report;

thread_local! {
    /// The transaction (by its number in this process; 0: none) that has passed.  It keeps the lock to its
    /// end whatever becomes of its savepoints, so the number is all there is to remember.
    static PASSED: Cell<u32> = const { Cell::new(0) };
    /// The transaction that is about to commit or to be prepared: when it is done its number is forgotten.
    static ENDING: Cell<u32> = const { Cell::new(0) };
    /// The transaction that has done something that Citus may have sent to other nodes.
    static DISTRIBUTED: Cell<u32> = const { Cell::new(0) };
    /// The statement that the process is marked for has done its work.
    static IS_DONE: Cell<bool> = const { Cell::new(false) };
}

/// The mark goes with the statement's last transaction, and not before: that one is yet to be committed, and if
/// it is not the first one it holds no lock.
pub fn end_with_transaction() {
    IS_DONE.set(true);
}

/// Whether this transaction has passed.
pub fn has_passed() -> bool {
    PASSED.get() != 0 && PASSED.get() == session::local_xid()
}

/// Whether this transaction is a writer: it has written, has passed a gate to do so, or will commit in two phases.
/// Whoever waits for writers from within it waits for itself.
pub fn is_writing() -> bool {
    has_passed() || xact::has_written() || library::will_commit_in_two_phases(may_be_distributed())
}

/// Notes that this transaction may write on other nodes although it is not known to write here.
pub fn note_distributed() {
    DISTRIBUTED.set(session::local_xid());
}

fn may_be_distributed() -> bool {
    DISTRIBUTED.get() != 0 && DISTRIBUTED.get() == session::local_xid()
}

/// The node, if this process is one that the gate is for.
pub fn guarded_node() -> Option<&'static Node> {
    let node = AREA.node()?;
    (kind() != Kind::Exempt && !ident::in_recovery()).then_some(node)
}

/// The gate that this session's transactions pass.
fn gate() -> Gate {
    match kind() {
        Kind::Session => session::with_application_name(gate_of_session),
        // What these do was begun through the clients' gate somewhere, or by nobody.
        Kind::Citus | Kind::Autovacuum | Kind::Apply | Kind::Exempt => Gate::Internal,
    }
}

/// Takes a writing transaction through the gate if it has not passed yet.  Waits where the gate is closed.
pub fn pass(node: &Node, command: impl FnOnce() -> String) {
    if has_passed() {
        return session::take_back_read_only();
    }
    if holds_closed() {
        raise(&GateError::ClosedBySelf { command: command() });
    }
    let gate = gate();
    if !lock::try_pass(gate) {
        if session::is_ending() {
            // Temporary tables are being dropped.  Nobody waits in a process that ends: they are left to
            // autovacuum, which looks for those whose session is gone.
            session::end_quietly();
        }
        node.counters().waited.fetch_add(1, Ordering::Relaxed);
        lock::pass(gate);
    }
    if !go_on_behind(gate, node) {
        refuse(node, command());
    }
}

/// The same for a transaction of which nobody can tell whether it will write.  Whoever is about to close the
/// gates is to meet it at the first of them, and not when it has half written: so it waits for him to be
/// done.  Behind a gate that is closed and stays so, it goes on without having passed: it may be a read, and
/// should it write, it waits at the gate of that node.
pub fn pass_or_read(node: &Node) {
    if has_passed() {
        return session::take_back_read_only();
    }
    let gate = gate();
    while !holds_closed() {
        if lock::try_pass(gate) {
            if !go_on_behind(gate, node) {
                session::force_read_only();
            }
            return;
        }
        if !lock::await_attempt() {
            return;
        }
        node.counters().waited.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the node refuses nothing to this process.
pub fn is_admitted(node: &Node) -> bool {
    match node.state() {
        NodeState::ReadWrite => true,
        NodeState::Closing | NodeState::ReadOnly => false,
        NodeState::Reserved => reservation::is_entered(node),
    }
}

/// The lock is taken: whether this transaction may write, or has to give it back.
fn go_on_behind(gate: Gate, node: &Node) -> bool {
    if !is_admitted(node) {
        lock::turn_back(gate);
        return false;
    }
    session::take_back_read_only();
    PASSED.set(session::local_xid());
    true
}

/// Turns a writer away.
pub fn refuse(node: &Node, command: String) -> ! {
    match kind() {
        _ if session::is_ending() => session::end_quietly(),
        // An error would be written to the log again and again, and an apply worker might even disable
        // its subscription.
        Kind::Autovacuum | Kind::Apply => session::end_quietly(),
        Kind::Session | Kind::Citus | Kind::Exempt => {
            node.counters().refused.fetch_add(1, Ordering::Relaxed);
            raise(&match node.state() {
                NodeState::Reserved => GateError::Reserved { command, clone: node.clone_id() },
                NodeState::ReadWrite | NodeState::Closing | NodeState::ReadOnly => {
                    GateError::ReadOnly { command }
                }
            })
        }
    }
}

fn raise(error: &GateError) -> ! {
    elog::raise(&Report::from(error))
}

/// The last net: whoever has, or will have, a transaction number by another road.
pub fn before_commit() {
    let Some(node) = guarded_node() else {
        return;
    };
    ENDING.set(session::local_xid());
    match kind() {
        Kind::Autovacuum | Kind::Apply => before_commit_of_process(node),
        Kind::Citus => daemon::keep_from_writing(node.state() != NodeState::ReadWrite),
        Kind::Session | Kind::Exempt => {}
    }
    if has_passed() {
        return;
    }
    if AREA.am_in_statement() && !is_admitted(node) {
        // A later transaction of a statement that commits on its way.
        refuse(node, "COMMIT".to_owned());
    }
    if xact::has_written() || library::will_commit_in_two_phases(may_be_distributed()) {
        pass(node, || "COMMIT".to_owned());
    } else {
        session::forget_temporary_tables();
    }
}

/// Autovacuum and apply workers have no statements to look at.  From its first commit on, which is that of
/// connecting to the database, such a process is marked; a switch to read-only ends it.  One that starts
/// on a read-only node: autovacuum's ends at once, to be started again at the next round, which leaves
/// nothing in the log; apply's would be started every few seconds with a line each, and so it waits.
fn before_commit_of_process(node: &Node) {
    AREA.mark(Activity::Process);
    if node.state() == NodeState::ReadWrite {
        return;
    }
    if kind() == Kind::Apply && !xact::has_written() && !session::is_ending() {
        AREA.unmark_process();
        AREA.wait_for_reopening(node);
        AREA.mark(Activity::Process);
        if node.state() == NodeState::ReadWrite {
            return;
        }
    }
    session::end_quietly();
}

/// PREPARE TRANSACTION takes a number and writes a record whatever the transaction did.
pub fn before_prepare() {
    if let Some(node) = guarded_node() {
        ENDING.set(session::local_xid());
        pass(node, || "PREPARE TRANSACTION".to_owned());
    }
}

/// A statement that failed is not there any more.
pub fn aborted() {
    IS_DONE.set(false);
    AREA.unmark_statement();
}

/// Counts who slipped through.
pub fn ended() {
    if IS_DONE.replace(false) {
        AREA.unmark_statement();
    }
    if let Some(node) = guarded_node()
        && xact::has_written()
        && PASSED.get() != ENDING.get()
    {
        node.counters().ungated.fetch_add(1, Ordering::Relaxed);
    }
}

/// Before COMMIT PREPARED or ROLLBACK PREPARED.  A closed gate lets them pass, for what they end has passed
/// before, and so does a node that is being closed, which waits for it.  A read-only node refuses them; so does a
/// reserved one, whose prepared transactions are those of its source, but for the clone split.
pub fn before_ending_prepared(node: &Node, command: impl FnOnce() -> String) {
    AREA.mark(Activity::EndingPrepared);
    if !is_admitted(node) && node.state() != NodeState::Closing {
        AREA.unmark_statement();
        refuse(node, command());
    }
}
