//! Holding back every writer of the cluster: attempt after attempt, until all gates are closed.

use std::time::Duration;

use super::ClusterError;
use super::nodes::{Nodes, connect_timeout};
use crate::fence::attempt::{Barrier, Failed, LONGEST_GATE_LOCK};
use crate::fence::error::FenceError;
use crate::fence::let_go::let_go;
use crate::fence::party::Party;
use crate::fence::reason::{BestReason, Reason};
use crate::fence::recovery::Helpers;
use crate::fence::statements;
use crate::guc;
use crate::pg::elog;
use remote::{self, Connecting, Deadline, Pause, Waiter};

/// Pauses between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// All gates, closed.  They open when the sessions' transactions end.
pub struct ClosedGates {
    /// Who holds them, this node first.
    pub party: Party,
    /// On which nodes.
    pub nodes: Nodes,
}

/// Closes the gates of all nodes.
pub fn close_gates<W: Waiter>(waiter: &mut W) -> Result<ClosedGates, ClusterError> {
    let limit_ms = guc::ACQUIRE_TIMEOUT.get();
    let deadline = Deadline::after(waiter, Duration::from_millis(limit_ms as u64));
    let mut pause = PAUSE.0;
    let mut in_the_way = BestReason::default();
    loop {
        let nodes = Nodes::read()?;
        let mut party = Party::default();
        match attempt(waiter, &mut party, &nodes, deadline) {
            Ok(()) => return Ok(ClosedGates { party, nodes }),
            Err(Failed::ForNow { what, blockers }) => {
                elog::log(&format!("citus_fence: attempt to hold back all writers failed: {what}"));
                in_the_way.note(Reason { what, blockers });
            }
            // With no time left everything times out; what stood in the way before is the reason.
            Err(Failed::ForGood(_)) if in_the_way.is_some() && deadline.expired(waiter) => {}
            Err(failed) => {
                let_go(waiter, &mut party);
                return Err(match failed {
                    Failed::ForGood(FenceError::NoGate { node }) => ClusterError::NoGate { node },
                    Failed::ForGood(error) => error.into(),
                    // Nothing stops the waiter but interrupts, which unwind.
                    Failed::Stopped | Failed::ForNow { .. } => FenceError::ClientGone.into(),
                });
            }
        }
        let_go(waiter, &mut party);
        if deadline.remaining(waiter) <= pause {
            let Reason { what: last, blockers } = in_the_way.into_reason();
            return Err(ClusterError::WritersInTheWay { after_ms: limit_ms, last, blockers });
        }
        if remote::pause(waiter, pause) == Pause::Stopped {
            return Err(FenceError::ClientGone.into());
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// One attempt.  What it holds is in the party, whatever it ends with.
fn attempt<W: Waiter>(
    waiter: &mut W,
    party: &mut Party,
    nodes: &Nodes,
    deadline: Deadline,
) -> Result<(), Failed> {
    let by = |waiter: &W| Deadline::after(waiter, connect_timeout()).earlier(deadline);
    let lock_timeout = LONGEST_GATE_LOCK
        .min(Duration::from_millis(guc::LOCK_TIMEOUT.get() as u64))
        .min(deadline.remaining(waiter))
        .max(Duration::from_millis(1));
    // Before the first gate is closed: nobody is to wait for a connection that does not come.
    let helpers_by = by(waiter);
    let mut helpers =
        Helpers::connect(waiter, &nodes.targets, helpers_by).map_err(|_| Failed::Stopped)?;
    let begin_by = by(waiter);
    // An inactive node that is silent has the others wait with their transactions begun.
    let begin_ms = IDLE_MS.saturating_add(begin_by.remaining(waiter).as_millis() as i64);
    let begin = statements::begin(lock_timeout.as_millis() as i32, begin_ms);
    let connecting = Connecting::start(waiter, &nodes.targets, begin_by);
    party.begin(waiter, &nodes.list, connecting, &begin, begin_by)?;
    party.require_gates()?;
    let settle_by = by(waiter);
    party.set_idle_timeout(waiter, IDLE_MS, settle_by)?;

    // One bound for all that happens while gates are closed.
    let lock_by = Deadline::after(waiter, lock_timeout).earlier(deadline);
    lock(waiter, party, Barrier::ClientGate, lock_by)?;
    // What commits on its way holds no gate between two of its steps; its next one waits at this one.
    let in_steps = party.in_steps(waiter, lock_by)?;
    if !in_steps.is_empty() {
        let what = "a command that commits on its way is under way".to_owned();
        return Err(Failed::ForNow { what, blockers: in_steps });
    }
    // A client's own commits are over by now.  What a crash has left prepared holds the internal gates.
    if let Some(error) = helpers.finish_in_doubt(waiter, lock_by).map_err(|_| Failed::Stopped)? {
        return Err(Failed::ForNow { what: error.to_string(), blockers: vec![] });
    }
    lock(waiter, party, Barrier::InternalGate, lock_by)?;

    // To come or go, a node has to write.
    if nodes.are_the_same()? {
        Ok(())
    } else {
        Err(Failed::ForNow { what: FenceError::NodesChanged.to_string(), blockers: vec![] })
    }
}

/// How long a node keeps the gates closed that hears nothing more: longer than an attempt, and not much.
const IDLE_MS: i64 = 3_000;

fn lock<W: Waiter>(
    waiter: &mut W,
    party: &mut Party,
    barrier: Barrier,
    lock_by: Deadline,
) -> Result<(), Failed> {
    match party.lock(waiter, barrier, lock_by)? {
        Ok(()) => Ok(()),
        Err(refused) => {
            let what = refused.first().map_or_else(String::new, |(_, error)| error.to_string());
            let blockers = party.look_for_blockers(waiter, &refused);
            Err(Failed::ForNow { what, blockers })
        }
    }
}
