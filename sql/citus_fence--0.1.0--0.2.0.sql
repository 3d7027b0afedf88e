-- What 0.2.0 changes in the SQL of 0.1.0.  A change of the extension's SQL comes with its lines here; the
-- tests in tests/upgrade/ compare what this makes of a 0.1.0 with a fresh 0.2.0.

\echo Use "ALTER EXTENSION citus_fence UPDATE TO '0.2.0'" to load this file. \quit

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
'make this session one that the reserved node lets write: for the clone split, which proves itself by the token of reserve_node(); to the end of the session, of the reservation, or to DISCARD ALL; superuser only; errors: 42501 not a superuser or another token, 22004 null, 55000 not reserved or not preloaded, 55006 the token is not known any more';
COMMENT ON FUNCTION citus_fence.release_node(text) IS
'end what reserve_node() began with this token, on a standby or after its promotion; takes effect at once, whatever becomes of the calling transaction; does nothing where the node is not reserved; superuser only; errors: 42501 not a superuser or another token, 22004 null, 55000 not preloaded, 55006 the token is not known any more, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION citus_fence.release_node_by_force(int) IS
'the same without the token, for the clone that stat_gate shows (0 where the file was damaged): what clients then write on a promoted clone before it is a worker of its own is lost; superuser only; errors: 42501, 22004 null, 55000 not preloaded, 55006 reserved for another clone, 58030 the state cannot be removed from disk';
COMMENT ON FUNCTION citus_fence.reserve_node(int, text) IS
'reserve this standby for a clone: from its promotion on, over restarts and crashes, it refuses every write but those of sessions that have called enter_reserved_node() with the same token (1 to 128 bytes), until release_node(); on a standby only, and the same call again succeeds, also after the promotion; takes effect at once, whatever becomes of the calling transaction; neither replicated nor part of a base backup; superuser only; errors: 42501, 22004 null, 22023 no id or token, 55000 not in recovery or not preloaded, 55006 reserved for another clone or with another token, 58030 the state cannot be written to disk';
COMMENT ON FUNCTION citus_fence.reserved_for() IS
'the clone that this node is reserved for, 0 where the file that told it is damaged, or null';
COMMENT ON VIEW citus_fence.stat_gate IS
'the gates of this node: state (read-write, closing, read-only; standby in recovery; reserved for a clone), which gates of this database are held closed, since when and at which position the node is read-only, since the server''s start: writes refused, transactions that waited, sessions ended, and commits that passed no gate, which must stay 0; and for which clone the node is reserved';
COMMENT ON FUNCTION citus_cluster_read_only_status() IS
'a row per node: its state (read-write, closing, read-only; standby in recovery; reserved for a clone, which citus_fence.stat_gate there names), the position that no commit is behind where it is read-only, or why it did not answer; coordinator only';
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
