//! `citus-fence verify --full`: a backup is restored to a temporary place and looked at; nothing is left, nothing of the
//! backup is changed and nothing of production's is reached.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::backup::{Listeners, as_servers_user, backup, manifest, restore_all, write_manifest};
use common::small_disk::SmallDisk;
use common::{Ended, Running, dump_command, run, start, through};
use fence_tests::{Bank, on_each_engine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{
    Cluster, Engine, Installation, PATIENCE, Result, StopMode, give_tree_to_server_user,
    run_as_server_user, wait_until,
};

/// A directory of the servers' user, with a short path, whose temporary directories are counted.
struct Temp(tempfile::TempDir);

impl Temp {
    fn new() -> Result<Temp> {
        let folder = tempfile::Builder::new().prefix("vf").tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        give_tree_to_server_user(folder.path())?;
        Ok(Temp(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What is there.
    fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path()).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Where the copies of a run are that is under way.
    fn copies(&self) -> Option<PathBuf> {
        let is_one = |path: &PathBuf| path.to_string_lossy().contains("citus-fence-verify-");
        self.entries().into_iter().find(is_one)
    }

    /// The servers whose data is here.
    fn servers(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").expect("processes").flatten();
        let is_here =
            |path: PathBuf| fs::read_link(path).is_ok_and(|at| at.starts_with(self.path()));
        entries
            .filter(|entry| is_here(entry.path().join("cwd")))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Fails if anything is left.
    fn must_be_empty(&self) {
        assert!(self.entries().is_empty(), "{:?}", self.entries());
        assert!(self.servers().is_empty(), "{:?}", self.servers());
    }
}

fn verify_command(dir: &Path, temp: &Temp, more: &[&str]) -> Command {
    let bindir = Installation::current().expect("PostgreSQL").bindir().display().to_string();
    let mut command = as_servers_user(&["verify", "--full", "--bindir", &bindir]);
    command.env("TMPDIR", temp.path()).arg(dir).args(more);
    command
}

fn verify(dir: &Path, temp: &Temp, more: &[&str]) -> Ended {
    run(&mut verify_command(dir, temp, more))
}

/// Every file below a directory: its size, its mode, when it was changed.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("its metadata");
            let (changed, part) = (metadata.ctime(), metadata.ctime_nsec());
            all.insert(path.clone(), (metadata.len(), metadata.mode(), changed, part));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    all
}

/// Leaves on worker 1 one two-phase commit of the coordinator's that was decided, and one that was not.
fn leave_prepared(cluster: &Cluster) -> Result<()> {
    let worker = cluster.worker(1);
    worker.execute("CREATE TABLE marks (mark int)")?;
    for (mark, gid) in [(1, "citus_0_4000001_1_1"), (2, "citus_0_4000001_2_1")] {
        worker.psql(&format!(
            "BEGIN; INSERT INTO marks VALUES ({mark}); PREPARE TRANSACTION '{gid}';"
        ))?;
    }
    cluster
        .coordinator()
        .execute("INSERT INTO pg_dist_transaction (groupid, gid) VALUES (1, 'citus_0_4000001_1_1')")
}

#[test]
fn a_whole_backup_is_restored_for_the_test_and_nothing_of_it_is_left() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.recover_2pc_interval", "1h")
            .build()?;
        let _bank = Bank::create(&cluster, 20, 1_000)?;
        leave_prepared(&cluster)?;
        // What production has by ALTER SYSTEM, and for its roles, must not count: it would listen, archive and connect.
        let worker = cluster.worker(2);
        worker.execute("ALTER SYSTEM SET archive_command = 'false'")?;
        let outside = Temp::new()?;
        let location = outside.path().join("space");
        fs::create_dir(&location).expect("a directory");
        give_tree_to_server_user(&location)?;
        worker.psql(&format!("CREATE TABLESPACE far LOCATION '{}';", location.display()))?;
        worker.execute("CREATE TABLE far TABLESPACE far AS SELECT generate_series(1, 9)")?;
        let dir = backup(&cluster, "whole")?;
        let before = picture(&dir);
        let far = picture(&location);
        for node in cluster.nodes() {
            node.stop(StopMode::Fast)?;
        }
        let listeners = Listeners::at(cluster.nodes().iter().map(test_cluster::Server::port));

        let temp = Temp::new()?;
        let mut command = verify_command(&dir, &temp, &[]);
        // Where whoever calls it usually connects to.
        let own = cluster.coordinator().port().to_string();
        command.env("PGHOST", test_cluster::HOST).env("PGPORT", &own);
        command.env("PGHOSTADDR", test_cluster::HOST).env("PGOPTIONS", "-c nonsense=1");
        let ended = run(&mut command).expect(0);
        for words in ["3 copies read", "2 two-phase commits finished", "0 findings on 3 nodes"] {
            assert!(ended.out.contains(words), "{words}: {ended:?}");
        }
        assert!(ended.err.contains("needed") && ended.err.contains("free"), "{ended:?}");
        temp.must_be_empty();
        let json = verify(&dir, &temp, &["--json"]).expect(0);
        let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
        assert_eq!(json["full"]["nodes"], 3, "{json}");
        assert_eq!(json["full"]["recovered"], 2, "{json}");
        assert_eq!(json["full"]["findings"], serde_json::json!([]), "{json}");
        assert!(json["full"]["bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{json}");
        temp.must_be_empty();
        assert_eq!(picture(&dir), before, "a backup is only read");
        assert_eq!(picture(&location), far, "production's tablespace is nobody's to write to");
        assert_eq!(listeners.connections(), 0);
        Ok(())
    });
}

#[test]
fn what_a_restore_would_find_is_found_and_named_as_the_backup_names_it() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let worker = cluster.worker(1);
        worker.execute("CREATE TABLE mine (id int); CREATE INDEX mine_id ON mine (id)")?;
        worker.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine_id'::regclass",
        )?;
        // A copy of what is read-only has to take the writes of its restore.
        cluster.worker(2).execute("SELECT alter_system_read_only()")?;
        let dir = backup(&cluster, "found")?;
        let temp = Temp::new()?;
        let ended = verify(&dir, &temp, &[]).expect(3);
        let place = format!("127.0.0.1:{} (group 1)", cluster.catalog_port(1));
        assert!(ended.out.contains("mine_id is invalid"), "{ended:?}");
        assert!(ended.out.contains(&place) && !ended.out.contains("/citus-fence-"), "{ended:?}");
        temp.must_be_empty();

        // Its WAL lacks what the block had asked for: checksums cannot tell.
        let kept = manifest(&dir);
        let mut ahead = kept.clone();
        ahead["nodes"][1]["wal_lsn"] = "FF/0".into();
        write_manifest(&dir, &ahead);
        verify(&dir, &temp, &[]).expect(1).complains_of(&["before the block of the backup began"]);
        temp.must_be_empty();
        // Copies that another tool keeps.
        let mut elsewhere = kept.clone();
        elsewhere["nodes"][1]["data"] = serde_json::Value::Null;
        elsewhere["nodes"][1]["tool"] = "pgbackrest backup".into();
        write_manifest(&dir, &elsewhere);
        verify(&dir, &temp, &[]).expect(1).complains_of(&[
            "(group 1)",
            "kept by pgbackrest",
            "restore all",
        ]);
        write_manifest(&dir, &kept);
        // Programs of another version, or none.
        let version = dir.join("nodes/2/data/PG_VERSION");
        let own = fs::read(&version).expect("a version");
        fs::write(&version, "9\n").expect("another version");
        verify(&dir, &temp, &[]).expect(1).complains_of(&["is of PostgreSQL 9", "--bindir"]);
        fs::write(&version, own).expect("the version");
        let mut nowhere = as_servers_user(&["verify", "--full", "--bindir", "/nonexistent"]);
        run(nowhere.arg(&dir)).expect(1).complains_of(&["--bindir"]);
        // As root nothing is begun.
        if nix::unistd::geteuid().is_root() {
            let mut as_root = common::command(&["verify", "--full"]);
            run(as_root.arg(&dir)).expect(1).complains_of(&["cannot run as root"]);
        }
        let dump = temp.path().join("dump");
        run(&mut dump_command(cluster.coordinator().port(), &dump, &[])).expect(3);
        give_tree_to_server_user(&dump)?;
        verify(&dump, &temp, &[]).expect(2).complains_of(&["holds a dump", "restore-dump"]);
        Ok(())
    });
}

#[test]
fn where_there_is_no_room_nothing_is_begun() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "room")?;
        let temp = Temp::new()?;
        let Some(disk) = SmallDisk::mount(&temp.path().join("disk"), 20_000) else { return Ok(()) };
        let at = disk.path().display().to_string();
        let refused = verify(&dir, &temp, &["--temp-dir", &at]).expect(1);
        refused.complains_of(&["free", "needs", "--temp-dir", &at]);
        // That is known before the backup is read, which takes its time, too.
        let file = dir.join("nodes/1/data/PG_VERSION");
        let own = fs::read(&file).expect("a file");
        fs::write(&file, [&own[..], b"\n"].concat()).expect("a damaged file");
        verify(&dir, &temp, &["--temp-dir", &at]).expect(1).complains_of(&["free", "needs"]);
        fs::write(&file, own).expect("the file as it was");
        assert_eq!(fs::read_dir(disk.path()).expect("a disk").count(), 0);
        disk.resize(2_000_000);
        verify(&dir, &temp, &["--temp-dir", &at]).expect(0);
        assert_eq!(fs::read_dir(disk.path()).expect("a disk").count(), 0);
        Ok(())
    });
}

/// Waits until as many servers run there.
fn await_servers(running: &mut Running, temp: &Temp, dirs: usize) -> Result<()> {
    wait_until("servers", PATIENCE, || {
        let over = running.child().try_wait().expect("its state");
        assert!(over.is_none(), "it has ended: {over:?}");
        let nodes = temp.copies()?.join("nodes");
        let pids = fs::read_dir(nodes).ok()?.flatten();
        let started = pids.filter(|node| node.path().join("data/postmaster.pid").exists());
        (started.count() >= dirs).then_some(())
    })
}

#[test]
fn told_to_stop_it_leaves_nothing_and_killed_the_next_one_clears_up() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let _bank = Bank::create(&cluster, 20, 1_000)?;
        let dir = backup(&cluster, "stopped")?;
        let temp = Temp::new()?;
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // Whoever runs the tests in the background of a script has SIGINT ignored, and so would the command.
            let heeding = ["env", "--default-signal=TERM,INT,HUP"];
            let mut heeding = through(&heeding, &verify_command(&dir, &temp, &[]));
            run_as_server_user(&mut heeding)?;
            let mut running = start(&mut heeding);
            match signal {
                // While files are copied, and while servers run.
                Signal::SIGINT => wait_until("copies", PATIENCE, || temp.copies())?,
                _ => {
                    await_servers(&mut running, &temp, 1)?;
                    PathBuf::new()
                }
            };
            let pid = i32::try_from(running.child().id()).expect("a process");
            kill(Pid::from_raw(pid), signal).expect("it runs");
            running.ended()?.expect(1).complains_of(&[signal.as_str()]);
            temp.must_be_empty();
        }

        // Among copies, with Citus.
        let mut running = start(&mut verify_command(&dir, &temp, &[]));
        wait_until("a server among the others", PATIENCE, || {
            let over = running.child().try_wait().expect("its state");
            assert!(over.is_none(), "it has ended: {over:?}");
            let sockets = temp.entries().into_iter();
            sockets.map(|path| path.join(".s.PGSQL.5433")).find(|path| path.exists())
        })?;
        running.child().kill().expect("it runs");
        running.ended()?;
        assert!(!temp.servers().is_empty(), "no server was left, so this shows nothing");
        verify(&dir, &temp, &[]).expect(0);
        temp.must_be_empty();

        let mut running = start(&mut verify_command(&dir, &temp, &[]));
        await_servers(&mut running, &temp, 1)?;
        running.child().kill().expect("it runs");
        running.ended()?;
        let left = temp.copies().expect("what was left").display().to_string();
        // One that is under way is nobody's to take away.
        let locked = temp.path().join("citus-fence-verify-locked");
        fs::create_dir(&locked).expect("a directory");
        fs::write(locked.join("citus_fence.verify"), r#"{"sockets": "/nonexistent"}"#)
            .expect("a file");
        give_tree_to_server_user(&locked)?;
        let held = fs::File::open(&locked).expect("a directory");
        let held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusiveNonblock);
        let held = held.expect("a lock");
        let next = verify(&dir, &temp, &[]).expect(0);
        assert!(next.err.contains(&left) && next.err.contains("killed"), "{next:?}");
        assert_eq!(temp.entries(), std::slice::from_ref(&locked));
        drop(held);
        // Killed before it had written anything, or while it did; somebody else's of such a name stays.
        for (name, file) in [("a", None), ("b", Some(".citus_fence.draft.x")), ("c", Some("else"))]
        {
            let left = temp.path().join(format!("citus-fence-verify-{name}"));
            fs::create_dir(&left).expect("a directory");
            if let Some(file) = file {
                fs::write(left.join(file), "").expect("a file");
            }
            give_tree_to_server_user(&left)?;
        }
        verify(&dir, &temp, &[]).expect(0);
        let elses = temp.path().join("citus-fence-verify-c");
        assert_eq!(temp.entries(), std::slice::from_ref(&elses));
        fs::remove_dir_all(&elses).expect("its end");
        temp.must_be_empty();
        // What is left of it is a backup that is as good as before.
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        if engine == Engine::Citus {
            assert!(manifest(&dir)["citus"].is_string());
        }
        Ok(())
    });
}
