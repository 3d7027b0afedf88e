//! Every end of a dump but the good one: sessions that are lost, a program that is told to stop or killed, a pooler,
//! a damaged file. Nothing is left that could be taken for a dump, and nothing on the nodes.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Gate, Running, command, dump_command, run, start};
use fence_tests::{Client, Cluster, Engine, PATIENCE, Result, on_each_engine};
use nix::sys::signal::Signal;
use test_cluster::{HOST, Pooler, SUPERUSER, wait_for_sql, wait_until};

/// Sessions of the command, and what they do.
const SESSIONS: &str = "FROM pg_stat_activity WHERE application_name = 'citus-fence'";

struct Stage {
    cluster: Cluster,
    /// On the node of `shard`.
    client: Client,
    observer: Client,
    node: usize,
    shard: String,
    folder: tempfile::TempDir,
}

impl Stage {
    fn set(engine: Engine) -> Result<Stage> {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        cluster.create_distributed("CREATE TABLE t (id bigint PRIMARY KEY)", "t", "id", 4)?;
        let placements = cluster.placements("t")?;
        let placement = placements.iter().find(|p| p.node != 0).expect("a shard on a worker");
        let (node, shard) = (placement.node, placement.table.clone());
        let (mut client, observer) = (cluster.connect(node)?, cluster.connect(node)?);
        let settings = "SET citus.override_table_visibility = off; \
                        SET citus.enable_manual_changes_to_shards = on; \
                        SET citus.enable_ddl_propagation = off";
        client.batch_execute(settings).expect("settings");
        let folder = tempfile::tempdir().expect("a folder");
        Ok(Stage { cluster, client, observer, node, shard, folder })
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a dump that waits for the lock of the one shard, through some other program.
    fn hold(&mut self, dir: &Path, through: &[&str]) -> Result<Running> {
        let gate = Gate::new();
        let dump = dump_command(
            self.cluster.coordinator().port(),
            dir,
            &["-v", "--bindir", gate.bindir()],
        );
        let mut running = match through {
            [] => {
                let mut dump = dump;
                start(&mut dump)
            }
            [program, words @ ..] => {
                let mut other = Command::new(program);
                other.args(words).arg(dump.get_program()).args(dump.get_args());
                start(&mut other)
            }
        };
        gate.wait(&mut running)?;
        let lock = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", self.shard);
        self.client.batch_execute(&lock).expect("a lock");
        gate.open();
        self.wait_for("count(*) FILTER (WHERE wait_event_type = 'Lock') = 1")?;
        Ok(running)
    }

    /// Waits for a state of the command's sessions on that node.
    fn wait_for(&mut self, state: &str) -> Result<()> {
        wait_for_sql(&mut self.observer, &format!("SELECT {state} {SESSIONS}"), PATIENCE)
    }

    /// Waits until nothing of the command is on any node. The shard's lock is still there.
    fn nothing_is_left(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            let mut client = node.connect()?;
            wait_for_sql(&mut client, &format!("SELECT count(*) = 0 {SESSIONS}"), PATIENCE)?;
        }
        Ok(())
    }

    fn unlock(&mut self) {
        self.client.batch_execute("ROLLBACK").expect("the lock's end");
    }
}

#[test]
fn a_server_that_is_frozen_is_named_and_not_waited_for() {
    on_each_engine(|engine| {
        let mut stage = Stage::set(engine)?;
        // Each takes half a minute: on Citus a worker, too.
        let workers = if engine == Engine::Citus { 1 } else { 0 };
        for node in [0, 3 - stage.node].into_iter().take(1 + workers) {
            let dir = stage.dir(&node.to_string());
            let running = stage.hold(&dir, &[])?;
            let began = Instant::now();
            stage.cluster.node(node).freeze()?;
            let ended = running.ended();
            stage.cluster.node(node).thaw()?;
            let place = format!("{HOST}:{}", stage.cluster.catalog_port(node));
            let port = format!(":{}", stage.cluster.node(node).port());
            let place = if node == 0 { port } else { place };
            // What did not come, and not what became of its session.
            ended?.expect(1).complains_of(&[&place, "did not finish within 30"]);
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
            assert!(!dir.exists());
            stage.nothing_is_left()?;
            stage.unlock();
        }
        Ok(())
    });
}

#[test]
fn a_worker_that_is_lost_is_replaced_and_a_keeper_is_not() {
    on_each_engine(|engine| {
        let mut stage = Stage::set(engine)?;
        let dir = stage.dir("worker");
        let running = stage.hold(&dir, &[])?;
        let pid: i32 = stage
            .observer
            .query_one(&format!("SELECT pid {SESSIONS} AND wait_event_type = 'Lock'"), &[])
            .expect("the one that waits")
            .get(0);
        let end = format!("SELECT pg_terminate_backend({pid})");
        stage.observer.batch_execute(&end).expect("its end");
        stage.wait_for(&format!(
            "count(*) FILTER (WHERE wait_event_type = 'Lock' AND pid <> {pid}) = 1"
        ))?;
        stage.unlock();
        let ended = running.ended()?.expect(0).complains_of(&["again, with a new session"]);
        assert!(fence_command::verify_dump(&dir).expect("a dump").damaged.is_empty(), "{ended:?}");

        let dir = stage.dir("keeper");
        let running = stage.hold(&dir, &[])?;
        // It is in a transaction from the beginning, and only says that it is there.
        let end = format!(
            "SELECT 1 / count(pg_terminate_backend(pid))::int {SESSIONS} AND state = 'idle in transaction'"
        );
        stage.observer.batch_execute(&end).expect("its end");
        let place = format!("{HOST}:{}", stage.cluster.catalog_port(stage.node));
        let words = [&*format!("the snapshot of {place}"), "is lost", "hint"];
        running.ended()?.expect(1).complains_of(&words);
        assert!(!dir.exists());
        stage.nothing_is_left()?;
        stage.unlock();
        Ok(())
    });
}

#[test]
fn told_to_stop_or_killed_nothing_is_left() {
    on_each_engine(|engine| {
        let mut stage = Stage::set(engine)?;
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let dir = stage.dir("told");
            // Whoever runs the tests in the background of a script has SIGINT ignored.
            let mut running = stage.hold(&dir, &["env", "--default-signal=TERM,INT,HUP"])?;
            let pid = i32::try_from(running.child().id()).expect("a pid");
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, signal).expect("a signal");
            running.ended()?.expect(1).complains_of(&[&format!("ended by {signal}")]);
            assert!(!dir.exists());
            stage.nothing_is_left()?;
            stage.unlock();
        }

        // In the middle of pg_dump, which does not outlive it either.
        let dir = stage.dir("schema");
        let gate = Gate::new();
        let words = ["--bindir", gate.bindir()];
        let dump = dump_command(stage.cluster.coordinator().port(), &dir, &words);
        let mut other = Command::new("env");
        other.arg("--default-signal=INT").arg(dump.get_program()).args(dump.get_args());
        let mut running = start(&mut other);
        gate.wait(&mut running)?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(running.child().id()).expect("a pid"));
        nix::sys::signal::kill(pid, Signal::SIGINT).expect("a signal");
        running.ended()?.expect(1).complains_of(&["ended by SIGINT"]);
        assert!(!dir.exists());
        let script = gate.bindir().to_owned();
        wait_until("the end of pg_dump", PATIENCE, || (!is_running(&script)).then_some(()))?;
        stage.nothing_is_left()?;

        // Killed: the nodes see for themselves that it is gone, also the session that waits for a lock.
        let dir = stage.dir("killed");
        let mut running = stage.hold(&dir, &[])?;
        running.child().kill().expect("a kill");
        drop(running);
        stage.nothing_is_left()?;
        let error = fence_command::verify_dump(&dir).expect_err("no manifest, so no dump");
        assert!(error.to_string().contains("manifest.json"), "{error}");
        stage.unlock();
        // What it left is in the way of nobody but a dump to the same place.
        let port = stage.cluster.coordinator().port();
        run(&mut dump_command(port, &dir, &[])).expect(2).complains_of(&["is not empty"]);
        run(&mut dump_command(port, &stage.dir("next"), &[])).expect(0);
        Ok(())
    });
}

/// Whether a process has this in its words.
fn is_running(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes.into_iter().any(|process| {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&format!("{word}/pg_dump"))
    })
}

#[test]
fn a_flipped_bit_is_found_and_so_is_a_file_that_is_short_or_missing() {
    on_each_engine(|engine| {
        let stage = Stage::set(engine)?;
        let dir = stage.dir("dump");
        run(&mut dump_command(stage.cluster.coordinator().port(), &dir, &["--roles"])).expect(0);
        let whole = fence_command::verify_dump(&dir).expect("a dump");
        assert_eq!((whole.damaged.len(), whole.files), (0, 4 + 3));
        let dump = fence_command::list_dump(&dir).expect("a dump");
        let paths = dump.files.iter().map(|file| &file.path);
        for path in paths.chain(dump.schema.iter().map(|file| &file.path)) {
            let name = path.display().to_string();
            let path = dir.join(path);
            let good = std::fs::read(&path).expect("the file");
            let middle = good.len() / 2;
            let mut flipped = good.clone();
            flipped[middle] ^= 1;
            for bad in [Some(&flipped[..]), Some(&good[..middle]), None] {
                match bad {
                    Some(bad) => std::fs::write(&path, bad).expect("written"),
                    None => std::fs::remove_file(&path).expect("removed"),
                }
                let damaged = fence_command::verify_dump(&dir).expect("a dump").damaged;
                assert!(damaged.len() == 1 && damaged[0].contains(&name), "{damaged:?}");
            }
            std::fs::write(&path, &good).expect("written");
        }
        assert_eq!(fence_command::verify_dump(&dir).expect("a dump"), whole);
        Ok(())
    });
}

#[test]
fn a_pooler_and_a_node_that_is_not_there_are_refused_before_anything_is_written() {
    on_each_engine(|engine| {
        let stage = Stage::set(engine)?;
        let pooler = Pooler::start(&[stage.cluster.coordinator()], stage.cluster.database())?;
        let dir = stage.dir("pooler");
        let words = ["dump", "-h", HOST, "-p", &pooler.port().to_string(), "-U", SUPERUSER];
        let ended = run(command(&words).args(["-d", "node0"]).arg(&dir)).expect(1);
        ended.complains_of(&["through a pooler", "hint"]);
        // Its own sessions keep the name of whoever came last.
        drop(pooler);
        assert!(!dir.exists());

        let port = stage.cluster.coordinator().port();
        let wrong = format!("1=host={HOST} port={port}");
        let ended = run(&mut dump_command(port, &dir, &["--node", &wrong])).expect(1);
        ended.complains_of(&["group 0", "group 1"]);
        let ended = run(&mut dump_command(port, &dir, &["--node", "7=host=nowhere"])).expect(2);
        ended.complains_of(&["--node 7"]);
        let ended = run(&mut dump_command(port, &dir, &["--node", "1=port=1"])).expect(1);
        ended.complains_of(&["could not connect to", "--node GROUP=CONNINFO"]);
        assert!(!dir.exists());
        stage.nothing_is_left()?;
        // What it is not told, it does not guess.
        let words = ["dump", "-h", HOST, "-p", "1", "-U", SUPERUSER, "-d", "postgres"];
        run(command(&words).arg(&dir)).expect(1);
        assert!(!dir.exists());
        Ok(())
    });
}
