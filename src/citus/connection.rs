//! How other nodes are reached: what Citus itself goes by.
//!
//! The later goes over the earlier: host, port and database as the catalog has them;
//! `citus.node_conninfo`; `citus_fence.node_conninfo`; the node's row in `pg_dist_authinfo` (the row of
//! node 0 serves every node that has none); the node's row in `pg_dist_poolinfo`.
//!
//! A `host` in one of the first two is the name that certificates are for, as in Citus since 12.1.3: no setting for
//! all nodes can say where one of them is.  The place that is dialled is the catalog's, or else the pooler's.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::pg_sys;

use super::CatalogError;
use crate::guc;
use crate::pg;
use crate::pg::small_table::{self, Value};
use remote::{ConnParams, NodeLabel, Target, base_params};

/// A row of `pg_dist_authinfo` or `pg_dist_poolinfo`.
struct Entry {
    nodeid: i32,
    text: String,
}

impl Entry {
    fn read(row: &[Value]) -> Option<Self> {
        Some(Self { nodeid: row[0].as_ref()?.parse().ok()?, text: row[1].clone()? })
    }
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

/// `application_name` of sessions that look or help and hold nothing.
pub const HELPER_NAME: &str = "citus_fence helper";

/// The role that the extension's own sessions act as: its owner.
pub fn own_role() -> pg_sys::Oid {
    pg::lock::extension_owner(c"citus_fence").unwrap_or_else(pg::ident::current_role)
}

impl Dialer {
    /// For sessions that look or help.
    pub fn helper(connect_timeout: Duration) -> Self {
        Self { role: own_role(), application_name: HELPER_NAME.to_owned(), connect_timeout }
    }
}

/// Node that `pg_dist_authinfo` uses for "every node".
const EVERY_NODE: i32 = 0;
/// Node that `pg_dist_authinfo` uses for connections of a node to itself.
const LOOPBACK_NODE: i32 = -1;

impl Access {
    /// Reads settings and tables, passwords among them: for callers that show none of it.
    pub fn read(dialer: Dialer) -> Self {
        let user = pg::ident::role_name(dialer.role);
        let mut general = Vec::new();
        if let Some(text) = pg::guc::read("citus.node_conninfo") {
            general.push(("citus.node_conninfo", text));
        }
        if let Some(text) = guc::NODE_CONNINFO.get() {
            general.push(("citus_fence.node_conninfo", text.to_string_lossy().into_owned()));
        }
        let authinfo = table_rows(c"pg_dist_authinfo", [c"nodeid", c"authinfo", c"rolename"])
            .filter(|row| row[2].as_deref() == Some(&user));
        let poolinfo = table_rows(c"pg_dist_poolinfo", [c"nodeid", c"poolinfo"]);
        Self {
            dbname: pg::ident::database_name(),
            application_name: dialer.application_name,
            connect_timeout: dialer.connect_timeout,
            general,
            authinfo: authinfo.filter_map(|row| Entry::read(&row)).collect(),
            poolinfo: poolinfo.filter_map(|row| Entry::read(&row)).collect(),
            user,
        }
    }

    /// Where to dial for a node.
    pub fn target(&self, node: NodeLabel) -> Result<Target, CatalogError> {
        let nodeid = node.nodeid.unwrap_or(LOOPBACK_NODE);
        self.target_of(node, nodeid, true)
    }

    /// Where to dial for a replica of a node: with the node's password, and at its own place, whatever pooler the
    /// node is reached by.
    pub fn replica(&self, node: NodeLabel, of: i32) -> Result<Target, CatalogError> {
        self.target_of(node, of, false)
    }

    fn target_of(
        &self,
        node: NodeLabel,
        nodeid: i32,
        by_pooler: bool,
    ) -> Result<Target, CatalogError> {
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
        let for_certificates = params.get("host").filter(|host| *host != node.host);
        let for_certificates = for_certificates.map(str::to_owned);
        params.set("host", &*node.host);
        let find = |entries: &'_ [Entry], id: i32| {
            entries.iter().find(|entry| entry.nodeid == id).map(|entry| entry.text.clone())
        };
        if let Some(text) =
            find(&self.authinfo, nodeid).or_else(|| find(&self.authinfo, EVERY_NODE))
        {
            merge(&mut params, "pg_dist_authinfo", &text, &node)?;
        }
        if by_pooler && let Some(text) = find(&self.poolinfo, nodeid) {
            merge(&mut params, "pg_dist_poolinfo", &text, &node)?;
        }
        if let Some(name) = for_certificates {
            let place = params.get("host").unwrap_or(&node.host).to_owned();
            params.set("host", name).dial(&place);
        }
        // By its name a session is known for what it is, to the gate among others: nothing may give it another.
        params.set("application_name", &*self.application_name);
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
fn table_rows<const N: usize>(
    table: &CStr,
    columns: [&CStr; N],
) -> impl Iterator<Item = Vec<Value>> {
    let relation = pg::lock::catalog_relation(table);
    relation.map(|relation| small_table::rows(relation, &columns)).unwrap_or_default().into_iter()
}
