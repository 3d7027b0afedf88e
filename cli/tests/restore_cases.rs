//! Cases of a restore that were met by hand before it was built, and where each is tested:
//!
//! | case | test |
//! | --- | --- |
//! | no `max_prepared_transactions` in the configuration, transactions prepared | `every_two_phase_commit_ends_as_its_node_had_decided` |
//! | Debian's layout, production running, stopped; its pid file | `restore_places.rs`, `production_that_is_stopped_is_not_touched` |
//! | passwords between the nodes | `passwords.rs` |
//! | each poison in `postgresql.auto.conf`, settings of roles and databases | `nothing_of_productions_settings_counts_in_a_first_start` |
//! | two-phase commits between any two nodes, second database, late copy | `every_two_phase_commit_ends_as_its_node_had_decided`, `restore_poison.rs` |
//! | addresses swapped, copy in recovery, a node lost | `restore.rs` |
//! | a point: promoted, missing on one node, polluted archive, targets of a tool | `restore.rs`, `restore_tools.rs` |
//! | both signal files, a primary to follow | `nothing_of_productions_settings_counts_in_a_first_start` |
//! | a subscription that follows, that copies, of Citus' own | `restore.rs`, `nothing_of_…`, `restore_moves.rs` |
//! | pg_cron, queued work, metadata behind, second database, read-only | `restore_poison.rs` |
//! | file copies: slots, a living `postmaster.pid`, tablespaces, a link for `pg_wal` | `restore_moves.rs`, `restore_places.rs`, `wal_that_lies_elsewhere_is_not_productions` |
//! | sequences of every kind | `restore_sequences.rs` |
//! | killed at every step | `restore_steps.rs`, `restore_interrupted.rs` |
//! | listeners on production's ports | all that have `Listeners` |
//! | ports that overlap production's, production's own addresses, an old node comes back | `production_is_restored_to_its_own_addresses` |

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::backup::{
    Listeners, as_servers_user, backup, finish, manifest, restore_all, write_manifest,
};
use common::{run, start};
use fence_tests::{Bank, on_each_engine};
use test_cluster::postgres::{Client, NoTls};
use test_cluster::{
    Cluster, Engine, HOST, Installation, PATIENCE, Places, Result, SUPERUSER, StopMode,
    give_tree_to_server_user, wait_until,
};

/// Who began a two-phase commit, on whom it is prepared, and whether its record says that it was committed.
const COMMITS: [(usize, usize, bool); 12] = [
    (0, 1, true),
    (0, 1, false),
    (0, 2, true),
    (0, 2, false),
    (1, 2, true),
    (1, 2, false),
    (2, 1, true),
    (2, 1, false),
    (1, 0, true),
    (1, 0, false),
    (2, 0, true),
    (2, 0, false),
];

fn place_of(cluster: &Cluster, name: &str) -> Result<std::path::PathBuf> {
    Ok(cluster.copy_target(name, 0)?.with_file_name("mark"))
}

/// Brings copies of the files of a stopped cluster to places, as a tool that the manifest names.
fn adopt_files(cluster: &Cluster, dir: &Path, places: &Places) -> Result<()> {
    let mut kept = manifest(dir);
    for (group, node) in places.nodes().iter().enumerate() {
        kept["nodes"][group]["data"] = serde_json::Value::Null;
        kept["nodes"][group]["tool"] = "a snapshot".into();
        cluster.node(group).copy_files(&node.data_dir())?;
        give_tree_to_server_user(&node.data_dir())?;
    }
    write_manifest(dir, &kept);
    Ok(())
}

#[test]
fn every_two_phase_commit_ends_as_its_node_had_decided() {
    on_each_engine(|engine| {
        let mut builder =
            Cluster::builder(engine).workers(2).setting("citus.recover_2pc_interval", "1h");
        if engine == Engine::Citus {
            // As if nobody had set it: Citus then takes twice max_connections, of which no file says anything.
            builder = builder.setting("max_prepared_transactions", "0");
        }
        let cluster = builder.build()?;
        for node in cluster.nodes() {
            node.execute("SET citus.enable_ddl_propagation = off; CREATE TABLE marks (mark int)")?;
            node.psql(
                "BEGIN; INSERT INTO marks VALUES (100); PREPARE TRANSACTION 'somebody else''s';",
            )?;
        }
        for (number, (from, to, committed)) in COMMITS.into_iter().enumerate() {
            let gid = format!("citus_{from}_4000001_{number}_1");
            cluster.node(to).psql(&format!(
                "BEGIN; INSERT INTO marks VALUES ({number}); PREPARE TRANSACTION '{gid}';"
            ))?;
            if committed {
                cluster.node(from).execute(&format!(
                    "INSERT INTO pg_dist_transaction (groupid, gid) VALUES ({to}, '{gid}')"
                ))?;
            }
        }
        let dir = backup(&cluster, "matrix")?;
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        // One comes late, and is waited for.
        places.nodes()[0].start()?;
        places.nodes()[2].start()?;
        let port = places.nodes()[0].port().to_string();
        let mut command = common::command(&["restore", "finish", "-v", "--wait", "5min"]);
        command.args(["-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
        let finishing = start(&mut command);
        // It has found the coordinator, and goes on to a node that is not there yet.
        let asks =
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'citus-fence%'";
        wait_until("it to ask the coordinator", PATIENCE, || {
            (places.nodes()[0].query_value(asks).ok()? == "t").then_some(())
        })?;
        places.nodes()[1].start()?;
        let finished = finishing.ended()?.expect(3);
        assert_eq!(finished.out.matches("by somebody else than Citus").count(), 3, "{finished:?}");
        assert_eq!(finished.out.matches("look:").count(), 3, "{finished:?}");
        for (to, node) in places.nodes().iter().enumerate() {
            let right = COMMITS.iter().enumerate();
            let right = right.filter(|(_, (_, at, committed))| *at == to && *committed);
            let right: Vec<String> = right.map(|(number, _)| number.to_string()).collect();
            let marks = "SELECT string_agg(mark::text, ',' ORDER BY mark) FROM marks";
            assert_eq!(node.query_value(marks)?, right.join(","), "on node {to}");
            let left = "SELECT string_agg(gid, ',') FROM pg_prepared_xacts";
            assert_eq!(node.query_value(left)?, "somebody else's");
            node.execute("ROLLBACK PREPARED 'somebody else''s'")?;
        }
        finish(places.nodes()[0].port(), &[]).expect(0);
        Ok(())
    });
}

#[test]
fn nothing_of_productions_settings_counts_in_a_first_start() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE TABLE published (id int PRIMARY KEY)")?;
        coordinator.execute("CREATE PUBLICATION everything FOR TABLE published")?;
        let follower = cluster.worker(1);
        follower.execute(
            "SET citus.enable_ddl_propagation = off; CREATE TABLE published (id int PRIMARY KEY)",
        )?;
        let source = coordinator.tcp_params().conninfo().replace('\'', "");
        follower.execute(&format!(
            "CREATE SUBSCRIPTION copies CONNECTION '{source}' PUBLICATION everything WITH (enabled = false)"
        ))?;
        // One that is still copying: somebody keeps it from the table.
        let mut lock = cluster.connect(0)?;
        lock.batch_execute("BEGIN; LOCK published IN ACCESS EXCLUSIVE MODE").expect("a lock");
        follower.execute("ALTER SUBSCRIPTION copies ENABLE")?;
        wait_until("the copy to wait", PATIENCE, || {
            let state = "SELECT srsubstate FROM pg_subscription_rel";
            follower.query_value(state).ok().filter(|state| state == "d")
        })?;
        // A superuser with whom nothing works.
        let odd = "SET citus.enable_ddl_propagation = off; CREATE ROLE odd SUPERUSER LOGIN;
             ALTER ROLE odd SET default_transaction_read_only = on; ALTER ROLE odd SET statement_timeout = '1ms';
             ALTER ROLE odd SET search_path = nowhere; ALTER ROLE odd SET row_security = off;
             ALTER ROLE odd SET lock_timeout = '1ms'; ALTER ROLE odd SET synchronous_commit = 'remote_apply';
             ALTER ROLE odd SET idle_in_transaction_session_timeout = '1ms';
             ALTER DATABASE postgres SET standard_conforming_strings = off";
        cluster.execute_everywhere(odd)?;
        if engine == Engine::Citus {
            cluster.execute_everywhere(
                "SET citus.enable_ddl_propagation = off; ALTER ROLE odd SET session_preload_libraries = 'citus'",
            )?;
        }
        let mark = place_of(&cluster, "mark")?;
        let touch = format!("touch {}", mark.display());
        let production = cluster.coordinator().port();
        let primary = format!("host={HOST} port={production} user={SUPERUSER}");
        let pid_file = mark.with_file_name("production.pid").display().to_string();
        fs::write(&pid_file, "1\n").expect("a file");
        give_tree_to_server_user(Path::new(&pid_file))?;
        for node in cluster.nodes() {
            let path = node.data_dir().join("postgresql.auto.conf");
            let mut text = fs::read_to_string(&path).expect("a file");
            for (name, value) in [
                ("archive_mode", "always"),
                ("archive_command", touch.as_str()),
                ("restore_command", touch.as_str()),
                ("recovery_end_command", touch.as_str()),
                ("archive_cleanup_command", touch.as_str()),
                ("recovery_target", "immediate"),
                ("recovery_target_time", "2020-01-01 00:00:00"),
                ("recovery_target_action", "pause"),
                ("primary_conninfo", primary.as_str()),
                ("primary_slot_name", "nobody"),
                ("synchronous_standby_names", "nobody"),
                ("external_pid_file", pid_file.as_str()),
                ("log_directory", "/nonexistent"),
                ("logging_collector", "on"),
                ("lc_messages", "de_DE.UTF-8"),
                ("huge_pages", "on"),
                ("ssl", "on"),
                ("max_connections", "5"),
                ("max_worker_processes", "1"),
                ("max_locks_per_transaction", "10"),
                ("wal_level", "minimal"),
                ("listen_addresses", "*"),
                ("unix_socket_directories", "/nonexistent"),
                ("session_preload_libraries", "no_such_library"),
                ("default_transaction_read_only", "on"),
                ("log_statement", "all"),
            ] {
                text.push_str(&format!("{name} = '{value}'\n"));
            }
            fs::write(&path, text).expect("a file");
        }
        let dir = backup(&cluster, "settings")?;
        drop(lock);
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        for node in cluster.nodes() {
            node.stop(StopMode::Immediate)?;
        }
        let listeners = Listeners::at(ports);
        let places = cluster.places()?;
        adopt_files(&cluster, &dir, &places)?;
        for node in places.nodes() {
            // As copies have them that were made for a standby, or by a tool that was told of a target.
            fs::write(node.data_dir().join("standby.signal"), "").expect("a file");
            give_tree_to_server_user(&node.data_dir())?;
        }
        let all = || run(&mut restore_all(&dir, &places, &["--superuser", "odd"]));
        let prepared = all().expect(3);
        for words in
            ["no server starts with its configuration", "lc_messages", "do not start any node yet"]
        {
            assert!(prepared.out.contains(words), "{words}: {prepared:?}");
        }
        assert!(prepared.out.contains("subscription copies to"), "{prepared:?}");
        assert!(!mark.exists(), "a command of production's ran");
        assert_eq!(
            fs::read_to_string(&pid_file).expect("a file"),
            "1\n",
            "production's is its own"
        );
        for node in places.nodes() {
            for signal in ["standby.signal", "recovery.signal"] {
                assert!(!node.data_dir().join(signal).exists(), "{signal}");
            }
            // What the administrator mends: what is not valid on this machine.
            for (name, value) in [
                ("logging_collector", "off"),
                ("huge_pages", "off"),
                ("ssl", "off"),
                ("lc_messages", "C"),
                ("max_connections", "150"),
                ("max_worker_processes", "20"),
                ("max_locks_per_transaction", "64"),
                ("wal_level", "logical"),
                ("listen_addresses", HOST),
                ("unix_socket_directories", &node.socket_dir().display().to_string()),
                ("session_preload_libraries", ""),
            ] {
                node.set_while_stopped(name, value)?;
            }
        }
        // Which is seen to once, and stays.
        all().expect(0);
        places.configure()?;
        places.start()?;
        finish(places.nodes()[0].port(), &[]).expect(0);
        // A user may do with the subscription what he likes: nobody is called.
        let drop = "SET transaction_read_only = off; DROP SUBSCRIPTION copies";
        places.nodes()[1].psql(drop)?;
        assert_eq!(listeners.connections(), 0, "nobody has called production");
        assert!(!mark.exists(), "a command of production's ran");
        Ok(())
    });
}

/// What is in all files below a directory, as one number.
fn fingerprint(dir: &Path) -> String {
    let script =
        "cd \"$1\" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(dir).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn production_that_is_stopped_is_not_touched() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "stopped")?;
        for node in cluster.nodes() {
            node.stop(StopMode::Fast)?;
        }
        let etc = cluster.copy_target("etc", 0)?.with_file_name("etc");
        fs::create_dir(&etc).expect("a folder");
        let before: Vec<String> =
            cluster.nodes().iter().map(|node| fingerprint(&node.data_dir())).collect();
        // As Debian has it: one file outside of the data directory, which says where production's is.
        for group in 0..2 {
            let copy = dir.join(format!("nodes/{group}/data"));
            let mut text = String::new();
            for name in ["postgresql.conf", "server.conf"] {
                let path = copy.join(name);
                text += &fs::read_to_string(&path)
                    .expect("a file")
                    .replace("include 'server.conf'", "");
                fs::remove_file(&path).expect("it was there");
            }
            let production = cluster.node(group).data_dir();
            text += &format!("\ndata_directory = '{}'\n", production.display());
            fs::write(etc.join(format!("{group}.conf")), text).expect("a file");
            // And the copy has a link to it, as some have made.
            std::os::unix::fs::symlink(
                etc.join(format!("{group}.conf")),
                copy.join("postgresql.conf"),
            )
            .expect("a link");
        }
        give_tree_to_server_user(&etc)?;
        let places = cluster.places()?;
        let all = |config: bool| {
            let bindir =
                Installation::current().expect("PostgreSQL").bindir().display().to_string();
            let mut command =
                as_servers_user(&["restore", "all", "--no-verify", "--bindir", &bindir]);
            command.arg(&dir);
            for (group, node) in places.nodes().iter().enumerate() {
                let mut to =
                    format!("{group}={HOST}:{},{}", node.port(), node.data_dir().display());
                if config {
                    to += &format!(",{}", etc.join(format!("{group}.conf")).display());
                }
                command.arg("--to").arg(to);
            }
            run(&mut command)
        };
        all(false).expect(1).complains_of(&["postgresql.conf leads to", "--tablespace"]);
        for group in 0..2 {
            fs::remove_file(dir.join(format!("nodes/{group}/data/postgresql.conf")))
                .expect("a link");
        }
        all(true)
            .expect(1)
            .complains_of(&["leads to another data directory", "would start that one"]);
        let after: Vec<String> =
            cluster.nodes().iter().map(|node| fingerprint(&node.data_dir())).collect();
        assert_eq!(before, after, "production was touched");
        Ok(())
    });
}

#[test]
fn wal_that_lies_elsewhere_is_not_productions() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let node = cluster.worker(1);
        node.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")?;
        let dir = backup(&cluster, "wal")?;
        for node in cluster.nodes() {
            node.stop(StopMode::Fast)?;
        }
        let places = cluster.places()?;
        adopt_files(&cluster, &dir, &places)?;
        // Production's WAL is elsewhere, by a link that the copy has too; a copy of it is somewhere else again.
        let data = places.nodes()[1].data_dir();
        let production = node.data_dir().join("pg_wal");
        let elsewhere = place_of(&cluster, "pg_wal")?;
        let moved = Command::new("mv").arg(data.join("pg_wal")).arg(&elsewhere).status();
        assert!(moved.expect("mv").success());
        std::os::unix::fs::symlink(&production, data.join("pg_wal")).expect("a link");
        let before = fingerprint(&production);
        run(&mut restore_all(&dir, &places, &[])).expect(1).complains_of(&[
            "node 1",
            "pg_wal leads to",
            "--tablespace 1:",
        ]);
        let mapping = format!("1:{}={}", production.display(), elsewhere.display());
        run(&mut restore_all(&dir, &places, &["--tablespace", &mapping])).expect(0);
        assert_eq!(before, fingerprint(&production), "production's WAL was written to");
        places.configure()?;
        places.start()?;
        finish(places.nodes()[0].port(), &[]).expect(0);
        assert_eq!(places.nodes()[1].query_value("SELECT count(*) FROM t")?, "1");
        Ok(())
    });
}

#[test]
fn production_is_restored_to_its_own_addresses() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 30, 1_000)?;
        let dir = backup(&cluster, "own")?;
        let bindir = Installation::current()?.bindir().display().to_string();
        for node in cluster.nodes() {
            node.stop(StopMode::Fast)?;
        }
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        // Its own addresses; then those of its nodes, each at another's.
        for shift in [0, 1] {
            let places = cluster.places()?;
            let port = |group: usize| ports[(group + shift) % 3];
            let mut command = as_servers_user(&["restore", "all", "--bindir", &bindir]);
            command.arg(&dir);
            for (group, node) in places.nodes().iter().enumerate() {
                let place = format!("{group}={HOST}:{},{}", port(group), node.data_dir().display());
                command.arg("--to").arg(place);
            }
            run(&mut command).expect(0);
            places.configure()?;
            places.nodes()[0].start()?;
            places.nodes()[2].start()?;
            if shift == 0 {
                // One of the old ones comes back in the place of its copy, before it or during `finish`.
                cluster.worker(1).start()?;
                finish(port(0), &[]).expect(1).complains_of(&[
                    "nothing has been decided",
                    &format!("{HOST}:{}", port(1)),
                    "restore none",
                ]);
                cluster.worker(1).stop(StopMode::Fast)?;
            }
            places.nodes()[1].start()?;
            finish(port(0), &[]).expect(0);
            let sum = match engine {
                Engine::Citus => "SELECT sum(balance)::text FROM accounts",
                Engine::Embedded => "SELECT (count(*) * 10000)::text FROM pg_dist_node",
            };
            for group in 0..3 {
                let place =
                    format!("host={HOST} port={} user={SUPERUSER} dbname=postgres", port(group));
                let mut client = Client::connect(&place, NoTls).expect("a session");
                assert_eq!(client.query_one(sum, &[]).expect("a sum").get::<_, String>(0), "30000");
            }
        }
        drop(bank);
        Ok(())
    });
}
