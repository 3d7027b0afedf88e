//! Which shards of a node go to its clone.  Plain values in and out, no server.
//!
//! The larger of the two sides is made as small as can be, each side measured against its node's capacity.
//! What has to go or to stay is put there first; the rest is free, and of it only the sum of costs that goes
//! matters: the source's side falls with that sum and the clone's grows.  So the best sum is one of the two
//! next to where the sides meet.  For up to [`EXACT`] free units it is found among all there are; for more,
//! the better of two greedy plans is taken and then improved, a window of units at a time, each window exactly.
//! A step that does not improve is not taken, so that no plan is worse than either greedy one.
//!
//! Of plans that are equally good the one is taken that moves less.  The same units in the same order always
//! give the same plan.

use std::cmp::Ordering;

/// Shards that move together or not at all: those of one colocation group that hold the same range of
/// hashes (all shards of one tenant's schema, say).
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// `shardid` of each.
    pub shards: Vec<u64>,
    /// What the strategy's cost function says, in its own unit: bytes, or 1 for each group.  A number below
    /// 0, or none at all (NaN), counts as 0.
    pub cost: f64,
    /// Whether the clone may have it.
    pub may_move: bool,
    /// Whether the source may keep it.  One that may neither move nor stay stays: a split cannot take it
    /// anywhere else.
    pub may_stay: bool,
}

/// Up to so many free units a plan is the best there is.
pub const EXACT: usize = 24;

/// How many windows are looked at where there are more.
const WINDOWS: usize = 6;

/// For each unit whether it moves.
///
/// Capacities are relative to each other, in any unit.  A node of capacity 0 gets nothing that it need not
/// have; where both have none, nothing moves that need not.
#[must_use]
pub fn split(units: &[Unit], source_capacity: f64, clone_capacity: f64) -> Vec<bool> {
    let must_move = |unit: &Unit| unit.may_move && !unit.may_stay;
    let (source_capacity, clone_capacity) = (amount(source_capacity), amount(clone_capacity));
    if clone_capacity == 0.0 {
        return units.iter().map(must_move).collect();
    }
    if source_capacity == 0.0 {
        return units.iter().map(|unit| unit.may_move).collect();
    }
    let mut free: Vec<usize> =
        (0..units.len()).filter(|unit| units[*unit].may_move && units[*unit].may_stay).collect();
    // The dearest first; of equal ones the first first.
    free.sort_by(|a, b| amount(units[*b].cost).total_cmp(&amount(units[*a].cost)));
    let costs: Vec<f64> = free.iter().map(|unit| amount(units[*unit].cost)).collect();
    let cost_of = |wanted: &dyn Fn(&Unit) -> bool| -> f64 {
        units.iter().filter(|unit| wanted(unit)).map(|unit| amount(unit.cost)).sum()
    };
    let scale = Scale {
        all: cost_of(&|unit| !must_move(unit)),
        clone: cost_of(&must_move),
        source_capacity,
        clone_capacity,
    };

    let mut plan: Vec<bool> = units.iter().map(must_move).collect();
    for (unit, moves) in free.iter().zip(split_free(&costs, &scale)) {
        plan[*unit] = moves;
    }
    plan
}

/// A cost or a capacity, made a number that can be reckoned with.
fn amount(value: f64) -> f64 {
    // Sums of these are finite.
    const MOST: f64 = 1e290;
    if value.is_nan() { 0.0 } else { value.clamp(0.0, MOST) }
}

/// What the two sides come to.
struct Scale {
    /// The source's side if nothing free moves.
    all: f64,
    /// The clone's side then.
    clone: f64,
    source_capacity: f64,
    clone_capacity: f64,
}

impl Scale {
    fn sides(&self, moved: f64) -> (f64, f64) {
        ((self.all - moved) / self.source_capacity, (self.clone + moved) / self.clone_capacity)
    }

    fn larger(&self, moved: f64) -> f64 {
        let (source, clone) = self.sides(moved);
        source.max(clone)
    }

    /// True up to where the sides meet.
    fn source_is_fuller(&self, moved: f64) -> bool {
        let (source, clone) = self.sides(moved);
        source >= clone
    }

    /// The better of two sums first; of equally good ones the smaller.
    fn compare(&self, one: f64, other: f64) -> Ordering {
        self.larger(one).total_cmp(&self.larger(other)).then(one.total_cmp(&other))
    }
}

/// The free units' plan; their costs fall.
fn split_free(costs: &[f64], scale: &Scale) -> Vec<bool> {
    if costs.len() <= EXACT {
        return best_of_window(costs, 0.0, scale);
    }
    let (one, other) = (to_the_emptier(costs, scale), while_it_helps(costs, scale));
    let better = scale.compare(moved(costs, &one), moved(costs, &other)).is_le();
    let mut plan = if better { one } else { other };
    for round in 0..WINDOWS {
        let window = window(costs.len(), round);
        let inside: Vec<f64> = window.iter().map(|unit| costs[*unit]).collect();
        let mut without = plan.clone();
        for unit in &window {
            without[*unit] = false;
        }
        let mut candidate = without.clone();
        for (unit, moves) in
            window.iter().zip(best_of_window(&inside, moved(costs, &without), scale))
        {
            candidate[*unit] = moves;
        }
        if scale.compare(moved(costs, &candidate), moved(costs, &plan)).is_lt() {
            plan = candidate;
        }
    }
    plan
}

/// The sum of what moves, always added in the same order, so that equal plans have equal sums.
fn moved(costs: &[f64], plan: &[bool]) -> f64 {
    costs.iter().zip(plan).filter(|(_, moves)| **moves).map(|(cost, _)| cost).sum()
}

/// Each in turn to the side that is the less full with it.
fn to_the_emptier(costs: &[f64], scale: &Scale) -> Vec<bool> {
    let fixed = scale.all - costs.iter().sum::<f64>();
    let (mut source, mut clone) = (fixed.max(0.0), scale.clone);
    costs
        .iter()
        .map(|cost| {
            let moves =
                (clone + cost) / scale.clone_capacity < (source + cost) / scale.source_capacity;
            *(if moves { &mut clone } else { &mut source }) += cost;
            moves
        })
        .collect()
}

/// Each in turn goes if the larger side is the smaller for it.
fn while_it_helps(costs: &[f64], scale: &Scale) -> Vec<bool> {
    let mut moved = 0.0;
    costs
        .iter()
        .map(|cost| {
            let moves = scale.larger(moved + cost) < scale.larger(moved);
            if moves {
                moved += cost;
            }
            moves
        })
        .collect()
}

/// Up to [`EXACT`] of `count` units: first the cheapest, which fill gaps best; then, at even distances from
/// the dearest to the cheapest, others each time.
fn window(count: usize, round: usize) -> Vec<usize> {
    let size = EXACT.min(count);
    match round {
        0 => (count - size..count).collect(),
        _ => {
            let step = count / size;
            (0..size).map(|n| n * step + (round - 1) % step).collect()
        }
    }
}

/// Some of the units, as bits, and the sum of their costs.
#[derive(Clone, Copy)]
struct Subset {
    sum: f64,
    units: u32,
}

/// The best plan for up to [`EXACT`] units, with `base` moved beside them: all sums of one half against
/// all of the other, in one walk along both.
fn best_of_window(costs: &[f64], base: f64, scale: &Scale) -> Vec<bool> {
    let (front, back) = costs.split_at(costs.len() / 2);
    let (fronts, backs) = (subsets(front), subsets(back));
    let mut best = (Subset { sum: base, units: 0 }, Subset { sum: 0.0, units: 0 });
    let of = |pair: &(Subset, Subset)| pair.0.sum + pair.1.sum;
    let count = |pair: &(Subset, Subset)| pair.0.units.count_ones() + pair.1.units.count_ones();
    // How many of the other half's sums keep the source the fuller side: fewer as this half's grow.
    let mut below = backs.len();
    for subset in fronts {
        let one = Subset { sum: base + subset.sum, ..subset };
        while below > 0 && !scale.source_is_fuller(one.sum + backs[below - 1].sum) {
            below -= 1;
        }
        // The last before the sides meet, and the first after.
        for other in backs[below.saturating_sub(1)..].iter().take(2) {
            let pair = (one, *other);
            let order = scale.compare(of(&pair), of(&best)).then(count(&pair).cmp(&count(&best)));
            if order.is_lt() {
                best = pair;
            }
        }
    }
    let bit = |units: u32, position: usize| units >> position & 1 == 1;
    let front = (0..front.len()).map(|position| bit(best.0.units, position));
    front.chain((0..back.len()).map(|position| bit(best.1.units, position))).collect()
}

/// All sums that some of these units have, from the smallest to the largest; of equal sums the one of the
/// fewest units.
fn subsets(costs: &[f64]) -> Vec<Subset> {
    let order = |a: &Subset, b: &Subset| {
        a.sum.total_cmp(&b.sum).then(a.units.count_ones().cmp(&b.units.count_ones()))
    };
    let mut all = vec![Subset { sum: 0.0, units: 0 }];
    for (position, cost) in costs.iter().enumerate() {
        // Each without this unit and with it: two lists in order, which stay so when merged.
        let mut without = all.iter().copied().peekable();
        let with = |subset: &Subset| Subset {
            sum: subset.sum + cost,
            units: subset.units | 1 << position,
        };
        let mut with = all.iter().map(with).peekable();
        let mut merged: Vec<Subset> = Vec::with_capacity(2 * all.len());
        loop {
            let next = match (without.peek(), with.peek()) {
                (Some(one), Some(other)) if order(one, other).is_gt() => with.next(),
                (Some(_), _) => without.next(),
                (None, _) => with.next(),
            };
            let Some(next) = next else { break };
            if merged.last().is_none_or(|last| last.sum < next.sum) {
                merged.push(next);
            }
        }
        all = merged;
    }
    all
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
