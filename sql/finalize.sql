-- What CREATE FUNCTION does not say: who may call the functions, what they do, and the names that
-- Citus has for some of them.  Runs last in CREATE EXTENSION.

-- A backup role needs EXECUTE on these and no more: GRANT EXECUTE ON FUNCTION ... TO backup_role;
REVOKE ALL ON FUNCTION citus_backup_block_start(int, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_backup_block_stop(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_backup_block_extend(bigint, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_block_writes_for_backup(int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_unblock_writes_for_backup() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_unblock_backup_block(timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_extend_backup_block(int) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_backup_block_nodes() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_backup_block_waiters() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_backup_restore_point(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.flush_wal() FROM PUBLIC;
REVOKE ALL ON FUNCTION citus_fence.flush_and_identify() FROM PUBLIC;
GRANT USAGE ON SCHEMA citus_fence TO PUBLIC;

COMMENT ON SCHEMA citus_fence IS
'helpers of the citus_fence extension; users need none of them';

COMMENT ON FUNCTION citus_backup_block_start(int, text) IS
'begin a backup block and return its number, which citus_backup_block_stop() and citus_backup_block_extend() take: two-phase commits, DDL and node changes are held back on all nodes (mode ''2pc''), or all writes (''all''; null: what citus_fence.block_mode says), so that copies of all nodes taken meanwhile restore to one consistent cluster; timeout_ms (1 to 1800000, default 300000) is the longest life of the block; returns once every node is held and its WAL is on disk; coordinator only; errors: 22023 timeout out of range or no such mode, 22004 null, 25001 in a transaction that has written, 55006 another block or operation is under way, 55000 wrong node, a failed block that nobody has cleared, or not preloaded, 08001 a node that does not answer, 55P03 locks not to be had within citus_fence.acquire_timeout';
COMMENT ON FUNCTION citus_backup_block_stop(bigint) IS
'end the backup block with this number, from any session, and no other; true if and only if that block lasted until this call and this call ended it; false where it was lost, had expired, was given up or released already, or is another''s, with the reason in a WARNING and in citus_backup_block_status(); returns once no node that answers holds a lock; coordinator only; errors: 22004 null, 55000 wrong node or not preloaded';
COMMENT ON FUNCTION citus_backup_block_extend(bigint, int) IS
'let the backup block with this number live for timeout_ms (1 to 1800000) from now; returns the new deadline; errors: 22023 timeout out of range, 22004 null, 55000 that block is over';
COMMENT ON FUNCTION citus_block_writes_for_backup(int) IS
'the same as citus_backup_block_start(timeout_ms), but returns true instead of the number; errors: 22023 timeout out of range, 22004 null, 25001 in a transaction that has written, 55006 another block or operation is under way, 55000 wrong node, a failed block that nobody has cleared, or not preloaded, 08001 a node that does not answer, 55P03 locks not to be had within citus_fence.acquire_timeout';
COMMENT ON FUNCTION citus_unblock_writes_for_backup() IS
'end the backup block of this database, whichever that is, from any session; true only if it lasted until this call and this call ended it; false otherwise, also where a failed block is cleared or an earlier one ended that nobody was told of, with the reason in a WARNING and in citus_backup_block_status(); returns once no node that answers holds a lock; coordinator only; errors: 55000 wrong node or not preloaded';
COMMENT ON FUNCTION citus_unblock_backup_block(timestamptz) IS
'deprecated, see citus_backup_block_stop(): the same for the backup block that has this block_start_time, as citus_backup_block_status() shows it; coordinator only; errors: 22004 null, 55000 wrong node or not preloaded';
COMMENT ON FUNCTION citus_extend_backup_block(int) IS
'let the active backup block live for timeout_ms (1 to 1800000) from now; returns the new deadline';
COMMENT ON FUNCTION citus_backup_block_status() IS
'state of the backup block of this database, one row: state is inactive, starting, active, releasing or error; node_count counts this node too; expires_at is when an active block ends by itself; error says why the last block did not last until it was released; block_id is the number of the block, or of the one that error tells of; mode is whose writes it holds back (2pc or all); warning names inactive nodes that are not under it; only the coordinator knows: elsewhere it is always inactive, with a notice';
COMMENT ON FUNCTION citus_backup_block_nodes() IS
'the nodes under the active backup block, a row each: the process that holds its locks, since when (by this node''s clock), the data directory''s system identifier and timeline, wal_lsn, the position that a backup of the node has to reach, and number and mode of the block';
COMMENT ON FUNCTION citus_backup_block_waiters() IS
'the sessions on any node that wait because of the active backup block, directly or behind one that does; where the session that waits serves a client of another node, the client has a row too';
COMMENT ON FUNCTION citus_backup_restore_point(text) IS
'write a restore point of this name (1 to 63 bytes) on every node under the active backup block; a row per node with its position';
COMMENT ON FUNCTION citus_fence.flush_and_identify() IS
'what a backup block calls on each node: brings the WAL to disk, and tells up to where, and of which data directory and timeline; not for users; errors: 55000 on a standby';
COMMENT ON FUNCTION citus_fence.flush_wal() IS
'bring all WAL written so far to disk; returns the position up to which that is';

-- Citus' own block has other names for the same calls; scripts written for it work where it is absent.
DO $aliases$
DECLARE
    alias record;
BEGIN
    -- CREATE EXTENSION silences notices while a script runs; this one is meant for whoever runs it.
    PERFORM set_config('client_min_messages', 'notice', true);
    FOR alias IN
        SELECT * FROM (VALUES
            ('citus_cluster_changes_block', 'timeout_ms int DEFAULT 300000', 'int', 'boolean',
             'citus_block_writes_for_backup', true),
            ('citus_cluster_changes_unblock', '', '', 'boolean',
             'citus_unblock_writes_for_backup', true),
            ('citus_cluster_changes_block_status',
             'OUT state text, OUT worker_pid int, OUT requestor_pid int, '
             'OUT block_start_time timestamptz, OUT timeout_ms int, OUT node_count int, '
             'OUT expires_at timestamptz, OUT error text, OUT block_id bigint, OUT mode text, OUT warning text',
             '', 'SETOF record', 'citus_backup_block_status', false))
            AS a(name, arguments, types, returns, target, restricted)
    LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_proc
                    WHERE proname = alias.name AND pronamespace = 'pg_catalog'::regnamespace) THEN
            RAISE NOTICE 'Citus has a function %() of its own, which unqualified calls reach', alias.name
                USING HINT = format('The one of citus_fence is: SELECT @extschema@.%I();', alias.target);
            CONTINUE;
        END IF;
        EXECUTE format(
            'CREATE FUNCTION @extschema@.%I(%s) RETURNS %s LANGUAGE c VOLATILE PARALLEL UNSAFE '
            'SET search_path TO pg_catalog, pg_temp AS ''MODULE_PATHNAME'', %L',
            alias.name, alias.arguments, alias.returns, alias.target || '_wrapper');
        IF alias.restricted THEN
            EXECUTE format('REVOKE ALL ON FUNCTION @extschema@.%I(%s) FROM PUBLIC',
                           alias.name, alias.types);
        END IF;
        EXECUTE format('COMMENT ON FUNCTION @extschema@.%I(%s) IS %L', alias.name, alias.types,
                       format('the same as %s(), under the name that Citus gives it', alias.target));
    END LOOP;
END
$aliases$;
