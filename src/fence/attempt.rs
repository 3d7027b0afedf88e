//! One attempt at the lock plan: from a list of nodes to locks that are held on all of them.
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
//!
//! In mode `all` the gates are closed before: the clients' on this node and on all others, then the
//! internal ones.  A client's transaction holds its own gate to the end of its last COMMIT PREPARED, so
//! once the clients' gates are closed everything that clients had begun to write is over, and nothing in
//! that can be waiting for an internal gate any more: the internal gates can be closed too.  Only then
//! come the tables' locks, which a writer on its way through a gate asks for as well.
//!
//! Locks on several nodes can form a cycle with writers that no one node sees, so every wait is
//! bounded by `citus_fence.lock_timeout`; an attempt that fails lets everything go, has the nodes
//! finish what they left in doubt, and begins again.
//!
//! What is done on this node stands behind [`Home`], so that tests can run the plan against scripted
//! nodes.  Whatever the attempt ends with, the locks it has are in the [`Party`] and in the `Home`;
//! the caller lets go of both.

use std::time::Duration;

use super::error::FenceError;
use super::party::Party;
use super::state::Mode;
use super::statements;
use crate::citus::Node;
use remote::{Connecting, Deadline, Pq, Waiter};

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failed {
    /// The waiter was told to stop.
    Stopped,
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

/// Longest time that an attempt keeps some gates closed while it waits for others.
pub const LONGEST_GATE_LOCK: Duration = Duration::from_secs(1);

/// What is closed on all nodes before anything else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The gate that clients' transactions pass.
    ClientGate,
    /// The gate that sessions between nodes pass.
    InternalGate,
    /// The catalog tables.
    Tables,
}

impl Mode {
    /// What is closed, in order.
    fn barriers(self) -> &'static [Barrier] {
        match self {
            Mode::TwoPhase => &[Barrier::Tables],
            Mode::All => &[Barrier::ClientGate, Barrier::InternalGate, Barrier::Tables],
        }
    }

    /// Longest time for all locks of an attempt.  A reader that turns writer, and DDL over two nodes, can
    /// close a cycle through a gate that is closed on some nodes, and no search for deadlocks sees it.
    fn longest_lock_timeout(self) -> Duration {
        match self {
            Mode::TwoPhase => Duration::MAX,
            Mode::All => LONGEST_GATE_LOCK,
        }
    }
}

/// What an attempt does on this node.
pub trait Home {
    /// Makes room for so many connections, until the end of the fence.
    fn reserve(&mut self, connections: usize) -> Result<(), Failed>;
    /// Begins the local transaction.
    fn begin(&mut self);
    /// Takes the local locks of a barrier, all of them within `bound`.
    fn lock(&mut self, barrier: Barrier, bound: Duration) -> Result<(), Failed>;
    /// Lets go of them.
    fn let_go(&mut self);
    /// Whether the list of nodes is still the one that the attempt began with.
    fn nodes_are_the_same(&mut self) -> Result<bool, Failed>;
    /// Brings this node's WAL to disk.
    fn flush(&mut self);
}

/// The bounds of an attempt.
pub struct Bounds {
    /// Whose writes are held back.
    pub mode: Mode,
    /// For all attempts together.
    pub deadline: Deadline,
    /// For connecting and beginning.
    pub connect_timeout: Duration,
    /// For all locks together: writers may wait behind each of them.
    pub lock_timeout: Duration,
    /// After which a node that hears nothing more ends a hold by itself, in milliseconds.  Until the hold
    /// begins it is what is left of `deadline`: nobody is to wait longer for a start that has failed.
    pub idle_timeout_ms: i64,
}

impl Bounds {
    /// After which a node that hears nothing more of an attempt ends it by itself.
    fn starting_timeout_ms(&self, waiter: &impl Waiter) -> i64 {
        let left_ms = self.deadline.remaining(waiter).as_millis() as i64;
        left_ms.saturating_add(statements::IDLE_GRACE_MS).min(self.idle_timeout_ms)
    }
}

/// How an attempt went.
#[derive(Debug)]
pub struct Story {
    /// Connecting, beginning the transactions and warming the sessions up.
    pub beginning: Duration,
    /// From the first lock asked for to the last lock held: what writers can have been made to wait.
    pub locking: Duration,
    /// Reading the list again and flushing.
    pub flushing: Duration,
    /// The node that took longest to give its lock, and how long.
    pub slowest: Option<(String, i64)>,
}

/// Takes the locks on `home` and on all `nodes`, which are being connected to, in the same order.
pub fn attempt<C: Pq, W: Waiter>(
    waiter: &mut W,
    home: &mut impl Home,
    party: &mut Party<C>,
    nodes: &[Node],
    connecting: Connecting<C>,
    bounds: &Bounds,
) -> Result<Story, Failed> {
    let began = waiter.now();
    let lock_timeout = bounds
        .lock_timeout
        .min(bounds.mode.longest_lock_timeout())
        .min(bounds.deadline.remaining(waiter))
        .clamp(Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));
    let begin =
        statements::begin(lock_timeout.as_millis() as i32, bounds.starting_timeout_ms(waiter));
    let begin_by = Deadline::after(waiter, bounds.connect_timeout).earlier(bounds.deadline);
    party.begin(waiter, nodes, connecting, &begin, begin_by)?;
    if bounds.mode == Mode::All {
        party.require_gates()?;
    }
    home.begin();
    let warm_at = waiter.now();

    let lock_by = Deadline::after(waiter, lock_timeout).earlier(bounds.deadline);
    for barrier in bounds.mode.barriers() {
        home.lock(*barrier, lock_by.remaining(waiter))?;
        if let Err(refused) = party.lock(waiter, *barrier, lock_by)? {
            // First of all, nobody is to wait for this attempt any more.
            home.let_go();
            let what = refused.first().map_or_else(String::new, |(_, error)| error.to_string());
            let blockers = party.look_for_blockers(waiter, &refused);
            return Err(Failed::ForNow { what, blockers });
        }
    }
    let locked_at = waiter.now();

    if !home.nodes_are_the_same()? {
        let what = FenceError::NodesChanged.to_string();
        return Err(Failed::ForNow { what, blockers: vec![] });
    }
    home.reserve(party.helpers_to_flush())?;
    let flush_by =
        Deadline::after(waiter, Duration::from_millis(statements::STATEMENT_GRACE_MS as u64));
    party.flush(waiter, bounds.idle_timeout_ms, flush_by)?;
    home.flush();
    Ok(Story {
        beginning: warm_at.saturating_sub(began),
        locking: locked_at.saturating_sub(warm_at),
        flushing: waiter.now().saturating_sub(locked_at),
        slowest: party.slowest(),
    })
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
