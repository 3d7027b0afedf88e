//! An upgraded schema is a fresh one, from every release and by every way; and the schema of a release
//! works with today's library until it is upgraded.

use fence_tests::{Cluster, on_each_engine, prove_usable};
use upgrade_tests::{
    Description, current, differences, paths, recreate, released, update, versions,
};

fn describe(cluster: &Cluster) -> test_cluster::Result<Vec<Description>> {
    (0..cluster.nodes().len())
        .map(|node| Ok(Description::of(&mut cluster.connect(node)?)))
        .collect()
}

#[test]
fn an_upgraded_schema_is_a_fresh_one() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        assert_eq!(versions(&cluster)?, [current(), current()]);
        for path in paths(&released(), current()) {
            let (from, stops) = path.split_first().expect("a beginning");
            for (number, stop) in stops.iter().enumerate() {
                recreate(&cluster, stop)?;
                let fresh = describe(&cluster)?;
                recreate(&cluster, from)?;
                // All steps up to this one, so that each is compared.
                for step in &stops[..=number] {
                    update(&cluster, step)?;
                }
                assert_eq!(versions(&cluster)?, [stop.as_str(), stop.as_str()]);
                for (node, (fresh, upgraded)) in
                    fresh.iter().zip(describe(&cluster)?.iter()).enumerate()
                {
                    let found = differences(fresh, upgraded);
                    assert!(
                        found.is_empty(),
                        "node {node}, {path:?} at {stop}:\n{}",
                        found.join("\n")
                    );
                }
            }
        }
        Ok(())
    });
}

/// Between the restart with the new library and `ALTER EXTENSION`, and after it.
#[test]
fn the_schema_of_a_release_works_with_this_library() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for from in released() {
            recreate(&cluster, &from)?;
            assert_eq!(versions(&cluster)?, [from.as_str(), from.as_str()]);
            prove_usable(&cluster)?;
            update(&cluster, current())?;
            prove_usable(&cluster)?;
        }
        Ok(())
    });
}

/// A function that has got more columns is the one that it was: to whom it was granted, and what is built on it.
#[test]
fn grants_and_views_outlive_the_update() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE ROLE operator")?;
        for from in released() {
            recreate(&cluster, &from)?;
            coordinator.execute(
                "GRANT EXECUTE ON FUNCTION citus_backup_block_nodes() TO operator; \
                 CREATE VIEW shown AS SELECT * FROM citus_backup_block_status()",
            )?;
            update(&cluster, current())?;
            let may = "SELECT has_function_privilege('operator', 'citus_backup_block_nodes()', 'EXECUTE')";
            assert_eq!(coordinator.query_value(may)?, "t");
            assert_eq!(coordinator.query_value("SELECT state FROM shown")?, "inactive");
            coordinator.execute("SELECT citus_backup_block_start()")?;
            let both =
                "SELECT (SELECT state FROM shown) || ' ' || mode FROM citus_backup_block_status()";
            assert_eq!(coordinator.query_value(both)?, "active 2pc");
            coordinator.execute("SELECT citus_unblock_writes_for_backup(); DROP VIEW shown")?;
        }
        Ok(())
    });
}

/// What an upgrade script may forget or do wrongly, and the words that the comparison has for it.
const WRONG: &[(&str, &str)] = &[
    (
        "COMMENT ON FUNCTION citus_backup_block_status() IS 'other'",
        "function public.citus_backup_block_status(): comment",
    ),
    (
        "COMMENT ON COLUMN citus_fence.stat_gate.state IS 'other'",
        "stat_gate: column state: comment",
    ),
    ("COMMENT ON SCHEMA citus_fence IS NULL", "schema citus_fence: comment"),
    ("REVOKE USAGE ON SCHEMA citus_fence FROM PUBLIC", "schema citus_fence: nspacl"),
    (
        "GRANT EXECUTE ON FUNCTION citus_fence.flush_wal() TO PUBLIC",
        "function citus_fence.flush_wal(): proacl",
    ),
    ("REVOKE SELECT ON citus_fence.stat_gate FROM PUBLIC", "view citus_fence.stat_gate: relacl"),
    (
        "GRANT UPDATE (asked_by) ON citus_fence.cluster_read_only TO pg_monitor",
        "cluster_read_only: column asked_by: attacl",
    ),
    // pg_dump writes what differs from these.
    (
        "DELETE FROM pg_init_privs WHERE objoid = 'citus_fence.stat_gate'::regclass",
        "view citus_fence.stat_gate: initial privileges",
    ),
    (
        "CREATE ROLE somebody; ALTER FUNCTION citus_fence.flush_wal() OWNER TO somebody",
        "function citus_fence.flush_wal(): proowner",
    ),
    (
        "ALTER FUNCTION citus_extend_backup_block(int) STABLE",
        "function public.citus_extend_backup_block(integer): provolatile",
    ),
    (
        "ALTER FUNCTION citus_extend_backup_block(int) PARALLEL SAFE",
        "function public.citus_extend_backup_block(integer): proparallel",
    ),
    (
        "ALTER FUNCTION citus_extend_backup_block(int) RESET search_path",
        "function public.citus_extend_backup_block(integer): proconfig",
    ),
    (
        "CREATE OR REPLACE FUNCTION alter_system_read_only(terminate_writers bool DEFAULT false) \
         RETURNS pg_lsn LANGUAGE c SET search_path TO pg_catalog, pg_temp \
         AS '$libdir/citus_fence', 'alter_system_read_only_wrapper'",
        "function public.alter_system_read_only(boolean): arguments",
    ),
    (
        "CREATE OR REPLACE FUNCTION citus_fence.flush_wal() RETURNS pg_lsn LANGUAGE c STRICT \
         SET search_path TO pg_catalog, pg_temp \
         AS '$libdir/citus_fence', 'flush_and_identify_wrapper'",
        "function citus_fence.flush_wal(): prosrc",
    ),
    (
        "ALTER EXTENSION citus_fence DROP FUNCTION citus_fence.flush_wal()",
        "function citus_fence.flush_wal(): member: missing",
    ),
    (
        "CREATE FUNCTION one_more() RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         ALTER EXTENSION citus_fence ADD FUNCTION one_more()",
        "function public.one_more(): member",
    ),
    (
        "DO $do$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW citus_fence.gate_blockers AS ' \
         || rtrim(pg_get_viewdef('citus_fence.gate_blockers'::regclass), ';') || ' AND true'; END $do$",
        "view citus_fence.gate_blockers: definition",
    ),
    ("ALTER VIEW citus_fence.gate_blockers SET (security_barrier)", "gate_blockers: reloptions"),
    (
        "ALTER VIEW citus_fence.stat_gate RENAME COLUMN waited TO has_waited",
        "view citus_fence.stat_gate: column waited: attname: missing",
    ),
    (
        "ALTER TABLE citus_fence.cluster_read_only ADD COLUMN more int",
        "table citus_fence.cluster_read_only: column more",
    ),
    (
        "ALTER TABLE citus_fence.cluster_read_only ALTER COLUMN asked_by DROP NOT NULL",
        "column asked_by: attnotnull",
    ),
    (
        "ALTER TABLE citus_fence.cluster_read_only ALTER COLUMN asked_by SET (n_distinct = 5)",
        "column asked_by: attoptions: n_distinct=5",
    ),
    (
        "ALTER TABLE citus_fence.cluster_read_only ALTER COLUMN asked_by TYPE varchar(64)",
        "column asked_by: atttypmod",
    ),
    (
        "ALTER TABLE citus_fence.cluster_read_only ALTER COLUMN asked_at SET DEFAULT '-infinity'",
        "default value for citus_fence.cluster_read_only.asked_at: definition",
    ),
    (
        "ALTER TABLE citus_fence.cluster_read_only DROP CONSTRAINT cluster_read_only_only_row_check",
        "table constraint cluster_read_only_only_row_check on citus_fence.cluster_read_only: definition: missing",
    ),
    (
        "CREATE INDEX one_more ON citus_fence.cluster_read_only (asked_by)",
        "index citus_fence.one_more: definition",
    ),
    (
        "CREATE FUNCTION pg_temp.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER one_more AFTER INSERT ON citus_fence.cluster_read_only \
         EXECUTE FUNCTION pg_temp.nothing()",
        "trigger one_more on citus_fence.cluster_read_only: definition",
    ),
    (
        "INSERT INTO citus_fence.cluster_read_only (asked_by) VALUES ('somebody')",
        "table citus_fence.cluster_read_only: rows",
    ),
    // What pg_extension_config_dump() sets, which only a script may call.
    (
        "UPDATE pg_extension SET extconfig = ARRAY['citus_fence.cluster_read_only'::regclass::oid], \
         extcondition = '{\"\"}' WHERE extname = 'citus_fence'",
        "extension citus_fence: extconfig",
    ),
    (
        "CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
         CREATE EVENT TRIGGER one_more ON ddl_command_end EXECUTE FUNCTION nothing(); \
         ALTER EXTENSION citus_fence ADD EVENT TRIGGER one_more",
        "event trigger one_more: evtevent",
    ),
    (
        "CREATE OPERATOR public.<=> (LEFTARG = int, RIGHTARG = text, FUNCTION = left_of); \
         ALTER EXTENSION citus_fence ADD OPERATOR public.<=>(int, text)",
        "operator public.<=>(integer,pg_catalog.text): oprcode",
    ),
    (
        "CREATE SEQUENCE citus_fence.numbers INCREMENT 7; \
         ALTER EXTENSION citus_fence ADD SEQUENCE citus_fence.numbers",
        "sequence citus_fence.numbers: as a sequence: seqincrement: 7",
    ),
    (
        "CREATE TYPE citus_fence.kind AS ENUM ('one', 'other'); \
         ALTER EXTENSION citus_fence ADD TYPE citus_fence.kind",
        "type citus_fence.kind: label other",
    ),
];

/// The control of the first test: what it would miss would be found here.
#[test]
fn whatever_an_upgrade_does_wrongly_is_told() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(0).fsync(false).build()?;
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(
                "CREATE FUNCTION left_of(int, text) RETURNS bool LANGUAGE sql AS 'SELECT true'; \
                 SET citus.enable_ddl_propagation = off; SET allow_system_table_mods = on",
            )
            .expect("a session that may do anything");
        let right = Description::of(&mut client);
        assert!(right.size() > 1_000, "only {} attributes", right.size());
        for (statement, expected) in WRONG {
            client.batch_execute("BEGIN; SET search_path = public").expect("a transaction");
            client
                .batch_execute(statement)
                .unwrap_or_else(|error| panic!("{statement}: {}", fence_tests::words(&error)));
            let told = differences(&right, &Description::of(&mut client));
            client.batch_execute("ROLLBACK").expect("an end");
            assert!(
                told.iter().any(|line| line.contains(expected)),
                "{statement}: not \"{expected}\", but:\n{}",
                told.join("\n")
            );
        }
        assert_eq!(differences(&right, &Description::of(&mut client)), [""; 0]);
        Ok(())
    });
}
