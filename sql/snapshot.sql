-- The cluster snapshot.
REVOKE ALL ON FUNCTION @extschema@.citus_export_cluster_snapshot(int, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_release_cluster_snapshot(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_extend_cluster_snapshot(bigint, int) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.citus_export_cluster_snapshot(int, text) IS
'export a snapshot on every node, all of one moment: a row per node with the export''s number, the identifier that SET TRANSACTION SNAPSHOT takes on that node, a position that the WAL of all it shows is before, and in held_mode whose writers were held back, 2pc or all; writers wait for milliseconds, and two-phase commits left in doubt are finished first; the snapshots live until citus_release_cluster_snapshot(), for timeout_ms (1 to 86400000, default 60000) or until a node is lost, and vacuum removes nothing that they show meanwhile; mode is 2pc, all, or null for all where every node preloads citus_fence, else 2pc; not in a transaction that has written (25001); coordinator only; errors: 22004 null, 22023, 55000 wrong node or not preloaded, 55006 another operation is under way, 53400 too many exports, 08001 a node that does not answer, 55P03 writers in the way within citus_fence.acquire_timeout';
COMMENT ON FUNCTION @extschema@.citus_release_cluster_snapshot(bigint) IS
'end a cluster snapshot: true if and only if it had lasted until this call and this call ended it; else false, and a WARNING says why; sessions that have imported a snapshot keep it; errors: 22004 null, 55000 not preloaded';
COMMENT ON FUNCTION @extschema@.citus_extend_cluster_snapshot(bigint, int) IS
'let a cluster snapshot live for timeout_ms (1 to 86400000) from now; returns the new deadline; errors: 22004 null, 22023, 42704 no such snapshot, 55000 not preloaded';
COMMENT ON FUNCTION @extschema@.citus_cluster_snapshot_status() IS
'the cluster snapshots of this database, a row each: state is starting, held or over; mode says whose writes were held back while it was taken; expires_at is when it ends by itself; error says why one ended that nobody released; the last ones that are over stay until their place is needed';
