//! The clone split, explored exhaustively in small clusters.
//!
//! What is claimed of it: no acknowledged write is lost; no node sends a write to the old place while another sends
//! one to the new place; no transaction that the source has decided is undone under its name; and whatever happens,
//! the split comes to rest as before or done ([`properties`]). Where an interrupted split goes is the answer of the
//! very function that runs ([`Step::way`](crate::clone::state::Step::way)), and the steps are those of the registry;
//! the rest is a model of `driver.rs`, `hold.rs`, `harmless.rs`, `identity.rs` and `settle.rs`, a step of theirs being
//! a step here.
//!
//! Each rule of the design can be taken out ([`rules`]); [`tests`] does so, one by one, and must find a counterexample.
//!
//! # What is modelled
//!
//! | what | how |
//! | --- | --- |
//! | the driver | lock on each node, seal, PREPARE on each node, catch up, promotion, own identity, gate, COMMIT PREPARED on each node, seal, tidy: a step each; before the promotion it may be given up, or let go and try again, at any point |
//! | writers | at any node: plan under a lock on the shard's metadata there, write where the catalog says, commit; such as take no lock (MERGE of one shard); clients at the clone itself |
//! | who is not held by the shard's lock alone | sessions that have used the shard before; DDL at the coordinator; what is prepared at the source, decided, and committed later |
//! | a two-phase commit | coordinated by the source, prepared on another node: record, acknowledgement, COMMIT PREPARED; the clone's maintenance daemon, which recovers under the name it finds |
//! | faults | a node, the clone or the driver crashes, at any point: open transactions are gone there, prepared ones stay; the driver comes back and goes on by the registry; or a standby of the coordinator does that has not heard of the last steps |
//!
//! # What is not
//!
//! - Reference tables and sequences: they are tested on servers.
//! - Lock queues: whoever can have a lock may get it next. A wait for a lock that never ends is a driver that lets go.
//! - A node that does not come back: the split waits for it.
//! - The clone lost for good, and who gives the split up then.

//! # What was found
//!
//! That either the locks on all nodes or the seal keeps a write under a lock from being lost. Both are needed: with the
//! seal alone writers at other nodes than the coordinator are refused, and with the locks alone those that take none
//! are lost.
//!
//! That a standby of the coordinator that takes over without the last steps led back what a node had committed: so who goes
//! back looks first. Where only the clone has committed, it is lost to the cluster, and stays closed.
//!
//! # How far it was explored
//!
//! Complete, breadth first, no counterexample; seconds are those of a debug build on one core.
//!
//! | cluster | events | states | s |
//! | --- | --- | --- | --- |
//! | 3 nodes, 5 writers, 2 of them without a lock | 2 attempts | 185,000 | 5 |
//! | 2 nodes, 3 writers, 1 of them without a lock | 2 attempts, any 2 faults | 48,000 | 1 |
//! | 3 nodes, 2 writers, a client of the clone | any 2 faults | 17,000 | 1 |
//! | 2 nodes, 1 writer, a two-phase commit | any 2 faults | 7,000 | 1 |
//! | 2 nodes, kept sessions, DDL, what is in doubt | 1 fault | 67,000 | 4 |
//! | 2 nodes, 2 writers, a client of the clone, a standby that lags | any 2 faults | 12,000 | 1 |

mod parts;
mod properties;
mod rules;
mod tests;
mod world;

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
}

impl Model for Exploration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.size)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        actions.extend(state.actions(&self.size, self.rules));
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        state.after(&self.size, self.rules, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let claims = self.claims.iter().map(|claim| claim.property());
        claims.chain(self.sights.iter().map(|sight| sight.property())).collect()
    }
}
