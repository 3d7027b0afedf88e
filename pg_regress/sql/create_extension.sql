-- Where the extension can be created, and by whom.
\set VERBOSITY verbose
-- Citus has something to say about CREATE DATABASE.
SET client_min_messages = warning;
CREATE DATABASE another_fence;
CREATE ROLE fence_creator LOGIN;
GRANT CREATE ON DATABASE another_fence TO fence_creator;

-- Superusers only: its worker connects to the other nodes as its owner.
\c another_fence fence_creator
\set VERBOSITY sqlstate
CREATE EXTENSION citus_fence;
\set VERBOSITY verbose

-- In any schema.  Its helpers have one of their own.
\c another_fence postgres
CREATE SCHEMA ops;
CREATE EXTENSION citus_fence SCHEMA ops;
SELECT pronamespace::regnamespace AS schema, count(*) FROM pg_proc WHERE probin LIKE '%citus_fence%'
 GROUP BY pronamespace ORDER BY pronamespace::regnamespace::text;
SELECT state FROM ops.citus_backup_block_status();
SELECT state FROM ops.citus_cluster_changes_block_status();
\set VERBOSITY sqlstate
SELECT state FROM citus_backup_block_status();
ALTER EXTENSION citus_fence SET SCHEMA public;
CREATE EXTENSION citus_fence;
\set VERBOSITY verbose
DROP EXTENSION citus_fence;
SELECT count(*) FROM pg_proc WHERE probin LIKE '%citus_fence%';
SELECT to_regnamespace('citus_fence') IS NULL AS gone;

-- A release of Citus that has functions by the names of the aliases: these stay what they are.
CREATE FUNCTION pg_catalog.citus_cluster_changes_block(timeout_ms int) RETURNS boolean
    LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION pg_catalog.citus_cluster_changes_block_status() RETURNS text
    LANGUAGE sql AS $$SELECT 'of Citus'$$;
CREATE EXTENSION citus_fence SCHEMA ops;
SELECT proname FROM pg_proc WHERE pronamespace = 'ops'::regnamespace ORDER BY proname;
SELECT citus_cluster_changes_block(1), citus_cluster_changes_block_status();
DROP EXTENSION citus_fence;
SELECT citus_cluster_changes_block(1), citus_cluster_changes_block_status();

\c postgres
SET client_min_messages = warning;
DROP DATABASE another_fence;
DROP ROLE fence_creator;
