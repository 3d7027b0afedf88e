-- Nodes that do not take part.
\getenv worker_2_port WORKER_2_PORT
\set VERBOSITY verbose
-- Inactive, and nobody is there: a warning.
SELECT citus_add_inactive_node('127.0.0.1', 1) > 0 AS added;
SELECT citus_block_writes_for_backup();
SELECT state, node_count FROM citus_backup_block_status();
SELECT citus_unblock_writes_for_backup();

-- Active, and nobody is there: an error, if it stays so.
SET citus_fence.acquire_timeout = '1s';
UPDATE pg_dist_node SET isactive = true WHERE nodeport = 1;
SELECT citus_block_writes_for_backup();
UPDATE pg_dist_node SET isactive = false WHERE nodeport = 1;
SELECT citus_remove_node('127.0.0.1', 1);
SELECT state FROM citus_backup_block_status();
SELECT nodes_held();

-- Reached by way of a pooler that sends it elsewhere: nobody is there, or not that database.
SELECT nodeid AS worker_2 FROM pg_dist_node WHERE nodeport = :worker_2_port \gset
INSERT INTO pg_dist_poolinfo VALUES (:worker_2, 'port=1');
SELECT citus_block_writes_for_backup();
UPDATE pg_dist_poolinfo SET poolinfo = 'dbname=no_such_database';
SELECT citus_block_writes_for_backup();
DELETE FROM pg_dist_poolinfo;
RESET citus_fence.acquire_timeout;

-- More nodes than there is room for.
INSERT INTO pg_dist_node (nodename, nodeport, isactive, hasmetadata, metadatasynced)
SELECT 'node.invalid', number, false, false, false
  FROM generate_series(1, current_setting('citus_fence.max_nodes')::int - 2) AS number;
SELECT citus_block_writes_for_backup();
DELETE FROM pg_dist_node WHERE nodename = 'node.invalid';

-- A secondary and a clone are no primaries: they write nothing, and nobody connects to them.
INSERT INTO pg_dist_node (nodename, nodeport, groupid, noderole, hasmetadata, metadatasynced)
VALUES ('node.invalid', 1, 1, 'secondary', false, false);
SELECT citus_block_writes_for_backup();
SELECT count(*) FROM citus_backup_block_nodes();
SELECT citus_unblock_writes_for_backup();
DELETE FROM pg_dist_node WHERE nodename = 'node.invalid';

-- A node whose metadata is no longer kept up to date still writes, and is held.
UPDATE pg_dist_node SET hasmetadata = false, metadatasynced = false WHERE nodeport = :worker_2_port;
SELECT citus_block_writes_for_backup();
SELECT nodes_held();
SELECT citus_unblock_writes_for_backup();
UPDATE pg_dist_node SET hasmetadata = true, metadatasynced = true WHERE nodeport = :worker_2_port;

-- All is well again.
SELECT citus_block_writes_for_backup();
SELECT nodes_held();
SELECT citus_unblock_writes_for_backup();
