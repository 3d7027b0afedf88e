//! The nodes of the cluster as sessions see them: this one among the others, over a session of its own.
//!
//! All of the work is done in sessions, on this node too: their transactions can be ended where the
//! caller's cannot, and a caller that is cancelled takes nothing with it but the sessions.

use std::time::Duration;

use remote::Waiter;

use super::ClusterError;
use crate::citus::{self, CatalogError, Dialer, Roster};
use crate::fence::FenceError;
use crate::guc;
use crate::pg::fd::ReservedDescriptors;

/// All nodes, this one first, and room for connections to them.
pub struct Nodes {
    /// Who they are and where they are reached.
    pub roster: Roster,
    _descriptors: ReservedDescriptors,
}

impl Nodes {
    /// Reads them, as they are now.
    pub fn read<W: Waiter>(waiter: &mut W) -> Result<Self, ClusterError> {
        citus::read_within(waiter, catalog_bound(), citus::OF_NODES, read)?
    }

    /// The same without a wait: `None` while somebody keeps the catalog to himself.
    pub fn read_now() -> Option<Result<Self, ClusterError>> {
        citus::read_now(citus::OF_NODES, read)
    }
}

fn read() -> Result<Nodes, ClusterError> {
    let roster = Roster::read(Dialer::helper(connect_timeout()))?;
    // One for the session that holds the gates, one for a helper.
    let count = 2 * roster.nodes().len();
    let descriptors =
        ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
    Ok(Nodes { roster, _descriptors: descriptors })
}

/// An error unless this node is the coordinator.
pub fn require_coordinator<W: Waiter>(waiter: &mut W) -> Result<(), CatalogError> {
    citus::require_coordinator(waiter, catalog_bound())
}

/// How long a call waits for whoever keeps the catalog to himself.
fn catalog_bound() -> Duration {
    Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64)
}

/// Bound on connecting to all nodes.
pub fn connect_timeout() -> Duration {
    Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64)
}
