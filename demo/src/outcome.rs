//! What a round measured, and what follows from it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use test_cluster::{Audit, Cluster, Mark, Summary};

use crate::report::{cents, plural};

/// A base backup that was taken.
#[derive(Clone, Debug)]
pub struct NodeCopy {
    pub began: Instant,
    pub ended: Instant,
}

/// The moments of a block, as the session that asked for it saw them.
#[derive(Clone, Copy, Debug)]
pub struct BlockTimes {
    /// The call that blocks had returned.
    pub active: Instant,
    /// The call that unblocks was sent.
    pub release_asked: Instant,
}

/// A transfer that was begun or to be committed under the block, and was answered after it.
#[derive(Clone, Debug)]
pub struct Wait {
    pub node: usize,
    pub asked: Instant,
    pub answered: Instant,
}

impl Wait {
    pub fn length(&self) -> Duration {
        self.answered - self.asked
    }
}

/// What the writers did while a round was watched.
pub struct Watch {
    pub began: Instant,
    pub ended: Instant,
    pub summary: Summary,
    pub block: Option<BlockTimes>,
}

impl Watch {
    /// What was acknowledged meanwhile: the writers begin earlier, to be warm.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.summary
            .acknowledged
            .iter()
            .filter(|mark| (self.began..=self.ended).contains(&mark.acknowledged))
    }

    pub fn length(&self) -> Duration {
        self.ended - self.began
    }

    pub fn waits(&self) -> Vec<Wait> {
        self.block.map(|block| waits(&self.summary.acknowledged, block)).unwrap_or_default()
    }

    pub fn slipped_through(&self) -> usize {
        self.block.map_or(0, |block| slipped_through(&self.summary.acknowledged, block))
    }

    /// What is against the promise of the block, or makes the round prove nothing. `nodes` are the
    /// nodes' names.
    pub fn complaints(&self, nodes: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            if !self.marks().any(|mark| mark.node == number) {
                found.push(format!("no transfer was made from {node}"));
            }
        }
        match self.slipped_through() {
            0 => {}
            count => found.push(format!("{count} two-phase commits went through the block")),
        }
        if self.block.is_some() && self.waits().is_empty() {
            found.push(String::from("no writer was held up, so the block held nothing"));
        }
        if let Some(first) = self.summary.errors.first() {
            found.push(format!(
                "{} of the writers, the first: {}",
                plural(self.summary.errors.len(), "error", "errors"),
                first.message
            ));
        }
        if !self.summary.hung.is_empty() {
            found.push(format!(
                "{} to a halt",
                plural(self.summary.hung.len(), "writer never came", "writers never came")
            ));
        }
        found
    }
}

/// What a round came to.
pub struct Outcome {
    pub watch: Watch,
    /// In the nodes' order.
    pub copies: Vec<NodeCopy>,
    pub audit: Audit,
    /// What is wrong beside the books.
    pub complaints: Vec<String>,
    pub restored: Cluster,
}

impl Outcome {
    pub fn is_whole(&self) -> bool {
        self.audit.is_clean() && self.complaints.is_empty()
    }

    /// Whether the copies do not fit together, which is what a scenario without the block is to show.
    pub fn is_torn(&self) -> bool {
        self.audit.total != self.audit.expected_total || !self.audit.half_transfers.is_empty()
    }

    /// The transfers that the copies have half of.
    pub fn torn(&self) -> HashSet<&str> {
        self.audit.half_transfers.iter().map(|half| half.transfer.as_str()).collect()
    }
}

/// What an audit found, a line each. `nodes` are the nodes' names.
pub fn findings(audit: &Audit, nodes: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    if audit.total != audit.expected_total {
        found.push(format!("the total is off by {}", cents(audit.total - audit.expected_total)));
    }
    if let Some(half) = audit.half_transfers.first() {
        let places: Vec<&str> =
            half.nodes.iter().filter_map(|node| nodes.get(*node).copied()).collect();
        found.push(format!(
            "{}; of {} there is only {} on {}",
            plural(audit.half_transfers.len(), "half transfer", "half transfers"),
            half.transfer,
            cents(half.sum),
            places.join(" and ")
        ));
    }
    let counted = [
        (audit.accounts.abs_diff(audit.expected_accounts), "account lost", "accounts lost"),
        (
            audit.balance_mismatches.len() as u64,
            "account that does not match its entries",
            "accounts that do not match their entries",
        ),
        (
            audit.prepared_left.len() as u64,
            "transaction still prepared",
            "transactions still prepared",
        ),
        (
            audit.missing_acknowledged.len() as u64,
            "transfer lost that was acknowledged before the copies",
            "transfers lost that were acknowledged before the copies",
        ),
    ];
    for (count, one, many) in counted {
        if count > 0 {
            found.push(plural(usize::try_from(count).unwrap_or(usize::MAX), one, many));
        }
    }
    found
}

/// Who waited because of a block: asked before it ended, answered after. A writer that had to wait
/// for an account which a blocked writer had locked had not sent its COMMIT by then, so its wait is
/// counted from its BEGIN.
fn waits(marks: &[Mark], block: BlockTimes) -> Vec<Wait> {
    marks
        .iter()
        .filter(|mark| mark.acknowledged > block.release_asked)
        .filter_map(|mark| {
            let asked = if mark.commit_sent < block.release_asked {
                mark.commit_sent
            } else {
                mark.started
            };
            (asked < block.release_asked).then_some(Wait {
                node: mark.node,
                asked,
                answered: mark.acknowledged,
            })
        })
        .collect()
}

/// Transfers that were asked for *and* answered under a block. There may be none.
fn slipped_through(marks: &[Mark], block: BlockTimes) -> usize {
    marks
        .iter()
        .filter(|mark| mark.commit_sent > block.active && mark.acknowledged < block.release_asked)
        .count()
}

#[cfg(test)]
mod tests {
    use test_cluster::{BalanceMismatch, HalfTransfer, PreparedLeft};

    use super::*;

    /// A mark whose three moments are milliseconds after `origin`.
    fn mark(origin: Instant, started: u64, commit_sent: u64, acknowledged: u64) -> Mark {
        let at = |ms| origin + Duration::from_millis(ms);
        Mark {
            transfer: String::from("t"),
            node: 0,
            started: at(started),
            commit_sent: at(commit_sent),
            acknowledged: at(acknowledged),
            retries: 0,
        }
    }

    fn block(origin: Instant) -> BlockTimes {
        BlockTimes {
            active: origin + Duration::from_millis(100),
            release_asked: origin + Duration::from_millis(200),
        }
    }

    #[test]
    fn waits_are_those_that_end_after_the_block() {
        let origin = Instant::now();
        let lengths = |mark| -> Vec<Duration> {
            waits(&[mark], block(origin)).iter().map(Wait::length).collect()
        };
        assert_eq!(lengths(mark(origin, 90, 95, 99)), []);
        assert_eq!(lengths(mark(origin, 90, 120, 210)), [Duration::from_millis(90)]);
        // Held up by somebody's row lock: its COMMIT came late.
        assert_eq!(lengths(mark(origin, 120, 205, 210)), [Duration::from_millis(90)]);
        assert_eq!(lengths(mark(origin, 203, 205, 210)), []);
    }

    #[test]
    fn only_what_begins_and_ends_under_the_block_slips_through() {
        let origin = Instant::now();
        let slipped = |mark| slipped_through(&[mark], block(origin));
        // Committed before, told a little later.
        assert_eq!(slipped(mark(origin, 90, 99, 101)), 0);
        assert_eq!(slipped(mark(origin, 90, 150, 201)), 0);
        assert_eq!(slipped(mark(origin, 90, 101, 150)), 1);
    }

    #[test]
    fn every_kind_of_damage_is_told() {
        let clean = Audit {
            total: 300,
            expected_total: 300,
            accounts: 3,
            expected_accounts: 3,
            transfers: 1,
            half_transfers: Vec::new(),
            balance_mismatches: Vec::new(),
            prepared_left: Vec::new(),
            missing_acknowledged: Vec::new(),
        };
        let nodes = ["coordinator", "worker1"];
        assert_eq!(findings(&clean, &nodes), Vec::<String>::new());
        let damaged = Audit {
            total: 250,
            accounts: 2,
            half_transfers: vec![HalfTransfer {
                transfer: String::from("t1"),
                entries: 1,
                sum: -50,
                nodes: vec![1],
            }],
            balance_mismatches: vec![BalanceMismatch {
                account: 1,
                node: 1,
                balance: 50,
                expected: 100,
            }],
            prepared_left: vec![PreparedLeft { node: 0, gid: String::from("citus_0_1") }],
            missing_acknowledged: vec![String::from("t2")],
            ..clean
        };
        assert_eq!(
            findings(&damaged, &nodes),
            [
                "the total is off by -0.50",
                "1 half transfer; of t1 there is only -0.50 on worker1",
                "1 account lost",
                "1 account that does not match its entries",
                "1 transaction still prepared",
                "1 transfer lost that was acknowledged before the copies",
            ]
        );
    }
}
