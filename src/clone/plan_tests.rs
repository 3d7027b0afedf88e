//! The plan against all plans there are, and against the greedy ones.

use proptest::prelude::*;

use super::{EXACT, Unit, split};

fn unit(cost: f64, may_move: bool, may_stay: bool) -> Unit {
    Unit { shards: Vec::new(), cost, may_move, may_stay }
}

fn free(costs: &[f64]) -> Vec<Unit> {
    costs.iter().map(|cost| unit(*cost, true, true)).collect()
}

/// What goes over, and how full the fuller side is: infinitely, if it has no capacity and something to hold.
fn judge(units: &[Unit], plan: &[bool], source: f64, clone: f64) -> (f64, f64) {
    let sum = |moves: bool| -> f64 {
        let side = units.iter().zip(plan).filter(|(_, moved)| **moved == moves);
        side.map(|(unit, _)| unit.cost).sum()
    };
    let full = |cost: f64, capacity: f64| match (cost, capacity) {
        (0.0, _) => 0.0,
        (_, 0.0) => f64::INFINITY,
        (cost, capacity) => cost / capacity,
    };
    (full(sum(false), source).max(full(sum(true), clone)), sum(true))
}

fn is_allowed(units: &[Unit], plan: &[bool]) -> bool {
    units.len() == plan.len()
        && units.iter().zip(plan).all(|(unit, moves)| match (unit.may_move, unit.may_stay) {
            (true, true) => true,
            (true, false) => *moves,
            (false, true | false) => !*moves,
        })
}

/// The best of all plans: the fuller side, and the least that can move for it.
fn by_force(units: &[Unit], source: f64, clone: f64) -> (f64, f64) {
    (0u32..1 << units.len())
        .map(|bits| (0..units.len()).map(|unit| bits >> unit & 1 == 1).collect::<Vec<bool>>())
        .filter(|plan| is_allowed(units, plan))
        .map(|plan| judge(units, &plan, source, clone))
        .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))
        .expect("a plan that is allowed")
}

/// What Citus' own split does: the dearest first, each moves if the sides are the closer for it.
fn greedy(units: &[Unit]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by(|a, b| units[*b].cost.total_cmp(&units[*a].cost));
    let (mut source, mut clone) = (units.iter().map(|unit| unit.cost).sum::<f64>(), 0.0);
    let mut plan = vec![false; units.len()];
    for position in order {
        let cost = units[position].cost;
        if ((source - cost) - (clone + cost)).abs() < (source - clone).abs() {
            plan[position] = true;
            source -= cost;
            clone += cost;
        }
    }
    plan
}

/// Whole numbers, so that sums are the same in any order; many of them equal, or nothing.
fn cost() -> impl Strategy<Value = f64> {
    prop_oneof![2 => Just(0.0), 3 => (1u32..6).prop_map(f64::from), 3 => (1u32..100_000).prop_map(f64::from)]
}

fn any_unit() -> impl Strategy<Value = Unit> {
    let allowed = prop_oneof![
        6 => Just((true, true)), 2 => Just((false, true)),
        1 => Just((true, false)), 1 => Just((false, false)),
    ];
    (cost(), allowed).prop_map(|(cost, (may_move, may_stay))| unit(cost, may_move, may_stay))
}

fn capacity() -> impl Strategy<Value = f64> {
    prop_oneof![4 => Just(1.0), 1 => Just(0.0), 3 => (1u32..5).prop_map(f64::from)]
}

proptest! {
    #[test]
    fn no_plan_is_better(
        units in prop::collection::vec(any_unit(), 0..=12),
        source in capacity(),
        clone in capacity(),
    ) {
        let plan = split(&units, source, clone);
        prop_assert!(is_allowed(&units, &plan), "{plan:?}");
        let (fuller, moved) = judge(&units, &plan, source, clone);
        let (least, least_moved) = by_force(&units, source, clone);
        prop_assert_eq!(fuller, least);
        // Without a capacity on both sides there is more to a plan than how full it makes them.
        if source > 0.0 && clone > 0.0 {
            prop_assert_eq!(moved, least_moved);
        }
    }

    #[test]
    fn never_worse_than_greedy(costs in prop::collection::vec(cost(), 0..=200)) {
        let units = free(&costs);
        let ours = judge(&units, &split(&units, 1.0, 1.0), 1.0, 1.0).0;
        let theirs = judge(&units, &greedy(&units), 1.0, 1.0).0;
        prop_assert!(ours <= theirs, "{ours} > {theirs}");
    }

    #[test]
    fn many_units_keep_to_what_is_allowed(
        units in prop::collection::vec(any_unit(), 0..=300),
        source in capacity(),
        clone in capacity(),
    ) {
        let plan = split(&units, source, clone);
        prop_assert!(is_allowed(&units, &plan));
        prop_assert_eq!(&split(&units, source, clone), &plan);
        let all_stay: Vec<bool> =
            units.iter().map(|unit| unit.may_move && !unit.may_stay).collect();
        if source > 0.0 && clone > 0.0 {
            let of = |plan: &[bool]| judge(&units, plan, source, clone).0;
            prop_assert!(of(&plan) <= of(&all_stay));
        }
    }

    /// Neither order of the units nor the unit of the costs makes a plan better or worse.
    #[test]
    fn only_costs_count(mut costs in prop::collection::vec(cost(), 0..=EXACT)) {
        let fuller = |costs: &[f64]| {
            let units = free(costs);
            judge(&units, &split(&units, 1.0, 1.0), 1.0, 1.0).0
        };
        let before = fuller(&costs);
        costs.reverse();
        prop_assert_eq!(fuller(&costs), before);
        let doubled: Vec<f64> = costs.iter().map(|cost| cost * 2.0).collect();
        prop_assert_eq!(fuller(&doubled), before * 2.0);
    }
}

#[test]
fn better_than_greedy_where_that_is_not_the_best() {
    let units = free(&[7.0, 6.0, 5.0, 4.0]);
    assert_eq!(judge(&units, &greedy(&units), 1.0, 1.0).0, 13.0);
    assert_eq!(judge(&units, &split(&units, 1.0, 1.0), 1.0, 1.0).0, 11.0);
}

#[test]
fn nothing_to_move() {
    assert_eq!(split(&[], 1.0, 1.0), Vec::<bool>::new());
    // One alone is on one side or the other.
    assert_eq!(split(&free(&[5.0]), 1.0, 1.0), [false]);
    // One that is dearer than all others together stays, and they go.
    assert_eq!(split(&free(&[1.0, 10.0, 2.0]), 1.0, 1.0), [true, false, true]);
    // What costs nothing is nowhere in the way.
    assert_eq!(split(&free(&[0.0, 0.0, 0.0]), 1.0, 1.0), [false, false, false]);
}

#[test]
fn of_equal_ones_half_of_them() {
    for count in [2, 3, EXACT, EXACT + 1, 1000] {
        let plan = split(&free(&vec![1.0; count]), 1.0, 1.0);
        assert_eq!(plan.iter().filter(|moves| **moves).count(), count / 2, "of {count}");
    }
}

#[test]
fn as_the_capacities_are() {
    let count = |source, clone| {
        let plan = split(&free(&[1.0; 100]), source, clone);
        plan.iter().filter(|moves| **moves).count()
    };
    assert_eq!(count(3.0, 1.0), 25);
    assert_eq!(count(1.0, 3.0), 75);
    assert_eq!(count(0.0, 1.0), 100);
    assert_eq!(count(1.0, 0.0), 0);
    assert_eq!(count(0.0, 0.0), 0);
}

#[test]
fn numbers_that_are_none() {
    let units = free(&[f64::NAN, -3.0, 2.0, 1.0]);
    assert_eq!(split(&units, 1.0, 1.0), [false, false, false, true]);
    assert_eq!(split(&units, f64::NAN, 1.0), [true; 4]);
    assert_eq!(split(&units, 1.0, f64::NAN), [false; 4]);
    assert_eq!(split(&free(&[f64::INFINITY, f64::INFINITY]), 1.0, 1.0), [false, true]);
}

/// 10,000 shards of sizes that differ as real ones do: the sides are equal but for what one small shard
/// weighs.
#[test]
fn ten_thousand() {
    let costs: Vec<f64> = (0..10_000u64)
        .map(|n| {
            // A number that looks drawn, and is the same each time.
            let drawn =
                (n.wrapping_mul(6_364_136_223_846_793_005) >> 33) as f64 / (1u64 << 31) as f64;
            (8192.0 * (drawn * 14.0).exp()).round()
        })
        .collect();
    let units = free(&costs);
    let half = costs.iter().sum::<f64>() / 2.0;
    let larger = judge(&units, &split(&units, 1.0, 1.0), 1.0, 1.0).0;
    assert!(larger - half <= 1.0, "{larger} of {half}");
}
