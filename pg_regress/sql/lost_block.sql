-- A block that is lost: its worker is terminated, or its session on another node.
\getenv worker_1_port WORKER_1_PORT
\getenv coordinator_port COORDINATOR_PORT
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup();
SELECT pg_terminate_backend(worker_pid) FROM citus_backup_block_status();
SELECT wait_for($$(SELECT state = 'error' FROM citus_backup_block_status())$$);
SELECT state, worker_pid, timeout_ms, node_count, expires_at, error FROM citus_backup_block_status();
SELECT nodes_held();
SELECT count(*) FROM citus_backup_block_nodes();
-- Somebody has to take note of it before there can be another.
SELECT citus_block_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_restore_point('lost');
SELECT citus_unblock_writes_for_backup();
SELECT state, error FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();

-- The same with a number: the status says which block it was.
SELECT citus_backup_block_start() AS lost \gset
SELECT pg_terminate_backend(worker_pid) FROM citus_backup_block_status();
SELECT wait_for($$(SELECT state = 'error' FROM citus_backup_block_status())$$);
SELECT citus_backup_block_extend(:lost, 1000);
SELECT block_id = :lost AS is_it, error FROM citus_backup_block_status();
SELECT citus_backup_block_stop(:lost);
SELECT state, block_id = :lost AS is_it, error FROM citus_backup_block_status();

-- The session on worker 1.
SELECT citus_block_writes_for_backup();
SELECT backend_pid AS holder FROM citus_backup_block_nodes() WHERE groupid = 1 \gset
\c - - - :worker_1_port
SELECT pg_terminate_backend(:holder);
\c - - - :coordinator_port
SELECT wait_for($$(SELECT state = 'error' FROM citus_backup_block_status())$$);
SELECT error LIKE 'lost the connection to 127.0.0.1:' || :worker_1_port || ' %' AS named FROM citus_backup_block_status();
SELECT nodes_held();
SELECT citus_block_writes_for_backup();
SELECT citus_unblock_writes_for_backup();

-- Nothing of it is left.
SELECT wait_for('fence_sessions() = 0');
SELECT citus_block_writes_for_backup();
SELECT nodes_held();
SELECT citus_unblock_writes_for_backup();
