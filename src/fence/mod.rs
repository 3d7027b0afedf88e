//! The fence as operators use it: a block of two-phase writes on every node, for backups.
//!
//! A call begins a block in shared memory ([`control`]) and starts a background worker ([`worker`]),
//! which takes the locks ([`acquire`]) and holds them ([`hold`]) until somebody asks for the release,
//! the deadline passes or a node is lost.  [`state`] has the picture of the states.

pub mod api;
pub mod error;
pub mod handover;
pub mod state;
pub mod text;

mod acquire;
pub mod attempt;
mod control;
mod hold;
pub mod let_go;
#[cfg(test)]
mod model;
pub mod party;
pub mod reason;
pub mod recovery;
#[cfg(test)]
mod scripted;
pub mod statements;
mod wait_graph;
mod waiters;
mod worker;

pub use api::{is_held, owner};
pub use control::CONTROL;
pub use handover::HANDOVERS;
pub use party::parse_lsn;
pub use wait_graph::global_pid;
pub use worker::WORKER;

/// Longest life of a block, in milliseconds: 30 minutes.
pub const MAX_TIMEOUT_MS: i32 = 1_800_000;

/// `application_name` of the sessions that hold locks.
pub const HOLDER_NAME: &str = "citus_fence backup block";
/// `application_name` of sessions that look or help and hold nothing.
pub const HELPER_NAME: &str = "citus_fence helper";
