//! What must always hold, and what must be possible.

use stateright::Property;

use super::Exploration;
use super::nodes::Closed;
use super::people::{Call, Caller, Ended};
use super::rules::Rules;
use super::slot::ticks;
use super::worker::Phase;
use super::world::World;
use super::writers::Away;
use crate::block::state::State;
use crate::fence::steps::Barrier::{ClientGate, InternalGate};

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// No backup that its operator takes for good holds half a commit once it is restored.
    NoHalfCommit,
    /// While every lock is held, no session is between its PREPARE and its COMMIT PREPARED.
    NoCommitUnderWay,
    /// No lock outlives its block's deadline and the grace after it.
    NoLockOutlivesItsDeadline,
    /// A block whose end has been written down holds nothing on a node that answers.  Where its
    /// worker died, what the nodes have not noticed yet is held by nobody who lives.
    NothingHeldAfterTheEnd,
    /// As long as nothing fails, an active block holds every lock until its deadline.
    ActiveHoldsAll,
    /// No block is active whose caller left before it was told.
    NoBlockIsNobodys,
    /// Where the gates are closed: while everything is, nobody is past one of them.
    NobodyIsPastAGate,
    /// No attempt waits for a writer who waits for that attempt.
    NobodyWaitsInACircle,
}

impl Claim {
    /// What holds whatever the mode.
    pub const ALL: [Self; 6] = [
        Self::NoHalfCommit,
        Self::NoCommitUnderWay,
        Self::NoLockOutlivesItsDeadline,
        Self::NothingHeldAfterTheEnd,
        Self::ActiveHoldsAll,
        Self::NoBlockIsNobodys,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::NoHalfCommit => "no good backup holds half a commit",
            Self::NoCommitUnderWay => "no commit is under way while all is locked",
            Self::NoLockOutlivesItsDeadline => "no lock outlives its deadline",
            Self::NothingHeldAfterTheEnd => "nothing is held after the end",
            Self::ActiveHoldsAll => "an active block holds all until its deadline",
            Self::NoBlockIsNobodys => "no active block is nobody's",
            Self::NobodyIsPastAGate => "nobody is past a gate while all are closed",
            Self::NobodyWaitsInACircle => "nobody waits in a circle",
        }
    }

    pub fn property(self) -> Property<Exploration> {
        let condition: fn(&Exploration, &World) -> bool = match self {
            Self::NoHalfCommit => |_, world| !(is_good(world) && world.has_torn_backup()),
            Self::NoCommitUnderWay => |exploration, world| {
                !(world.writers.iter().any(|writer| writer.is_between())
                    && is_all_locked(exploration.rules, world))
            },
            Self::NoLockOutlivesItsDeadline => |_, world| {
                (0..world.begun).all(|life| {
                    world.lives[usize::from(life)].due >= -(ticks::BOUND as i8)
                        || !holds_anything(world, life, true)
                })
            },
            Self::NothingHeldAfterTheEnd => |_, world| {
                (0..world.begun).all(|index| {
                    let life = &world.lives[usize::from(index)];
                    let is_dying = matches!(life.worker.phase, Phase::Gone | Phase::Exiting);
                    match life.ended {
                        None => true,
                        Some(Ended::Died) if is_dying => true,
                        Some(_) => !holds_anything(world, index, false),
                    }
                })
            },
            Self::ActiveHoldsAll => |exploration, world| {
                world.slot.state != State::Active
                    || world.slot.expires_in == 0
                    || world.faults < exploration.size.faults
                    || is_all_locked(exploration.rules, world)
            },
            Self::NoBlockIsNobodys => |_, world| {
                world.slot.state != State::Active
                    || world
                        .life_of(world.slot.generation)
                        .is_none_or(|life| world.lives[life].caller != Caller::Left)
            },
            Self::NobodyIsPastAGate => |exploration, world| {
                let Exploration { size, rules, .. } = exploration;
                let is_passed = |node, gate| world.is_passed(size, *rules, node, gate);
                !is_all_locked(*rules, world)
                    || (0..size.nodes)
                        .all(|node| !is_passed(node, ClientGate) && !is_passed(node, InternalGate))
            },
            Self::NobodyWaitsInACircle => |exploration, world| {
                let Exploration { size, rules, .. } = exploration;
                (0..world.begun).all(|life| !world.is_in_a_circle(size, *rules, life))
            },
        };
        Property::always(self.name(), condition)
    }
}

/// What must be possible, lest the claims hold of a model in which nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A backup that its operator takes for good.
    GoodBackup,
    /// One with a whole commit in it, whose other half is only known by its record.
    GoodBackupWithCommit,
    /// A writer that was kept out of a good backup, and is through.
    BlockedWriterFinishes,
    /// A good backup of a cluster that has grown since the first look at it.
    GoodBackupWithNewNode,
    /// A backup that its operator knows to be worthless.
    BadBackup,
    /// An error that waits to be cleared.
    Error,
    /// A prepared transaction that its writer left behind, in a good backup.
    InDoubtInGoodBackup,
}

impl Sight {
    pub fn name(self) -> &'static str {
        match self {
            Self::GoodBackup => "a good backup",
            Self::GoodBackupWithCommit => "a good backup with a commit",
            Self::BlockedWriterFinishes => "a blocked writer finishes",
            Self::GoodBackupWithNewNode => "a good backup with a new node",
            Self::BadBackup => "a backup known to be bad",
            Self::Error => "an error",
            Self::InDoubtInGoodBackup => "a transaction in doubt in a good backup",
        }
    }

    pub fn property(self) -> Property<Exploration> {
        let condition: fn(&Exploration, &World) -> bool = match self {
            Self::GoodBackup => |_, world| is_good(world),
            Self::GoodBackupWithCommit => |_, world| {
                is_good(world) && world.operator.images.iter().any(|image| image.home == Some(true))
            },
            Self::BlockedWriterFinishes => |_, world| {
                is_good(world)
                    && world.operator.images.iter().zip(&world.writers).any(|(image, writer)| {
                        image.away == Some(Away::Nothing) && writer.is_done()
                    })
            },
            Self::GoodBackupWithNewNode => {
                |exploration, world| is_good(world) && world.listed.has(exploration.size.nodes)
            }
            Self::BadBackup => |_, world| world.operator.call == Call::Heard(false),
            Self::Error => |_, world| world.slot.state == State::Error,
            Self::InDoubtInGoodBackup => |_, world| {
                is_good(world)
                    && world.operator.images.iter().any(|image| image.away == Some(Away::Prepared))
            },
        };
        Property::sometimes(self.name(), condition)
    }
}

fn is_good(world: &World) -> bool {
    world.operator.call == Call::Heard(true)
}

/// Whether a block holds a lock anywhere, or (unless `silent_too`) on a node that answers.
fn holds_anything(world: &World, life: u8, silent_too: bool) -> bool {
    world.lives[usize::from(life)].worker.has_list
        || world.lives[usize::from(life)].worker.closed != Closed::NONE
        || world
            .parties
            .iter()
            .filter(|party| party.life == life)
            .flat_map(|party| &party.sessions)
            .any(|session| session.holds() && (silent_too || !session.silent))
}

/// Whether a block is active and every lock of it is held.
fn is_all_locked(rules: Rules, world: &World) -> bool {
    world.slot.state == State::Active
        && world.life_of(world.slot.generation).is_some_and(|life| {
            let worker = &world.lives[life].worker;
            let party = &world.parties[usize::from(worker.party)];
            matches!(worker.phase, Phase::Holding | Phase::Extending)
                && rules.barriers().all(|barrier| {
                    let closed = |node| party.sessions[usize::from(node)].closed;
                    worker.closed.has(barrier)
                        && party.list.remote().all(|node| closed(node).has(barrier))
                })
        })
}
