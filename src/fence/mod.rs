//! The mechanism on which everything stands that needs all nodes at one moment: a list of steps ([`steps`]) that
//! one engine ([`engine`]) runs over the nodes ([`party`]), attempt after attempt ([`retry`]), and one way to let
//! go ([`let_go`]).  It knows nothing of what the moment is for.

pub mod blockers;
pub mod engine;
pub mod error;
pub mod failure;
pub mod let_go;
pub mod mode;
pub mod party;
pub mod recovery;
pub mod retry;
#[cfg(test)]
pub mod scripted;
pub mod statements;
pub mod steps;
pub mod text;
pub mod under_way;

pub use error::FenceError;
