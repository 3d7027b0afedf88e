-- The embedded catalog: Citus' catalog tables on plain PostgreSQL, and just enough to write across
-- nodes in two-phase commits that leave the same marks in them as Citus' own.
--
-- It exists so that the demo and the tests of citus_fence run where Citus is not installed, and for
-- nothing else.  It is not a sharding engine: no planner, no router, no rebalancer, no DDL
-- propagation; DROP TABLE does not even clean the catalog.  Do not keep data in it.
--
-- Names, columns, types and constraints are those of Citus 13.2, so that code which reads or locks
-- these tables cannot tell the two apart.

\echo Use "CREATE EXTENSION pg_dist" to load this file. \quit

DO $guard$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'extension "pg_dist" cannot be created where "citus" is installed',
            DETAIL = 'Both own the pg_dist_* tables in pg_catalog; pg_dist only stands in for Citus where it is absent.',
            HINT = 'Use Citus'' own catalog, which citus_fence finds by itself, or create pg_dist in another database.';
    END IF;
END
$guard$;

-- Tables may not be created in pg_catalog, but may be moved there.
CREATE SCHEMA embedded_build;

CREATE TYPE pg_catalog.noderole AS ENUM ('primary', 'secondary', 'unavailable');

-- Nodes ---------------------------------------------------------------------------------------

CREATE SEQUENCE embedded_build.pg_dist_node_nodeid_seq MAXVALUE 4294967294;
CREATE SEQUENCE embedded_build.pg_dist_groupid_seq MAXVALUE 4294967296;
ALTER SEQUENCE embedded_build.pg_dist_node_nodeid_seq SET SCHEMA pg_catalog;
ALTER SEQUENCE embedded_build.pg_dist_groupid_seq SET SCHEMA pg_catalog;

CREATE TABLE embedded_build.pg_dist_node (
    nodeid int NOT NULL DEFAULT nextval('pg_catalog.pg_dist_node_nodeid_seq')
        CONSTRAINT pg_dist_node_pkey PRIMARY KEY,
    groupid int NOT NULL DEFAULT nextval('pg_catalog.pg_dist_groupid_seq'),
    nodename text NOT NULL,
    nodeport int NOT NULL DEFAULT 5432,
    noderack text NOT NULL DEFAULT 'default',
    hasmetadata bool NOT NULL DEFAULT false,
    isactive bool NOT NULL DEFAULT true,
    noderole pg_catalog.noderole NOT NULL DEFAULT 'primary',
    nodecluster name NOT NULL DEFAULT 'default',
    metadatasynced bool DEFAULT false,
    shouldhaveshards bool NOT NULL DEFAULT true,
    nodeisclone bool NOT NULL DEFAULT false,
    nodeprimarynodeid int NOT NULL DEFAULT 0,
    CONSTRAINT pg_dist_node_nodename_nodeport_key UNIQUE (nodename, nodeport),
    CONSTRAINT primaries_are_only_allowed_in_the_default_cluster
        CHECK (NOT (nodecluster <> 'default' AND noderole = 'primary'))
);
COMMENT ON TABLE embedded_build.pg_dist_node IS 'nodes of the cluster';

-- The group of this node: 0 on the coordinator.
CREATE TABLE embedded_build.pg_dist_local_group (
    groupid int NOT NULL CONSTRAINT pg_dist_local_group_pkey PRIMARY KEY
);
INSERT INTO embedded_build.pg_dist_local_group (groupid) VALUES (0);
COMMENT ON TABLE embedded_build.pg_dist_local_group IS 'group of this node, 0 on the coordinator';

CREATE TABLE embedded_build.pg_dist_node_metadata (
    metadata jsonb NOT NULL
);
INSERT INTO embedded_build.pg_dist_node_metadata (metadata)
    VALUES (pg_catalog.jsonb_build_object('server_id', pg_catalog.gen_random_uuid(), 'embedded', true));
COMMENT ON TABLE embedded_build.pg_dist_node_metadata IS 'identity of the cluster';

CREATE FUNCTION pg_catalog.role_exists(name) RETURNS bool
    LANGUAGE sql STABLE STRICT
    RETURN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1);
COMMENT ON FUNCTION pg_catalog.role_exists(name) IS 'whether a role exists';

-- One "keyword = value" after another, values plain or in single quotes, as libpq has them.
CREATE FUNCTION pg_catalog.authinfo_valid(text) RETURNS bool
    LANGUAGE sql IMMUTABLE STRICT
    RETURN $1 ~ $re$^\s*((password|sslcert|sslkey)\s*=\s*('([^'\\]|\\.)*'|([^\s'\\]|\\.)([^\s\\]|\\.)*)(\s+|$))*$$re$;
COMMENT ON FUNCTION pg_catalog.authinfo_valid(text) IS 'whether a text only has the connection options that belong in pg_dist_authinfo';

CREATE FUNCTION pg_catalog.poolinfo_valid(text) RETURNS bool
    LANGUAGE sql IMMUTABLE STRICT
    RETURN $1 ~ $re$^\s*((dbname|host|port)\s*=\s*('([^'\\]|\\.)*'|([^\s'\\]|\\.)([^\s\\]|\\.)*)(\s+|$))*$$re$;
COMMENT ON FUNCTION pg_catalog.poolinfo_valid(text) IS 'whether a text only has the connection options that belong in pg_dist_poolinfo';

-- Holds passwords: nobody but superusers may read it.
CREATE TABLE embedded_build.pg_dist_authinfo (
    nodeid int NOT NULL,
    rolename name NOT NULL CONSTRAINT role_exists CHECK (pg_catalog.role_exists(rolename)),
    authinfo text NOT NULL CONSTRAINT authinfo_valid CHECK (pg_catalog.authinfo_valid(authinfo))
);
CREATE UNIQUE INDEX pg_dist_authinfo_identification_index
    ON embedded_build.pg_dist_authinfo (rolename, nodeid DESC);
ALTER TABLE embedded_build.pg_dist_authinfo
    REPLICA IDENTITY USING INDEX pg_dist_authinfo_identification_index;
COMMENT ON TABLE embedded_build.pg_dist_authinfo IS 'how a role authenticates on a node, or on all nodes (nodeid 0)';

CREATE TABLE embedded_build.pg_dist_poolinfo (
    nodeid int NOT NULL CONSTRAINT pg_dist_poolinfo_pkey PRIMARY KEY,
    poolinfo text NOT NULL CONSTRAINT poolinfo_valid CHECK (pg_catalog.poolinfo_valid(poolinfo))
);
COMMENT ON TABLE embedded_build.pg_dist_poolinfo IS 'where to connect to instead of a node; not used by the embedded catalog itself';

-- Tables and shards ---------------------------------------------------------------------------

CREATE SEQUENCE embedded_build.pg_dist_colocationid_seq MAXVALUE 4294967296;
CREATE SEQUENCE embedded_build.pg_dist_shardid_seq MINVALUE 102008;
CREATE SEQUENCE embedded_build.pg_dist_placement_placementid_seq;
ALTER SEQUENCE embedded_build.pg_dist_colocationid_seq SET SCHEMA pg_catalog;
ALTER SEQUENCE embedded_build.pg_dist_shardid_seq SET SCHEMA pg_catalog;
ALTER SEQUENCE embedded_build.pg_dist_placement_placementid_seq SET SCHEMA pg_catalog;

CREATE TABLE embedded_build.pg_dist_partition (
    logicalrelid regclass NOT NULL,
    partmethod "char" NOT NULL,
    partkey text,
    colocationid int NOT NULL DEFAULT 0,
    repmodel "char" NOT NULL DEFAULT 'c',
    autoconverted bool DEFAULT false
);
CREATE UNIQUE INDEX pg_dist_partition_logical_relid_index
    ON embedded_build.pg_dist_partition (logicalrelid);
CREATE INDEX pg_dist_partition_colocationid_index
    ON embedded_build.pg_dist_partition (colocationid);
ALTER TABLE embedded_build.pg_dist_partition
    REPLICA IDENTITY USING INDEX pg_dist_partition_logical_relid_index;
COMMENT ON TABLE embedded_build.pg_dist_partition IS 'distributed tables';

CREATE TABLE embedded_build.pg_dist_shard (
    logicalrelid regclass NOT NULL,
    shardid bigint NOT NULL,
    shardstorage "char" NOT NULL,
    shardminvalue text,
    shardmaxvalue text
);
CREATE UNIQUE INDEX pg_dist_shard_shardid_index ON embedded_build.pg_dist_shard (shardid);
CREATE INDEX pg_dist_shard_logical_relid_index ON embedded_build.pg_dist_shard (logicalrelid);
ALTER TABLE embedded_build.pg_dist_shard
    REPLICA IDENTITY USING INDEX pg_dist_shard_shardid_index;
COMMENT ON TABLE embedded_build.pg_dist_shard IS 'shards and the hash ranges they hold';

CREATE TABLE embedded_build.pg_dist_placement (
    placementid bigint NOT NULL DEFAULT nextval('pg_catalog.pg_dist_placement_placementid_seq'),
    shardid bigint NOT NULL,
    shardstate int NOT NULL,
    shardlength bigint NOT NULL,
    groupid int NOT NULL,
    CONSTRAINT placement_shardid_groupid_unique_index UNIQUE (shardid, groupid)
);
CREATE UNIQUE INDEX pg_dist_placement_placementid_index
    ON embedded_build.pg_dist_placement (placementid);
CREATE INDEX pg_dist_placement_groupid_index ON embedded_build.pg_dist_placement (groupid);
CREATE INDEX pg_dist_placement_shardid_index ON embedded_build.pg_dist_placement (shardid);
ALTER TABLE embedded_build.pg_dist_placement
    REPLICA IDENTITY USING INDEX pg_dist_placement_placementid_index;
COMMENT ON TABLE embedded_build.pg_dist_placement IS 'the groups that hold the shards';

CREATE TABLE embedded_build.pg_dist_colocation (
    colocationid int NOT NULL CONSTRAINT pg_dist_colocation_pkey PRIMARY KEY,
    shardcount int NOT NULL,
    replicationfactor int NOT NULL,
    distributioncolumntype oid NOT NULL,
    distributioncolumncollation oid NOT NULL
);
CREATE INDEX pg_dist_colocation_configuration_index
    ON embedded_build.pg_dist_colocation
    (distributioncolumntype, shardcount, replicationfactor, distributioncolumncollation);
COMMENT ON TABLE embedded_build.pg_dist_colocation IS 'colocation groups';

-- Commit records ------------------------------------------------------------------------------

CREATE TABLE embedded_build.pg_dist_transaction (
    groupid int NOT NULL,
    gid text NOT NULL,
    outer_xid xid8,
    CONSTRAINT pg_dist_transaction_unique_constraint UNIQUE (groupid, gid)
);
CREATE INDEX pg_dist_transaction_group_index ON embedded_build.pg_dist_transaction (groupid);
ALTER TABLE embedded_build.pg_dist_transaction
    REPLICA IDENTITY USING INDEX pg_dist_transaction_unique_constraint;
COMMENT ON TABLE embedded_build.pg_dist_transaction IS 'commit records: prepared transactions on other nodes that were decided to commit';

-- Moving shards -----------------------------------------------------------------------------------

-- What is to be dropped later: object_type 1 is a shard.
CREATE SEQUENCE embedded_build.pg_dist_operationid_seq;
CREATE SEQUENCE embedded_build.pg_dist_cleanup_recordid_seq;
ALTER SEQUENCE embedded_build.pg_dist_operationid_seq SET SCHEMA pg_catalog;
ALTER SEQUENCE embedded_build.pg_dist_cleanup_recordid_seq SET SCHEMA pg_catalog;

CREATE TABLE embedded_build.pg_dist_cleanup (
    record_id bigint CONSTRAINT pg_dist_cleanup_pkey PRIMARY KEY,
    operation_id bigint NOT NULL,
    object_type int NOT NULL,
    object_name text NOT NULL,
    node_group_id int NOT NULL,
    policy_type int NOT NULL
);
COMMENT ON TABLE embedded_build.pg_dist_cleanup IS 'what citus_cleanup_orphaned_resources() is to drop';

CREATE TABLE embedded_build.pg_dist_rebalance_strategy (
    name name NOT NULL CONSTRAINT pg_dist_rebalance_strategy_name_key UNIQUE,
    default_strategy bool NOT NULL DEFAULT false,
    shard_cost_function regproc NOT NULL,
    node_capacity_function regproc NOT NULL,
    shard_allowed_on_node_function regproc NOT NULL,
    default_threshold float4 NOT NULL,
    minimum_threshold float4 NOT NULL DEFAULT 0,
    improvement_threshold float4 NOT NULL DEFAULT 0
);
ALTER TABLE embedded_build.pg_dist_rebalance_strategy
    REPLICA IDENTITY USING INDEX pg_dist_rebalance_strategy_name_key;
COMMENT ON TABLE embedded_build.pg_dist_rebalance_strategy
    IS 'what shards cost, what nodes can hold, and which shards are allowed where';

CREATE FUNCTION pg_catalog.citus_shard_cost_1(bigint) RETURNS float4
    LANGUAGE sql IMMUTABLE RETURN 1.0::float4;
COMMENT ON FUNCTION pg_catalog.citus_shard_cost_1(bigint) IS 'the same cost for every shard';

CREATE FUNCTION pg_catalog.citus_node_capacity_1(int) RETURNS float4
    LANGUAGE sql IMMUTABLE RETURN 1.0::float4;
COMMENT ON FUNCTION pg_catalog.citus_node_capacity_1(int) IS 'the same capacity for every node';

CREATE FUNCTION pg_catalog.citus_shard_allowed_on_node_true(bigint, int) RETURNS bool
    LANGUAGE sql IMMUTABLE RETURN true;
COMMENT ON FUNCTION pg_catalog.citus_shard_allowed_on_node_true(bigint, int)
    IS 'every shard is allowed on every node';

-- To their place --------------------------------------------------------------------------------

ALTER TABLE embedded_build.pg_dist_node SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_local_group SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_node_metadata SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_authinfo SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_poolinfo SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_partition SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_shard SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_placement SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_colocation SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_transaction SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_cleanup SET SCHEMA pg_catalog;
ALTER TABLE embedded_build.pg_dist_rebalance_strategy SET SCHEMA pg_catalog;
DROP SCHEMA embedded_build;

GRANT SELECT ON pg_catalog.pg_dist_node, pg_catalog.pg_dist_local_group,
    pg_catalog.pg_dist_node_metadata, pg_catalog.pg_dist_poolinfo, pg_catalog.pg_dist_partition,
    pg_catalog.pg_dist_shard, pg_catalog.pg_dist_placement, pg_catalog.pg_dist_colocation,
    pg_catalog.pg_dist_transaction, pg_catalog.pg_dist_cleanup,
    pg_catalog.pg_dist_rebalance_strategy TO PUBLIC;
GRANT SELECT ON SEQUENCE pg_catalog.pg_dist_node_nodeid_seq, pg_catalog.pg_dist_groupid_seq,
    pg_catalog.pg_dist_colocationid_seq, pg_catalog.pg_dist_shardid_seq,
    pg_catalog.pg_dist_placement_placementid_seq, pg_catalog.pg_dist_operationid_seq,
    pg_catalog.pg_dist_cleanup_recordid_seq TO PUBLIC;
REVOKE ALL ON pg_catalog.pg_dist_authinfo FROM PUBLIC;

-- The distribution column as pg_dist_partition.partkey has it ------------------------------------

CREATE FUNCTION pg_catalog.column_name_to_column(table_name regclass, column_name text)
    RETURNS text LANGUAGE c STABLE STRICT
    AS 'MODULE_PATHNAME', 'column_name_to_column_wrapper';
COMMENT ON FUNCTION pg_catalog.column_name_to_column(regclass, text)
    IS 'the text by which pg_dist_partition names a column';

CREATE FUNCTION pg_catalog.column_to_column_name(table_name regclass, column_var_text text)
    RETURNS text LANGUAGE sql STABLE STRICT
    RETURN (
        SELECT attname FROM pg_catalog.pg_attribute
        WHERE attrelid = table_name
            AND attnum = pg_catalog.substring(column_var_text, ':varattno ([0-9]+)')::int2
    );
COMMENT ON FUNCTION pg_catalog.column_to_column_name(regclass, text)
    IS 'the name of the column that a text of pg_dist_partition stands for';

-- From the coordinator's catalog to the others' ---------------------------------------------------
-- Tables, types and collations travel by name, as their numbers differ between nodes.

CREATE FUNCTION pg_catalog.pg_dist_export(only_table regclass DEFAULT NULL)
    RETURNS jsonb LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT jsonb_build_object(
        'metadata', (SELECT metadata FROM pg_dist_node_metadata LIMIT 1),
        'nodes', (SELECT COALESCE(jsonb_agg(to_jsonb(n)), '[]') FROM pg_dist_node n),
        'colocations', (
            SELECT COALESCE(jsonb_agg(jsonb_build_object(
                'colocationid', colocationid,
                'shardcount', shardcount,
                'replicationfactor', replicationfactor,
                'type', distributioncolumntype::regtype::text,
                'collation', distributioncolumncollation::regcollation::text)), '[]')
            FROM pg_dist_colocation c
            WHERE only_table IS NULL OR EXISTS (
                SELECT FROM pg_dist_partition p
                WHERE p.colocationid = c.colocationid AND p.logicalrelid = only_table)),
        'tables', (
            SELECT COALESCE(jsonb_agg(jsonb_build_object(
                'name', logicalrelid::text,
                'partmethod', partmethod,
                'column', column_to_column_name(logicalrelid, partkey),
                'colocationid', colocationid,
                'repmodel', repmodel,
                'autoconverted', autoconverted)), '[]')
            FROM pg_dist_partition
            WHERE only_table IS NULL OR logicalrelid = only_table),
        'shards', (
            SELECT COALESCE(jsonb_agg(jsonb_build_object(
                'name', logicalrelid::text,
                'shardid', shardid,
                'shardstorage', shardstorage,
                'shardminvalue', shardminvalue,
                'shardmaxvalue', shardmaxvalue)), '[]')
            FROM pg_dist_shard
            WHERE only_table IS NULL OR logicalrelid = only_table),
        'placements', (
            SELECT COALESCE(jsonb_agg(to_jsonb(p)), '[]')
            FROM pg_dist_placement p JOIN pg_dist_shard s USING (shardid)
            WHERE only_table IS NULL OR s.logicalrelid = only_table));
$body$;
COMMENT ON FUNCTION pg_catalog.pg_dist_export(regclass)
    IS 'the catalog, or its rows about one table, for pg_dist_import on another node';
REVOKE ALL ON FUNCTION pg_catalog.pg_dist_export(regclass) FROM PUBLIC;

-- With own_group the whole catalog of this node is replaced, without it rows of tables are added.
CREATE FUNCTION pg_catalog.pg_dist_import(exported jsonb, own_group int DEFAULT NULL)
    RETURNS void LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $body$
    DELETE FROM pg_dist_node WHERE own_group IS NOT NULL;
    DELETE FROM pg_dist_partition WHERE own_group IS NOT NULL;
    DELETE FROM pg_dist_shard WHERE own_group IS NOT NULL;
    DELETE FROM pg_dist_placement WHERE own_group IS NOT NULL;
    DELETE FROM pg_dist_colocation WHERE own_group IS NOT NULL;
    UPDATE pg_dist_local_group SET groupid = own_group WHERE own_group IS NOT NULL AND groupid IS DISTINCT FROM own_group;
    UPDATE pg_dist_node_metadata SET metadata = exported -> 'metadata'
        WHERE own_group IS NOT NULL AND exported ? 'metadata';

    INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, noderack, hasmetadata, isactive,
            noderole, nodecluster, metadatasynced, shouldhaveshards, nodeisclone, nodeprimarynodeid)
        SELECT nodeid, groupid, nodename, nodeport, noderack, hasmetadata, isactive,
            noderole, nodecluster, metadatasynced, shouldhaveshards, nodeisclone, nodeprimarynodeid
        FROM jsonb_populate_recordset(NULL::pg_dist_node, exported -> 'nodes')
        WHERE own_group IS NOT NULL;
    INSERT INTO pg_dist_colocation (colocationid, shardcount, replicationfactor,
            distributioncolumntype, distributioncolumncollation)
        SELECT colocationid, shardcount, replicationfactor, type::regtype, "collation"::regcollation
        FROM jsonb_to_recordset(exported -> 'colocations') AS c (colocationid int, shardcount int,
            replicationfactor int, type text, "collation" text)
        ON CONFLICT (colocationid) DO NOTHING;
    INSERT INTO pg_dist_partition (logicalrelid, partmethod, partkey, colocationid, repmodel, autoconverted)
        SELECT name::regclass, partmethod, column_name_to_column(name::regclass, "column"),
            colocationid, repmodel, autoconverted
        FROM jsonb_to_recordset(exported -> 'tables') AS t (name text, partmethod "char",
            "column" text, colocationid int, repmodel "char", autoconverted bool);
    INSERT INTO pg_dist_shard (logicalrelid, shardid, shardstorage, shardminvalue, shardmaxvalue)
        SELECT name::regclass, shardid, shardstorage, shardminvalue, shardmaxvalue
        FROM jsonb_to_recordset(exported -> 'shards') AS s (name text, shardid bigint,
            shardstorage "char", shardminvalue text, shardmaxvalue text);
    INSERT INTO pg_dist_placement (placementid, shardid, shardstate, shardlength, groupid)
        SELECT placementid, shardid, shardstate, shardlength, groupid
        FROM jsonb_populate_recordset(NULL::pg_dist_placement, exported -> 'placements');
$body$;
COMMENT ON FUNCTION pg_catalog.pg_dist_import(jsonb, int)
    IS 'take over what pg_dist_export gave on the coordinator';
REVOKE ALL ON FUNCTION pg_catalog.pg_dist_import(jsonb, int) FROM PUBLIC;

-- Nodes of the cluster ----------------------------------------------------------------------------

CREATE FUNCTION pg_catalog.citus_set_coordinator_host(
    host text,
    port int DEFAULT pg_catalog.current_setting('port')::int)
    RETURNS void LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_set_coordinator_host_wrapper';
COMMENT ON FUNCTION pg_catalog.citus_set_coordinator_host(text, int)
    IS 'make this node the coordinator, reachable at that address';
REVOKE ALL ON FUNCTION pg_catalog.citus_set_coordinator_host(text, int) FROM PUBLIC;

CREATE FUNCTION pg_catalog.citus_add_node(nodename text, nodeport int)
    RETURNS int LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_add_node_wrapper';
COMMENT ON FUNCTION pg_catalog.citus_add_node(text, int)
    IS 'add a worker, on which CREATE EXTENSION pg_dist has been run';
REVOKE ALL ON FUNCTION pg_catalog.citus_add_node(text, int) FROM PUBLIC;

CREATE FUNCTION pg_catalog.citus_add_inactive_node(nodename text, nodeport int)
    RETURNS int LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_add_inactive_node_wrapper';
COMMENT ON FUNCTION pg_catalog.citus_add_inactive_node(text, int)
    IS 'register a worker without connecting to it';
REVOKE ALL ON FUNCTION pg_catalog.citus_add_inactive_node(text, int) FROM PUBLIC;

CREATE FUNCTION pg_catalog.citus_activate_node(nodename text, nodeport int)
    RETURNS int LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_activate_node_wrapper';
COMMENT ON FUNCTION pg_catalog.citus_activate_node(text, int)
    IS 'give a registered worker the catalog and let it take part';
REVOKE ALL ON FUNCTION pg_catalog.citus_activate_node(text, int) FROM PUBLIC;

CREATE FUNCTION pg_catalog.citus_disable_node(nodename text, nodeport int)
    RETURNS void LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_disable_node_wrapper';
COMMENT ON FUNCTION pg_catalog.citus_disable_node(text, int)
    IS 'stop using a worker, which need not answer';
REVOKE ALL ON FUNCTION pg_catalog.citus_disable_node(text, int) FROM PUBLIC;

CREATE FUNCTION pg_catalog.citus_remove_node(nodename text, nodeport int)
    RETURNS void LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_remove_node_wrapper';
COMMENT ON FUNCTION pg_catalog.citus_remove_node(text, int)
    IS 'remove a worker that holds no shards';
REVOKE ALL ON FUNCTION pg_catalog.citus_remove_node(text, int) FROM PUBLIC;

-- Tables ------------------------------------------------------------------------------------------

CREATE FUNCTION pg_catalog.create_distributed_table(
    table_name regclass,
    distribution_column text,
    shard_count int DEFAULT 4,
    colocate_with text DEFAULT 'default')
    RETURNS void LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'create_distributed_table_wrapper';
COMMENT ON FUNCTION pg_catalog.create_distributed_table(regclass, text, int, text)
    IS 'spread an empty table, which exists on every node, over the workers by the hash of a column';
REVOKE ALL ON FUNCTION pg_catalog.create_distributed_table(regclass, text, int, text) FROM PUBLIC;

-- These two only do what the caller may do on the nodes himself: they run as him, everywhere.
CREATE FUNCTION pg_catalog.pg_dist_execute(rel regclass, key text, command text)
    RETURNS bigint LANGUAGE c
    AS 'MODULE_PATHNAME', 'pg_dist_execute_wrapper';
COMMENT ON FUNCTION pg_catalog.pg_dist_execute(regclass, text, text)
    IS 'run a command on the shard that a key belongs to (%s stands for its name), as part of this transaction; returns the rows affected';

CREATE FUNCTION pg_catalog.pg_dist_execute_all(rel regclass, command text)
    RETURNS bigint LANGUAGE c
    AS 'MODULE_PATHNAME', 'pg_dist_execute_all_wrapper';
COMMENT ON FUNCTION pg_catalog.pg_dist_execute_all(regclass, text)
    IS 'run a command on every shard (%s stands for its name), as part of this transaction; returns the rows affected';

-- Moving shards -----------------------------------------------------------------------------------

-- Only of shards on this node; a plan for another one asks it for the sizes itself.
CREATE FUNCTION pg_catalog.citus_shard_cost_by_disk_size(bigint) RETURNS float4
    LANGUAGE sql STABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $body$
    SELECT COALESCE(sum(pg_total_relation_size(c.oid)), 0)::float4
      FROM pg_dist_shard one
      JOIN pg_dist_partition of_one ON of_one.logicalrelid = one.logicalrelid
      JOIN pg_dist_partition p ON p.colocationid = of_one.colocationid
      JOIN pg_dist_shard s
        ON s.logicalrelid = p.logicalrelid AND s.shardminvalue IS NOT DISTINCT FROM one.shardminvalue
      JOIN pg_class t ON t.oid = s.logicalrelid
      JOIN pg_class c
        ON c.relnamespace = t.relnamespace AND c.relname = t.relname || '_' || s.shardid::text
     WHERE one.shardid = $1;
$body$;
COMMENT ON FUNCTION pg_catalog.citus_shard_cost_by_disk_size(bigint)
    IS 'bytes of a shard and of those colocated with it, where they are on this node';

INSERT INTO pg_catalog.pg_dist_rebalance_strategy (name, default_strategy, shard_cost_function,
        node_capacity_function, shard_allowed_on_node_function, default_threshold,
        minimum_threshold, improvement_threshold)
    VALUES
        ('by_shard_count', false, 'pg_catalog.citus_shard_cost_1', 'pg_catalog.citus_node_capacity_1',
         'pg_catalog.citus_shard_allowed_on_node_true', 0, 0, 0),
        ('by_disk_size', true, 'pg_catalog.citus_shard_cost_by_disk_size',
         'pg_catalog.citus_node_capacity_1', 'pg_catalog.citus_shard_allowed_on_node_true',
         0.1, 0.01, 0.5);

CREATE FUNCTION pg_catalog.citus_is_coordinator() RETURNS bool
    LANGUAGE sql STABLE STRICT
    RETURN (SELECT groupid = 0 FROM pg_catalog.pg_dist_local_group);
COMMENT ON FUNCTION pg_catalog.citus_is_coordinator() IS 'whether this node is the coordinator';

CREATE FUNCTION pg_catalog.lock_shard_metadata(lock_mode int, shard_id bigint[]) RETURNS void
    LANGUAGE c STRICT
    AS 'MODULE_PATHNAME', 'lock_shard_metadata_wrapper';
COMMENT ON FUNCTION pg_catalog.lock_shard_metadata(int, bigint[])
    IS 'lock where shards are, on this node and to the end of the transaction, in a lock mode by its number; with 7, writers to them wait';
REVOKE ALL ON FUNCTION pg_catalog.lock_shard_metadata(int, bigint[]) FROM PUBLIC;

-- Not longer in the way of others than a look takes: a table in use is left for the next time.
CREATE FUNCTION pg_catalog.pg_dist_drop_tables(names text[]) RETURNS text[]
    LANGUAGE plpgsql STRICT
    SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    one text;
    gone text[] := '{}';
BEGIN
    FOREACH one IN ARRAY names LOOP
        BEGIN
            IF to_regclass(one) IS NOT NULL THEN
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', to_regclass(one));
                EXECUTE format('DROP TABLE %s CASCADE', to_regclass(one));
            END IF;
            gone := gone || one;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END LOOP;
    RETURN gone;
END
$body$;
COMMENT ON FUNCTION pg_catalog.pg_dist_drop_tables(text[])
    IS 'drop tables that nobody uses right now; returns the names of those that are not there any more';
REVOKE ALL ON FUNCTION pg_catalog.pg_dist_drop_tables(text[]) FROM PUBLIC;

CREATE PROCEDURE pg_catalog.citus_cleanup_orphaned_resources()
    LANGUAGE c
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'citus_cleanup_orphaned_resources_wrapper';
COMMENT ON PROCEDURE pg_catalog.citus_cleanup_orphaned_resources()
    IS 'drop the shards that pg_dist_cleanup lists, on all nodes; coordinator only; what is in use stays listed';
REVOKE ALL ON PROCEDURE pg_catalog.citus_cleanup_orphaned_resources() FROM PUBLIC;

-- Numbers that only this node draws: 2^48 of them from its group's on.  Sequences of other types than bigint
-- have no room for that, and are made to fail instead, as Citus does.  A sequence of that name and of
-- another type is renamed first, as Citus does, too.
CREATE FUNCTION pg_catalog.worker_apply_sequence_command(
    create_sequence_command text,
    sequence_type_id regtype)
    RETURNS void LANGUAGE plpgsql STRICT
AS $body$
DECLARE
    words constant text[] := pg_catalog.regexp_match(create_sequence_command,
        $re$^\s*create\s+sequence\s+(?:if\s+not\s+exists\s+)?((?:"(?:[^"]|"")*"|[^\s".])+(?:\.(?:"(?:[^"]|"")*"|[^\s".;])+)?)$re$, 'i');
    seq regclass;
    has pg_catalog.pg_sequence;
    first_number bigint;
    last_number bigint;
BEGIN
    IF words IS NULL THEN
        RAISE EXCEPTION 'worker_apply_sequence_command() needs a CREATE SEQUENCE command'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    seq := pg_catalog.to_regclass(words[1]);
    IF seq IS NOT NULL THEN
        SELECT * INTO has FROM pg_catalog.pg_sequence s WHERE s.seqrelid = seq;
        IF has.seqtypid <> sequence_type_id THEN
            EXECUTE pg_catalog.format('ALTER SEQUENCE %s RENAME TO %I', seq,
                pg_catalog.left((SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = seq), 46) || '(citus_backup_0)');
        END IF;
    END IF;
    EXECUTE create_sequence_command;
    seq := words[1]::regclass;
    SELECT * INTO STRICT has FROM pg_catalog.pg_sequence s WHERE s.seqrelid = seq;
    IF sequence_type_id <> 'bigint'::regtype THEN
        PERFORM pg_catalog.setval(seq, has.seqmax);
        RETURN;
    END IF;
    SELECT (groupid::bigint << 48) + 1 INTO STRICT first_number FROM pg_catalog.pg_dist_local_group;
    last_number := first_number + (1::bigint << 48);
    IF has.seqmin <> first_number OR has.seqmax <> last_number THEN
        EXECUTE pg_catalog.format(
            'ALTER SEQUENCE %s MINVALUE %s MAXVALUE %s START WITH %s RESTART WITH %s',
            seq, first_number, last_number, first_number, first_number);
    END IF;
END
$body$;
COMMENT ON FUNCTION pg_catalog.worker_apply_sequence_command(text, regtype)
    IS 'create a sequence, unless it exists, and give it numbers that no other node draws';
REVOKE ALL ON FUNCTION pg_catalog.worker_apply_sequence_command(text, regtype) FROM PUBLIC;

CREATE FUNCTION pg_catalog.worker_apply_sequence_command(create_sequence_command text)
    RETURNS void LANGUAGE plpgsql STRICT
AS $body$
BEGIN
    PERFORM pg_catalog.worker_apply_sequence_command(create_sequence_command, 'bigint'::regtype);
END
$body$;
COMMENT ON FUNCTION pg_catalog.worker_apply_sequence_command(text)
    IS 'the same for a sequence of bigint';
REVOKE ALL ON FUNCTION pg_catalog.worker_apply_sequence_command(text) FROM PUBLIC;

-- Recovery ----------------------------------------------------------------------------------------

CREATE FUNCTION pg_catalog.recover_prepared_transactions()
    RETURNS int LANGUAGE c STRICT
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'recover_prepared_transactions_wrapper';
COMMENT ON FUNCTION pg_catalog.recover_prepared_transactions()
    IS 'finish the two-phase commits that this node left in doubt on others; returns how many';
REVOKE ALL ON FUNCTION pg_catalog.recover_prepared_transactions() FROM PUBLIC;
