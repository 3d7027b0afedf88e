//! How other nodes are reached: what Citus itself goes by.
//!
//! The later goes over the earlier: host, port and database as the catalog has them;
//! `citus.node_conninfo`; `citus_fence.node_conninfo`; the node's row in `pg_dist_authinfo` (the row of
//! node 0 serves every node that has none); the node's row in `pg_dist_poolinfo`.

use std::time::Duration;

use pgrx::pg_sys;
use pgrx::spi::{self, Spi};

use super::CatalogError;
use crate::guc;
use crate::pg;
use crate::remote::{ConnParams, NodeLabel, Target, base_params};

/// A row of `pg_dist_authinfo` or `pg_dist_poolinfo`.
struct Entry {
    nodeid: i32,
    text: String,
}

/// Read once, in a transaction; then makes the parameters for each node without touching the catalog.
pub struct Access {
    dbname: String,
    user: String,
    application_name: String,
    connect_timeout: Duration,
    general: Vec<(&'static str, String)>,
    authinfo: Vec<Entry>,
    poolinfo: Vec<Entry>,
}

/// Who dials, and under which name it shows in `pg_stat_activity`.
pub struct Dialer {
    /// Role to connect as.
    pub role: pg_sys::Oid,
    /// `application_name`; never Citus' own, or Citus would take the session for an internal one.
    pub application_name: String,
    /// Bound on connecting.
    pub connect_timeout: Duration,
}

/// Node that `pg_dist_authinfo` uses for "every node".
const EVERY_NODE: i32 = 0;
/// Node that `pg_dist_authinfo` uses for connections of a node to itself.
const LOOPBACK_NODE: i32 = -1;

impl Access {
    /// Reads settings and tables.  The session's role must be allowed to read `pg_dist_authinfo`.
    pub fn read(dialer: Dialer) -> Result<Self, CatalogError> {
        let user = pg::ident::role_name(dialer.role);
        let mut general = Vec::new();
        if let Some(text) = pg::guc::read("citus.node_conninfo") {
            general.push(("citus.node_conninfo", text));
        }
        if let Some(text) = guc::NODE_CONNINFO.get() {
            general.push(("citus_fence.node_conninfo", text.to_string_lossy().into_owned()));
        }
        let authinfo = entries(
            "pg_dist_authinfo",
            c"pg_dist_authinfo",
            "SELECT nodeid, authinfo FROM pg_catalog.pg_dist_authinfo WHERE rolename = $1",
            Some(&user),
        )?;
        let poolinfo = entries(
            "pg_dist_poolinfo",
            c"pg_dist_poolinfo",
            "SELECT nodeid, poolinfo FROM pg_catalog.pg_dist_poolinfo",
            None,
        )?;
        Ok(Self {
            dbname: pg::ident::database_name(),
            user,
            application_name: dialer.application_name,
            connect_timeout: dialer.connect_timeout,
            general,
            authinfo,
            poolinfo,
        })
    }

    /// Where to dial for a node.
    pub fn target(&self, node: NodeLabel) -> Result<Target, CatalogError> {
        let nodeid = node.nodeid.unwrap_or(LOOPBACK_NODE);
        let mut params = base_params(
            &node.host,
            node.port,
            &self.dbname,
            &self.user,
            &self.application_name,
            self.connect_timeout,
        );
        for (place, text) in &self.general {
            merge(&mut params, place, text, &node)?;
        }
        let find = |entries: &'_ [Entry], id: i32| {
            entries.iter().find(|entry| entry.nodeid == id).map(|entry| entry.text.clone())
        };
        if let Some(text) =
            find(&self.authinfo, nodeid).or_else(|| find(&self.authinfo, EVERY_NODE))
        {
            merge(&mut params, "pg_dist_authinfo", &text, &node)?;
        }
        if let Some(text) = find(&self.poolinfo, nodeid) {
            merge(&mut params, "pg_dist_poolinfo", &text, &node)?;
        }
        Ok(Target { node, params })
    }

    /// This server itself, as Citus reaches it from itself.
    pub fn loopback(&self) -> Result<Target, CatalogError> {
        self.target(NodeLabel::unregistered(own_host(), pg::ident::port()))
    }
}

/// How this server reaches itself, where the catalog does not say.
pub fn own_host() -> String {
    pg::guc::read("citus.local_hostname").unwrap_or_else(|| "localhost".into())
}

fn merge(
    params: &mut ConnParams,
    place: &'static str,
    text: &str,
    node: &NodeLabel,
) -> Result<(), CatalogError> {
    params.merge_conninfo(text).map_err(|error| CatalogError::BadConnInfo {
        place,
        node: node.to_string(),
        error: error.to_string(),
    })
}

/// The rows of a table that not every catalog has.
fn entries(
    table: &'static str,
    relation: &core::ffi::CStr,
    query: &str,
    user: Option<&str>,
) -> Result<Vec<Entry>, CatalogError> {
    if pg::lock::catalog_relation(relation).is_none() {
        return Ok(Vec::new());
    }
    Spi::connect(|client| {
        let args: Vec<_> = user.map(|user| user.into()).into_iter().collect();
        let mut entries = Vec::new();
        for row in client.select(query, None, &args)? {
            if let (Some(nodeid), Some(text)) = (row.get::<i32>(1)?, row.get::<String>(2)?) {
                entries.push(Entry { nodeid, text });
            }
        }
        Ok(entries)
    })
    .map_err(|error: spi::Error| CatalogError::Read { table, error: error.to_string() })
}
