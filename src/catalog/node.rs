//! `pg_dist_node` and `pg_dist_local_group`.

use pgrx::spi::{self, Spi};
use pgrx::{FromDatum, IntoDatum};

use super::connection::own_host;
use super::{COORDINATOR_GROUP, CatalogError};
use crate::pg::{ident, lock};
use crate::remote::NodeLabel;

/// A primary: a node that can take writes, and so can coordinate a distributed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `nodeid`.
    pub nodeid: i32,
    /// `groupid`.
    pub groupid: i32,
    /// `nodename`.
    pub host: String,
    /// `nodeport`.
    pub port: i32,
    /// `isactive`: an inactive node may still answer and write.
    pub active: bool,
}

impl Node {
    /// What messages call it.
    pub fn label(&self) -> NodeLabel {
        NodeLabel::new(self.nodeid, self.host.clone(), self.port)
    }
}

/// The coordinator, which is this server, among the primaries; made up where it is not registered.
pub fn this_node(primaries: &[Node]) -> Node {
    let listed = primaries.iter().find(|node| node.groupid == COORDINATOR_GROUP);
    listed.cloned().unwrap_or_else(|| Node {
        nodeid: 0,
        groupid: COORDINATOR_GROUP,
        host: own_host(),
        port: ident::port(),
        active: true,
    })
}

/// Node group of this server.
pub fn local_group() -> Result<i32, CatalogError> {
    const TABLE: &str = "pg_dist_local_group";
    let read = |error: spi::Error| CatalogError::Read { table: TABLE, error: error.to_string() };
    spi_one::<i32>("SELECT groupid FROM pg_catalog.pg_dist_local_group")
        .map_err(read)?
        .ok_or_else(|| CatalogError::Read { table: TABLE, error: "no row".into() })
}

/// The one value that a query gives.  Unlike [`Spi::get_one`] it only reads, and so gives a transaction
/// that has written nothing no transaction id.
pub fn spi_one<T: FromDatum + IntoDatum>(query: &str) -> spi::Result<Option<T>> {
    Spi::connect(|client| {
        let rows = client.select(query, Some(1), &[])?;
        if rows.is_empty() { Ok(None) } else { rows.first().get::<T>(1) }
    })
}

/// All primaries, by `nodeid`.
///
/// `hasmetadata` is no condition: a worker whose metadata sync was stopped still plans and records
/// two-phase commits.  A registered clone (Citus 13.2 and later, where there is a column for it) is a
/// standby and writes nothing.
pub fn nodes() -> Result<Vec<Node>, CatalogError> {
    let read =
        |error: spi::Error| CatalogError::Read { table: "pg_dist_node", error: error.to_string() };
    let relation = lock::catalog_relation(c"pg_dist_node").ok_or(CatalogError::Missing)?;
    let but_clones = if lock::has_column(relation, c"nodeisclone") {
        "AND n.nodeisclone IS NOT TRUE"
    } else {
        ""
    };
    let query = format!(
        "SELECT n.nodeid, n.groupid, n.nodename, n.nodeport, n.isactive
           FROM pg_catalog.pg_dist_node n
          WHERE n.noderole = 'primary' {but_clones}
          ORDER BY n.nodeid"
    );
    Spi::connect(|client| {
        let mut nodes = Vec::new();
        for row in client.select(&query, None, &[])? {
            nodes.push(Node {
                nodeid: row.get::<i32>(1)?.unwrap_or_default(),
                groupid: row.get::<i32>(2)?.unwrap_or_default(),
                host: row.get::<String>(3)?.unwrap_or_default(),
                port: row.get::<i32>(4)?.unwrap_or_default(),
                active: row.get::<bool>(5)?.unwrap_or(true),
            });
        }
        Ok(nodes)
    })
    .map_err(read)
}
