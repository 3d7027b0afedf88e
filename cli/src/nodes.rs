//! The nodes of a cluster, and how this machine reaches each of them: as `pg_dist_node` says, or as `--node` does.

use std::time::Duration;

use clap::Args;
use remote::{ConnInfoError, ConnParams, NodeLabel};

use crate::connection::Destination;
use crate::failure::Failure;
use crate::lease::HeldNode;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::Talk;

/// How long one question to a node may take.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Where nodes are, seen from here.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// How to reach the node of a group, where it is not as pg_dist_node says; parameters not named are as for the
    /// coordinator. May be repeated
    #[arg(long = "node", value_name = "GROUP=CONNINFO", value_parser = override_of)]
    pub nodes: Vec<Override>,
}

/// One of them.
#[derive(Clone)]
pub struct Override {
    group: i32,
    params: ConnParams,
}

impl std::fmt::Debug for Override {
    /// Not the parameters, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Override").field("group", &self.group).finish_non_exhaustive()
    }
}

fn override_of(text: &str) -> Result<Override, String> {
    let (group, conninfo) =
        text.split_once('=').ok_or("write GROUP=CONNINFO, as 2='host=b port=5433'")?;
    let group = group.trim().parse().map_err(|_| "the group is a number, as in pg_dist_node")?;
    let mut params = ConnParams::new();
    params.merge_conninfo(conninfo).map_err(|error: ConnInfoError| error.to_string())?;
    Ok(Override { group, params })
}

/// A node, and the way to it.
#[derive(Clone, Debug)]
pub struct Node {
    pub nodeid: Option<i32>,
    pub groupid: i32,
    pub name: String,
    pub port: i32,
    pub destination: Destination,
}

impl Node {
    /// A session on it.
    pub fn talk<'a>(&self, stop: &'a Stop) -> Result<Talk<'a>, Failure> {
        Talk::to(&self.destination, ANSWER_TIME, stop)
    }

    /// What messages call it.
    pub fn called(&self) -> String {
        called(&self.name, self.port, self.groupid)
    }

    /// An error about it.
    pub fn unfit(&self, what: impl std::fmt::Display, todo: impl Into<String>) -> Failure {
        Failure::Node { node: self.called(), what: what.to_string(), todo: Some(todo.into()) }
    }

    /// Refuses a server that is not the one that the block holds: this machine may see another one at that address.
    pub fn is_held(&self, held: &[HeldNode], system_identifier: &str) -> Result<(), Failure> {
        match held.iter().find(|node| node.groupid == self.groupid) {
            Some(node) if node.system_identifier == system_identifier => Ok(()),
            Some(_) => Err(self.unfit(
                "another server answers here than the cluster's nodes reach at that address",
                format!("Say how to reach it from here: --node {}=CONNINFO", self.groupid),
            )),
            None => Err(self.unfit(
                "it is not under the block",
                "The cluster's nodes have changed meanwhile: run it again.",
            )),
        }
    }
}

/// What messages call a node.
pub fn called(name: &str, port: i32, group: i32) -> String {
    format!("node {name}:{port} (group {group})")
}

/// All of them, by group, as the coordinator's catalog has them.
pub fn find(coordinator: &Destination, args: &NodeArgs, stop: &Stop) -> Result<Vec<Node>, Failure> {
    let mut talk = Talk::to(coordinator, ANSWER_TIME, stop)?;
    let place = talk.place().clone();
    let reply = talk.ask(
        "list of nodes",
        "SELECT nodeid, groupid, nodename, nodeport FROM pg_catalog.pg_dist_node \
          WHERE noderole::text = 'primary' ORDER BY groupid",
    )?;
    let mut nodes = Vec::new();
    for row in rows(&reply)? {
        let (nodeid, groupid): (i32, i32) = (row.get("nodeid")?, row.get("groupid")?);
        let (name, port): (String, i32) = (row.get("nodename")?, row.get("nodeport")?);
        let mut destination = coordinator.clone();
        if groupid != 0 {
            destination.target.node = NodeLabel::new(nodeid, name.clone(), port);
            destination
                .target
                .params
                .set("host", &name)
                .set("port", port.to_string())
                .set("hostaddr", "");
        }
        nodes.push(Node { nodeid: Some(nodeid), groupid, name, port, destination });
    }
    if !nodes.iter().any(|node| node.groupid == 0) {
        let (name, port) = (place.host, place.port);
        nodes.insert(
            0,
            Node { nodeid: None, groupid: 0, name, port, destination: coordinator.clone() },
        );
    }
    for said in &args.nodes {
        let node = nodes.iter_mut().find(|node| node.groupid == said.group).ok_or_else(|| {
            Failure::Node {
                node: format!("--node {}", said.group),
                what: "the cluster has no such group".to_owned(),
                todo: Some(
                    "SELECT groupid, nodename, nodeport FROM pg_dist_node lists them.".to_owned(),
                ),
            }
        })?;
        node.destination.target.params.merge(&said.params);
    }
    Ok(nodes)
}

/// What a node says of itself.
pub struct Identity {
    pub system_identifier: String,
    pub postgresql: String,
}

/// Who answers there; a standby is not the node.
pub fn identify(node: &Node, talk: &mut Talk<'_>) -> Result<Identity, Failure> {
    let reply = talk.ask(
        "identify node",
        "SELECT system_identifier, pg_catalog.pg_is_in_recovery() AS in_recovery, \
                pg_catalog.current_setting('server_version') AS postgresql \
           FROM pg_catalog.pg_control_system()",
    )?;
    let row = only_row(&reply)?;
    if row.is_true("in_recovery")? {
        return Err(node.unfit(
            "a standby answers here",
            format!("Name the primary: --node {}=CONNINFO", node.groupid),
        ));
    }
    Ok(Identity {
        // SQL shows the unsigned number with a sign.
        system_identifier: row.get::<i64>("system_identifier")?.cast_unsigned().to_string(),
        postgresql: row.get("postgresql")?,
    })
}
