//! `citus-fence restore` and `check` on whole clusters, on every engine.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Instant;

use common::backup::{
    Listeners, as_servers_user, backup, backup_mapped, check, finish, manifest, restore_all,
    write_manifest,
};
use common::{run, start};
use fence_tests::on_each_engine;
use test_cluster::{
    Bank, Cluster, Engine, HOST, PATIENCE, Restore, Result, StopMode, give_tree_to_server_user,
    wait_until,
};

/// A sequence of which every node has its own range, and a table that it feeds.
fn create_ids(cluster: &Cluster) -> Result<()> {
    match cluster.engine() {
        Engine::Citus => {
            cluster.create_distributed("CREATE TABLE ids (id bigserial, k bigint)", "ids", "k", 4)
        }
        Engine::Embedded => {
            cluster.execute_everywhere(
                "SELECT worker_apply_sequence_command('CREATE SEQUENCE IF NOT EXISTS ids_id_seq', 'bigint')",
            )?;
            let ddl = "CREATE TABLE ids (id bigint DEFAULT nextval('ids_id_seq'), k bigint)";
            cluster.create_distributed(ddl, "ids", "k", 4)
        }
    }
}

/// Draws numbers on every node and stores them.
fn draw(cluster: &Cluster, rounds: i64) -> Result<Vec<i64>> {
    let mut all = Vec::new();
    for node in cluster.nodes() {
        for k in 0..rounds {
            let id: i64 =
                node.query_value("SELECT nextval('ids_id_seq')")?.parse().expect("a number");
            let insert = format!("INSERT INTO %s (id, k) VALUES ({id}, {k})");
            node.query(&cluster.shard_sql("ids", k, &insert))?;
            all.push(id);
        }
    }
    Ok(all)
}

#[test]
fn a_bank_under_load_comes_back_whole_and_no_number_is_drawn_twice() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        create_ids(&cluster)?;
        let drawn = draw(&cluster, 5)?;
        let writers = bank.start_writers(&cluster, 2)?;
        writers.wait_for_more(100, PATIENCE)?;
        let began = Instant::now();
        let dir = backup(&cluster, "bank")?;
        let summary = writers.stop();

        let places = cluster.places()?;
        let prepared = run(&mut restore_all(&dir, &places, &[])).expect(0);
        assert!(prepared.out.contains("restore finish -h"), "{prepared:?}");
        places.configure()?;
        places.start()?;
        // Single-node writes go on under a block, so that a copy may have rows from above its sequence.
        let restored = places.into_cluster();
        for (group, node) in restored.nodes().iter().enumerate() {
            let first = ((group as i64) << 48) + 1;
            node.execute(&format!("SELECT setval('ids_id_seq', {first}, false)"))?;
        }
        let lagging = check(restored.coordinator().port(), &[]).expect(3);
        assert_eq!(lagging.out.matches("--fix raises it").count(), 3, "{lagging:?}");
        let finished = finish(restored.coordinator().port(), &[]);
        let finished = finished.expect(0);
        assert!(finished.out.contains("is finished"), "{finished:?}");
        let clean = check(restored.coordinator().port(), &["--json"]).expect(0);
        assert!(clean.out.contains("\"findings\":[]"), "{clean:?}");

        let audit = bank.audit(&restored, summary.transfers_before(began))?;
        assert!(audit.is_clean(), "{audit}");
        let again = draw(&restored, 5)?;
        let distinct: BTreeSet<i64> = drawn.iter().chain(&again).copied().collect();
        assert_eq!(distinct.len(), drawn.len() + again.len(), "{drawn:?} {again:?}");
        // The quiet settings are gone, and the cluster takes writes from every node.
        for node in restored.nodes() {
            let file =
                fs::read_to_string(node.data_dir().join("postgresql.auto.conf")).expect("a file");
            assert!(!file.contains("recover_2pc_interval"), "{file}");
        }
        let writers = bank.start_writers(&restored, 1)?;
        writers.wait_for_more(50, PATIENCE)?;
        let after = writers.stop();
        let audit = bank.audit(&restored, after.transfers())?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    });
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

fn marks(cluster: &Cluster) -> Result<String> {
    cluster
        .worker(1)
        .query_value("SELECT coalesce(string_agg(mark::text, ',' ORDER BY mark), '') FROM marks")
}

/// A cluster whose own daemon leaves prepared transactions alone for the time of a test.
fn patient_cluster(engine: Engine) -> Result<Cluster> {
    Cluster::builder(engine).workers(2).setting("citus.recover_2pc_interval", "1h").build()
}

#[test]
fn not_one_connection_goes_to_production_and_a_killed_restore_goes_on() {
    on_each_engine(|engine| {
        let cluster = patient_cluster(engine)?;
        create_ids(&cluster)?;
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE TABLE published (id int PRIMARY KEY)")?;
        coordinator.execute("CREATE PUBLICATION everything FOR TABLE published")?;
        let follower = cluster.worker(2);
        follower.execute("CREATE TABLE published (id int PRIMARY KEY)").or_else(|_| Ok(()))?;
        let source = coordinator.tcp_params().conninfo().replace('\'', "");
        follower.execute(&format!(
            "CREATE SUBSCRIPTION follows CONNECTION '{source}' PUBLICATION everything"
        ))?;
        leave_prepared(&cluster)?;
        // Poison: what production has by ALTER SYSTEM must not count in a first start.
        for node in cluster.nodes() {
            for (name, value) in [
                ("archive_mode", "on"),
                ("archive_command", "false"),
                ("huge_pages", "on"),
                ("recovery_target_time", "2020-01-01 00:00:00"),
                ("recovery_target_name", "x"),
                ("max_connections", "40"),
            ] {
                let path = node.data_dir().join("postgresql.auto.conf");
                let text = fs::read_to_string(&path).expect("a file");
                fs::write(&path, format!("{text}{name} = '{value}'\n")).expect("a file");
            }
        }
        let dir = backup(&cluster, "quiet")?;
        let plain: Vec<_> = (0..3)
            .map(|group| {
                let copy = dir.join(format!("plain{group}"));
                let from = dir.join(format!("nodes/{group}/data"));
                let copied = Command::new("cp").arg("-a").arg(from).arg(&copy).status();
                assert!(copied.expect("cp").success());
                let auto = copy.join("postgresql.auto.conf");
                fs::write(auto, "").expect("a file");
                copy
            })
            .collect();
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        for node in cluster.nodes() {
            node.stop(StopMode::Immediate)?;
        }
        let listeners = Listeners::at(ports);

        let places = cluster.places()?;
        // Killed again and again, a little later each time, until it gets through by itself.
        let mut kills = 0;
        let prepared = loop {
            let mut command = restore_all(&dir, &places, &["--json"]);
            let mut running = start(&mut command);
            let until = Instant::now() + std::time::Duration::from_millis(150 + 350 * kills);
            let ended = wait_until("its end or its kill", PATIENCE, || {
                let gone = running.child().try_wait().expect("a child").is_some();
                (gone || Instant::now() >= until).then_some(gone)
            })?;
            if ended {
                break running.ended()?;
            }
            let _ = running.child().kill();
            running.ended()?;
            kills += 1;
        };
        let prepared = prepared.expect(0);
        assert!(kills > 1, "it has to be killed at several stages");
        assert!(prepared.out.contains("subscription follows to"), "{prepared:?}");
        for node in places.nodes() {
            // What is not valid in this place, and was production's, is the administrator's to mend.
            let path = node.data_dir().join("postgresql.auto.conf");
            let text = fs::read_to_string(&path).expect("a file");
            assert!(
                text.contains("archive_mode = 'off'") && !text.contains("recovery_target"),
                "{text}"
            );
            node.set_while_stopped("huge_pages", "off")?;
            node.set_while_stopped("max_connections", "150")?;
        }
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        assert_eq!(marks(&restored)?, "1", "decided and undecided");
        assert_eq!(listeners.connections(), 0, "nobody has called production");

        // The control: started as they are, the same copies call.
        let mut control = Restore::new(&cluster, &plain)?;
        control.start()?;
        wait_until("a copy to call production", PATIENCE, || {
            (listeners.connections() > 0).then_some(())
        })
    });
}

#[test]
fn swapped_addresses_and_a_copy_in_recovery_are_refused_before_anything_is_decided() {
    on_each_engine(|engine| {
        let cluster = patient_cluster(engine)?;
        leave_prepared(&cluster)?;
        let dir = backup(&cluster, "swapped")?;
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        let port = |node: usize| places.nodes()[node].port().to_string();
        let at = |first: usize, second: usize| -> Result<()> {
            places.nodes()[1].set_while_stopped("port", &port(first))?;
            places.nodes()[2].set_while_stopped("port", &port(second))
        };
        // One node does not run: it is named.
        places.nodes()[0].start()?;
        places.nodes()[1].start()?;
        let coordinator = places.nodes()[0].port();
        finish(coordinator, &["--wait", "300ms"])
            .expect(1)
            .complains_of(&["node 2", "nothing has been decided"]);
        places.nodes()[1].stop(StopMode::Fast)?;

        at(2, 1)?;
        places.nodes()[1].start()?;
        places.nodes()[2].start()?;
        finish(coordinator, &[]).expect(1).complains_of(&[
            "group 2",
            "and not group 1",
            "nothing has been decided",
        ]);
        let records = || {
            places.nodes()[0].query_value(
                "SELECT count(*) FROM pg_dist_transaction WHERE gid = 'citus_0_4000001_1_1'",
            )
        };
        assert_eq!(records()?, "1", "nothing has been decided");
        places.nodes()[1].stop(StopMode::Fast)?;
        places.nodes()[2].stop(StopMode::Fast)?;

        // In recovery, as a standby is.
        at(1, 2)?;
        let signal = places.nodes()[1].data_dir().join("standby.signal");
        fs::write(&signal, "").expect("a file");
        places.nodes()[1].start()?;
        places.nodes()[2].start()?;
        finish(coordinator, &[])
            .expect(1)
            .complains_of(&["in recovery", "nothing has been decided"]);
        assert_eq!(records()?, "1", "nothing has been decided");
        places.nodes()[1].stop(StopMode::Fast)?;
        fs::remove_file(&signal).expect("it was there");

        // The control: told to decide while the addresses are swapped, the coordinator forgets what it had decided.
        if engine == Engine::Citus {
            places.nodes()[2].stop(StopMode::Fast)?;
            at(2, 1)?;
            places.nodes()[1].start()?;
            places.nodes()[2].start()?;
            places.nodes()[0].query_value("SELECT recover_prepared_transactions()")?;
            assert_eq!(records()?, "0", "the damage that the check keeps off");
            return Ok(());
        }
        places.nodes()[1].start()?;
        let restored = places.into_cluster();
        finish(coordinator, &[]).expect(0);
        assert_eq!(marks(&restored)?, "1");
        Ok(())
    });
}

#[test]
fn what_is_no_place_or_no_copy_is_refused() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "refused")?;
        let places = cluster.places()?;
        let all = |more: &[&str]| run(&mut restore_all(&dir, &places, more));

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

/// An archive with a directory for each node, and what a cluster has to be built with to fill it.
fn archiving(engine: Engine, archive: &std::path::Path) -> test_cluster::ClusterBuilder {
    let mut builder = Cluster::builder(engine).workers(2).setting("archive_mode", "on");
    for node in 0..3 {
        let directory = archive.join(node.to_string());
        fs::create_dir(&directory).expect("a directory");
        let command = format!("cp %p {}/%f", directory.display());
        builder = builder.node_setting(node, "archive_command", &command);
    }
    fs::set_permissions(archive, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("its mode");
    give_tree_to_server_user(archive).expect("a tree");
    builder
}

#[test]
fn up_to_a_restore_point_all_or_none() {
    on_each_engine(|engine| {
        let archive = tempfile::tempdir().expect("a directory");
        let cluster = archiving(engine, archive.path()).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let dir = backup(&cluster, "point")?;
        let writers = bank.start_writers(&cluster, 1)?;
        writers.wait_for_more(50, PATIENCE)?;
        let began = Instant::now();
        let mut client = cluster.connect(0)?;
        client.simple_query("SELECT citus_block_writes_for_backup()").expect("a block");
        client.simple_query("SELECT * FROM citus_backup_restore_point('before')").expect("a point");
        client.simple_query("SELECT citus_unblock_writes_for_backup()").expect("released");
        writers.wait_for_more(50, PATIENCE)?;
        let summary = writers.stop();
        for node in cluster.nodes() {
            let segment = node.query_value("SELECT pg_walfile_name(pg_switch_wal())")?;
            let done = node.data_dir().join(format!("pg_wal/archive_status/{segment}.done"));
            wait_until("the archive", PATIENCE, || done.exists().then_some(()))?;
        }
        // What copies of copies have left in an archive is no way to go: production's timeline is the manifest's.
        fs::write(archive.path().join("0/00000002.history"), "1\t0/1\tno way\n").expect("a file");

        let places = cluster.places()?;
        let command = format!("cp {}/{{groupid}}/%f %p", archive.path().display());
        let all = || {
            run(&mut restore_all(
                &dir,
                &places,
                &["--point", "before", "--restore-command", &command],
            ))
        };
        // One node's archive lacks it.
        let (there, away) = (archive.path().join("2"), archive.path().join("away"));
        fs::rename(&there, &away).expect("moved");
        all().expect(1).complains_of(&[
            "node 2",
            "has not reached the restore point \"before\"",
            "No node has been promoted",
        ]);
        for node in places.nodes() {
            assert!(
                node.control_data("Database cluster state")?.contains("recovery"),
                "none is promoted"
            );
        }
        fs::rename(&away, &there).expect("moved");
        all().expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        let audit = bank.audit(&restored, summary.transfers_before(began))?;
        assert!(audit.is_clean(), "{audit}");
        let later: Vec<_> = summary.transfers().collect();
        assert!(audit.transfers < later.len(), "what came after the point is not there: {audit}");
        Ok(())
    });
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
            let text = format!("{}\ndata_directory = '{}'\n", text.concat(), production.display());
            fs::write(&file, text).expect("a file");
            files.push(file);
        }
        let places = cluster.places()?;
        let all = |with_config: bool| {
            let mut command = restore_all(&dir, &places, &[]);
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
        all(true).expect(0);
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
