-- The whole cluster, read-only and back; where, and by whom, it can be asked for.
\getenv worker_1_port WORKER_1_PORT
\getenv coordinator_port COORDINATOR_PORT
\set VERBOSITY verbose
CREATE TABLE cluster_kept (id int);
SELECT groupid, state, read_only_lsn, error FROM citus_cluster_read_only_status() ORDER BY groupid;
SELECT count(*) FROM citus_fence.cluster_read_only;

-- There.
SELECT citus_set_cluster_read_only();
SELECT groupid, state, read_only_lsn > '0/0' AS lsn, error FROM citus_cluster_read_only_status() ORDER BY groupid;
SELECT only_row, asked_at <= clock_timestamp() AS asked FROM citus_fence.cluster_read_only;
INSERT INTO cluster_kept VALUES (1);
SELECT count(*) FROM cluster_kept;
\c - - - :worker_1_port
SHOW citus_fence.system_is_read_only;
CREATE TABLE cluster_new (id int);
\c - - - :coordinator_port
-- Twice does not hurt.
SELECT citus_set_cluster_read_only();
-- A node that is let go by hand shows.
\c - - - :worker_1_port
SELECT alter_system_read_write();
\c - - - :coordinator_port
SELECT groupid, state FROM citus_cluster_read_only_status() ORDER BY groupid;
SELECT citus_set_cluster_read_only();
SELECT groupid, state FROM citus_cluster_read_only_status() ORDER BY groupid;

-- And back.
SELECT citus_set_cluster_read_write();
SELECT groupid, state FROM citus_cluster_read_only_status() ORDER BY groupid;
SELECT count(*) FROM citus_fence.cluster_read_only;
INSERT INTO cluster_kept VALUES (1);
SELECT citus_set_cluster_read_write();

-- The coordinator by itself: nothing can be noted there.
SELECT alter_system_read_only() > '0/0' AS closed;
SELECT citus_set_cluster_read_only();
SELECT alter_system_read_write();
SELECT groupid, state FROM citus_cluster_read_only_status() ORDER BY groupid;

-- Not in a transaction that has written.
BEGIN;
INSERT INTO cluster_kept VALUES (2);
SELECT citus_set_cluster_read_only();
ROLLBACK;

-- Nor by anybody, but by whom it was granted to.
CREATE ROLE cluster_nobody;
SET ROLE cluster_nobody;
SELECT citus_set_cluster_read_only();
SELECT citus_set_cluster_read_write();
SELECT count(*) FROM citus_cluster_read_only_status();
SELECT citus_fence.node_read_only();
SELECT citus_fence.node_read_write();
DELETE FROM citus_fence.cluster_read_only;
RESET ROLE;
GRANT EXECUTE ON FUNCTION citus_set_cluster_read_only(), citus_set_cluster_read_write() TO cluster_nobody;
GRANT pg_monitor TO cluster_nobody;
SET ROLE cluster_nobody;
SELECT citus_set_cluster_read_only();
SELECT groupid, state FROM citus_cluster_read_only_status() ORDER BY groupid;
SELECT citus_set_cluster_read_write();
SELECT groupid, state FROM citus_cluster_read_only_status() ORDER BY groupid;
RESET ROLE;
REVOKE ALL ON FUNCTION citus_set_cluster_read_only(), citus_set_cluster_read_write() FROM cluster_nobody;

-- On a worker.
\c - - - :worker_1_port
\set VERBOSITY verbose
SELECT citus_set_cluster_read_only();
SELECT citus_set_cluster_read_write();
SELECT count(*) FROM citus_cluster_read_only_status();
\c - - - :coordinator_port
DROP TABLE cluster_kept;
DROP ROLE cluster_nobody;
