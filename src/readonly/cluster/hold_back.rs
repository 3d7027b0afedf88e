//! Holding back every writer of the cluster, until all gates of all nodes are closed.

use std::time::Duration;

use remote::{Connecting, RemoteError, Waiter};

use super::ClusterError;
use super::nodes::{Nodes, connect_timeout};
use crate::citus::{self, Roster};
use crate::fence::engine::{Bounds, Home, Others, Silence, attempt};
use crate::fence::error::{Failed, FenceError, Reason};
use crate::fence::let_go::let_go;
use crate::fence::party::Party;
use crate::fence::retry::{GaveUp, Limit, Trial, until_held};
use crate::fence::steps::{Barrier, Step};
use crate::guc;
use crate::pg::elog;
use crate::pg::wait::interruptible;

/// What has to hold before the first node refuses anything, in order.
///
/// A client's own commits are over once the clients' gates are closed.  What a crash has left prepared holds the
/// internal gates, so it is finished before those are closed.  What commits on its way holds no gate between two
/// of its steps, and its next one waits at the clients' gate: half done, it would stay so.  To come or go, a node
/// has to write, so the list cannot change any more when it is read again.
pub const STEPS: &[Step] = &[
    Step::Close(Barrier::ClientGate),
    Step::NobodyInSteps,
    Step::FinishInDoubt,
    Step::Close(Barrier::InternalGate),
    Step::SameNodes,
];

/// How long a node keeps the gates closed that hears nothing more: longer than an attempt, and not much.
const SILENCE_MS: i64 = 3_000;

/// All gates, closed.  They open when the sessions' transactions end.
pub struct ClosedGates {
    /// Who holds them, this node first.
    pub party: Party,
    /// On which nodes.
    pub nodes: Nodes,
}

/// Closes the gates of all nodes.
pub fn close_gates<W: Waiter>(waiter: &mut W) -> Result<ClosedGates, ClusterError> {
    let time = Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64);
    let limit = Limit::from_now(waiter, time);
    let mut attempts = Attempts { party: Party::default(), limit };
    let why = match until_held(waiter, &mut attempts, limit) {
        Ok(held) => return Ok(ClosedGates { party: attempts.party, nodes: held.what }),
        Err(why) => why,
    };
    <Attempts as Trial<W>>::let_go(&mut attempts);
    Err(match why {
        // Nothing stops the waiter but interrupts, which unwind.
        GaveUp::Stopped => ClusterError::ClientGone,
        GaveUp::NotHeld(Reason { what: last, blockers, .. }) => {
            ClusterError::WritersInTheWay { after_ms: limit.ms(), last, blockers }
        }
        GaveUp::TooLittleTime(error) => error.into(),
        GaveUp::ForGood(error) => error.into(),
    })
}

struct Attempts {
    party: Party,
    limit: Limit,
}

impl<W: Waiter> Trial<W> for Attempts {
    type Held = Nodes;
    const ATTEMPT: &'static str = "holding back all writers";

    fn attempt(&mut self, waiter: &mut W) -> Result<Nodes, Failed> {
        let Some(nodes) = Nodes::read_now() else {
            return Err(catalog_is_locked());
        };
        let mut nodes = nodes.map_err(ClusterError::into_fence)?;
        let roster = &nodes.roster;
        let bounds = Bounds {
            deadline: self.limit.deadline,
            connect_timeout: connect_timeout(),
            lock_timeout: Duration::from_millis(guc::LOCK_TIMEOUT.get() as u64),
            silence: Silence::AttemptMs(SILENCE_MS),
        };
        let all = Others {
            nodes: roster.nodes(),
            connecting: Connecting::start(waiter, roster.targets(), self.limit.deadline),
            in_doubt: roster.targets(),
        };
        attempt(waiter, STEPS, &mut OverASession(roster), &mut self.party, all, &bounds)?;
        nodes.roster.keep_addresses(self.party.sessions().iter().map(|session| &**session));
        Ok(nodes)
    }

    fn let_go(&mut self) -> Vec<RemoteError> {
        let silent = let_go(&mut interruptible(), &mut self.party);
        self.party = Party::default();
        silent
    }

    /// It is one of the steps.
    fn recover(&mut self, _waiter: &mut W) -> Result<(), Failed> {
        Ok(())
    }
}

/// This node takes part like any other.
struct OverASession<'a>(&'a Roster);

impl Home for OverASession<'_> {
    fn begin(&mut self) {}

    fn close(&mut self, _barrier: Barrier, _bound: Duration) -> Result<(), Failed> {
        Ok(())
    }

    fn let_go(&mut self) {}

    fn nodes_are_the_same(&mut self) -> Result<bool, Failed> {
        match citus::read_now(citus::OF_NODES, || self.0.is_current()) {
            Some(same) => Ok(same?),
            None => Err(catalog_is_locked()),
        }
    }

    fn flush(&mut self) {}

    fn log(&mut self, line: &str) {
        elog::log(line);
    }
}

fn catalog_is_locked() -> Failed {
    let what = citus::CatalogError::Locked.to_string();
    let blockers = citus::keepers();
    let tells = !blockers.is_empty();
    Failed::ForNow(Reason { what, blockers, tells })
}

impl ClusterError {
    /// As a reason for which an attempt fails.
    fn into_fence(self) -> FenceError {
        match self {
            Self::Fence(error) => error,
            other => FenceError::Local((&other).into()),
        }
    }
}
