//! What is claimed of a split, and what has to be possible for the claims to say anything.

use stateright::{Model, Property};

use super::Exploration;
use super::world::{Hold, Kind, Place, Role, TwoPhase, World, Writer};
use crate::clone::state::{Step, Way};

/// What holds in every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Whatever was acknowledged is where the shard is, or will be.
    NothingLost,
    /// As long as some node sends writes to the old place, none sends them to the new one.
    OneOwner,
    /// What the source has decided is not undone.
    NothingUndone,
    /// As long as nothing goes wrong, no writer is refused that takes the lock.
    NobodyRefused,
    /// Where nothing more can happen, the split is done, or everything is as before.
    ComesToRest,
}

impl Claim {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::NothingLost,
        Self::OneOwner,
        Self::NothingUndone,
        Self::NobodyRefused,
        Self::ComesToRest,
    ];

    /// For the checker.
    pub fn property(self) -> Property<Exploration> {
        match self {
            Self::NothingLost => Property::always("nothing acknowledged is lost", nothing_lost),
            Self::OneOwner => Property::always("one owner at a time", one_owner),
            Self::NothingUndone => {
                Property::always("nothing decided is undone", |_, world: &World| {
                    !(world.decided && world.two_phase == TwoPhase::RolledBack)
                })
            }
            Self::NobodyRefused => Property::always(
                "nobody with a lock is refused",
                |model: &Exploration, world: &World| {
                    let mut all = world.writers.iter().zip(model.size.writers);
                    world.faults < model.size.faults
                        || !all.any(|(writer, kind)| {
                            let has_lock = match kind {
                                Kind::At(_) | Kind::Kept(_) | Kind::InDoubt(_) | Kind::Ddl => true,
                                Kind::Lockless(_) | Kind::AtClone => false,
                            };
                            *writer == Writer::Failed && has_lock
                        })
                },
            ),
            Self::ComesToRest => Property::always("comes to rest", comes_to_rest),
        }
    }
}

/// A clone that was promoted is where the shard will be: there is no way back from there. What a client of the clone
/// wrote while it took itself for its source is in a shard that is not the clone's.
fn nothing_lost(model: &Exploration, world: &World) -> bool {
    // A registry that has forgotten the last steps leads back, unless a node remembers them.
    let leads_forward = matches!(world.step.way(), Way::Forward | Way::Done)
        || world.holds.contains(&Hold::Committed);
    let gone_over = world.clone != Role::Standby && leads_forward;
    world.writers.iter().zip(model.size.writers).enumerate().all(|(index, (writer, kind))| {
        let Writer::Acknowledged(_) = writer else { return true };
        let bit = 1 << index;
        match kind {
            Kind::AtClone => world.clone == Role::Itself,
            _ if gone_over => world.at_clone & bit != 0,
            // Whoever finishes it finds it.
            Kind::InDoubt(_) => true,
            Kind::At(_) | Kind::Lockless(_) | Kind::Kept(_) | Kind::Ddl => {
                world.at_source & bit != 0
            }
        }
    })
}

/// A node whose writers are held sends nothing anywhere.
fn one_owner(model: &Exploration, world: &World) -> bool {
    let sends = |place: Place| {
        (0..model.size.nodes).any(|node| {
            let is_free = matches!(world.holds[node], Hold::None | Hold::Committed);
            is_free && world.place_seen_at(node) == place
        })
    };
    !(sends(Place::Source) && sends(Place::Clone))
}

fn comes_to_rest(model: &Exploration, world: &World) -> bool {
    let mut actions = Vec::new();
    model.actions(world, &mut actions);
    !actions.is_empty() || world.rests(&model.size)
}

/// What has to be seen somewhere, or a claim holds for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The split is done.
    Done,
    /// It was put back after something was held.
    BackAfterHold,
    /// A driver came back after the promotion, and finished.
    Resumed,
    /// A write went to the new place.
    WrittenThere,
    /// A write that had been planned before was refused at the old place.
    Refused,
    /// A two-phase commit was decided before the promotion, and ended after it.
    Over,
}

impl Sight {
    /// For the checker.
    pub fn property(self) -> Property<Exploration> {
        match self {
            Self::Done => {
                Property::sometimes("done", |_, world: &World| world.step == Step::Cleaned)
            }
            Self::BackAfterHold => Property::sometimes("back", |_, world: &World| {
                world.step == Step::Prepared && world.holds.contains(&Hold::Prepared)
            }),
            Self::Resumed => Property::sometimes("resumed", |_, world: &World| {
                world.resumed && world.step == Step::Cleaned
            }),
            Self::WrittenThere => Property::sometimes("written there", |_, world: &World| {
                world.writers.contains(&Writer::Acknowledged(Place::Clone))
            }),
            Self::Refused => Property::sometimes("refused", |_, world: &World| {
                world.seal == Hold::Committed && world.writers.contains(&Writer::Failed)
            }),
            Self::Over => Property::sometimes("over", |_, world: &World| {
                world.clone == Role::Promoted && world.decided && !world.record_at_clone
            }),
        }
    }
}
