//! What `citus-fence restore all` takes for a place and for a copy, and what it refuses, on every engine.

mod common;

use std::fs;
use std::process::Command;

use common::backup::{
    as_servers_user, backup, backup_mapped, finish, manifest, restore_all, write_manifest,
};
use common::{run, start};
use fence_tests::on_each_engine;
use test_cluster::{Bank, Cluster, HOST, PATIENCE, Result, give_tree_to_server_user, wait_until};

#[test]
fn what_is_no_place_or_no_copy_is_refused() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "refused")?;
        let places = cluster.places()?;
        // What is done to the backup here would be found by its checksums first.
        let all = |more: &[&str]| run(restore_all(&dir, &places, more).arg("--no-verify"));

        if is_root() {
            let mut words =
                vec!["restore".to_owned(), "all".into(), dir.display().to_string(), "--to".into()];
            words.push("0=h:1,/d".into());
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            run(&mut common::command(&words))
                .expect(1)
                .complains_of(&["cannot run as root", "sudo -u postgres"]);
        }
        let one = format!("0={HOST}:1,/dev/shm/nowhere");
        let words = ["restore", "all", &dir.display().to_string(), "--to", &one];
        run(&mut as_servers_user(&words)).expect(2).complains_of(&["node 1", "--without 1"]);

        // Where the sockets of first starts would be, there is no place for them: that is found before anything is copied.
        for place in ["/nonexistent", &format!("/tmp/{}", "x".repeat(120))] {
            run(restore_all(&dir, &places, &["--no-verify"]).env("TMPDIR", place))
                .expect(2)
                .complains_of(&["TMPDIR"]);
            assert!(!places.nodes()[0].data_dir().exists());
        }
        // Somebody answers at an address.
        let squatter =
            std::net::TcpListener::bind((HOST, places.nodes()[1].port())).expect("a port");
        all(&[]).expect(1).complains_of(&["node 1", "something answers"]);
        drop(squatter);
        // Something is there.
        let data = places.nodes()[0].data_dir();
        fs::create_dir(&data).expect("a directory");
        fs::write(data.join("precious"), "x").expect("a file");
        all(&[]).expect(1).complains_of(&["node 0", "is not empty"]);
        assert!(data.join("precious").is_file());
        let clear = || {
            for node in places.nodes() {
                let _ = fs::remove_dir_all(node.data_dir());
            }
        };
        clear();
        // Another cluster's copy.
        let right = manifest(&dir);
        let mut wrong = right.clone();
        wrong["nodes"][1]["system_identifier"] = "7".into();
        write_manifest(&dir, &wrong);
        all(&[]).expect(1).complains_of(&["node 1", "is a copy of another server"]);
        write_manifest(&dir, &right);
        all(&[]).expect(1).complains_of(&["belongs to another restore"]);
        clear();
        // The other node's copy, of the right cluster.
        let mut swapped = right.clone();
        for (node, other) in [(0, 1), (1, 0)] {
            for field in ["data", "system_identifier"] {
                swapped["nodes"][node][field] = right["nodes"][other][field].clone();
            }
        }
        write_manifest(&dir, &swapped);
        all(&[]).expect(1).complains_of(&["is a copy of node"]);
        write_manifest(&dir, &right);
        clear();
        // A link that leads out.
        let link = dir.join("nodes/1/data/pg_tblspc/12345");
        std::os::unix::fs::symlink(cluster.worker(1).data_dir(), &link).expect("a link");
        all(&[]).expect(1).complains_of(&["node 1", "pg_tblspc/12345", "--tablespace 1:"]);
        fs::remove_file(&link).expect("it was there");
        clear();
        // A copy that ends before the block.
        let mut early = right.clone();
        early["nodes"][1]["wal_lsn"] = "FF/0".into();
        write_manifest(&dir, &early);
        all(&[]).expect(1).complains_of(&["node 1", "before the block of the backup began"]);
        write_manifest(&dir, &right);
        clear();

        // A database that the copies do not have, and no superuser, are two things.
        let mut other = right.clone();
        other["database"] = "no_such".into();
        write_manifest(&dir, &other);
        all(&[]).expect(1).complains_of(&["database \"no_such\" of the copy", "does not exist"]);
        write_manifest(&dir, &right);
        clear();
        all(&["--superuser", "nobody"]).expect(1).complains_of(&[
            "no superuser of the copy is known",
            "role \"nobody\" does not exist",
            "--superuser",
        ]);
        clear();

        // Told to stop, here while an archive does not answer: it ends, and the servers of the first start with it.
        let never = ["--point", "never", "--restore-command", "sleep 600"];
        let mut running = start(&mut restore_all(&dir, &places, &never));
        let pid_file = data.join("postmaster.pid");
        wait_until("a first start", PATIENCE, || pid_file.exists().then_some(()))?;
        let pid = i32::try_from(running.child().id()).expect("a pid");
        send(pid, "TERM");
        running.ended()?.expect(1).complains_of(&["ended by SIGTERM"]);
        assert!(!pid_file.exists(), "its servers have ended with it");
        clear();
        all(&[]).expect(0);
        // A second time there is nothing left to do, and while it runs it is refused.
        all(&[]).expect(0);
        places.configure()?;
        places.nodes()[0].set_while_stopped("port", "1")?;
        places.nodes()[0].set_while_stopped("listen_addresses", "")?;
        places.nodes()[0].start()?;
        all(&[]).expect(1).complains_of(&["node 0", "a server runs on"]);
        Ok(())
    });
}

/// A copy that another tool has brought to its place, as a snapshot of the disk: it says where its source runs.
#[test]
fn a_changed_bit_is_found_before_anything_is_made() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "bit")?;
        let places = cluster.places()?;
        let refused = |words: &[&str]| {
            run(&mut restore_all(&dir, &places, &[])).expect(1).complains_of(words);
            for node in places.nodes() {
                assert!(!node.data_dir().exists(), "something was made");
            }
        };
        let flip = |path: &std::path::Path, at: usize| {
            let mut bytes = fs::read(path).expect("a file");
            bytes[at] ^= 1;
            fs::write(path, bytes).expect("a file");
        };
        let data = dir.join("nodes/1/data/global/pg_control");
        flip(&data, 300);
        refused(&["group 1", "pg_control", "checksum mismatch"]);
        flip(&data, 300);
        let path = dir.join("manifest.json");
        let text = fs::read_to_string(&path).expect("a manifest");
        let at = text.find("\"wal_lsn\": \"0/").expect("a position") + "\"wal_lsn\": \"0/".len();
        flip(&path, at);
        refused(&["not what was written"]);
        flip(&path, at);
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        Ok(())
    });
}

#[test]
fn a_copy_of_another_tools_is_taken_where_it_is() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 20, 100)?;
        let dir = backup(&cluster, "tool")?;
        let places = cluster.places()?;
        let mut manifest = manifest(&dir);
        for (group, node) in places.nodes().iter().enumerate() {
            manifest["nodes"][group]["data"] = serde_json::Value::Null;
            manifest["nodes"][group]["tool"] = "a snapshot".into();
            // Production runs on: the copy has its postmaster.pid, with a process that is alive.
            cluster.node(group).copy_files(&node.data_dir())?;
            give_tree_to_server_user(&node.data_dir())?;
            let pid = cluster.node(group).data_dir().join("postmaster.pid");
            fs::copy(pid, node.data_dir().join("postmaster.pid")).expect("a file");
            give_tree_to_server_user(&node.data_dir())?;
        }
        write_manifest(&dir, &manifest);
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        assert!(cluster.nodes().iter().all(|node| node.is_running()), "production runs on");
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        let audit = bank.audit(&restored, [])?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    });
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn send(pid: i32, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{}", signal), &pid.to_string()]).status();
    assert!(sent.expect("kill").success());
}

/// Where the configuration is not in the data directory, as Debian has it, and its `data_directory` beats every `-D`.
#[test]
fn a_configuration_that_leads_to_production_is_refused_and_a_missing_one_is_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "debian")?;
        let etc = tempfile::tempdir().expect("a directory");
        fs::set_permissions(etc.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        let mut files = Vec::new();
        for group in 0..2 {
            let copy = dir.join(format!("nodes/{group}/data"));
            let file = etc.path().join(format!("{group}.conf"));
            let text = ["postgresql.conf", "server.conf"].map(|name| {
                let path = copy.join(name);
                let text = fs::read_to_string(&path).expect("a file");
                fs::remove_file(&path).expect("it was there");
                text.replace("include 'server.conf'", "")
            });
            let production = cluster.node(group).data_dir();
            let text = format!(
                "{}\ndata_directory = '{}'\nexternal_pid_file = '{}'\nlogging_collector = on\nlog_directory = '{}'\n",
                text.concat(),
                production.display(),
                etc.path().join("production.pid").display(),
                etc.path().join("log").display()
            );
            fs::write(&file, text).expect("a file");
            files.push(file);
        }
        let places = cluster.places()?;
        let all = |with_config: bool| {
            let mut command = restore_all(&dir, &places, &["--no-verify"]);
            if with_config {
                let words: Vec<_> =
                    command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
                let files = files.iter().map(|file| file.display().to_string());
                let mut files = files.collect::<Vec<_>>().into_iter();
                let words: Vec<String> = words
                    .into_iter()
                    .map(|word| match word.contains(&format!("={HOST}:")) {
                        true => format!("{word},{}", files.next().expect("a file")),
                        false => word,
                    })
                    .collect();
                command = as_servers_user(&words.iter().map(String::as_str).collect::<Vec<_>>());
            }
            run(&mut command)
        };
        let missing = all(false).expect(3);
        assert_eq!(missing.out.matches("has no postgresql.conf").count(), 2, "{missing:?}");
        // Nor is told how to start what cannot be started.
        assert!(missing.out.contains("do not start any node yet"), "{missing:?}");
        assert!(
            !missing.out.contains("pg_ctl") && !missing.out.contains("restore finish"),
            "{missing:?}"
        );
        all(true)
            .expect(1)
            .complains_of(&["leads to another data directory", "would start that one"]);
        for (group, file) in files.iter().enumerate() {
            let text = fs::read_to_string(file).expect("a file");
            let production = cluster.node(group).data_dir().display().to_string();
            let own = places.nodes()[group].data_dir().display().to_string();
            fs::write(
                file,
                text.replace(
                    &format!("data_directory = '{production}'"),
                    &format!("data_directory = '{own}'"),
                ),
            )
            .expect("a file");
        }
        let ready = all(true).expect(0).out;
        let log = format!("its log goes to {}", etc.path().join("log").display());
        assert_eq!(ready.matches(&log).count(), 2, "{ready}");
        // As of the files, not as of the time before.
        for file in &files {
            let text = fs::read_to_string(file).expect("a file");
            fs::write(file, text.replace("logging_collector = on", "")).expect("a file");
        }
        assert!(!all(true).expect(0).out.contains(&log));
        // Nor would its file with production's process be this one's.
        for node in places.nodes() {
            let file =
                fs::read_to_string(node.data_dir().join("postgresql.auto.conf")).expect("a file");
            assert!(
                file.contains("external_pid_file = '") && !file.contains("production.pid"),
                "{file}"
            );
        }
        // Production has noticed nothing.
        for node in cluster.nodes() {
            assert!(node.is_running());
            assert_eq!(
                node.query_value(
                    "SELECT count(*) FROM pg_dist_node_metadata WHERE metadata ? 'restore_id'"
                )?,
                "0"
            );
        }
        Ok(())
    });
}

#[test]
fn a_tablespace_goes_where_it_is_told_to() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let outside = tempfile::tempdir().expect("a directory");
        let old = outside.path().join("old");
        fs::create_dir(&old).expect("a directory");
        fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its mode");
        give_tree_to_server_user(outside.path())?;
        let worker = cluster.worker(1);
        worker.psql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}';", old.display()))?;
        worker.execute("CREATE TABLE far (id int) TABLESPACE elsewhere")?;
        worker.execute("INSERT INTO far VALUES (1)")?;
        let oid =
            worker.query_value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")?;
        worker.execute("CHECKPOINT")?;
        let dir = backup_with_tablespace(&cluster, &old, &oid)?;
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[]))
            .expect(1)
            .complains_of(&["node 1", "--tablespace 1:"]);
        let data = places.nodes()[1].data_dir().display().to_string();
        let shared = format!("1:{}={data}", old.display());
        run(&mut restore_all(&dir, &places, &["--tablespace", &shared]))
            .expect(2)
            .complains_of(&["the tablespace", "the data directory of node 1"]);
        let new = outside.path().join("new");
        let mapping = format!("1:{}={}", old.display(), new.display());
        run(&mut restore_all(&dir, &places, &["--tablespace", &mapping])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        restored.worker(1).execute("INSERT INTO far VALUES (2)")?;
        restored.worker(1).execute("CHECKPOINT")?;
        assert_eq!(restored.worker(1).query_value("SELECT count(*) FROM far")?, "2");
        assert_eq!(
            worker.query_value("SELECT count(*) FROM far")?,
            "1",
            "production's is another one"
        );
        assert!(new.read_dir().expect("a directory").next().is_some());
        Ok(())
    });
}

/// A directory for a copy of a tablespace, which the servers' user may write to.
fn room_for_tablespace(dir: &std::path::Path) -> String {
    let room = dir.join("nodes/1/ts");
    fs::create_dir_all(&room).expect("a directory");
    give_tree_to_server_user(&room).expect("a tree");
    room.display().to_string()
}

/// A backup of a worker with a tablespace, which lies beside its data directory.
fn backup_with_tablespace(
    cluster: &Cluster,
    old: &std::path::Path,
    oid: &str,
) -> Result<std::path::PathBuf> {
    let dir = backup_mapped(cluster, "tablespace", &|dir, group| match group {
        1 => vec![format!("--tablespace-mapping={}={}", old.display(), room_for_tablespace(dir))],
        _ => Vec::new(),
    })?;
    let mut changed = manifest(&dir);
    changed["nodes"][1]["tablespaces"] = serde_json::json!([
        {"oid": oid.parse::<u32>().expect("a number"), "location": old, "copy": "nodes/1/ts"}
    ]);
    write_manifest(&dir, &changed);
    Ok(dir)
}
