-- Who may see the plan of a clone split, and what it shows.  Citus 13.2 and later have a function of this name
-- and these arguments in pg_catalog, which a name without a schema reaches first: that one is not to be changed.

REVOKE ALL ON FUNCTION @extschema@.get_snapshot_based_node_split_plan(text, int, text, int, name) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.get_snapshot_based_node_split_plan(text, int, text, int, name) IS
'which shards of a primary would go to its replica in a clone split, and which stay; changes nothing: a row per shard with its table, its bytes on the primary, and host:port of the node that would hold it; shards of reference tables have two rows, as both nodes hold them; colocated shards are together, and unlogged ones stay; costs, capacities and allowed nodes are those of a row of pg_dist_rebalance_strategy, by default of the default one; coordinator only; errors: 22004 null, 22023 no such node, or a strategy whose functions give no numbers, 42704 no such strategy, 55000 wrong node, or a source that is no active primary, 08001 a source that does not answer';
