-- A node that refuses writers: the way there and back, what is refused, what goes on, and who may switch.
\set VERBOSITY verbose
CREATE TABLE read_only_kept (id int PRIMARY KEY, note text);
INSERT INTO read_only_kept VALUES (1, 'one');
CREATE SEQUENCE read_only_numbers;
CREATE TEMP TABLE read_only_rows (id int);
CREATE TEMP TABLE read_only_emptied (id int) ON COMMIT DELETE ROWS;
SHOW citus_fence.system_is_read_only;
SELECT state, client_gate_closed, internal_gate_closed, read_only_since, read_only_lsn, ungated_commits
  FROM citus_fence.stat_gate;

-- There.
SELECT alter_system_read_only() <= pg_current_wal_flush_lsn() AS flushed;
SHOW citus_fence.system_is_read_only;
SELECT state, read_only_since <= clock_timestamp() AS since, read_only_lsn <= pg_current_wal_flush_lsn() AS flushed
  FROM citus_fence.stat_gate;
-- Twice does not hurt.
SELECT alter_system_read_only() = read_only_lsn AS the_same FROM citus_fence.stat_gate;
SELECT alter_system_read_only(terminate_writers => false) = read_only_lsn AS the_same FROM citus_fence.stat_gate;

-- Whoever writes is refused, with the same words.
INSERT INTO read_only_kept VALUES (2, 'two');
WITH gone AS (DELETE FROM read_only_kept RETURNING id) SELECT * FROM gone;
SELECT id FROM read_only_kept FOR UPDATE;
COPY read_only_kept FROM '/dev/null';
CREATE TABLE read_only_new ();
TRUNCATE read_only_kept;
VACUUM read_only_kept;
ANALYZE read_only_kept;
NOTIFY read_only_channel;
SELECT pg_notify('read_only_channel', 'news');
SELECT nextval('read_only_numbers');
SELECT setval('read_only_numbers', 10);
SELECT lo_create(0);
SELECT pg_logical_emit_message(false, 'prefix', 'text');
SELECT pg_current_xact_id();
INSERT INTO read_only_rows VALUES (1);
CREATE TEMP TABLE read_only_temporary ();
DO $$ BEGIN UPDATE read_only_kept SET note = 'do'; END $$;
COMMIT PREPARED 'nobody prepared this';
BEGIN;
PREPARE TRANSACTION 'nobody';
ROLLBACK;
-- Whatever it is told, a transaction is a read-only one.
BEGIN;
SET TRANSACTION READ WRITE;
SELECT nextval('read_only_numbers');
ROLLBACK;
BEGIN;
SAVEPOINT before_the_write;
UPDATE read_only_kept SET note = 'savepoint';
ROLLBACK TO before_the_write;
SHOW transaction_read_only;
SELECT * FROM read_only_kept;
COMMIT;

-- The rest goes on.
SELECT * FROM read_only_kept;
SELECT count(*) FROM read_only_rows;
SELECT count(*) FROM read_only_emptied;
EXPLAIN (COSTS off) INSERT INTO read_only_kept VALUES (2, 'two');
EXPLAIN (COSTS off) SELECT nextval('read_only_numbers');
BEGIN;
DECLARE every_row CURSOR FOR SELECT id FROM read_only_kept;
FETCH 1 FROM every_row;
LOCK TABLE read_only_kept IN SHARE MODE;
COMMIT;
COPY read_only_kept TO STDOUT;
LISTEN read_only_channel;
UNLISTEN read_only_channel;
CHECKPOINT;
ALTER SYSTEM SET citus_fence.lock_timeout = '4s';
ALTER SYSTEM RESET citus_fence.lock_timeout;
SELECT slot_name FROM pg_create_physical_replication_slot('read_only_slot');
SELECT pg_drop_replication_slot('read_only_slot');
SELECT refused > 0 AS refused, ungated_commits FROM citus_fence.stat_gate;

-- And back.
SELECT alter_system_read_write();
SHOW citus_fence.system_is_read_only;
INSERT INTO read_only_kept VALUES (2, 'two');
SELECT nextval('read_only_numbers');
SELECT alter_system_read_write();

-- Not at all.
SELECT alter_system_read_only(NULL);
BEGIN;
INSERT INTO read_only_kept VALUES (3, 'three');
SELECT alter_system_read_only();
ROLLBACK;
BEGIN;
INSERT INTO read_only_kept VALUES (3, 'three');
SELECT alter_system_read_write();
ROLLBACK;
\set VERBOSITY sqlstate
SET citus_fence.system_is_read_only = on;
ALTER SYSTEM SET citus_fence.system_is_read_only = on;
\set VERBOSITY verbose

-- Superusers, and whom they grant it to; everyone may look.
CREATE ROLE read_only_outsider LOGIN;
SET ROLE read_only_outsider;
SELECT alter_system_read_only();
SELECT alter_system_read_write();
SHOW citus_fence.system_is_read_only;
SELECT state, ungated_commits FROM citus_fence.stat_gate;
RESET ROLE;
GRANT EXECUTE ON FUNCTION alter_system_read_only(boolean), alter_system_read_write() TO read_only_outsider;
SET ROLE read_only_outsider;
SELECT alter_system_read_only() IS NOT NULL AS switched;
SHOW citus_fence.system_is_read_only;
SELECT alter_system_read_write();
RESET ROLE;
REVOKE EXECUTE ON FUNCTION alter_system_read_only(boolean), alter_system_read_write() FROM read_only_outsider;
DROP ROLE read_only_outsider;
DROP SEQUENCE read_only_numbers;
DROP TABLE read_only_kept;
