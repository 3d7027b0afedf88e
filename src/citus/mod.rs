//! The `pg_dist_*` tables, as typed rows of named columns.
//!
//! Whether Citus made the tables or the embedded catalog did makes no difference here.  Columns are
//! always named: they differ between Citus' releases, and up- and downgrades leave dropped ones behind.
//! Everything here runs inside a transaction of a backend, as a role that may read the tables.

mod connection;
pub mod daemon;
mod error;
pub mod library;
mod node;
mod session_error;

pub use connection::{Access, Dialer};
pub use error::CatalogError;
pub use node::{Node, local_group, nodes, this_node};

use crate::pg::lock;

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

/// Whether what is read of the nodes and of how they are reached can be read without a wait.
pub fn can_be_read() -> bool {
    [c"pg_dist_node", c"pg_dist_authinfo", c"pg_dist_poolinfo"]
        .into_iter()
        .filter_map(lock::catalog_relation)
        .all(lock::can_be_read)
}

/// Whether Citus itself is in this database, and not only its tables.
pub fn is_citus() -> bool {
    lock::extension(c"citus").is_some()
}

/// An error unless this node is the coordinator.
pub fn require_coordinator() -> Result<(), CatalogError> {
    fence_relations()?;
    if local_group()? == COORDINATOR_GROUP {
        return Ok(());
    }
    let coordinator = nodes()?
        .into_iter()
        .find(|node| node.groupid == COORDINATOR_GROUP)
        .map(|node| format!("{}:{}", node.host, node.port));
    Err(CatalogError::NotCoordinator { coordinator })
}

/// Node group of the coordinator.
pub const COORDINATOR_GROUP: i32 = 0;
