-- A block ends by itself when its time is up, and whoever unblocks it later is told.
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup(300);
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT state, worker_pid, block_start_time, timeout_ms, node_count, expires_at, error
  FROM citus_backup_block_status();
SELECT nodes_held();
SELECT citus_extend_backup_block(1000);
SELECT citus_unblock_writes_for_backup();
-- Once.
SELECT citus_unblock_writes_for_backup();
SELECT state, error FROM citus_backup_block_status();

-- Nobody has to clear that: the next block begins, and forgets it.
SELECT citus_block_writes_for_backup(200);
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT citus_block_writes_for_backup();
SELECT state, error FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();

-- An extension counts from now, and the new end holds.
SELECT citus_block_writes_for_backup(600000);
SELECT citus_extend_backup_block(200) - now() < interval '10 s' AS shorter;
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT regexp_replace(error, '[0-9]+ ms', 'N ms') FROM citus_backup_block_status();
\set VERBOSITY sqlstate
SELECT citus_unblock_writes_for_backup();
SELECT nodes_held();
SELECT wait_for('fence_sessions() = 0');
