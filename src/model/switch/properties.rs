//! What must always hold, and what must be possible.

use stateright::Property;

use super::Exploration;
use super::caller::{Outcome, Phase};
use super::world::World;
use super::writers::{Away, Command};

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// No transaction is committed on one node and rolled back on another.
    NoHalfCommit,
    /// Nothing is prepared that its own node, or the one where it is, would refuse to finish.
    NothingIsStuck,
    /// Once the call has returned success every node refuses, and nobody who had passed is left.
    SuccessIsWhole,
    /// A call that fails without further words leaves every node writing, unless an earlier one has left its
    /// note.
    FailureIsWhole,
    /// As long as a node refuses, the note says so.
    WhatRefusesIsWrittenDown,
    /// No gate is closed for longer than a node keeps what it hears nothing more from.
    NoGateStaysClosed,
    /// When a call has returned it keeps no gate closed on a node that answers.
    NothingHeldAfterTheEnd,
    /// No command that commits on its way is refused or ended when it is half done.
    NoCommandIsCut,
    /// No writer that has passed a gate is ended by a switch.
    WritersEndByThemselves,
    /// No attempt waits for a writer who waits for that attempt.
    NobodyWaitsInACircle,
    /// As long as nothing else fails, no attempt waits for what a crash has left.
    NobodyWaitsForWhatIsLeft,
    /// While a call switches nodes, this one refuses only when all others do.
    ThisNodeIsLast,
}

impl Claim {
    /// What holds in every cluster.
    pub const ALL: [Self; 9] = [
        Self::NoHalfCommit,
        Self::NothingIsStuck,
        Self::SuccessIsWhole,
        Self::FailureIsWhole,
        Self::WhatRefusesIsWrittenDown,
        Self::NoGateStaysClosed,
        Self::NothingHeldAfterTheEnd,
        Self::NoCommandIsCut,
        Self::WritersEndByThemselves,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NoHalfCommit => "no commit is half a commit",
            Self::NothingIsStuck => "nothing prepared is stuck",
            Self::SuccessIsWhole => "success means that every node refuses",
            Self::FailureIsWhole => "failure means that every node writes",
            Self::WhatRefusesIsWrittenDown => "what refuses is written down",
            Self::NoGateStaysClosed => "no gate stays closed",
            Self::NothingHeldAfterTheEnd => "nothing is held after the end",
            Self::NoCommandIsCut => "no command is cut",
            Self::WritersEndByThemselves => "writers end by themselves",
            Self::NobodyWaitsInACircle => "nobody waits in a circle",
            Self::NobodyWaitsForWhatIsLeft => "nobody waits for what is left",
            Self::ThisNodeIsLast => "this node is the last one",
        }
    }

    pub fn property(self) -> Property<Exploration> {
        let condition: fn(&Exploration, &World) -> bool = match self {
            Self::NoHalfCommit => |exploration, world| {
                world.routes(&exploration.size).all(|(writer, route)| match writer.away {
                    Away::Committed => writer.committed || !route.is_two_phase(),
                    Away::RolledBack => !writer.committed,
                    Away::Nothing | Away::Open | Away::Prepared => true,
                })
            },
            Self::NothingIsStuck => |exploration, world| {
                world.routes(&exploration.size).all(|(writer, route)| {
                    writer.away != Away::Prepared
                        || !world.read_only.has(route.home) && !world.read_only.has(route.away)
                })
            },
            Self::SuccessIsWhole => |exploration, world| {
                !has_said(world, Outcome::ReadOnly)
                    || world.read_only.has_all(world.listed)
                        && world
                            .routes(&exploration.size)
                            .all(|(writer, route)| !writer.is_under_way(route.kind))
            },
            Self::FailureIsWhole => |_, world| {
                !has_said(world, Outcome::Failed)
                    || world.note
                    || world.read_only.all().next().is_none()
            },
            Self::WhatRefusesIsWrittenDown => {
                |_, world| world.note || world.read_only.all().next().is_none()
            }
            Self::NoGateStaysClosed => |_, world| {
                let mut sessions = world.parties.iter().flat_map(|party| &party.sessions);
                sessions.all(|session| session.ends_in >= 0 || !session.holds())
            },
            Self::NothingHeldAfterTheEnd => |_, world| {
                let parties = world.parties.iter().filter(|party| !party.is_orphan);
                let mut sessions = parties.flat_map(|party| &party.sessions);
                !matches!(world.caller.phase, Phase::Returned(_))
                    || sessions.all(|session| session.silent || !session.holds())
            },
            Self::NoCommandIsCut => |_, world| world.command != Command::Cut,
            Self::WritersEndByThemselves => {
                |_, world| world.writers.iter().all(|writer| !writer.ended)
            }
            Self::NobodyWaitsInACircle => {
                |exploration, world| !world.waits_in_a_circle(&exploration.size, exploration.rules)
            }
            Self::NobodyWaitsForWhatIsLeft => |exploration, world| {
                world.faults < exploration.size.faults
                    || !world.waits_for_what_is_left(&exploration.size, exploration.rules)
            },
            Self::ThisNodeIsLast => |_, world| {
                !matches!(world.caller.phase, Phase::Others | Phase::Own)
                    || !world.read_only.has(0)
                    || world.read_only.has_all(world.party_of_caller().list)
            },
        };
        Property::always(self.name(), condition)
    }
}

/// What must be possible, lest the claims hold of a model in which nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The cluster is switched.
    ReadOnly,
    /// It is, and a two-phase commit is whole.
    ReadOnlyAfterCommit,
    /// It is, and what was left prepared at the beginning is finished.
    ReadOnlyAfterRecovery,
    /// It is, and has grown.
    ReadOnlyWithNewNode,
    /// It is, and the command in steps is done.
    ReadOnlyAfterCommand,
    /// A second call has finished what the first one could not.
    ReadOnlyAtLast,
    /// A switch that has failed, with all nodes switched back.
    Failed,
    /// One that could not be taken back.
    HalfWay,
    /// One whose note was left.
    NoteLeft,
    /// A caller that died with some nodes switched and some not.
    DeadHalfWay,
}

impl Sight {
    fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read only",
            Self::ReadOnlyAfterCommit => "read only after a commit",
            Self::ReadOnlyAfterRecovery => "read only after a recovery",
            Self::ReadOnlyWithNewNode => "read only with a new node",
            Self::ReadOnlyAfterCommand => "read only after a command in steps",
            Self::ReadOnlyAtLast => "read only at last",
            Self::Failed => "failed",
            Self::HalfWay => "half way",
            Self::NoteLeft => "note left",
            Self::DeadHalfWay => "dead half way",
        }
    }

    pub fn property(self) -> Property<Exploration> {
        let condition: fn(&Exploration, &World) -> bool = match self {
            Self::ReadOnly => |_, world| has_said(world, Outcome::ReadOnly),
            Self::ReadOnlyAfterCommit => |_, world| {
                has_said(world, Outcome::ReadOnly)
                    && world.writers.iter().any(|one| one.committed && one.away == Away::Committed)
            },
            Self::ReadOnlyAfterRecovery => |_, world| {
                let away = world.writers[0].away;
                let is_whole = matches!(away, Away::Committed | Away::RolledBack);
                has_said(world, Outcome::ReadOnly) && is_whole
            },
            Self::ReadOnlyWithNewNode => |exploration, world| {
                has_said(world, Outcome::ReadOnly) && world.listed.has(exploration.size.nodes)
            },
            Self::ReadOnlyAfterCommand => {
                |_, world| has_said(world, Outcome::ReadOnly) && world.command == Command::Done
            }
            Self::ReadOnlyAtLast => |_, world| {
                has_said(world, Outcome::ReadOnly) && world.calls > 1 && world.caller.goes_on
            },
            Self::Failed => |_, world| has_said(world, Outcome::Failed),
            Self::HalfWay => |_, world| has_said(world, Outcome::HalfWay),
            Self::NoteLeft => |_, world| has_said(world, Outcome::NoteLeft),
            Self::DeadHalfWay => |_, world| {
                world.caller.phase == Phase::Dead
                    && world.read_only.all().next().is_some()
                    && !world.read_only.has_all(world.listed)
            },
        };
        Property::sometimes(self.name(), condition)
    }
}

fn has_said(world: &World, outcome: Outcome) -> bool {
    world.caller.phase == Phase::Returned(outcome)
}
