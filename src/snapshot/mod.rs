//! The cluster snapshot: every node's snapshot of one and the same moment, exported, so that any number of sessions
//! can read the whole cluster as it was then.
//!
//! A call ([`calls`]) begins an export in shared memory ([`control`]) and starts a background worker ([`worker`]).
//! That takes the fence, exports a snapshot on every node and lets the fence go at once ([`export`]); from then on
//! it only keeps the sessions whose transactions the snapshots live in, until somebody releases them, the deadline
//! comes, or a node is lost. [`state`] has the states.

mod api;
mod calls;
mod control;
mod error;
mod export;
mod state;
mod statements;
mod worker;

pub use calls::{OPERATION, before_drop, under_way};
pub use control::EXPORTS;
pub use worker::WORKER;

/// Longest life of an export, in milliseconds: a day.
pub const MAX_TIMEOUT_MS: i32 = 86_400_000;

/// `application_name` of the sessions that keep the snapshots.
pub const KEEPER_NAME: &str = "citus_fence cluster snapshot";
