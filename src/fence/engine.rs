//! One attempt: a list of steps, run over all nodes, from connections to what they hold in the end.
//!
//! Connect to all and warm up first, here too; nobody waits for a cold session.  Then the steps, in the order of the list, on all
//! nodes at once; where this node has a part of its own ([`Home`]), a barrier is closed there first, and its WAL is
//! flushed last.
//!
//! Locks on several nodes can form a cycle with writers that no one node sees, so one bound is on all waits of
//! an attempt together; an attempt that fails lets everything go, has the nodes finish what they left in
//! doubt, and begins again ([`super::retry`]).
//!
//! What is done on this node stands behind [`Home`], so that tests can run a list against scripted nodes.
//! Whatever the attempt ends with, what it has taken is in the [`Party`] and in the `Home`; the caller lets go
//! of both.

use std::time::Duration;

use remote::{Begun, Connecting, Deadline, Pq, Session, Target, Waiter};

use super::error::{Failed, NODES_CHANGED, Reason};
use super::party::Party;
use super::recovery::{Helpers, Stopped};
use super::statements;
use super::steps::{Barrier, Step, close_gates, longest_lock_timeout};
use crate::citus::Node;
use crate::citus::identity::Who;

/// What an attempt does on this node itself.  Where this node takes part over a session, like any other, that is
/// nothing but to look at the catalog.
pub trait Home {
    /// Begins its part, within `bound`, and has what it will need at hand: nobody is to wait under a lock for that.
    fn begin(&mut self, bound: Duration) -> Result<(), Failed>;
    /// Closes a barrier, within `bound`.
    fn close(&mut self, barrier: Barrier, bound: Duration) -> Result<(), Failed>;
    /// What this node is called and which server it is, where it takes part by itself and is not among the others.
    fn who(&self) -> Option<(String, Who)>;
    /// Makes sure that this server is who it takes itself for, before it holds anybody back, by what was answered to
    /// the question of [`Others::connecting`] that is beside the nodes'; a session that is not needed any more.
    fn prove<C: Pq, W: Waiter>(
        &mut self,
        waiter: &mut W,
        answer: Option<Begun<C>>,
        by: Deadline,
    ) -> Result<Option<Session<C>>, Failed>;
    /// Lets go of what it holds.
    fn let_go(&mut self);
    /// Whether the list of nodes is still the one that the attempt began with.
    fn nodes_are_the_same(&mut self) -> Result<bool, Failed>;
    /// Brings this node's WAL to disk.
    fn flush(&mut self);
    /// Writes a line to this node's log.
    fn log(&mut self, line: &str);
}

/// The nodes that take part over sessions, which have been asked for.
pub struct Others<'a, C: Pq> {
    /// Rows of the catalog.
    pub nodes: &'a [Node],
    /// Their connections, in the same order; after them perhaps one with a question of its own, for [`Home::prove`].
    pub connecting: Connecting<C>,
    /// Version of this extension here.
    pub extension: Option<&'a str>,
    /// Whether Citus itself is there, and not only its tables.
    pub is_citus: bool,
    /// Where those are reached that finish what is in doubt, if a step has them do so.
    pub in_doubt: &'a [Target],
}

/// The bounds of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For all attempts together.
    pub deadline: Deadline,
    /// For connecting and beginning.
    pub connect_timeout: Duration,
    /// For all waits of the steps together: writers may wait behind each of them.
    pub lock_timeout: Duration,
    /// After which a node that hears nothing more ends its part by itself.
    pub silence: Silence,
}

/// After which a node that hears nothing more ends its part by itself.
#[derive(Clone, Copy, Debug)]
pub enum Silence {
    /// What the attempt holds, it holds on: until the flush a node waits for what is left of the time for all
    /// attempts, for nobody is to wait longer for a start that has failed; from then on so long.
    HoldMs(i64),
    /// What the attempt holds is used at once: so long, from when all have begun.
    AttemptMs(i64),
}

impl Bounds {
    /// By when nodes are to be connected that are asked now.
    fn connect_by(&self, waiter: &impl Waiter) -> Deadline {
        Deadline::after(waiter, self.connect_timeout).earlier(self.deadline)
    }

    /// For a node that has just begun, and waits for the others to begin.
    fn beginning_ms(&self, waiter: &impl Waiter, begin_by: Deadline) -> i64 {
        let ms = |deadline: Deadline| deadline.remaining(waiter).as_millis() as i64;
        match self.silence {
            Silence::HoldMs(hold_ms) => {
                ms(self.deadline).saturating_add(statements::IDLE_GRACE_MS).min(hold_ms)
            }
            Silence::AttemptMs(attempt_ms) => attempt_ms.saturating_add(ms(begin_by)),
        }
    }

    /// For a node that holds.
    fn hold_ms(&self) -> i64 {
        match self.silence {
            Silence::HoldMs(time_ms) | Silence::AttemptMs(time_ms) => time_ms,
        }
    }
}

/// How an attempt went.
#[derive(Debug)]
pub struct Story {
    /// Connecting, beginning the transactions and warming the sessions up.
    pub beginning: Duration,
    /// From the first lock asked for to the last lock held: what writers can have been made to wait.
    pub locking: Duration,
    /// The steps after that.
    pub finishing: Duration,
    /// The node that took longest to give its lock, and how long.
    pub slowest: Option<(String, i64)>,
}

/// Runs the steps on `home` and on all `others`.
pub fn attempt<C: Pq, W: Waiter>(
    waiter: &mut W,
    steps: &[Step],
    home: &mut impl Home,
    party: &mut Party<C>,
    others: Others<'_, C>,
    bounds: &Bounds,
) -> Result<Story, Failed> {
    let began = waiter.now();
    let lock_timeout = bounds
        .lock_timeout
        .min(longest_lock_timeout(steps))
        .min(bounds.deadline.remaining(waiter))
        .clamp(Duration::from_millis(1), Duration::from_millis(i32::MAX as u64));
    // Before the first barrier is closed: nobody is to wait for a connection that does not come.
    let mut helpers = Helpers::<C>::none();
    if steps.contains(&Step::FinishInDoubt) {
        let helpers_by = bounds.connect_by(waiter);
        helpers = Helpers::connect(waiter, others.in_doubt, helpers_by, |line| home.log(line))?;
    }
    // While the nodes make their sessions.
    home.begin(lock_timeout)?;
    let begin_by = bounds.connect_by(waiter);
    let begin = statements::begin(
        lock_timeout.as_millis() as i32,
        bounds.beginning_ms(waiter, begin_by),
        others.is_citus,
    );
    let who = (others.nodes, others.extension);
    let answer = party.begin(waiter, who, others.connecting, &begin, begin_by)?;
    party.must_be_different(home.who().as_ref())?;
    // A node that does not answer may have taken all of that time.
    let prove_by = bounds.connect_by(waiter);
    party.spare(home.prove(waiter, answer, prove_by)?);
    if close_gates(steps) {
        party.require_gates()?;
    }
    if let Silence::AttemptMs(silence_ms) = bounds.silence {
        let settle_by = bounds.connect_by(waiter);
        party.set_idle_timeout(waiter, silence_ms, settle_by)?;
    }

    let warm_at = waiter.now();
    let mut locked_at = warm_at;
    // One bound for all that happens while others may wait.
    let lock_by = Deadline::after(waiter, lock_timeout).earlier(bounds.deadline);
    for step in steps {
        match step {
            Step::Close(barrier) => {
                home.close(*barrier, lock_by.remaining(waiter))?;
                close(waiter, home, party, *barrier, lock_by)?;
                locked_at = waiter.now();
            }
            Step::NobodyInSteps => nobody_in_steps(waiter, party, lock_by)?,
            Step::FinishInDoubt => finish_in_doubt(waiter, home, &mut helpers, lock_by)?,
            Step::SameNodes => {
                if !home.nodes_are_the_same()? {
                    return Err(Failed::because(NODES_CHANGED));
                }
            }
            Step::Flush => {
                let bound = Duration::from_millis(statements::STATEMENT_GRACE_MS as u64);
                let flush_by = Deadline::after(waiter, bound);
                party.flush(waiter, bounds.hold_ms(), flush_by)?;
                home.flush();
            }
        }
    }
    Ok(Story {
        beginning: warm_at.saturating_sub(began),
        locking: locked_at.saturating_sub(warm_at),
        finishing: waiter.now().saturating_sub(locked_at),
        slowest: party.slowest(),
    })
}

/// Closes a barrier on all others at once, or tells who was in the way.
fn close<C: Pq, W: Waiter>(
    waiter: &mut W,
    home: &mut impl Home,
    party: &mut Party<C>,
    barrier: Barrier,
    lock_by: Deadline,
) -> Result<(), Failed> {
    let Err(refused) = party.lock(waiter, barrier, lock_by)? else {
        return Ok(());
    };
    // First of all, nobody is to wait for this attempt any more.
    home.let_go();
    let what = refused.first().map_or_else(String::new, |(_, error)| error.to_string());
    let blockers = party.look_for_blockers(waiter, &refused);
    let tells = !blockers.is_empty();
    Err(Failed::ForNow(Reason { what, blockers, tells }))
}

/// The next step of what commits on its way waits at a gate that is closed; so it is not waited for.
fn nobody_in_steps<C: Pq, W: Waiter>(
    waiter: &mut W,
    party: &mut Party<C>,
    by: Deadline,
) -> Result<(), Failed> {
    let blockers = party.in_steps(waiter, by)?;
    if blockers.is_empty() {
        return Ok(());
    }
    let what = "a command that commits on its way is under way".to_owned();
    Err(Failed::ForNow(Reason { what, blockers, tells: true }))
}

/// A node that does not even say how its recovery ended may still be at it.
fn finish_in_doubt<C: Pq, W: Waiter>(
    waiter: &mut W,
    home: &mut impl Home,
    helpers: &mut Helpers<C>,
    by: Deadline,
) -> Result<(), Failed> {
    match helpers.finish_in_doubt(waiter, by, |line| home.log(line))? {
        None => Ok(()),
        Some(error) => Err(Failed::for_now(error.to_string())),
    }
}

impl From<Stopped> for Failed {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
pub mod tests;
