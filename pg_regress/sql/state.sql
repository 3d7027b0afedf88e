-- Calls in the wrong state.  Each refusal names the next call to make.
\set VERBOSITY verbose

-- Without a block.
SELECT citus_unblock_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_restore_point('too early');
SELECT count(*) FROM citus_backup_block_nodes();
SELECT count(*) FROM citus_backup_block_waiters();

-- With one.  The second call has no effect on it.
SELECT citus_block_writes_for_backup(600000);
SELECT citus_block_writes_for_backup(1000);
SELECT state, timeout_ms FROM citus_backup_block_status();
\c
SELECT citus_block_writes_for_backup();
SELECT state, timeout_ms FROM citus_backup_block_status();
SELECT nodes_held();
SELECT citus_unblock_writes_for_backup();

-- After it.
SELECT citus_unblock_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_restore_point('too late');

-- One after the other, many times.
DO $$
BEGIN
    FOR round IN 1..20 LOOP
        ASSERT citus_block_writes_for_backup(), 'block';
        ASSERT nodes_held() = 3, 'held';
        ASSERT citus_unblock_writes_for_backup(), 'unblock';
        ASSERT nodes_held() = 0, 'let go';
        -- A transaction that has looked at other nodes may have written there, and begins no block.
        COMMIT;
    END LOOP;
END
$$;
SELECT wait_for('fence_sessions() = 0');
