//! The explorations: what holds with every rule in force, and what each rule is there for.
//!
//! Run with `--nocapture` to see the number of states, and the shortest counterexamples.

use super::Exploration;
use super::properties::{Claim, Sight};
use super::rules::{Rule, Rules};
use super::world::{Kind, SOURCE, Size};
use crate::model::search::{Found, search};

/// Coordinator and source, nobody writes, and nothing goes wrong.
const SMALL: Size =
    Size { nodes: 2, writers: &[], two_phase: false, retries: 0, faults: 0, lags: false };
/// The same, and somebody writes at the source.
const WRITER: Size = Size { writers: &[Kind::At(SOURCE)], ..SMALL };
const LOCKLESS: Size = Size { writers: &[Kind::Lockless(0)], ..SMALL };
const TWO_PHASE: Size = Size { two_phase: true, ..SMALL };
const CLIENT_OF_THE_CLONE: Size = Size { writers: &[Kind::AtClone], ..SMALL };

fn explore(
    what: &str,
    size: Size,
    rules: Rules,
    claims: &[Claim],
    sights: &[Sight],
) -> Found<super::Action> {
    search(what, Exploration { size, rules, claims: claims.to_vec(), sights: sights.to_vec() })
}

/// With every rule in force every claim holds, and the sights are there to be seen.
fn holds(what: &str, size: Size, sights: &[Sight]) {
    let found = explore(what, size, Rules::ALL, &Claim::ALL, sights);
    assert_eq!(found.counterexample, None, "{what}");
    assert!(found.unseen.is_empty(), "{what}: never seen: {:?}", found.unseen);
}

/// Without the rule the claim does not hold; with it, in the same cluster, it does.
fn breaks(rule: Rule, size: Size, claim: Claim) {
    breaks_under(&format!("without {rule:?}"), Rules::without(rule), size, claim);
}

fn breaks_under(what: &str, rules: Rules, size: Size, claim: Claim) {
    let found = explore(what, size, rules, &[claim], &[]);
    assert!(found.counterexample.is_some(), "{what}: this still holds: {claim:?}");
    let found = explore(&format!("{what}, but with it"), size, Rules::ALL, &[claim], &[]);
    assert_eq!(found.counterexample, None, "with the rule");
}

#[test]
fn a_split_under_writers_at_every_node() {
    const KINDS: &[Kind] =
        &[Kind::At(0), Kind::At(1), Kind::At(2), Kind::Lockless(0), Kind::Lockless(1)];
    let size = Size { nodes: 3, writers: KINDS, retries: 1, ..SMALL };
    holds("writers at every node", size, &[Sight::Done, Sight::WrittenThere, Sight::Refused]);
}

#[test]
fn a_split_with_any_two_faults() {
    let sights = [Sight::Done, Sight::BackAfterHold, Sight::Resumed, Sight::WrittenThere];
    const KINDS: &[Kind] = &[Kind::At(1), Kind::At(0), Kind::Lockless(0)];
    holds("any 2 faults", Size { writers: KINDS, retries: 1, faults: 2, ..SMALL }, &sights);
    const MORE: &[Kind] = &[Kind::At(2), Kind::Lockless(1), Kind::AtClone];
    holds("3 nodes, any 2 faults", Size { nodes: 3, writers: MORE, faults: 2, ..SMALL }, &sights);
}

#[test]
fn a_split_beside_a_two_phase_commit_of_the_source() {
    let size = Size { writers: &[Kind::At(0)], faults: 2, ..TWO_PHASE };
    holds("a two-phase commit, any 2 faults", size, &[Sight::Done, Sight::Over, Sight::Resumed]);
}

#[test]
fn a_split_beside_kept_sessions_ddl_and_what_is_in_doubt() {
    const KINDS: &[Kind] = &[Kind::Kept(1), Kind::Ddl, Kind::InDoubt(0), Kind::Kept(0)];
    let sights = [Sight::Done, Sight::WrittenThere];
    holds("kept, DDL, in doubt", Size { writers: KINDS, faults: 1, ..SMALL }, &sights);
}

#[test]
fn a_split_at_a_coordinator_that_has_forgotten_its_last_steps() {
    const KINDS: &[Kind] = &[Kind::At(1), Kind::Lockless(0), Kind::AtClone];
    let size = Size { writers: KINDS, faults: 2, lags: true, ..SMALL };
    holds("a lagging standby takes over", size, &[Sight::Done, Sight::Resumed]);
}

#[test]
fn what_each_rule_is_there_for() {
    // The seal alone keeps what it lets through from being lost, and refuses the rest.
    breaks(Rule::EveryNode, WRITER, Claim::NobodyRefused);
    let rules = Rules::without_both(Rule::EveryNode, Rule::Seal);
    breaks_under("without EveryNode and Seal", rules, WRITER, Claim::NothingLost);
    breaks(Rule::EveryNode, WRITER, Claim::OneOwner);
    breaks(Rule::Seal, LOCKLESS, Claim::NothingLost);
    breaks(Rule::SealStays, LOCKLESS, Claim::NothingLost);
    breaks(Rule::PreparedFirst, Size { faults: 1, ..WRITER }, Claim::NothingLost);
    breaks(Rule::PreparedFirst, Size { faults: 1, ..SMALL }, Claim::OneOwner);
    breaks(Rule::TargetUnderLocks, WRITER, Claim::NothingLost);
    breaks(Rule::GateClosed, CLIENT_OF_THE_CLONE, Claim::NothingLost);
    breaks(Rule::Harmless, TWO_PHASE, Claim::NothingUndone);
    breaks(Rule::WrittenFirst, Size { faults: 1, ..SMALL }, Claim::ComesToRest);
    breaks(Rule::IdentityFirst, CLIENT_OF_THE_CLONE, Claim::NothingLost);
    const KEPT: Size = Size { writers: &[Kind::Kept(SOURCE)], ..SMALL };
    breaks(Rule::NewPlacementIds, KEPT, Claim::NobodyRefused);
    let rules = Rules::without_both(Rule::NewPlacementIds, Rule::SealStays);
    breaks_under("without NewPlacementIds and SealStays", rules, KEPT, Claim::NothingLost);
    breaks(Rule::NodesLocked, Size { writers: &[Kind::Ddl], ..SMALL }, Claim::NothingLost);
    const IN_DOUBT: Size = Size { writers: &[Kind::InDoubt(0)], ..SMALL };
    breaks(Rule::PreparedDrained, IN_DOUBT, Claim::NothingLost);
    const LAGS: Size = Size { lags: true, faults: 1, ..SMALL };
    breaks(Rule::LooksAhead, Size { writers: &[Kind::At(SOURCE)], ..LAGS }, Claim::NothingLost);
    breaks(
        Rule::PromotedStaysClosed,
        Size { writers: &[Kind::AtClone], ..LAGS },
        Claim::NothingLost,
    );
}
