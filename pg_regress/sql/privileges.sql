-- A backup role needs EXECUTE and nothing else; everyone else may look at the status.
\set VERBOSITY verbose
CREATE ROLE fence_outsider LOGIN;
CREATE ROLE fence_backup LOGIN;
-- As documented.
GRANT EXECUTE ON FUNCTION citus_block_writes_for_backup(int), citus_unblock_writes_for_backup(),
    citus_extend_backup_block(int), citus_backup_block_nodes(), citus_backup_block_waiters(),
    citus_backup_restore_point(text) TO fence_backup;

\c - fence_outsider
SELECT state FROM citus_backup_block_status();
SELECT citus_block_writes_for_backup();
SELECT citus_block_writes_for_backup(NULL);
SELECT citus_unblock_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_block_start();
SELECT citus_backup_block_stop(1);
SELECT citus_backup_block_extend(1, 1000);
SELECT * FROM citus_backup_block_nodes();
SELECT * FROM citus_backup_block_waiters();
SELECT citus_backup_restore_point('mine');
SELECT citus_fence.flush_wal();

-- The aliases are no way around; where Citus has functions of these names, they are not ours to test.
DO $$
DECLARE
    alias text;
BEGIN
    FOREACH alias IN ARRAY ARRAY['citus_cluster_changes_block', 'citus_cluster_changes_unblock'] LOOP
        IF to_regproc('public.' || alias) IS NOT NULL THEN
            BEGIN
                EXECUTE format('SELECT public.%I()', alias);
                RAISE EXCEPTION '%() can be called by everyone', alias;
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

-- The whole backup.
\c - fence_backup
SELECT rolsuper OR rolreplication OR rolcreaterole OR rolcreatedb AS more FROM pg_roles WHERE rolname = current_user;
SELECT citus_block_writes_for_backup(60000);
SELECT citus_extend_backup_block(120000) > now() AS extended;
SELECT state, node_count FROM citus_backup_block_status();
SELECT count(*) FROM citus_backup_block_nodes();
SELECT count(*) FROM citus_backup_block_waiters();
SELECT count(*) FROM citus_backup_restore_point('by the backup role');
SELECT citus_fence.flush_wal();

-- Its block shows to everyone, and is nobody else's to touch.
\c - fence_outsider
SELECT state, requestor_pid IS NOT NULL AS has_requestor FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT state FROM citus_backup_block_status();

\c - fence_backup
SELECT citus_unblock_writes_for_backup();

-- The worker acts as the extension's owner, whoever calls; the caller gains nothing by it.
SELECT citus_block_writes_for_backup(60000);
SELECT usename FROM pg_stat_activity WHERE pid = (SELECT worker_pid FROM citus_backup_block_status());
SELECT current_user, session_user;
\set VERBOSITY sqlstate
SELECT pg_terminate_backend(worker_pid) FROM citus_backup_block_status();
\set VERBOSITY verbose
SELECT citus_unblock_writes_for_backup();

-- Rights that come by way of a group count, and those that were taken back do not.
\c - postgres
GRANT fence_backup TO fence_outsider;
\c - fence_outsider
SELECT citus_block_writes_for_backup(60000);
SELECT citus_unblock_writes_for_backup();
\c - postgres
REVOKE fence_backup FROM fence_outsider;
REVOKE EXECUTE ON FUNCTION citus_block_writes_for_backup(int), citus_unblock_writes_for_backup(),
    citus_extend_backup_block(int), citus_backup_block_nodes(), citus_backup_block_waiters(),
    citus_backup_restore_point(text) FROM fence_backup;
\c - fence_backup
SELECT citus_block_writes_for_backup(60000);
\c - postgres
SET client_min_messages = warning;
DROP ROLE fence_outsider;
DROP ROLE fence_backup;
