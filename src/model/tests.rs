//! The explorations: what holds with every rule in force, and what each rule is there for.
//!
//! Run with `--nocapture` to see the number of states, and the shortest counterexamples.

use super::Exploration;
use super::properties::{Claim, Sight};
use super::rules::{Rule, Rules};
use super::search::{Found, search};
use super::world::{Action, Fault, Size};
use crate::block::state::Mode;
use crate::fence::steps::Barrier::{ClientGate, InternalGate, Tables};
use crate::fence::steps::Step::{self, Close, Flush, SameNodes};

/// A coordinator and a worker node, one block, and nothing goes wrong.
const SMALL: Size = Size {
    nodes: 2,
    joiner: false,
    without_metadata: None,
    writers: &[],
    blocks: 1,
    attempts: 1,
    strangers: 0,
    extensions: 0,
    recovery: false,
    leavers: false,
    faults: 0,
    kinds: &[],
};

/// The same with a writer on the worker node, whose other half is on the coordinator.
const WRITER: Size = Size { writers: &[(1, 0)], ..SMALL };

const EVERY_FAULT: &[Fault] = &[
    Fault::Terminate,
    Fault::WorkerEnds,
    Fault::WorkerVanishes,
    Fault::CoordinatorCrash,
    Fault::NodeCrash,
    Fault::Silence,
    Fault::WriterEnds,
];

/// One block after another, and an operator who may be late in hearing of the first.
const THREE_BLOCKS: Size = Size {
    blocks: 3,
    leavers: true,
    faults: 1,
    kinds: &[Fault::NodeCrash],
    recovery: true,
    ..WRITER
};

fn explore(
    what: &str,
    size: Size,
    rules: Rules,
    claims: &[Claim],
    sights: &[Sight],
) -> Found<Action> {
    search(what, Exploration::new(size, rules, claims, sights))
}

/// With every rule in force every claim holds, and the sights are there to be seen.
fn holds(what: &str, size: Size, sights: &[Sight]) {
    holds_under(what, size, Rules::ALL, &Claim::ALL, sights);
}

fn holds_under(what: &str, size: Size, rules: Rules, claims: &[Claim], sights: &[Sight]) {
    let found = explore(what, size, rules, claims, sights);
    assert_eq!(found.counterexample, None, "{what}");
    assert!(found.unseen.is_empty(), "{what}: never seen: {:?}", found.unseen);
}

/// Without the rule the claim does not hold.  With it, in the same cluster, every claim does.
fn breaks(rule: Rule, size: Size, claim: Claim) {
    let found = explore(&format!("without {rule:?}"), size, Rules::without(rule), &[claim], &[]);
    assert!(found.counterexample.is_some(), "without {rule:?} this still holds: {claim:?}");
    holds(&format!("with {rule:?}"), size, &[]);
}

/// With another list the claim does not hold.
fn list_breaks(steps: &'static [Step], size: Size, claim: Claim) {
    let found = explore(&format!("{steps:?}"), size, Rules::of(steps), &[claim], &[]);
    assert!(found.counterexample.is_some(), "with {steps:?} this still holds: {claim:?}");
}

/// Without the rule the claim holds all the same.
fn still_holds(rule: Rule, size: Size, claim: Claim) {
    let found = explore(&format!("without {rule:?}"), size, Rules::without(rule), &[claim], &[]);
    assert_eq!(found.counterexample, None, "without {rule:?}");
}

mod every_rule_in_force {
    use super::*;

    const WITH_WRITERS: [Sight; 4] = [
        Sight::GoodBackup,
        Sight::GoodBackupWithCommit,
        Sight::BlockedWriterFinishes,
        Sight::BadBackup,
    ];

    #[test]
    fn commits_from_and_to_every_node() {
        let writers = Size { nodes: 3, writers: &[(1, 2), (2, 0)], ..SMALL };
        holds("three nodes, two writers", writers, &WITH_WRITERS);
        let writers = Size { writers: &[(0, 1), (1, 0)], ..SMALL };
        holds("two nodes, two writers", writers, &WITH_WRITERS);
    }

    #[test]
    fn a_node_joins() {
        let joining = Size { joiner: true, attempts: 2, writers: &[(2, 1), (1, 0)], ..SMALL };
        holds("a node joins", joining, &WITH_WRITERS);
        let joining = Size { writers: &[(2, 1)], ..joining };
        holds("a node joins and writes", joining, &[Sight::GoodBackupWithNewNode]);
    }

    #[test]
    fn commits_with_two_faults() {
        let faulty = Size { faults: 2, kinds: EVERY_FAULT, recovery: true, ..WRITER };
        let sights = [&WITH_WRITERS[..], &[Sight::Error, Sight::InDoubtInGoodBackup]].concat();
        holds("writer on a worker node, faults", faulty, &sights);
        holds("writer on the coordinator, faults", Size { writers: &[(0, 1)], ..faulty }, &sights);
        let away = Size { nodes: 3, writers: &[(1, 2)], ..faulty };
        holds("writer between worker nodes, faults", away, &sights);
    }

    #[test]
    fn locks_with_two_faults() {
        let size = Size {
            nodes: 3,
            attempts: 2,
            extensions: 1,
            strangers: 1,
            leavers: true,
            faults: 2,
            kinds: EVERY_FAULT,
            ..SMALL
        };
        holds("locks", size, &[Sight::GoodBackup, Sight::BadBackup, Sight::Error]);
    }

    #[test]
    fn two_blocks_with_two_faults() {
        let size = Size {
            blocks: 2,
            attempts: 2,
            strangers: 1,
            leavers: true,
            faults: 2,
            kinds: EVERY_FAULT,
            ..SMALL
        };
        holds("two blocks", size, &[Sight::GoodBackup, Sight::BadBackup, Sight::Error]);
    }

    #[test]
    fn two_blocks_and_a_writer_with_a_fault() {
        let size = Size {
            blocks: 2,
            attempts: 2,
            leavers: true,
            faults: 1,
            kinds: EVERY_FAULT,
            recovery: true,
            ..WRITER
        };
        holds("two blocks and a writer", size, &WITH_WRITERS);
    }
}

mod one_rule_out {
    use super::*;

    #[test]
    fn lock_every_primary() {
        let size = Size { without_metadata: Some(1), ..WRITER };
        breaks(Rule::LockEveryPrimary, size, Claim::NoHalfCommit);
    }

    /// What is torn here is production itself, and the backup with it: a recovery rolls back what a
    /// living writer has prepared.  Where nothing is recovered under way, a backup holds prepared
    /// transactions without a record, which the recovery of its restored copies rolls back: whole,
    /// but not what an operator was promised.
    #[test]
    fn record_before_prepare() {
        let recovering = Size { recovery: true, ..WRITER };
        breaks(Rule::RecordBeforePrepare, recovering, Claim::NoHalfCommit);
        breaks(Rule::RecordBeforePrepare, WRITER, Claim::NoCommitUnderWay);
        still_holds(Rule::RecordBeforePrepare, WRITER, Claim::NoHalfCommit);
    }

    /// Without it a backup holds commits in the middle, which nothing but the recovery of its restored
    /// copies makes whole: their records are in it, as they were committed under the lock.
    #[test]
    fn hold_to_the_last() {
        breaks(Rule::HoldToTheLast, WRITER, Claim::NoCommitUnderWay);
        let faulty = Size { faults: 2, kinds: EVERY_FAULT, recovery: true, ..WRITER };
        still_holds(Rule::HoldToTheLast, faulty, Claim::NoHalfCommit);
    }

    #[test]
    fn owner_under_the_same_lock() {
        let size = Size { blocks: 2, attempts: 2, ..SMALL };
        breaks(Rule::OwnerUnderTheSameLock, size, Claim::NothingHeldAfterTheEnd);
    }

    #[test]
    fn release_awaits_answers() {
        breaks(Rule::ReleaseAwaitsAnswers, SMALL, Claim::NothingHeldAfterTheEnd);
    }

    #[test]
    fn failure_awaits_answers() {
        breaks(Rule::FailureAwaitsAnswers, SMALL, Claim::NothingHeldAfterTheEnd);
    }

    #[test]
    fn busy_is_drained_first() {
        let size = Size { extensions: 1, faults: 1, kinds: &[Fault::Terminate], ..SMALL };
        breaks(Rule::BusyIsDrainedFirst, size, Claim::NothingHeldAfterTheEnd);
    }

    #[test]
    fn nodes_learn_of_extensions() {
        let size = Size { extensions: 1, ..SMALL };
        breaks(Rule::NodesLearnOfExtensions, size, Claim::ActiveHoldsAll);
    }

    #[test]
    fn nodes_end_holds_themselves() {
        let kinds = &[Fault::CoordinatorCrash, Fault::Silence];
        let size = Size { faults: 2, kinds, ..SMALL };
        breaks(Rule::NodesEndHoldsThemselves, size, Claim::NoLockOutlivesItsDeadline);
    }

    #[test]
    fn abandon_on_leaving() {
        let size = Size { leavers: true, ..SMALL };
        breaks(Rule::AbandonOnLeaving, size, Claim::NoBlockIsNobodys);
    }

    #[test]
    fn none_active_after_release() {
        let size = Size { leavers: true, ..SMALL };
        breaks(Rule::NoneActiveAfterRelease, size, Claim::NoBlockIsNobodys);
    }

    #[test]
    fn reasons_stay() {
        let size = Size { strangers: 1, faults: 1, kinds: &[Fault::NodeCrash], ..WRITER };
        breaks(Rule::ReasonsStay, size, Claim::NoHalfCommit);
    }

    #[test]
    fn reasons_outlive_successors() {
        let size = Size { blocks: 2, ..THREE_BLOCKS };
        breaks(Rule::ReasonsOutliveSuccessors, size, Claim::NoHalfCommit);
    }

    #[test]
    fn forgotten_is_not_good() {
        breaks(Rule::ForgottenIsNotGood, THREE_BLOCKS, Claim::NoHalfCommit);
    }

    #[test]
    fn first_release_vouches() {
        let size = Size { strangers: 1, ..WRITER };
        breaks(Rule::FirstReleaseVouches, size, Claim::NoHalfCommit);
    }

    #[test]
    fn own_block_is_named() {
        // Who had told its own caller of the end was somebody else.
        let size = Size { blocks: 2, attempts: 2, strangers: 1, ..WRITER };
        breaks(Rule::OwnBlockIsNamed, size, Claim::NoHalfCommit);
    }

    #[test]
    fn earlier_ends_are_told() {
        // Without a name nobody knows whose block it is that is released; then this is what there is to go by.
        let size = Size { blocks: 2, attempts: 2, ..WRITER };
        let claims = [Claim::NoHalfCommit];
        let both = Rules::without_both(Rule::OwnBlockIsNamed, Rule::EarlierEndsAreTold);
        assert!(explore("without both", size, both, &claims, &[]).counterexample.is_some());
        let told = Rules::without(Rule::OwnBlockIsNamed);
        assert_eq!(explore("told", size, told, &claims, &[]).counterexample, None);
    }
}

/// The list that runs in mode `2pc`, shortened and in another order.
mod other_lists {
    use super::*;

    const JOINING: Size = Size { joiner: true, writers: &[(2, 0)], ..SMALL };

    /// Without these, every claim holds in the clusters below.
    #[test]
    fn the_list_that_runs() {
        assert_eq!(Rules::ALL.steps, Mode::TwoPhase.steps());
        holds("a writer", WRITER, &[Sight::GoodBackup]);
        holds("a joiner that writes", JOINING, &[Sight::GoodBackup]);
    }

    #[test]
    fn nothing_closed() {
        list_breaks(&[SameNodes, Flush], WRITER, Claim::NoHalfCommit);
    }

    #[test]
    fn the_list_of_nodes_not_read_again() {
        list_breaks(&[Close(Tables), Flush], JOINING, Claim::NoHalfCommit);
    }

    #[test]
    fn the_list_of_nodes_read_again_too_early() {
        list_breaks(&[SameNodes, Close(Tables), Flush], JOINING, Claim::NoHalfCommit);
    }

    #[test]
    fn no_flush() {
        list_breaks(&[Close(Tables), SameNodes], WRITER, Claim::NoHalfCommit);
    }

    #[test]
    fn a_flush_too_early() {
        list_breaks(&[Flush, Close(Tables), SameNodes], WRITER, Claim::NoHalfCommit);
        list_breaks(&[SameNodes, Flush, Close(Tables)], WRITER, Claim::NoHalfCommit);
    }
}

/// The list that runs in mode `all`.
mod all_writers {
    use super::*;

    const CLAIMS: [Claim; 8] = [
        Claim::NoHalfCommit,
        Claim::NoCommitUnderWay,
        Claim::NoLockOutlivesItsDeadline,
        Claim::NothingHeldAfterTheEnd,
        Claim::ActiveHoldsAll,
        Claim::NoBlockIsNobodys,
        Claim::NobodyIsPastAGate,
        Claim::NobodyWaitsInACircle,
    ];

    fn all_hold(what: &str, size: Size) {
        let sights = [Sight::GoodBackup, Sight::GoodBackupWithCommit];
        holds_under(what, size, Rules::of(Mode::All.steps()), &CLAIMS, &sights);
    }

    #[test]
    fn the_list_that_runs() {
        let two = Size { writers: &[(0, 1), (1, 0)], ..SMALL };
        all_hold("mode all, two writers", two);
        let joining = Size { joiner: true, attempts: 2, writers: &[(2, 1)], ..SMALL };
        all_hold("mode all, a node joins", joining);
        let faulty = Size { faults: 2, kinds: EVERY_FAULT, recovery: true, ..WRITER };
        all_hold("mode all, faults", faulty);
    }

    #[test]
    fn tables_first() {
        let list = &[Close(Tables), Close(ClientGate), Close(InternalGate), SameNodes, Flush];
        list_breaks(list, WRITER, Claim::NobodyWaitsInACircle);
    }

    #[test]
    fn internal_gates_first() {
        let list = &[Close(InternalGate), Close(ClientGate), Close(Tables), SameNodes, Flush];
        list_breaks(list, WRITER, Claim::NobodyWaitsInACircle);
    }

    #[test]
    fn clients_not_held_back() {
        let list = &[Close(InternalGate), Close(Tables), SameNodes, Flush];
        list_breaks(list, WRITER, Claim::NobodyWaitsInACircle);
    }

    /// What a writer has sent before it died is prepared when all is closed.
    #[test]
    fn internal_sessions_not_held_back() {
        let list = &[Close(ClientGate), Close(Tables), SameNodes, Flush];
        let size = Size { faults: 1, kinds: &[Fault::WriterEnds], ..WRITER };
        list_breaks(list, size, Claim::NobodyIsPastAGate);
    }
}

/// Another plan, which would save a round trip: what has to be on disk is committed before its node's
/// own lock is granted, so each node can be flushed in the very statement that locks it.
#[test]
fn a_flush_with_the_lock_would_do() {
    let rules = Rules::FLUSH_WITH_THE_LOCK;
    let size = Size { nodes: 3, writers: &[(1, 2), (2, 0)], ..SMALL };
    let found = explore("flush with the lock", size, rules, &Claim::ALL, &[Sight::GoodBackup]);
    assert_eq!(found.counterexample, None);
    assert!(found.unseen.is_empty());
}
