//! The `pg_dist_*` tables, as typed rows of named columns.
//!
//! Whether Citus made the tables or the embedded catalog did makes no difference here.  Columns are
//! always named: they differ between Citus' releases, and up- and downgrades leave dropped ones behind.
//! Everything here runs inside a transaction of a backend, as a role that may read the tables.

mod api;
mod connection;
pub mod daemon;
pub mod databases;
mod error;
mod global_pid;
pub mod identity;
pub mod library;
pub mod myself;
mod node;
mod roster;
mod session_error;
mod settings;

pub use connection::{Access, Dialer, HELPER_NAME, own_role};
pub use error::CatalogError;
pub use global_pid::{global_pid, parse_global_pid};
pub use node::{Node, local_group, nodes, this_node};
pub use roster::Roster;
pub use settings::deadlock_search_interval;

use std::ffi::CStr;
use std::time::Duration;

use remote::{Deadline, Pause, Waiter, pause};

use crate::pg::{ident, lock};

/// The relations that a fence locks.
#[derive(Clone, Copy, Debug)]
pub struct FenceRelations {
    /// `pg_dist_node`.
    pub node: pgrx::pg_sys::Oid,
    /// `pg_dist_partition`.
    pub partition: pgrx::pg_sys::Oid,
    /// `pg_dist_transaction`.
    pub transaction: pgrx::pg_sys::Oid,
}

/// The relations that a fence locks, or the error that there is no catalog.
pub fn fence_relations() -> Result<FenceRelations, CatalogError> {
    let find = |name| lock::catalog_relation(name).ok_or(CatalogError::Missing);
    Ok(FenceRelations {
        node: find(c"pg_dist_node")?,
        partition: find(c"pg_dist_partition")?,
        transaction: find(c"pg_dist_transaction")?,
    })
}

/// One of the tables that a fence locks and this transaction holds itself, so that the fence would wait for it.
pub fn own_lock() -> Option<&'static str> {
    let names = [c"pg_dist_node", c"pg_dist_partition", c"pg_dist_transaction"];
    let held = names
        .into_iter()
        .find(|name| lock::catalog_relation(name).is_some_and(lock::is_held_by_me))?;
    held.to_str().ok()
}

/// What is read of the nodes and of how they are reached.
pub const OF_NODES: &[&CStr] = &[c"pg_dist_node", c"pg_dist_authinfo", c"pg_dist_poolinfo"];
/// What says which node this is.
const OF_THIS_NODE: &[&CStr] = &[c"pg_dist_local_group"];

/// Reads those tables, if that needs no wait: `None` while somebody keeps one of them to himself.
pub fn read_now<R>(tables: &[&CStr], read: impl FnOnce() -> R) -> Option<R> {
    let relations = tables.iter().filter_map(|table| lock::catalog_relation(table));
    let _readable = lock::Readable::try_all(relations)?;
    Some(read())
}

/// Who keeps tables of the catalog to himself right now.
pub fn keepers() -> Vec<String> {
    let mut found = Vec::new();
    for table in OF_NODES.iter().chain(OF_THIS_NODE) {
        for pid in lock::catalog_relation(table).map(lock::keepers).unwrap_or_default() {
            let table = table.to_string_lossy();
            found.push(format!("on this node, process {pid}, which keeps {table} to itself"));
        }
    }
    found
}

/// The door through which sessions read the catalog: they wait no longer than `bound` for whoever keeps one of
/// those tables to himself, and interrupts end that wait.
pub fn read_within<W: Waiter, R>(
    waiter: &mut W,
    bound: Duration,
    tables: &[&CStr],
    mut read: impl FnMut() -> R,
) -> Result<R, CatalogError> {
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let deadline = Deadline::after(waiter, bound);
    loop {
        if let Some(result) = read_now(tables, &mut read) {
            return Ok(result);
        }
        if deadline.expired(waiter) || pause(waiter, LOOK_AGAIN) == Pause::Stopped {
            return Err(CatalogError::Locked);
        }
    }
}

/// Whether Citus itself is in this database, and not only its tables.
pub fn is_citus() -> bool {
    lock::extension(c"citus").is_some()
}

/// Whether a session in which a split's switch was prepared is fit for nothing more: with Citus 11 (seen with 11.3.1).  Asked
/// inside a transaction.
pub fn spends_preparing_sessions() -> bool {
    identity::extension_version("citus").is_some_and(|version| major(&version) < Some(12))
}

/// The first number of a version; before all others where there is none.
fn major(version: &str) -> Option<u32> {
    version.split(['.', '-']).next()?.parse().ok()
}

/// An error unless this node is the coordinator of a cluster, which is found out within `bound`.
///
/// A worker whose metadata was taken from it (`stop_metadata_sync_to_node()`) has the coordinator's group and no nodes,
/// like a new server with a cluster of its own; but the coordinator elsewhere counts on it.  What was done here for the
/// cluster would be done to this node alone.
pub fn require_coordinator<W: Waiter>(waiter: &mut W, bound: Duration) -> Result<(), CatalogError> {
    require_group_of_coordinator(waiter, bound)?;
    let is_new = read_within(waiter, bound, OF_THIS_NODE, node::was_never_a_worker)??;
    if is_new || !read_within(waiter, bound, OF_NODES, nodes)??.is_empty() {
        return Ok(());
    }
    Err(CatalogError::NoNodes { port: ident::port() })
}

/// An error unless this node takes itself for the coordinator, be it because it knows of no cluster.
pub fn require_group_of_coordinator<W: Waiter>(
    waiter: &mut W,
    bound: Duration,
) -> Result<(), CatalogError> {
    fence_relations()?;
    if read_within(waiter, bound, OF_THIS_NODE, local_group)?? == COORDINATOR_GROUP {
        return Ok(());
    }
    // Only for a better error.
    let nodes = read_now(OF_NODES, nodes).unwrap_or_else(|| Ok(Vec::new()))?;
    let coordinator = nodes
        .into_iter()
        .find(|node| node.groupid == COORDINATOR_GROUP)
        .map(|node| format!("{}:{}", node.host, node.port));
    Err(CatalogError::NotCoordinator { coordinator })
}

/// Node group of the coordinator.
pub const COORDINATOR_GROUP: i32 = 0;
