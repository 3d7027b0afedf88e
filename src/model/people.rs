//! Whoever calls functions: callers of blocks, the operator who takes the copies, strangers.

use super::nodes::Nodes;
use super::rules::{Rule, Rules};
use super::slot;
use super::worker::{Phase, Worker};
use super::world::{Size, WRITERS, World};
use super::writers::Image;
use crate::block::state::{Failure, Named, Release, State};

/// Where a caller of `citus_block_writes_for_backup` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    Waits,
    /// It returned true.
    Told,
    /// It raised an error, or its session died.
    Answered,
    /// It left before it was told.
    Left,
}

/// How a block came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// By its worker's last word, or before there was a worker.
    Told,
    /// By the end of its worker.
    Died,
}

/// One block, from its begin to the last of its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Life {
    /// The token: there is only one slot.
    pub generation: u8,
    pub caller: Caller,
    pub worker: Worker,
    pub ended: Option<Ended>,
    /// Ticks until its locks should be gone.
    pub due: i8,
}

impl Life {
    pub const NONE: Self =
        Self { generation: 0, caller: Caller::Answered, worker: Worker::GONE, ended: None, due: 0 };
}

/// Where the operator's call of `citus_unblock_writes_for_backup` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    NotYet,
    /// Waits for the end of the block with this generation.
    Waits {
        generation: u8,
        vouches: bool,
    },
    /// The backup is good, or it is not.
    Heard(bool),
}

/// Who takes copies of all nodes, once the first block is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operator {
    /// The block that it was told of.
    pub block: Option<u8>,
    /// Nodes still to be copied.
    pub todo: Nodes,
    /// What the copies hold, by writer.
    pub images: [Image; WRITERS],
    pub call: Call,
}

impl Operator {
    pub const NEW: Self =
        Self { block: None, todo: Nodes::NONE, images: [Image::NONE; WRITERS], call: Call::NotYet };

    /// The call returns, and says whether the backup is good.
    pub fn hears(&mut self, good: bool) {
        self.call = Call::Heard(good);
        if !good {
            self.images = [Image::NONE; WRITERS];
        }
    }
}

impl World {
    /// `control::begin`.
    pub fn begin(&mut self, size: &Size, rules: Rules) -> bool {
        if self.begun == size.blocks {
            return false;
        }
        self.reap(rules);
        let Some(generation) = self.slot.begin(self.begun) else { return false };
        self.lives[usize::from(self.begun)] = Life {
            generation,
            caller: Caller::Waits,
            worker: Worker { phase: Phase::Registered, ..Worker::GONE },
            ended: None,
            due: 0,
        };
        self.begun += 1;
        true
    }

    /// A turn of the loop in `api::block`.
    pub fn caller_looks(&mut self, size: &Size, rules: Rules, life: u8) -> bool {
        let Life { generation, caller, worker, .. } = self.lives[usize::from(life)];
        if caller != Caller::Waits {
            return false;
        }
        let caller = if self.outcome(generation).is_some() {
            Caller::Answered
        } else if self.slot.state == State::Active {
            if self.operator.block.is_none() {
                self.operator.block = Some(life);
                // Copies of nodes that no writer writes on hold nothing that anybody looks at.
                let written = size.writers.iter().flat_map(|(home, away)| [*home, *away]);
                self.operator.todo =
                    written.filter(|node| self.listed.has(*node)).fold(Nodes::NONE, Nodes::with);
            }
            Caller::Told
        } else if worker.phase == Phase::Gone {
            self.slot.act(|block| block.abandon(generation.into()));
            self.note_end(rules, Ended::Died);
            Caller::Left
        } else {
            return false;
        };
        self.lives[usize::from(life)].caller = caller;
        true
    }

    /// `control::abandon`, on every way out of a session that waits.
    pub fn caller_leaves(&mut self, rules: Rules, life: u8) -> bool {
        let Life { generation, caller, .. } = self.lives[usize::from(life)];
        if caller != Caller::Waits {
            return false;
        }
        if rules.has(Rule::AbandonOnLeaving) {
            self.slot.act(|block| block.abandon(generation.into()));
            self.note_end(rules, Ended::Told);
        }
        self.lives[usize::from(life)].caller = Caller::Left;
        true
    }

    /// A copy of one node.
    pub fn copy(&mut self, size: &Size, node: u8) -> bool {
        if self.operator.call != Call::NotYet || !self.operator.todo.has(node) {
            return false;
        }
        self.operator.todo = self.operator.todo.without(node);
        self.take_image(size, node);
        true
    }

    /// `api::unblock`, by the operator, after the last copy.
    pub fn unblock(&mut self, rules: Rules) -> bool {
        let Operator { block: Some(own), todo: Nodes::NONE, call: Call::NotYet, .. } =
            self.operator
        else {
            return false;
        };
        let named = rules.has(Rule::OwnBlockIsNamed).then_some(own);
        let Asked { release, earlier } = self.ask_release(rules, named);
        match release {
            Release::Asked(generation)
            | Release::Unstarted(generation)
            | Release::Joined(generation)
            | Release::GivenUp(generation) => {
                let generation = generation as u8;
                let is_first = matches!(release, Release::Asked(_));
                let vouches = (is_first || !rules.has(Rule::FirstReleaseVouches))
                    && (!earlier.is_some() || !rules.has(Rule::EarlierEndsAreTold));
                self.operator.call = Call::Waits { generation, vouches };
            }
            Release::Cleared | Release::Nothing | Release::Over => self.operator.hears(false),
        }
        true
    }

    /// A turn of the loop in `api::wait_for_end`.
    pub fn unblock_looks(&mut self, rules: Rules) -> bool {
        let Call::Waits { generation, vouches } = self.operator.call else { return false };
        self.reap(rules);
        let Some(failure) = self.outcome(generation) else { return false };
        let is_forgotten = self.slot.generation > generation + 1;
        let passes_for_good = is_forgotten && !rules.has(Rule::ForgottenIsNotGood);
        self.operator.hears(vouches && (passes_for_good || !failure.is_some()));
        true
    }

    /// `api::unblock`, by somebody else; the wait for its end changes nothing.
    pub fn stranger_unblocks(&mut self, rules: Rules) -> bool {
        if self.strangers == 0 || self.slot.generation == 0 {
            return false;
        }
        self.strangers -= 1;
        self.ask_release(rules, None);
        true
    }

    /// `citus_extend_backup_block`, up to the wait for the answer.
    pub fn ask_extension(&mut self) -> bool {
        if self.extensions == 0 || self.slot.state != State::Active {
            return false;
        }
        self.extensions -= 1;
        self.slot.post_extension()
    }

    /// `control::ask_release`, of any block or of the one with this index, named by its number.
    fn ask_release(&mut self, rules: Rules, named: Option<u8>) -> Asked {
        self.reap(rules);
        let named = named.map_or(Named::Any, |own| Named::Number(slot::start_of(own)));
        if self.slot.generation == 0 {
            let release = if named == Named::Any { Release::Nothing } else { Release::Over };
            return Asked { release, earlier: Failure::NONE };
        }
        let was_inactive = self.slot.state == State::Inactive;
        let asked = self.slot.act(|block| {
            let earlier = match (named, block.state) {
                (Named::Any, State::Inactive) => {
                    block.take_end_reason();
                    Failure::NONE
                }
                (Named::Any, _) => block.take_previous_reason(),
                (Named::Start(_) | Named::Number(_), _) => {
                    block.take_reason_of(named);
                    Failure::NONE
                }
            };
            Asked { release: block.ask_release_of(named), earlier }
        });
        if was_inactive && !rules.has(Rule::ReasonsStay) {
            self.slot.failed = false;
        }
        self.note_end(rules, Ended::Told);
        asked
    }

    /// `control::reap`, which everybody does who looks.  True when it cleared something.
    pub fn reap(&mut self, rules: Rules) -> bool {
        if !self.slot.is_live() {
            return false;
        }
        let lives = self.lives;
        let is_alive = |process| {
            lives.iter().zip(0..).any(|(life, index)| {
                (process == slot::worker(index) && life.worker.phase != Phase::Gone)
                    || (process == slot::caller(index) && life.caller == Caller::Waits)
            })
        };
        let cleared = self.slot.act(|block| block.reap(is_alive, slot::lost()));
        self.note_end(rules, Ended::Died);
        cleared
    }

    /// Writes down how the slot's block ended, if it just did.
    pub fn note_end(&mut self, rules: Rules, how: Ended) {
        if self.slot.is_live() {
            return;
        }
        if !rules.has(Rule::ReasonsOutliveSuccessors) {
            self.slot.previous_failed = false;
        }
        if let Some(life) = self.life_of(self.slot.generation) {
            self.lives[life].ended.get_or_insert(how);
        }
    }

    /// `Block::outcome`, asked only where there may be one: it takes the whole block to ask.
    fn outcome(&self, generation: u8) -> Option<Failure> {
        let may_be = self.slot.generation != generation || !self.slot.is_live();
        may_be.then(|| self.slot.outcome(generation)).flatten()
    }
}

/// What asking for the release found.
struct Asked {
    release: Release,
    earlier: Failure,
}
