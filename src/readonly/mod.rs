//! The read-only node: behind the gate it refuses writers, and [`switch`] turns that on and off; [`cluster`] does so
//! on all nodes at one moment.

pub mod api;
pub mod cluster;
pub mod error;
pub mod switch;
