-- Settings: units, ranges, and who may change them when.
SELECT name, boot_val, unit, min_val, max_val, context, vartype
  FROM pg_settings WHERE name LIKE 'citus\_fence.%' ORDER BY name COLLATE "C";
SELECT name, short_desc <> '' AND extra_desc <> '' AS explained
  FROM pg_settings WHERE name LIKE 'citus\_fence.%' ORDER BY name COLLATE "C";

-- Those of a session take units.
SET citus_fence.acquire_timeout = '2min';
SHOW citus_fence.acquire_timeout;
SET citus_fence.connect_timeout = 1;
SHOW citus_fence.connect_timeout;
SET citus_fence.lock_timeout = '1500ms';
SHOW citus_fence.lock_timeout;
RESET ALL;

-- Out of range, or no number.  The wording is PostgreSQL's, and not the same in all its releases.
\set VERBOSITY sqlstate
SET citus_fence.acquire_timeout = 0;
SET citus_fence.connect_timeout = -1;
SET citus_fence.lock_timeout = 0;
SET citus_fence.lock_timeout = '25d';
SET citus_fence.acquire_timeout = 'for a while';

-- What sizes shared memory takes a restart; where nodes are reached is for the configuration file.
SET citus_fence.max_blocks = 16;
SET citus_fence.max_nodes = 256;
SET citus_fence.node_conninfo = 'sslmode=disable';
ALTER SYSTEM SET citus_fence.max_blocks = 0;
ALTER SYSTEM SET citus_fence.max_nodes = 0;

-- A role without rights may set its own bounds, and not read how nodes are reached.
CREATE ROLE settings_reader;
SET ROLE settings_reader;
SET citus_fence.lock_timeout = '1s';
SHOW citus_fence.lock_timeout;
SHOW citus_fence.max_nodes;
SHOW citus_fence.node_conninfo;
SELECT count(*) FROM pg_settings WHERE name = 'citus_fence.node_conninfo';
RESET ROLE;
DROP ROLE settings_reader;
