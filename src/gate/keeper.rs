//! The worker that brings the state file up to date after a promotion: a node that stays read-only writes another
//! timeline from then on, and one that carries on from another server's WAL has no use for the file.
//!
//! What the node does with writers does not wait for it: that is decided by whoever looks first
//! ([`super::area::Node::state`]).  Should it not come to that, the next start finds a file of another timeline, and
//! stays read-only, with a WARNING.

use pgrx::PgLogLevel;

use super::alone::Alone;
use super::area::AREA;
use super::error::GateError;
use super::store;
use crate::pg::worker::Worker;
use crate::pg::{elog, interrupts};
use crate::report::Report;

/// Started once, after a promotion.
pub static KEEPER: Worker = Worker { kind: c"citus_fence keeper", run };

/// Whether this start may end in such a promotion.  In the data directory, as every process of the server is.
pub fn may_be_needed() -> bool {
    store::may_stay()
}

fn run(_argument: i32, _extra: u64) {
    interrupts::install_worker_handlers();
    if let Err(error) = keep() {
        elog::emit(PgLogLevel::WARNING, &Report::from(&error));
    }
}

fn keep() -> Result<(), GateError> {
    let Some(node) = AREA.node() else { return Ok(()) };
    let Some(is_over) = node.is_stay_over() else { return Ok(()) };
    let _alone = Alone::take(node)?;
    store::settle(is_over)
}
