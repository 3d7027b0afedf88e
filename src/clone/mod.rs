//! The clone split: a streaming replica of a node becomes a worker of its own and takes half of its shards.
//!
//! [`plan`] says which half, of what [`shards`] has found out about the source.
//!
//! # Why no write is lost
//!
//! Citus holds a shard's metadata lock, shared, on the node where a statement is routed, from before it reads the
//! placement to the end of its transaction.  The split takes that lock alone, for all moving shards, on **every** node that routes
//! ([`hold`]): so on each node, once it has it, every statement that had gone to the old place is over, and the
//! next ones wait.  What reaches the source without that lock, or is only prepared there, is held off by a lock on the shards'
//! tables and then refused by a trigger (the seal).  Only then is the position written that the clone has to replay:
//! so all that was acknowledged before is in the clone.
//!
//! The locks must not end before every node has the new placements, whatever restarts meanwhile.  So each node's
//! part is one transaction with the locks and the new metadata in it, which is *prepared* before the clone is
//! promoted, and committed after: a prepared transaction keeps its locks through any restart.
//!
//! # Why no commit is decided under a false identity
//!
//! From its promotion to the change of its metadata the clone believes to be its source.  Its maintenance daemon
//! would recover the source's transactions, and its clients would write what nobody will ever see.  So the daemon's
//! work is switched off while it is still a standby ([`harmless`]), and its gate is closed to everybody but the split.
//!
//! # After a crash
//!
//! [`state`] has the steps; each is written to the registry ([`registry`]) before it is done.  [`worker`] goes on from there
//! after a restart of the coordinator, or of a standby of it that has taken over.

pub mod api;
mod calls;
mod checks;
mod driver;
mod entangled;
pub mod error;
mod fault;
mod finish;
mod follower;
mod ground;
mod harmless;
mod hint;
mod hold;
mod identity;
mod inventory;
mod lag;
mod links;
pub mod plan;
mod plan_api;
pub mod plan_error;
mod reach;
mod registry;
mod settle;
pub mod shards;
pub mod state;
mod statements;
mod twice;
mod worker;

pub use calls::{OPERATION, before_drop, under_way};
pub use error::CloneError;
pub use hint::is_there as may_be_interrupted;
pub use worker::{LAUNCHER, WORKER};

/// `application_name` of the split's own sessions.
pub const SESSION_NAME: &str = "citus_fence clone split";
