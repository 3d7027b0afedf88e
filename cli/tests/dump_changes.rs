//! Somebody changes a table or a type in the middle of a dump: it fails and names it, or it has what the snapshot
//! shows. Never anything else.

mod common;

use std::io::Write as _;
use std::path::Path;

use common::{Gate, Running, dump_command, fresh_database, load, manifest, start};
use fence_tests::{Client, Cluster, Engine, PATIENCE, Result, on_each_engine};
use test_cluster::wait_for_sql;

/// A session of the command that waits for a lock.
const WAITING: &str = "SELECT count(*) = 1 FROM pg_stat_activity
     WHERE application_name = 'citus-fence' AND wait_event_type = 'Lock'";

/// What lets a test alter a shard directly.
const DIRECTLY: &str = "SET citus.override_table_visibility = off;
     SET citus.enable_manual_changes_to_shards = on; SET citus.enable_ddl_propagation = off;";

/// A cluster with a table, and a client on the node of one of its shards.
struct Stage {
    cluster: Cluster,
    client: Client,
    observer: Client,
    shard: String,
    folder: tempfile::TempDir,
}

impl Stage {
    fn set(engine: Engine) -> Result<Stage> {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        for ddl in
            ["CREATE TYPE color AS ENUM ('red', 'blue')", "CREATE TYPE pair AS (x int, y int)"]
        {
            match engine {
                Engine::Citus => cluster.coordinator().execute(ddl)?,
                Engine::Embedded => cluster.execute_everywhere(ddl)?,
            }
        }
        let ddl = "CREATE TABLE items (id bigint PRIMARY KEY, n int, c color, note text)";
        cluster.create_distributed(ddl, "items", "id", 4)?;
        let mut client = cluster.connect(0)?;
        for id in 0..40 {
            let sql = format!("INSERT INTO %s VALUES ({id}, {id}, 'red', 'note {id}')");
            client.batch_execute(&cluster.shard_sql("items", id, &sql)).expect("a row");
        }
        let placements = cluster.placements("items")?;
        let placement = placements.iter().find(|p| p.node != 0).expect("a shard on a worker");
        let (node, shard) = (placement.node, placement.table.clone());
        let (mut client, observer) = (cluster.connect(node)?, cluster.connect(node)?);
        client.batch_execute(DIRECTLY).expect("settings");
        let folder = tempfile::tempdir().expect("a folder");
        Ok(Stage { cluster, client, observer, shard, folder })
    }

    fn dir(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a dump that has its snapshot, and that has to wait for the one shard.
    fn hold(&mut self, dir: &Path) -> Result<Running> {
        let gate = Gate::new();
        let words = ["-v", "--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(self.cluster.coordinator().port(), dir, &words));
        gate.wait(&mut running)?;
        let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self.shard);
        self.client.batch_execute(&lock).expect("a lock");
        gate.open();
        wait_for_sql(&mut self.observer, WAITING, PATIENCE)?;
        Ok(running)
    }
}

#[test]
fn a_table_that_is_changed_meanwhile_is_named_and_nothing_is_kept() {
    on_each_engine(|engine| {
        let mut stage = Stage::set(engine)?;
        let shard = stage.shard.clone();
        let columns = "id bigint PRIMARY KEY, n int, c color, note text";
        for (name, change, words) in [
            ("truncate", format!("TRUNCATE {shard}"), "truncated or rewritten"),
            (
                "rewrite",
                format!("ALTER TABLE {shard} ALTER n TYPE bigint"),
                "truncated or rewritten",
            ),
            (
                "drop-column",
                format!("ALTER TABLE {shard} DROP COLUMN note"),
                "columns were altered",
            ),
            ("replace", format!("DROP TABLE {shard}; CREATE TABLE {shard} ({columns})"), "table"),
            ("drop", format!("DROP TABLE {shard}"), "dropped or renamed"),
        ] {
            let dir = stage.dir(name);
            let running = stage.hold(&dir)?;
            // Shown, and put back for the next: whatever happens to it later is another change.
            stage.client.batch_execute(&format!("{change}; COMMIT")).expect(name);
            let ended = running.ended()?.expect(1);
            let ended = ended.complains_of(&["public.items (shard ", "was changed", words, "hint"]);
            assert!(!dir.exists(), "{name}: {ended:?}");
            let again = format!("DROP TABLE IF EXISTS {shard}; CREATE TABLE {shard} ({columns})");
            stage.client.batch_execute(&again).expect("the shard, made again");
        }

        // A type, which no table shows.
        let dir = stage.dir("type");
        let running = stage.hold(&dir)?;
        let rename = "ALTER TYPE color RENAME VALUE 'red' TO 'pink'";
        stage.observer.batch_execute(DIRECTLY).expect("settings");
        stage.observer.batch_execute(rename).expect("another name");
        stage.client.batch_execute("COMMIT").expect("the lock's end");
        running.ended()?.expect(1).complains_of(&["type public.color", "was altered"]);
        assert!(!dir.exists());
        let back = "ALTER TYPE color RENAME VALUE 'pink' TO 'red'";
        stage.observer.batch_execute(back).expect("its old name");

        // One that is made of others.
        let dir = stage.dir("attribute");
        let running = stage.hold(&dir)?;
        let add = "ALTER TYPE pair ADD ATTRIBUTE z int";
        stage.observer.batch_execute(add).expect("a third");
        stage.client.batch_execute("COMMIT").expect("the lock's end");
        running.ended()?.expect(1).complains_of(&["type public.pair", "was altered"]);
        assert!(!dir.exists());

        // A lock that is not given back.
        let dir = stage.dir("lock");
        let gate = Gate::new();
        let words = ["--lock-wait", "300ms", "--bindir", gate.bindir()];
        let mut running =
            start(&mut dump_command(stage.cluster.coordinator().port(), &dir, &words));
        gate.wait(&mut running)?;
        let lock = format!("BEGIN; LOCK TABLE {shard} IN ACCESS EXCLUSIVE MODE");
        stage.client.batch_execute(&lock).expect("a lock");
        gate.open();
        let ended = running.ended()?.expect(1);
        ended.complains_of(&["the lock of table public.items (shard ", "--lock-wait"]);
        assert!(!dir.exists());
        Ok(())
    });
}

/// No reader's lock holds that up, and whoever reads such a table gets its shards' rows as they are by then. The embedded
/// catalog moves no rows into shards.
#[test]
fn a_table_that_is_distributed_meanwhile_is_named() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: a table that has rows, without Citus");
        return Ok(());
    }
    let stage = Stage::set(Engine::Citus)?;
    let coordinator = stage.cluster.coordinator();
    let port = coordinator.port();
    let mut client = coordinator.connect()?;
    let mut observer = coordinator.connect()?;
    for (name, distribute) in [
        ("spread", "SELECT create_distributed_table('spread', 'id', shard_count => 4)"),
        ("everywhere", "SELECT create_reference_table('everywhere')"),
    ] {
        let fill = format!("INSERT INTO {name} SELECT generate_series(1, 20)");
        for sql in [format!("CREATE TABLE {name} (id int)"), fill] {
            client.batch_execute(&sql).expect("a table");
        }
        let dir = stage.dir(name);
        // When the schema is written, and nothing is copied.
        let gate = Gate::of("pg_dumpall");
        let pg_dump = test_cluster::Installation::current()?.program("pg_dump");
        let link = Path::new(gate.bindir()).join("pg_dump");
        std::os::unix::fs::symlink(pg_dump, link).expect("a link");
        let words = ["--roles", "--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(port, &dir, &words));
        gate.wait(&mut running)?;
        let lock = format!("BEGIN; LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE");
        client.batch_execute(&lock).expect("a lock");
        gate.open();
        wait_for_sql(&mut observer, WAITING, PATIENCE)?;
        client.batch_execute(distribute).expect("it is distributed");
        client.batch_execute("COMMIT").expect("the lock's end");
        let ended = running.ended()?.expect(1);
        ended.complains_of(&[&format!("public.{name}"), "it was distributed", "hint"]);
        assert!(!dir.exists());
    }
    Ok(())
}

#[test]
fn what_is_written_meanwhile_is_not_in_it_and_ddl_on_the_coordinator_waits() {
    on_each_engine(|engine| {
        let mut stage = Stage::set(engine)?;
        let shard = stage.shard.clone();
        let dir = stage.dir("delete");
        let running = stage.hold(&dir)?;
        stage.client.batch_execute(&format!("DELETE FROM {shard}")).expect("no row");
        let mut other = stage.cluster.connect(0)?;
        let truncate = "SET lock_timeout = '200ms'; TRUNCATE items";
        let error = other.batch_execute(truncate).expect_err("the dump has its lock");
        assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error}");
        stage.client.batch_execute("COMMIT").expect("the lock's end");
        running.ended()?.expect(0);
        let coordinator = stage.cluster.coordinator();
        let mut loaded = fresh_database(coordinator, "loaded")?;
        loaded
            .batch_execute("CREATE TABLE items (id bigint PRIMARY KEY, n int, c text, note text)")
            .expect("a table");
        load(coordinator, "loaded", &dir, "items", "items")?;
        let sql = "SELECT count(*), sum(n)::bigint, count(*) FILTER (WHERE c = 'red' AND note = 'note ' || id) FROM items";
        let row = loaded.query_one(sql, &[]).expect("a row");
        assert_eq!((row.get(0), row.get(1), row.get(2)), (40_i64, 780_i64, 40_i64));
        assert_eq!(manifest(&dir)["not_dumped"], serde_json::json!([]));
        other.batch_execute("TRUNCATE items").expect("the dump is over");
        Ok(())
    });
}

/// The control: what a snapshot alone gives of a table that was truncated since.
#[test]
fn a_snapshot_without_the_comparison_reads_other_data_without_an_error() {
    on_each_engine(|engine| {
        let mut stage = Stage::set(engine)?;
        let shard = stage.shard.clone();
        let reader = &mut stage.observer;
        reader.batch_execute(DIRECTLY).expect("settings");
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").expect("a transaction");
        reader.query("SELECT 1", &[]).expect("a snapshot");
        let rows: i64 = stage
            .client
            .query_one(&format!("SELECT count(*) FROM {shard}"), &[])
            .expect("rows")
            .get(0);
        assert!(rows > 0, "the shard is empty, so this shows nothing");
        stage.client.batch_execute(&format!("TRUNCATE {shard}")).expect("truncated");
        let seen: i64 = reader
            .query_one(&format!("SELECT count(*) FROM {shard}"), &[])
            .expect("no error")
            .get(0);
        assert_eq!(seen, 0, "the snapshot shows its rows, so the comparison is for nothing");
        Ok(())
    });
}

/// What pg_dump has the server write as of now: a definition that is no longer the snapshot's has the dump begun anew.
#[test]
fn what_is_altered_between_the_snapshot_and_pg_dump_has_the_dump_begun_anew() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = cluster.coordinator();
        coordinator.execute("SET citus.enable_ddl_propagation = off; CREATE DOMAIN above AS int CONSTRAINT zero CHECK (VALUE > 0)")?;
        coordinator
            .execute("CREATE TABLE own (a int, b int); CREATE STATISTICS ab ON a, b FROM own")?;
        let folder = tempfile::tempdir().expect("a folder");
        for (number, (ddl, said)) in [
            (
                "SET citus.enable_ddl_propagation = off; ALTER DOMAIN above DROP CONSTRAINT zero",
                "pg_constraint",
            ),
            ("DROP STATISTICS ab", "pg_statistic_ext"),
            ("ALTER TABLE own ADD CHECK (a > 0)", "pg_constraint"),
        ]
        .into_iter()
        .enumerate()
        {
            let gate = Gate::new();
            let dir = folder.path().join(number.to_string());
            let words = ["-v", "--bindir", gate.bindir()];
            let mut running = start(&mut dump_command(coordinator.port(), &dir, &words));
            gate.wait(&mut running)?;
            coordinator.execute(ddl)?;
            gate.open();
            running.ended()?.expect(0).complains_of(&["try 1: ", said]);
        }
        Ok(())
    });
}
