//! One round: writers at full speed, a copy of every node, and the copies restored and audited. With the block all of it
//! is done by the command; without, by what a script does: `pg_basebackup` of one node after the other, and the restore
//! by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use test_cluster::{Bank, Cluster, Mark, PATIENCE, Restore, WalMethod};

use crate::command::{self, Backup};
use crate::console::Console;
use crate::error::{DemoError, Result};
use crate::outcome::{BlockTimes, NodeCopy, Outcome, Wait, Watch, findings};
use crate::psql::Session;
use crate::report::{cents, plural, seconds};

/// How long the writers are watched before and after the copies.
const MARGIN: Duration = Duration::from_millis(500);

/// What every writer does before anything is measured: connections and plans are warm then.
const WARM_UP_TRANSFERS: u64 = 15;

const MANIFEST: &str =
    "SELECT groupid, nodename, nodeport, wal_lsn FROM citus_backup_block_nodes()";
const WAITERS: &str = "SELECT nodeport, pid, usename, now() - waiting_since AS waiting, \
     left(query, 30) AS query FROM citus_backup_block_waiters()";

/// For how long the copies are under way before the waiters are shown: whoever is held up has been so for a while.
const LOOK_AT_WAITERS_AFTER: Duration = Duration::from_millis(100);

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

/// What was copied, and where to.
struct Copied {
    place: Place,
    copies: Vec<NodeCopy>,
    block: Option<BlockTimes>,
}

enum Place {
    /// The command's directory.
    Backup(PathBuf),
    /// A directory for each node.
    Copies(Vec<PathBuf>),
}

impl Stage<'_> {
    /// The nodes' names.
    pub fn names(&self) -> Vec<&str> {
        self.cluster.nodes().iter().map(test_cluster::Server::name).collect()
    }

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

        let Copied { place, copies, block } = match scenario {
            Scenario::WithBlock => self.back_up(round)?,
            Scenario::WithoutBlock => self.copy_all(round)?,
        };

        console.busy("transfers");
        pause(MARGIN);
        let ended = Instant::now();
        let watch = Watch { began, ended, summary: writers.stop(), block };
        self.tell_of_writers(&watch);
        let complaints = watch.complaints(&self.names());

        let restored = match &place {
            Place::Backup(dir) => self.restore_by_command(dir)?,
            Place::Copies(paths) => self.restore_by_hand(paths)?,
        };
        console.busy("audit");
        let copied_after = match (watch.block, copies.first()) {
            (Some(block), _) => block.active,
            (None, Some(first)) => first.began,
            (None, None) => began,
        };
        let had_to_be_there = before
            .iter()
            .map(|mark| mark.transfer.as_str())
            .chain(watch.summary.transfers_before(copied_after));
        let audit = self.bank.audit(&restored, had_to_be_there)?;
        console.say(format!(
            "audit, each shard read on its own node: {} in {} accounts, {} transfers",
            cents(audit.total),
            audit.accounts,
            audit.transfers,
        ));
        let found = [findings(&audit, &self.names()), complaints.clone()].concat();
        if found.is_empty() {
            console.say("nothing is missing, nothing is half there");
        }
        for finding in found {
            console.say(finding);
        }
        Ok(Outcome { watch, copies, audit, complaints, restored })
    }

    /// By the command; while its copies are under way, who waits is shown.
    fn back_up(&self, round: &str) -> Result<Copied> {
        self.console.busy("citus-fence backup");
        let mut session = Session::open(self.cluster.coordinator(), self.cluster.database())?;
        let mut backup = Backup::start(self.console, self.cluster, round)?;
        let mut copying = None;
        let mut shown = false;
        loop {
            if backup.is_copying()? && !shown {
                let began = *copying.get_or_insert_with(Instant::now);
                if began.elapsed() >= LOOK_AT_WAITERS_AFTER {
                    session.show(self.console, MANIFEST)?;
                    session.show(self.console, WAITERS)?;
                    shown = true;
                }
            }
            if !backup.goes_on()? {
                break;
            }
        }
        backup.is_copying()?;
        let (dir, block, copies) = backup.end(self.console)?;
        Ok(Copied { place: Place::Backup(dir), copies, block: Some(block) })
    }

    /// One base backup after the other, with the delay between them.
    fn copy_all(&self, round: &str) -> Result<Copied> {
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
            let megabytes = size_of_tree(&path)? as f64 / 1e6;
            let gap = match copies.last() {
                Some(last) => format!(", begun {} after that", seconds(began - last.ended)),
                None => String::new(),
            };
            self.console.say(format!(
                "pg_basebackup -D {} --checkpoint=fast --wal-method=stream: {megabytes:.0} MB in \
                 {}{gap}",
                node.name(),
                seconds(ended - began),
            ));
            paths.push(path);
            copies.push(NodeCopy { began, ended });
        }
        Ok(Copied { place: Place::Copies(paths), copies, block: None })
    }

    fn tell_of_writers(&self, watch: &Watch) {
        let console = self.console;
        let per_node: Vec<String> = self
            .names()
            .iter()
            .enumerate()
            .map(|(number, node)| {
                let count = watch.marks().filter(|mark| mark.node == number).count();
                format!("{node} {count}")
            })
            .collect();
        console.say(format!(
            "writers stopped: {} two-phase commits in {} ({})",
            watch.marks().count(),
            seconds(watch.length()),
            per_node.join(", ")
        ));
        if let Some(block) = watch.block {
            let waits = watch.waits();
            let longest = waits.iter().map(Wait::length).max().unwrap_or_default();
            console.say(format!(
                "blocked for {}: {} committed in it; {} for it and went on, the longest for {}",
                seconds(block.release_asked - block.active),
                watch.slipped_through(),
                plural(waits.len(), "writer waited", "writers waited"),
                seconds(longest),
            ));
        }
    }

    fn restore_by_command(&self, dir: &Path) -> Result<Cluster> {
        self.console.busy("restoring");
        let begun = Instant::now();
        let restored = command::restore(self.console, self.cluster, dir)?;
        self.console.say(format!("restored in {}", seconds(begun.elapsed())));
        Ok(restored)
    }

    /// The documented recipe for whoever has no command.
    fn restore_by_hand(&self, paths: &[PathBuf]) -> Result<Cluster> {
        self.console.busy("restoring");
        let begun = Instant::now();
        let mut restore = Restore::new(self.cluster, paths)?;
        restore.isolate()?;
        restore.start()?;
        restore.rewrite_addresses()?;
        let recovered = restore.recover_prepared()?;
        restore.end_isolation()?;
        self.console.say(format!(
            "restored in {} by hand, {} recovered",
            seconds(begun.elapsed()),
            plural(
                usize::try_from(recovered).unwrap_or(usize::MAX),
                "prepared transaction",
                "prepared transactions"
            )
        ));
        Ok(restore.into_cluster())
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
