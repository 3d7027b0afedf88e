//! The nodes of the cluster as one reading of the catalog has them, each with how it is reached.

use remote::{Session, Target};
use serde::{Deserialize, Serialize};

use super::identity::extension_version;
use super::{Access, COORDINATOR_GROUP, CatalogError, Dialer, Node, is_citus, nodes, this_node};

/// All primaries, the coordinator, which is this server, first.  There are passwords in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    nodes: Vec<Node>,
    targets: Vec<Target>,
    /// Where the others reach this server, if it is registered.
    registered: Option<Target>,
    /// Version of this extension here.
    extension: Option<String>,
    is_citus: bool,
}

impl Roster {
    /// As of now, inside a transaction.
    pub fn read(dialer: Dialer) -> Result<Self, CatalogError> {
        let nodes = list()?;
        let access = Access::read(dialer);
        let others = nodes[1..].iter().map(|node| access.target(node.label()));
        let mut targets = others.collect::<Result<Vec<Target>, _>>()?;
        targets.insert(0, access.loopback()?);
        let own = nodes.first().filter(|node| node.nodeid != 0);
        let registered = own.map(|node| access.target(node.label())).transpose()?;
        let extension = extension_version("citus_fence");
        Ok(Self { nodes, targets, registered, extension, is_citus: is_citus() })
    }

    /// Rows of the catalog; this server's is made up where there is none.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where they are reached, in the same order.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Where this server is to be found as the catalog has it, if it does.
    pub fn registered(&self) -> Option<&Target> {
        self.registered.as_ref()
    }

    /// Version of this extension here, in SQL.
    pub fn extension(&self) -> Option<&str> {
        self.extension.as_deref()
    }

    /// Whether Citus itself is in this database, and not only its tables.
    pub fn is_citus(&self) -> bool {
        self.is_citus
    }

    /// The nodes but for this server.
    pub fn others(&self) -> &[Node] {
        &self.nodes[1..]
    }

    /// Where those are reached.
    pub fn other_targets(&self) -> &[Target] {
        &self.targets[1..]
    }

    /// The active ones and this server, and apart from them where the inactive ones are reached.
    pub fn part_with_inactive(self) -> (Self, Vec<Target>) {
        self.part(|node| node.active)
    }

    /// Those that `keeps` wants and this server, and apart from them where the others are reached.
    pub fn part(self, keeps: impl Fn(&Node) -> bool) -> (Self, Vec<Target>) {
        let mut others = Vec::new();
        let (mut nodes, mut targets) = (Vec::new(), Vec::new());
        for (node, target) in self.nodes.into_iter().zip(self.targets) {
            if node.groupid == COORDINATOR_GROUP || keeps(&node) {
                nodes.push(node);
                targets.push(target);
            } else {
                others.push(target);
            }
        }
        let (registered, extension, is_citus) = (self.registered, self.extension, self.is_citus);
        (Self { nodes, targets, registered, extension, is_citus }, others)
    }

    /// Whether they are still all there are.
    pub fn is_current(&self) -> Result<bool, CatalogError> {
        Ok(list()? == self.nodes)
    }

    /// Looks up now by which address this server reaches itself, so that nobody has to later.
    pub fn find_own_address(&mut self) {
        if let Some(own) = self.targets.first_mut() {
            own.params.find_addresses();
        }
    }

    /// Has later connections go where these sessions are, without another look at names: a look-up can take
    /// any time, and nothing bounds it.
    pub fn keep_addresses<'s>(&mut self, sessions: impl IntoIterator<Item = &'s Session>) {
        for session in sessions {
            let known = self.targets.iter_mut().find(|target| target.node == *session.node());
            if let Some(target) = known {
                target.params.keep_address_of(session.params());
            }
        }
    }
}

/// This server, then the others.
fn list() -> Result<Vec<Node>, CatalogError> {
    let primaries = nodes()?;
    let mut list = vec![this_node(&primaries)];
    list.extend(primaries.into_iter().filter(|node| node.groupid != COORDINATOR_GROUP));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::Roster;
    use crate::citus::Node;
    use remote::{ConnParams, NodeLabel, Target};

    #[test]
    fn what_is_handed_over_comes_out_as_it_was() {
        let node = |nodeid, active| Node {
            nodeid,
            groupid: nodeid,
            host: "wörker \"1\"".into(),
            port: 5433,
            active,
            has_metadata: true,
        };
        let nodes = vec![node(1, true), node(2, false)];
        let target = |node: &Node| {
            let mut params = ConnParams::new();
            params.set("host", &*node.host).set("password", "it's \\ secret");
            Target { node: NodeLabel::new(node.nodeid, node.host.clone(), node.port), params }
        };
        let targets: Vec<Target> = nodes.iter().map(target).collect();
        let registered = targets.first().cloned();
        let extension = Some("0.2.0".into());
        let roster = Roster { nodes, targets, registered, extension, is_citus: true };
        let bytes = serde_json::to_vec(&roster).expect("bytes");
        assert_eq!(serde_json::from_slice::<Roster>(&bytes).expect("the same"), roster);
    }
}
