//! Holding back every writer of the cluster, until all gates of all nodes are closed.

use std::time::Duration;

use remote::{Begun, Connecting, Deadline, Pq, RemoteError, Session, Waiter};

use super::ClusterError;
use super::nodes::{Nodes, connect_timeout};
use crate::citus::identity::Who;
use crate::citus::{self, Roster};
use crate::fence::engine::{Bounds, Home, Others, Silence, attempt};
use crate::fence::error::{Failed, FenceError, Reason};
use crate::fence::let_go::let_go;
use crate::fence::party::Party;
use crate::fence::retry::{GaveUp, Limit, Trial, until_held};
use crate::fence::steps::{Barrier, Step};
use crate::guc;
use crate::pg::elog;
use crate::pg::wait::BackendWaiter;

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
pub const SILENCE_MS: i64 = 3_000;

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
        // Or an interrupt has come, which the caller serves.
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
            extension: roster.extension(),
            is_citus: roster.is_citus(),
            in_doubt: roster.targets(),
        };
        attempt(waiter, STEPS, &mut OverASession(roster), &mut self.party, all, &bounds)?;
        nodes.roster.keep_addresses(self.party.sessions().iter().map(|session| &**session));
        Ok(nodes)
    }

    fn let_go(&mut self) -> Vec<RemoteError> {
        // Whatever has ended the attempt, be it that the caller is gone.
        let silent = let_go(&mut BackendWaiter::new(|| false), &mut self.party);
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
    fn begin(&mut self, _bound: Duration) -> Result<(), Failed> {
        Ok(())
    }

    fn close(&mut self, _barrier: Barrier, _bound: Duration) -> Result<(), Failed> {
        Ok(())
    }

    /// It is among the others.
    fn who(&self) -> Option<(String, Who)> {
        None
    }

    /// The call has seen to that before it has written anything down.
    fn prove<C: Pq, W: Waiter>(
        &mut self,
        _waiter: &mut W,
        _answer: Option<Begun<C>>,
        _by: Deadline,
    ) -> Result<Option<Session<C>>, Failed> {
        Ok(None)
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

#[cfg(test)]
mod tests {
    use super::STEPS;
    use crate::fence::engine::{Bounds, Others, Silence, attempt};
    use crate::fence::error::Failed;
    use crate::fence::party::Party;
    use crate::fence::scripted::{ScriptHome, answer, host, nodes, well};
    use remote::script::{Incoming, Script, ScriptPq, ScriptWaiter, ms, node, sent};
    use remote::{Connecting, Deadline, PqResult, ResultSet, Target};

    /// The answer of a node on which nobody is in the middle of anything.
    fn nobody() -> Vec<(u64, Incoming)> {
        let columns = ["pid", "usename", "age", "what"].map(str::to_owned).to_vec();
        let command_tag = "SELECT 0".into();
        let set = ResultSet { columns, rows: vec![], command_tag, affected: 0 };
        vec![(1, Incoming::Result(PqResult::Set(set))), (1, Incoming::Ready)]
    }

    /// Runs the list that runs on three nodes, of which the last answers so when it is asked who is in the middle
    /// of a command; what was done.
    fn run(last_in_steps: Vec<(u64, Incoming)>) -> (Result<(), Failed>, Vec<String>) {
        let holder = |index: usize| {
            let in_steps = if index == 2 { last_in_steps.clone() } else { nobody() };
            Script::connects(1).answers([answer(1), answer(1), answer(1), in_steps, answer(1)])
        };
        let targets: Vec<Target> =
            (0..3).map(|index| node(&host(index), [holder(index), well(1)])).collect();
        let mut waiter = ScriptWaiter::default();
        let deadline = Deadline::after(&waiter, ms(30_000));
        let connecting = Connecting::start(&waiter, &targets, deadline);
        let nodes = nodes(3);
        let others = Others {
            nodes: &nodes,
            connecting,
            extension: None,
            is_citus: true,
            in_doubt: &targets,
        };
        let bounds = Bounds {
            deadline,
            connect_timeout: ms(3000),
            lock_timeout: ms(5000),
            silence: Silence::AttemptMs(3000),
        };
        let mut party = Party::<ScriptPq>::default();
        let mut home = ScriptHome::default();
        let outcome = attempt(&mut waiter, STEPS, &mut home, &mut party, others, &bounds);
        (outcome.map(drop), sent())
    }

    #[test]
    fn nothing_is_closed_before_what_it_would_cut_in_half_has_ended() {
        let (outcome, done) = run(nobody());
        outcome.expect("closed gates");
        let first = |what: &str| done.iter().position(|line| line.contains(what)).expect(what);
        let last = |what: &str| done.iter().rposition(|line| line.contains(what)).expect(what);
        const CLIENT: &str = "lock_gate('client')";
        const IN_STEPS: &str = "commands_in_steps()";
        const RECOVER: &str = "recover_prepared_transactions()";
        const INTERNAL: &str = "lock_gate('internal')";
        assert!(last(CLIENT) < first(IN_STEPS), "{done:#?}");
        assert!(last(IN_STEPS) < first(RECOVER), "{done:#?}");
        assert!(last(RECOVER) < first(INTERNAL), "{done:#?}");
        assert!(last(INTERNAL) < first("home: read nodes"), "{done:#?}");
        for what in [CLIENT, IN_STEPS, RECOVER, INTERNAL] {
            assert_eq!(done.iter().filter(|line| line.contains(what)).count(), 3, "{what}");
        }
        // Whatever holds no gate and no table's lock is none of its business.
        assert!(!done.iter().any(|line| line.contains("IN EXCLUSIVE MODE")), "{done:#?}");
    }

    #[test]
    fn a_command_in_the_middle_of_its_steps_is_named_and_not_cut() {
        let (outcome, done) = run(answer(1));
        let Err(Failed::ForNow(reason)) = outcome else { panic!("{outcome:?}") };
        assert!(reason.tells && reason.blockers.len() == 1, "{reason:?}");
        assert!(!done.iter().any(|line| line.contains("lock_gate('internal')")), "{done:#?}");
    }
}
