//! `citus-fence restore all` killed at every step that it writes down, and run again; and copies that are refused, which
//! stay refused.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::backup::{backup, backup_mapped, finish, manifest, restore_all, write_manifest};
use common::{run, start};
use fence_tests::{Bank, on_each_engine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{Cluster, PATIENCE, Result, give_tree_to_server_user, wait_until};

type Shows = fn(&Path) -> bool;

/// What is on disk of a step, and how it shows. Each is met once at the least.
const STEPS: [(&str, Shows); 7] = [
    ("being copied", |data| stage(data) == "copying" && data.join("base").is_dir()),
    ("copied", |data| stage(data) == "copied" && !data.join("postmaster.pid").exists()),
    ("recovering", |data| stage(data) == "copied" && data.join("postmaster.pid").exists()),
    ("at the point", |data| stage(data) == "reached"),
    ("about to be promoted", |data| stage(data) == "promoting" && !is_promoted(data)),
    ("promoted", |data| stage(data) == "promoting" && is_promoted(data)),
    // What is found is written down right before it is changed.
    ("being rewritten", |data| stage(data) == "promoting" && text(data).contains("subscription")),
];

fn text(data: &Path) -> String {
    fs::read_to_string(data.join("citus_fence.restore")).unwrap_or_default()
}

fn stage(data: &Path) -> String {
    let progress: serde_json::Value = serde_json::from_str(&text(data)).unwrap_or_default();
    progress["stage"].as_str().unwrap_or_default().to_owned()
}

fn is_promoted(data: &Path) -> bool {
    data.join("pg_wal/00000002.history").exists()
}

#[test]
fn killed_at_every_step_it_goes_on() {
    on_each_engine(|engine| {
        let archive = tempfile::tempdir().expect("a folder");
        let path = archive.path().display().to_string();
        let mut builder = Cluster::builder(engine).workers(2).setting("archive_mode", "on");
        for group in 0..3 {
            fs::create_dir(archive.path().join(group.to_string())).expect("a folder");
            let command = format!("cp %p {path}/{group}/%f");
            builder = builder.node_setting(group, "archive_command", &command);
        }
        fs::set_permissions(archive.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        give_tree_to_server_user(archive.path())?;
        let cluster = builder.build()?;
        let bank = Bank::create(&cluster, 30, 1_000)?;
        let follower = cluster.worker(2);
        follower.execute(
            "CREATE SUBSCRIPTION follows CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)",
        )?;
        let dir = backup(&cluster, "steps")?;
        let writers = bank.start_writers(&cluster, 1)?;
        writers.wait_for_more(20, PATIENCE)?;
        let began = Instant::now();
        let coordinator = cluster.coordinator();
        coordinator.query("SELECT citus_block_writes_for_backup()")?;
        coordinator.query("SELECT * FROM citus_backup_restore_point('here')")?;
        coordinator.query("SELECT citus_unblock_writes_for_backup()")?;
        writers.wait_for_more(20, PATIENCE)?;
        let summary = writers.stop();
        for node in cluster.nodes() {
            let segment = node.query_value("SELECT pg_walfile_name(pg_switch_wal())")?;
            let done = node.data_dir().join(format!("pg_wal/archive_status/{segment}.done"));
            wait_until("the archive", PATIENCE, || done.exists().then_some(()))?;
        }

        let places = cluster.places()?;
        // An archive that takes its time gives each step some.
        let command = format!("sleep 0.1; cp {path}/{{groupid}}/%f %p");
        let all =
            || restore_all(&dir, &places, &["--point", "here", "--restore-command", &command]);
        for (step, shows) in STEPS {
            let mut running = start(&mut all());
            // More often than a wait looks: some of the steps are over in a few milliseconds.
            let until = Instant::now() + PATIENCE;
            let met = loop {
                if places.nodes().iter().any(|node| shows(&node.data_dir())) {
                    break true;
                }
                if running.child().try_wait().expect("a child").is_some() {
                    break false;
                }
                assert!(Instant::now() < until, "waited in vain for one that is {step}");
                std::thread::sleep(Duration::from_millis(1));
            };
            assert!(met, "it ended without having been {step}: {:?}", running.ended()?);
            let pid = Pid::from_raw(i32::try_from(running.child().id()).expect("a pid"));
            kill(pid, Signal::SIGKILL).expect("a signal");
            running.ended()?;
        }
        run(&mut all()).expect(0);
        // Nothing of any first start is left.
        for node in places.nodes() {
            assert!(!node.data_dir().join("recovery.signal").exists());
            assert!(text(&node.data_dir()).contains("\"private\":null"));
        }
        places.configure()?;
        places.start()?;
        // And once more afterwards, which changes nothing of a node that runs.
        run(&mut all()).expect(1).complains_of(&["something answers"]);
        let restored = places.into_cluster();
        // Killed in the middle, or run twice, `finish` is the same.
        let port = restored.coordinator().port();
        finish(port, &[]).expect(0);
        finish(port, &[]).expect(0);
        let audit = bank.audit(&restored, summary.transfers_before(began))?;
        assert!(audit.is_clean(), "{audit}");
        assert!(audit.transfers < summary.transfers().count(), "what came later is not there");
        Ok(())
    });
}

#[test]
fn a_copy_that_goes_beyond_the_block_is_refused_however_often_it_is_tried() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("CREATE TABLE later (n int)").expect("a table");
        // One that began under the block, and went on after it: what it has of later is in its WAL.
        let slowly = |_: &Path, group| match group {
            0 => vec!["--max-rate=8M".to_owned()],
            _ => Vec::new(),
        };
        let stop = std::sync::atomic::AtomicBool::new(false);
        let dir: Result<_> = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.batch_execute("INSERT INTO later VALUES (1)").expect("a row");
                }
            });
            let dir = backup_mapped(&cluster, "beyond", &slowly);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            dir
        });
        let dir = dir?;
        let right = manifest(&dir);
        let mut late = right.clone();
        late["nodes"][0]["data"] = serde_json::Value::Null;
        // The block ended, as it says, before the copy did: right after its own beginning.
        let label = dir.join("nodes/0/data/backup_label");
        let label = fs::read_to_string(label).expect("a label");
        let begun = label.split_whitespace().nth(3).expect("a position").to_owned();
        let (high, low) = begun.split_once('/').expect("a position");
        let low = u64::from_str_radix(low, 16).expect("a number") + 0x2000;
        late["nodes"][0]["held_until"] = format!("{high}/{low:X}").into();
        write_manifest(&dir, &late);
        let places = cluster.places()?;
        let bring = || -> Result<()> {
            let data = places.nodes()[0].data_dir();
            let _ = fs::remove_dir_all(&data);
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .arg(dir.join("nodes/0/data"))
                .arg(&data)
                .status();
            assert!(copied.expect("cp").success());
            give_tree_to_server_user(&data)
        };
        bring()?;
        let all = || run(&mut restore_all(&dir, &places, &[]));
        all().expect(1).complains_of(&["node 0", "made later than the others"]);
        // Its recovery has ended now: what it had brought along is not told from what it has written since.
        for _ in 0..2 {
            all().expect(1).complains_of(&["node 0", "its recovery has ended before"]);
        }
        let _ = fs::remove_dir_all(places.nodes()[0].data_dir());
        let _ = fs::remove_dir_all(places.nodes()[1].data_dir());
        // The control: one that is known to be in time is taken.
        late["nodes"][0]["held_until"] = "FFFF/0".into();
        write_manifest(&dir, &late);
        bring()?;
        all().expect(0);
        Ok(())
    });
}
