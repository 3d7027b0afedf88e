//! The nodes of a cluster, and how this machine reaches each of them: as `pg_dist_node` says, or as `--node` does.

use std::time::Duration;

use clap::Args;
use remote::{ConnInfoError, ConnParams, NodeLabel, RemoteError};

use crate::connection::Destination;
use crate::failure::Failure;
use crate::lease::HeldNode;
use crate::manifest::Missing;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::Talk;

/// How long one question to a node may take.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Where nodes are, seen from here.
#[derive(Clone, Debug, Default, Args)]
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

impl NodeArgs {
    /// How a node is reached: as the coordinator is, at the node's own address, or as somebody said.
    pub fn params(
        &self,
        coordinator: &Destination,
        group: i32,
        host: &str,
        port: i32,
    ) -> ConnParams {
        let mut params = coordinator.target.params.clone();
        // A list of hosts or addresses is the coordinator's, and so is what is asked of them: a node may be read-only.
        params.set("hostaddr", "").set("host", host).set("port", port.to_string());
        params.set("target_session_attrs", "any");
        self.apply(group, &mut params);
        params
    }

    fn apply(&self, group: i32, params: &mut ConnParams) {
        for said in self.nodes.iter().filter(|said| said.group == group) {
            params.merge(&said.params);
        }
    }

    /// Refuses what is said of a group that the cluster does not have: it was meant for another one.
    pub fn must_be_among(&self, groups: &[i32]) -> Result<(), Failure> {
        match self.nodes.iter().find(|said| !groups.contains(&said.group)) {
            Some(said) => Err(Failure::UnknownGroup { group: said.group }),
            None => Ok(()),
        }
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
    /// Disabled ones take no part in what the cluster does, and may be long gone.
    pub is_active: bool,
    pub destination: Destination,
}

impl Node {
    /// The same server's other database.
    pub fn in_database(&self, name: &str) -> Node {
        let mut there = self.clone();
        there.destination.target.params.set("dbname", name);
        there
    }

    /// A session on it.
    pub fn talk<'a>(&self, stop: &'a Stop) -> Result<Talk<'a>, Failure> {
        Talk::to(&self.destination, ANSWER_TIME, stop).map_err(|failure| match failure {
            Failure::Remote(
                error @ (RemoteError::Connect { .. } | RemoteError::ConnectTimeout { .. }),
            ) => self.unfit(
                error,
                format!(
                    "Is it running, and does this machine reach it? Otherwise: --node {}=CONNINFO. A node that is gone \
                     for good is left out once citus_disable_node() has been called for it.",
                    self.groupid
                ),
            ),
            other => other,
        })
    }

    /// What messages call it.
    pub fn called(&self) -> String {
        called(&self.name, self.port, self.groupid)
    }

    /// An error about it.
    pub fn unfit(&self, what: impl std::fmt::Display, todo: impl Into<String>) -> Failure {
        Failure::Node { node: self.called(), what: what.to_string(), todo: Some(todo.into()) }
    }

    /// What is said of an inactive one that is left out.
    pub fn missing(&self, why: &impl std::fmt::Display) -> Missing {
        Missing {
            nodeid: self.nodeid,
            groupid: self.groupid,
            name: self.name.clone(),
            port: self.port,
            why: format!("it is inactive, and {why}"),
        }
    }

    /// Whether it may be left out of what a block holds: it is inactive, and the block has left it out.
    pub fn is_left_out(&self, held: &[HeldNode]) -> bool {
        !self.is_active && !held.iter().any(|node| node.groupid == self.groupid)
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
        "SELECT nodeid, groupid, nodename, nodeport, isactive FROM pg_catalog.pg_dist_node \
          WHERE noderole::text = 'primary' ORDER BY groupid",
    )?;
    let mut nodes = Vec::new();
    for row in rows(&reply)? {
        let (nodeid, groupid): (i32, i32) = (row.get("nodeid")?, row.get("groupid")?);
        let (name, port): (String, i32) = (row.get("nodename")?, row.get("nodeport")?);
        let mut destination = coordinator.clone();
        if groupid != 0 {
            destination.target.node = NodeLabel::new(nodeid, name.clone(), port);
            destination.target.params = args.params(coordinator, groupid, &name, port);
        }
        let is_active = row.is_true("isactive")?;
        nodes.push(Node { nodeid: Some(nodeid), groupid, name, port, is_active, destination });
    }
    if !nodes.iter().any(|node| node.groupid == 0) {
        let (name, port) = (place.host, place.port);
        nodes.insert(
            0,
            Node {
                nodeid: None,
                groupid: 0,
                name,
                port,
                is_active: true,
                destination: coordinator.clone(),
            },
        );
    }
    args.must_be_among(&nodes.iter().map(|node| node.groupid).collect::<Vec<_>>())?;
    if let Some(node) = nodes.iter_mut().find(|node| node.groupid == 0) {
        args.apply(0, &mut node.destination.target.params);
    }
    Ok(nodes)
}

/// Does something for every node. An inactive one with which it cannot be done is left out, with the reason: nothing that
/// the cluster works with is there.
pub fn each<T>(
    nodes: &[Node],
    mut task: impl FnMut(&Node) -> Result<T, Failure>,
) -> Result<(Vec<T>, Vec<Missing>), Failure> {
    let (mut done, mut missing) = (Vec::new(), Vec::new());
    for node in nodes {
        match task(node) {
            Ok(one) => done.push(one),
            Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
            Err(why) if !node.is_active => missing.push(node.missing(&why)),
            Err(error) => return Err(error),
        }
    }
    Ok((done, missing))
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
    let group = talk.ask("group", "SELECT groupid FROM pg_catalog.pg_dist_local_group")?;
    let group = group.parse_single::<i32>()?;
    if !node.is_active && group != node.groupid {
        return Err(node.unfit("it has never been brought into the cluster", "Activate it."));
    }
    if row.is_true("in_recovery")? {
        return Err(node.unfit(
            "a standby answers here",
            format!("Name the primary: --node {}=CONNINFO", node.groupid),
        ));
    }
    // The system identifier does not tell: a worker that was split off another one has that one's. One that has never had
    // metadata takes itself for the coordinator of nobody.
    let is_another = group != node.groupid
        && (group != 0
            || talk
                .ask("nodes", "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_node)")?
                .single_value()?
                == "t");
    if is_another {
        return Err(node.unfit(
            format!("node {group} answers here"),
            format!("Say how to reach it from here: --node {}=CONNINFO", node.groupid),
        ));
    }
    Ok(Identity {
        // SQL shows the unsigned number with a sign.
        system_identifier: row.get::<i64>("system_identifier")?.cast_unsigned().to_string(),
        postgresql: row.get("postgresql")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_node_is_kept_with_its_secret() {
        let said = override_of("2=host=a password=hunter2").expect("an override");
        assert_eq!((said.group, said.params.get("host")), (2, Some("a")));
        assert!(!format!("{said:?}").contains("hunter2"));
        for bad in ["host=a", "x=host=a", "1=host", "1"] {
            assert!(override_of(bad).is_err(), "{bad}");
        }
        let args = NodeArgs { nodes: vec![said] };
        assert!(args.must_be_among(&[0, 1, 2]).is_ok());
        assert!(matches!(args.must_be_among(&[0, 1]), Err(Failure::UnknownGroup { group: 2 })));
    }
}
