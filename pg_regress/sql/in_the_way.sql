-- Somebody holds a lock that the block needs.  The error names who, on which node, and what to do.
\getenv worker_1_port WORKER_1_PORT
\getenv coordinator_port COORDINATOR_PORT
\set VERBOSITY verbose
SET citus_fence.acquire_timeout = '1500ms';
SET citus_fence.lock_timeout = '300ms';

-- Here: this very session, which is told at once.
BEGIN;
LOCK TABLE pg_catalog.pg_dist_partition IN ROW EXCLUSIVE MODE;
SELECT citus_block_writes_for_backup();
ROLLBACK;
-- Or somebody else.
BEGIN;
LOCK TABLE pg_catalog.pg_dist_partition IN ROW EXCLUSIVE MODE;
PREPARE TRANSACTION 'here';
SELECT citus_block_writes_for_backup();
ROLLBACK PREPARED 'here';
SELECT state, error ~ 'prepared transaction here of postgres' AS named FROM citus_backup_block_status();
SELECT nodes_held();
-- Who was in the way, and with which query, is for those who may see that elsewhere too.
CREATE ROLE fence_curious;
SET ROLE fence_curious;
SELECT state, error FROM citus_backup_block_status();
RESET ROLE;
GRANT pg_read_all_stats TO fence_curious;
SET ROLE fence_curious;
SELECT error ~ 'prepared transaction here of postgres' AS named FROM citus_backup_block_status();
RESET ROLE;
DROP ROLE fence_curious;

-- The block's own timeout bounds the attempts too.
RESET citus_fence.acquire_timeout;
BEGIN;
LOCK TABLE pg_catalog.pg_dist_node IN ROW EXCLUSIVE MODE;
PREPARE TRANSACTION 'here';
SELECT citus_block_writes_for_backup(1500);
ROLLBACK PREPARED 'here';

-- The caller has been told: nothing is left to be released, and nobody to be warned.
SELECT citus_unblock_writes_for_backup();

-- On a worker: a prepared transaction, which nobody's recovery will end.
\c - - - :worker_1_port
BEGIN;
LOCK TABLE pg_catalog.pg_dist_transaction IN ROW EXCLUSIVE MODE;
PREPARE TRANSACTION 'in the way';
\c - - - :coordinator_port
SET citus_fence.acquire_timeout = '1500ms';
SET citus_fence.lock_timeout = '300ms';
SELECT code, message, detail LIKE '%In the way: on 127.0.0.1:' || :worker_1_port || ', prepared transaction in the way of postgres for %' AS named
  FROM error_of('SELECT citus_block_writes_for_backup()');
SELECT state, error LIKE '%could not lock all nodes%' AS told FROM citus_backup_block_status();
SELECT wait_for('fence_sessions() = 0');
\c - - - :worker_1_port
COMMIT PREPARED 'in the way';
\c - - - :coordinator_port

-- A caller's own statement_timeout ends the call, and what it began.
BEGIN;
LOCK TABLE pg_catalog.pg_dist_partition IN ROW EXCLUSIVE MODE;
PREPARE TRANSACTION 'here';
SET statement_timeout = '1s';
\set VERBOSITY sqlstate
SELECT citus_block_writes_for_backup();
RESET statement_timeout;
ROLLBACK PREPARED 'here';
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT wait_for('nodes_held() = 0');
SELECT wait_for('fence_sessions() = 0');

-- Out of the way.
SELECT citus_block_writes_for_backup();
SELECT citus_unblock_writes_for_backup();
