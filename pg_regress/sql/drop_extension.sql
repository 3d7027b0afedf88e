-- The extension is not dropped under an active block, for with it would go the way to end the block.
\set VERBOSITY sqlstate
SELECT citus_block_writes_for_backup();
SET lock_timeout = '300ms';
DROP EXTENSION citus_fence;
DROP EXTENSION citus_fence CASCADE;
RESET lock_timeout;
SELECT state FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();

-- Afterwards it goes, with all that it brought.
DROP EXTENSION citus_fence;
SELECT count(*) FROM pg_proc WHERE proname ~ '^citus_(backup|(un)?block|extend)_' OR proname = 'flush_wal';
SELECT to_regnamespace('citus_fence');
SELECT citus_backup_block_status();

-- And comes back.
CREATE EXTENSION citus_fence;
SELECT state, error FROM citus_backup_block_status();
SELECT citus_block_writes_for_backup();
SELECT nodes_held();
SELECT citus_unblock_writes_for_backup();
