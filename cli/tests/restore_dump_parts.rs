//! Partitions, groups and tenants where a part of a dump is restored.

mod common;

use common::restored::restore_command;
use common::selected::{distributed, everywhere, findings, pasted, rows, statements, value};
use common::{dump_command, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};

/// Partitions of a table of the coordinator's and, on Citus, of a distributed one.
fn parted(cluster: &Cluster) -> Result<()> {
    statements(
        cluster,
        "CREATE TABLE ranges (at date, v int, PRIMARY KEY (at, v)) PARTITION BY RANGE (at);
CREATE TABLE ranges_24 PARTITION OF ranges FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE ranges_25 PARTITION OF ranges FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO ranges SELECT date '2024-12-25' + n, n FROM generate_series(0, 11) n",
    )?;
    if cluster.engine() == Engine::Citus {
        statements(
            cluster,
            "CREATE TABLE parted (id bigint, at date) PARTITION BY RANGE (at);
CREATE TABLE parted_24 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parted_25 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
SELECT create_distributed_table('parted', 'id', shard_count := 6, colocate_with := 'none');
INSERT INTO parted SELECT n, date '2024-12-20' + n % 12 FROM generate_series(1, 40) n;
CREATE INDEX parted_at ON parted (at)",
        )?;
    }
    Ok(())
}

#[test]
fn a_partition_comes_without_its_parent_and_can_be_attached_again() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        parted(&cluster)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let port = cluster.coordinator().port();
        run(&mut dump_command(port, &dir, &[])).expect(0);
        let mut tables = vec!["ranges"];
        tables.extend((engine == Engine::Citus).then_some("parted"));
        let was = rows(&cluster, &tables)?;

        // A partition is lost; it comes back as a table, with the statement that attaches it.
        for table in &tables {
            everywhere(&cluster, &format!("DROP TABLE IF EXISTS {table}_24"))?;
        }
        let mut words = vec!["--into-non-empty", "--json"];
        words.extend(["-t", "*_24"]);
        let ended = run(&mut restore_command(port, &dir, &words)).expect(3);
        let attach = pasted(&findings(&ended.out));
        assert_eq!(attach.len(), tables.len(), "{ended:?}");
        assert!(attach.iter().all(|sql| sql.contains(" ATTACH PARTITION ")), "{attach:?}");
        assert_ne!(rows(&cluster, &tables)?, was);
        if engine == Engine::Citus {
            let joined = "SELECT 1 FROM pg_dist_partition a JOIN pg_dist_partition b USING (colocationid)
                WHERE a.logicalrelid = 'parted_24'::regclass AND b.logicalrelid = 'parted'::regclass";
            value(&cluster, joined)?;
        }
        attach.iter().try_for_each(|sql| cluster.coordinator().execute(sql))?;
        assert_eq!(rows(&cluster, &tables)?, was);

        // A parent comes without its partitions, which is said.
        for table in &tables {
            everywhere(&cluster, &format!("DROP TABLE IF EXISTS {table}, {table}_24"))?;
        }
        let words = ["-t", "ranges", "-t", "p*ed|x", "--into-non-empty", "--json"];
        let words = if engine == Engine::Citus {
            &words[..]
        } else {
            &["-t", "ranges", "--into-non-empty", "--json"]
        };
        let ended = run(&mut restore_command(port, &dir, words)).expect(3);
        let said = findings(&ended.out);
        assert_eq!(said.len(), tables.len(), "{said:?}");
        assert!(said[said.len() - 1].contains("partitions of public.ranges are not restored with it, nor their rows: public.ranges_24, public.ranges_25"), "{said:?}");
        assert_eq!(value(&cluster, "SELECT count(*) FROM ranges")?, "0");
        for table in &tables {
            everywhere(&cluster, &format!("DROP TABLE IF EXISTS {table}, {table}_24"))?;
        }

        // And with them where they are selected.
        run(&mut restore_command(port, &dir, &["-t", "ranges*|parted*", "--into-non-empty"]))
            .expect(0);
        assert_eq!(rows(&cluster, &tables)?, was);
        Ok(())
    });
}

#[test]
fn what_is_distributed_is_so_with_its_own_shards_whatever_else_comes() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        distributed(&source)?;
        if engine == Engine::Citus {
            statements(
                &source,
                "SET citus.enable_schema_based_sharding = on; CREATE SCHEMA tenant; CREATE TABLE tenant.t (id bigserial PRIMARY KEY, v text);
INSERT INTO tenant.t (v) SELECT 'x' || n FROM generate_series(1, 11) n;
CREATE TABLE ref (id int PRIMARY KEY);
SELECT create_reference_table('ref');
INSERT INTO ref SELECT generate_series(1, 9);
CREATE FUNCTION tenant.f(a bigint) RETURNS bigint LANGUAGE sql AS 'SELECT a';
SELECT create_distributed_function('tenant.f(bigint)')",
            )?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let port = target.coordinator().port();
        let code = if engine == Engine::Citus { 3 } else { 0 };
        run(&mut restore_command(port, &dir, &["-t", "d_second"])).expect(code);
        let shards = |table: &str| {
            value(
                &target,
                &format!(
                    "SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = '{table}'::regclass"
                ),
            )
        };
        assert_eq!(shards("d_second")?, "6");
        assert_eq!(target.read_all_shards("d_second", "SELECT id FROM %s")?.len(), 30);
        assert!(
            target
                .coordinator()
                .query("SELECT 1 FROM pg_class WHERE relname = 'd_first'")?
                .is_empty()
        );
        // What comes later joins it.
        run(&mut restore_command(port, &dir, &["-t", "d_first", "--into-non-empty"])).expect(code);
        let groups = "SELECT count(DISTINCT colocationid) FROM pg_dist_partition";
        assert_eq!((shards("d_first")?, value(&target, groups)?), ("6".into(), "1".into()));
        if engine == Engine::Embedded {
            return Ok(());
        }
        run(&mut restore_command(port, &dir, &["-n", "tenant", "-T", "ref", "--into-non-empty"]))
            .expect(0);
        let schema =
            "SELECT schema_name::text || ' ' || (SELECT count(*) FROM tenant.t) FROM citus_schemas";
        assert_eq!(value(&target, schema)?, "tenant 11");
        assert!(
            target.coordinator().query("SELECT 1 FROM pg_class WHERE relname = 'ref'")?.is_empty()
        );
        // A tenant's table that is lost is the tenant's again.
        target.coordinator().execute("DROP TABLE tenant.t")?;
        run(&mut restore_command(port, &dir, &["-t", "tenant.t", "-t", "ref", "--into-non-empty"]))
            .expect(0);
        let kinds = "SELECT string_agg(format('%s %s', table_name, citus_table_type), ', ' ORDER BY table_name::text) FROM citus_tables
            WHERE table_name::text !~ '^d_'";
        assert_eq!(value(&target, kinds)?, "ref reference, tenant.t schema");
        assert_eq!(value(&target, "SELECT count(*) FROM tenant.t")?, "11");
        // Another group where that there has other shards now, which is said.
        target.coordinator().execute("DROP TABLE d_first CASCADE; SELECT alter_distributed_table('d_second', shard_count := 4)")?;
        let words = ["-t", "d_first", "--into-non-empty"];
        let ended = run(&mut restore_command(port, &dir, &words)).expect(3);
        assert!(
            ended.out.contains("public.d_first is not colocated with public.d_second, as it was"),
            "{ended:?}"
        );
        assert_eq!(shards("d_first")?, "6");
        Ok(())
    });
}

#[test]
fn a_part_is_tried_as_it_was_written() {
    on_each_engine(|engine: Engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        source.coordinator().execute("CREATE TABLE listed (id int, v int[] DEFAULT '{1,NULL}')")?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);
        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        target.execute_everywhere(
            "SET citus.enable_ddl_propagation = off; ALTER DATABASE postgres SET array_nulls = off",
        )?;
        let port = target.coordinator().port();
        run(&mut restore_command(port, &dir, &["-t", "listed"])).expect(0);
        Ok(())
    });
}
