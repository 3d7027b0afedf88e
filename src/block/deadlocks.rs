//! The search for distributed deadlocks while a block is held.
//!
//! Citus' maintenance daemon looks for distributed deadlocks *and* recovers two-phase commits, in one
//! process.  Under the fence it waits in the recovery, for our lock, and with it the search for
//! deadlocks stands still, on every node.  So this worker keeps one more session on each node, which
//! holds nothing, and has Citus' own search run there at Citus' own interval.  What it finds, it ends:
//! the victim is a user's transaction, as always, and the locks of the fence are no part of a cycle
//! that it can see, since nobody waits for a fence in a circle.  It begins one interval after the block: a
//! first search opens sessions from every node to every other, which a short block need not pay for.

use std::time::Duration;

use remote::{
    Command, Deadline, RemoteError, Reply, Session, SessionState, Target, Waiter, connect_all,
};

use super::statements;
use crate::citus::{HELPER_NAME, Node, Roster, deadlock_search_interval};
use crate::fence::party::Party;
use crate::fence::statements::HELPER_IDLE_MS;
use crate::pg::elog;
use crate::pg::wait::monotonic_now;

/// The sessions that look for deadlocks, a place per node, and when the next of them does.
pub struct DeadlockSearch {
    places: Vec<Place>,
    interval: Duration,
    next: Duration,
    turn: usize,
    version: u64,
}

/// A node's session, or when to try for one again.
struct Place {
    target: Target,
    session: Option<Session>,
    retry_at: Duration,
}

impl DeadlockSearch {
    /// Knows whom to ask.  Without Citus, or where Citus' own search is switched off, there is nothing to do.
    /// Nothing is looked up here, for the fence is held by now: neither in the catalog nor a name.
    pub fn begin(roster: &Roster, party: &Party) -> Self {
        let idle = Self {
            places: Vec::new(),
            interval: Duration::MAX,
            next: Duration::MAX,
            turn: 0,
            version: 0,
        };
        let Some(interval) = deadlock_search_interval().filter(|_| roster.is_citus()) else {
            return idle;
        };
        let takes_part = |node: &Node| party.parts().any(|part| part.node == node);
        let own = roster.targets().first();
        let others = roster.others().iter().zip(roster.other_targets());
        let others = others.filter(|(node, _)| takes_part(node)).map(|(_, target)| target);
        let places = own.into_iter().chain(others).cloned().map(|mut target| {
            target.params.set("application_name", HELPER_NAME);
            Place { target, session: None, retry_at: Duration::ZERO }
        });
        let next = monotonic_now().saturating_add(interval);
        Self { places: places.collect(), interval, next, turn: 0, version: 0 }
    }

    /// Closes the sessions: their place is needed for something else.
    pub fn close(&mut self) {
        self.places.clear();
    }

    /// Another one whenever a session was lost, or tried for.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// In how long the next search is due.
    pub fn due_in<W: Waiter>(&self, waiter: &W) -> Duration {
        self.next.saturating_sub(waiter.now())
    }

    /// Starts the search of the next node in turn; nobody waits for its end here.
    ///
    /// One after the other: of a cycle between transactions that were begun on different nodes, each
    /// node only sees its own as one that it can end, and searches that run at once end them all.
    pub fn run_if_due<W: Waiter>(&mut self, waiter: &mut W) {
        if waiter.now() < self.next || self.places.is_empty() {
            return;
        }
        let pause = (self.interval / self.places.len() as u32).max(SHORTEST_TURN);
        self.next = waiter.now().saturating_add(pause);
        self.turn = (self.turn + 1) % self.places.len();
        let idle_ms = 3 * self.interval.as_millis() as i64 + HELPER_IDLE_MS;
        let place = &mut self.places[self.turn];
        if place.session.is_none() {
            self.version += 1;
        }
        if place.session.is_none() && waiter.now() >= place.retry_at {
            place.connect(waiter);
        }
        // One that is still at its last search, or waits on a frozen node, misses its turn.
        if let Some(session) = &mut place.session
            && session.state() == SessionState::Idle
        {
            let sql = statements::check_deadlocks(session.transaction_status(), idle_ms);
            if let Err(error) = session.send(&Command::new("search for deadlocks", sql.as_str())) {
                self.version += 1;
                place.lose(waiter, &error);
            }
        }
    }

    /// The sessions there are.
    pub fn sessions(&mut self) -> impl Iterator<Item = &mut Session> {
        self.places.iter_mut().filter_map(|place| place.session.as_mut())
    }

    /// What a search gave.
    pub fn note(&self, result: &Result<Reply, RemoteError>) {
        if let Err(error) = result {
            elog::log(&format!("citus_fence: {error}"));
        }
    }

    /// The `index`-th of the sessions there are is gone.
    pub fn lose<W: Waiter>(&mut self, waiter: &W, index: usize, error: &RemoteError) {
        self.version += 1;
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
