-- On a worker.
\getenv worker_1_port WORKER_1_PORT
\getenv coordinator_port COORDINATOR_PORT
\c - - - :worker_1_port
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup();
SELECT citus_unblock_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_restore_point('here');
-- Arguments first.
SELECT citus_block_writes_for_backup(NULL);
SELECT citus_block_writes_for_backup(0);

-- To look does no harm.
SELECT state FROM citus_backup_block_status();
SELECT count(*) FROM citus_backup_block_nodes();
SELECT count(*) FROM citus_backup_block_waiters();
-- This is what the coordinator calls on a worker.
SELECT pg_current_wal_insert_lsn() AS written \gset
SELECT citus_fence.flush_wal() >= :'written' AS flushed;

-- A worker that knows no coordinator.
BEGIN;
DELETE FROM pg_dist_node WHERE groupid = 0;
SELECT citus_block_writes_for_backup();
ROLLBACK;

-- The coordinator's block is no state of the worker.
\c - - - :coordinator_port
SELECT citus_block_writes_for_backup();
\c - - - :worker_1_port
SELECT state FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();
SELECT count(*) FROM citus_backup_block_nodes();
\c - - - :coordinator_port
SELECT state FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();
