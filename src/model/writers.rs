//! Two-phase commits, and what a restored backup makes of them.

use super::rules::{Rule, Rules};
use super::world::{Size, World};
use crate::fence::steps::Barrier::{self, ClientGate, InternalGate, Tables};

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
    /// Pass the own node's gate.  Only where gates are closed at all.
    Pass,
    /// Insert the commit record: RowExclusiveLock on the own node's `pg_dist_transaction`.
    Record,
    /// On the other node, whose internal gate it passes; what is prepared holds that.
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
        let at = match self.at.checked_sub(rules.has_gates.into()) {
            Some(at) => at,
            None => return Some(Pass),
        };
        let steps = if !rules.has(Rule::RecordBeforePrepare) {
            [Prepare, Record, Commit, CommitPrepared, Unlock]
        } else if !rules.has(Rule::HoldToTheLast) {
            [Record, Prepare, Commit, Unlock, CommitPrepared]
        } else {
            [Record, Prepare, Commit, CommitPrepared, Unlock]
        };
        steps.get(usize::from(at)).copied()
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
    /// Whether a writer is past the barrier on the node, and has yet to end.
    pub fn is_passed(&self, size: &Size, rules: Rules, node: u8, barrier: Barrier) -> bool {
        self.who_passed(size, rules, node, barrier).next().is_some()
    }

    /// Who is past the barrier on the node, by index.
    fn who_passed(
        &self,
        size: &Size,
        rules: Rules,
        node: u8,
        barrier: Barrier,
    ) -> impl Iterator<Item = usize> {
        (0..size.writers.len()).filter(move |index| {
            let writer = &self.writers[*index];
            let (home, away) = size.writers[*index];
            match barrier {
                ClientGate => {
                    let is_under_way = writer.at > 0 && writer.next(rules).is_some();
                    home == node && writer.alive && is_under_way
                }
                InternalGate => away == node && writer.away == Away::Prepared,
                Tables => home == node && writer.locks,
            }
        })
    }

    /// Whether the block closes a barrier somewhere that a writer waits for who is himself in the way of it.
    pub fn is_in_a_circle(&self, size: &Size, rules: Rules, life: u8) -> bool {
        self.wanted(rules, life).any(|(node, barrier)| {
            self.who_passed(size, rules, node, barrier).any(|index| {
                let (home, away) = size.writers[index];
                let writer = &self.writers[index];
                let waits_for = match writer.next(rules).filter(|_| writer.alive) {
                    Some(Step::Pass) => (home, ClientGate),
                    Some(Step::Record) => (home, Tables),
                    Some(Step::Prepare) => (away, InternalGate),
                    Some(Step::Commit | Step::CommitPrepared | Step::Unlock) | None => {
                        return false;
                    }
                };
                self.is_closed_by(life, waits_for.0, waits_for.1)
            })
        })
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
        let mut writer = self.writers[usize::from(index)];
        let Some(step) = writer.next(rules).filter(|_| writer.alive) else { return false };
        match step {
            // Only a commit has two ways to go.
            Step::Pass | Step::Record | Step::Prepare | Step::CommitPrepared | Step::Unlock
                if !flushed =>
            {
                return false;
            }
            Step::Pass if self.is_closed(home, ClientGate) => return false,
            Step::Pass => {}
            Step::Record if self.is_closed(home, Tables) => return false,
            Step::Record => writer.locks = true,
            Step::Prepare if self.is_closed(away, InternalGate) => return false,
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
        self.writers[usize::from(index)] = writer;
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
    pub fn late_message(&mut self, size: &Size, rules: Rules, index: u8) -> bool {
        let mut writer = self.writers[usize::from(index)];
        if writer.alive {
            return false;
        }
        let is_shut_away = self.is_closed(size.writers[usize::from(index)].1, InternalGate);
        match (writer.next(rules), writer.away) {
            (Some(Step::Prepare), Away::Nothing) if !is_shut_away => writer.away = Away::Prepared,
            (Some(Step::CommitPrepared), Away::Prepared) => writer.away = Away::Committed,
            _ => return false,
        }
        writer.at += 1;
        self.writers[usize::from(index)] = writer;
        true
    }

    /// The recovery on a writer's home node, as `embedded/recovery.rs` has it: under a lock that both
    /// the fence's and a writer's keep out, whatever is prepared is taken to be left over.
    pub fn recover(&mut self, size: &Size, index: u8) -> bool {
        let home = size.writers[usize::from(index)].0;
        let Writer { locks, away, .. } = self.writers[usize::from(index)];
        if locks
            || away != Away::Prepared
            || self.is_closed(home, Tables)
            || self.is_closed(home, InternalGate)
        {
            return false;
        }
        let writer = &mut self.writers[usize::from(index)];
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
