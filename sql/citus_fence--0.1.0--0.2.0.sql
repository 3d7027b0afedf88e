-- What 0.2.0 changes in the SQL of 0.1.0.  A change of the extension's SQL comes with its lines here; the
-- tests in tests/upgrade/ compare what this makes of a 0.1.0 with a fresh 0.2.0.

\echo Use "ALTER EXTENSION citus_fence UPDATE TO '0.2.0'" to load this file. \quit

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
