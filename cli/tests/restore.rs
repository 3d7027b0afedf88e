//! `citus-fence restore` and `check` on whole clusters, on every engine.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Instant;

use common::backup::{Listeners, as_servers_user, backup, check, finish, restore_all};
use common::{run, start};
use fence_tests::on_each_engine;
use test_cluster::{
    Bank, Cluster, Engine, PATIENCE, Restore, Result, StopMode, give_tree_to_server_user,
    wait_until, whole_matrix,
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

/// What a query says when it is asked of every node: the same.
fn from_every_node(cluster: &Cluster, sql: &str) -> Result<()> {
    let answers = cluster.nodes().iter().map(|node| node.query_value(sql));
    let answers: BTreeSet<String> = answers.collect::<Result<_>>()?;
    assert_eq!(answers.len(), 1, "{sql}: {answers:?}");
    Ok(())
}

#[test]
fn a_bank_under_load_comes_back_whole_and_no_number_is_drawn_twice() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        create_ids(&cluster)?;
        let mut drawn = Vec::new();
        for round in 0..if whole_matrix() { 10 } else { 2 } {
            drawn.extend(draw(&cluster, 5)?);
            let writers = bank.start_writers(&cluster, 2)?;
            writers.wait_for_more(100, PATIENCE)?;
            let began = Instant::now();
            let dir = backup(&cluster, &format!("bank{round}"))?;
            let summary = writers.stop();
            let places = cluster.places()?;
            let prepared = run(&mut restore_all(&dir, &places, &[])).expect(0);
            assert!(prepared.out.contains("restore finish -h"), "{prepared:?}");
            places.configure()?;
            places.start()?;
            let restored = places.into_cluster();
            finished_and_fit(&restored, round == 0)?;
            let audit = bank.audit(&restored, summary.transfers_before(began))?;
            assert!(audit.is_clean(), "round {round}: {audit}");
            let again = draw(&restored, 5)?;
            let distinct: BTreeSet<i64> = drawn.iter().chain(&again).copied().collect();
            assert_eq!(distinct.len(), drawn.len() + again.len(), "{drawn:?} {again:?}");
            if engine == Engine::Citus {
                for sql in [
                    "SELECT format('%s %s', count(*), sum(balance)) FROM accounts",
                    "SELECT format('%s %s %s', count(*), count(DISTINCT id), sum(k)) FROM ids",
                    "SELECT string_agg(format('%s %s', groupid, nodeport), ',' ORDER BY groupid) FROM pg_dist_node",
                ] {
                    from_every_node(&restored, sql)?;
                }
            }
            // It takes writes from every node.
            let writers = bank.start_writers(&restored, 1)?;
            writers.wait_for_more(50, PATIENCE)?;
            let after = writers.stop();
            let audit = bank.audit(&restored, after.transfers())?;
            assert!(audit.is_clean(), "round {round}: {audit}");
            drop(restored);
            fs::remove_dir_all(&dir).expect("the backup");
        }
        Ok(())
    });
}

/// Finishes a restore whose sequences lag, and finds nothing afterwards. `closed` is with a role that may not write.
fn finished_and_fit(restored: &Cluster, closed: bool) -> Result<()> {
    let port = restored.coordinator().port();
    // Single-node writes go on under a block, so that a copy may have rows from above its sequence.
    for (group, node) in restored.nodes().iter().enumerate() {
        let first = ((group as i64) << 48) + 1;
        node.execute(&format!("SELECT setval('ids_id_seq', {first}, false)"))?;
    }
    if closed {
        // What a role has set must not keep it from its work.
        let closed = "ALTER ROLE postgres SET default_transaction_read_only = on";
        match restored.engine() {
            // Which takes it to the workers.
            Engine::Citus => restored.coordinator().execute(closed)?,
            Engine::Embedded => restored.execute_everywhere(closed)?,
        }
    }
    let lagging = check(port, &[]).expect(3);
    assert_eq!(lagging.out.matches("--fix raises it").count(), 3, "{lagging:?}");
    let finished = finish(port, &[]).expect(0);
    assert!(finished.out.contains("is finished"), "{finished:?}");
    if closed {
        for node in restored.nodes().iter().rev() {
            node.execute(
                "BEGIN READ WRITE; ALTER ROLE postgres RESET default_transaction_read_only; COMMIT",
            )?;
        }
    }
    let clean = check(port, &["--json"]).expect(0);
    assert!(clean.out.contains("\"findings\":[]"), "{clean:?}");
    // The quiet settings are gone.
    for node in restored.nodes() {
        let file =
            fs::read_to_string(node.data_dir().join("postgresql.auto.conf")).expect("a file");
        assert!(!file.contains("recover_2pc_interval"), "{file}");
    }
    Ok(())
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
        follower.execute("CREATE TABLE published (id int PRIMARY KEY)")?;
        let source = coordinator.tcp_params().conninfo().replace('\'', "");
        follower.execute(&format!(
            "CREATE SUBSCRIPTION follows CONNECTION '{source}' PUBLICATION everything"
        ))?;
        leave_prepared(&cluster)?;
        if engine == Engine::Citus {
            // What a role has set beats a configuration, and this one could not log in without Citus.
            cluster.execute_everywhere(
                "ALTER ROLE postgres SET session_preload_libraries = 'citus'",
            )?;
        }
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
fn without_a_node_what_it_had_begun_is_named_and_nothing_is_guessed() {
    on_each_engine(|engine| {
        let cluster = patient_cluster(engine)?;
        create_ids(&cluster)?;
        leave_prepared(&cluster)?;
        let begun =
            "BEGIN; INSERT INTO marks VALUES (3); PREPARE TRANSACTION 'citus_2_4000001_1_1';";
        cluster.worker(1).psql(begun)?;
        let dir = backup(&cluster, "lost")?;
        let places = cluster.places()?;
        let all = restore_all(&dir, &places, &[]);
        let words: Vec<_> =
            all.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        words.truncate(words.len() - 2);
        run(&mut as_servers_user(&words)).expect(2).complains_of(&["--without 2"]);
        words.extend(["--without", "2"]);
        let prepared = run(&mut as_servers_user(&words)).expect(3);
        assert!(prepared.out.contains("look: node 2 is not restored"), "{prepared:?}");
        for node in &places.nodes()[..2] {
            let path = node.data_dir().join("server.conf");
            let text = fs::read_to_string(&path).expect("a file");
            let socket = format!("unix_socket_directories = '{}'", node.socket_dir().display());
            fs::write(&path, format!("{text}{socket}\n")).expect("a file");
            node.start()?;
        }
        let finished = finish(places.nodes()[0].port(), &[]).expect(3);
        for words in [
            "citus_2_4000001_1_1 was begun by node 2",
            "placements are on a node that is not there",
        ] {
            assert!(finished.out.contains(words), "{finished:?}");
        }
        let worker = &places.nodes()[1];
        assert_eq!(worker.query_value("SELECT string_agg(mark::text, ',') FROM marks")?, "1");
        assert_eq!(
            worker.query_value("SELECT string_agg(gid, ',') FROM pg_prepared_xacts")?,
            "citus_2_4000001_1_1"
        );
        Ok(())
    });
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
        let short = all().expect(1).complains_of(&[
            "node 2",
            "has not reached the restore point \"before\"",
            "No node has been promoted",
        ]);
        // What the server and the command said of it has a line each; the rest is in a file.
        let log = places.nodes()[2].data_dir().join("citus_fence.restore.log");
        let told: Vec<&str> = short.err.lines().collect();
        for words in ["FATAL: ", "cp: cannot stat", &log.display().to_string()] {
            let lines = told.iter().filter(|line| line.contains(words)).count();
            assert!((1..=3).contains(&lines), "{words}: {short:?}");
        }
        assert!(!short.err.contains("LOG: ") && told.len() < 15, "{short:?}");
        let whole = fs::read_to_string(&log).expect("the log");
        assert!(whole.contains("LOG: ") && whole.contains("FATAL: "), "{whole}");
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
