//! Definitions: DDL, roles, databases, tablespaces, rights, replication objects.

use super::{Way, refused};

pub(super) fn ways() -> Vec<Way> {
    let mut ways = tables();
    ways.extend(other_objects());
    ways.extend(roles_and_rights());
    ways.extend(databases());
    ways.extend(replication());
    ways
}

fn tables() -> Vec<Way> {
    vec![
        refused("CREATE TABLE", &["CREATE TABLE made (n bigint)"])
            .undo(&["DROP TABLE IF EXISTS made"]),
        refused("CREATE UNLOGGED TABLE", &["CREATE UNLOGGED TABLE made (n bigint)"])
            .undo(&["DROP TABLE IF EXISTS made"]),
        refused("ALTER TABLE ADD COLUMN", &["ALTER TABLE t ADD COLUMN made int"])
            .undo(&["ALTER TABLE t DROP COLUMN IF EXISTS made"]),
        refused(
            "ALTER TABLE that rewrites",
            &["ALTER TABLE unlogged ALTER n TYPE text USING n::text"],
        )
        .undo(&["ALTER TABLE unlogged ALTER n TYPE bigint USING n::bigint"]),
        refused("ALTER TABLE RENAME", &["ALTER TABLE unlogged RENAME TO renamed"])
            .undo(&["ALTER TABLE IF EXISTS renamed RENAME TO unlogged"]),
        refused("DROP TABLE", &["DROP TABLE doomed"])
            .setup(&["CREATE TABLE doomed (n bigint)"])
            .undo(&["DROP TABLE IF EXISTS doomed"]),
        refused("DROP TABLE IF EXISTS of nothing", &["DROP TABLE IF EXISTS nowhere"]),
        refused("ATTACH and DETACH PARTITION", &["ALTER TABLE parted DETACH PARTITION parted_0"])
            .undo(&["DO $$ BEGIN ALTER TABLE parted ATTACH PARTITION parted_0
                     FOR VALUES WITH (MODULUS 1, REMAINDER 0);
                 EXCEPTION WHEN OTHERS THEN NULL; END $$"]),
        refused("CREATE INDEX", &["CREATE INDEX made ON t (n)"])
            .undo(&["DROP INDEX IF EXISTS made"]),
        refused("CREATE INDEX CONCURRENTLY", &["CREATE INDEX CONCURRENTLY made ON t (n)"])
            .undo(&["DROP INDEX IF EXISTS made"]),
        refused("DROP INDEX CONCURRENTLY", &["DROP INDEX CONCURRENTLY doomed"])
            .setup(&["CREATE INDEX doomed ON t (n)"])
            .undo(&["DROP INDEX IF EXISTS doomed"]),
        refused("COMMENT", &["COMMENT ON TABLE t IS 'something'"]),
        refused("CREATE STATISTICS", &["CREATE STATISTICS made ON id, n FROM t"])
            .undo(&["DROP STATISTICS IF EXISTS made"]),
        refused(
            "CREATE TRIGGER",
            &["CREATE TRIGGER made BEFORE UPDATE ON t FOR EACH ROW
               EXECUTE FUNCTION suppress_redundant_updates_trigger()"],
        )
        .undo(&["DROP TRIGGER IF EXISTS made ON t"]),
        refused("CREATE RULE", &["CREATE RULE made AS ON UPDATE TO unlogged DO ALSO NOTHING"])
            .undo(&["DROP RULE IF EXISTS made ON unlogged"]),
        refused("CREATE POLICY", &["CREATE POLICY made ON unlogged"])
            .undo(&["DROP POLICY IF EXISTS made ON unlogged"]),
        refused("ALTER TABLE SET TABLESPACE", &["ALTER TABLE moved SET TABLESPACE elsewhere"])
            .setup(&[
                "SET allow_in_place_tablespaces = on",
                "CREATE TABLESPACE elsewhere LOCATION ''",
                "CREATE TABLE moved (n bigint)",
            ])
            .undo(&["DROP TABLE moved", "DROP TABLESPACE elsewhere"]),
    ]
}

fn other_objects() -> Vec<Way> {
    vec![
        refused("CREATE VIEW", &["CREATE VIEW made AS SELECT 1"])
            .undo(&["DROP VIEW IF EXISTS made"]),
        refused("CREATE SCHEMA", &["CREATE SCHEMA made"]).undo(&["DROP SCHEMA IF EXISTS made"]),
        refused("CREATE TYPE", &["CREATE TYPE made AS (a int)"])
            .undo(&["DROP TYPE IF EXISTS made"]),
        refused("CREATE DOMAIN", &["CREATE DOMAIN made AS int"])
            .undo(&["DROP DOMAIN IF EXISTS made"]),
        refused(
            "CREATE FUNCTION",
            &["CREATE FUNCTION made() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
        )
        .undo(&["DROP FUNCTION IF EXISTS made()"]),
        refused("ALTER FUNCTION", &["ALTER FUNCTION writes_by_sql() COST 7"]),
        refused("CREATE AGGREGATE", &["CREATE AGGREGATE made(int) (SFUNC = int4pl, STYPE = int)"])
            .undo(&["DROP AGGREGATE IF EXISTS made(int)"]),
        refused("CREATE SEQUENCE", &["CREATE SEQUENCE made"])
            .undo(&["DROP SEQUENCE IF EXISTS made"]),
        refused(
            "CREATE EVENT TRIGGER",
            &["CREATE EVENT TRIGGER made ON ddl_command_end EXECUTE FUNCTION noticed()"],
        )
        .setup(&["CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"])
        .undo(&["DROP EVENT TRIGGER IF EXISTS made", "DROP FUNCTION noticed()"]),
        refused("CREATE EXTENSION", &["CREATE EXTENSION tcn"])
            .needs(&["tcn"])
            .undo(&["DROP EXTENSION IF EXISTS tcn"]),
        refused("ALTER EXTENSION SET SCHEMA", &["ALTER EXTENSION tcn SET SCHEMA pg_catalog"])
            .needs(&["tcn"])
            .setup(&["CREATE EXTENSION tcn"])
            .undo(&["DROP EXTENSION IF EXISTS tcn"]),
        refused("DROP EXTENSION", &["DROP EXTENSION tcn"])
            .needs(&["tcn"])
            .setup(&["CREATE EXTENSION tcn"])
            .undo(&["DROP EXTENSION IF EXISTS tcn"]),
        refused(
            "CREATE FOREIGN DATA WRAPPER, SERVER",
            &["CREATE FOREIGN DATA WRAPPER made", "CREATE SERVER made FOREIGN DATA WRAPPER made"],
        )
        .undo(&["DROP FOREIGN DATA WRAPPER IF EXISTS made CASCADE"]),
        refused("CREATE COLLATION", &["CREATE COLLATION made FROM \"C\""])
            .undo(&["DROP COLLATION IF EXISTS made"]),
        refused(
            "CREATE TEXT SEARCH CONFIGURATION",
            &["CREATE TEXT SEARCH CONFIGURATION made (COPY = simple)"],
        )
        .undo(&["DROP TEXT SEARCH CONFIGURATION IF EXISTS made"]),
    ]
}

fn roles_and_rights() -> Vec<Way> {
    vec![
        refused("CREATE ROLE", &["CREATE ROLE made"]).undo(&["DROP ROLE IF EXISTS made"]),
        refused("ALTER ROLE", &["ALTER ROLE visitor CONNECTION LIMIT 7"]),
        refused("ALTER ROLE SET", &["ALTER ROLE visitor SET work_mem = '5MB'"])
            .undo(&["ALTER ROLE visitor RESET ALL"]),
        refused("ALTER ROLE PASSWORD", &["ALTER ROLE visitor PASSWORD 'x'"]),
        refused("DROP ROLE", &["DROP ROLE doomed"])
            .setup(&["CREATE ROLE doomed"])
            .undo(&["DROP ROLE IF EXISTS doomed"]),
        refused("GRANT", &["GRANT SELECT ON unlogged TO visitor"])
            .undo(&["REVOKE SELECT ON unlogged FROM visitor"]),
        refused("REVOKE", &["REVOKE ALL ON unlogged FROM visitor"]),
        refused("GRANT of a role", &["GRANT pg_read_all_stats TO visitor"])
            .undo(&["REVOKE pg_read_all_stats FROM visitor"]),
        refused("GRANT SET ON PARAMETER", &["GRANT SET ON PARAMETER log_duration TO visitor"])
            .undo(&["REVOKE SET ON PARAMETER log_duration FROM visitor"]),
        refused(
            "ALTER DEFAULT PRIVILEGES",
            &["ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO visitor"],
        )
        .undo(&["ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM visitor"]),
        refused("REASSIGN OWNED", &["REASSIGN OWNED BY visitor TO postgres"]),
        refused("DROP OWNED", &["DROP OWNED BY doomed"])
            .setup(&["CREATE ROLE doomed"])
            .undo(&["DROP ROLE IF EXISTS doomed"]),
    ]
}

fn databases() -> Vec<Way> {
    vec![
        refused("CREATE DATABASE", &["CREATE DATABASE made"])
            .undo(&["DROP DATABASE IF EXISTS made"]),
        refused("CREATE DATABASE by copying files", &["CREATE DATABASE made STRATEGY file_copy"])
            .undo(&["DROP DATABASE IF EXISTS made"]),
        refused("DROP DATABASE", &["DROP DATABASE doomed"])
            .setup(&["CREATE DATABASE doomed"])
            .undo(&["DROP DATABASE IF EXISTS doomed"]),
        refused("DROP DATABASE FORCE", &["DROP DATABASE doomed WITH (FORCE)"])
            .setup(&["CREATE DATABASE doomed"])
            .undo(&["DROP DATABASE IF EXISTS doomed"]),
        refused("ALTER DATABASE SET", &["ALTER DATABASE template1 SET work_mem = '5MB'"])
            .undo(&["ALTER DATABASE template1 RESET ALL"]),
        refused("ALTER DATABASE RENAME", &["ALTER DATABASE doomed RENAME TO renamed"])
            .setup(&["CREATE DATABASE doomed"])
            .undo(&["DROP DATABASE IF EXISTS doomed", "DROP DATABASE IF EXISTS renamed"]),
        refused(
            "ALTER DATABASE SET TABLESPACE",
            &["ALTER DATABASE doomed SET TABLESPACE elsewhere"],
        )
        .setup(&[
            "SET allow_in_place_tablespaces = on",
            "CREATE TABLESPACE elsewhere LOCATION ''",
            "CREATE DATABASE doomed",
        ])
        .undo(&["DROP DATABASE IF EXISTS doomed", "DROP TABLESPACE elsewhere"]),
        refused(
            "CREATE TABLESPACE",
            &["SET allow_in_place_tablespaces = on", "CREATE TABLESPACE made LOCATION ''"],
        )
        .undo(&["DROP TABLESPACE IF EXISTS made"]),
        refused("DROP TABLESPACE", &["DROP TABLESPACE doomed"])
            .setup(&["SET allow_in_place_tablespaces = on", "CREATE TABLESPACE doomed LOCATION ''"])
            .undo(&["DROP TABLESPACE IF EXISTS doomed"]),
        refused("ALTER TABLESPACE", &["ALTER TABLESPACE pg_default SET (random_page_cost = 3)"])
            .undo(&["ALTER TABLESPACE pg_default RESET (random_page_cost)"]),
    ]
}

fn replication() -> Vec<Way> {
    vec![
        refused("CREATE PUBLICATION", &["CREATE PUBLICATION made FOR TABLE t"])
            .undo(&["DROP PUBLICATION IF EXISTS made"]),
        refused(
            "CREATE SUBSCRIPTION",
            &["CREATE SUBSCRIPTION made CONNECTION 'port=1' PUBLICATION p
             WITH (connect = false, slot_name = NONE, enabled = false)"],
        )
        .undo(&["DROP SUBSCRIPTION IF EXISTS made"]),
        refused("ALTER SUBSCRIPTION", &["ALTER SUBSCRIPTION doomed SET (binary = true)"])
            .setup(&["CREATE SUBSCRIPTION doomed CONNECTION 'port=1' PUBLICATION p
                 WITH (connect = false, slot_name = NONE, enabled = false)"])
            .undo(&["DROP SUBSCRIPTION IF EXISTS doomed"]),
        refused("DROP SUBSCRIPTION", &["DROP SUBSCRIPTION doomed"])
            .setup(&["CREATE SUBSCRIPTION doomed CONNECTION 'port=1' PUBLICATION p
                 WITH (connect = false, slot_name = NONE, enabled = false)"])
            .undo(&["DROP SUBSCRIPTION IF EXISTS doomed"]),
    ]
}
