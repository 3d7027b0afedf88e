//! Two-phase commits that were left in doubt.

use super::party::GRACE;
use super::statements;
use remote::{
    Command, Deadline, LibPq, Pq, RemoteError, Session, Target, Waiter, connect_all, run_all,
};

/// The waiter was told to stop.
pub struct Stopped;

/// Has every node finish the two-phase commits that were left in doubt: what is prepared keeps its locks,
/// those of the gates among them, and a metadata change among them would hold the fence off for ever.
/// What fails here is logged and nothing more: the next attempt says what is in the way.
pub fn finish_in_doubt<W: Waiter>(
    waiter: &mut W,
    targets: &[Target],
    deadline: Deadline,
    mut log: impl FnMut(&str),
) -> Result<(), Stopped> {
    let mut helpers = Helpers::<LibPq>::connect(waiter, targets, deadline, &mut log)?;
    helpers.finish_in_doubt(waiter, deadline, &mut log).map(drop)
}

/// Sessions that are there before they are needed.
pub struct Helpers<C: Pq = LibPq>(Vec<Session<C>>);

impl<C: Pq> Helpers<C> {
    /// None are needed.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// One per node that answers.
    pub fn connect<W: Waiter>(
        waiter: &mut W,
        targets: &[Target],
        deadline: Deadline,
        mut log: impl FnMut(&str),
    ) -> Result<Self, Stopped> {
        let mut sessions: Vec<Session<C>> = Vec::with_capacity(targets.len());
        for session in connect_all(waiter, targets, deadline) {
            match session {
                Ok(session) => sessions.push(session),
                Err(RemoteError::Stopped { .. }) => return Err(Stopped),
                Err(error) => {
                    log(&format!("citus_fence: no recovery before the next attempt: {error}"));
                }
            }
        }
        Ok(Self(sessions))
    }

    /// Has their nodes finish what was left in doubt; what is not done by the deadline is left to them.
    /// Given back: one that did not even say so, and may still be at it.
    pub fn finish_in_doubt<W: Waiter>(
        &mut self,
        waiter: &mut W,
        deadline: Deadline,
        mut log: impl FnMut(&str),
    ) -> Result<Option<RemoteError>, Stopped> {
        let left = deadline.remaining(waiter);
        let sql = statements::recover(left.as_millis() as i64);
        let mut open: Vec<&mut Session<C>> = self.0.iter_mut().collect();
        let recover = |_| Command::new("recovery of prepared transactions", sql.as_str());
        // The node gives up by itself.
        let deadline = Deadline::after(waiter, left + GRACE);
        let mut at_it = None;
        for reply in run_all(waiter, &mut open, recover, deadline) {
            match reply {
                Ok(_) => {}
                Err(RemoteError::Stopped { .. }) => return Err(Stopped),
                Err(error) => {
                    log(&format!("citus_fence: {error}"));
                    if matches!(error, RemoteError::Timeout { .. }) {
                        at_it = Some(error);
                    }
                }
            }
        }
        Ok(at_it)
    }
}
