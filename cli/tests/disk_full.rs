//! Disks that are full: nothing is left behind, or what was begun goes on once there is room.

mod common;

use std::fs;
use std::path::Path;

use common::backup::{as_servers_user, backup, finish, manifest, restore_all};
use common::small_disk::SmallDisk;
use common::{Ended, command, run};
use fence_tests::{Bank, on_each_engine};
use test_cluster::{
    Cluster, HOST, Installation, PATIENCE, Result, SUPERUSER, give_tree_to_server_user, wait_until,
};

/// How many kilobytes lie below a directory.
fn kilobytes(path: &Path) -> u64 {
    let output = std::process::Command::new("du").args(["-sk"]).arg(path).output().expect("du");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

fn call(cluster: &Cluster, words: &[&str]) -> Ended {
    let port = cluster.coordinator().port().to_string();
    let mut call = command(&words[..1]);
    call.args(["-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
    run(call.args(&words[1..]))
}

#[test]
fn a_backup_that_finds_no_room_leaves_nothing_and_no_block() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let place = cluster.copy_target("full", 0)?.with_file_name("disk");
        let Some(disk) = SmallDisk::mount(&place, 20_000) else { return Ok(()) };
        let dir = disk.path().join("backup");
        let bindir = Installation::current()?.bindir().display().to_string();
        let words = ["backup", "--bindir", &bindir, &dir.display().to_string()];
        call(&cluster, &words).expect(1).complains_of(&["No space left on device", HOST]);
        assert!(!dir.exists());
        let state = "SELECT state FROM citus_backup_block_status()";
        assert_eq!(cluster.coordinator().query_value(state)?, "inactive");
        disk.resize(2_000_000);
        call(&cluster, &words).expect(0);
        Ok(())
    });
}

#[test]
fn a_restore_that_finds_no_room_goes_on_once_there_is_some() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 20, 1_000)?;
        let dir = backup(&cluster, "full")?;
        let places = cluster.places()?;
        let data = places.nodes()[1].data_dir();
        let copy = kilobytes(&dir.join("nodes/1/data"));
        let Some(disk) = SmallDisk::mount(&data, copy / 2) else { return Ok(()) };
        fs::set_permissions(disk.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("its mode");
        give_tree_to_server_user(disk.path())?;
        let all = || run(&mut restore_all(&dir, &places, &[]));
        // While it is copied, and in the first start.
        all().expect(1).complains_of(&[
            &data.display().to_string(),
            "No space left on device",
            "run the same command again",
        ]);
        let mut in_start = false;
        for more in (0..40_000).step_by(2_000) {
            disk.resize(copy + more);
            let ended = all();
            if ended.code == Some(0) {
                break;
            }
            let ended = ended.expect(1).complains_of(&["No space left on device"]);
            in_start |= ended.err.contains("first start");
        }
        assert!(
            in_start,
            "no first start was met without room: this test shows less than it should"
        );
        all().expect(0);
        disk.resize(1_000_000);
        places.configure()?;
        places.start()?;
        finish(places.nodes()[0].port(), &[]).expect(0);
        let restored = places.into_cluster();
        let audit = bank.audit(&restored, [])?;
        assert!(audit.is_clean(), "{audit}");
        // Its server goes before its disk.
        drop(restored);
        drop(disk);
        Ok(())
    });
}

#[test]
fn a_point_of_which_nothing_could_be_kept_is_told_from_one_that_was_not_made() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .setting("archive_mode", "on")
            .setting("archive_command", "test -n %f")
            .build()?;
        let place = cluster.copy_target("kept", 0)?.with_file_name("disk");
        let Some(disk) = SmallDisk::mount(&place, 4) else { return Ok(()) };
        let dir = disk.path().join("point").display().to_string();
        let points = || -> Result<usize> {
            let log = cluster.coordinator().log();
            Ok(log.matches("restore point \"kept-").count())
        };
        let (mut before, mut after) = (0, 0);
        // With a little more room each time: for nothing, for the configurations, for all.
        for kilobytes in (8..400).step_by(4) {
            disk.resize(kilobytes);
            let made = points()?;
            let ended = call(&cluster, &["restore-point", "kept", "--dir", &dir]);
            if ended.code == Some(0) {
                assert_eq!(manifest(Path::new(&dir))["point"].as_str().map(str::len), Some(21));
                assert!(before > 0 && after > 0, "{before} {after}");
                return Ok(());
            }
            let ended = ended.expect(1).complains_of(&["No space left on device"]);
            assert!(!Path::new(&dir).exists(), "{ended:?}");
            match ended.err.contains("was made, and what `restore all` needs of it was not kept") {
                true => {
                    after += 1;
                    wait_until("the point in the log", PATIENCE, || {
                        points().is_ok_and(|now| now > made).then_some(())
                    })?;
                }
                false => {
                    before += 1;
                    assert_eq!(points()?, made, "{ended:?}");
                }
            }
        }
        panic!("there never was enough room");
    });
}

#[test]
fn a_point_that_is_late_in_an_archive_can_be_restored_to_afterwards() {
    on_each_engine(|engine| {
        let archive = tempfile::tempdir().expect("a folder");
        let path = archive.path().display().to_string();
        let mut builder = Cluster::builder(engine).workers(2).setting("archive_mode", "on");
        for group in 0..3 {
            fs::create_dir(archive.path().join(group.to_string())).expect("a folder");
            // The second one waits for somebody.
            let wait = if group == 1 {
                "test -e '{path}/go' && ".replace("{path}", &path)
            } else {
                String::new()
            };
            let command = format!("{wait}cp %p {path}/{group}/%f");
            builder = builder.node_setting(group, "archive_command", &command);
        }
        fs::set_permissions(archive.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        give_tree_to_server_user(archive.path())?;
        let cluster = builder.build()?;
        let bank = Bank::create(&cluster, 20, 1_000)?;
        let copies = backup(&cluster, "copies")?;
        let dir = cluster.copy_target("late", 0)?.with_file_name("point");
        let words = ["restore-point", "late", "--archived-within", "1s", "--dir"];
        let port = cluster.coordinator().port().to_string();
        let mut point = as_servers_user(&words);
        point.arg(&dir).args(["-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
        let worker = format!("{HOST}:{}", cluster.catalog_port(1));
        run(&mut point).expect(1).complains_of(&[
            "is on all nodes, and not known to be in every archive",
            &worker,
            &format!("{} has what `restore all` needs", dir.display()),
        ]);
        fs::write(archive.path().join("go"), "").expect("a file");
        let places = cluster.places()?;
        for (group, node) in places.nodes().iter().enumerate() {
            fs::rename(copies.join(format!("nodes/{group}/data")), node.data_dir())
                .expect("a place");
        }
        let command = format!("cp {path}/{{groupid}}/%f %p");
        wait_until("the archive", PATIENCE, || {
            let ended = run(&mut restore_all(&dir, &places, &["--restore-command", &command]));
            (ended.code == Some(0)).then_some(())
        })?;
        places.configure()?;
        places.start()?;
        finish(places.nodes()[0].port(), &[]).expect(0);
        let audit = bank.audit(&places.into_cluster(), [])?;
        assert!(audit.is_clean(), "{audit}");

        // What the server refuses to make is no point.
        let role = "CREATE ROLE maker LOGIN; GRANT pg_monitor TO maker;
            GRANT EXECUTE ON FUNCTION pg_switch_wal(), citus_backup_block_start(int, text), \
            citus_backup_block_stop(bigint), citus_backup_block_extend(bigint, int), \
            citus_backup_block_nodes() TO maker";
        cluster.coordinator().execute(role)?;
        for worker in cluster.workers() {
            if engine == test_cluster::Engine::Embedded {
                worker.execute("CREATE ROLE maker LOGIN")?;
            }
            worker.execute("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO maker")?;
        }
        let words =
            ["restore-point", "-h", HOST, "-p", &port, "-U", "maker", "-d", "postgres", "none"];
        run(&mut common::command(&words)).expect(1).complains_of(&[
            "must not be used",
            "permission denied",
            "make another one",
        ]);
        Ok(())
    });
}
