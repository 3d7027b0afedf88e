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
\c postgres
SELECT citus_unblock_writes_for_backup();
SET client_min_messages = warning;
DROP DATABASE plain_fence;
