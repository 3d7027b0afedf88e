//! The whole cluster, read-only.
//!
//! # Why no transaction is cut in half
//!
//! A node that refuses COMMIT PREPARED while the coordinator has committed would cut a transaction in
//! half.  So no node refuses anything before all nodes hold their writers back: the clients' gates are
//! closed on all nodes, what is left prepared is finished, and the internal gates are closed, which
//! prepared transactions would keep open ([`hold_back`]).  From then on nobody is in the middle of a write
//! anywhere, and the nodes are switched one by one behind closed gates ([`switch`]).
//!
//! # After a crash
//!
//! That the cluster is to be read-only is written down on the coordinator before the first gate is closed
//! ([`intent`]).  Whoever finds it written and a node that writes, or a node that does not and nothing
//! written, finds a switch that was interrupted: the next call of either function finishes it its way, and
//! the status shows it.

pub mod api;
pub mod error;

mod elsewhere;
mod hold_back;
mod intent;
mod nodes;
mod switch;

pub use error::ClusterError;
#[cfg(test)]
pub use hold_back::STEPS;
pub use switch::{OPERATION, under_way};
