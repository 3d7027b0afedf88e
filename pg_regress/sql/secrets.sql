-- Passwords in the settings, and in the catalog, that nobody is shown.
\set VERBOSITY verbose
CREATE ROLE fence_backup LOGIN;
GRANT EXECUTE ON FUNCTION citus_block_writes_for_backup(int), citus_unblock_writes_for_backup(),
    citus_backup_block_nodes(), citus_backup_block_waiters() TO fence_backup;
ALTER SYSTEM SET citus_fence.node_conninfo = 'sslmode=prefer password=hunter2';
INSERT INTO pg_dist_authinfo VALUES (0, 'postgres', 'password=correcthorse');
SELECT pg_reload_conf();

\c - fence_backup
SELECT citus_block_writes_for_backup(60000);
SELECT s::text !~ 'hunter2|correcthorse' AS kept FROM citus_backup_block_status() s;
SELECT bool_and(n::text !~ 'hunter2|correcthorse') AS kept FROM citus_backup_block_nodes() n;
SELECT count(*) FROM citus_backup_block_waiters() w WHERE w::text ~ 'hunter2|correcthorse';
SELECT count(*) FROM pg_stat_activity a WHERE a::text ~ 'hunter2|correcthorse' AND pid <> pg_backend_pid();
SELECT citus_unblock_writes_for_backup();
\set VERBOSITY sqlstate
SHOW citus_fence.node_conninfo;
SELECT * FROM pg_dist_authinfo;

-- Errors name the setting or the table, never what is in it.
\c - postgres
ALTER SYSTEM SET citus_fence.node_conninfo = 'password=hunter2 nonsense';
SELECT pg_reload_conf();
\c - fence_backup
\set VERBOSITY verbose
SELECT citus_block_writes_for_backup(60000);
\c - postgres
ALTER SYSTEM SET citus_fence.node_conninfo = 'password=''hunter2';
SELECT pg_reload_conf();
\c - fence_backup
SELECT citus_block_writes_for_backup(60000);
\c - postgres
ALTER SYSTEM SET citus_fence.node_conninfo = 'no_such_option=hunter2';
SELECT pg_reload_conf();
\c - fence_backup
SELECT citus_block_writes_for_backup(60000);
SELECT s::text !~ 'hunter2|correcthorse' AS kept FROM citus_backup_block_status() s;

\c - postgres
ALTER SYSTEM RESET citus_fence.node_conninfo;
DELETE FROM pg_dist_authinfo;
SELECT pg_reload_conf();
\c - postgres
SHOW citus_fence.node_conninfo;
SELECT citus_block_writes_for_backup();
SELECT citus_unblock_writes_for_backup();
SET client_min_messages = warning;
DROP OWNED BY fence_backup;
DROP ROLE fence_backup;
