//! While the fence is held: one wait over everything that can happen.
//!
//! The worker sleeps until its latch is set (a release, an errand, a signal), a socket stirs (a node
//! is lost), the deadline comes, or it is time to look for deadlocks.
//!
//! # Deadlocks
//!
//! Citus' maintenance daemon looks for distributed deadlocks *and* recovers two-phase commits, in one
//! process.  Under the fence it waits in the recovery, for our lock, and with it the search for
//! deadlocks stands still, on every node.  So this worker keeps one more session on each node, which
//! holds nothing, and has Citus' own search run there at Citus' own interval.  What it finds, it ends:
//! the victim is a user's transaction, as always, and the locks of the fence are no part of a cycle
//! that it can see, since nobody waits for a fence in a circle.  It begins one interval after the block: a
//! first search opens sessions from every node to every other, which a short block need not pay for.

use std::time::Duration;

use pgrx::pg_sys;

use super::HELPER_NAME;
use super::control::Owner;
use super::error::FenceError;
use super::party::{Party, parse_lsn};
use super::state::{Block, Errand, Failure};
use super::statements;
use crate::citus::{self, Access, Dialer};
use crate::pg::clock::now;
use crate::pg::elog;
use crate::pg::interrupts;
use crate::pg::wait::{BackendWaiter, monotonic_now};
use crate::pg::wal;
use crate::pg::worker::{self, Transaction};
use remote::{
    Command, Deadline, RemoteError, Session, SessionState, Target, Waiter, WatchEnd, connect_all,
    run_all, watch,
};

/// Why a hold ended in order.
pub enum End {
    /// Somebody asked.
    Asked,
    /// The deadline came.
    Expired,
}

/// Holds until somebody asks, the deadline comes, or the fence is lost.
pub fn hold(
    owner: &Owner,
    party: &mut Party,
    search: &mut DeadlockSearch,
) -> Result<End, FenceError> {
    let stirred = || {
        interrupts::terminated()
            || owner
                .read()
                .is_none_or(|block| block.release_asked || block.pending_errand().is_some())
    };
    let mut waiter = BackendWaiter::new(stirred);
    loop {
        worker::reload_settings();
        if interrupts::terminated() {
            return Err(FenceError::Terminated);
        }
        let Some(block) = owner.read() else {
            return Err(FenceError::WorkerVanished);
        };
        if block.release_asked {
            return Ok(End::Asked);
        }
        let now = now();
        if block.expired(now) {
            return Ok(End::Expired);
        }
        if let Some((number, errand)) = block.pending_errand() {
            run_errand(owner, party, &block, number, errand)?;
            continue;
        }
        let to_deadline = Duration::from_micros((block.expires_at - now).max(0) as u64);
        let timeout = to_deadline.min(search.due_in(&waiter));
        let mut sessions = party.sessions();
        let holders = sessions.len();
        sessions.extend(search.sessions());
        match watch(&mut waiter, &mut sessions, timeout) {
            WatchEnd::Quiet | WatchEnd::Stopped => {}
            WatchEnd::Lost { index, error } if index < holders => return Err(error.into()),
            WatchEnd::Lost { index, error } => search.lose(&waiter, index - holders, &error),
            WatchEnd::Answered { index, result } if index >= holders => search.note(&result),
            // A holder is only ever busy within run_all.
            WatchEnd::Answered { .. } => {}
        }
        search.run_if_due(&mut waiter);
    }
}

/// The sessions that look for deadlocks, a place per node, and when the next of them does.
pub struct DeadlockSearch {
    places: Vec<Place>,
    interval: Duration,
    next: Duration,
    turn: usize,
}

/// A node's session, or when to try for one again.
struct Place {
    target: Target,
    session: Option<Session>,
    retry_at: Duration,
}

impl DeadlockSearch {
    /// Knows whom to ask.  Without Citus, or where Citus' own search is switched off, there is nothing
    /// to do.  The catalog is looked at inside the local transaction.
    pub fn begin(party: &Party, _local: &Transaction, block: &Block) -> Self {
        let idle =
            Self { places: Vec::new(), interval: Duration::MAX, next: Duration::MAX, turn: 0 };
        let Some(interval) = citus_interval() else { return idle };
        let dialer = Dialer {
            role: pg_sys::Oid::from(block.terms.owner),
            application_name: HELPER_NAME.to_owned(),
            connect_timeout: CONNECT_BOUND,
        };
        if !citus::is_citus() {
            return idle;
        }
        let loopback = match Access::read(dialer).loopback() {
            Ok(loopback) => loopback,
            Err(error) => {
                elog::log(&format!("citus_fence: no deadlock detection under the block: {error}"));
                return idle;
            }
        };
        let others = party.targets().map(|mut target| {
            target.params.set("fallback_application_name", HELPER_NAME);
            target
        });
        let places = std::iter::once(loopback)
            .chain(others)
            .map(|target| Place { target, session: None, retry_at: Duration::ZERO })
            .collect();
        Self { places, interval, next: monotonic_now().saturating_add(interval), turn: 0 }
    }

    fn due_in<W: Waiter>(&self, waiter: &W) -> Duration {
        self.next.saturating_sub(waiter.now())
    }

    /// Starts the search of the next node in turn; nobody waits for its end here.
    ///
    /// One after the other: of a cycle between transactions that were begun on different nodes, each
    /// node only sees its own as one that it can end, and searches that run at once end them all.
    fn run_if_due<W: Waiter>(&mut self, waiter: &mut W) {
        if waiter.now() < self.next || self.places.is_empty() {
            return;
        }
        let pause = (self.interval / self.places.len() as u32).max(SHORTEST_TURN);
        self.next = waiter.now().saturating_add(pause);
        self.turn = (self.turn + 1) % self.places.len();
        let idle_ms = 3 * self.interval.as_millis() as i64 + statements::HELPER_IDLE_MS;
        let place = &mut self.places[self.turn];
        if place.session.is_none() && waiter.now() >= place.retry_at {
            place.connect(waiter);
        }
        // One that is still at its last search, or waits on a frozen node, misses its turn.
        if let Some(session) = &mut place.session
            && session.state() == SessionState::Idle
        {
            let sql = statements::check_deadlocks(session.transaction_status(), idle_ms);
            if let Err(error) = session.send(&Command::new("search for deadlocks", sql.as_str())) {
                place.lose(waiter, &error);
            }
        }
    }

    /// The sessions there are.
    fn sessions(&mut self) -> impl Iterator<Item = &mut Session> {
        self.places.iter_mut().filter_map(|place| place.session.as_mut())
    }

    fn note(&self, result: &Result<remote::Reply, RemoteError>) {
        if let Err(error) = result {
            elog::log(&format!("citus_fence: {error}"));
        }
    }

    /// The `index`-th of the sessions there are is gone.
    fn lose<W: Waiter>(&mut self, waiter: &W, index: usize, error: &RemoteError) {
        let place = self.places.iter_mut().filter(|place| place.session.is_some()).nth(index);
        if let Some(place) = place {
            place.lose(waiter, error);
        }
    }
}

impl Place {
    /// Tries for a session, briefly: the fence itself does not need it.
    fn connect<W: Waiter>(&mut self, waiter: &mut W) {
        let deadline = Deadline::after(waiter, CONNECT_BOUND);
        match connect_all(waiter, std::slice::from_ref(&self.target), deadline).pop() {
            Some(Ok(session)) => self.session = Some(session),
            Some(Err(RemoteError::Stopped { .. })) | None => {}
            Some(Err(error)) => self.lose(waiter, &error),
        }
    }

    fn lose<W: Waiter>(&mut self, waiter: &W, error: &RemoteError) {
        self.session = None;
        self.retry_at = waiter.now().saturating_add(RETRY);
        elog::log(&format!(
            "citus_fence: no deadlock detection on {} for the moment: {error}",
            self.target.node
        ));
    }
}

/// How long after its loss a session is tried for again.
const RETRY: Duration = Duration::from_secs(3);

/// Time between the searches of two nodes: long enough for a victim to be gone before the next looks.
const SHORTEST_TURN: Duration = Duration::from_millis(50);

/// Bound on connecting a session that the fence does not need.
const CONNECT_BOUND: Duration = Duration::from_millis(500);

/// How often Citus looks for distributed deadlocks; `None` where it does not.
fn citus_interval() -> Option<Duration> {
    let factor = crate::pg::guc::read_number("citus.distributed_deadlock_detection_factor")?;
    let deadlock_timeout_ms = crate::pg::guc::read_number("deadlock_timeout")?;
    (factor > 0.0).then(|| Duration::from_millis((factor * deadlock_timeout_ms).max(50.0) as u64))
}

/// Does what a caller asked for over the party's sessions.  An error means that the fence is lost; an
/// errand that merely failed is answered.
fn run_errand(
    owner: &Owner,
    party: &mut Party,
    block: &Block,
    number: u64,
    errand: Errand,
) -> Result<(), FenceError> {
    // Deaf to the letter box, which is what is being emptied, and to the release, which can wait for
    // the seconds an errand may take.
    let mut waiter = BackendWaiter::new(interrupts::terminated);
    let deadline =
        Deadline::after(&waiter, Duration::from_millis(statements::STATEMENT_GRACE_MS as u64));
    match errand {
        Errand::Extend(timeout_ms) => {
            let sql =
                statements::set_idle_timeout(i64::from(timeout_ms) + statements::IDLE_GRACE_MS);
            let extend = |_| Command::new("extension of the block", sql.as_str());
            for reply in run_all(&mut waiter, &mut party.sessions(), extend, deadline) {
                // A plain SET does not fail on a node that is well: whatever is wrong, a hold whose
                // own end is unknown is no hold.
                reply?;
            }
            let expires_at = now() + i64::from(timeout_ms) * 1000;
            owner.answer(number, Some(expires_at), Failure::NONE);
        }
        Errand::RestorePoint(name) => {
            let left_ms = (block.expires_at - now()) / 1000;
            let sql = statements::restore_point(
                name.as_str(),
                left_ms.max(1) + statements::IDLE_GRACE_MS,
            );
            let mut sessions = party.sessions();
            let write = |_| Command::new("restore point", sql.as_str());
            let replies = run_all(&mut waiter, &mut sessions, write, deadline);
            let mut positions = vec![wal::restore_point(name.as_str()).unwrap_or_default()];
            let mut failure = None;
            for (index, reply) in replies.into_iter().enumerate() {
                match reply {
                    Ok(reply) => {
                        let position = reply
                            .sets
                            .iter()
                            .find_map(|set| set.value(0, "lsn").and_then(parse_lsn));
                        positions.push(position.unwrap_or_default());
                    }
                    // The server refused; the subtransaction is undone and the locks stay.
                    Err(error @ RemoteError::Query { .. }) => {
                        let undo = Command::new("undo of an errand", statements::ERRAND_FAILED);
                        sessions[index].run(&mut waiter, undo, deadline)?;
                        positions.push(0);
                        failure = failure.or(Some(Failure::from(&FenceError::from(error))));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if failure.is_none() {
                owner.note_restore_point(&positions);
            }
            owner.answer(number, None, failure.unwrap_or(Failure::NONE));
        }
    }
    Ok(())
}
