//! Reads of the catalog that must be as fresh as the locks taken before them, and what is made of
//! their rows.

use pgrx::pg_sys::Oid;

use super::error::EmbeddedError;
use super::transaction::Peer;
use crate::pg::quote;
use crate::pg::text_sql::{self, Rows};
use remote::NodeLabel;

/// A row of `pg_dist_node` that is a primary.
#[derive(Clone, Debug)]
pub struct Node {
    /// `nodeid`.
    pub nodeid: i32,
    /// The node as others address it.
    pub peer: Peer,
    /// `isactive`.
    pub active: bool,
    /// `shouldhaveshards`.
    pub should_have_shards: bool,
}

/// Group of this node.
pub fn local_group() -> Result<i32, EmbeddedError> {
    let rows = text_sql::query("SELECT groupid FROM pg_catalog.pg_dist_local_group", &[])?;
    let mut row = Row::only(&rows, "pg_dist_local_group")?;
    row.number()
}

/// All primaries, by id.
pub fn nodes() -> Result<Vec<Node>, EmbeddedError> {
    let rows = text_sql::query(
        "SELECT nodeid, groupid, nodename, nodeport, isactive, shouldhaveshards
           FROM pg_catalog.pg_dist_node
          WHERE noderole OPERATOR(pg_catalog.=) 'primary' AND NOT nodeisclone
          ORDER BY nodeid",
        &[],
    )?;
    rows.iter()
        .map(|row| {
            let mut row = Row::new(row, "pg_dist_node");
            let nodeid = row.number()?;
            let group = row.number()?;
            let host = row.text()?;
            Ok(Node {
                nodeid,
                peer: Peer { label: NodeLabel::new(nodeid, host, row.number()?), group },
                active: row.flag()?,
                should_have_shards: row.flag()?,
            })
        })
        .collect()
}

/// The other nodes that keep the catalog up to date: all active primaries.
pub fn others(nodes: &[Node], own_group: i32) -> Vec<Peer> {
    nodes
        .iter()
        .filter(|node| node.active && node.peer.group != own_group)
        .map(|node| node.peer.clone())
        .collect()
}

/// A relation, by its name.
pub struct Relation {
    /// Schema and name in double quotes.
    pub qualified: String,
    /// The same for messages.
    pub shown: String,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `relkind` and `relpersistence`.
    pub kind: String,
    /// Owner's name.
    pub owner: String,
}

/// What a relation is called and what it is.
pub fn relation(oid: Oid) -> Result<Relation, EmbeddedError> {
    let rows = text_sql::query(
        "SELECT n.nspname, c.relname, c.relkind::text || c.relpersistence::text,
                pg_catalog.pg_get_userbyid(c.relowner)
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.oid OPERATOR(pg_catalog.=) $1::oid",
        &[&oid_text(oid)],
    )?;
    let Some(row) = rows.first() else {
        return Err(EmbeddedError::NotDistributed { table: oid_text(oid) });
    };
    let mut row = Row::new(row, "pg_class");
    let (schema, name) = (row.text()?, row.text()?);
    Ok(Relation {
        qualified: quote::qualified(&schema, &name),
        shown: quote::shown(&schema, &name),
        kind: row.text()?,
        owner: row.text()?,
        schema,
        name,
    })
}

/// A number of the catalog as a parameter.
pub fn oid_text(oid: Oid) -> String {
    oid.to_u32().to_string()
}

/// The columns of a row, taken one after the other.
pub struct Row<'a> {
    values: std::slice::Iter<'a, Option<String>>,
    table: &'static str,
}

impl<'a> Row<'a> {
    /// A row of a table, which errors name.
    pub fn new(values: &'a [Option<String>], table: &'static str) -> Self {
        Self { values: values.iter(), table }
    }

    /// The first of some rows, where there must be one.
    pub fn only(rows: &'a Rows, table: &'static str) -> Result<Self, EmbeddedError> {
        rows.first().map(|row| Self::new(row, table)).ok_or(EmbeddedError::Corrupt { table })
    }

    /// The next column, which is not NULL.
    pub fn text(&mut self) -> Result<String, EmbeddedError> {
        match self.values.next() {
            Some(Some(value)) => Ok(value.clone()),
            Some(None) | None => Err(EmbeddedError::Corrupt { table: self.table }),
        }
    }

    /// The next column as a number.
    pub fn number<T: std::str::FromStr>(&mut self) -> Result<T, EmbeddedError> {
        let table = self.table;
        self.text()?.parse().map_err(|_| EmbeddedError::Corrupt { table })
    }

    /// The next column as an object's number.
    pub fn oid(&mut self) -> Result<Oid, EmbeddedError> {
        Ok(Oid::from(self.number::<u32>()?))
    }

    /// The next column as a truth value.
    pub fn flag(&mut self) -> Result<bool, EmbeddedError> {
        match self.text()?.as_str() {
            "t" => Ok(true),
            "f" => Ok(false),
            _ => Err(EmbeddedError::Corrupt { table: self.table }),
        }
    }
}
