//! The explorations: what holds with every rule in force, and what each rule is there for.
//!
//! Run with `--nocapture` to see the number of states, and the shortest counterexamples.

use super::Exploration;
use super::properties::{Claim, Sight};
use super::rules::{Rule, Rules};
use super::world::{Fault, Size};
use super::writers::{Kind, Route};
use crate::fence::steps::Barrier::{ClientGate, InternalGate};
use crate::fence::steps::Step::{self, Close, FinishInDoubt, NobodyInSteps, SameNodes};
use crate::model::search::{Found, search};
use crate::readonly::cluster::STEPS;

/// A coordinator and a worker node, one call with one attempt, and nothing goes wrong.
const SMALL: Size = Size {
    nodes: 2,
    joiner: false,
    writers: &[],
    left: None,
    command_on: None,
    calls: 1,
    attempts: 1,
    faults: 0,
    kinds: &[],
};

/// The same with a writer on the worker node, whose other half is on the coordinator.
const WRITER: Size = Size { writers: &[Route::two_phase(1, 0)], ..SMALL };

/// The same, left in doubt: undecided, that is without its record, or committed.
const LEFT: Size = Size { left: Some(false), ..WRITER };
const LEFT_WITH_RECORD: Size = Size { left: Some(true), ..WRITER };

const COMMAND: Size = Size { command_on: Some(1), ..SMALL };

const EVERY_FAULT: &[Fault] = &[
    Fault::CallerDies,
    Fault::NodeCrash,
    Fault::Silence,
    Fault::NotSwitched,
    Fault::NotOpened,
    Fault::NoteStays,
    Fault::WriterEnds,
];

fn explore(
    what: &str,
    size: Size,
    rules: Rules,
    claims: &[Claim],
    sights: &[Sight],
) -> Found<super::Action> {
    search(what, Exploration::new(size, rules, claims, sights))
}

/// With every rule in force every claim holds, and the sights are there to be seen.
fn holds(what: &str, size: Size, more: &[Claim], sights: &[Sight]) {
    let claims = [&Claim::ALL, more].concat();
    let found = explore(what, size, Rules::ALL, &claims, sights);
    assert_eq!(found.counterexample, None, "{what}");
    assert!(found.unseen.is_empty(), "{what}: never seen: {:?}", found.unseen);
}

fn breaks_under(what: &str, rules: Rules, size: Size, claim: Claim) {
    let found = explore(what, size, rules, &[claim], &[]);
    assert!(found.counterexample.is_some(), "{what}: this still holds: {claim:?}");
    let found = explore(&format!("{what}, but with it"), size, Rules::ALL, &[claim], &[]);
    assert_eq!(found.counterexample, None, "with the rule");
}

/// Without the rule the claim does not hold; with it, in the same cluster, it does.
fn breaks(rule: Rule, size: Size, claim: Claim) {
    breaks_under(&format!("without {rule:?}"), Rules::without(rule), size, claim);
}

/// The same with another list.
fn list_breaks(steps: &'static [Step], size: Size, claim: Claim) {
    breaks_under(&format!("{steps:?}"), Rules::of(steps), size, claim);
}

mod every_rule_in_force {
    use super::*;

    const NO_WAIT: [Claim; 2] = [Claim::NobodyWaitsInACircle, Claim::NobodyWaitsForWhatIsLeft];

    #[test]
    fn the_list_that_runs() {
        assert_eq!(Rules::ALL.steps, STEPS);
    }

    #[test]
    fn writers_of_every_kind() {
        const COMMITS: &[Route] = &[Route::two_phase(1, 2), Route::two_phase(2, 0)];
        let size = Size { nodes: 3, writers: COMMITS, attempts: 2, ..SMALL };
        let sights = [Sight::ReadOnly, Sight::ReadOnlyAfterCommit, Sight::Failed];
        holds("three nodes, two writers", size, &NO_WAIT, &sights);
        const OTHERS: &[Route] = &[
            Route { home: 0, away: 1, kind: Kind::OneShard },
            Route { home: 1, away: 0, kind: Kind::Pretender },
        ];
        let size = Size { writers: OTHERS, attempts: 2, ..SMALL };
        holds("one shard, and a pretender", size, &[], &sights);
    }

    #[test]
    fn what_is_left() {
        let sights = [Sight::ReadOnlyAfterRecovery];
        let faulty = Size { attempts: 2, faults: 1, kinds: EVERY_FAULT, ..LEFT };
        holds("left without a record", faulty, &NO_WAIT, &sights);
        let faulty = Size { left: Some(true), ..faulty };
        holds("left with a record", faulty, &NO_WAIT, &sights);
    }

    #[test]
    fn a_command_in_steps() {
        let kinds = &[Fault::CallerDies, Fault::NodeCrash, Fault::Silence];
        let size = Size { attempts: 2, command_on: Some(1), faults: 1, kinds, ..WRITER };
        holds("a command in steps", size, &NO_WAIT, &[Sight::ReadOnlyAfterCommand]);
    }

    #[test]
    fn a_node_joins() {
        const FROM_NEW_NODE: &[Route] = &[Route::two_phase(2, 0)];
        let size = Size { joiner: true, attempts: 2, writers: FROM_NEW_NODE, ..SMALL };
        holds("a node joins", size, &NO_WAIT, &[Sight::ReadOnlyWithNewNode]);
    }

    #[test]
    fn commits_with_two_faults() {
        let size = Size { attempts: 2, faults: 2, kinds: EVERY_FAULT, ..WRITER };
        let sights = [
            Sight::ReadOnly,
            Sight::ReadOnlyAfterCommit,
            Sight::Failed,
            Sight::HalfWay,
            Sight::NoteLeft,
            Sight::DeadHalfWay,
        ];
        holds("writer on a worker node, faults", size, &NO_WAIT[..1], &sights);
        const FROM_COORDINATOR: &[Route] = &[Route::two_phase(0, 1)];
        let size = Size { writers: FROM_COORDINATOR, ..size };
        holds("writer on the coordinator, faults", size, &NO_WAIT[..1], &sights);
    }

    #[test]
    fn three_nodes_with_a_fault() {
        const BETWEEN_OTHERS: &[Route] = &[Route::two_phase(1, 2)];
        let size =
            Size { nodes: 3, writers: BETWEEN_OTHERS, faults: 1, kinds: EVERY_FAULT, ..SMALL };
        holds("three nodes, a fault", size, &NO_WAIT[..1], &[Sight::ReadOnly, Sight::DeadHalfWay]);
    }

    #[test]
    fn two_calls_with_two_faults() {
        let size = Size { calls: 2, attempts: 2, faults: 2, kinds: EVERY_FAULT, ..SMALL };
        holds("two calls", size, &[], &[Sight::ReadOnlyAtLast, Sight::HalfWay, Sight::NoteLeft]);
    }

    #[test]
    fn two_calls_and_a_writer_with_a_fault() {
        let size = Size { calls: 2, attempts: 3, faults: 1, kinds: EVERY_FAULT, ..WRITER };
        holds("two calls and a writer", size, &[], &[Sight::ReadOnlyAtLast]);
    }
}

mod other_lists {
    use super::*;

    const WRITER_ENDS: Size =
        Size { attempts: 1, faults: 2, kinds: &[Fault::WriterEnds, Fault::CallerDies], ..WRITER };

    #[test]
    fn internal_gates_first() {
        let list =
            &[Close(InternalGate), NobodyInSteps, FinishInDoubt, Close(ClientGate), SameNodes];
        list_breaks(list, WRITER, Claim::NobodyWaitsInACircle);
    }

    #[test]
    fn clients_not_held_back() {
        let list = &[NobodyInSteps, FinishInDoubt, Close(InternalGate), SameNodes];
        list_breaks(list, WRITER, Claim::WritersEndByThemselves);
    }

    /// What a writer has sent before it died is prepared behind the recovery.
    #[test]
    fn internal_sessions_not_held_back() {
        let list = &[Close(ClientGate), NobodyInSteps, FinishInDoubt, SameNodes];
        list_breaks(list, WRITER_ENDS, Claim::NothingIsStuck);
    }

    #[test]
    fn nodes_switched_before_all_gates_are_closed() {
        let list = &[SameNodes];
        list_breaks(list, WRITER, Claim::WritersEndByThemselves);
        let dying = Size { faults: 1, kinds: &[Fault::CallerDies], ..WRITER };
        list_breaks(list, dying, Claim::NothingIsStuck);
        list_breaks(list, COMMAND, Claim::NoCommandIsCut);
    }

    #[test]
    fn nothing_finished() {
        let list = &[Close(ClientGate), NobodyInSteps, Close(InternalGate), SameNodes];
        list_breaks(list, LEFT, Claim::NobodyWaitsForWhatIsLeft);
        list_breaks(list, LEFT_WITH_RECORD, Claim::NobodyWaitsForWhatIsLeft);
        let found = explore("nothing finished", LEFT, Rules::of(list), &[], &[Sight::ReadOnly]);
        assert!(!found.unseen.is_empty(), "it comes to an end without");
    }

    #[test]
    fn finished_behind_the_internal_gates() {
        let list =
            &[Close(ClientGate), NobodyInSteps, Close(InternalGate), FinishInDoubt, SameNodes];
        list_breaks(list, LEFT, Claim::NobodyWaitsForWhatIsLeft);
    }

    #[test]
    fn commands_in_steps_not_looked_for() {
        let list = &[Close(ClientGate), FinishInDoubt, Close(InternalGate), SameNodes];
        list_breaks(list, COMMAND, Claim::NoCommandIsCut);
    }

    #[test]
    fn commands_in_steps_looked_for_too_early() {
        let list =
            &[NobodyInSteps, Close(ClientGate), FinishInDoubt, Close(InternalGate), SameNodes];
        list_breaks(list, COMMAND, Claim::NoCommandIsCut);
    }

    #[test]
    fn the_list_of_nodes_not_read_again() {
        let joining = Size { joiner: true, ..SMALL };
        let list = &[Close(ClientGate), NobodyInSteps, FinishInDoubt, Close(InternalGate)];
        list_breaks(list, joining, Claim::SuccessIsWhole);
    }

    #[test]
    fn the_list_of_nodes_read_again_too_early() {
        let joining = Size { joiner: true, ..SMALL };
        let list =
            &[SameNodes, Close(ClientGate), NobodyInSteps, FinishInDoubt, Close(InternalGate)];
        list_breaks(list, joining, Claim::SuccessIsWhole);
    }
}

mod one_rule_out {
    use super::*;

    #[test]
    fn steps_await_answers() {
        breaks(Rule::StepsAwaitAnswers, WRITER, Claim::WritersEndByThemselves);
    }

    #[test]
    fn note_first() {
        let size = Size { faults: 1, kinds: &[Fault::CallerDies], ..SMALL };
        breaks(Rule::NoteFirst, size, Claim::WhatRefusesIsWrittenDown);
    }

    /// It is no matter of safety; see the head of this model.
    #[test]
    fn this_node_last() {
        let size = Size { calls: 2, attempts: 2, faults: 2, kinds: EVERY_FAULT, ..SMALL };
        breaks(Rule::ThisNodeLast, SMALL, Claim::ThisNodeIsLast);
        let rules = Rules::without(Rule::ThisNodeLast);
        let found = explore("all nodes at once", size, rules, &Claim::ALL, &[]);
        assert_eq!(found.counterexample, None);
    }

    #[test]
    fn switch_awaits_answers() {
        breaks(Rule::SwitchAwaitsAnswers, SMALL, Claim::SuccessIsWhole);
        let size = Size { nodes: 3, faults: 1, kinds: &[Fault::NotSwitched], ..SMALL };
        breaks(Rule::SwitchAwaitsAnswers, size, Claim::WhatRefusesIsWrittenDown);
    }

    #[test]
    fn undo_on_failure() {
        let size = Size { nodes: 3, faults: 1, kinds: &[Fault::NotSwitched], ..SMALL };
        breaks(Rule::UndoOnFailure, size, Claim::FailureIsWhole);
    }

    #[test]
    fn letting_go_awaits_answers() {
        breaks(Rule::LettingGoAwaitsAnswers, SMALL, Claim::NothingHeldAfterTheEnd);
    }

    #[test]
    fn silence_bound() {
        let size = Size { faults: 1, kinds: &[Fault::Silence], ..SMALL };
        breaks(Rule::SilenceBound, size, Claim::NoGateStaysClosed);
        // A node that hears of the switch after it was taken back.
        breaks(Rule::SilenceBound, size, Claim::WhatRefusesIsWrittenDown);
    }
}
