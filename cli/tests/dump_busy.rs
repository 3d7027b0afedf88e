//! What else goes on in a cluster while it is dumped: shards that move and are split, DDL that waits or comes through, new
//! tenants. The dump has what its snapshot shows, or fails and names the table; and it waits for nobody for ever.

mod common;

use std::thread;

use common::{Gate, dump_command, fresh_database, load, manifest, start};
use fence_tests::{Cluster, Engine, PATIENCE, Result, on_each_engine};
use test_cluster::wait_for_sql;

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";

/// Moves the first shard to the other worker.
const A_MOVE: &str = "SELECT citus_move_shard_placement(s.shardid, a.nodename, a.nodeport, b.nodename, b.nodeport, 'block_writes')
         FROM (SELECT min(shardid) AS shardid FROM pg_dist_shard WHERE logicalrelid = 't'::regclass) s
         JOIN pg_dist_placement p ON p.shardid = s.shardid JOIN pg_dist_node a ON a.groupid = p.groupid
         JOIN pg_dist_node b ON b.groupid IN (1, 2) AND b.groupid <> a.groupid";

const CLEAN_UP: &str = "CALL citus_cleanup_orphaned_resources()";

fn create(engine: Engine) -> Result<Cluster> {
    let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
    cluster.create_distributed(TABLE, "t", "id", 4)?;
    for id in 1..=40 {
        let sql = cluster.shard_sql("t", id, &format!("INSERT INTO %s VALUES ({id}, 'v{id}')"));
        cluster.coordinator().execute(&sql)?;
    }
    Ok(cluster)
}

/// Rows of the dump, and a sum over all of them.
fn content(cluster: &Cluster, dir: &std::path::Path) -> Result<(i64, i64)> {
    let coordinator = cluster.coordinator();
    let mut client = fresh_database(coordinator, "loaded")?;
    client.batch_execute(TABLE).expect("a table");
    load(coordinator, "loaded", dir, "t", "t")?;
    let sql = "SELECT count(*), sum(id)::bigint FROM t WHERE v = 'v' || id";
    let row = client.query_one(sql, &[]).expect("a row");
    Ok((row.get(0), row.get(1)))
}

#[test]
fn shards_that_move_or_are_split_meanwhile_are_whole_or_named() -> Result<()> {
    use std::io::Write as _;
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: shards that move, without Citus");
        return Ok(());
    }
    let split = "SELECT citus_split_shard_by_split_points(s.shardid, ARRAY[(s.shardminvalue::int + 1000)::text],
           (SELECT array_agg(nodeid) FROM pg_dist_node WHERE groupid IN (1, 2)), 'block_writes')
         FROM pg_dist_shard s WHERE logicalrelid = 't'::regclass ORDER BY shardid LIMIT 1";
    let later = "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1000, 1100) n; DELETE FROM t WHERE id < 20";
    for (name, statements, must_be_whole) in [
        ("moved", &[A_MOVE][..], true),
        ("moved and written to", &[A_MOVE, later], true),
        ("split", &[split, later], true),
        ("moved and cleaned up", &[A_MOVE, CLEAN_UP], false),
        ("split and cleaned up", &[split, later, CLEAN_UP], false),
        ("moved there and back", &[A_MOVE, CLEAN_UP, A_MOVE, CLEAN_UP], false),
    ] {
        let cluster = create(Engine::Citus)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let gate = Gate::new();
        let words = ["--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(cluster.coordinator().port(), &dir, &words));
        gate.wait(&mut running)?;
        let each = statements.iter().flat_map(|statement| statement.split("; "));
        each.into_iter().try_for_each(|one| cluster.coordinator().execute(one))?;
        gate.open();
        let ended = running.ended()?;
        println!("{name}: {:?} {}", ended.code, ended.err);
        match ended.code {
            Some(0) => assert_eq!(content(&cluster, &dir)?, (40, 820), "{name}"),
            _ => {
                assert!(!must_be_whole, "{name}: {ended:?}");
                ended
                    .expect(1)
                    .complains_of(&["table public.t (shard ", "while the dump was made"]);
                assert!(!dir.exists(), "{name}");
            }
        }
    }
    Ok(())
}

/// pg_dump waits behind it, and it for this program's lock, which is held until pg_dump is done: no detector sees that.
#[test]
fn ddl_that_waits_for_the_dump_is_let_through_and_comes_with_it() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        let is_citus = engine == Engine::Citus;
        if is_citus {
            for table in ["emptied", "dropped"] {
                let ddl = format!("CREATE TABLE {table} (id bigint, v text)");
                cluster.create_distributed(&ddl, table, "id", 4)?;
                let fill =
                    format!("INSERT INTO {table} SELECT n, 'v' FROM generate_series(1, 40) n");
                cluster.coordinator().execute(&fill)?;
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let gate = Gate::new();
        let words = ["-v", "--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(cluster.coordinator().port(), &dir, &words));
        gate.wait(&mut running)?;
        let statements: &[&str] = &[
            "ALTER TABLE t ADD COLUMN extra int DEFAULT 7",
            // The embedded catalog does nothing of these on the shards.
            "TRUNCATE emptied",
            "DROP TABLE dropped",
        ][..if is_citus { 3 } else { 1 }];
        let waiting: Vec<_> = statements
            .iter()
            .map(|statement| {
                let (params, statement) = (cluster.coordinator().connect_params(), *statement);
                thread::spawn(move || {
                    let mut client = params.connect().expect("a session");
                    client.batch_execute(statement)
                })
            })
            .collect();
        let mut observer = cluster.connect(0)?;
        let waits = format!(
            "SELECT count(*) = {} FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                AND query IN ('{}')",
            statements.len(),
            statements.join("', '")
        );
        wait_for_sql(&mut observer, &waits, PATIENCE)?;
        gate.open();
        let ended = running.ended()?.expect(0).complains_of(&["pg_dump waited for a lock"]);
        for statement in waiting {
            statement.join().expect("a thread").expect("it has come through");
        }
        let schema = std::fs::read_to_string(dir.join("schema/pre-data.sql")).expect("the schema");
        assert!(schema.contains("extra integer DEFAULT 7"), "{ended:?}");
        if engine == Engine::Citus {
            let manifest = manifest(&dir);
            let files = manifest["files"].as_array().expect("files");
            let of = |table: &'static str| files.iter().filter(move |file| file["table"] == table);
            assert!(of("t").all(|file| file["columns"] == serde_json::json!(["id", "v", "extra"])));
            let rows = |table| of(table).filter_map(|file| file["rows"].as_u64()).sum::<u64>();
            assert_eq!(
                (rows("t"), of("t").count(), rows("emptied"), of("emptied").count()),
                (40, 4, 0, 4)
            );
            assert_eq!(of("dropped").count(), 0);
        }
        Ok(())
    });
}

/// pg_dump finds a table in the snapshot, and nothing any more to lock. A dump of a moment after that is whole.
#[test]
fn a_table_that_is_dropped_before_pg_dump_has_its_lock_is_not_in_it() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE TABLE passing AS SELECT 1 AS id")?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let gate = Gate::new();
        let words = ["--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(coordinator.port(), &dir, &words));
        gate.wait(&mut running)?;
        coordinator.execute("DROP TABLE passing")?;
        gate.open();
        running.ended()?.expect(0);
        let tables = &manifest(&dir)["tables"];
        let has =
            |name: &str| tables.as_array().expect("tables").iter().any(|one| one["name"] == name);
        assert!(has("t") && !has("passing"), "{tables}");
        Ok(())
    });
}

#[test]
fn what_is_made_meanwhile_is_in_all_of_it_or_in_none() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        let statements = match engine {
            Engine::Citus => [
                "SET citus.enable_schema_based_sharding = on; CREATE SCHEMA made",
                "CREATE TABLE made.t (id int)",
                "INSERT INTO made.t VALUES (1), (2)",
            ],
            Engine::Embedded => [
                "CREATE SCHEMA made",
                "CREATE TABLE made.t (id int)",
                "INSERT INTO made.t VALUES (1), (2)",
            ],
        };
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let gate = Gate::new();
        let words = ["--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(cluster.coordinator().port(), &dir, &words));
        gate.wait(&mut running)?;
        statements.iter().try_for_each(|sql| cluster.coordinator().execute(sql))?;
        gate.open();
        running.ended()?.expect(0);
        let schema = std::fs::read_to_string(dir.join("schema/pre-data.sql")).expect("the schema");
        let manifest = manifest(&dir);
        let is_made = |file: &&serde_json::Value| file["schema"] == "made";
        let files = manifest["files"].as_array().expect("files");
        let rows: i64 = files.iter().filter(is_made).filter_map(|file| file["rows"].as_i64()).sum();
        let tenants = manifest["tenants"].as_array().expect("tenants").len();
        let in_schema = schema.contains("CREATE TABLE made.t");
        println!("{engine}: in the schema: {in_schema}, rows: {rows}, tenants: {tenants}");
        let of_citus = usize::from(engine == Engine::Citus);
        assert_eq!((rows, tenants), if in_schema { (2, of_citus) } else { (0, 0) });
        Ok(())
    });
}

/// Citus drops what a move has left behind seconds later; with the dump at work it passes over that.
#[test]
fn a_shard_that_was_moved_is_kept_until_it_is_copied() -> Result<()> {
    use std::io::Write as _;
    if !Engine::available().contains(&Engine::Citus) {
        let _ = writeln!(std::io::stderr(), "skipped: shards that are kept, without Citus");
        return Ok(());
    }
    let cluster = create(Engine::Citus)?;
    let coordinator = cluster.coordinator();
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("dump");
    let gate = Gate::new();
    let words = ["--bindir", gate.bindir()];
    let mut running = start(&mut dump_command(coordinator.port(), &dir, &words));
    gate.wait(&mut running)?;
    let was = cluster.placements("t")?;
    let first = was.iter().min_by_key(|one| one.shardid).expect("a shard");
    coordinator.execute(A_MOVE)?;
    let kept = format!(
        "SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
          WHERE l.relation = '{}'::regclass AND a.application_name = 'citus-fence' AND l.mode = 'AccessShareLock' AND l.granted",
        first.table
    );
    let mut there = cluster.connect(first.node)?;
    there.batch_execute("SET citus.override_table_visibility = off").expect("a setting");
    wait_for_sql(&mut there, &kept, PATIENCE)?;
    let records = || coordinator.query_value("SELECT count(*) FROM pg_dist_cleanup");
    coordinator.execute(CLEAN_UP)?;
    assert_eq!(records()?, "1");
    gate.open();
    running.ended()?.expect(0);
    assert_eq!(content(&cluster, &dir)?, (40, 820));
    // Nothing holds it up any longer.
    test_cluster::wait_until("the clean-up", PATIENCE, || {
        coordinator.execute(CLEAN_UP).ok()?;
        (records().ok()? == "0").then_some(())
    })
}
