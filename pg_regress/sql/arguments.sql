-- Arguments out of range, and nulls.  Each is an error, and none leaves anything behind.
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup(0);
SELECT citus_block_writes_for_backup(-1);
SELECT citus_block_writes_for_backup(1800001);
SELECT citus_block_writes_for_backup(-2147483648);
SELECT citus_block_writes_for_backup(2147483647);
SELECT citus_block_writes_for_backup(NULL);
SELECT citus_block_writes_for_backup(timeout_ms => NULL);
SELECT state FROM citus_backup_block_status();

-- Also before they look whether there is a block.
SELECT citus_extend_backup_block(0);
SELECT citus_extend_backup_block(1800001);
SELECT citus_extend_backup_block(NULL);
SELECT citus_backup_restore_point(NULL);
SELECT citus_backup_restore_point('');
SELECT citus_backup_restore_point(repeat('x', 64));
-- 32 letters, 64 bytes.
SELECT citus_backup_restore_point(repeat('é', 32));

-- The same of the calls with a number.
SELECT citus_backup_block_start(0);
SELECT citus_backup_block_start(NULL);
SELECT citus_backup_block_start(60000, 'some');
SELECT citus_backup_block_stop(NULL);
SELECT citus_backup_block_extend(NULL, 1000);
SELECT citus_backup_block_extend(1, NULL);
SELECT citus_backup_block_extend(1, 0);
-- Nor is there such a block.
SELECT citus_backup_block_stop(1);
SELECT citus_backup_block_extend(1, 1000);

-- There is no such function.
\set VERBOSITY sqlstate
SELECT citus_block_writes_for_backup(2147483648);
SELECT citus_block_writes_for_backup(1.5);
SELECT citus_block_writes_for_backup('soon');
SELECT citus_extend_backup_block();
SELECT citus_backup_restore_point();

-- The upper end of the range, and a block under which other arguments are wrong.
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup(1800000);
SELECT citus_extend_backup_block(1800000) > now() AS extended;
SELECT citus_extend_backup_block(0);
SELECT citus_extend_backup_block(-5);
SELECT citus_extend_backup_block(1800001);
SELECT citus_extend_backup_block(NULL);
SELECT count(*) FROM citus_backup_restore_point(repeat('x', 63));
SELECT count(*) FROM citus_backup_restore_point(repeat('é', 31));
SELECT count(*) FROM citus_backup_restore_point(repeat('é', 32));
SELECT count(*) FROM citus_backup_restore_point('it''s a \ "name"; -- %s $1');
SELECT count(*) FROM citus_backup_restore_point(E'two\nlines');
SELECT count(*) FROM citus_backup_restore_point('');
SELECT count(*) FROM citus_backup_restore_point(NULL);
-- None of the errors has ended the block.
SELECT state, timeout_ms >= 1800000 AS as_extended FROM citus_backup_block_status();
-- The lower end: the block may have expired before the caller hears of the extension.
SELECT coalesce((error_of('SELECT citus_extend_backup_block(1)')).code, 'extended') IN ('extended', '55000') AS valid;
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
\set VERBOSITY sqlstate
SELECT citus_unblock_writes_for_backup();
-- A whole block of 1 ms: hardly to be had, but a valid wish.  One that was had has ended by itself, and says so; one that
-- was had, and over before its caller heard of it, does too, and a WARNING comes with either.
SELECT coalesce((error_of('SELECT citus_block_writes_for_backup(1)')).code, 'had') AS code \gset
SELECT :'code' <> '22023' AS valid;
SELECT wait_for($$(SELECT state = 'inactive' FROM citus_backup_block_status())$$);
SELECT error IS NOT NULL OR :'code' <> 'had' AS told FROM citus_backup_block_status();
SET client_min_messages = error;
SELECT citus_unblock_writes_for_backup();
RESET client_min_messages;
SELECT nodes_held();
