//! The fence, explored exhaustively in small clusters.
//!
//! Two things are claimed of it: no restored backup holds half a commit, and no lock outlives its
//! owner's deadline; with them what makes them hold ([`properties`]).  Here every order of events is
//! tried, by a model checker, over the very state machine that runs: a step of the control block is a
//! call of [`Block`](crate::block::state::Block)'s own function.  What an attempt does, and in which order, is
//! read from the very list that runs ([`Mode::steps`](crate::block::state::Mode::steps)).  The rest is a model of
//! `fence/engine.rs` and `fence/let_go.rs` and of the block's `acquire.rs`, `hold.rs`, `worker.rs`, `control.rs` and
//! `calls.rs`, a step of theirs being a step here.
//!
//! The switch of a cluster to read-only has a model of its own ([`switch`]), and so has the clone split ([`split`]).
//!
//! Each rule of the design can be taken out ([`rules`]), and each step of the list; [`tests`] does so, one by
//! one, and must find a counterexample.
//!
//! # What is modelled
//!
//! | what | where | how |
//! | --- | --- | --- |
//! | the slot | [`slot`] | the real block, packed; one call is one step, as one lock is taken for it |
//! | callers, operator, strangers | [`people`] | a caller waits, is told, or leaves; the operator copies one node after the other at any time after, then unblocks; anybody else may unblock too |
//! | the worker | [`worker`] | connect, the steps of the list (each barrier here, then everywhere; read the nodes again; flush), activate, hold, extend, let go, say so; attempts fail at any point, for good or to be repeated |
//! | nodes | [`nodes`] | each grant, flush and end of a session is a step of its own, however late; a node may join |
//! | writers | [`writers`] | Citus' order: the gates in mode `all`, record and lock, PREPARE, local commit (flushed or not), COMMIT PREPARED, lock released; recovery of what is left |
//! | faults | [`world::Fault`] | processes end with or without a word, nodes crash and restart, links go silent for good, at any point |
//! | time | [`world`] | ticks, of the length of the bounds on one exchange; a bound is kept by the process that has to keep it, while that lives |
//!
//! A backup counts as good when unblock returned true without a WARNING, for the block that the
//! operator was told of, as the first to ask.  Restored, what is prepared is committed where the
//! originating node's copy has the record, else rolled back.
//!
//! # What is not
//!
//! - DDL, and with it `pg_dist_partition`; writes to a single shard, which no fence holds.
//! - Lock queues: whoever can have a lock may get it next, which is more than a server does.
//! - An inactive node that does not answer: it is named in a WARNING, and not held.
//! - A process that is stopped and not dead keeps no bound, its node's clock goes on: a frozen node
//!   holds its locks until it is thawed.  Clocks run equally fast.
//! - A crash that takes away a commit which production had not flushed, after its other half was
//!   committed, tears production itself; such a commit is not held against the backup.
//! - Several databases: their slots have nothing in common but the lock.
//!
//! # How far it was explored
//!
//! Complete, breadth first, no counterexample; seconds are those of a debug build on one core.
//!
//! | cluster | events | states | s |
//! | --- | --- | --- | --- |
//! | 3 nodes, 2 writers | no fault | 67,000 | 2 |
//! | 2 nodes, 1 joins, 2 writers | 2 attempts | 169,000 | 4 |
//! | 2 nodes, 1 writer on either | any 2 faults | 40,000 and 47,000 | 2 |
//! | 3 nodes, 1 writer | any 2 faults | 176,000 | 5 |
//! | 3 nodes | 2 attempts, extension, a stranger's release, any 2 faults | 275,000 | 7 |
//! | 2 nodes, 2 blocks | 2 attempts, a stranger's release, any 2 faults | 572,000 | 13 |
//! | 2 nodes, 2 blocks, 1 writer | 2 attempts, any fault | 670,000 | 15 |
//! | 2 nodes, 3 blocks, 1 writer | 1 attempt, a node crashes | 393,000 | 8 |
//! | mode `all`: 2 nodes, 2 writers | no fault | 13,000 | 1 |
//! | mode `all`: 2 nodes, 1 joins, 1 writer | 2 attempts | 21,000 | 1 |
//! | mode `all`: 2 nodes, 1 writer | any 2 faults | 41,000 | 1 |

mod nodes;
mod people;
mod properties;
mod rules;
mod search;
mod slot;
mod split;
mod switch;
mod tests;
mod worker;
mod world;
mod writers;

use stateright::{Model, Property};

use properties::{Claim, Sight};
use rules::Rules;
use world::{Action, Size, World};

/// One cluster, explored under some rules for some claims.
pub struct Exploration {
    size: Size,
    rules: Rules,
    claims: Vec<Claim>,
    sights: Vec<Sight>,
    actions: Vec<Action>,
}

impl Exploration {
    fn new(size: Size, rules: Rules, claims: &[Claim], sights: &[Sight]) -> Self {
        let actions = World::actions(&size);
        Self { size, rules, claims: claims.to_vec(), sights: sights.to_vec(), actions }
    }
}

impl Model for Exploration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.size)]
    }

    fn actions(&self, _state: &World, actions: &mut Vec<Action>) {
        actions.extend_from_slice(&self.actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        state.after(&self.size, self.rules, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let claims = self.claims.iter().map(|claim| claim.property());
        claims.chain(self.sights.iter().map(|sight| sight.property())).collect()
    }
}
