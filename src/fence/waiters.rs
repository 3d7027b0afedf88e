//! Who waits because of the block, on whichever node: the price of the block while it is paid.

use std::time::Duration;

use pgrx::pg_sys;

use super::control::NodeRow;
use super::error::FenceError;
use super::state::Moment;
use super::{HELPER_NAME, statements};
use crate::catalog::{Access, Dialer};
use crate::guc;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::ident;
use crate::pg::wait::interruptible;
use crate::remote::{Command, Deadline, NodeLabel, Reply, Session, Target, connect_all, run_all};

/// A session that waits.
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
    /// Since when, by that node's clock.
    pub since: Option<Moment>,
    /// What it runs.
    pub query: Option<String>,
}

/// Sessions that wait for the holder, or for one that does.
fn waiters_of(holder: i32) -> String {
    format!(
        "{}; WITH RECURSIVE edge AS MATERIALIZED ( \
         SELECT a.pid, b.blocker \
           FROM pg_catalog.pg_stat_activity a, \
                LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) AS b(blocker) \
          WHERE a.wait_event_type = 'Lock'), \
     waiting(pid) AS ( \
         SELECT edge.pid FROM edge WHERE edge.blocker = {holder} \
         UNION \
         SELECT edge.pid FROM edge JOIN waiting ON edge.blocker = waiting.pid) \
     SELECT a.pid, a.usename::text, \
            (SELECT ((extract(epoch FROM min(l.waitstart)) - 946684800) * 1000000)::int8 \
               FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted), \
            a.query \
       FROM waiting JOIN pg_catalog.pg_stat_activity a USING (pid) \
      ORDER BY 3 NULLS LAST, 1",
        statements::begin_helper(statements::HELPER_IDLE_MS)
    )
}

/// Asks every node of the manifest, as the extension's owner: the caller may not be allowed to see
/// other roles' queries, nor to read how nodes are reached.  What a query says is for those who were
/// granted the function.
pub fn find(manifest: &[NodeRow], owner: pg_sys::Oid) -> Result<Vec<WaitingSession>, FenceError> {
    let connect_timeout = Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64);
    let dialer = Dialer { role: owner, application_name: HELPER_NAME, connect_timeout };
    let targets = ident::as_role(owner, || -> Result<_, FenceError> {
        let access = Access::read(dialer)?;
        let mut targets: Vec<Target> = vec![access.loopback()?];
        for row in &manifest[1..] {
            let label = NodeLabel::new(row.nodeid, row.host.as_str(), row.port);
            targets.push(access.target(label)?);
        }
        Ok(targets)
    })?;
    let _descriptors = ReservedDescriptors::acquire(targets.len())
        .ok_or(FenceError::NoDescriptors { count: targets.len() })?;
    let mut waiter = interruptible();
    let deadline = Deadline::after(&waiter, connect_timeout);
    let mut sessions =
        connect_all(&mut waiter, &targets, deadline).into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut open: Vec<&mut Session> = sessions.iter_mut().collect();
    let look = |index: usize| {
        let holder: i32 = manifest.get(index).map_or(0, |row| row.backend_pid);
        Command::new("look for waiters", waiters_of(holder))
    };
    let deadline = Deadline::after(&waiter, connect_timeout);
    let mut found = Vec::new();
    for (row, reply) in manifest.iter().zip(run_all(&mut waiter, &mut open, look, deadline)) {
        found.extend(read(row, &reply?)?);
    }
    Ok(found)
}

fn read(node: &NodeRow, reply: &Reply) -> Result<Vec<WaitingSession>, FenceError> {
    let rows = &reply.last_set()?.rows;
    let waiting = rows.iter().filter_map(|row| {
        let [pid, user, since, query] = row.as_slice() else { return None };
        Some(WaitingSession {
            nodeid: node.nodeid,
            host: node.host.as_str().to_owned(),
            port: node.port,
            pid: pid.as_ref()?.parse().ok()?,
            user: user.clone(),
            since: since.as_ref().and_then(|text| text.parse().ok()),
            query: query.clone(),
        })
    });
    Ok(waiting.collect())
}
