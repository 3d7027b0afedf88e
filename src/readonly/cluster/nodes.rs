//! The nodes of the cluster as sessions see them: this one among the others, over a session of its own.
//!
//! All of the work is done in sessions, on this node too: their transactions can be ended where the
//! caller's cannot, and a caller that is cancelled takes nothing with it but the sessions.

use std::time::Duration;

use super::ClusterError;
use crate::citus::{self, Access, CatalogError, Dialer, Node};
use crate::fence::HELPER_NAME;
use crate::fence::error::FenceError;
use crate::guc;
use crate::pg::fd::ReservedDescriptors;
use remote::Target;

/// All nodes, this one first.
pub struct Nodes {
    /// Rows of the catalog; this node's is made up where it has none.
    pub list: Vec<Node>,
    /// Where they are reached.
    pub targets: Vec<Target>,
    _descriptors: ReservedDescriptors,
}

impl Nodes {
    /// Reads them, as they are now.
    pub fn read() -> Result<Self, ClusterError> {
        let owner = crate::fence::owner();
        let dialer = Dialer {
            role: owner,
            application_name: HELPER_NAME.to_owned(),
            connect_timeout: connect_timeout(),
        };
        let list = list()?;
        let access = Access::read(dialer);
        let mut targets = vec![access.loopback()?];
        for node in &list[1..] {
            targets.push(access.target(node.label())?);
        }
        // One for the session that holds the gates, one for a helper.
        let count = 2 * targets.len();
        let descriptors =
            ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
        Ok(Self { list, targets, _descriptors: descriptors })
    }

    /// Whether they are still all there are.
    pub fn are_the_same(&self) -> Result<bool, CatalogError> {
        Ok(list()? == self.list)
    }
}

/// This node, then the others.
fn list() -> Result<Vec<Node>, CatalogError> {
    let primaries = citus::nodes()?;
    let mut list = vec![citus::this_node(&primaries)];
    list.extend(primaries.into_iter().filter(|node| node.groupid != citus::COORDINATOR_GROUP));
    Ok(list)
}

/// Bound on connecting to all nodes.
pub fn connect_timeout() -> Duration {
    Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64)
}
