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

/// What a split of this extension's is to have cleaned up, by the time that its call returns or soon after.
const OF_SPLITS: [(&str, &str); 5] = [
    ("slot", "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'clone%'"),
    (
        "orphan",
        "SELECT c.relname FROM pg_class c JOIN pg_dist_shard s ON c.relname LIKE '%\\_' || s.shardid
          WHERE c.relkind IN ('r', 'p') AND NOT EXISTS (
                SELECT FROM pg_dist_placement p JOIN pg_dist_local_group g ON g.groupid = p.groupid
                 WHERE p.shardid = s.shardid)",
    ),
    // Those on orphans go with them.
    (
        "seal",
        "SELECT t.tgrelid::regclass::text FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
          WHERE p.proname = 'shard_has_moved' AND NOT t.tgisinternal",
    ),
    (
        "setting",
        "SELECT name FROM pg_file_settings WHERE sourcefile LIKE '%postgresql.auto.conf'
            AND name NOT LIKE 'primary_%' AND name NOT LIKE 'citus_fence.%'",
    ),
    (
        "session",
        "SELECT backend_type || ' ' || application_name FROM pg_stat_activity
          WHERE pid <> pg_backend_pid() AND (application_name LIKE 'citus_fence%clone%'
             OR backend_type LIKE 'citus_fence%clone%')",
    ),
];

/// Traces of this extension's splits on any node, once what passes by itself has had time to.
pub fn of_splits(cluster: &Cluster) -> Result<Vec<String>> {
    // Citus' daemon does that by itself some time later; the embedded catalog has none.
    cluster.coordinator().execute("CALL citus_cleanup_orphaned_resources()")?;
    let mut last = Vec::new();
    let gone = wait_until("no trace of a split", 3 * BOUND, || {
        last.clear();
        // What Citus' daemon does by itself, and the embedded catalog has none for. What is in use is left.
        let _ = cluster.coordinator().execute("CALL pg_catalog.citus_cleanup_orphaned_resources()");
        for (node, server) in cluster.nodes().iter().enumerate() {
            for (what, query) in OF_SPLITS {
                let rows = server
                    .query(&format!("SET citus.override_table_visibility = off; {query}"))
                    .ok()?;
                last.extend(
                    rows.into_iter()
                        .flatten()
                        .flatten()
                        .map(|row| format!("node {node}: {what} {row}")),
                );
            }
        }
        last.is_empty().then_some(())
    });
    Ok(if gone.is_ok() { Vec::new() } else { last })
}
