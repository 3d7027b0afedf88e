-- Blocked is blocked, free is free.  What would wait is given a lock_timeout, and so fails with 55P03.
\getenv worker_1_port WORKER_1_PORT
\getenv coordinator_port COORDINATOR_PORT
\set VERBOSITY sqlstate
SELECT move_money(account(1, 1), account(2, 1), 10);
SELECT has_balance(account(1, 1), 90), has_balance(account(2, 1), 110);

SELECT citus_block_writes_for_backup();
SET lock_timeout = '300ms';
-- Two-phase commits, also those of several statements.
SELECT move_money(account(1, 1), account(2, 1), 10);
BEGIN;
SELECT deposit(account(1, 1), -10);
SELECT deposit(account(2, 1), 10);
COMMIT;
-- DDL, node changes, the extension itself.
SELECT create_distributed_table('later', 'id', shard_count := 4);
SELECT citus_add_inactive_node('127.0.0.1', 1);
DROP EXTENSION citus_fence;
-- One shard at a time, and both shards where none of it is a write.
SELECT deposit(account(1, 2), 1);
SELECT deposit(account(2, 2), 1);
BEGIN;
SELECT deposit(account(1, 2), 1);
SELECT deposit(account(1, 2), 1);
SELECT has_balance(account(2, 1), 110);
COMMIT;
SELECT has_balance(account(1, 1), 90), has_balance(account(2, 1), 110);
SELECT has_balance(account(1, 2), 103), has_balance(account(2, 2), 101);
-- Tables that are not distributed.
CREATE TEMP TABLE scratch (id int);
INSERT INTO scratch VALUES (1);
INSERT INTO later VALUES (1);

-- A worker can coordinate too, and cannot.
\c - - - :worker_1_port
SET lock_timeout = '300ms';
SELECT move_money(account(1, 1), account(2, 1), 10);
SELECT deposit(account(1, 2), 1);
SELECT deposit(account(2, 2), 1);
SELECT has_balance(account(1, 2), 104), has_balance(account(2, 2), 102);

-- Free again, everywhere.
\c - - - :coordinator_port
SELECT citus_unblock_writes_for_backup();
SET lock_timeout = '300ms';
SELECT move_money(account(1, 1), account(2, 1), 10);
\c - - - :worker_1_port
SET lock_timeout = '300ms';
SELECT move_money(account(2, 1), account(1, 1), 20);
SELECT has_balance(account(1, 1), 100), has_balance(account(2, 1), 100);
\c - - - :coordinator_port
SET lock_timeout = '300ms';
TRUNCATE later;
BEGIN;
SELECT create_distributed_table('later', 'id', shard_count := 4);
ROLLBACK;
BEGIN;
SELECT citus_add_inactive_node('127.0.0.1', 1) > 0 AS added;
ROLLBACK;
-- Nothing was left half way.
SELECT count(*) FROM pg_prepared_xacts;
\c - - - :worker_1_port
SELECT count(*) FROM pg_prepared_xacts;
