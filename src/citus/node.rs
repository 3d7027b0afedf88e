//! `pg_dist_node` and `pg_dist_local_group`.

use std::ffi::CStr;

use serde::{Deserialize, Serialize};

use super::connection::own_host;
use super::{COORDINATOR_GROUP, CatalogError};
use crate::pg::small_table::{self, Value};
use crate::pg::{ident, lock};
use remote::NodeLabel;

/// A primary: a node that can take writes, and so can coordinate a distributed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// `hasmetadata`: one without does not know which node it is.
    pub has_metadata: bool,
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
        has_metadata: true,
    })
}

/// Node group of this server.
pub fn local_group() -> Result<i32, CatalogError> {
    const TABLE: &str = "pg_dist_local_group";
    let rows = table_rows(c"pg_dist_local_group", &[c"groupid"])?;
    let group = rows.first().and_then(|row| number(&row[0]));
    group.ok_or_else(|| CatalogError::Read { table: TABLE, error: "no row".into() })
}

/// Whether `pg_dist_local_group` is as `CREATE EXTENSION` has made it: then this server has never been a worker.  Its
/// row and its column are of one transaction as long as nobody writes there; `pg_upgrade` makes both anew, and then
/// nobody can tell.
pub fn was_never_a_worker() -> Result<bool, CatalogError> {
    const TABLE: &CStr = c"pg_dist_local_group";
    let relation = lock::catalog_relation(TABLE).ok_or(CatalogError::Missing)?;
    let rows = small_table::rows(relation, &[c"xmin"]);
    let row_made_by = rows.first().and_then(|row| row[0].as_ref()?.parse().ok());
    Ok(row_made_by.is_some() && row_made_by == small_table::column_made_by(relation, c"groupid"))
}

/// All primaries, by `nodeid`.
///
/// `hasmetadata` is no condition: a worker whose metadata sync was stopped still plans and records
/// two-phase commits.  A registered clone (Citus 13.2 and later, where there is a column for it) is a
/// standby and writes nothing.
pub fn nodes() -> Result<Vec<Node>, CatalogError> {
    const COLUMNS: [&CStr; 8] = [
        c"nodeid",
        c"groupid",
        c"nodename",
        c"nodeport",
        c"isactive",
        c"noderole",
        c"nodeisclone",
        c"hasmetadata",
    ];
    let is = |value: &Value, text: &str| value.as_deref() == Some(text);
    let mut nodes: Vec<Node> = table_rows(c"pg_dist_node", &COLUMNS)?
        .iter()
        .filter(|row| is(&row[5], "primary") && !is(&row[6], "t"))
        .map(|row| Node {
            nodeid: number(&row[0]).unwrap_or_default(),
            groupid: number(&row[1]).unwrap_or_default(),
            host: row[2].clone().unwrap_or_default(),
            port: number(&row[3]).unwrap_or_default(),
            active: !is(&row[4], "f"),
            has_metadata: !is(&row[7], "f"),
        })
        .collect();
    nodes.sort_by_key(|node| node.nodeid);
    Ok(nodes)
}

/// All rows of a table that every catalog has.
fn table_rows(table: &CStr, columns: &[&CStr]) -> Result<Vec<Vec<Value>>, CatalogError> {
    let relation = lock::catalog_relation(table).ok_or(CatalogError::Missing)?;
    Ok(small_table::rows(relation, columns))
}

fn number(value: &Value) -> Option<i32> {
    value.as_ref()?.parse().ok()
}
