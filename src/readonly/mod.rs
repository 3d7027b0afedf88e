//! The read-only node: what is behind the gate says no to writers ([`switch`]); and in [`cluster`] all nodes at
//! one moment.

pub mod api;
pub mod cluster;
pub mod error;
pub mod switch;
