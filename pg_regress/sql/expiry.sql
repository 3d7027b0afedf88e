-- A block ends by itself when its time is up, and whoever unblocks it later is told.
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup(1500);
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT state, worker_pid, block_start_time, timeout_ms, node_count, expires_at, error
  FROM citus_backup_block_status();
SELECT nodes_held();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_restore_point('too late');
SELECT citus_unblock_writes_for_backup();
-- Once.  The status keeps the reason until the next block.
SELECT citus_unblock_writes_for_backup();
SELECT state, error FROM citus_backup_block_status();

-- The end that an extension has set holds too, be it earlier.
SELECT citus_block_writes_for_backup(600000);
SELECT citus_extend_backup_block(500) - now() < interval '10 s' AS soon;
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT regexp_replace(error, '[0-9]+', 'N') FROM citus_backup_block_status();
\set VERBOSITY sqlstate
SELECT citus_unblock_writes_for_backup();
SELECT nodes_held();

-- Nobody has to take note of it: the next block begins, and whoever ends that one is told.
SELECT citus_block_writes_for_backup(600000);
SELECT citus_extend_backup_block(500) IS NOT NULL AS extended;
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT citus_block_writes_for_backup();
SELECT state, error FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();
SELECT nodes_held();
SELECT wait_for('fence_sessions() = 0');
