//! How a block's worker gets its fence: attempt after attempt, until one holds or the time is over.
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
//! In mode `all` the gates are closed before: the clients' on this node and on all others, then the
//! internal ones.  A client's transaction holds its own gate to the end of its last COMMIT PREPARED, so
//! once the clients' gates are closed everything that clients had begun to write is over, and nothing in
//! that can be waiting for an internal gate any more: the internal gates can be closed too.  Only then
//! come the tables' locks, which a writer on its way through a gate asks for as well.

use std::time::Duration;

use pgrx::pg_sys;
use remote::{Connecting, Deadline, RemoteError, Waiter};

use super::control::{NodeRow, Owner};
use super::error::BlockError;
use super::handover;
use super::home::ThisNode;
use super::state::{Block, Mode, Terms, Token};
use crate::citus::myself::Proof;
use crate::citus::{Dialer, HELPER_NAME, Roster};
use crate::fence::blockers::blocked_here;
use crate::fence::engine::{Bounds, Others, Silence, Story, attempt};
use crate::fence::error::{Failed, FenceError, Reason};
use crate::fence::let_go::let_go;
use crate::fence::party::Party;
use crate::fence::recovery::finish_in_doubt;
use crate::fence::retry::{GaveUp, Limit, Trial, until_held};
use crate::fence::statements;
use crate::fence::steps::{Barrier, Step};
use crate::pg::elog;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::interrupts;
use crate::pg::wait::BackendWaiter;
use crate::pg::worker::Transaction;

impl Mode {
    /// What has to hold before a block of this mode is active, in order.
    pub const fn steps(self) -> &'static [Step] {
        use Barrier::{ClientGate, InternalGate, Tables};
        use Step::{Close, Flush, SameNodes};
        match self {
            Mode::TwoPhase => &[Close(Tables), SameNodes, Flush],
            Mode::All => &[Close(ClientGate), Close(InternalGate), Close(Tables), SameNodes, Flush],
        }
    }
}

/// This node's part of a fence that is held, and what there is to tell of the whole.  The other nodes'
/// part is in the [`Party`].  Dropping it aborts the local transaction.
pub struct HeldFence {
    /// Holds the local locks.
    _local: Transaction,
    /// The manifest: this node first, then the party's members in their order.
    pub rows: Vec<NodeRow>,
    /// What the requestor should know, or nothing.
    pub warning: String,
    /// How the attempt went that holds.
    pub story: Story,
    /// The nodes, this one first, each with the address that it was reached at.
    pub roster: Roster,
    _descriptors: ReservedDescriptors,
}

/// Takes the fence, in as many attempts as fit into the block's terms; how many it took.  After an error the
/// caller lets go of what the party still holds.  Nodes that did not confirm the end of an attempt are added to
/// `unconfirmed`.
pub fn acquire(
    owner: &Owner,
    party: &mut Party,
    block: &Block,
    lead: Option<Lead>,
    unconfirmed: &mut Vec<RemoteError>,
) -> Result<(HeldFence, u32), BlockError> {
    let mut waiter = BackendWaiter::new(|| owner.release_asked() || interrupts::terminated());
    let limit = start_limit(&waiter, &block.terms);
    let terms = &block.terms;
    let is_proved = false;
    let mut attempts = Attempts { owner, party, terms, lead, is_proved, limit, unconfirmed };
    match until_held(&mut waiter, &mut attempts, limit) {
        Ok(held) => Ok((held.what, held.attempts)),
        Err(GaveUp::Stopped) => Err(stopped()),
        Err(GaveUp::NotHeld(Reason { what: last, blockers, .. })) => {
            Err(BlockError::LocksNotHeld { after_ms: limit.ms(), last, blockers })
        }
        Err(GaveUp::TooLittleTime(error)) => {
            Err(BlockError::TooLittleTime { limit_ms: limit.ms(), last: error.to_string() })
        }
        Err(GaveUp::ForGood(error)) => Err(error.into()),
    }
}

/// Longest time that a start may take, in milliseconds.
fn start_limit_ms(terms: &Terms) -> i32 {
    terms.acquire_timeout_ms.min(terms.timeout_ms)
}

fn start_limit(waiter: &impl Waiter, terms: &Terms) -> Limit {
    Limit::from_now(waiter, Duration::from_millis(start_limit_ms(terms) as u64))
}

/// After which a node that hears nothing more has ended its part of a failed start by itself.
pub fn longest_leftover_ms(block: &Block, party: &Party) -> i64 {
    let terms = &block.terms;
    let limit_ms = if party.hold_begun() { terms.timeout_ms } else { start_limit_ms(terms) };
    i64::from(limit_ms) + statements::IDLE_GRACE_MS
}

/// Why the waiter stopped.
fn stopped() -> BlockError {
    if interrupts::terminated() {
        BlockError::Terminated
    } else {
        BlockError::ReleasedWhileStarting
    }
}

/// The nodes of an attempt, and its connections, which have been asked for.
pub struct Lead {
    roster: Roster,
    connecting: Connecting,
    /// That this server is the coordinator, where that has not been proved before.
    proof: Option<Proof>,
    descriptors: ReservedDescriptors,
}

impl Lead {
    /// Asks for them.
    fn start(
        waiter: &impl Waiter,
        mut roster: Roster,
        deadline: Deadline,
        is_proved: bool,
    ) -> Result<Self, FenceError> {
        // For each node the session that holds, and one that helps: proves, flushes, recovers, looks for
        // deadlocks or cancels.
        let count = 2 * roster.nodes().len();
        let descriptors =
            ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
        let proof = (!is_proved).then(|| Proof::of(&roster));
        let question = proof.as_ref().and_then(Proof::question);
        let others = roster.other_targets();
        let connecting = Connecting::start_with(waiter, others, question, deadline);
        // While the nodes fork.  The search for deadlocks goes there under the fence.
        if roster.is_citus() {
            roster.find_own_address();
        }
        Ok(Self { roster, connecting, proof, descriptors })
    }

    /// The first attempt's, of what the requestor knows, before the worker has a session of its own.
    pub fn first(owner: &Owner, token: Token, terms: &Terms) -> Option<Self> {
        let mut waiter = BackendWaiter::new(|| owner.release_asked() || interrupts::terminated());
        let known = handover::take(token)?;
        let deadline = start_limit(&waiter, terms).deadline;
        let mut lead = Self::start(&waiter, known, deadline, false).ok()?;
        lead.connecting.introduce(&mut waiter, INTRODUCTION);
        Some(lead)
    }
}

/// How long the worker puts its own session off for the nodes', which are begun meanwhile.  Whoever takes longer
/// only to be reached is waited for in any case, once this side is ready.
const INTRODUCTION: Duration = Duration::from_millis(10);

/// The attempts at one block's fence.
struct Attempts<'a> {
    owner: &'a Owner,
    party: &'a mut Party,
    terms: &'a Terms,
    lead: Option<Lead>,
    is_proved: bool,
    limit: Limit,
    unconfirmed: &'a mut Vec<RemoteError>,
}

impl<W: Waiter> Trial<W> for Attempts<'_> {
    type Held = HeldFence;
    const ATTEMPT: &'static str = "a backup block";

    /// On the nodes of the lead, or else on those that there are by now.
    fn attempt(&mut self, waiter: &mut W) -> Result<HeldFence, Failed> {
        let deadline = self.limit.deadline;
        let lead = match self.lead.take() {
            Some(lead) => lead,
            None => {
                let roster = self.read_bounded(waiter, || handover::read(self.terms))?;
                Lead::start(waiter, roster, deadline, self.is_proved)?
            }
        };
        let Lead { mut roster, connecting, proof, descriptors } = lead;
        let bounds = Bounds {
            deadline,
            connect_timeout: connect_timeout(self.terms),
            lock_timeout: Duration::from_millis(self.terms.lock_timeout_ms as u64),
            silence: Silence::HoldMs(i64::from(self.terms.timeout_ms) + statements::IDLE_GRACE_MS),
        };
        let mut home = ThisNode::new(self.owner, &roster, proof);
        let others = Others {
            nodes: roster.others(),
            connecting,
            extension: roster.extension(),
            is_citus: roster.is_citus(),
            in_doubt: &[],
        };
        let steps = self.terms.mode.steps();
        let story = attempt(waiter, steps, &mut home, self.party, others, &bounds);
        self.is_proved |= home.is_proved();
        let story = story?;

        let mut rows = vec![home.row()];
        let locked_at = home.locked_at();
        rows.extend(self.party.parts().map(|part| NodeRow::of_part(&part, locked_at)));
        let local = home.into_local()?;
        roster.keep_addresses(self.party.sessions().iter().map(|session| &**session));
        let warning = warning(self.party.absent());
        Ok(HeldFence { _local: local, rows, warning, story, roster, _descriptors: descriptors })
    }

    fn let_go(&mut self) -> Vec<RemoteError> {
        let silent = let_go(&mut BackendWaiter::new(|| false), self.party);
        *self.party = Party::default();
        self.unconfirmed.extend(silent.iter().cloned());
        silent
    }

    /// Has all nodes, this one among them, finish what they left in doubt.
    fn recover(&mut self, waiter: &mut W) -> Result<(), Failed> {
        // A copy of the coordinator would roll back what the original has prepared.
        if !self.is_proved {
            return Ok(());
        }
        let connect_timeout = connect_timeout(self.terms);
        let dialer = || Dialer {
            role: pg_sys::Oid::from(self.terms.owner),
            application_name: HELPER_NAME.to_owned(),
            connect_timeout,
        };
        let roster = match self.read_bounded(waiter, || Ok(Roster::read(dialer())?)) {
            Ok(roster) => roster,
            // Whoever keeps it from being read is in the way of the next attempt, too, which says so.
            Err(Failed::ForNow(reason)) => {
                elog::log(&format!(
                    "citus_fence: no recovery before the next attempt: {}",
                    reason.what
                ));
                return Ok(());
            }
            Err(failed) => return Err(failed),
        };
        let Some(_descriptors) = ReservedDescriptors::acquire(roster.nodes().len()) else {
            return Ok(());
        };
        let deadline = Deadline::after(waiter, connect_timeout).earlier(self.limit.deadline);
        Ok(finish_in_doubt(waiter, roster.targets(), deadline, elog::log)?)
    }
}

impl Attempts<'_> {
    /// Reads the catalog in a transaction that ends with it.  The one door for that: it waits no longer for
    /// locks than an attempt may, and a termination ends the wait.
    fn read_bounded<W: Waiter, T>(
        &self,
        waiter: &W,
        read: impl FnOnce() -> Result<T, FenceError>,
    ) -> Result<T, Failed> {
        let bound = Duration::from_millis(self.terms.lock_timeout_ms as u64)
            .min(self.limit.deadline.remaining(waiter));
        let reading = Transaction::begin();
        let result = reading.bounded(bound, || self.owner.release_asked(), read);
        drop(reading);
        match result {
            Ok(read) => Ok(read?),
            Err(report) => Err(blocked_here(|| self.owner.release_asked(), report)),
        }
    }
}

fn connect_timeout(terms: &Terms) -> Duration {
    Duration::from_millis(terms.connect_timeout_ms as u64)
}

/// The sentence that names the nodes which do not take part.
fn warning(absent: &[String]) -> String {
    if absent.is_empty() {
        return String::new();
    }
    format!(
        "inactive nodes that do not answer are not under the backup block: {}",
        absent.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::Mode;
    use crate::fence::engine::tests::{GATES, TABLES};

    #[test]
    fn the_lists_that_are_run_against_scripted_nodes_are_those_of_the_modes() {
        assert_eq!(Mode::TwoPhase.steps(), TABLES);
        assert_eq!(Mode::All.steps(), GATES);
    }
}
