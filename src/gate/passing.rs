//! Passing the gate, and the last net before a commit.
//!
//! Who passes takes the lock first and *then* reads the node's state; who closes the node writes the
//! state first and *then* looks for holders of the lock.  So every writer either sees the node closed, or
//! is seen and waited for.  The server gives the lock up after the commit record, and after the callbacks
//! in which Citus commits the other nodes' parts.  Whoever holds it may commit: the state is read only
//! when the lock is taken.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::area::{AREA, Activity, Node, NodeState};
use super::closing::holds_closed;
use super::error::GateError;
use super::kind::{Kind, kind};
use super::policy::{Gate, gate_of_session};
use super::{lock, reservation, way_out};
use crate::citus::{daemon, library};
use crate::guc;
use crate::pg::elog;
use crate::pg::ident;
use crate::pg::xact_callbacks as xact;
use crate::pg::{session, worker};
use crate::report::Report;

thread_local! {
    /// The transaction (by its number in this process; 0: none) that has passed.  It keeps the lock to its
    /// end whatever becomes of its savepoints, so the number is all there is to remember.
    static PASSED: Cell<u32> = const { Cell::new(0) };
    /// The transaction that is about to commit or to be prepared: when it is done its number is forgotten.
    static ENDING: Cell<u32> = const { Cell::new(0) };
    /// The transaction that has done something that Citus may have sent to other nodes.
    static DISTRIBUTED: Cell<u32> = const { Cell::new(0) };
    /// The transaction that says on a read-only node where another node is found.
    static MOVES_NODE: Cell<u32> = const { Cell::new(0) };
    /// The transaction that is to free the session of what its client has left in it.
    static RESETTING: Cell<u32> = const { Cell::new(0) };
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
        Kind::Session | Kind::Worker => session::with_application_name(gate_of_session),
        // What these do was begun through the clients' gate somewhere, or by nobody.
        Kind::Citus | Kind::MetadataSync | Kind::Autovacuum | Kind::Apply | Kind::Exempt => {
            Gate::Internal
        }
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
    loop {
        // Look first: those who are turned away would keep a switch waiting by turns, each for a moment.
        if is_admitted(node) {
            take(gate, node);
            if go_on_behind(gate, node) {
                return;
            }
        }
        if !awaits_reopening(node) {
            refuse(node, command());
        }
    }
}

/// The same for a transaction that says where another node is found.  A node that is read-only lets that through, and
/// nothing else of the transaction: it does not count as one that has passed before it commits.
pub fn pass_moving_node(node: &Node, command: impl FnOnce() -> String) {
    if has_passed() || node.state() != NodeState::ReadOnly || xact::has_written() && !moves_node() {
        return pass(node, command);
    }
    if !moves_node() {
        take(gate(), node);
        MOVES_NODE.set(session::local_xid());
    }
}

fn moves_node() -> bool {
    MOVES_NODE.get() != 0 && MOVES_NODE.get() == session::local_xid()
}

/// Takes the gate's lock, and waits for it if need be.
fn take(gate: Gate, node: &Node) {
    if lock::try_pass(gate) {
        return;
    }
    if session::is_ending() {
        // Temporary tables are being dropped.  Nobody waits in a process that ends: they are left to
        // autovacuum, which looks for those whose session is gone.
        session::end_quietly();
    }
    node.counters().waited.fetch_add(1, Ordering::Relaxed);
    if is_resetting() {
        if let Err(report) = worker::catch(|| lock::pass(gate)) {
            end_unreset(&report.message);
        }
    } else {
        lock::pass(gate);
    }
}

/// A background worker of another extension that is turned away waits until the node writes again; whether it has.
fn awaits_reopening(node: &Node) -> bool {
    if kind() != Kind::Worker || session::is_ending() {
        return false;
    }
    thread_local!(static HAS_SAID: Cell<bool> = const { Cell::new(false) });
    if !HAS_SAID.replace(true) {
        elog::log(
            "this background worker writes, and waits until the system is not read only any more",
        );
    }
    node.counters().waited.fetch_add(1, Ordering::Relaxed);
    AREA.wait_for_reopening(node);
    true
}

/// The session asks, in this transaction, to be freed of what its client has left in it.
pub fn note_reset() {
    RESETTING.set(session::local_xid());
}

/// Whether this transaction has it to do: one that had nothing to drop has written nothing, and is done with it.
fn is_resetting() -> bool {
    RESETTING.get() != 0 && RESETTING.get() == session::local_xid() && xact::has_written()
}

/// A session that could not be reset ends: whoever has it next would find what another has left in it, as poolers
/// take no notice of the error.
fn end_unreset(why: &str) -> ! {
    elog::end(&Report::from(&GateError::NotReset { why: why.to_owned() }))
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
        if !is_admitted(node) {
            return keep_read_only(node);
        }
        if lock::try_pass(gate) {
            if !go_on_behind(gate, node) {
                keep_read_only(node);
            }
            return;
        }
        if !lock::await_attempt() {
            return;
        }
        node.counters().waited.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes this transaction read-only, whatever its client says.
pub fn keep_read_only(node: &Node) {
    way_out::prepare(node);
    session::force_read_only();
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
    let number = session::local_xid();
    PASSED.set(number);
    if kind() == Kind::Worker {
        AREA.note_worker();
    }
    AREA.note_passed(number);
    true
}

/// Turns a writer away.
pub fn refuse(node: &Node, command: String) -> ! {
    match kind() {
        _ if session::is_ending() => session::end_quietly(),
        // An error would be written to the log again and again, and an apply worker might even disable
        // its subscription.
        Kind::Autovacuum | Kind::Apply => session::end_quietly(),
        Kind::Session | Kind::Worker | Kind::Citus | Kind::MetadataSync | Kind::Exempt => {
            node.counters().refused.fetch_add(1, Ordering::Relaxed);
            if is_resetting() {
                end_unreset("system is now read only");
            }
            raise(&match node.state() {
                NodeState::Reserved => GateError::Reserved { command, clone: node.clone_id() },
                NodeState::ReadWrite | NodeState::Closing | NodeState::ReadOnly => {
                    GateError::ReadOnly { command, with_cluster: node.is_with_cluster() }
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
        Kind::MetadataSync => before_commit_of_metadata_sync(node),
        Kind::Session => tell_client(node),
        Kind::Worker | Kind::Exempt => {}
    }
    if moves_node() {
        PASSED.set(session::local_xid());
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
///
/// While the node is being closed an apply worker goes on for as long as something is prepared: nobody else ends what a
/// subscription has prepared, and the switch waits for that.  Its end may come behind other transactions in what the
/// publisher sends, so those pass too.
fn before_commit_of_process(node: &Node) {
    let activity = if kind() == Kind::Apply { Activity::Apply } else { Activity::Process };
    AREA.mark(activity);
    if node.state() == NodeState::ReadWrite {
        CLOSING_SINCE.set(None);
        return;
    }
    if may_finish_prepared(node) {
        if xact::has_written() {
            pass_while_closing();
        }
        return;
    }
    if kind() == Kind::Apply && !xact::has_written() && !session::is_ending() {
        AREA.unmark_process();
        AREA.wait_for_reopening(node);
        AREA.mark(activity);
        if node.state() == NodeState::ReadWrite {
            return;
        }
    }
    session::end_quietly();
}

thread_local! {
    /// Since when this apply worker finds the node being closed.
    static CLOSING_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Whether this is an apply worker that may go on.  Bounded: where one prepared transaction overlaps the next, there is
/// no end of it.
fn may_finish_prepared(node: &Node) -> bool {
    if kind() != Kind::Apply || node.state() != NodeState::Closing || session::is_ending() {
        return false;
    }
    let since = CLOSING_SINCE.get().unwrap_or_else(Instant::now);
    CLOSING_SINCE.set(Some(since));
    let bound = Duration::from_millis(guc::LOCK_TIMEOUT.get() as u64);
    since.elapsed() < bound && is_any_prepared()
}

/// Whether a transaction is prepared that has passed a gate.
pub fn is_any_prepared() -> bool {
    lock::holders().iter().any(|holder| holder.pid == 0)
}

/// The mark of this process keeps the switch waiting.
fn pass_while_closing() {
    if !has_passed() {
        lock::pass(gate());
        let number = session::local_xid();
        PASSED.set(number);
        AREA.note_passed(number);
    }
}

/// Sessions between nodes are told by what they are refused, and are used again when the node is open.
fn tell_client(node: &Node) {
    let is_closed = !is_admitted(node);
    if (is_closed || session::is_shown()) && gate() == Gate::Client {
        session::show_read_only(is_closed);
    }
}

/// It waits at its first commit, that of connecting, before it has anything to lose.
fn before_commit_of_metadata_sync(node: &Node) {
    if node.state() != NodeState::ReadWrite && !xact::has_written() && !session::is_ending() {
        AREA.wait_for_reopening(node);
    }
}

/// PREPARE TRANSACTION takes a number and writes a record whatever the transaction did.
pub fn before_prepare() {
    if let Some(node) = guarded_node() {
        ENDING.set(session::local_xid());
        if may_finish_prepared(node) {
            return pass_while_closing();
        }
        pass(node, || "PREPARE TRANSACTION".to_owned());
    }
}

/// A statement that failed is not there any more.
pub fn aborted() {
    IS_DONE.set(false);
    session::forget_default();
    AREA.unmark_statement();
}

/// Counts who slipped through.
pub fn ended() {
    if IS_DONE.replace(false) {
        AREA.unmark_statement();
    }
    session::settle_default();
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
