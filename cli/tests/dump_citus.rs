//! What only Citus has, and what grows with the number of shards.

mod common;

use std::io::Write as _;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{dump_command, fresh_database, load, manifest, run};
use fence_tests::{Cluster, Engine, Result, on_each_engine};
use serde_json::json;

/// More than a worker may ever have locked at once, by far.
const SHARDS: u32 = 300;

#[test]
fn few_locks_however_many_shards() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        cluster.create_distributed("CREATE TABLE t (id bigint PRIMARY KEY)", "t", "id", SHARDS)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let (over, params) = (AtomicBool::new(false), cluster.worker(1).connect_params());
        // Of shards and their indexes, in one session, at any moment that was looked at.
        let most = |name: &str| {
            format!(
                "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE l.locktype = 'relation' AND l.relation >= 16384 AND a.application_name = '{name}'
                    -- The embedded catalog's own tables have such numbers, too.
                    AND l.relation NOT IN (SELECT oid FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace)
                  GROUP BY pid) x"
            )
        };
        let (looks, locks) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut client = params.connect().expect("a connection");
                let (mut looks, mut locks) = (0_u32, 0_i64);
                while !over.load(Ordering::Relaxed) {
                    let now: i64 =
                        client.query_one(&most("citus-fence"), &[]).expect("locks").get(0);
                    (looks, locks) = (looks + 1, locks.max(now));
                }
                (looks, locks)
            });
            let ended =
                run(&mut dump_command(cluster.coordinator().port(), &dir, &["--jobs", "2"]));
            over.store(true, Ordering::Relaxed);
            ended.expect(0);
            watcher.join().expect("the watcher")
        });
        println!("{engine}: at most {locks} locks of tables in one session, in {looks} looks");
        assert!(looks > 20, "{looks} looks show nothing");
        assert!((1..=4).contains(&locks), "{locks} locks");
        assert_eq!(manifest(&dir)["files"].as_array().map(Vec::len), Some(SHARDS as usize));

        // The control: a lock for each, as a snapshot's reader would need that trusts in locks alone.
        let mut all = cluster.worker(1).connect_params().application_name("control").connect()?;
        all.batch_execute("SET citus.enable_manual_changes_to_shards = on; BEGIN").expect("begun");
        let placements = cluster.placements("t")?;
        let here = placements.iter().filter(|placement| placement.node == 1);
        let names: Vec<&str> = here.map(|placement| placement.table.as_str()).collect();
        all.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", ")))
            .expect("locks");
        let control: i64 = all.query_one(&most("control"), &[]).expect("locks").get(0);
        assert!(control >= names.len() as i64 && names.len() > 100, "{control}");
        Ok(())
    });
}

/// Shards of one node, and a server's settings, so that locks of all of them have no room: as they come, and with fewer
/// where that has to be quick.
fn many() -> (u32, Option<&'static str>) {
    if test_cluster::whole_matrix() { (20_000, None) } else { (6_000, Some("10")) }
}

#[test]
fn a_node_whose_locks_have_no_room_for_all_of_its_shards_is_dumped() {
    on_each_engine(|engine| {
        let (shards, locks) = many();
        // There is room for so many per session and prepared transaction, and the tests have more of these.
        let mut builder = Cluster::builder(engine).workers(1).fsync(false);
        builder =
            builder.setting("max_connections", "60").setting("max_prepared_transactions", "20");
        if let Some(locks) = locks {
            builder = builder.setting("max_locks_per_transaction", locks);
        }
        let cluster = builder.build()?;
        // Each made by itself: that, too, takes a lock for each shard.
        let each = 100;
        for number in 0..shards / each {
            let table = format!("t{number}");
            let ddl = format!("CREATE TABLE {table} (id bigint)");
            cluster.create_distributed(&ddl, &table, "id", each)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let began = std::time::Instant::now();
        run(&mut dump_command(cluster.coordinator().port(), &dir, &[])).expect(0);
        println!("{engine}: {shards} shards in {:?}", began.elapsed());
        assert_eq!(manifest(&dir)["files"].as_array().map(Vec::len), Some(shards as usize));

        // The control.
        let mut names = Vec::new();
        for number in 0..shards / each {
            let placements = cluster.placements(&format!("t{number}"))?;
            names.extend(placements.into_iter().filter(|one| one.node == 1).map(|one| one.table));
        }
        assert!(names.len() > shards as usize / 3, "{} of {shards} on the worker", names.len());
        let mut all = cluster.connect(1)?;
        all.batch_execute("SET citus.enable_manual_changes_to_shards = on; BEGIN").expect("begun");
        let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        let error = all.batch_execute(&lock).expect_err("there is no room for them");
        assert_eq!(error.code().map(|code| code.code()), Some("53200"), "{error:?}");
        Ok(())
    });
}

#[test]
fn every_kind_of_table_of_citus_is_in_it_once() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: what only Citus' tables have, without Citus");
        return Ok(());
    }
    let cluster = Cluster::builder(Engine::Citus).workers(2).fsync(false).build()?;
    let coordinator = cluster.coordinator();
    // One after the other: Citus does not do all of this in one transaction.
    let statements = "CREATE TABLE h (id int PRIMARY KEY, v text);
         SELECT create_distributed_table('h', 'id', shard_count := 4);
         INSERT INTO h SELECT n, 'v' || n FROM generate_series(1, 50) n;
         CREATE TABLE same (id int, v text);
         SELECT create_distributed_table('same', 'id', colocate_with := 'h');
         CREATE TABLE ref (id int PRIMARY KEY);
         SELECT create_reference_table('ref');
         INSERT INTO ref VALUES (1), (2), (3);
         CREATE TABLE single (id int);
         SELECT create_distributed_table('single', NULL, colocate_with := 'none');
         INSERT INTO single VALUES (4);
         CREATE TABLE known (id int REFERENCES ref (id));
         INSERT INTO known VALUES (1), (2);
         CREATE TABLE plain (id int);
         INSERT INTO plain VALUES (7);
         CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
         CREATE TABLE parted_20240101 PARTITION OF parted FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
         SELECT create_distributed_table('parted', 'id', colocate_with := 'h');
         INSERT INTO parted SELECT n, '2024-02-03' FROM generate_series(1, 30) n;
         CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT $1';
         SELECT create_distributed_function('f(int)', 'a', colocate_with := 'h')";
    statements.split(";\n").try_for_each(|statement| coordinator.execute(statement))?;
    coordinator.execute("SET citus.enable_schema_based_sharding = on; CREATE SCHEMA tenant; CREATE TABLE tenant.t (id int)")?;
    coordinator.execute("INSERT INTO tenant.t VALUES (8), (9)")?;
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    run(&mut dump_command(coordinator.port(), &dir, &["--jobs", "3"])).expect(0);
    let manifest = manifest(&dir);
    let tables = manifest["tables"].as_array().expect("tables");
    let files = manifest["files"].as_array().expect("files");
    let of = |name: &str| {
        tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    let rows = |name: &str| -> i64 {
        files
            .iter()
            .filter(|file| file["table"] == name)
            .filter_map(|file| file["rows"].as_i64())
            .sum()
    };
    for (name, kind, shards, count) in [
        ("h", "hash", 4, 50),
        ("same", "hash", 4, 0),
        ("ref", "reference", 1, 3),
        ("single", "single_shard", 1, 1),
        ("known", "citus_local", 1, 2),
        ("plain", "local", 0, 1),
        ("parted", "hash", 4, 0),
        ("parted_20240101", "hash", 4, 30),
        ("t", "single_shard", 1, 2),
    ] {
        let table = of(name);
        assert_eq!((&table["kind"], &table["shards"]), (&json!(kind), &json!(shards)), "{table}");
        assert_eq!(rows(name), count, "{name}");
    }
    assert_eq!(of("h")["column"], "id");
    assert_eq!(of("h")["colocation"], of("same")["colocation"]);
    assert_eq!(of("parted")["partitioned"], true);
    assert_eq!(manifest["tenants"][0]["schema"], "tenant");
    assert_eq!(manifest["functions"][0]["argument"], 0);
    // Each once: no shard twice, no parent, nothing of the coordinator's shards as a table of its own.
    assert_eq!(files.len(), 4 + 4 + 1 + 1 + 1 + 1 + 4 + 1);
    assert_eq!(tables.len(), 9);
    let mut loaded = fresh_database(coordinator, "loaded")?;
    loaded.batch_execute("CREATE TABLE h (id int PRIMARY KEY, v text)").expect("a table");
    load(coordinator, "loaded", &dir, "h", "h")?;
    let row = loaded.query_one("SELECT count(*) FROM h WHERE v = 'v' || id", &[]).expect("rows");
    assert_eq!(row.get::<_, i64>(0), 50);
    Ok(())
}

/// Sessions may be shown the coordinator's shards; they are no tables for all that.
#[test]
fn shards_that_sessions_are_shown_are_not_in_the_schema() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: what Citus shows, without Citus");
        return Ok(());
    }
    let cluster = Cluster::builder(Engine::Citus).workers(1).fsync(false).build()?;
    let coordinator = cluster.coordinator();
    for statement in [
        "CREATE TABLE ref (id int PRIMARY KEY)",
        "SELECT create_reference_table('ref')",
        "INSERT INTO ref VALUES (1), (2)",
    ] {
        coordinator.execute(statement)?;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (number, setting) in
        ["override_table_visibility = off", "show_shards_for_app_name_prefixes = 'pg_dump'"]
            .into_iter()
            .enumerate()
    {
        coordinator.execute("ALTER DATABASE postgres RESET ALL")?;
        coordinator.execute(&format!("ALTER DATABASE postgres SET citus.{setting}"))?;
        let dir = folder.path().join(number.to_string());
        run(&mut dump_command(coordinator.port(), &dir, &[])).expect(0);
        for file in ["pre-data", "post-data"] {
            let schema = std::fs::read_to_string(dir.join(format!("schema/{file}.sql")));
            let schema = schema.expect("a schema");
            assert!(schema.contains("ref") && !schema.contains("ref_1"), "{setting}: {schema}");
        }
    }
    // What Citus keeps of users beside tables is told.
    coordinator.execute("ALTER DATABASE postgres RESET ALL")?;
    coordinator.execute(
        "SELECT citus_add_rebalance_strategy('mine', 'citus_shard_cost_1', 'citus_node_capacity_1', \
         'citus_shard_allowed_on_node_true', 0)",
    )?;
    let dir = folder.path().join("strategy");
    let ended = run(&mut dump_command(coordinator.port(), &dir, &[])).expect(3);
    assert!(ended.out.contains("not in the dump: rebalance strategy mine"), "{ended:?}");
    Ok(())
}
