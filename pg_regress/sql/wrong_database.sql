-- In a database that has no Citus catalog.
\set VERBOSITY verbose
-- Citus has something to say about CREATE DATABASE.
SET client_min_messages = warning;
CREATE DATABASE plain_fence;
\c plain_fence
CREATE EXTENSION citus_fence;
SELECT citus_block_writes_for_backup();
SELECT citus_unblock_writes_for_backup();
SELECT citus_extend_backup_block(1000);
SELECT citus_backup_restore_point('here');
SELECT state FROM citus_backup_block_status();
SELECT count(*) FROM citus_backup_block_nodes();
SELECT count(*) FROM citus_backup_block_waiters();
SELECT citus_fence.flush_wal() > '0/0' AS flushed;

-- A block of another database is none here.
\c postgres
SELECT citus_block_writes_for_backup();
\c plain_fence
SELECT state FROM citus_backup_block_status();
SELECT count(*) FROM citus_backup_block_nodes();

-- Another schema will do as well.
DROP EXTENSION citus_fence;
CREATE SCHEMA ops;
CREATE EXTENSION citus_fence SCHEMA ops;
SELECT state FROM ops.citus_backup_block_status();
SELECT DISTINCT pronamespace::regnamespace AS schema FROM pg_proc WHERE probin LIKE '%citus_fence%' ORDER BY 1;
DROP EXTENSION citus_fence;
SELECT count(*) FROM pg_namespace WHERE nspname = 'citus_fence';
\c postgres
SELECT citus_unblock_writes_for_backup();
SET client_min_messages = warning;
DROP DATABASE plain_fence;
