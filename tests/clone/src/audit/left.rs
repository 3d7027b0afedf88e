//! Nothing is left behind: no prepared transaction, no lock on metadata.

use std::time::Duration;

use test_cluster::{Cluster, Result, wait_until};

use super::Audit;

/// How long what passes by itself may take: a daemon's own look, a session that is about to end.
const BOUND: Duration = Duration::from_secs(10);

/// Locks by which the metadata of shards and nodes is held. Citus' are advisory.
const LOCKS: &str = "
    SELECT l.mode || ' on ' || CASE l.locktype WHEN 'relation' THEN l.relation::regclass::text
               ELSE l.classid || '/' || l.objid || '/' || l.objsubid END
           || COALESCE(', pid ' || l.pid, ', prepared')
      FROM pg_locks l
     WHERE l.granted AND (l.locktype = 'advisory' OR l.locktype = 'relation'
             AND l.relation IN ('pg_catalog.pg_dist_node'::regclass, 'pg_catalog.pg_dist_placement'::regclass,
                                'pg_catalog.pg_dist_transaction'::regclass, 'pg_catalog.pg_dist_partition'::regclass)
             AND l.mode NOT IN ('AccessShareLock', 'RowShareLock'))";

const PREPARED: &str = "SELECT gid || ' prepared' FROM pg_prepared_xacts";

pub(super) fn check(cluster: &Cluster, audit: &mut Audit) -> Result<()> {
    for (node, server) in cluster.nodes().iter().enumerate() {
        let mut last = Vec::new();
        let free = wait_until("nothing to be left", BOUND, || {
            let look = |query| server.query(query).ok();
            let (locks, prepared) = (look(LOCKS)?, look(PREPARED)?);
            last = locks.into_iter().chain(prepared).flatten().flatten().collect();
            last.is_empty().then_some(())
        });
        if free.is_err() {
            audit.wrong.push(format!("left on node {node}: {last:?}"));
        }
    }
    Ok(())
}
