-- The note that the cluster is to be read-only, who may use the functions, and what they all mean.

CREATE TABLE citus_fence.cluster_read_only (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    asked_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    asked_by name NOT NULL
);
GRANT SELECT ON citus_fence.cluster_read_only TO PUBLIC;

REVOKE ALL ON FUNCTION citus_set_cluster_read_only() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_set_cluster_read_write() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_cluster_read_only_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION citus_cluster_read_only_status() TO pg_monitor;
REVOKE ALL ON FUNCTION citus_fence.node_read_only() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.node_read_write() FROM PUBLIC;

COMMENT ON TABLE citus_fence.cluster_read_only IS
'on the coordinator, one row while the cluster is, or is being made, read-only: who asked and when; with nodes that write, the switch was interrupted, and is finished by the next call of citus_set_cluster_read_only() or citus_set_cluster_read_write()';
COMMENT ON FUNCTION citus_set_cluster_read_only() IS
'make every node of the cluster refuse writes, across restarts, and cut no distributed transaction in half: writers are held back on all nodes, prepared transactions finished, then the nodes are switched, all or none; coordinator only, for superusers, and whom they GRANT EXECUTE; bounded by citus_fence.acquire_timeout, in attempts of at most 1 s; errors: 25001 in a transaction that has written, 55000 wrong node or a node that does not preload the library, 08001 a node that does not answer, 55P03 writers in the way, which are named, 58000 switched in part';
COMMENT ON FUNCTION citus_set_cluster_read_write() IS
'let every node of the cluster write again; nodes that do not answer are named in the error, and the others write; coordinator only, for superusers, and whom they GRANT EXECUTE; errors: 25001, 55000 wrong node or not preloaded, 58000 not all nodes could be switched';
COMMENT ON FUNCTION citus_cluster_read_only_status() IS
'a row per node: its state (read-write, closing, read-only; standby in recovery; reserved for a clone, which citus_fence.stat_gate there names), the position that no commit is behind where it is read-only, or why it did not answer, or that it writes in a cluster that is read-only, and what to do; coordinator only';
COMMENT ON FUNCTION citus_fence.node_read_only() IS
'what citus_set_cluster_read_only() calls on each node, behind closed gates';
COMMENT ON FUNCTION citus_fence.node_read_write() IS
'what citus_set_cluster_read_write() calls on each node';
