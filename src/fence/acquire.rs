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
use super::party::{LockFailure, Party};
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
    Command, Deadline, RemoteError, Session, Target, WaitEnd, Waiter, connect_all, run_all,
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
pub enum Failed {
    /// Another attempt would fail the same way.
    ForGood(FenceError),
    /// Somebody was in the way, or the cluster changed: let go and try again.
    ForNow {
        /// What it ended with.
        what: String,
        /// Who was in the way.
        blockers: Vec<String>,
    },
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
pub fn stopped() -> FenceError {
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
    local.set_local(c"deadlock_timeout", &local_deadlock_timeout());
    let warming = began.elapsed() - connecting;
    let locking = Instant::now();
    // One bound for all locks of the attempt: writers may wait behind each of them.
    let lock_by = Deadline::after(waiter, Duration::from_millis(lock_timeout_ms as u64));
    if let Err(error) = lock_here(&local, waiter, lock_by) {
        drop(local);
        return Err(blocked_here(error));
    }
    let local_locked_at = now();
    let slowest = match party.lock(waiter, lock_by) {
        Ok(slowest) => slowest,
        Err(LockFailure::ForGood(error)) => return Err(error.into()),
        Err(LockFailure::Refused(refused)) => {
            // First of all, nobody is to wait for this attempt any more.
            drop(local);
            let what = refused.first().map_or_else(String::new, |(_, error)| error.to_string());
            let blockers = party.let_go(waiter, &refused);
            return Err(Failed::ForNow { what, blockers });
        }
    };
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
fn lock_here<W: Waiter>(local: &Transaction, waiter: &W, lock_by: Deadline) -> Result<(), Caught> {
    let lock = |relation| {
        let left_ms = lock_by.remaining(waiter).as_millis().max(1);
        local.set_local(c"lock_timeout", &left_ms.to_string());
        lock::lock_relation_exclusive(relation);
    };
    worker::catch(|| {
        interrupts::cancellable(|| {
            let left_ms = lock_by.remaining(waiter).as_millis().max(1);
            local.set_local(c"lock_timeout", &left_ms.to_string());
            if let Some(extension) = lock::extension(c"citus_fence") {
                lock::keep_extension(extension);
            }
            let relations = catalog::fence_relations()?;
            lock(relations.node);
            lock(relations.partition);
            lock(relations.transaction);
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
pub fn is_passing(sqlstate: pgrx::PgSqlErrorCode) -> bool {
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
        for row in client.select(statements::local_blockers(), None, &[])? {
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

pub fn describe_blocker(node: &str, pid: i32, user: &str, age: i64, what: &str) -> String {
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
