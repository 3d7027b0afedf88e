//! The switch of a cluster to read-only, explored exhaustively in small clusters.
//!
//! What is claimed of it: no transaction is cut in half, and neither is a command that commits on its way; it is
//! whole or said not to be; nobody waits for a caller that is gone ([`properties`]).  The order of an attempt's
//! steps is that of the list that runs ([`STEPS`](crate::readonly::cluster::STEPS)); the rest is a model of
//! `hold_back.rs`, `switch.rs`, the engine and the gate, a step of theirs being a step here.
//!
//! Each rule of the design can be taken out ([`rules`]), and each step of the list; [`tests`] does so, one by
//! one, and must find a counterexample.
//!
//! # What is modelled
//!
//! | what | where | how |
//! | --- | --- | --- |
//! | the call | [`caller`] | note, attempts at the list of steps, all other nodes, this node, undo, let go, note; attempts fail at any point, for good or to be repeated; calls are repeated until one succeeds |
//! | nodes | [`nodes`] | each gate, look, recovery, switch and end of a session is a step of its own, however late; a node that is switched ends who is past a gate and waits for what is prepared; a node may join |
//! | writers | [`writers`] | two-phase commits past the clients' gate of their node and the internal one of the other, where what is prepared keeps it; such as pretend to be internal; writes to one shard; a command that commits on its way; what a crash has left prepared, with and without its record |
//! | faults | [`world::Fault`] | the caller ends, nodes crash and restart, links go silent for good, nodes that cannot be switched or switched back, a note that cannot be taken away, writers that end in the middle |
//! | time | [`world`] | ticks of the time after which a node ends what it hears nothing more from; a bound is kept by the process that has to keep it, while that lives |
//!
//! # What is not
//!
//! - `citus_set_cluster_read_write()`, and writes that wait and are let in after a failed switch: they begin anew.
//! - The recovery that nodes do by themselves at any time, which can only help.
//! - Lock queues, and readers that turn writers: an attempt may fail at any point.
//! - A node that fails over, or whose state file is lost; inactive nodes.
//! - A link that breaks for the caller alone, while the node has yet to begin what it was told: a new session that
//!   switches it back is taken to come later, as it has to be made first, and then waits for a switch under way.
//! - Several databases: a node that is switched ends writers of all of them.
//!
//! # What was found
//!
//! That this node is switched last is no matter of safety: with all nodes switched at once every claim holds but
//! the one that says just this.  It lets the note be changed for as long as anything is to be taken back.

//! # How far it was explored
//!
//! Complete, breadth first, no counterexample; seconds are those of a debug build on one core.
//!
//! | cluster | events | states | s |
//! | --- | --- | --- | --- |
//! | 3 nodes, 2 writers | 2 attempts | 53,000 | 1 |
//! | 2 nodes, a write to one shard, a pretender | 2 attempts | 12,000 | 1 |
//! | 2 nodes, something left without and with its record | 2 attempts, any fault | 5,000 and 10,000 | 1 |
//! | 2 nodes, 1 writer, a command in steps | 2 attempts; the caller dies, a node crashes or a link goes silent | 83,000 | 2 |
//! | 2 nodes, 1 joins, 1 writer | 2 attempts | 19,000 | 1 |
//! | 2 nodes, 1 writer on either | 2 attempts, any 2 faults | 63,000 each | 3 |
//! | 3 nodes, 1 writer | any fault | 48,000 | 1 |
//! | 2 nodes | 2 calls, 2 attempts, any 2 faults | 54,000 | 1 |
//! | 2 nodes, 1 writer | 2 calls, 3 attempts, any fault | 122,000 | 2 |

mod caller;
mod nodes;
mod properties;
mod rules;
mod tests;
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
