//! The remote nodes that take part in a fence, each with its session: what an attempt does on all of
//! them at once.

use std::time::Duration;

use super::blockers::{self, describe_all, names_prepared};
use super::error::{Failed, FenceError, is_passing_remote};
use super::statements;
use super::steps::Barrier;
use crate::citus::Node;
use crate::citus::identity::{Who, must_differ};
use crate::pg::types::Lsn;
use remote::{
    Begun, Command, Connecting, Deadline, LibPq, Pq, RemoteError, Reply, Session, SessionState,
    Target, Waiter, connect_all, run_all,
};

/// A remote node with its session.
struct Member<C: Pq> {
    node: Node,
    /// Its session; in it, the transaction that holds the locks.
    session: Session<C>,
    pid: i32,
    system_identifier: u64,
    timeline: u32,
    can_flush: bool,
    who: Who,
    server_version: i32,
    deadlock_timeout: String,
    locked_after: Duration,
    waited: Duration,
    wal_lsn: u64,
}

impl<C: Pq> Member<C> {
    fn new(node: Node, session: Session<C>) -> Self {
        Self {
            node,
            session,
            pid: 0,
            system_identifier: 0,
            timeline: 0,
            can_flush: false,
            who: Who::default(),
            server_version: 0,
            deadlock_timeout: String::new(),
            locked_after: Duration::ZERO,
            waited: Duration::ZERO,
            wal_lsn: 0,
        }
    }
}

/// What there is to tell of a node that takes part.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its row of the catalog.
    pub node: &'a Node,
    /// What its server has said of itself.
    pub who: &'a Who,
    /// The process that holds its locks.
    pub pid: i32,
    /// Of its data directory.
    pub system_identifier: u64,
    /// That it writes.
    pub timeline: u32,
    /// When it had its locks, from when they were asked for.
    pub locked_after: Duration,
    /// Up to where its WAL was on disk after that.
    pub wal_lsn: u64,
}

/// Who gave no lock, because somebody was in the way or it was too slow, by its place in the party.
pub type Refused = Vec<(usize, RemoteError)>;

/// Of two failures the one to tell: what stays so before what passes, and else the first.
fn worst(known: Option<Failed>, other: Failed) -> Option<Failed> {
    match (known, other) {
        (Some(known @ (Failed::ForGood(_) | Failed::Stopped)), _) => Some(known),
        (_, other @ (Failed::ForGood(_) | Failed::Stopped)) => Some(other),
        (known, other) => known.or(Some(other)),
    }
}

/// How much later than the node itself this side gives a lock up.
pub const GRACE: Duration = Duration::from_millis(300);

/// All remote nodes that take part.
pub struct Party<C: Pq = LibPq> {
    /// Those who take part.
    members: Vec<Member<C>>,
    /// Inactive nodes that do not take part, and why.
    absent: Vec<String>,
    /// Whether nodes may have been told that the hold begins.
    hold_begun: bool,
    /// Holds nothing, and is closed when nobody waits for what the end of its server process takes.
    spare: Option<Session<C>>,
}

impl<C: Pq> Default for Party<C> {
    fn default() -> Self {
        Self { members: Vec::new(), absent: Vec::new(), hold_begun: false, spare: None }
    }
}

impl<C: Pq> Party<C> {
    /// The sessions, one per node, in the order of [`Self::parts`].
    pub fn sessions(&mut self) -> Vec<&mut Session<C>> {
        self.members.iter_mut().map(|member| &mut member.session).collect()
    }

    /// Whether a node is still at something.
    pub fn is_busy(&self) -> bool {
        self.members.iter().any(|member| member.session.state() == SessionState::Busy)
    }

    /// What there is to tell of each of them.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.members.iter().map(|member| Part {
            node: &member.node,
            who: &member.who,
            pid: member.pid,
            system_identifier: member.system_identifier,
            timeline: member.timeline,
            locked_after: member.locked_after,
            wal_lsn: member.wal_lsn,
        })
    }

    /// Begins the transactions on all of the nodes as soon as they are connected.  An active node that does not
    /// answer, or where another answers than was meant, is an error; an inactive one, or one that cannot begin (it may
    /// not even have the tables), is noted and left out.  `extension` is the version of this extension here.  Given
    /// back is what was answered to the question beside theirs.
    pub fn begin<W: Waiter>(
        &mut self,
        waiter: &mut W,
        (nodes, extension): (&[Node], Option<&str>),
        connecting: Connecting<C>,
        sql: &str,
        deadline: Deadline,
    ) -> Result<Option<Begun<C>>, Failed> {
        let command = Command::new("begin of the fence", sql).with_copies();
        let mut failed = None;
        let mut all = connecting.run(waiter, &command, deadline).into_iter();
        let mut begun: Vec<_> = nodes
            .iter()
            .zip(all.by_ref())
            .map(|(node, begun)| {
                let (session, reply) = begun?;
                let mut member = Member::new(node.clone(), session);
                let noted = reply.and_then(|reply| member.note_begin(&reply));
                Ok((member, noted.map_err(FenceError::from)))
            })
            .collect();
        ask_for_marks(waiter, &mut begun, deadline);
        for (node, begun) in nodes.iter().zip(begun) {
            let error: Option<FenceError> = match begun {
                Ok((member, noted)) => {
                    let noted = noted.and_then(|()| Ok(member.who.must_fit(node, extension)?));
                    // What has no part in the fence holds no more than readers do: closing is enough.
                    if noted.is_ok() || node.active {
                        self.members.push(member);
                    }
                    noted.err()
                }
                Err(error) => Some(error),
            };
            match error {
                None => {}
                Some(FenceError::Remote(RemoteError::Stopped { .. })) => {
                    failed = Some(Failed::Stopped)
                }
                Some(error) if !node.active => self.absent.push(error.to_string()),
                // Somebody keeps a table of the catalog there to himself.
                Some(FenceError::Remote(error @ RemoteError::Query { .. }))
                    if is_passing_remote(&error) =>
                {
                    failed = worst(failed, Failed::for_now(error.to_string()));
                }
                // Citus may be kept waiting before the bounds of the session are set.
                Some(error @ FenceError::Remote(RemoteError::Timeout { .. })) => {
                    failed = worst(failed, Failed::Passing(error));
                }
                Some(FenceError::Remote(error)) => failed = worst(failed, Failed::of_node(error)),
                Some(error) => failed = worst(failed, error.into()),
            }
        }
        failed.map_or_else(|| Ok(all.next()), Err)
    }

    /// Keeps a session that holds nothing until [`Self::take_spare`].
    pub fn spare(&mut self, session: Option<Session<C>>) {
        self.spare = session.or(self.spare.take());
    }

    /// Takes it, to be closed.
    pub fn take_spare(&mut self) -> Option<Session<C>> {
        self.spare.take()
    }

    /// Whether there is one.
    pub fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// An error if two nodes are one server, or one of them is this server, where that takes part by itself.
    pub fn must_be_different(&self, home: Option<&(String, Who)>) -> Result<(), Failed> {
        let home = home.map(|(node, who)| (node.clone(), who));
        let members =
            self.members.iter().map(|member| (member.node.label().to_string(), &member.who));
        must_differ(home.into_iter().chain(members))?;
        Ok(())
    }

    /// Where gates are closed there is no node without one.
    pub fn require_gates(&self) -> Result<(), Failed> {
        match self.members.iter().find(|member| !member.can_flush) {
            None => Ok(()),
            Some(member) => {
                Err(FenceError::NoGate { node: member.node.label().to_string() }.into())
            }
        }
    }

    /// Who is in the middle of a command that commits on its way.
    pub fn in_steps<W: Waiter>(
        &mut self,
        waiter: &mut W,
        deadline: Deadline,
    ) -> Result<Vec<String>, Failed> {
        let look = |_| Command::new("look for commands on their way", blockers::IN_STEPS);
        let mut found = Vec::new();
        for reply in run_all(waiter, &mut self.sessions(), look, deadline) {
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) if is_passing_remote(&error) => {
                    return Err(Failed::for_now(error.to_string()));
                }
                Err(error) => return Err(Failed::of_node(error)),
            };
            let node = reply.node.to_string();
            found.extend(describe_all(&node, reply.last_set()?));
        }
        Ok(found)
    }

    /// After which a node that hears nothing more ends its part by itself, from now on.
    pub fn set_idle_timeout<W: Waiter>(
        &mut self,
        waiter: &mut W,
        idle_timeout_ms: i64,
        deadline: Deadline,
    ) -> Result<(), Failed> {
        let sql = statements::set_idle_timeout(idle_timeout_ms);
        let set = |_| Command::new("bound of the attempt", sql.as_str());
        let replies = run_all(waiter, &mut self.sessions(), set, deadline);
        replies.into_iter().try_for_each(|reply| reply.map(drop)).map_err(Failed::of_node)
    }

    /// The node that took longest to give its locks, and how long.
    pub fn slowest(&self) -> Option<(String, i64)> {
        let slowest = self.members.iter().max_by_key(|member| member.waited);
        slowest.map(|member| (member.node.label().to_string(), member.waited.as_millis() as i64))
    }

    /// Locks all at once, one round trip each; or who refused.
    pub fn lock<W: Waiter>(
        &mut self,
        waiter: &mut W,
        barrier: Barrier,
        lock_by: Deadline,
    ) -> Result<Result<(), Refused>, Failed> {
        let left_ms = lock_by.remaining(waiter).as_millis().max(1) as i64;
        let commands: Vec<String> = self
            .members
            .iter()
            .map(|member| statements::lock(barrier, &member.settle(left_ms), left_ms))
            .collect();
        let lock = |index: usize| Command::new("lock of the fence", commands[index].as_str());
        // The node gives up by itself; only one that is frozen, or slow to say so, runs into this.
        let deadline = Deadline::after(waiter, Duration::from_millis(left_ms as u64) + GRACE);
        let replies = run_all(waiter, &mut self.sessions(), lock, deadline);
        let mut refused = Vec::new();
        let mut for_good = None;
        for (index, reply) in replies.into_iter().enumerate() {
            match reply {
                Ok(reply) => self.members[index].note_lock(&reply),
                Err(error) if is_passing_remote(&error) => refused.push((index, error)),
                Err(error) => for_good = for_good.or(Some(Failed::of_node(error))),
            }
        }
        if let Some(failed) = for_good {
            return Err(failed);
        }
        if !refused.is_empty() {
            return Ok(Err(refused));
        }
        Ok(Ok(()))
    }

    /// Asks those that did not give their lock who stood in the way, and lets go of the locks that the
    /// others gave, all at once.
    pub fn look_for_blockers<W: Waiter>(
        &mut self,
        waiter: &mut W,
        refused: &[(usize, RemoteError)],
    ) -> Vec<String> {
        let deadline = Deadline::after(waiter, Duration::from_secs(2));
        let look = blockers::look();
        let command = |index: usize| {
            if refused.iter().any(|(position, _)| *position == index) {
                Command::new("look for blockers", look.as_str())
            } else {
                Command::new("rollback", statements::ROLLBACK)
            }
        };
        // Who is still at the lock, having run into our own deadline, takes no command now.
        let replies = run_all(waiter, &mut self.sessions(), command, deadline);
        let mut found = Vec::new();
        for (index, error) in refused {
            let Some(Ok(reply)) = replies.get(*index) else { continue };
            let Ok(set) = reply.last_set() else { continue };
            let node = self.members[*index].node.label().to_string();
            // A gate names what is prepared.  What was prepared before the gates were there holds no lock that
            // would show it; and by now others may have passed, who were not in the way.
            let is_of_gate = error.sqlstate() == Some("55P03") && !names_prepared(set);
            if let (true, Some(detail)) = (is_of_gate || set.rows.is_empty(), error.detail()) {
                found.push(format!("on {node}: {detail}"));
            }
            found.extend(describe_all(&node, set));
        }
        found
    }

    /// Whether nodes may have been given the time of a whole hold.
    pub fn hold_begun(&self) -> bool {
        self.hold_begun
    }

    /// Brings every node's WAL to disk, and has the hold begin: from here on a node that hears nothing
    /// more keeps it for as long as it may last.
    pub fn flush<W: Waiter>(
        &mut self,
        waiter: &mut W,
        idle_timeout_ms: i64,
        deadline: Deadline,
    ) -> Result<(), Failed> {
        // Nodes without the extension are flushed over a second session each.
        let without: Vec<usize> =
            (0..self.members.len()).filter(|index| !self.members[*index].can_flush).collect();
        let targets: Vec<Target> = without
            .iter()
            .map(|index| {
                let session = &self.members[*index].session;
                Target { node: session.node().clone(), params: session.params().clone() }
            })
            .collect();
        let mut helpers = connect_all(waiter, &targets, deadline)
            .into_iter()
            .collect::<Result<Vec<Session<C>>, RemoteError>>()
            .map_err(Failed::of_node)?;
        let hold = statements::set_idle_timeout(idle_timeout_ms);
        let flush = statements::flush(idle_timeout_ms);
        let flush_by_commit = statements::flush_by_commit();
        // A session each that flushes, in the members' order; then those that only have to hold.
        let mut commands = Vec::with_capacity(self.members.len() + helpers.len());
        let mut sessions: Vec<&mut Session<C>> = Vec::with_capacity(commands.capacity());
        let mut only_hold: Vec<&mut Session<C>> = Vec::new();
        let mut helpers = helpers.iter_mut();
        for member in &mut self.members {
            if member.can_flush {
                sessions.push(&mut member.session);
                commands.push(flush.as_str());
            } else if let Some(helper) = helpers.next() {
                sessions.push(helper);
                commands.push(flush_by_commit.as_str());
                only_hold.push(&mut member.session);
            }
        }
        commands.resize(commands.len() + only_hold.len(), hold.as_str());
        sessions.extend(only_hold);
        let flush = |index: usize| Command::new("flush of the WAL", commands[index]);
        self.hold_begun = true;
        let mut replies = run_all(waiter, &mut sessions, flush, deadline).into_iter();
        for (member, reply) in self.members.iter_mut().zip(&mut replies) {
            reply.and_then(|reply| member.note_flush(&reply)).map_err(Failed::of_node)?;
        }
        replies.try_for_each(|reply| reply.map(drop)).map_err(Failed::of_node)
    }

    /// Inactive nodes that do not take part, and why.
    pub fn absent(&self) -> &[String] {
        &self.absent
    }
}

/// A node that was begun on, and whether it can take part; or why there is none.
type Beginning<C> = Result<(Member<C>, Result<(), FenceError>), FenceError>;

/// Asks those that have no number for what else they are known by.
fn ask_for_marks<C: Pq, W: Waiter>(waiter: &mut W, begun: &mut [Beginning<C>], deadline: Deadline) {
    let mut unknown: Vec<_> = begun
        .iter_mut()
        .filter_map(|begun| begun.as_mut().ok())
        .filter(|(member, noted)| noted.is_ok() && !member.who.is_known())
        .collect();
    let marks = statements::marks();
    let ask = |_| Command::new("look who answers", marks.as_str());
    let mut sessions: Vec<&mut Session<C>> =
        unknown.iter_mut().map(|(member, _)| &mut member.session).collect();
    let replies = run_all(waiter, &mut sessions, ask, deadline);
    for ((member, noted), reply) in unknown.into_iter().zip(replies) {
        let read = reply.and_then(|reply| member.who.read_marks(&reply));
        *noted = read.map_err(FenceError::from);
    }
}

impl<C: Pq> Member<C> {
    fn note_begin(&mut self, reply: &Reply) -> Result<(), RemoteError> {
        let shown = |column: &str| {
            reply.sets.iter().find_map(|set| set.value(0, column)).map(str::to_owned)
        };
        let version = shown("server_version_num").and_then(|text| text.parse().ok());
        let (Some(version), Some(deadlock_timeout)) = (version, shown("deadlock_timeout")) else {
            return Err(reply.unexpected("no version or deadlock timeout"));
        };
        (self.server_version, self.deadlock_timeout) = (version, deadlock_timeout);
        self.who = Who::read(reply)?;
        let set = reply.last_set()?;
        let Some(pid) = set.value(0, "pid").and_then(|text| text.parse().ok()) else {
            return Err(reply.unexpected("no process"));
        };
        self.pid = pid;
        self.session.set_server_pid(pid);
        self.can_flush = statements::is_ours(set.value(0, "definition"));
        Ok(())
    }

    /// What is set before a lock that is waited for so long.
    fn settle(&self, lock_timeout_ms: i64) -> String {
        statements::settle(self.server_version, &self.deadlock_timeout, lock_timeout_ms)
    }

    /// The position up to which the node has flushed, and the node's identity.
    fn note_flush(&mut self, reply: &Reply) -> Result<(), RemoteError> {
        let flushed = reply.last_set()?.value(0, "flushed").and_then(Flushed::parse);
        let Some(flushed) = flushed else {
            return Err(reply.unexpected("no WAL position, system identifier or timeline"));
        };
        self.wal_lsn = flushed.lsn;
        self.system_identifier = flushed.system_identifier;
        self.timeline = flushed.timeline;
        Ok(())
    }

    /// How long after the locks of this node this one's were there.
    fn note_lock(&mut self, reply: &Reply) {
        self.locked_after = reply.took;
        self.waited += reply.took;
    }
}

/// What a node says of its flush, `(0/3000148,7412345678901234567,1)`.
#[derive(Debug, PartialEq, Eq)]
struct Flushed {
    lsn: u64,
    system_identifier: u64,
    timeline: u32,
}

impl Flushed {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix('(')?.strip_suffix(')')?.split(',');
        let lsn = Lsn::parse(fields.next()?)?.0;
        // SQL has no unsigned numbers: the upper half of the identifiers shows as negative.
        let system_identifier = fields.next()?.parse::<i64>().ok()? as u64;
        let timeline = u32::try_from(fields.next()?.parse::<i64>().ok()?).ok()?;
        fields.next().is_none().then_some(Self { lsn, system_identifier, timeline })
    }
}

#[cfg(test)]
mod tests {
    use super::Flushed;

    #[test]
    fn what_a_node_says_of_its_flush_is_read_as_it_is_written() {
        let flushed = Flushed { lsn: 0x16_B374_D848, system_identifier: u64::MAX, timeline: 3 };
        assert_eq!(Flushed::parse("(16/B374D848,-1,3)"), Some(flushed));
        for wrong in ["", "(16/B374D848,,3)", "(16/B374D848,-1)", "(16/B374D848,-1,3,4)"] {
            assert_eq!(Flushed::parse(wrong), None, "{wrong}");
        }
    }
}
