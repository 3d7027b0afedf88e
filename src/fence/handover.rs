//! What a block's requestor knows of the nodes, handed to the worker through shared memory: so the worker has
//! asked for its connections before it has a session of its own, and the nodes fork while it gets one.
//!
//! It is a start and no more: the list of nodes that counts is the one that is read under the locks, and where
//! nothing was handed over the worker reads it all itself.

use std::time::Duration;

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};

use super::HOLDER_NAME;
use super::error::FenceError;
use super::state::{Terms, Token};
use crate::citus::{self, Access, Dialer, Node};
use crate::guc;
use crate::pg::shmem::{Slots, shareable};
use remote::Target;

/// The nodes, and where the remote ones among them are reached, passwords included.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    /// All primaries.
    pub nodes: Vec<Node>,
    /// The remote ones, in the same order.
    pub targets: Vec<Target>,
}

impl Handover {
    /// As of now, in a transaction.
    pub fn read(terms: &Terms) -> Result<Self, FenceError> {
        citus::fence_relations()?;
        let nodes = citus::nodes()?;
        let access = Access::read(Dialer {
            role: pg_sys::Oid::from(terms.owner),
            application_name: HOLDER_NAME.to_owned(),
            connect_timeout: Duration::from_millis(terms.connect_timeout_ms as u64),
        });
        let targets = remote_nodes(&nodes)
            .map(|node| access.target(node.label()))
            .collect::<Result<Vec<Target>, _>>()?;
        let (count, max) = (targets.len() + 1, guc::MAX_NODES.get() as usize);
        if count > max {
            return Err(FenceError::TooManyNodes { count, max });
        }
        Ok(Self { nodes, targets })
    }
}

/// The nodes that are reached over the network: all but this one.
pub fn remote_nodes(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| node.groupid != citus::COORDINATOR_GROUP)
}

/// What lies in a slot, and for which block.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    generation: u64,
    length: u32,
}

shareable! { Head }

impl Head {
    const NOTHING: Self = Self { generation: 0, length: 0 };
}

/// Bytes per slot: enough for some 40 nodes.  A larger cluster's worker reads the tables itself.
const ROOM: usize = 16 * 1024;

/// A slot per block, as in the control block, under a lock of its own.
pub static HANDOVERS: Slots<Head, u8> =
    Slots::new(c"citus_fence handovers", sizes, (Head::NOTHING, 0));

fn sizes() -> (usize, usize) {
    (guc::MAX_BLOCKS.get().max(1) as usize, ROOM)
}

/// While it lives, the worker of the block can take it.
pub struct Offer(Token);

impl Offer {
    /// Puts it there; nothing where it does not fit.
    pub fn put(token: Token, handover: &Handover) -> Self {
        let bytes = serde_json::to_vec(handover).unwrap_or_default();
        if bytes.len() <= ROOM
            && let Some(mut slots) = HANDOVERS.lock()
        {
            slots.rows(token.slot as usize)[..bytes.len()].copy_from_slice(&bytes);
            *slots.slot(token.slot as usize) =
                Head { generation: token.generation, length: bytes.len() as u32 };
        }
        Self(token)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        take(self.0);
    }
}

/// Takes what was handed over for this block, if nobody has yet.
pub fn take(token: Token) -> Option<Handover> {
    let mut bytes = Vec::with_capacity(ROOM);
    let mut slots = HANDOVERS.lock()?;
    let head = std::mem::replace(slots.slot(token.slot as usize), Head::NOTHING);
    let is_ours = head.generation == token.generation;
    if is_ours {
        let rows = &mut slots.rows(token.slot as usize)[..(head.length as usize).min(ROOM)];
        bytes.extend_from_slice(rows);
        // There may be passwords in it.
        rows.fill(0);
    } else {
        *slots.slot(token.slot as usize) = head;
    }
    drop(slots);
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::Handover;
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
        };
        let nodes = vec![node(1, true), node(2, false)];
        let target = |node: &Node| {
            let mut params = ConnParams::new();
            params.set("host", &*node.host).set("password", "it's \\ secret");
            Target { node: NodeLabel::new(node.nodeid, node.host.clone(), node.port), params }
        };
        let targets: Vec<Target> = nodes.iter().map(target).collect();
        let bytes = serde_json::to_vec(&Handover { nodes, targets }).expect("bytes");
        let back: Handover = serde_json::from_slice(&bytes).expect("the same");
        assert_eq!(back.nodes, [node(1, true), node(2, false)]);
        assert_eq!(back.targets, back.nodes.iter().map(target).collect::<Vec<_>>());
    }
}
