//! How the snapshots of one moment are had: attempt after attempt, until one holds or the time is over.
//!
//! # Why they agree
//!
//! A snapshot is taken on every node while the fence stands on all of them. So of any two-phase commit either every
//! node's part was over before the first snapshot was taken, or none begins before the last was: with the fence
//! held nobody is between its first PREPARE and its last COMMIT PREPARED. One that was left there by a crash is in
//! nobody's hands, and the fence does not see it: so it is looked for on all nodes, after the last lock and before
//! the first snapshot. If a node has decided to commit it and another one only prepared it, the attempt has failed,
//! and it is recovered before the next. What is prepared and decided nowhere will be rolled back, or was never
//! distributed: no snapshot shows any of it.
//!
//! In mode `all` no node has a writer at the moment, so that what one commit could have seen of another is in the
//! snapshots too.
//!
//! The transactions that hold the fence end with it, so a snapshot lives in a session of its own. Its transaction is
//! begun before the fence is asked for, and takes its snapshot with its first query.

use std::time::Duration;

use pgrx::pg_sys;
use remote::{
    Begun, Command, Connecting, Deadline, LibPq, Pq, RemoteError, Reply, Session, Target, Waiter,
    run_all,
};

use super::KEEPER_NAME;
use super::control::{NodeRow, Owner};
use super::error::SnapshotError;
use super::state::Terms;
use super::statements;
use crate::citus::identity::Who;
use crate::citus::myself::Proof;
use crate::citus::{self, Dialer, HELPER_NAME, Node, Roster};
use crate::fence::blockers::blocked_here;
use crate::fence::engine::{Bounds, Home, Others, Silence, Story, attempt};
use crate::fence::error::{Failed, FenceError, Reason, is_passing_remote};
use crate::fence::let_go::{let_go, roll_back_all};
use crate::fence::mode::Mode;
use crate::fence::party::Party;
use crate::fence::recovery::finish_in_doubt;
use crate::fence::retry::{GaveUp, Limit, Trial, until_held};
use crate::fence::statements::IDLE_GRACE_MS;
use crate::fence::steps::{Barrier, Step};
use crate::fence::text::Text;
use crate::guc;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::types::Lsn;
use crate::pg::wait::BackendWaiter;
use crate::pg::worker::Transaction;
use crate::pg::{elog, interrupts, lock};
use crate::report::Report;

/// What has to hold on all nodes before the first snapshot is taken.
const fn steps(mode: Mode) -> &'static [Step] {
    use Barrier::{ClientGate, InternalGate, Tables};
    use Step::{Close, SameNodes};
    match mode {
        Mode::TwoPhase => &[Close(Tables), SameNodes],
        Mode::All => &[Close(ClientGate), Close(InternalGate), Close(Tables), SameNodes],
    }
}

/// How long a node holds its part of the fence that hears nothing more: longer than an attempt, and not much.
const SILENCE_MS: i64 = 5_000;

/// What a node may take for one of the exchanges under the fence.
const EXCHANGE_BOUND: Duration = Duration::from_secs(2);

/// Snapshots of one moment.
pub struct Kept {
    /// What there is to tell, in the order of the sessions.
    pub rows: Vec<NodeRow>,
    /// Whose writes were held back.
    pub mode: Mode,
    /// Inactive nodes that did not answer.
    pub absent: Vec<String>,
    _descriptors: ReservedDescriptors,
}

/// The sessions in whose transactions the snapshots live.
pub type Keepers = Vec<Session>;

/// Has them. After an error the caller lets go of the keepers.
pub fn export(owner: &Owner, keepers: &mut Keepers, terms: &Terms) -> Result<Kept, SnapshotError> {
    let mut waiter = BackendWaiter::new(|| owner.release_asked() || interrupts::terminated());
    let time = Duration::from_millis(terms.acquire_timeout_ms as u64);
    let limit = Limit::from_now(&waiter, time);
    let (party, mode, is_proved) = (Party::default(), terms.mode, false);
    let mut attempts = Attempts { owner, keepers, party, terms, mode, is_proved, limit };
    let held = until_held(&mut waiter, &mut attempts, limit);
    // Whatever the end was, nobody waits for this any more.
    let silent = let_go(&mut BackendWaiter::new(|| false), &mut attempts.party);
    for error in silent {
        elog::log(&format!("citus_fence: a node did not confirm the end of the fence: {error}"));
    }
    match held {
        Ok(held) => Ok(held.what),
        Err(GaveUp::Stopped) if interrupts::terminated() => Err(SnapshotError::Terminated),
        Err(GaveUp::Stopped) => Err(SnapshotError::GivenUp),
        Err(GaveUp::NotHeld(Reason { what: last, blockers, .. })) => {
            Err(SnapshotError::NotHeld { after_ms: limit.ms(), last, blockers })
        }
        Err(GaveUp::TooLittleTime(error)) => Err(error.into()),
        Err(GaveUp::ForGood(FenceError::NoGate { node })) => Err(SnapshotError::NoGate { node }),
        Err(GaveUp::ForGood(error)) => Err(error.into()),
    }
}

/// Nodes, each with what its server has said of itself.
type Known = Vec<(Node, Who)>;

struct Attempts<'a> {
    owner: &'a Owner,
    keepers: &'a mut Keepers,
    party: Party,
    terms: &'a Terms,
    mode: Mode,
    /// Whether this server is known to be the coordinator that the catalog names.
    is_proved: bool,
    limit: Limit,
}

impl<W: Waiter> Trial<W> for Attempts<'_> {
    type Held = Kept;
    const ATTEMPT: &'static str = "a cluster snapshot";

    fn attempt(&mut self, waiter: &mut W) -> Result<Kept, Failed> {
        let roster = self.read(waiter, KEEPER_NAME)?;
        let count = roster.nodes().len();
        let max = guc::MAX_NODES.get() as usize;
        if count > max {
            let error = SnapshotError::TooManyNodes { count, max };
            return Err(FenceError::Local(Report::from(&error)).into());
        }
        // The session that holds the fence, the keeper, and one that proves, helps or cancels.
        let count = 3 * count;
        let descriptors =
            ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
        // The nodes make both sessions, and this one a session with itself, at the same time.
        let proof = (!self.is_proved).then(|| Proof::of(&roster));
        let connecting = Connecting::start(waiter, roster.targets(), self.limit.deadline);
        let mut absent = Vec::new();
        let question = proof.as_ref().and_then(Proof::question);
        let (mut nodes, answer) = self.connect_keepers(waiter, &roster, question, &mut absent)?;
        // Nothing is held on the nodes of a cluster that this server only has a copy of.
        if let Some(proof) = proof {
            // A silent node may have taken all of that time.
            let by = Deadline::after(waiter, self.connect_timeout()).earlier(self.limit.deadline);
            let spare = proof.finish(waiter, &roster, answer, by)?;
            self.party.spare(spare);
            self.is_proved = true;
        }

        let mut rows = Vec::new();
        let (held, fenced_at) = match self.fence(waiter, &roster, connecting) {
            // A gate is on every node or of no use; the caller has left it to us.
            Err(Failed::ForGood(error))
                if self.mode == Mode::All && self.terms.may_be_two_phase && has_no_gate(&error) =>
            {
                self.mode = Mode::TwoPhase;
                return Err(Failed::because("a node has no gate"));
            }
            fenced => {
                let (story, mut home) = fenced?;
                let fenced_at = waiter.now();
                self.only_fenced(&mut nodes, &mut absent)?;
                self.nothing_in_doubt(waiter)?;
                let nodes: Vec<Node> = nodes.into_iter().map(|(node, _)| node).collect();
                self.take(waiter, &nodes, &mut rows)?;
                home.let_go();
                (story.locking + story.finishing, fenced_at)
            }
        };
        // Writers go on from here. Whoever does not end the fence now may have lost it before the last snapshot was
        // taken, and then its writers went on by themselves.
        let silent = let_go(&mut BackendWaiter::new(|| false), &mut self.party);
        if let Some(error) = silent.into_iter().next() {
            return Err(of_exchange(error));
        }
        let held = held + waiter.now().saturating_sub(fenced_at);
        elog::log(&format!(
            "citus_fence: cluster snapshot of {} nodes in mode {}: writers were held for {:.2} ms",
            rows.len(),
            self.mode.name(),
            held.as_secs_f64() * 1e3,
        ));
        Ok(Kept { rows, mode: self.mode, absent, _descriptors: descriptors })
    }

    fn let_go(&mut self) -> Vec<RemoteError> {
        let mut silent = let_go(&mut BackendWaiter::new(|| false), &mut self.party);
        silent.extend(end(self.keepers));
        self.party = Party::default();
        silent
    }

    /// Has all nodes, this one among them, finish what they left in doubt.
    fn recover(&mut self, waiter: &mut W) -> Result<(), Failed> {
        // A copy of the coordinator would recover what is the original's.
        if !self.is_proved {
            return Ok(());
        }
        let roster = match self.read(waiter, HELPER_NAME) {
            Ok(roster) => roster,
            // Whoever keeps it from being read is in the way of the next attempt, too, which says so.
            Err(Failed::ForNow(_)) => return Ok(()),
            Err(failed) => return Err(failed),
        };
        let Some(_descriptors) = ReservedDescriptors::acquire(roster.nodes().len()) else {
            return Ok(());
        };
        let bound = Deadline::after(waiter, self.connect_timeout()).earlier(self.limit.deadline);
        Ok(finish_in_doubt(waiter, roster.targets(), bound, elog::log)?)
    }
}

impl Attempts<'_> {
    fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.terms.connect_timeout_ms as u64)
    }

    fn lock_timeout(&self) -> Duration {
        Duration::from_millis(self.terms.lock_timeout_ms as u64)
    }

    /// The nodes that there are, in a transaction that ends with it.
    fn read<W: Waiter>(&self, waiter: &W, name: &str) -> Result<Roster, Failed> {
        let bound = self.lock_timeout().min(self.limit.deadline.remaining(waiter));
        let dialer = Dialer {
            role: pg_sys::Oid::from(self.terms.owner),
            application_name: name.to_owned(),
            connect_timeout: self.connect_timeout(),
        };
        let reading = Transaction::begin();
        let read = reading.bounded(
            bound,
            || self.owner.release_asked(),
            || {
                citus::fence_relations()?;
                Roster::read(dialer)
            },
        );
        drop(reading);
        match read {
            Ok(roster) => Ok(roster?),
            Err(report) => Err(blocked_here(|| self.owner.release_asked(), report)),
        }
    }

    /// Sessions that are warm, each with its transaction begun, and no snapshot taken; for which nodes. An inactive
    /// node that does not answer, or cannot take part, is left out, and named.  Besides, what is answered to the
    /// question.
    fn connect_keepers<W: Waiter>(
        &mut self,
        waiter: &mut W,
        roster: &Roster,
        question: Option<(&Target, Command<'static>)>,
        absent: &mut Vec<String>,
    ) -> Result<(Known, Option<Begun<LibPq>>), Failed> {
        let warm_up = statements::warm_up(roster.is_citus(), self.terms.lock_timeout_ms);
        let warm = Command::new("warm-up of the snapshot", warm_up.as_str());
        let by = Deadline::after(waiter, self.connect_timeout()).earlier(self.limit.deadline);
        // The quick do not wait for the slow, nor does their time end with that of a silent one.
        let connecting = Connecting::start_with(waiter, roster.targets(), question, by);
        let mut begun = connecting.run(waiter, &warm, by);
        let answer = begun.drain(roster.targets().len()..).next();
        let idle_ms = i64::from(self.terms.timeout_ms)
            + self.limit.deadline.remaining(waiter).as_millis() as i64
            + IDLE_GRACE_MS;
        let (mut nodes, mut begin) = (Vec::new(), Vec::new());
        for (node, begun) in roster.nodes().iter().zip(begun) {
            let fit = begun.map_err(of_exchange).and_then(|(session, reply)| {
                let reply = reply.map_err(of_exchange)?;
                let who = Who::read_whole(&reply).map_err(of_exchange)?;
                who.must_fit(node, roster.extension())?;
                let version = reply.sets.iter().find_map(|set| set.value(0, "server_version_num"));
                let version = version.and_then(|text| text.parse().ok());
                let version = version.ok_or_else(|| of_exchange(reply.unexpected("no version")))?;
                Ok((session, who, version))
            });
            match fit {
                Ok((session, who, version)) => {
                    self.keepers.push(session);
                    nodes.push((node.clone(), who));
                    begin.push(statements::begin(version, idle_ms, roster.is_citus()));
                }
                Err(Failed::Stopped) => return Err(Failed::Stopped),
                Err(Failed::ForGood(error) | Failed::Passing(error)) if !node.active => {
                    absent.push(error.to_string());
                }
                Err(Failed::ForNow(reason)) if !node.active => absent.push(reason.what),
                Err(failed) => return Err(failed),
            }
        }
        let by = Deadline::after(waiter, EXCHANGE_BOUND);
        let begin = |index: usize| Command::new("begin of the snapshot", begin[index].as_str());
        for reply in run_all(waiter, &mut sessions(self.keepers), begin, by) {
            reply.map_err(of_exchange)?;
        }
        Ok((nodes, answer))
    }

    /// Leaves out whom the fence has left out: an inactive node that had no place for its session, say.
    ///
    /// Both sessions of a node have to be on one server: in a failover, or behind a name that leads to two, the fence
    /// would stand on the one and the snapshot be of the other.
    fn only_fenced(&mut self, nodes: &mut Known, absent: &mut Vec<String>) -> Result<(), Failed> {
        let mut keepers = Keepers::new();
        let all = std::mem::take(self.keepers).into_iter().zip(std::mem::take(nodes));
        for (session, (node, who)) in all {
            let Some(part) = self.party.parts().find(|part| *part.node == node) else {
                // Dropping the session ends its transaction, which has no snapshot yet.
                continue;
            };
            if !who.is_same_server(part.who) {
                return Err(Failed::for_now(format!("two servers answer at {}", node.label())));
            }
            keepers.push(session);
            nodes.push((node, who));
        }
        *self.keepers = keepers;
        absent.extend(self.party.absent().iter().cloned());
        absent.sort();
        absent.dedup();
        Ok(())
    }

    /// Holds writers back on all nodes.
    fn fence<'r, W: Waiter>(
        &mut self,
        waiter: &mut W,
        roster: &'r Roster,
        connecting: Connecting,
    ) -> Result<(Story, NodeList<'r>), Failed> {
        let bounds = Bounds {
            deadline: self.limit.deadline,
            connect_timeout: self.connect_timeout(),
            lock_timeout: self.lock_timeout(),
            silence: Silence::AttemptMs(SILENCE_MS + i64::from(self.terms.lock_timeout_ms)),
        };
        let others = Others {
            nodes: roster.nodes(),
            connecting,
            extension: roster.extension(),
            is_citus: roster.is_citus(),
            in_doubt: &[],
        };
        let owner = *self.owner;
        let mut home = NodeList { owner, roster, local: None };
        let story = attempt(waiter, steps(self.mode), &mut home, &mut self.party, others, &bounds)?;
        Ok((story, home))
    }

    /// Fails where a two-phase commit is decided on one node and only prepared on another.
    fn nothing_in_doubt<W: Waiter>(&mut self, waiter: &mut W) -> Result<(), Failed> {
        let by = Deadline::after(waiter, EXCHANGE_BOUND);
        let look = |_| Command::new("look for what is prepared", statements::PREPARED);
        let replies = run_all(waiter, &mut self.party.sessions(), look, by);
        let mut prepared: Vec<(String, String)> = Vec::new();
        for reply in replies {
            let reply = reply.map_err(of_exchange)?;
            let node = reply.node.to_string();
            prepared.extend(texts(&reply, "prepared")?.into_iter().map(|gid| (gid, node.clone())));
        }
        if prepared.is_empty() {
            return Ok(());
        }
        let gids: Vec<String> = prepared.iter().map(|(gid, _)| gid.clone()).collect();
        let sql = statements::committed(&gids);
        let look = |_| Command::new("look for what is decided", sql.as_str());
        for reply in run_all(waiter, &mut self.party.sessions(), look, by) {
            let reply = reply.map_err(of_exchange)?;
            let decided = texts(&reply, "committed")?;
            let Some(gid) = decided.first() else { continue };
            let places = prepared.iter().filter(|(known, _)| known == gid);
            let places: Vec<String> = places
                .map(|(gid, node)| format!("on {node}: prepared transaction {gid}"))
                .collect();
            return Err(Failed::ForNow(Reason {
                what: format!(
                    "a two-phase commit that {} has decided is not finished everywhere",
                    reply.node
                ),
                blockers: places,
                tells: true,
            }));
        }
        Ok(())
    }

    /// Takes and exports the snapshots.
    fn take<W: Waiter>(
        &mut self,
        waiter: &mut W,
        nodes: &[Node],
        rows: &mut Vec<NodeRow>,
    ) -> Result<(), Failed> {
        let by = Deadline::after(waiter, EXCHANGE_BOUND);
        let sql = statements::export(i64::from(self.terms.timeout_ms) + IDLE_GRACE_MS);
        let export = |_| Command::new("export of the snapshot", sql.as_str());
        let replies = run_all(waiter, &mut sessions(self.keepers), export, by);
        for (node, reply) in nodes.iter().zip(replies) {
            let reply = reply.map_err(of_exchange)?;
            let value = |column| reply.sets.iter().find_map(|set| set.value(0, column));
            let lsn = value("wal_lsn").and_then(Lsn::parse);
            let (Some(snapshot_id), Some(lsn)) = (value("snapshot_id"), lsn) else {
                return Err(of_exchange(reply.unexpected("no snapshot or WAL position")));
            };
            rows.push(NodeRow {
                nodeid: node.nodeid,
                groupid: node.groupid,
                host: Text::new(&node.host),
                port: node.port,
                snapshot_id: Text::new(snapshot_id),
                wal_lsn: lsn.0,
            });
        }
        Ok(())
    }
}

/// What a failed exchange with a node is to the attempt.
fn of_exchange(error: RemoteError) -> Failed {
    if is_passing_remote(&error) {
        Failed::for_now(error.to_string())
    } else {
        Failed::of_node(error)
    }
}

/// Whether it says that a node has no gate: the extension is not there, or its library is not preloaded.
fn has_no_gate(error: &FenceError) -> bool {
    match error {
        FenceError::NoGate { .. } => true,
        FenceError::Remote(error) => {
            error.sqlstate() == Some("55000")
                && error.to_string().contains("shared_preload_libraries")
        }
        FenceError::Catalog(_)
        | FenceError::Identity(_)
        | FenceError::NoDescriptors { .. }
        | FenceError::Local(_) => false,
    }
}

/// A column that is a list of texts, as JSON.
fn texts(reply: &Reply, column: &str) -> Result<Vec<String>, Failed> {
    let list = reply.sets.iter().find_map(|set| set.value(0, column));
    list.and_then(|list| serde_json::from_str(list).ok())
        .ok_or_else(|| of_exchange(reply.unexpected("no list of transactions")))
}

/// For exchanges with all of them.
pub fn sessions(keepers: &mut Keepers) -> Vec<&mut Session> {
    keepers.iter_mut().collect()
}

/// Ends the transactions of the keepers, and with them the snapshots; who did not confirm it.
pub fn end(keepers: &mut Keepers) -> Vec<RemoteError> {
    let silent = roll_back_all(&mut BackendWaiter::new(|| false), &mut sessions(keepers));
    keepers.clear();
    silent
}

/// This node takes part over a session, like any other; but that nobody comes and goes meanwhile is its catalog's to
/// say, and takes the lock that Citus' own changes of nodes take first.
struct NodeList<'a> {
    owner: Owner,
    roster: &'a Roster,
    local: Option<Transaction>,
}

impl Home for NodeList<'_> {
    fn begin(&mut self, _bound: Duration) -> Result<(), Failed> {
        self.local = Some(Transaction::begin());
        Ok(())
    }

    fn close(&mut self, barrier: Barrier, bound: Duration) -> Result<(), Failed> {
        let (Barrier::Tables, Some(local)) = (barrier, &self.local) else { return Ok(()) };
        let locked = local.bounded(
            bound,
            || self.owner.release_asked(),
            || {
                let relations = citus::fence_relations().map_err(|error| Report::from(&error))?;
                lock::lock_relation_exclusive(relations.node);
                Ok(())
            },
        );
        if let Err(report) = locked.flatten() {
            self.local = None;
            return Err(blocked_here(|| self.owner.release_asked(), report));
        }
        Ok(())
    }

    /// It is among the others.
    fn who(&self) -> Option<(String, Who)> {
        None
    }

    /// The attempt has seen to that before it asked the nodes for anything.
    fn prove<C: Pq, W: Waiter>(
        &mut self,
        _waiter: &mut W,
        _answer: Option<Begun<C>>,
        _by: Deadline,
    ) -> Result<Option<Session<C>>, Failed> {
        Ok(None)
    }

    fn let_go(&mut self) {
        self.local = None;
    }

    fn nodes_are_the_same(&mut self) -> Result<bool, Failed> {
        Ok(self.roster.is_current()?)
    }

    fn flush(&mut self) {}

    fn log(&mut self, line: &str) {
        elog::log(line);
    }
}
