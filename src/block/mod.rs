//! The backup block: two-phase commits, or all writes, held back on every node while copies of the nodes are taken.
//!
//! A call begins a block in shared memory ([`control`]) and starts a background worker ([`worker`]),
//! which takes the fence ([`acquire`]) and holds it ([`hold`]) until somebody asks for the release,
//! the deadline passes or a node is lost.  [`state`] has the picture of the states.

mod acquire;
mod api;
mod calls;
mod control;
mod deadlocks;
pub mod error;
mod failure;
mod handover;
mod hold;
mod home;
mod of_citus;
mod other_databases;
#[cfg(test)]
mod sqlstates_tests;
pub mod state;
mod statements;
mod wait_graph;
mod waiters;
mod worker;

pub use calls::{OPERATION, under_way};
pub use control::CONTROL;
pub use handover::HANDOVERS;
pub use of_citus::before_function;
pub use worker::WORKER;

/// Longest life of a block, in milliseconds: 30 minutes.
pub const MAX_TIMEOUT_MS: i32 = 1_800_000;

/// `application_name` of the sessions that hold locks.
pub const HOLDER_NAME: &str = "citus_fence backup block";
