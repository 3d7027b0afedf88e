-- The clone split: bad input, and who may call.  Whatever needs a replica is in tests/clone.
\set VERBOSITY verbose
SELECT count(*) FROM citus_clone_status();

-- Bad input.
SELECT public.citus_add_clone_node(NULL, 5432, 'localhost', 5432);
SELECT public.citus_add_clone_node('localhost', NULL, 'localhost', 5432);
SELECT public.citus_add_clone_node('localhost', 5432, NULL, 5432);
SELECT public.citus_add_clone_node('localhost', 5432, 'localhost', NULL);
SELECT public.citus_add_clone_node_with_nodeid('localhost', 5432, NULL);
SELECT public.citus_remove_clone_node(NULL, 5432);
SELECT public.citus_remove_clone_node('localhost', NULL);
SELECT public.citus_remove_clone_node_with_nodeid(NULL);
SELECT public.citus_promote_clone_and_rebalance(NULL);
SELECT public.citus_promote_clone_and_rebalance(7, NULL, NULL);
SELECT public.citus_promote_clone_and_rebalance(7, NULL, 0);
SELECT public.citus_promote_clone_and_rebalance(7, NULL, 86401);

-- Nothing of that name or number.
SELECT public.citus_add_clone_node('localhost', 1, 'nowhere', 5432);
SELECT public.citus_add_clone_node_with_nodeid('localhost', 1, 4711);
SELECT public.citus_remove_clone_node('nowhere', 5432);
SELECT public.citus_remove_clone_node_with_nodeid(4711);
SELECT public.citus_promote_clone_and_rebalance(4711);

-- Not in a transaction block, and not behind a savepoint.
BEGIN;
SELECT public.citus_promote_clone_and_rebalance(4711);
ROLLBACK;

-- Whom nobody has granted it calls none of it; members of pg_monitor look.
CREATE ROLE clone_outsider;
SET ROLE clone_outsider;
SELECT public.citus_add_clone_node('localhost', 1, 'localhost', 1);
SELECT public.citus_promote_clone_and_rebalance(7);
SELECT count(*) FROM public.citus_clone_status();
SELECT count(*) FROM citus_fence.clone;
SELECT count(*) FROM citus_fence.clone_journal;
SELECT citus_fence.lock_placement_colocation('{1}');
RESET ROLE;
GRANT pg_monitor TO clone_outsider;
SET ROLE clone_outsider;
SELECT count(*) FROM public.citus_clone_status();
RESET ROLE;
DROP ROLE clone_outsider;
