-- Nodes that are reserved for a clone: what a node that is no standby says, and who may call.  The rest
-- needs standbys, and is in tests/readonly.
\set VERBOSITY verbose
SELECT state, clone_id FROM citus_fence.stat_gate;
SELECT citus_fence.reserved_for();
SELECT citus_fence.reserve_node(7, 'a token');
SELECT citus_fence.enter_reserved_node('a token');
-- There is nothing to release.
SELECT citus_fence.release_node('a token');
SELECT citus_fence.release_node_by_force(7);

-- Bad input.
SELECT citus_fence.reserve_node(NULL, 'a token');
SELECT citus_fence.reserve_node(7, NULL);
SELECT citus_fence.reserve_node(0, 'a token');
SELECT citus_fence.reserve_node(-7, 'a token');
SELECT citus_fence.reserve_node(7, '');
SELECT citus_fence.reserve_node(7, repeat('x', 129));
SELECT citus_fence.reserve_node(7, repeat('x', 128));
SELECT citus_fence.enter_reserved_node(NULL);
SELECT citus_fence.release_node(NULL);
SELECT citus_fence.release_node_by_force(NULL);

-- Superusers, and whom they grant it to; everyone may look.
CREATE ROLE reserved_outsider LOGIN;
SET ROLE reserved_outsider;
SELECT citus_fence.reserve_node(7, 'a token');
SELECT citus_fence.enter_reserved_node('a token');
SELECT citus_fence.release_node('a token');
SELECT citus_fence.release_node_by_force(7);
SELECT state, clone_id FROM citus_fence.stat_gate;
RESET ROLE;
GRANT EXECUTE ON FUNCTION citus_fence.reserve_node(int, text), citus_fence.enter_reserved_node(text),
    citus_fence.release_node(text), citus_fence.release_node_by_force(int) TO reserved_outsider;
SET ROLE reserved_outsider;
SELECT citus_fence.reserve_node(7, 'a token');
SELECT citus_fence.enter_reserved_node('a token');
SELECT citus_fence.release_node('a token');
SELECT citus_fence.release_node_by_force(7);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION citus_fence.reserve_node(int, text), citus_fence.enter_reserved_node(text),
    citus_fence.release_node(text), citus_fence.release_node_by_force(int) FROM reserved_outsider;
DROP ROLE reserved_outsider;
