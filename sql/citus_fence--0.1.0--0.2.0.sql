-- What 0.2.0 changes in the SQL of 0.1.0.  A change of the extension's SQL comes with its lines here; the
-- tests in tests/upgrade/ compare what this makes of a 0.1.0 with a fresh 0.2.0.

\echo Use "ALTER EXTENSION citus_fence UPDATE TO '0.2.0'" to load this file. \quit

-- What follows is made for a library of 0.2.0 or later.  A server keeps the library that it has loaded until it
-- is restarted, whatever is installed meanwhile: functions of an older one would be missing or, worse, answer
-- in another shape.  LOAD is for where it is not preloaded: it does nothing where it is.
DO $check$
DECLARE
    needed constant text := '0.2.0';
    loaded text;
BEGIN
    -- Since 18 functions find their library where extension_control_path has the extension, without this prefix;
    -- LOAD does not leave it out by itself.
    EXECUTE pg_catalog.format('LOAD %L', CASE
        WHEN pg_catalog.current_setting('server_version_num')::int OPERATOR(pg_catalog.>=) 180000
        THEN pg_catalog.replace('MODULE_PATHNAME', '$libdir/', '') ELSE 'MODULE_PATHNAME' END);
    -- The library of 0.1.0 did not say what it is.
    loaded := coalesce(pg_catalog.current_setting('citus_fence.library_version', true), '0.1.0');
    IF pg_catalog.string_to_array(loaded, '.')::int[] OPERATOR(pg_catalog.<) pg_catalog.string_to_array(needed, '.')::int[] THEN
        RAISE EXCEPTION 'this server runs the library of citus_fence %, and its SQL is of %', loaded, needed
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Restart the server, so that it loads the library that is installed, and repeat the command.';
    END IF;
END
$check$;

-- Whether this server is the coordinator that pg_dist_node names.
CREATE FUNCTION citus_fence."coordinator_number"() RETURNS TEXT
STRICT VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'coordinator_number_wrapper';
REVOKE ALL ON FUNCTION citus_fence.coordinator_number() FROM PUBLIC;
COMMENT ON FUNCTION citus_fence.coordinator_number() IS
'what a coordinator that cannot dial its own address asks its workers: the number that the server has drawn at its start which this node''s pg_dist_node calls the coordinator (its setting citus_fence.server_number); null where that cannot be told; not for users; errors: 08001, class 28 where it cannot be reached';

-- A standby that is reserved for a clone.
CREATE FUNCTION citus_fence."enter_reserved_node"(
	"token" TEXT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'enter_reserved_node_wrapper';
CREATE FUNCTION citus_fence."release_node"(
	"token" TEXT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'release_node_wrapper';
CREATE FUNCTION citus_fence."release_node_by_force"(
	"clone_id" INT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'release_node_by_force_wrapper';
CREATE FUNCTION citus_fence."reserve_node"(
	"clone_id" INT,
	"token" TEXT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'reserve_node_wrapper';
CREATE FUNCTION citus_fence."reserved_for"() RETURNS INT
STRICT VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'reserved_for_wrapper';

CREATE OR REPLACE VIEW citus_fence.stat_gate AS
SELECT node.state,
       closed.client AS client_gate_closed,
       closed.internal AS internal_gate_closed,
       node.read_only_since,
       node.read_only_lsn,
       node.refused,
       node.waited,
       node.terminated,
       node.ungated_commits,
       citus_fence.reserved_for() AS clone_id
  FROM citus_fence.node_gate() AS node,
       (SELECT coalesce(bool_or(b.gate = 'client'), false) AS client,
               coalesce(bool_or(b.gate = 'internal'), false) AS internal
          FROM citus_fence.gate_blockers AS b
         WHERE b.mode = 'ExclusiveLock' AND b.granted
           AND b.database = pg_catalog.current_database()) AS closed;

REVOKE ALL ON FUNCTION citus_fence.enter_reserved_node(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.release_node(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.release_node_by_force(int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.reserve_node(int, text) FROM PUBLIC;

COMMENT ON FUNCTION citus_fence.enter_reserved_node(text) IS
'make this session one that the reserved node lets write: for the clone split, which proves itself by the token of reserve_node(); to the end of the session, of the reservation, or to DISCARD ALL; for superusers, and whom they GRANT EXECUTE; errors: 42501 another token, 22004 null, 55000 not reserved or not preloaded, 55006 the token is not known any more';
COMMENT ON FUNCTION citus_fence.release_node(text) IS
'end what reserve_node() began with this token, on a standby or after its promotion; takes effect at once, whatever becomes of the calling transaction; does nothing where the node is not reserved; for superusers, and whom they GRANT EXECUTE; errors: 42501 another token, 22004 null, 55000 not preloaded, 55006 the token is not known any more, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION citus_fence.release_node_by_force(int) IS
'the same without the token, for the clone that stat_gate shows (0 where the file was damaged): what clients then write on a promoted clone before it is a worker of its own is lost; for superusers, and whom they GRANT EXECUTE; errors: 22004 null, 55000 not preloaded, 55006 reserved for another clone, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION citus_fence.reserve_node(int, text) IS
'reserve this standby for a clone: from its promotion on, over restarts and crashes, it refuses every write but those of sessions that have called enter_reserved_node() with the same token (1 to 128 bytes), until release_node(); on a standby only, and the same call again succeeds, also after the promotion; takes effect at once, whatever becomes of the calling transaction; neither replicated nor part of a base backup; for superusers, and whom they GRANT EXECUTE; errors: 22004 null, 22023 no id or token, 55000 not in recovery or not preloaded, 55006 reserved for another clone or with another token, 58030 the state cannot be written to disk';
COMMENT ON FUNCTION citus_fence.reserved_for() IS
'the clone that this node is reserved for, 0 where the file that told it is damaged, or null';
COMMENT ON VIEW citus_fence.stat_gate IS
'the gates of this node: state (read-write, closing, read-only; standby in recovery; reserved for a clone), which gates of this database are held closed, since when and at which position the node is read-only, since the server''s start: writes refused, transactions that waited, sessions ended, and commits that passed no gate, which must stay 0; and for which clone the node is reserved';
COMMENT ON FUNCTION citus_cluster_read_only_status() IS
'a row per node: its state (read-write, closing, read-only; standby in recovery; reserved for a clone, which citus_fence.stat_gate there names), the position that no commit is behind where it is read-only, or why it did not answer, or that it writes in a cluster that is read-only, and what to do; coordinator only';
-- The plan of a clone split.
CREATE FUNCTION @extschema@.get_snapshot_based_node_split_plan(
    primary_node_name text,
    primary_node_port int,
    replica_node_name text,
    replica_node_port int,
    rebalance_strategy name DEFAULT NULL)
    RETURNS TABLE (table_name regclass, shardid bigint, shard_size bigint, placement_node text)
    VOLATILE PARALLEL UNSAFE LANGUAGE c
    AS 'MODULE_PATHNAME', 'get_snapshot_based_node_split_plan_wrapper';
REVOKE ALL ON FUNCTION @extschema@.get_snapshot_based_node_split_plan(text, int, text, int, name) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.get_snapshot_based_node_split_plan(text, int, text, int, name) IS
'which shards of a primary would go to its replica in a clone split, and which stay; changes nothing: a row per shard with its table, its bytes on the primary, and host:port of the node that would hold it; shards of reference tables have two rows, as both nodes hold them; colocated shards are together, and unlogged ones stay; costs, capacities and allowed nodes are those of a row of pg_dist_rebalance_strategy, by default of the default one; coordinator only; errors: 22004 null, 22023 no such node, or a strategy whose functions give no numbers, 42704 no such strategy, 55000 wrong node, or a source that is no active primary, 08001 a source that does not answer';

-- The clone split.
CREATE FUNCTION "citus_add_clone_node"(
	"replica_hostname" TEXT,
	"replica_port" INT,
	"primary_hostname" TEXT,
	"primary_port" INT
) RETURNS INT
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_add_clone_node_wrapper';
CREATE FUNCTION "citus_add_clone_node_with_nodeid"(
	"replica_hostname" TEXT,
	"replica_port" INT,
	"primary_nodeid" INT
) RETURNS INT
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_add_clone_node_with_nodeid_wrapper';
CREATE FUNCTION "citus_remove_clone_node"(
	"nodename" TEXT,
	"nodeport" INT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_remove_clone_node_wrapper';
CREATE FUNCTION "citus_remove_clone_node_with_nodeid"(
	"nodeid" INT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_remove_clone_node_with_nodeid_wrapper';
CREATE FUNCTION "citus_promote_clone_and_rebalance"(
	"clone_nodeid" INT,
	"rebalance_strategy" pg_catalog.name DEFAULT NULL,
	"catchup_timeout_seconds" INT DEFAULT 300
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_promote_clone_and_rebalance_wrapper';
CREATE FUNCTION "citus_clone_status"() RETURNS TABLE (
	"clone_nodeid" INT,
	"nodename" TEXT,
	"nodeport" INT,
	"source_nodeid" INT,
	"step" TEXT,
	"step_since" timestamp with time zone,
	"lag_bytes" bigint,
	"last_error" TEXT,
	"fork_timeline" INT,
	"fork_lsn" pg_catalog.pg_lsn
)
STRICT VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_clone_status_wrapper';
CREATE FUNCTION citus_fence."give_up_clone_by_force"(
	"clone_nodeid" INT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'give_up_clone_by_force_wrapper';
CREATE FUNCTION citus_fence."leave_out_node_by_force"(
	"clone_nodeid" INT,
	"nodeid" INT
) RETURNS void
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'leave_out_node_by_force_wrapper';
CREATE FUNCTION citus_fence."lock_placement_colocation"(
	"ids" bigint[]
) RETURNS void
STRICT VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'lock_placement_colocation_wrapper';
CREATE FUNCTION citus_fence."library_version"() RETURNS TEXT
STRICT STABLE PARALLEL SAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'library_version_wrapper';

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

-- The cluster snapshot.
CREATE FUNCTION "citus_export_cluster_snapshot"(
	"timeout_ms" INT DEFAULT 60000,
	"mode" TEXT DEFAULT NULL
) RETURNS TABLE (
	"export_id" bigint,
	"nodeid" INT,
	"groupid" INT,
	"nodename" TEXT,
	"nodeport" INT,
	"snapshot_id" TEXT,
	"wal_lsn" pg_catalog.pg_lsn,
	"held_mode" TEXT
)
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_export_cluster_snapshot_wrapper';
CREATE FUNCTION "citus_release_cluster_snapshot"(
	"export_id" bigint
) RETURNS bool
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_release_cluster_snapshot_wrapper';
CREATE FUNCTION "citus_extend_cluster_snapshot"(
	"export_id" bigint,
	"timeout_ms" INT
) RETURNS timestamp with time zone
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_extend_cluster_snapshot_wrapper';
CREATE FUNCTION "citus_cluster_snapshot_status"() RETURNS TABLE (
	"export_id" bigint,
	"state" TEXT,
	"mode" TEXT,
	"worker_pid" INT,
	"requestor_pid" INT,
	"start_time" timestamp with time zone,
	"expires_at" timestamp with time zone,
	"node_count" INT,
	"error" TEXT
)
STRICT VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_cluster_snapshot_status_wrapper';
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
COMMENT ON FUNCTION @extschema@.alter_system_read_only(boolean) IS
'make this node refuse every write, across restarts, until alter_system_read_write(); sessions that are writing are ended (FATAL 25006), or waited for where terminate_writers is false; returns the WAL position that no commit of this node is behind; takes effect at once, whatever becomes of the calling transaction; for superusers, and whom they GRANT EXECUTE; errors: 22004 null, 25001 in a transaction that has written, 55000 on a standby or not preloaded, 40P01 a writer that waits for the calling transaction, 55006 prepared transactions that nobody ends within citus_fence.lock_timeout, 58030 the state cannot be written to disk';
COMMENT ON FUNCTION @extschema@.alter_system_read_write() IS
'let this node write again after alter_system_read_only(); for superusers, and whom they GRANT EXECUTE; errors: 25001 in a transaction that has written, 55000 on a standby or not preloaded, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION @extschema@.citus_set_cluster_read_only() IS
'make every node of the cluster refuse writes, across restarts, and cut no distributed transaction in half: writers are held back on all nodes, prepared transactions finished, then the nodes are switched, all or none; coordinator only, for superusers, and whom they GRANT EXECUTE; bounded by citus_fence.acquire_timeout, in attempts of at most 1 s; errors: 25001 in a transaction that has written, 55000 wrong node or a node that does not preload the library, 08001 a node that does not answer, 55P03 writers in the way, which are named, 58000 switched in part';
COMMENT ON FUNCTION @extschema@.citus_set_cluster_read_write() IS
'let every node of the cluster write again; nodes that do not answer are named in the error, and the others write; coordinator only, for superusers, and whom they GRANT EXECUTE; errors: 25001, 55000 wrong node or not preloaded, 58000 not all nodes could be switched';

-- A block has a number, and its status and its manifest say which, and in which mode.  The two functions get their
-- columns in place: dropped and made anew they would lose whom they have been granted to, and what is built on them
-- would keep them from being dropped.
CREATE FUNCTION @extschema@."citus_backup_block_start"(
	"timeout_ms" INT DEFAULT 300000,
	"mode" TEXT DEFAULT NULL
) RETURNS bigint
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_backup_block_start_wrapper';
CREATE FUNCTION @extschema@."citus_backup_block_stop"(
	"block_id" bigint
) RETURNS bool
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_backup_block_stop_wrapper';
CREATE FUNCTION @extschema@."citus_backup_block_extend"(
	"block_id" bigint,
	"timeout_ms" INT
) RETURNS timestamp with time zone
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c
AS 'MODULE_PATHNAME', 'citus_backup_block_extend_wrapper';

REVOKE ALL ON FUNCTION @extschema@.citus_backup_block_start(int, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_backup_block_stop(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.citus_backup_block_extend(bigint, int) FROM PUBLIC;

UPDATE pg_catalog.pg_proc AS p
   SET proallargtypes = p.proallargtypes || ARRAY['bigint', 'text']::pg_catalog.regtype[]::pg_catalog.oid[],
       proargmodes = p.proargmodes || p.proargmodes[1:1] || p.proargmodes[1:1],
       proargnames = p.proargnames || ARRAY['block_id', 'mode']
  FROM pg_catalog.pg_depend AS d, pg_catalog.pg_extension AS e
 WHERE p.prosrc IN ('citus_backup_block_status_wrapper', 'citus_backup_block_nodes_wrapper')
   AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
   AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
   AND d.deptype = 'e' AND e.extname = 'citus_fence';
UPDATE pg_catalog.pg_proc AS p
   SET proallargtypes = p.proallargtypes || 'text'::pg_catalog.regtype::pg_catalog.oid,
       proargmodes = p.proargmodes || p.proargmodes[1:1],
       proargnames = p.proargnames || 'warning'::text
  FROM pg_catalog.pg_depend AS d, pg_catalog.pg_extension AS e
 WHERE p.prosrc = 'citus_backup_block_status_wrapper'
   AND d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
   AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
   AND d.deptype = 'e' AND e.extname = 'citus_fence';

COMMENT ON FUNCTION @extschema@.citus_backup_block_start(int, text) IS
'begin a backup block and return its number, which citus_backup_block_stop() and citus_backup_block_extend() take: two-phase commits, DDL and node changes are held back on all nodes (mode ''2pc''), or all writes (''all''; null: what citus_fence.block_mode says), so that copies of all nodes taken meanwhile restore to one consistent cluster; timeout_ms (1 to 1800000, default 300000) is the longest life of the block; returns once every node is held and its WAL is on disk; coordinator only; errors: 22023 timeout out of range or no such mode, 22004 null, 25001 in a transaction that has written, 55006 another block or operation is under way, 55000 wrong node, a failed block that nobody has cleared, or not preloaded, 08001 a node that does not answer, 55P03 locks not to be had within citus_fence.acquire_timeout';
COMMENT ON FUNCTION @extschema@.citus_backup_block_stop(bigint) IS
'end the backup block with this number, from any session, and no other; true if and only if that block lasted until this call and this call ended it; false where it was lost, had expired, was given up or released already, or is another''s, with the reason in a WARNING and in citus_backup_block_status(); returns once no node that answers holds a lock; coordinator only; errors: 22004 null, 55000 wrong node or not preloaded';
COMMENT ON FUNCTION @extschema@.citus_backup_block_extend(bigint, int) IS
'let the backup block with this number live for timeout_ms (1 to 1800000) from now; returns the new deadline; errors: 22023 timeout out of range, 22004 null, 55000 that block is over';
COMMENT ON FUNCTION @extschema@.citus_block_writes_for_backup(int) IS
'the same as citus_backup_block_start(timeout_ms), but returns true instead of the number; errors: 22023 timeout out of range, 22004 null, 25001 in a transaction that has written, 55006 another block or operation is under way, 55000 wrong node, a failed block that nobody has cleared, or not preloaded, 08001 a node that does not answer, 55P03 locks not to be had within citus_fence.acquire_timeout';
COMMENT ON FUNCTION @extschema@.citus_unblock_writes_for_backup() IS
'end the backup block of this database, whichever that is, from any session; true only if it lasted until this call and this call ended it; false otherwise, also where a failed block is cleared or an earlier one ended that nobody was told of, with the reason in a WARNING and in citus_backup_block_status(); returns once no node that answers holds a lock; coordinator only; errors: 55000 wrong node or not preloaded';
COMMENT ON FUNCTION @extschema@.citus_unblock_backup_block(timestamptz) IS
'deprecated, see citus_backup_block_stop(): the same for the backup block that has this block_start_time, as citus_backup_block_status() shows it; coordinator only; errors: 22004 null, 55000 wrong node or not preloaded';
COMMENT ON FUNCTION @extschema@.citus_backup_block_status() IS
'state of the backup block of this database, one row: state is inactive, starting, active, releasing or error; node_count counts this node too; expires_at is when an active block ends by itself; error says why the last block did not last until it was released; block_id is the number of the block, or of the one that error tells of; mode is whose writes it holds back (2pc or all); warning names inactive nodes that are not under it; only the coordinator knows: elsewhere it is always inactive, with a notice';
COMMENT ON FUNCTION @extschema@.citus_backup_block_nodes() IS
'the nodes under the active backup block, a row each: the process that holds its locks, since when (by this node''s clock), the data directory''s system identifier and timeline, wal_lsn, the position that a backup of the node has to reach, and number and mode of the block';
