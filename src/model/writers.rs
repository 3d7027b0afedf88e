//! Two-phase commits, and what a restored backup makes of them.

use super::rules::{Rule, Rules};
use super::world::{Size, World};

/// What a writer's own node has of its commit.  The commit record and the writer's local rows are one
/// local transaction, and so one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    Nothing,
    /// Committed, not yet on disk.
    InMemory,
    Durable,
}

/// What the other node has of it, all of it durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Away {
    Nothing,
    Prepared,
    Committed,
}

/// One step of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Insert the commit record: RowExclusiveLock on the own node's `pg_dist_transaction`.
    Record,
    Prepare,
    Commit,
    CommitPrepared,
    Unlock,
}

/// One writer, with one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its next step.
    at: u8,
    alive: bool,
    locks: bool,
    home: Home,
    away: Away,
    /// A crash took its unflushed commit away after the other half could be committed: production has
    /// lost half of it already, and no backup is to blame.
    torn_by_crash: bool,
}

impl Writer {
    pub const NEW: Self = Self {
        at: 0,
        alive: true,
        locks: false,
        home: Home::Nothing,
        away: Away::Nothing,
        torn_by_crash: false,
    };

    fn next(&self, rules: Rules) -> Option<Step> {
        use Step::*;
        let steps = if !rules.has(Rule::RecordBeforePrepare) {
            [Prepare, Record, Commit, CommitPrepared, Unlock]
        } else if !rules.has(Rule::HoldToTheLast) {
            [Record, Prepare, Commit, Unlock, CommitPrepared]
        } else {
            [Record, Prepare, Commit, CommitPrepared, Unlock]
        };
        steps.get(usize::from(self.at)).copied()
    }

    /// Whether its session is going to finish what it has prepared.
    pub fn is_between(&self) -> bool {
        self.alive && self.away == Away::Prepared
    }

    /// Whether it has done everything.
    pub fn is_done(&self) -> bool {
        self.alive && self.home != Home::Nothing && self.away == Away::Committed && !self.locks
    }

    fn dies(&mut self) {
        self.alive = false;
        self.locks = false;
    }
}

/// What a backup holds of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    pub home: Option<bool>,
    pub away: Option<Away>,
}

impl Image {
    pub const NONE: Self = Self { home: None, away: None };

    /// Whether the restored cluster has one half and not the other.  What is prepared is committed
    /// where the record is there, else rolled back.
    fn is_torn(self) -> bool {
        let (Some(home), Some(away)) = (self.home, self.away) else { return false };
        let away = match away {
            Away::Nothing => false,
            Away::Prepared => home,
            Away::Committed => true,
        };
        home != away
    }
}

impl World {
    /// Whether a writer holds the lock of its commit record on the node.
    pub fn commits_on(&self, size: &Size, node: u8) -> bool {
        self.writers
            .iter()
            .zip(size.writers)
            .any(|(writer, (home, _))| writer.locks && *home == node)
    }

    /// The node's WAL goes to disk.
    pub fn make_durable(&mut self, size: &Size, node: u8) {
        for (writer, (home, _)) in self.writers.iter_mut().zip(size.writers) {
            if *home == node && writer.home == Home::InMemory {
                writer.home = Home::Durable;
            }
        }
    }

    /// The writer's next step; a commit waits for its flush or not.
    pub fn write(&mut self, size: &Size, rules: Rules, index: u8, flushed: bool) -> bool {
        let (home, away) = size.writers[usize::from(index)];
        if !self.listed.has(home) || !self.listed.has(away) {
            return false;
        }
        let is_fenced = self.is_fenced(home);
        let writer = &mut self.writers[usize::from(index)];
        let Some(step) = writer.next(rules).filter(|_| writer.alive) else { return false };
        match step {
            // Only a commit has two ways to go.
            Step::Record | Step::Prepare | Step::CommitPrepared | Step::Unlock if !flushed => {
                return false;
            }
            Step::Record if is_fenced => return false,
            Step::Record => writer.locks = true,
            Step::Prepare => writer.away = Away::Prepared,
            Step::Commit => writer.home = if flushed { Home::Durable } else { Home::InMemory },
            Step::CommitPrepared if writer.away == Away::Prepared => {
                writer.away = Away::Committed;
            }
            // Somebody has finished it meanwhile.
            Step::CommitPrepared => {}
            Step::Unlock => writer.locks = false,
        }
        writer.at += 1;
        true
    }

    /// A commit goes to disk in its own time.
    pub fn wal_writer(&mut self, index: u8) -> bool {
        let writer = &mut self.writers[usize::from(index)];
        let is_due = writer.home == Home::InMemory;
        if is_due {
            writer.home = Home::Durable;
        }
        is_due
    }

    /// What a writer had sent before it ended arrives only now.
    pub fn late_message(&mut self, rules: Rules, index: u8) -> bool {
        let writer = &mut self.writers[usize::from(index)];
        if writer.alive {
            return false;
        }
        match (writer.next(rules), writer.away) {
            (Some(Step::Prepare), Away::Nothing) => writer.away = Away::Prepared,
            (Some(Step::CommitPrepared), Away::Prepared) => writer.away = Away::Committed,
            _ => return false,
        }
        writer.at += 1;
        true
    }

    /// The recovery on a writer's home node, as `embedded/recovery.rs` has it: under a lock that both
    /// the fence's and a writer's keep out, whatever is prepared is taken to be left over.
    pub fn recover(&mut self, size: &Size, index: u8) -> bool {
        let is_fenced = self.is_fenced(size.writers[usize::from(index)].0);
        let writer = &mut self.writers[usize::from(index)];
        if writer.locks || writer.away != Away::Prepared || is_fenced {
            return false;
        }
        writer.away = if writer.home == Home::Nothing { Away::Nothing } else { Away::Committed };
        true
    }

    /// A writer's session ends, and with it its lock; an uncommitted transaction is aborted.
    pub fn writer_ends(&mut self, rules: Rules, index: u8) -> bool {
        let writer = &mut self.writers[usize::from(index)];
        let is_under_way = writer.alive && writer.at > 0 && writer.next(rules).is_some();
        if is_under_way {
            writer.dies();
        }
        is_under_way
    }

    /// A node's writers end with it, and its unflushed commits are undone.
    pub fn writers_crash(&mut self, size: &Size, node: u8) {
        for (writer, (home, _)) in self.writers.iter_mut().zip(size.writers) {
            if *home != node {
                continue;
            }
            if writer.at > 0 {
                writer.dies();
            }
            if writer.home == Home::InMemory {
                writer.home = Home::Nothing;
                writer.torn_by_crash = true;
            }
        }
    }

    /// A copy of what the node has on disk.
    pub fn take_image(&mut self, size: &Size, node: u8) {
        for (index, (home, away)) in size.writers.iter().enumerate() {
            let writer = &self.writers[index];
            let image = &mut self.operator.images[index];
            if *home == node {
                image.home = Some(writer.home == Home::Durable);
            }
            if *away == node {
                image.away = Some(writer.away);
            }
        }
    }

    /// Whether the backup, restored, holds half of a commit that production has whole.
    pub fn has_torn_backup(&self) -> bool {
        self.operator
            .images
            .iter()
            .zip(&self.writers)
            .any(|(image, writer)| image.is_torn() && !writer.torn_by_crash)
    }
}
