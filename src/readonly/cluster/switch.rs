//! Switching all nodes.

use std::time::{Duration, Instant};

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::hold_back::{ClosedGates, SILENCE_MS, close_gates};
use super::nodes::{Nodes, connect_timeout, require_coordinator};
use super::{ClusterError, elsewhere, intent};
use crate::citus::identity::{self, IdentityError, MARKS, QUESTION, Who};
use crate::citus::myself::{Unproved, must_be_home, prove};
use crate::citus::{Node, Roster};
use crate::fence::error::may_pass;
use crate::fence::let_go::let_go;
use crate::fence::under_way::{self, UnderWay};
use crate::fence::{FenceError, statements};
use crate::gate::lock::ClusterSwitch;
use crate::guc;
use crate::pg::interrupts;
use crate::pg::wait::{
    BackendWaiter, interruptible, is_client_gone, require_client, until_broken_off,
};
use crate::pg::{elog, lock};
use crate::readonly::switch::require_switchable;
use crate::report::Report;
use remote::{
    Command, Deadline, Pause, RemoteError, Reply, Session, Target, Waiter, cancel_and_drain,
    connect_all, pause, run_all,
};

/// What the nodes may take to be switched, all at once.
const SWITCH_BOUND: Duration = Duration::from_secs(10);
// Before nodes are switched back, none may still be about to switch: one that heard the command late has given it up
// by then, in its silence or within its own statement_timeout of 8 s ([`CLOSE`]).
const _: () = assert!(SILENCE_MS < 8_000 && 8_000 < SWITCH_BOUND.as_millis());
/// What it may take to switch them back, connecting included.
const UNDO_BOUND: Duration = Duration::from_secs(15);
/// What it may take to break that off.
const CANCEL_BOUND: Duration = Duration::from_secs(2);

/// In the transaction that holds the node's gates, so that nobody gets in between.
const CLOSE: &str =
    "SET LOCAL statement_timeout = '8s'; SELECT citus_fence.node_read_only() AS lsn";
/// This node's gates stay closed while the others are switched.
const STAY: &str = "SET LOCAL idle_in_transaction_session_timeout = '12s'";
/// On sessions of their own.
const OPEN: Question = Question {
    name: "switch to read-write",
    sql: "SET LOCAL statement_timeout = '8s'; SELECT citus_fence.node_read_write()",
    changes: true,
};

/// What the switch is called among the operations that exclude each other.
pub const OPERATION: &str = "cluster switch";

/// The switch of this database's cluster as others see it who exclude it.
pub fn under_way() -> Option<UnderWay> {
    ClusterSwitch::is_under_way().then_some(UnderWay {
        what: "the cluster is being switched to read-only or back",
        hint: "Call again when that call has ended.  See citus_cluster_read_only_status(); who has called: \
               SELECT pid, query FROM pg_stat_activity WHERE query LIKE '%citus_set_cluster_read%';",
    })
}

fn usable<W: Waiter>(
    waiter: &mut W,
    function: &'static str,
) -> Result<lock::ErrandLock, ClusterError> {
    require_switchable(function)?;
    require_coordinator(waiter)?;
    identity::owner_must_be_superuser().map_err(FenceError::from)?;
    // Before anything is done anywhere: what a copy of the coordinator did would be done to the original's nodes.
    let nodes = Nodes::read(waiter)?;
    let again_until = Deadline::after(waiter, acquire_timeout());
    loop {
        let deadline = Deadline::after(waiter, connect_timeout());
        match prove(waiter, &nodes.roster, deadline) {
            Ok(()) => break,
            Err(unproved) => {
                let is_passing = match &unproved {
                    Unproved::Passing(_) => true,
                    Unproved::Remote(error) => may_pass(error),
                    Unproved::Stopped | Unproved::Error(_) => false,
                };
                if !is_passing || again_until.expired(waiter) {
                    return Err(unproved.into());
                }
                if pause(waiter, TRY_AGAIN) == Pause::Stopped {
                    return Err(ClusterError::ClientGone);
                }
            }
        }
    }
    // Held to the end of the call: one switch at a time.
    let one_at_a_time = lock::ErrandLock::acquire();
    // The server has not looked for it in this wait.
    require_client();
    Ok(one_at_a_time)
}

/// An error on a copy of the coordinator, which would show its own state as the other's.  Where nobody can tell, the
/// nodes are asked all the same: it is when some are down that one looks.
pub fn must_not_be_a_copy<W: Waiter>(waiter: &mut W, nodes: &Nodes) -> Result<(), ClusterError> {
    let deadline = Deadline::after(waiter, connect_timeout());
    match prove(waiter, &nodes.roster, deadline) {
        Err(unproved @ Unproved::Error(IdentityError::Copy { .. })) => Err(unproved.into()),
        Err(Unproved::Stopped) => Err(ClusterError::ClientGone),
        Err(Unproved::Passing(_) | Unproved::Remote(_) | Unproved::Error(_)) | Ok(()) => Ok(()),
    }
}

/// Makes every node of the cluster read-only.
pub fn read_only() -> Result<(), ClusterError> {
    let mut waiter = interruptible();
    let _one_at_a_time = usable(&mut waiter, "citus_set_cluster_read_only()")?;
    // From here on others see this one; who has begun before is seen here.
    let _seen = ClusterSwitch::begin();
    if let Some(other) = under_way::look_but(OPERATION) {
        return Err(ClusterError::UnderWay(other));
    }
    let started = Instant::now();
    let nodes = Nodes::read(&mut waiter)?;
    let was_interrupted = at_home(&mut waiter, &nodes.roster, Patience::Call, intent::is_written)?;
    // A cancel or a termination ends the waits, and is served when the note is taken away again.
    let put_off = interrupts::PutOff::begin();
    let closed = note_and_close(&nodes.roster, was_interrupted);
    let switched = closed.and_then(|gates| {
        // That is bounded, and sees to cancels by itself.
        drop(put_off);
        switch_all(&mut BackendWaiter::new(|| false), gates)
    });
    match switched {
        Ok(count) => {
            elog::log(&format!(
                "citus_fence: the cluster is read only: {count} nodes, after {} ms",
                started.elapsed().as_millis()
            ));
            Ok(())
        }
        // Nothing could be written down.
        Err(ClusterError::CoordinatorReadOnly { .. }) => {
            let databases = elsewhere::noted(&mut waiter, &nodes.roster);
            Err(ClusterError::CoordinatorReadOnly { databases })
        }
        // Something was not taken back, or an earlier switch was not.
        Err(error @ ClusterError::HalfWay { .. }) => Err(error),
        Err(error) => {
            let error = if interrupts::are_waiting() { ClusterError::BrokenOff } else { error };
            let left = if was_interrupted { Ok(()) } else { take_note_away(&nodes.roster) };
            let error = match left {
                Ok(()) => error,
                Err(why) => ClusterError::NoteLeft { first: Box::new(error), why: why.to_string() },
            };
            if let (ClusterError::NoteLeft { .. }, true) = (&error, interrupts::are_waiting()) {
                let report = Report::from(&error);
                let report = Report { sqlstate: PgSqlErrorCode::ERRCODE_WARNING, ..report };
                elog::emit(PgLogLevel::WARNING, &report);
            }
            // In the server's own words, if it was one of these.
            interrupts::serve();
            Err(error)
        }
    }
}

/// Writes the note, where there is none, and closes all gates.
fn note_and_close(roster: &Roster, is_noted: bool) -> Result<ClosedGates, ClusterError> {
    if !is_noted {
        // Whether the caller is there or not.
        let mut unless_interrupted = BackendWaiter::new(interrupts::are_waiting);
        at_home(&mut unless_interrupted, roster, Patience::Call, intent::write)?;
    }
    let mut gates = close_gates(&mut until_broken_off())?;
    if interrupts::are_waiting() {
        let_go(&mut BackendWaiter::new(|| false), &mut gates.party);
        return Err(ClusterError::BrokenOff);
    }
    Ok(gates)
}

/// Takes the note away, whether the caller is there or not; whoever cancels or terminates has that not wait long.
fn take_note_away(roster: &Roster) -> Result<(), ClusterError> {
    let _put_off = interrupts::PutOff::begin();
    if !interrupts::are_waiting() {
        let mut unless_interrupted = BackendWaiter::new(interrupts::are_waiting);
        let removed = at_home(&mut unless_interrupted, roster, Patience::Call, intent::remove);
        if removed.is_ok() || !interrupts::are_waiting() {
            return removed;
        }
    }
    at_home(&mut BackendWaiter::new(|| false), roster, Patience::Interrupted, intent::remove)
}

/// Switches the nodes behind closed gates, all or none; how many there are.
fn switch_all<W: Waiter>(waiter: &mut W, gates: ClosedGates) -> Result<usize, ClusterError> {
    let ClosedGates { mut party, nodes } = gates;
    if is_client_gone() {
        let_go(waiter, &mut party);
        return Err(ClusterError::ClientGone);
    }
    warn_of_absent(party.absent());
    // Bounded; a cancel in the middle would leave some nodes switched and some not.  A termination does, and the
    // note of the switch then says so to whoever looks.
    let _held = interrupts::CancelsHeld::begin();
    let mut sessions = party.sessions();
    let count = sessions.len();
    // This node last: as long as it writes, what is written down can be taken away.
    let mut failed = run(waiter, &mut sessions, |index| if index == 0 { STAY } else { CLOSE });
    if failed.is_empty() {
        failed = run(waiter, &mut sessions[..1], |_| CLOSE);
    }
    if failed.is_empty() {
        interrupts::ignore_cancels();
        drop(sessions);
        let_go(waiter, &mut party);
        return Ok(count);
    }
    let first = failed.remove(0);
    drop(sessions);
    // An answer that did not come says nothing about what was done: all are switched back, over sessions
    // of their own, as some of these may be lost.
    let undo_by = Deadline::after(waiter, UNDO_BOUND);
    let mut opening = Opening::of(&nodes.roster);
    opening.ask(waiter, undo_by);
    let_go(waiter, &mut party);
    // Nobody waits for those that do not answer any more, but for this call.
    opening.ask_again(waiter, undo_by, undo_by);
    let opened = opening.ended();
    warn_of_absent(&opened.absent);
    let left = opened.left();
    if left.is_empty() {
        let node = first.node().to_string();
        let sqlstate = Report::from(&first).sqlstate;
        Err(ClusterError::NotSwitched { node, why: in_full(&first), sqlstate })
    } else {
        Err(ClusterError::HalfWay { nodes: left })
    }
}

/// An error with what the node has told of it: who is in the way there.
fn in_full(error: &RemoteError) -> String {
    match error.detail() {
        Some(detail) => format!("{error}: {detail}"),
        None => error.to_string(),
    }
}

/// Runs a command on all, and gives the errors.  Nobody is left at work.
fn run<W: Waiter>(
    waiter: &mut W,
    sessions: &mut [&mut Session],
    sql: impl Fn(usize) -> &'static str,
) -> Vec<RemoteError> {
    let deadline = Deadline::after(waiter, SWITCH_BOUND);
    let command = |index| Command::new("switch to read-only", sql(index));
    let replies = run_all(waiter, sessions, command, deadline);
    let failed: Vec<RemoteError> = replies.into_iter().filter_map(Result::err).collect();
    if !failed.is_empty() {
        let deadline = Deadline::after(waiter, CANCEL_BOUND);
        let _ = cancel_and_drain(waiter, sessions, deadline);
    }
    failed
}

/// Whether it is written down that the cluster is read-only, or is to be.
pub fn is_to_be_read_only<W: Waiter>(waiter: &mut W) -> Result<bool, ClusterError> {
    let nodes = Nodes::read(waiter)?;
    at_home(waiter, &nodes.roster, Patience::Call, intent::is_written)
}

/// Lets every node of the cluster write.
pub fn read_write() -> Result<(), ClusterError> {
    let mut waiter = interruptible();
    let _one_at_a_time = usable(&mut waiter, "citus_set_cluster_read_write()")?;
    let _seen = ClusterSwitch::begin();
    let nodes = Nodes::read(&mut waiter)?;
    let again_until = Deadline::after(&waiter, acquire_timeout());
    let answer_by = again_until.max(answer_by(&waiter));
    let mut opening = Opening::of(&nodes.roster);
    opening.ask(&mut waiter, answer_by);
    opening.ask_again(&mut waiter, answer_by, again_until);
    let opened = opening.ended();
    warn_of_absent(&opened.absent);
    let left = opened.left();
    if !left.is_empty() {
        return Err(ClusterError::NotAllOpened { nodes: left });
    }
    // All that is left is to say so; a termination has that done, too.
    interrupts::ignore_cancels();
    take_note_away(&nodes.roster)?;
    elsewhere::opened(&mut BackendWaiter::new(|| false), &nodes.roster);
    elog::log(&format!(
        "citus_fence: the cluster is read-write: {} nodes",
        nodes.roster.nodes().len()
    ));
    Ok(())
}

/// Who could not be told to write.
#[derive(Default)]
struct Opened {
    /// Of those that are active.
    failed: Vec<ClusterError>,
    /// Of the others, in words.
    absent: Vec<String>,
}

impl Opened {
    /// The nodes that are active, and why.
    fn left(&self) -> Vec<String> {
        self.failed.iter().map(ToString::to_string).collect()
    }
}

/// How long until those are asked again that may answer by then.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Nodes are not asked again in less time: what came of it would be that there was none.
const SHORTEST_TRY: Duration = Duration::from_secs(2);

/// Nodes that are told to write, and what has become of it.  A writer that finds some of them open and some not is
/// refused before it has prepared anything anywhere.
struct Opening<'a> {
    roster: &'a Roster,
    /// Who is not known to write, by its place among the nodes, and why not.
    left: Vec<(usize, Option<ClusterError>)>,
}

impl<'a> Opening<'a> {
    fn of(roster: &'a Roster) -> Self {
        Self { roster, left: (0..roster.nodes().len()).map(|place| (place, None)).collect() }
    }

    /// Tells those who are left.  Who has said that it writes is not asked again: the call has the cluster to itself.
    fn ask<W: Waiter>(&mut self, waiter: &mut W, by: Deadline) {
        let places: Vec<usize> = self.left.iter().map(|(place, _)| *place).collect();
        let nodes: Vec<Node> = places.iter().map(|at| self.roster.nodes()[*at].clone()).collect();
        let targets: Vec<_> = places.iter().map(|at| self.roster.targets()[*at].clone()).collect();
        let replies = ask(waiter, &nodes, &targets, &OPEN, by);
        self.left = places
            .into_iter()
            .zip(replies)
            .filter_map(|(place, reply)| reply.err().map(|error| (place, Some(error))))
            .collect();
    }

    /// Tells those again that are being restarted, say, for a while.
    fn ask_again<W: Waiter>(&mut self, waiter: &mut W, by: Deadline, again_until: Deadline) {
        let mut told = String::new();
        while self.may_pass()
            && !again_until.expired(waiter)
            && by.remaining(waiter) >= SHORTEST_TRY + TRY_AGAIN
        {
            let waits_for = self.active().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            if waits_for != told {
                elog::log(&format!("citus_fence: nodes are asked again to write: {waits_for}"));
                told = waits_for;
            }
            if pause(waiter, TRY_AGAIN) == Pause::Stopped {
                return;
            }
            self.ask(waiter, by);
        }
    }

    /// What is wrong with those that Citus uses.
    fn active(&self) -> impl Iterator<Item = &ClusterError> {
        let active = self.left.iter().filter(|(place, _)| self.roster.nodes()[*place].active);
        active.filter_map(|(_, error)| error.as_ref())
    }

    /// Whether another try may mend something.
    fn may_pass(&self) -> bool {
        self.active().any(ClusterError::may_pass)
    }

    /// Who could not be told.
    fn ended(self) -> Opened {
        let mut opened = Opened::default();
        for (place, error) in self.left {
            let Some(error) = error else { continue };
            if self.roster.nodes()[place].active {
                opened.failed.push(error);
            } else {
                opened.absent.push(error.to_string());
            }
        }
        opened
    }
}

/// A node that Citus does not use and that does not answer keeps nobody from anything.
fn warn_of_absent(absent: &[String]) {
    if !absent.is_empty() {
        let what = absent.join("; ");
        let message = format!("inactive nodes that do not answer have not been switched: {what}");
        elog::emit(PgLogLevel::WARNING, &Report::new(PgSqlErrorCode::ERRCODE_WARNING, message));
    }
}

/// By when all of them are to have answered.
pub fn answer_by(waiter: &impl Waiter) -> Deadline {
    Deadline::after(waiter, connect_timeout() + 2 * SWITCH_BOUND)
}

/// What all nodes are asked; it takes a function of this extension.
pub struct Question {
    /// What messages call it.
    pub name: &'static str,
    /// Calls it.
    pub sql: &'static str,
    /// The nodes are others afterwards: asked only while the caller is there, and then not broken off.
    pub changes: bool,
}

/// Asks all nodes over sessions of their own.
///
/// These sessions are the extension's owner, a superuser.  Where the extension is not, anybody who may make
/// a schema could have put a function of his own in its place, so that is looked at before it is called.
pub fn ask_all<W: Waiter>(
    waiter: &mut W,
    roster: &Roster,
    question: &Question,
    by: Deadline,
) -> Vec<Result<Reply, ClusterError>> {
    ask(waiter, roster.nodes(), roster.targets(), question, by)
}

/// The same of some of them.
fn ask<W: Waiter>(
    waiter: &mut W,
    nodes: &[Node],
    targets: &[Target],
    question: &Question,
    by: Deadline,
) -> Vec<Result<Reply, ClusterError>> {
    let deadline = Deadline::after(waiter, connect_timeout()).earlier(by);
    let mut sessions: Vec<Result<Session, Unanswered>> = connect_all(waiter, targets, deadline)
        .into_iter()
        .map(|session| session.map_err(Unanswered::Remote))
        .collect();
    let look = format!(
        "{}; SELECT {} AS definition, {QUESTION}, {MARKS}",
        statements::begin_helper(statements::HELPER_IDLE_MS),
        statements::DEFINITION
    );
    let is_ours = |reply: &Reply| {
        let definition = reply.sets.iter().find_map(|set| set.value(0, "definition"));
        statements::is_ours(definition)
    };
    let looked = run_on_open(waiter, &mut sessions, question.name, &look, by);
    let mut known: Vec<(String, Who)> = Vec::new();
    for ((session, reply), node) in sessions.iter_mut().zip(looked).zip(nodes) {
        match reply {
            Some(Ok(reply)) if is_ours(&reply) => {
                if let Err(error) = is_that_node(&reply, node, &mut known) {
                    *session = Err(error);
                }
            }
            Some(Ok(_)) => *session = Err(Unanswered::NoGate),
            Some(Err(error)) => *session = Err(Unanswered::Remote(error)),
            None => {}
        }
    }
    let _held = question.changes.then(|| {
        require_client();
        interrupts::CancelsHeld::begin()
    });
    let replies = run_on_open(waiter, &mut sessions, question.name, question.sql, by);
    sessions
        .into_iter()
        .zip(replies)
        .zip(nodes)
        .map(|((session, reply), node)| match (session, reply) {
            (_, Some(reply)) => reply.map_err(ClusterError::from),
            (Err(Unanswered::Remote(error)), None) => Err(error.into()),
            (Err(Unanswered::Other(error)), None) => Err(FenceError::from(error).into()),
            (_, None) => Err(ClusterError::NoGate { node: node.label().to_string() }),
        })
        .collect()
}

/// Why a node is not asked any further.
enum Unanswered {
    Remote(RemoteError),
    Other(IdentityError),
    NoGate,
}

/// An error if it is another, or one that is `known` by another name.  Which version it has makes no difference: a
/// node must be let write before it can be upgraded.
fn is_that_node(
    reply: &Reply,
    node: &Node,
    known: &mut Vec<(String, Who)>,
) -> Result<(), Unanswered> {
    let who = Who::read_whole(reply).map_err(Unanswered::Remote)?;
    who.must_be(node).map_err(Unanswered::Other)?;
    known.push((node.label().to_string(), who));
    let all = known.iter().map(|(name, who)| (name.clone(), who));
    identity::must_differ(all).map_err(Unanswered::Other)
}

/// Runs a command on those sessions that there are.
fn run_on_open<W: Waiter>(
    waiter: &mut W,
    sessions: &mut [Result<Session, Unanswered>],
    name: &'static str,
    sql: &str,
    by: Deadline,
) -> Vec<Option<Result<Reply, RemoteError>>> {
    let deadline = Deadline::after(waiter, SWITCH_BOUND).earlier(by);
    let mut open: Vec<&mut Session> =
        sessions.iter_mut().filter_map(|session| session.as_mut().ok()).collect();
    let mut replies = run_all(waiter, &mut open, |_| Command::new(name, sql), deadline).into_iter();
    sessions.iter().map(|session| session.as_ref().ok().and_then(|_| replies.next())).collect()
}

/// How long something over a session with this very node may take.
#[derive(Clone, Copy)]
enum Patience {
    /// As long as the call has for it.
    Call,
    /// The caller has broken it off.
    Interrupted,
}

impl Patience {
    /// To connect once, to try that again, and to do it.
    fn bounds(self) -> (Duration, Duration, Duration) {
        match self {
            Self::Call => (connect_timeout(), acquire_timeout(), SWITCH_BOUND),
            Self::Interrupted => {
                (connect_timeout().min(CANCEL_BOUND), Duration::ZERO, CANCEL_BOUND)
            }
        }
    }
}

/// Does something over a session with this very node, and leaves nothing at work that has failed.
fn at_home<W: Waiter, R>(
    waiter: &mut W,
    roster: &Roster,
    patience: Patience,
    body: impl FnOnce(&mut W, &mut Session, Deadline) -> Result<R, ClusterError>,
) -> Result<R, ClusterError> {
    let (connect, again, work) = patience.bounds();
    let again_until = Deadline::after(waiter, again);
    let mut home: Session = loop {
        let deadline = Deadline::after(waiter, connect);
        match connect_all(waiter, &roster.targets()[..1], deadline).remove(0) {
            Ok(home) => break home,
            // Out of connections, say.
            Err(error) if may_pass(&error) && !again_until.expired(waiter) => {
                if pause(waiter, TRY_AGAIN) == Pause::Stopped {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    };
    let deadline = Deadline::after(waiter, work);
    must_be_home(waiter, &mut home, deadline).map_err(FenceError::from)?;
    let done = body(waiter, &mut home, deadline);
    if done.is_err() {
        let mut regardless = BackendWaiter::new(|| false);
        let deadline = Deadline::after(&regardless, CANCEL_BOUND);
        cancel_and_drain(&mut regardless, &mut [&mut home], deadline);
    }
    done
}

/// How long a call tries.
fn acquire_timeout() -> Duration {
    Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64)
}
