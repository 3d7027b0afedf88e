//! The clone split: a streaming replica of a node becomes a node, and takes half of its shards.
//!
//! [`plan`] says which half, of what [`shards`] has found out about the source.

pub mod plan;
mod plan_api;
pub mod plan_error;
pub mod shards;
