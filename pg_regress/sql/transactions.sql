-- A block is no part of the transaction that begins or ends it: no rollback undoes either.
\set VERBOSITY sqlstate
BEGIN;
SELECT citus_block_writes_for_backup();
ROLLBACK;
SELECT state FROM citus_backup_block_status();
BEGIN;
SELECT citus_unblock_writes_for_backup();
ROLLBACK;
SELECT state FROM citus_backup_block_status();

-- Nor does an error in the same statement, or a rollback to a savepoint.
SELECT 1 / (citus_block_writes_for_backup()::int - 1);
SELECT state FROM citus_backup_block_status();
BEGIN;
SAVEPOINT before;
SELECT citus_unblock_writes_for_backup();
ROLLBACK TO before;
SELECT state FROM citus_backup_block_status();
SAVEPOINT between;
SELECT citus_block_writes_for_backup();
ROLLBACK TO between;
SELECT state FROM citus_backup_block_status();
ROLLBACK;
SELECT state FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();

-- It writes nothing itself, so a transaction may be of any kind.
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT citus_block_writes_for_backup();
SELECT count(*) FROM citus_backup_restore_point('in a read-only transaction');
SELECT count(*) FROM citus_backup_block_waiters();
SELECT citus_unblock_writes_for_backup();
COMMIT;

-- A procedure, a function that catches errors, a cursor, a prepared statement.
\set VERBOSITY terse
DO $$
BEGIN
    PERFORM citus_block_writes_for_backup();
    BEGIN
        PERFORM citus_block_writes_for_backup();
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        RAISE NOTICE 'caught: %', SQLERRM;
    END;
    COMMIT;
    PERFORM citus_unblock_writes_for_backup();
END
$$;
\set VERBOSITY sqlstate
PREPARE block(int) AS SELECT citus_block_writes_for_backup($1);
EXECUTE block(NULL);
EXECUTE block(0);
EXECUTE block(60000);
EXECUTE block(60000);
BEGIN;
DECLARE nodes CURSOR FOR SELECT groupid FROM citus_backup_block_nodes();
FETCH 1 FROM nodes;
SELECT citus_unblock_writes_for_backup();
-- The cursor has its rows already.
FETCH ALL FROM nodes;
COMMIT;
SELECT state FROM citus_backup_block_status();
SELECT nodes_held();
