//! While the fence is held: one wait over everything that can happen.
//!
//! The worker sleeps until its latch is set (a release, an errand, a signal), a socket stirs (a node
//! is lost), the deadline comes, or it is time to look for deadlocks.

use std::time::Duration;

use remote::{Command, Deadline, RemoteError, WatchEnd, run_all, watch};

use super::control::Owner;
use super::deadlocks::DeadlockSearch;
use super::error::BlockError;
use super::state::{Block, Errand, Failure};
use super::statements;
use crate::fence::party::Party;
use crate::fence::statements::{IDLE_GRACE_MS, STATEMENT_GRACE_MS, set_idle_timeout};
use crate::pg::clock::now;
use crate::pg::interrupts;
use crate::pg::types::Lsn;
use crate::pg::wait::BackendWaiter;
use crate::pg::wal;
use crate::pg::worker;

/// How long the closing of a session waits for whoever has been woken: the end of its server process would compete with
/// them.
pub const LINGER: Duration = Duration::from_millis(10);

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
) -> Result<End, BlockError> {
    let stirred = || {
        interrupts::terminated()
            || owner
                .read()
                .is_none_or(|block| block.release_asked || block.pending_errand().is_some())
    };
    let mut waiter = BackendWaiter::new(stirred);
    loop {
        worker::reload_settings();
        // A catalog snapshot would keep the node's xmin where it was for as long as the block lasts.
        worker::forget_snapshot();
        if interrupts::terminated() {
            return Err(BlockError::Terminated);
        }
        let Some(block) = owner.read() else {
            return Err(BlockError::WorkerVanished);
        };
        if block.release_asked {
            return Ok(End::Asked);
        }
        let now = now();
        if block.expired(now) {
            return Ok(End::Expired);
        }
        if block.pending_errand().is_some() {
            // None if whoever asked is gone by now.
            if let Some((number, errand)) = owner.take_errand() {
                run_errand(owner, party, &block, number, errand)?;
            }
            continue;
        }
        let to_deadline = Duration::from_micros((block.expires_at - now).max(0) as u64);
        let mut timeout = to_deadline.min(search.due_in(&waiter));
        if party.has_spare() {
            timeout = timeout.min(LINGER);
        }
        // Of all these sessions only the search's come and go.
        let version = search.version();
        let mut sessions = party.sessions();
        let holders = sessions.len();
        sessions.extend(search.sessions());
        match watch(&mut waiter.registered(version), &mut sessions, timeout) {
            // Whoever has asked for the block goes on by now.
            WatchEnd::Quiet => drop(party.take_spare()),
            WatchEnd::Stopped => {}
            WatchEnd::Lost { index, error } if index < holders => return Err(error.into()),
            WatchEnd::Lost { index, error } => search.lose(&waiter, index - holders, &error),
            WatchEnd::Answered { index, result } if index >= holders => search.note(&result),
            // A holder is only ever busy within run_all.
            WatchEnd::Answered { .. } => {}
        }
        search.run_if_due(&mut waiter);
    }
}

/// Does what a caller asked for over the party's sessions.  An error means that the fence is lost; an
/// errand that merely failed is answered.
fn run_errand(
    owner: &Owner,
    party: &mut Party,
    block: &Block,
    number: u64,
    errand: Errand,
) -> Result<(), BlockError> {
    // Deaf to the letter box, which is what is being emptied, and to the release, which can wait for
    // the seconds an errand may take.
    let mut waiter = BackendWaiter::new(interrupts::terminated);
    let deadline = Deadline::after(&waiter, Duration::from_millis(STATEMENT_GRACE_MS as u64));
    match errand {
        Errand::Extend(timeout_ms) => {
            let sql = set_idle_timeout(i64::from(timeout_ms) + IDLE_GRACE_MS);
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
            let sql = statements::restore_point(name.as_str(), left_ms.max(1) + IDLE_GRACE_MS);
            let mut sessions = party.sessions();
            let write = |_| Command::new("restore point", sql.as_str());
            let replies = run_all(&mut waiter, &mut sessions, write, deadline);
            let mut positions = vec![wal::restore_point(name.as_str()).unwrap_or_default()];
            let mut failure = None;
            for (index, reply) in replies.into_iter().enumerate() {
                match reply {
                    Ok(reply) => {
                        let position = reply.sets.iter().find_map(|set| {
                            set.value(0, "lsn").and_then(Lsn::parse).map(|lsn| lsn.0)
                        });
                        positions.push(position.unwrap_or_default());
                    }
                    // The server refused; the subtransaction is undone and the locks stay.
                    Err(error @ RemoteError::Query { .. }) => {
                        let undo = Command::new("undo of an errand", statements::ERRAND_FAILED);
                        sessions[index].run(&mut waiter, undo, deadline)?;
                        positions.push(0);
                        failure = failure.or(Some(Failure::from(&BlockError::from(error))));
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
