//! The rules of the design, each of which can be taken out.

use crate::block::state::Mode;
use crate::fence::steps::{Barrier, Step};

/// What the design (and the code) rests on.  The comment says what is done where the rule is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Every primary is locked.  Out: only those whose metadata is kept in step.
    LockEveryPrimary,
    /// A writer takes the lock of its commit record before PREPARE.  Out: after it.
    RecordBeforePrepare,
    /// A writer keeps that lock past the last COMMIT PREPARED.  Out: until its local commit.
    HoldToTheLast,
    /// Who ends a block shows that it is its own, under the lock that the end is written under.  Out:
    /// it has looked earlier, and writes whatever is in the slot by now.
    OwnerUnderTheSameLock,
    /// A release says that it is over once every node that answers has answered.  Out: once the
    /// messages are sent.
    ReleaseAwaitsAnswers,
    /// An attempt that failed awaits the same answers.  Out: it closes its sessions, and goes on.
    FailureAwaitsAnswers,
    /// A release first brings those sessions back that are busy with something else.  Out: it has no
    /// ROLLBACK for them, and closes them in the end.
    BusyIsDrainedFirst,
    /// An extension reaches the nodes before the deadline is moved.  Out: only the deadline is moved.
    NodesLearnOfExtensions,
    /// A node ends a wait or a hold by itself some time after the deadline.  Out: it never does.
    NodesEndHoldsThemselves,
    /// A caller that leaves before it was told gives its block up.  Out: it just leaves.
    AbandonOnLeaving,
    /// No block becomes active once its release was asked for.  Out: it does.
    NoneActiveAfterRelease,
    /// Why a block ended stays for those who wait for its end.  Out: whoever asks first takes it away.
    ReasonsStay,
    /// Why a block ended stays when its successor ends.  Out: it goes with the successor.
    ReasonsOutliveSuccessors,
    /// An end that nobody remembers is no good end.  Out: it passes for one.
    ForgottenIsNotGood,
    /// Only the release that found the block active vouches for the backup.  Out: one that joins a
    /// release under way does, too.
    FirstReleaseVouches,
    /// Whoever ends a block hears of one before it that ended by itself unheard of.  Out: nobody says so.
    EarlierEndsAreTold,
    /// The operator names its block, and the release ends that one and no other.  Out: it ends whichever
    /// there is.
    OwnBlockIsNamed,
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What an attempt does, in order.
    pub steps: &'static [Step],
    /// Whether gates are among what that closes.
    pub has_gates: bool,
    without: [Option<Rule>; 2],
    /// Not a rule, but another plan; see [`Self::FLUSH_WITH_THE_LOCK`].
    pub flush_with_the_lock: bool,
}

impl Rules {
    /// The design, with the list that runs.
    pub const ALL: Self = Self::of(Mode::TwoPhase.steps());

    /// The design, with another list.
    pub const fn of(steps: &'static [Step]) -> Self {
        let mut has_gates = false;
        let mut rest = steps;
        while let [step, others @ ..] = rest {
            has_gates |= matches!(step, Step::Close(Barrier::ClientGate | Barrier::InternalGate));
            rest = others;
        }
        Self { steps, has_gates, without: [None, None], flush_with_the_lock: false }
    }

    /// The design, but with each node flushed in the statement that locks it.
    pub const FLUSH_WITH_THE_LOCK: Self = Self { flush_with_the_lock: true, ..Self::ALL };

    /// The design but for one rule.
    pub const fn without(rule: Rule) -> Self {
        Self { without: [Some(rule), None], ..Self::ALL }
    }

    /// The design but for two rules.
    pub const fn without_both(rule: Rule, other: Rule) -> Self {
        Self { without: [Some(rule), Some(other)], ..Self::ALL }
    }

    /// Whether the rule is in force.
    pub fn has(self, rule: Rule) -> bool {
        !self.without.contains(&Some(rule))
    }

    /// What the list closes, in order.
    pub fn barriers(self) -> impl Iterator<Item = Barrier> {
        self.steps.iter().filter_map(|step| match step {
            Step::Close(barrier) => Some(*barrier),
            Step::NobodyInSteps | Step::FinishInDoubt | Step::SameNodes | Step::Flush => None,
        })
    }
}
