//! What a message calls a node.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a node in messages: where it is reached and, if known, its id in `pg_dist_node`.
///
/// `Display` gives `host:port`, as in `127.0.0.1:5433`; [`NodeLabel::described`] has the id too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeLabel {
    /// `pg_dist_node.nodeid`; none for a node that is not in the catalog (yet).
    pub nodeid: Option<i32>,
    /// Host name or address as the catalog has it, or the directory of a Unix socket.
    pub host: String,
    /// Port as the catalog has it; a pooler may make the real connection go elsewhere.
    pub port: i32,
}

impl NodeLabel {
    /// The label of a node of the catalog.
    pub fn new(nodeid: i32, host: impl Into<String>, port: i32) -> Self {
        Self { nodeid: Some(nodeid), host: host.into(), port }
    }

    /// The label of a place that is not, or not yet, a node of the catalog.
    pub fn unregistered(host: impl Into<String>, port: i32) -> Self {
        Self { nodeid: None, host: host.into(), port }
    }

    /// The label of a place that only libpq knows, from its environment or a service file: it
    /// becomes known when libpq goes there.
    pub fn not_known() -> Self {
        Self { nodeid: None, host: String::new(), port: 0 }
    }

    /// Whether it is still that.
    pub fn is_known(&self) -> bool {
        !self.host.is_empty()
    }

    /// `node 3 at 127.0.0.1:5433`, or only the place where no id is known: for details and hints,
    /// where an operator may want to look the node up in `pg_dist_node`.
    pub fn described(&self) -> String {
        match self.nodeid {
            Some(id) => format!("node {id} at {self}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for NodeLabel {
    /// `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_known() {
            return f.write_str("the server");
        }
        let bare_ipv6 = self.host.contains(':') && !self.host.contains(['/', '[']);
        if bare_ipv6 {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
