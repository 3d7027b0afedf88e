//! Who waits because of the block, on whichever node: the price of the block while it is paid.

use std::time::Duration;

use remote::{Command, Deadline, Reply, Session, Target, connect_all, run_all};

use super::control::NodeRow;
use super::error::BlockError;
use super::state::Moment;
use super::statements;
use super::wait_graph::{self, Session as GraphSession};
use crate::citus::{self, Dialer, Node, Roster};
use crate::fence::FenceError;
use crate::guc;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::wait::interruptible;

/// A session that waits.
#[derive(Clone)]
pub struct WaitingSession {
    /// Its node; 0 for a coordinator that is not in `pg_dist_node`.
    pub nodeid: i32,
    /// Its node's name.
    pub host: String,
    /// Its node's port.
    pub port: i32,
    /// Its process there.
    pub pid: i32,
    /// Its role.
    pub user: Option<String>,
    /// Since when, by the clock of the node where the lock is.
    pub since: Option<Moment>,
    /// What it runs.
    pub query: Option<String>,
}

/// Asks every node of the manifest, as the extension's owner: the caller may not be allowed to see
/// other roles' queries, nor to read how nodes are reached.  What a query says is for those who were
/// granted the function.
pub fn find(manifest: &[NodeRow]) -> Result<Vec<WaitingSession>, BlockError> {
    let connect_timeout = Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64);
    let roster = Roster::read(Dialer::helper(connect_timeout))?;
    let under_block = |node: &Node| manifest.iter().any(|row| row.nodeid == node.nodeid);
    let others = roster.others().iter().zip(roster.other_targets());
    let others = others.filter(|(node, _)| under_block(node)).map(|(_, target)| target);
    let targets: Vec<Target> = roster.targets().iter().take(1).chain(others).cloned().collect();
    let _descriptors = ReservedDescriptors::acquire(targets.len())
        .ok_or(FenceError::NoDescriptors { count: targets.len() })?;
    let mut waiter = interruptible();
    let deadline = Deadline::after(&waiter, connect_timeout);
    let mut sessions =
        connect_all(&mut waiter, &targets, deadline).into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut open: Vec<&mut Session> = sessions.iter_mut().collect();
    let sql = statements::look_for_waiters();
    let look = |_| Command::new("look for waiters", sql.as_str());
    let deadline = Deadline::after(&waiter, connect_timeout);
    let mut graph = Vec::new();
    let mut shown = Vec::new();
    for (number, reply) in run_all(&mut waiter, &mut open, look, deadline).into_iter().enumerate() {
        let node = &manifest[number];
        for (vertex, session) in read(number, node, &reply?)? {
            graph.push(vertex);
            shown.push(session);
        }
    }
    let holders: Vec<i32> = manifest.iter().map(|row| row.backend_pid).collect();
    let since: Vec<Option<Moment>> = shown.iter().map(|session| session.since).collect();
    let waiting = wait_graph::waiting(&holders, &graph).into_iter().map(|waiting| WaitingSession {
        since: since[waiting.through],
        ..shown[waiting.position].clone()
    });
    Ok(waiting.collect())
}

fn read(
    number: usize,
    node: &NodeRow,
    reply: &Reply,
) -> Result<Vec<(GraphSession, WaitingSession)>, BlockError> {
    let rows = &reply.last_set()?.rows;
    let sessions = rows.iter().filter_map(|row| {
        let [pid, application_name, blockers, user, since, query] = row.as_slice() else {
            return None;
        };
        let pid: i32 = pid.as_ref()?.parse().ok()?;
        let served = application_name.as_deref().and_then(citus::parse_global_pid);
        let blockers = blockers.as_deref().unwrap_or_default();
        let own_global_pid = citus::global_pid(node.nodeid, pid);
        let vertex = GraphSession {
            node: number,
            pid,
            global_pid: served.unwrap_or(own_global_pid),
            own_global_pid,
            blockers: blockers.split(',').filter_map(|text| text.parse().ok()).collect(),
        };
        let session = WaitingSession {
            nodeid: node.nodeid,
            host: node.host.as_str().to_owned(),
            port: node.port,
            pid,
            user: user.clone(),
            since: since.as_ref().and_then(|text| text.parse().ok()),
            query: query.clone(),
        };
        Some((vertex, session))
    });
    Ok(sessions.collect())
}
