//! The rules of the switch, each of which can be taken out.  Those that are steps are taken out of the list.

use crate::fence::steps::{Barrier, Step};
use crate::readonly::cluster::STEPS;

/// What the design (and the code) rests on.  The comment says what is done where the rule is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A step begins when the one before is done on the last node.  Out: once the commands are sent.
    StepsAwaitAnswers,
    /// The switch is written down before the first gate is closed.  Out: it is not written down.
    NoteFirst,
    /// The coordinator is switched when all others have been.  Out: with them.
    ThisNodeLast,
    /// The switch is over, or has failed, once every node has answered or its time is over.  Out: once the
    /// commands are sent.
    SwitchAwaitsAnswers,
    /// Where a node could not be switched, all are switched back.  Out: they stay as they are.
    UndoOnFailure,
    /// The gates are open on every node that answers when the call returns.  Out: it closes its sessions, and
    /// returns.
    LettingGoAwaitsAnswers,
    /// A node that hears nothing more ends its part by itself, and does so before the switch is taken back.
    /// Out: it never does.
    SilenceBound,
}

/// Which rules are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What an attempt does, in order.
    pub steps: &'static [Step],
    without: Option<Rule>,
}

impl Rules {
    /// The design, with the list that runs.
    pub const ALL: Self = Self::of(STEPS);

    /// The design, with another list.
    pub const fn of(steps: &'static [Step]) -> Self {
        Self { steps, without: None }
    }

    /// The design but for one rule.
    pub const fn without(rule: Rule) -> Self {
        Self { without: Some(rule), ..Self::ALL }
    }

    /// Whether the rule is in force.
    pub fn has(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// What the list closes, in order.
    pub fn barriers(self) -> impl Iterator<Item = Barrier> {
        self.steps.iter().filter_map(|step| match step {
            Step::Close(barrier) => Some(*barrier),
            Step::NobodyInSteps | Step::FinishInDoubt | Step::SameNodes | Step::Flush => None,
        })
    }
}
