-- The registry of clones, who may call the functions, and what they all mean.

CREATE TABLE citus_fence.clone (
    clone_nodeid int PRIMARY KEY,
    nodename text NOT NULL,
    nodeport int NOT NULL,
    source_nodeid int NOT NULL,
    step text NOT NULL DEFAULT 'registered'
        CHECK (step IN ('registered', 'checked', 'near', 'prepared', 'caught_up', 'promoting',
                        'promoted', 'committing', 'released', 'cleaned')),
    step_since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    token text NOT NULL,
    slot_name name,
    terms jsonb NOT NULL DEFAULT '{}',
    plan jsonb,
    former_settings jsonb,
    former_source_setting jsonb,
    left_out int[] NOT NULL DEFAULT '{}',
    fork_timeline int,
    fork_lsn pg_lsn,
    last_error text,
    UNIQUE (nodename, nodeport)
);
REVOKE ALL ON TABLE citus_fence.clone FROM PUBLIC;

CREATE TABLE citus_fence.clone_journal (
    entry bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    clone_nodeid int NOT NULL REFERENCES citus_fence.clone ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    kind text NOT NULL CHECK (kind IN ('notice', 'warning', 'trouble', 'error', 'done')),
    sqlstate text NOT NULL,
    message text NOT NULL,
    detail text,
    hint text
);
REVOKE ALL ON TABLE citus_fence.clone_journal FROM PUBLIC;

CREATE FUNCTION citus_fence.shard_has_moved() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    -- What follows a row of a reference table is done where the shard is now, too: here it meets only what is left over.
    IF pg_trigger_depth() > 1 AND TG_OP IN ('UPDATE', 'DELETE')
       AND EXISTS (SELECT FROM pg_constraint
                    WHERE conrelid = TG_RELID AND contype = 'f'
                      AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'shard %.% has moved to another node', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
END
$body$;

REVOKE ALL ON FUNCTION @extschema@.citus_add_clone_node(text, int, text, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_add_clone_node_with_nodeid(text, int, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_remove_clone_node(text, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_remove_clone_node_with_nodeid(int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_promote_clone_and_rebalance(int, name, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_clone_status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.citus_clone_status() TO pg_monitor;
REVOKE ALL ON FUNCTION citus_fence.give_up_clone_by_force(int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.leave_out_node_by_force(int, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.lock_placement_colocation(bigint[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.library_version() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.shard_has_moved() FROM PUBLIC;

COMMENT ON TABLE citus_fence.clone IS
'on the coordinator, a row per registered clone: the streaming replica, the node it replicates (source_nodeid), how far its split has come (step), the plan of that, the settings that the clone and its source had before, the nodes that it is to end without, where it has left its source''s timeline, and the secret that opens it';
COMMENT ON TABLE citus_fence.clone_journal IS
'what splits have done, in order: what citus_promote_clone_and_rebalance() says while it runs, and how it ended';
COMMENT ON SEQUENCE citus_fence.clone_journal_entry_seq IS
'numbers of the lines of citus_fence.clone_journal';
COMMENT ON FUNCTION @extschema@.citus_add_clone_node(text, int, text, int) IS
'register a streaming replica (host, port) of a node of the cluster (host, port as pg_dist_node has them), so that citus_promote_clone_and_rebalance() can make a worker of it; changes neither; returns the clone''s nodeid; coordinator only; errors: 22004 null, 42710 registered already or a node already, 42704 no such source, 55000 wrong node, a source that is not active, or a replica that is not fit to be promoted, with the reason, 08001 a node that does not answer';
COMMENT ON FUNCTION @extschema@.citus_add_clone_node_with_nodeid(text, int, int) IS
'the same, with the source''s nodeid';
COMMENT ON FUNCTION @extschema@.citus_remove_clone_node(text, int) IS
'forget a clone (host, port), which streams on as a replica; coordinator only; errors: 42704 no such clone, 55006 while its split is under way';
COMMENT ON FUNCTION @extschema@.citus_remove_clone_node_with_nodeid(int) IS
'the same, with the clone''s nodeid';
COMMENT ON FUNCTION @extschema@.citus_promote_clone_and_rebalance(int, name, int) IS
'make a worker of its own of a registered clone, and give it half of its source''s shards without copying them: writers of those shards wait for a moment on every node, reads never; rebalance_strategy is a row of pg_dist_rebalance_strategy, null for the default one; catchup_timeout_seconds (1 to 86400, default 300) bounds how long the clone may take to come near its source; before the promotion a failure or a cancel puts everything back, after it the split is finished in the background, also after a restart, or by calling again; not in a transaction block (25001); coordinator only; errors: 42704 no such clone, 22023, 55000 unfit, 55006 another operation is under way, 55P03 writers in the way within citus_fence.acquire_timeout, 57014';
COMMENT ON FUNCTION @extschema@.citus_clone_status() IS
'a row per registered clone: its address, its source, the step its split is at and since when, how many bytes it lags behind its source (null where that is not known), the last error, and, once it is promoted, its timeline and the position up to which it has what its source wrote';
COMMENT ON FUNCTION citus_fence.give_up_clone_by_force(int) IS
'take back a split whose clone is lost for good at step promoting or promoted: every other node still has the old placements, and what is prepared there is rolled back by a background worker; the clone has taken no client until then, and must never be started again; errors: 22004 null, 42704 no such clone, 55000 another step, or a clone that answers';
COMMENT ON FUNCTION citus_fence.leave_out_node_by_force(int, int) IS
'have an interrupted split (clone_nodeid) be taken back or finished without a node (nodeid) that is in pg_dist_node but lost for good; what is prepared there stays prepared, and a WARNING says what is to be done should that server ever be started again; errors: 22004 null, 42704 no such clone or node, 55000 nothing under way, the coordinator, a clone that no node has yet, or a node that answers';
COMMENT ON FUNCTION citus_fence.lock_placement_colocation(bigint[]) IS
'what a split takes on the coordinator, to the end of the transaction: the locks with which Citus keeps moves of shards apart, by colocation id, or by table where that is 0; not for users';
COMMENT ON FUNCTION citus_fence.shard_has_moved() IS
'trigger on a shard that has moved to another node: whatever would write to what is left of it fails with 40001';
COMMENT ON FUNCTION citus_fence.library_version() IS
'version of the library of citus_fence that this server has loaded; not for users';
