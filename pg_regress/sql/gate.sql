-- The gates that writers pass: closing one, who has passed, and who may close.
\set VERBOSITY verbose
CREATE TABLE gate_kept (id int);

-- Whoever writes has passed until his transaction ends, whatever becomes of a savepoint.
BEGIN;
SELECT count(*) FROM citus_fence.gate_blockers WHERE pid = pg_backend_pid();
SAVEPOINT before_the_write;
INSERT INTO gate_kept VALUES (1);
ROLLBACK TO before_the_write;
SELECT database, gate, mode, granted, since <= clock_timestamp() AS since, gid
  FROM citus_fence.gate_blockers WHERE pid = pg_backend_pid();
SELECT citus_fence.lock_gate('client');
ROLLBACK;
SELECT count(*) FROM citus_fence.gate_blockers WHERE pid = pg_backend_pid();

-- A name is all that makes a session an internal one.
BEGIN;
SET LOCAL application_name = 'citus_internal gpid=10000000001';
INSERT INTO gate_kept VALUES (1);
SELECT gate, mode FROM citus_fence.gate_blockers WHERE pid = pg_backend_pid();
ROLLBACK;

-- Closing: to the end of the transaction, without a transaction number, and for the closer too.
BEGIN;
SELECT citus_fence.lock_gate('client');
SELECT citus_fence.lock_gate('client');
SELECT gate, mode, granted FROM citus_fence.gate_blockers WHERE pid = pg_backend_pid();
SELECT state, client_gate_closed, internal_gate_closed FROM citus_fence.stat_gate;
SELECT citus_fence.lock_gate('internal');
SELECT state, client_gate_closed, internal_gate_closed FROM citus_fence.stat_gate;
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_number;
SELECT count(*) FROM gate_kept;
INSERT INTO gate_kept VALUES (1);
ROLLBACK;
SELECT client_gate_closed, internal_gate_closed FROM citus_fence.stat_gate;

-- A prepared transaction has passed too, and is named.
BEGIN;
INSERT INTO gate_kept VALUES (1);
PREPARE TRANSACTION 'gate_prepared';
SELECT pid, gate, mode, granted, gid FROM citus_fence.gate_blockers WHERE gid IS NOT NULL;
BEGIN;
SET LOCAL lock_timeout = '10ms';
SELECT citus_fence.lock_gate('client');
ROLLBACK;
COMMIT PREPARED 'gate_prepared';
SELECT count(*) FROM citus_fence.gate_blockers WHERE gid IS NOT NULL;

-- No such gate.
SELECT citus_fence.lock_gate('side');
SELECT citus_fence.lock_gate('');
SELECT citus_fence.lock_gate(NULL);

-- Who may close; everyone may look.
CREATE ROLE gate_outsider LOGIN;
SET ROLE gate_outsider;
SELECT citus_fence.lock_gate('client');
SELECT count(*) FROM citus_fence.gate_blockers WHERE gid IS NOT NULL;
SELECT state, client_gate_closed FROM citus_fence.stat_gate;
RESET ROLE;
GRANT EXECUTE ON FUNCTION citus_fence.lock_gate(text) TO gate_outsider;
SET ROLE gate_outsider;
SELECT citus_fence.lock_gate('client');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION citus_fence.lock_gate(text) FROM gate_outsider;
DROP ROLE gate_outsider;
SELECT ungated_commits FROM citus_fence.stat_gate;
DROP TABLE gate_kept;
