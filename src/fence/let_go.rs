//! Letting go: the one way in which every attempt and every hold ends.
//!
//! A lock is gone when its node has answered the ROLLBACK, not when the session is closed: a server
//! process notices that some time later, and one that waits for a lock not before it has it.  So nothing
//! may say that a hold is over before this has returned.

use std::time::Duration;

use super::party::Party;
use super::statements;
use remote::{
    Command, Deadline, Pq, RemoteError, Session, SessionState, TransactionStatus, Waiter,
    cancel_and_drain, run_all,
};

/// How long a node may take to answer the ROLLBACK.
const ROLLBACK_BOUND: Duration = Duration::from_secs(5);

/// How long it may take to cancel what a node is still at.
const CANCEL_BOUND: Duration = Duration::from_secs(2);

/// Ends the transactions on all of the party's nodes, and comes back once no node that answers has a
/// lock left.  Who did not answer is returned: there the lock goes when the node notices that the
/// session is closed, as it is now.
///
/// Give it a waiter that nothing stops: it is bounded, and what stopped the attempt must not stop this.
pub fn let_go<C: Pq, W: Waiter>(waiter: &mut W, party: &mut Party<C>) -> Vec<RemoteError> {
    roll_back_all(waiter, &mut party.sessions())
}

/// The same for sessions that are not a party's.
pub fn roll_back_all<C: Pq, W: Waiter>(
    waiter: &mut W,
    sessions: &mut [&mut Session<C>],
) -> Vec<RemoteError> {
    let mut silent = Vec::new();
    roll_back(waiter, sessions, &mut silent);
    // What a signal, a deadline or a failed errand left at work, and who has not answered in time.
    if sessions.iter().any(|session| session.state() == SessionState::Busy) {
        let deadline = Deadline::after(waiter, CANCEL_BOUND);
        let _ = cancel_and_drain(waiter, sessions, deadline);
        silent.clear();
        roll_back(waiter, sessions, &mut silent);
    }
    silent
}

/// Rolls back wherever a command can be sent and a transaction is open.  Afterwards a session is out of
/// its transaction, or Busy, or else has its error among the `silent`.
fn roll_back<C: Pq, W: Waiter>(
    waiter: &mut W,
    sessions: &mut [&mut Session<C>],
    silent: &mut Vec<RemoteError>,
) {
    let mut open: Vec<&mut Session<C>> = sessions
        .iter_mut()
        .map(|session| &mut **session)
        .filter(|session| session.state() != SessionState::Busy)
        .filter(|session| session.transaction_status() != TransactionStatus::Idle)
        .collect();
    let deadline = Deadline::after(waiter, ROLLBACK_BOUND);
    let rollback = |_| Command::new("release", statements::ROLLBACK);
    silent
        .extend(run_all(waiter, &mut open, rollback, deadline).into_iter().filter_map(Result::err));
}

#[cfg(test)]
#[path = "let_go_tests.rs"]
mod tests;
