//! The lock plan: from a list of nodes to a fence that is held on all of them.
//!
//! # Why no two-phase commit is cut in half
//!
//! Whoever coordinates a two-phase commit takes RowExclusiveLock on its own node's
//! `pg_dist_transaction` before the first PREPARE and keeps it past the last COMMIT PREPARED.  The
//! fence's ExclusiveLock conflicts with it.  So on each node, once the fence's lock is granted,
//! every commit begun there is over everywhere, and none begins before the release.  That holds for
//! the cluster once it holds for every node that can coordinate, which is every primary, whatever
//! `hasmetadata` says, and an inactive one too if it answers.  Nodes cannot come or go unseen:
//! that takes a lock on the coordinator's `pg_dist_node`, which the fence takes *before* it reads the
//! list a second time; if the two lists differ, the attempt has failed.
//!
//! A granted lock says that a commit is over, not that it is on disk: with `synchronous_commit = off`
//! locks go before the WAL is flushed.  So every node is flushed last, after the last lock.
//!
//! # Order, and what bounds it
//!
//! Connect to all and warm up; lock here (`pg_dist_node`, `pg_dist_partition`,
//! `pg_dist_transaction`); lock everywhere else at once; read the list again; flush everywhere.
//! Locks on several nodes can form a cycle with writers that no one node sees, so every wait is
//! bounded by `citus_fence.lock_timeout`; an attempt that fails lets everything go, has the nodes
//! finish what they left in doubt, and begins again.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::control::{NodeRow, Owner};
use super::error::FenceError;
use super::state::Block;
use super::text::Text;
use super::{HELPER_NAME, HOLDER_NAME, statements};
use crate::catalog::{self, Access, CatalogError, Dialer, Node};
use crate::errors::Report;
use crate::pg::clock::now;
use crate::pg::elog;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::ident;
use crate::pg::interrupts;
use crate::pg::lock;
use crate::pg::wait::BackendWaiter;
use crate::pg::wal;
use crate::pg::worker::{self, Caught, Transaction};
use crate::remote::{
    Command, Deadline, RemoteError, Reply, Session, Target, WaitEnd, Waiter, connect_all, run_all,
};

/// The fence, held.  Dropping it lets go: the sessions are closed first, which ends their
/// transactions, then the local transaction is aborted.
pub struct HeldFence {
    /// One per remote node, in the order of `rows` after the first.
    pub sessions: Vec<Session>,
    /// Holds the local locks.
    pub local: Transaction,
    /// The manifest: this node first.
    pub rows: Vec<NodeRow>,
    /// What the requestor should know, or nothing.
    pub warning: String,
    /// How it went, for the log.
    pub story: Story,
    _descriptors: ReservedDescriptors,
}

/// How an acquisition went.
pub struct Story {
    /// Attempts it took.
    pub attempts: u32,
    /// Reading the node list and connecting.
    pub connecting: Duration,
    /// Beginning the transactions and warming the sessions up.
    pub warming: Duration,
    /// From the first lock asked for to the last lock held: what writers can have been made to wait.
    pub locking: Duration,
    /// Reading the list again and flushing.
    pub flushing: Duration,
    /// The node that took longest to give its lock, and how long.
    pub slowest: Option<(String, i64)>,
}

/// Why an attempt failed.
enum Failed {
    /// Another attempt would fail the same way.
    ForGood(FenceError),
    /// Somebody was in the way, or the cluster changed: let go and try again.
    ForNow { what: String, blockers: Vec<String> },
}

impl<E: Into<FenceError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed::ForGood(error.into())
    }
}

/// Shortest and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Takes the fence, in as many attempts as fit into the block's terms.
pub fn acquire(owner: &Owner, block: &Block) -> Result<HeldFence, FenceError> {
    let mut waiter = BackendWaiter::new(|| owner.release_asked() || interrupts::terminated());
    let limit_ms = block.terms.acquire_timeout_ms.min(block.terms.timeout_ms);
    let deadline = Deadline::after(&waiter, Duration::from_millis(limit_ms as u64));
    let mut backoff = BACKOFF.0;
    let mut attempts = 0;
    let mut in_the_way: Option<(String, Vec<String>)> = None;
    loop {
        attempts += 1;
        let failed = match attempt(&mut waiter, block, deadline) {
            Ok(mut held) => {
                held.story.attempts = attempts;
                return Ok(held);
            }
            Err(failed) => failed,
        };
        match failed {
            Failed::ForNow { what, blockers } => {
                elog::log(&format!(
                    "citus_fence: attempt {attempts} at a backup block failed: {what}"
                ));
                in_the_way = Some((what, blockers));
            }
            // With no time left everything times out; what stood in the way before is the reason.
            Failed::ForGood(_) if in_the_way.is_some() && deadline.expired(&waiter) => {}
            Failed::ForGood(error) => return Err(error),
        }
        let pause = backoff.min(deadline.remaining(&waiter));
        if pause.is_zero() {
            let (last, blockers) = in_the_way.unwrap_or_default();
            return Err(FenceError::LocksNotHeld { after_ms: limit_ms, last, blockers });
        }
        recover_in_doubt(&mut waiter, block, deadline)?;
        let end = Deadline::after(&waiter, pause);
        while !end.expired(&waiter) {
            let left = end.remaining(&waiter);
            if let WaitEnd::Stopped = waiter.wait(&[], left) {
                return Err(stopped());
            }
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Why the waiter stopped.
fn stopped() -> FenceError {
    if interrupts::terminated() {
        FenceError::Terminated
    } else {
        FenceError::ReleasedWhileStarting
    }
}

/// One attempt, all or nothing: whatever it holds is let go on every other way out.
fn attempt<W: Waiter>(
    waiter: &mut W,
    block: &Block,
    deadline: Deadline,
) -> Result<HeldFence, Failed> {
    let role = pg_sys::Oid::from(block.terms.owner);
    let connect_timeout = Duration::from_millis(block.terms.connect_timeout_ms as u64);

    let began = Instant::now();
    let reading = Transaction::begin();
    let (nodes, targets) = reading.with_latest_snapshot(|| -> Result<_, FenceError> {
        catalog::fence_relations()?;
        let nodes = catalog::nodes()?;
        let access = Access::read(Dialer {
            role,
            application_name: HOLDER_NAME.to_owned(),
            connect_timeout,
        })?;
        let targets = remote_nodes(&nodes)
            .map(|node| access.target(node.label()))
            .collect::<Result<Vec<Target>, _>>()?;
        Ok((nodes, targets))
    })?;
    drop(reading);
    let max = crate::guc::MAX_NODES.get() as usize;
    if targets.len() + 1 > max {
        return Err(FenceError::TooManyNodes { count: targets.len() + 1, max }.into());
    }

    let descriptors = ReservedDescriptors::acquire(targets.len())
        .ok_or(FenceError::NoDescriptors { count: targets.len() })?;
    let connect_deadline = Deadline::after(waiter, connect_timeout).earlier(deadline);
    let mut party = Party::default();
    let connected = connect_all(waiter, &targets, connect_deadline);
    party.gather(remote_nodes(&nodes).cloned(), connected)?;
    let connecting = began.elapsed();
    let idle_ms = i64::from(block.terms.timeout_ms) + statements::IDLE_GRACE_MS;
    let left_ms = deadline.remaining(waiter).as_millis().clamp(1, i32::MAX as u128) as i32;
    let lock_timeout_ms = block.terms.lock_timeout_ms.min(left_ms);
    let warm_up = statements::begin(lock_timeout_ms, idle_ms);
    party.warm_up(waiter, &warm_up, connect_deadline)?;

    let local = Transaction::begin();
    local.set_local(c"lock_timeout", &lock_timeout_ms.to_string());
    local.set_local(c"deadlock_timeout", &local_deadlock_timeout());
    let warming = began.elapsed() - connecting;
    let locking = Instant::now();
    if let Err(error) = lock_here() {
        drop(local);
        return Err(blocked_here(error));
    }
    let local_locked_at = now();
    let slowest = party.lock(waiter, lock_timeout_ms)?;
    let locking = locking.elapsed();
    let flushing = Instant::now();

    let again = local.with_latest_snapshot(catalog::nodes)?;
    if again != nodes {
        return Err(Failed::ForNow {
            what: FenceError::NodesChanged.to_string(),
            blockers: vec![],
        });
    }

    let flush_deadline =
        Deadline::after(waiter, Duration::from_millis(statements::STATEMENT_GRACE_MS as u64));
    let remote_lsns = party.flush(waiter, flush_deadline)?;
    let local_lsn = wal::flush();

    let mut rows = vec![local_row(&nodes, local_locked_at, local_lsn)];
    rows.extend(party.members.iter().zip(remote_lsns).map(|(member, lsn)| member.row(lsn)));
    let warning = party.warning();
    Ok(HeldFence {
        sessions: party.members.into_iter().map(|member| member.session).collect(),
        local,
        rows,
        warning,
        story: Story {
            attempts: 1,
            connecting,
            warming,
            locking,
            flushing: flushing.elapsed(),
            slowest,
        },
        _descriptors: descriptors,
    })
}

/// The nodes that are reached over the network: all but this one.
fn remote_nodes(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| node.groupid != catalog::COORDINATOR_GROUP)
}

/// The local locks, in the order that Citus' own operations take them; before them, a lock that keeps
/// the extension, and so the way to unblock, from being dropped.
fn lock_here() -> Result<(), Caught> {
    worker::catch(|| {
        interrupts::cancellable(|| {
            if let Some(extension) = lock::extension(c"citus_fence") {
                lock::keep_extension(extension);
            }
            let relations = catalog::fence_relations()?;
            lock::lock_relation_exclusive(relations.node);
            lock::lock_relation_exclusive(relations.partition);
            lock::lock_relation_exclusive(relations.transaction);
            Ok(())
        })
    })
    .and_then(|locked: Result<(), CatalogError>| {
        locked.map_err(|error| Report::from(&error).into())
    })
}

impl From<Report> for Caught {
    fn from(report: Report) -> Self {
        let Report { sqlstate, message, detail, hint } = report;
        Caught { sqlstate, message, detail, hint }
    }
}

/// Just below the server's own, as a text with its unit; see [`statements::settle`].
fn local_deadlock_timeout() -> String {
    let server = crate::pg::guc::read_number("deadlock_timeout").unwrap_or(1000.0);
    format!("{}ms", statements::below(server as i64))
}

/// What a local lock that was not granted means.
fn blocked_here(error: Caught) -> Failed {
    if interrupts::terminated() {
        return FenceError::Terminated.into();
    }
    if is_passing(error.sqlstate) {
        let look = Transaction::begin();
        let blockers =
            worker::catch(|| look.with_latest_snapshot(|| local_blockers().unwrap_or_default()))
                .unwrap_or_default();
        return Failed::ForNow { what: error.message, blockers };
    }
    FenceError::from(error).into()
}

impl From<Caught> for FenceError {
    fn from(error: Caught) -> Self {
        let Caught { sqlstate, message, detail, hint } = error;
        FenceError::Local { sqlstate, message, detail, hint }
    }
}

/// Errors that another attempt may not meet: no lock in time, a deadlock, a serialization failure, a
/// statement cancelled by its own timeout.
fn is_passing(sqlstate: pgrx::PgSqlErrorCode) -> bool {
    use pgrx::PgSqlErrorCode::*;
    matches!(
        sqlstate,
        ERRCODE_LOCK_NOT_AVAILABLE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
            | ERRCODE_QUERY_CANCELED
    )
}

fn local_blockers() -> Result<Vec<String>, pgrx::spi::Error> {
    pgrx::Spi::connect(|client| {
        let mut blockers = Vec::new();
        for row in client.select(statements::BLOCKERS, None, &[])? {
            blockers.push(describe_blocker(
                "this node",
                row.get::<i32>(1)?.unwrap_or_default(),
                &row.get::<String>(2)?.unwrap_or_default(),
                row.get::<i64>(3)?.unwrap_or_default(),
                &row.get::<String>(4)?.unwrap_or_default(),
            ));
        }
        Ok(blockers)
    })
}

fn describe_blocker(node: &str, pid: i32, user: &str, age: i64, what: &str) -> String {
    if pid == 0 {
        format!("on {node}, {what} of {user} for {age} s")
    } else {
        format!("on {node}, process {pid} of {user} for {age} s ({what})")
    }
}

fn local_row(nodes: &[Node], locked_at: i64, wal_lsn: u64) -> NodeRow {
    let listed = nodes.iter().find(|node| node.groupid == catalog::COORDINATOR_GROUP);
    let host = listed.map_or_else(
        || crate::pg::guc::read("citus.local_hostname").unwrap_or_else(|| "localhost".into()),
        |node| node.host.clone(),
    );
    NodeRow {
        nodeid: listed.map_or(0, |node| node.nodeid),
        groupid: catalog::COORDINATOR_GROUP,
        host: Text::new(&host),
        port: listed.map_or_else(ident::port, |node| node.port),
        backend_pid: crate::pg::process::me().pid,
        locked_at,
        system_identifier: ident::system_identifier(),
        timeline: wal::timeline(),
        wal_lsn,
        restore_lsn: 0,
    }
}

/// A remote node with its session.
struct Member {
    node: Node,
    session: Session,
    pid: i32,
    system_identifier: u64,
    timeline: u32,
    can_flush: bool,
    settle: String,
    locked_at: i64,
    waited_ms: i64,
}

impl Member {
    fn row(&self, wal_lsn: u64) -> NodeRow {
        NodeRow {
            nodeid: self.node.nodeid,
            groupid: self.node.groupid,
            host: Text::new(&self.node.host),
            port: self.node.port,
            backend_pid: self.pid,
            locked_at: self.locked_at,
            system_identifier: self.system_identifier,
            timeline: self.timeline,
            wal_lsn,
            restore_lsn: 0,
        }
    }
}

/// All remote nodes that take part.
#[derive(Default)]
struct Party {
    members: Vec<Member>,
    /// Inactive nodes that do not take part, and why.
    absent: Vec<String>,
}

impl Party {
    /// Sorts out who answered.  An active node that did not is an error; an inactive one is noted.
    fn gather(
        &mut self,
        nodes: impl Iterator<Item = Node>,
        connected: Vec<Result<Session, RemoteError>>,
    ) -> Result<(), Failed> {
        let mut lost = None;
        for (node, session) in nodes.zip(connected) {
            match session {
                Ok(session) => self.members.push(Member {
                    node,
                    session,
                    pid: 0,
                    system_identifier: 0,
                    timeline: 0,
                    can_flush: false,
                    settle: String::new(),
                    locked_at: 0,
                    waited_ms: 0,
                }),
                Err(RemoteError::Stopped { .. }) => return Err(stopped().into()),
                Err(error) if !node.active => self.absent.push(error.to_string()),
                Err(error) => lost = lost.or(Some(error)),
            }
        }
        lost.map_or(Ok(()), |error| Err(error.into()))
    }

    fn run<W: Waiter>(
        &mut self,
        waiter: &mut W,
        name: &'static str,
        sql: &str,
        deadline: Deadline,
    ) -> Vec<Result<Reply, RemoteError>> {
        let mut sessions: Vec<&mut Session> =
            self.members.iter_mut().map(|member| &mut member.session).collect();
        run_all(waiter, &mut sessions, |_| Command::new(name, sql), deadline)
    }

    /// Begins the transactions.  An inactive node that cannot (it may not even have the tables) is
    /// noted and left out.
    fn warm_up<W: Waiter>(
        &mut self,
        waiter: &mut W,
        sql: &str,
        deadline: Deadline,
    ) -> Result<(), Failed> {
        let replies = self.run(waiter, "begin of the fence", sql, deadline);
        let members = std::mem::take(&mut self.members);
        for (mut member, reply) in members.into_iter().zip(replies) {
            match reply.and_then(|reply| member.note_begin(&reply)) {
                Ok(()) => self.members.push(member),
                Err(RemoteError::Stopped { .. }) => return Err(stopped().into()),
                Err(error) if !member.node.active => self.absent.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Locks all at once, one round trip each; the slowest node and what it took.
    fn lock<W: Waiter>(
        &mut self,
        waiter: &mut W,
        lock_timeout_ms: i32,
    ) -> Result<Option<(String, i64)>, Failed> {
        let bound = i64::from(lock_timeout_ms) + 2 * statements::STATEMENT_GRACE_MS;
        let deadline = Deadline::after(waiter, Duration::from_millis(bound as u64));
        let commands: Vec<String> =
            self.members.iter().map(|member| statements::lock(&member.settle)).collect();
        let mut sessions: Vec<&mut Session> =
            self.members.iter_mut().map(|member| &mut member.session).collect();
        let lock = |index: usize| Command::new("lock of the fence", commands[index].as_str());
        let replies = run_all(waiter, &mut sessions, lock, deadline);
        let mut refused = Vec::new();
        let mut final_error = None;
        for (index, reply) in replies.into_iter().enumerate() {
            let noted = reply.and_then(|reply| self.members[index].note_lock(&reply));
            match noted {
                Ok(()) => {}
                Err(RemoteError::Stopped { .. }) => return Err(stopped().into()),
                Err(error) if is_passing_remote(&error) => refused.push((index, error)),
                Err(error) => final_error = final_error.or(Some(error)),
            }
        }
        if let Some(error) = final_error {
            return Err(error.into());
        }
        if let Some((_, first)) = refused.first() {
            let what = first.to_string();
            let blockers = self.blockers(waiter, &refused);
            return Err(Failed::ForNow { what, blockers });
        }
        let slowest = self.members.iter().max_by_key(|member| member.waited_ms);
        Ok(slowest.map(|member| (member.node.label().to_string(), member.waited_ms)))
    }

    /// Who stood in the way on the nodes that did not give their lock.  What was held is let go first.
    fn blockers<W: Waiter>(
        &mut self,
        waiter: &mut W,
        refused: &[(usize, RemoteError)],
    ) -> Vec<String> {
        let deadline = Deadline::after(waiter, Duration::from_secs(2));
        for result in self.run(waiter, "rollback", statements::ROLLBACK, deadline) {
            // A node that does not answer here loses its session, and with it its locks.
            drop(result);
        }
        let mut blockers = Vec::new();
        for (index, _) in refused {
            let member = &mut self.members[*index];
            let look = Command::new("look for blockers", statements::BLOCKERS);
            let Ok(reply) = member.session.run(waiter, look, deadline) else { continue };
            let Ok(set) = reply.last_set() else { continue };
            for row in 0..set.rows.len() {
                let text = |column| set.value(row, column).unwrap_or_default();
                let number = |column| text(column).parse::<i64>().unwrap_or_default();
                blockers.push(describe_blocker(
                    &member.node.label().to_string(),
                    number("pid") as i32,
                    text("usename"),
                    number("age"),
                    text("what"),
                ));
            }
        }
        blockers
    }

    /// Brings every node's WAL to disk; the positions, in the members' order.
    fn flush<W: Waiter>(&mut self, waiter: &mut W, deadline: Deadline) -> Result<Vec<u64>, Failed> {
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
        let _descriptors = ReservedDescriptors::acquire(targets.len())
            .ok_or(FenceError::NoDescriptors { count: targets.len() })?;
        let mut helpers = connect_all(waiter, &targets, deadline)
            .into_iter()
            .collect::<Result<Vec<Session>, RemoteError>>()?;
        let by_commit: Vec<&mut Session> = helpers.iter_mut().collect();
        let mut helpers = by_commit.into_iter();
        let flush = statements::flush();
        let flush_by_commit = statements::flush_by_commit();
        let mut commands = Vec::with_capacity(self.members.len());
        let mut sessions: Vec<&mut Session> = Vec::with_capacity(self.members.len());
        for member in &mut self.members {
            if member.can_flush {
                sessions.push(&mut member.session);
                commands.push(flush.as_str());
            } else if let Some(helper) = helpers.next() {
                sessions.push(helper);
                commands.push(flush_by_commit.as_str());
            }
        }
        let flush = |index: usize| Command::new("flush of the WAL", commands[index]);
        let replies = run_all(waiter, &mut sessions, flush, deadline);
        self.members
            .iter_mut()
            .zip(replies)
            .map(|(member, reply)| {
                let reply = reply.map_err(|error| match error {
                    RemoteError::Stopped { .. } => stopped(),
                    other => other.into(),
                })?;
                member.note_flush(&reply).map_err(FenceError::from)
            })
            .collect::<Result<Vec<u64>, FenceError>>()
            .map_err(Failed::from)
    }

    /// The sentence that names the nodes which do not take part.
    fn warning(&self) -> String {
        if self.absent.is_empty() {
            return String::new();
        }
        format!(
            "inactive nodes that do not answer are not under the backup block: {}",
            self.absent.join("; ")
        )
    }
}

impl Member {
    fn note_begin(&mut self, reply: &Reply) -> Result<(), RemoteError> {
        let shown = |column: &str| {
            reply.sets.iter().find_map(|set| set.value(0, column)).map(str::to_owned)
        };
        let version = shown("server_version_num").and_then(|text| text.parse().ok());
        let (Some(version), Some(deadlock_timeout)) = (version, shown("deadlock_timeout")) else {
            return Err(reply.unexpected("no version or deadlock timeout"));
        };
        self.settle = statements::settle(version, &deadlock_timeout);
        let set = reply.last_set()?;
        let Some(pid) = set.value(0, "pid").and_then(|text| text.parse().ok()) else {
            return Err(reply.unexpected("no process"));
        };
        self.pid = pid;
        self.session.set_server_pid(pid);
        self.can_flush = set.value(0, "can_flush") == Some("t");
        Ok(())
    }

    /// The position up to which the node has flushed; the node's identity is noted.
    fn note_flush(&mut self, reply: &Reply) -> Result<u64, RemoteError> {
        let set = reply.last_set()?;
        let number = |column| set.value(0, column).and_then(|text| text.parse::<i64>().ok());
        // SQL has no unsigned numbers: the upper half of the identifiers shows as negative.
        let (Some(identifier), Some(timeline)) = (number("system_identifier"), number("timeline"))
        else {
            return Err(reply.unexpected("no system identifier or timeline"));
        };
        self.system_identifier = identifier as u64;
        self.timeline = timeline as u32;
        set.value(0, "lsn").and_then(parse_lsn).ok_or_else(|| reply.unexpected("no WAL position"))
    }

    fn note_lock(&mut self, reply: &Reply) -> Result<(), RemoteError> {
        let set = reply.last_set()?;
        let seconds = |column| set.value(0, column).and_then(|text| text.parse::<f64>().ok());
        let (Some(locked_at), Some(waited)) = (seconds("locked_at"), seconds("waited")) else {
            return Err(reply.unexpected("no time of the lock"));
        };
        self.locked_at = (locked_at * 1e6) as i64 - POSTGRES_EPOCH_US;
        self.waited_ms = (waited * 1e3) as i64;
        Ok(())
    }
}

/// 2000-01-01, where PostgreSQL's clock starts, in microseconds of the Unix clock.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// `16/B374D848` as a number.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let high = u64::from(u32::from_str_radix(high, 16).ok()?);
    let low = u64::from(u32::from_str_radix(low, 16).ok()?);
    Some(high << 32 | low)
}

fn is_passing_remote(error: &RemoteError) -> bool {
    match error {
        RemoteError::Timeout { .. } => true,
        other => other.sqlstate().and_then(crate::errors::parse_sqlstate).is_some_and(is_passing),
    }
}

/// Has every node finish the two-phase commits that were left in doubt: a metadata change among them
/// keeps its locks and would hold the fence off for ever.  What fails here is only logged: the next
/// attempt says what is in the way.
fn recover_in_doubt<W: Waiter>(
    waiter: &mut W,
    block: &Block,
    deadline: Deadline,
) -> Result<(), FenceError> {
    let connect_timeout = Duration::from_millis(block.terms.connect_timeout_ms as u64);
    let dialer = Dialer {
        role: pg_sys::Oid::from(block.terms.owner),
        application_name: HELPER_NAME.to_owned(),
        connect_timeout,
    };
    let reading = Transaction::begin();
    let targets = reading.with_latest_snapshot(|| -> Result<_, FenceError> {
        let nodes = catalog::nodes()?;
        let access = Access::read(dialer)?;
        let mut targets = vec![access.loopback()?];
        for node in remote_nodes(&nodes) {
            targets.push(access.target(node.label())?);
        }
        Ok(targets)
    })?;
    drop(reading);
    let Some(_descriptors) = ReservedDescriptors::acquire(targets.len()) else {
        return Ok(());
    };
    let deadline = Deadline::after(waiter, connect_timeout).earlier(deadline);
    let mut sessions = Vec::new();
    for session in connect_all(waiter, &targets, deadline) {
        match session {
            Ok(session) => sessions.push(session),
            Err(RemoteError::Stopped { .. }) => return Err(stopped()),
            Err(error) => {
                elog::log(&format!("citus_fence: no recovery before the next attempt: {error}"))
            }
        }
    }
    let mut sessions: Vec<&mut Session> = sessions.iter_mut().collect();
    let sql = statements::recover();
    let recover = |_| Command::new("recovery of prepared transactions", sql.as_str());
    for reply in run_all(waiter, &mut sessions, recover, deadline) {
        match reply {
            Ok(_) => {}
            Err(RemoteError::Stopped { .. }) => return Err(stopped()),
            Err(error) => elog::log(&format!("citus_fence: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse_lsn;

    #[test]
    fn positions_are_read_as_the_server_writes_them() {
        assert_eq!(parse_lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(parse_lsn("0/0"), Some(0));
        assert_eq!(parse_lsn("16B374D848"), None);
        assert_eq!(parse_lsn("1/100000000"), None);
    }
}
