//! No room for a dump, and a node that stops in the middle of one.

mod common;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::{Gate, dump_command, run, start, through};
use fence_tests::{Cluster, PATIENCE, Result, on_each_engine};
use test_cluster::{HOST, Signal, wait_for_sql};

fn create(engine: fence_tests::Engine) -> Result<Cluster> {
    let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
    // A schema of more than two blocks, whose end is in the third.
    for number in 0..20 {
        let sql = format!(
            "CREATE TABLE plain{number} (id int PRIMARY KEY, some_long_name_of_a_column text)"
        );
        cluster.coordinator().execute(&sql)?;
    }
    cluster.create_distributed("CREATE TABLE t (id bigint, v text)", "t", "id", 4)?;
    for id in 1..=40 {
        let sql =
            format!("INSERT INTO %s SELECT {id}, md5('{id} ' || n) FROM generate_series(1, 300) n");
        cluster.coordinator().execute(&cluster.shard_sql("t", id, &sql))?;
    }
    Ok(cluster)
}

/// Runs a command in a file system of its own below a folder, of so many kilobytes. None where that may not be made.
fn in_small_room(of: &Command, folder: &std::path::Path, kilobytes: u32) -> Option<common::Ended> {
    let script = format!(
        "mount -t tmpfs -o size={kilobytes}k none '{0}' || exit 77; \"$@\"; code=$?; ls '{0}' >&2; exit $code",
        folder.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user", "sh", "-c", &script, "sh"]);
    command.arg(of.get_program()).args(of.get_args());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C");
    let ended = run(&mut command);
    let is_denied = ended.code == Some(77) || ended.err.contains("unshare:");
    (!is_denied).then_some(ended)
}

#[test]
fn a_full_disk_is_told_by_the_name_of_the_file_and_nothing_stays() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        let port = cluster.coordinator().port();
        let folder = tempfile::tempdir().expect("a folder");
        let room = folder.path().join("room");
        std::fs::create_dir(&room).expect("a folder");
        let dir = room.join("dump");
        // In the data, with compression and without, and in the schema.
        for (words, kilobytes, file) in [
            (&["--compress", "none"][..], 200, "data/public.t."),
            (&[], 150, "data/public.t."),
            (&["--jobs", "4"], 150, "data/public.t."),
            // What is cut off is less than a buffer of the program's.
            (&["-s"], 4, "schema"),
            (&["-s"], 8, "schema"),
        ] {
            let dump = dump_command(port, &dir, words);
            let Some(ended) = in_small_room(&dump, &room, kilobytes) else {
                // Past the capture of the test runner.
                let _ =
                    writeln!(std::io::stderr(), "skipped: a full disk, as none can be made here");
                return Ok(());
            };
            println!("{engine} {words:?} {kilobytes}: {}", ended.err);
            let ended = ended.expect(1).complains_of(&[file, "No space left on device"]);
            let left = ended.err.lines().any(|line| line == "dump");
            assert!(!left, "something is left: {ended:?}");
        }
        // The control: with room it is whole.
        let ended = in_small_room(&dump_command(port, &dir, &[]), &room, 20_000).expect("a room");
        let ended = ended.expect(0);
        assert!(ended.err.lines().any(|line| line == "dump"), "{ended:?}");
        Ok(())
    });
}

/// Who may write into a directory need not be able to read the one above it.
#[test]
fn a_dump_is_kept_where_the_directory_above_cannot_be_read() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        let port = cluster.coordinator().port();
        let folder = tempfile::tempdir().expect("a folder");
        let above = folder.path().join("above");
        let dir = above.join("dump");
        std::fs::create_dir_all(&dir).expect("a folder");
        let only_through = std::fs::Permissions::from_mode(0o311);
        std::fs::set_permissions(&above, only_through).expect("its mode");
        // Without the privileges of a superuser, whoever runs this.
        let words = ["unshare", "--user"];
        let ended = run(&mut through(&words, &dump_command(port, &dir, &[])));
        if ended.err.contains("unshare") {
            let _ = writeln!(std::io::stderr(), "skipped: no user namespace can be made here");
            return Ok(());
        }
        let ended = ended.expect(0);
        assert!(dir.join("manifest.json").exists(), "{ended:?}");
        // One that has to be made there is refused before anything is done.
        let ended = run(&mut through(&words, &dump_command(port, &above.join("new"), &[])));
        ended.expect(1).complains_of(&["sync", "Permission denied"]);
        assert!(!above.join("new").exists());
        Ok(())
    });
}

#[test]
fn a_node_that_stops_is_named() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        let folder = tempfile::tempdir().expect("a folder");
        for (number, signal) in [Signal::SIGINT, Signal::SIGQUIT].into_iter().enumerate() {
            let dir = folder.path().join(format!("dump{number}"));
            let gate = Gate::new();
            let words = ["--bindir", gate.bindir()];
            let mut running = start(&mut dump_command(cluster.coordinator().port(), &dir, &words));
            gate.wait(&mut running)?;
            let node = cluster.worker(2);
            node.kill_postmaster(signal)?;
            node.await_end("it was asked to stop")?;
            gate.open();
            let place = format!("the snapshot of {HOST}:{}", node.port());
            let ended = running.ended()?.expect(1);
            ended.complains_of(&[&place, "is lost", "Nothing is kept of this dump"]);
            assert!(!dir.exists());
            node.start()?;
            let none =
                "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'citus-fence'";
            for node in cluster.nodes() {
                wait_for_sql(&mut node.connect()?, none, PATIENCE)?;
            }
        }
        run(&mut dump_command(cluster.coordinator().port(), &folder.path().join("last"), &[]))
            .expect(0);
        Ok(())
    });
}

/// A role's time-outs end neither a keeper nor a worker that waits.
#[test]
fn time_outs_of_roles_end_no_dump() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        cluster.execute_everywhere(
            "SET citus.enable_ddl_propagation = off; ALTER ROLE postgres SET statement_timeout = '700ms'; \
             ALTER ROLE postgres SET lock_timeout = '300ms'; \
             ALTER ROLE postgres SET idle_in_transaction_session_timeout = '300ms'",
        )?;
        let placements = cluster.placements("t")?;
        let placement = placements.iter().find(|one| one.node != 0).expect("a shard on a worker");
        let mut client = cluster.connect(placement.node)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let gate = Gate::new();
        let words = ["--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(cluster.coordinator().port(), &dir, &words));
        gate.wait(&mut running)?;
        client
            .batch_execute(&format!(
                "SET citus.override_table_visibility = off; SET citus.enable_manual_changes_to_shards = on;
                 SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0;
                 BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
                placement.table
            ))
            .expect("a lock");
        gate.open();
        // Longer than any of them.
        let waits = "SELECT count(*) = 1 FROM pg_stat_activity
              WHERE application_name = 'citus-fence' AND wait_event_type = 'Lock' AND now() - query_start > '1.5 s'";
        let mut observer = cluster.connect(placement.node)?;
        wait_for_sql(&mut observer, waits, PATIENCE)?;
        client.batch_execute("COMMIT").expect("the lock's end");
        running.ended()?.expect(0);
        // The control.
        assert!(cluster.coordinator().execute("SELECT pg_sleep(2)").is_err());
        Ok(())
    });
}
