//! One round: writers at full speed, a copy of every node, and the copies restored and audited. The
//! two scenarios differ in nothing but the block.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use test_cluster::{Audit, Bank, Cluster, ISOLATION, Mark, PATIENCE, Restore, Summary, WalMethod};

use crate::console::Console;
use crate::error::{DemoError, Result};
use crate::psql::Session;
use crate::report::{cents, plural, seconds};

/// How long the writers are watched before and after the copies.
const MARGIN: Duration = Duration::from_millis(500);

/// What every writer does before anything is measured: connections and plans are warm then.
const WARM_UP_TRANSFERS: u64 = 15;

pub const BLOCK: &str = "SELECT citus_block_writes_for_backup()";
pub const UNBLOCK: &str = "SELECT citus_unblock_writes_for_backup()";
const MANIFEST: &str =
    "SELECT groupid, nodename, nodeport, wal_lsn FROM citus_backup_block_nodes()";
const WAITERS: &str = "SELECT nodeport, pid, usename, \
     round(extract(epoch FROM now() - waiting_since) * 1000) AS waiting_ms, \
     left(query, 40) AS query FROM citus_backup_block_waiters()";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    WithBlock,
    WithoutBlock,
}

/// What stays the same for every round.
pub struct Stage<'a> {
    pub console: &'a Console,
    pub cluster: &'a Cluster,
    pub bank: &'a Bank,
    pub writers_per_node: usize,
    pub delay: Duration,
}

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

/// What a round measured.
pub struct Outcome {
    /// Watched from here …
    pub began: Instant,
    /// … to here.
    pub ended: Instant,
    pub summary: Summary,
    /// In the nodes' order.
    pub copies: Vec<NodeCopy>,
    pub block: Option<BlockTimes>,
    pub audit: Audit,
    /// What is wrong beside the books.
    pub complaints: Vec<String>,
    pub restored: Cluster,
}

impl Outcome {
    pub fn is_whole(&self) -> bool {
        self.audit.is_clean() && self.complaints.is_empty()
    }

    /// Only of what was acknowledged while the round was watched.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.summary
            .acknowledged
            .iter()
            .filter(|mark| (self.began..=self.ended).contains(&mark.acknowledged))
    }

    pub fn waits(&self) -> Vec<Wait> {
        self.block.map(|block| waits(&self.summary.acknowledged, block)).unwrap_or_default()
    }

    /// The transfers that the copies have half of.
    pub fn torn(&self) -> HashSet<&str> {
        self.audit.half_transfers.iter().map(|half| half.transfer.as_str()).collect()
    }
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

impl Stage<'_> {
    /// Plays a scenario. `before` are transfers of earlier rounds, which every copy has to have;
    /// `round` names the folder of the copies.
    pub fn play(&self, scenario: Scenario, round: &str, before: &[Mark]) -> Result<Outcome> {
        let console = self.console;
        console.busy("transfers");
        let writers = self.bank.start_writers(self.cluster, self.writers_per_node)?;
        let count = self.cluster.nodes().len() * self.writers_per_node;
        writers.wait_for_more(WARM_UP_TRANSFERS * count as u64, PATIENCE)?;
        let (began, warm) = (Instant::now(), writers.acknowledged());
        pause(MARGIN);
        let per_second = (writers.acknowledged() - warm) as f64 / began.elapsed().as_secs_f64();
        console.say(format!(
            "{count} writers, {} at each node: {per_second:.0} two-phase commits per second",
            self.writers_per_node
        ));

        let mut complaints = Vec::new();
        let mut session = match scenario {
            Scenario::WithBlock => {
                Some(Session::open(self.cluster.coordinator(), self.cluster.database())?)
            }
            Scenario::WithoutBlock => None,
        };
        let mut active = None;
        if let Some(session) = &mut session {
            let answer = session.show(console, BLOCK)?;
            active = Some(answer.answered);
            if !answer.is_true() {
                complaints.push(String::from("the call that blocks did not return true"));
            }
            session.show(console, MANIFEST)?;
        }

        let (paths, copies) = self.copy_all(round, session.as_mut())?;

        let mut block = None;
        if let (Some(session), Some(active)) = (&mut session, active) {
            let answer = session.show(console, UNBLOCK)?;
            block = Some(BlockTimes { active, release_asked: answer.sent });
            if !answer.is_true() {
                complaints.push(String::from("the block had ended before it was asked to"));
            }
            complaints.extend(answer.warnings().map(|warning| format!("WARNING: {warning}")));
        }

        console.busy("transfers");
        pause(MARGIN);
        let ended = Instant::now();
        let summary = writers.stop();
        self.tell_of_writers(&summary, (began, ended), block, &mut complaints);

        let restored = self.restore(&paths)?;
        console.busy("audit");
        let copied_after = active.unwrap_or(copies[0].began);
        let had_to_be_there = before
            .iter()
            .map(|mark| mark.transfer.as_str())
            .chain(summary.transfers_before(copied_after));
        let audit = self.bank.audit(&restored, had_to_be_there)?;
        console.say(format!(
            "audit, each shard read on its own node: {} in {} accounts, {} transfers",
            cents(audit.total),
            audit.accounts,
            audit.transfers,
        ));
        let outcome = Outcome { began, ended, summary, copies, block, audit, complaints, restored };
        self.tell_of_damage(&outcome);
        Ok(outcome)
    }

    /// One base backup after the other, with the delay between them.
    fn copy_all(
        &self,
        round: &str,
        mut session: Option<&mut Session>,
    ) -> Result<(Vec<PathBuf>, Vec<NodeCopy>)> {
        let mut paths = Vec::new();
        let mut copies: Vec<NodeCopy> = Vec::new();
        for (number, node) in self.cluster.nodes().iter().enumerate() {
            if number > 0 {
                self.console.busy(format!("a delay before the copy of {}", node.name()));
                pause(self.delay);
            }
            self.console.busy(format!("copying {}", node.name()));
            let path = self.cluster.copy_target(round, number)?;
            let began = Instant::now();
            node.base_backup(&path, WalMethod::Stream)?;
            let ended = Instant::now();
            let bytes = size_of_tree(&path)?;
            self.console.say(format!(
                "pg_basebackup -D {} --wal-method=stream --checkpoint=fast: {}, {:.0} MB{}",
                node.name(),
                seconds(ended - began),
                bytes as f64 / 1e6,
                match copies.last() {
                    Some(last) => format!(
                        "; begun {} after the one before ended",
                        seconds(began - last.ended)
                    ),
                    None => String::new(),
                }
            ));
            paths.push(path);
            copies.push(NodeCopy { began, ended });
            // Once, in the middle: whoever is held up has been so for a while.
            if let (1, Some(session)) = (number, session.as_mut()) {
                session.show(self.console, WAITERS)?;
            }
        }
        Ok((paths, copies))
    }

    fn tell_of_writers(
        &self,
        summary: &Summary,
        (began, ended): (Instant, Instant),
        block: Option<BlockTimes>,
        complaints: &mut Vec<String>,
    ) {
        let console = self.console;
        let watched = (began..=ended, ended - began);
        let count_at = |node: Option<usize>| {
            summary
                .acknowledged
                .iter()
                .filter(|mark| watched.0.contains(&mark.acknowledged))
                .filter(|mark| node.is_none_or(|node| mark.node == node))
                .count()
        };
        let per_node: Vec<String> = self
            .cluster
            .nodes()
            .iter()
            .enumerate()
            .map(|(number, node)| {
                let count = count_at(Some(number));
                if count == 0 {
                    // A scenario in which a node did nothing shows nothing about that node.
                    complaints.push(format!("no transfer was made from {}", node.name()));
                }
                format!("{} {count}", node.name())
            })
            .collect();
        console.say(format!(
            "writers stopped: {} two-phase commits in {} ({})",
            count_at(None),
            seconds(watched.1),
            per_node.join(", ")
        ));
        if let Some(block) = block {
            let waits = waits(&summary.acknowledged, block);
            let longest = waits.iter().map(Wait::length).max().unwrap_or_default();
            let slipped = slipped_through(&summary.acknowledged, block);
            console.say(format!(
                "blocked for {}: {} waited, the longest {}; {slipped} committed in it",
                seconds(block.release_asked - block.active),
                plural(waits.len(), "writer", "writers"),
                seconds(longest),
            ));
            if slipped > 0 {
                complaints.push(format!("{slipped} two-phase commits went through the block"));
            }
            if waits.is_empty() {
                complaints.push(String::from("no writer was held up, so the block held nothing"));
            }
        }
        if let Some(first) = summary.errors.first() {
            complaints.push(format!(
                "{} of the writers, the first: {}",
                plural(summary.errors.len(), "error", "errors"),
                first.message
            ));
        }
        if !summary.hung.is_empty() {
            complaints.push(format!("{} hang", plural(summary.hung.len(), "writer", "writers")));
        }
    }

    /// The documented recipe, step by step.
    fn restore(&self, paths: &[PathBuf]) -> Result<Cluster> {
        let console = self.console;
        console.busy("restoring");
        let begun = Instant::now();
        console.say("restore, on every copy:");
        let mut restore = Restore::new(self.cluster, paths)?;
        restore.isolate()?;
        for (name, value) in ISOLATION {
            console.plain(format!("           {name} = {value}"));
        }
        restore.start()?;
        console.plain("         start, clients kept out");
        restore.rewrite_addresses()?;
        console.plain(format!(
            "           UPDATE pg_dist_node SET nodename = …, nodeport = … WHERE groupid = …;  \
             -- for each of {} nodes",
            paths.len()
        ));
        let recovered = restore.recover_prepared()?;
        console.plain(format!(
            "           SELECT recover_prepared_transactions();  -- {recovered} in all"
        ));
        restore.end_isolation()?;
        console.plain("         settings taken back, restarted");
        console.say(format!("restored as a cluster of its own in {}", seconds(begun.elapsed())));
        Ok(restore.into_cluster())
    }

    fn tell_of_damage(&self, outcome: &Outcome) {
        let audit = &outcome.audit;
        let mut findings = Vec::new();
        if audit.total != audit.expected_total {
            findings
                .push(format!("the total is off by {}", cents(audit.total - audit.expected_total)));
        }
        if !audit.half_transfers.is_empty() {
            let half = &audit.half_transfers[0];
            findings.push(format!(
                "{}, such as {}, of which {} is only on {}",
                plural(audit.half_transfers.len(), "half transfer", "half transfers"),
                half.transfer,
                cents(half.sum),
                half.nodes
                    .iter()
                    .map(|node| self.cluster.node(*node).name())
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        let counted = [
            (
                audit.balance_mismatches.len(),
                "account that does not match its entries",
                "accounts that do not match their entries",
            ),
            (
                audit.prepared_left.len(),
                "transaction still prepared",
                "transactions still prepared",
            ),
            (
                audit.missing_acknowledged.len(),
                "acknowledged transfer lost",
                "acknowledged transfers lost",
            ),
        ];
        for (count, one, many) in counted {
            if count > 0 {
                findings.push(plural(count, one, many));
            }
        }
        findings.extend(outcome.complaints.iter().cloned());
        if findings.is_empty() {
            self.console.say("nothing is missing, nothing is half there");
        }
        for finding in findings {
            self.console.say(finding);
        }
    }
}

/// Lets time pass. The demo's subject is what happens meanwhile, so there is no state to wait for.
fn pause(length: Duration) {
    thread::sleep(length); // wait: see above
}

fn size_of_tree(root: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        let entries = fs::read_dir(&folder).map_err(DemoError::file("list", &folder))?;
        for entry in entries {
            let path = entry.map_err(DemoError::file("list", &folder))?.path();
            let metadata =
                fs::symlink_metadata(&path).map_err(DemoError::file("look at", &path))?;
            if metadata.is_dir() {
                pending.push(path);
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
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
}
