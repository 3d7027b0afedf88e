//! Who has a part in the rest of a split that is put back or finished: nodes that are gone from the cluster have none.
//!
//! # Why nobody's write is lost for a node that is not waited for
//!
//! Before `caught_up` nothing is decided, and all goes back.  From there on the coordinator's own prepared switch keeps
//! `pg_dist_node` as it is: no node is removed or disabled before that is committed or rolled back.  So where a node is missing
//! later, the coordinator has the new metadata, and nobody goes to the old place through it.
//!
//! What the split has prepared on a node ends by nothing but a word to that very server.  A server that is out of reach, whether it
//! is dead, cut off or removed, keeps the locks that it has: through it nobody writes to what moves, and, if it is the source,
//! nobody writes to the old tables, whichever way he comes.  That is so over any restart, for its standbys, and whatever the
//! registry says meanwhile.  Not to wait for it lets go of nothing there; it only leaves the last word to whoever brings
//! it back, and a WARNING says which.
//!
//! What a node would have had to do otherwise (a setting, a slot, tables to drop) has no meaning without the node.  Only what is
//! dropped is looked at twice: the old tables of a shard are not given to Citus' clean-up unless a node of the cluster has the shard
//! now ([`super::statements::clean_up`]).

use remote::{NodeLabel, Target};

use super::error::CloneError;
use super::links::{Map, dialer};
use super::registry::Replica;
use super::state::Step;
use crate::citus::{Access, COORDINATOR_GROUP, Roster};
use crate::fence::FenceError;
use crate::pg::fd::ReservedDescriptors;

/// What has become of the source, or of the clone.
#[derive(Clone, Debug)]
pub enum Part {
    /// It has to answer.
    Needed(Target),
    /// It is inactive: what is left to do there is done if it answers.
    Inactive(Target),
    /// An operator has said that it is lost for good.
    LeftOut,
    /// It is not in the catalog any more.
    Gone,
}

/// Who takes part, as the catalog and the operator have it.
pub struct Ground {
    /// The active primaries but for those that are left out, the coordinator, which is this server, first.
    pub roster: Roster,
    /// Where the inactive ones are reached; nobody waits for them.
    pub inactive: Vec<Target>,
    /// Those that are left out.
    pub left_out: Vec<NodeLabel>,
    /// The source.
    pub source: Part,
    /// Its node group, where that is known.
    pub source_group: Option<i32>,
    /// The clone.
    pub clone: Part,
    /// Whether the catalog has the clone as a node.
    pub clone_is_node: bool,
    /// Inactive nodes that have not answered when the switch was committed.
    pub silent: Vec<NodeLabel>,
    _descriptors: Option<ReservedDescriptors>,
}

impl Ground {
    /// Reads the catalog, inside a transaction.
    pub fn read(clone: &Replica) -> Result<Self, CloneError> {
        let all = Roster::read(dialer())?;
        let access = Access::read(dialer());
        let is_left_out = |nodeid: i32| clone.left_out.contains(&nodeid);
        let part = |nodeid: i32, target: Option<Target>| {
            let index = all.nodes().iter().position(|node| node.nodeid == nodeid);
            let found = index.map(|index| (&all.nodes()[index], &all.targets()[index]));
            match found {
                Some((node, _)) if node.groupid != COORDINATOR_GROUP && is_left_out(nodeid) => {
                    Part::LeftOut
                }
                Some((node, at)) => {
                    let target = target.unwrap_or_else(|| at.clone());
                    match node.active || node.groupid == COORDINATOR_GROUP {
                        true => Part::Needed(target),
                        false => Part::Inactive(target),
                    }
                }
                None => Part::Gone,
            }
        };
        let group_then = clone.plan.as_ref().and_then(|plan| plan.source_group);
        let source = match part(clone.source, None) {
            // This server is there, whether it is registered or not.
            Part::Gone if group_then == Some(COORDINATOR_GROUP) => {
                Part::Needed(all.targets()[0].clone())
            }
            part => part,
        };
        let group_now = all.nodes().iter().find(|node| node.nodeid == clone.source);
        let source_group = group_now.map(|node| node.groupid).or(group_then);

        // Once it is a node, its address is the catalog's: it may have failed over.
        let listed = all.nodes().iter().find(|node| node.nodeid == clone.nodeid);
        let clone_is_node = listed.is_some();
        let at = match listed {
            Some(node) => access.replica(node.label(), clone.nodeid)?,
            None => access.replica(place_of(clone), clone.source)?,
        };
        let of_clone = match part(clone.nodeid, Some(at.clone())) {
            // Until then nothing can be done without it.
            _ if clone.step < Step::Committing => Part::Needed(at),
            // The coordinator may not have heard of it yet.
            Part::Gone if clone.step < Step::Released => Part::Needed(at),
            part => part,
        };

        let count = 2 * all.nodes().len() + 4;
        let descriptors =
            ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
        let (present, left_out) = all.part(|node| !is_left_out(node.nodeid));
        let (roster, inactive) = present.part_with_inactive();
        Ok(Self {
            roster,
            inactive,
            left_out: left_out.into_iter().map(|target| target.node).collect(),
            source,
            source_group,
            clone: of_clone,
            clone_is_node,
            silent: Vec::new(),
            _descriptors: Some(descriptors),
        })
    }

    /// That of a split whose sessions are all there; what has reserved their descriptors stays with the map.
    pub fn of(map: &Map) -> Self {
        Self {
            roster: map.roster.clone(),
            inactive: map.inactive.clone(),
            left_out: Vec::new(),
            source: Part::Needed(map.roster.targets()[map.source].clone()),
            source_group: Some(map.roster.nodes()[map.source].groupid),
            clone: Part::Needed(map.clone.clone()),
            clone_is_node: false,
            silent: Vec::new(),
            _descriptors: None,
        }
    }
}

/// Where a clone is that is no node yet, inside a transaction.
pub fn clone_target(clone: &Replica) -> Result<Target, CloneError> {
    Ok(Access::read(dialer()).replica(place_of(clone), clone.source)?)
}

fn place_of(clone: &Replica) -> NodeLabel {
    NodeLabel::new(clone.nodeid, clone.host.clone(), clone.port)
}
