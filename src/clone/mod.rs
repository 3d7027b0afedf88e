//! The clone split: a streaming replica of a node becomes a node, and takes half of its shards.
//!
//! [`plan`] says which half.

pub mod plan;
