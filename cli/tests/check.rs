//! `citus-fence check`: each finding with the damage that it is of, on every engine.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::backup::check;
use common::{command, run};
use fence_tests::on_each_engine;
use test_cluster::{Cluster, Engine, HOST, PATIENCE, Result, wait_until};

#[test]
fn what_is_broken_is_found_and_what_is_whole_is_not() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let ddl = "CREATE TABLE \"Odd. name\" (id bigint, k bigint)";
        cluster.create_distributed(ddl, "\"Odd. name\"", "k", 8)?;
        let port = cluster.coordinator().port();
        let whole = check(port, &[]).expect(0);
        assert!(whole.out.contains("0 findings on 3 nodes"), "{whole:?}");

        let placements = cluster.placements("\"Odd. name\"")?;
        let first = placements.iter().find(|placement| placement.node == 1).expect("a shard there");
        let other = placements.iter().find(|placement| placement.node == 2).expect("a shard there");
        let worker = cluster.worker(1);
        worker.psql(&format!(
            "SET citus.enable_manual_changes_to_shards = on; DROP TABLE {};",
            first.table
        ))?;
        worker.execute(&format!("CREATE TABLE {} (id bigint)", other.table))?;
        worker.execute("CREATE TABLE mine (id int); CREATE INDEX mine_id ON mine (id)")?;
        worker.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'mine_id'::regclass",
        )?;
        // Just begun: a commit that is on its way is no finding.
        worker.psql(
            "BEGIN; INSERT INTO mine VALUES (1); PREPARE TRANSACTION 'citus_0_4000001_1_1';",
        )?;
        let broken = check(port, &[]).expect(3);
        let expected = [
            format!("{} is missing", first.table),
            format!("{} is a shard that has no placement here", other.table),
            "mine_id is invalid".into(),
        ];
        for words in &expected {
            // The table's name in full.
            assert!(
                broken.out.contains(words.trim_start_matches("\"public\".")),
                "{words}: {broken:?}"
            );
        }
        assert!(broken.out.contains("3 findings on 3 nodes"), "{broken:?}");
        worker.execute("ROLLBACK PREPARED 'citus_0_4000001_1_1'")?;

        // Asked of a worker, it says whom to ask.
        check(worker.port(), &[]).expect(1).complains_of(&["is a worker (group 1)", "-h and -p"]);
        // Also of one that has forgotten it: its metadata was taken from it.
        worker.execute("UPDATE pg_dist_local_group SET groupid = 0; DELETE FROM pg_dist_node")?;
        check(worker.port(), &[]).expect(1).complains_of(&["knows no nodes", "-h and -p"]);
        Ok(())
    });
}

#[test]
fn what_a_user_may_not_look_at_is_no_finding() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let ddl = "CREATE TABLE numbered (id bigserial, k bigint)";
        match engine {
            Engine::Citus => cluster.create_distributed(ddl, "numbered", "k", 4)?,
            Engine::Embedded => cluster.execute_everywhere(ddl)?,
        }
        let role = "CREATE ROLE visitor LOGIN";
        match engine {
            Engine::Citus => cluster.coordinator().execute(role)?,
            Engine::Embedded => cluster.execute_everywhere(role)?,
        }
        let port = cluster.coordinator().port();
        let visit = |more: &[&str]| {
            let place = format!("host={HOST} port={port} user=visitor dbname=postgres");
            run(command(&["check", "-d", &place]).args(more))
        };
        for more in [&[][..], &["--fix"]] {
            let shy = visit(more).expect(3);
            assert!(!shy.out.contains("look:"), "{shy:?}");
            for words in
                ["not checked: sequences:", "permission denied", "this needs SELECT", "0 findings"]
            {
                assert!(shy.out.contains(words), "{words}: {shy:?}");
            }
            // A line a node, however many sequences; and the setting, which not everybody may read, where it matters.
            let of = |check: &str| {
                let begin = format!("not checked: {check}: ");
                shy.out.lines().filter(|line| line.starts_with(&begin)).count()
            };
            let lists = test_cluster::Installation::current()?.lists_output_plugins();
            let settings = if engine == Engine::Citus && lists { 2 } else { 0 };
            assert_eq!(of("sequences"), 2, "{shy:?}");
            assert_eq!(of("output plugins"), settings, "{shy:?}");
            assert_eq!(shy.out.lines().count(), 3 + settings, "{shy:?}");
        }
        let json = visit(&["--json"]).expect(3);
        let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
        assert_eq!(json["not_checked"][0]["check"], "sequences", "{json}");
        // Who may look at a table and is shown a part of its rows does not know the largest number in it.
        let grants =
            "GRANT pg_read_all_data TO visitor; ALTER TABLE numbered ENABLE ROW LEVEL SECURITY";
        match engine {
            Engine::Citus => {
                for statement in grants.split(';') {
                    cluster.coordinator().execute(statement)?;
                }
            }
            Engine::Embedded => cluster.execute_everywhere(grants)?,
        }
        let part = visit(&[]).expect(3);
        let words = ["not checked: sequences:", "row-level security policy", "BYPASSRLS"];
        assert!(words.iter().all(|words| part.out.contains(words)), "{part:?}");
        // The control: whoever may look finds nothing.
        let whole = check(port, &[]).expect(0);
        assert!(whole.out.ends_with("0 findings on 2 nodes\n"), "{whole:?}");
        let place = format!("host={HOST} port={port} user=postgres dbname=no_such");
        let nowhere = ["restore", "finish", "-d", &place, "--wait", "10min"];
        run(&mut command(&nowhere))
            .expect(1)
            .complains_of(&["\"no_such\" does not exist", "with -d"]);
        Ok(())
    });
}

#[test]
fn tables_that_come_and_go_are_no_finding() {
    on_each_engine(|engine| {
        if engine != Engine::Citus {
            // The embedded catalog makes a table on one node after the other, without a transaction over them.
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let port = cluster.coordinator().port();
        let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let maker = scope.spawn(|| -> Result<()> {
                let mut client = cluster.connect(0)?;
                while !done.load(Ordering::Relaxed) {
                    client
                        .batch_execute(
                            "CREATE TABLE passing (k bigint);
                             SELECT create_distributed_table('passing', 'k', shard_count => 16);",
                        )
                        .and_then(|()| client.batch_execute("DROP TABLE passing"))
                        .expect("tables can be made and dropped");
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            // A check that fails must not leave the other thread to go on for ever.
            let checked = std::panic::catch_unwind(|| {
                (0..6).try_for_each(|_| {
                    let before = rounds.load(Ordering::Relaxed);
                    check(port, &[]).expect(0);
                    wait_until("another table", PATIENCE, || {
                        (rounds.load(Ordering::Relaxed) > before).then_some(())
                    })
                })
            });
            done.store(true, Ordering::Relaxed);
            maker.join().expect("its end")?;
            checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
}

/// PostgreSQL refuses Citus' decoder where it is not listed: told before somebody splits a shard, with what mends it.
#[test]
fn a_node_that_refuses_the_decoder_of_citus_is_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let port = cluster.coordinator().port();
        check(port, &[]).expect(0);
        let worker = cluster.worker(2);
        let listed = "SELECT current_setting('output_plugin_libraries', true) IS NOT NULL";
        if engine != Engine::Citus || worker.query_value(listed)? != "t" {
            eprintln!("skipped: no list of output plugins matters here");
            return Ok(());
        }
        worker.execute("ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding'")?;
        worker.execute("SELECT pg_reload_conf()")?;
        let look = || check(port, &[]).expect(3);
        let told = wait_until("the setting", PATIENCE, || {
            let shown = worker.query_value("SHOW output_plugin_libraries").ok()?;
            (!shown.contains("citus")).then(look)
        })?;
        let place = format!("127.0.0.1:{}", worker.port());
        assert!(
            told.out.contains("1 findings on 3 nodes") && told.out.contains(&place),
            "{told:?}"
        );
        let line = told.out.lines().find(|line| line.contains("output plugins")).expect("a line");
        let (_, mend) = line.split_once("(42501): ").expect("what to do");
        for statement in mend.split_inclusive(';') {
            worker.execute(statement)?;
        }
        wait_until("the setting", PATIENCE, || {
            (worker.query_value("SHOW output_plugin_libraries").ok()?.contains("citus"))
                .then_some(())
        })?;
        check(port, &[]).expect(0);
        Ok(())
    });
}

/// One pair of nodes that do not reach each other, where everybody else does: Citus itself says so of no query that needs
/// another pair.
#[test]
fn a_pair_of_nodes_that_do_not_reach_each_other_is_named() {
    on_each_engine(|engine| {
        if engine != Engine::Citus {
            // The embedded catalog's nodes have no function that asks for that.
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let port = cluster.coordinator().port();
        check(port, &[]).expect(0);
        let (from, to) = (cluster.worker(1), cluster.worker(2));
        // Worker 2 asks for a password, which everybody knows but worker 1.
        to.psql("SET citus.enable_ddl_propagation = off; ALTER ROLE postgres PASSWORD 'secret';")?;
        let knows = "INSERT INTO pg_dist_authinfo VALUES (0, 'postgres', 'password=secret')";
        cluster.coordinator().execute(knows)?;
        to.execute(knows)?;
        let hba = to.data_dir().join("pg_hba.conf");
        let open = std::fs::read_to_string(&hba).expect("a file");
        let asks = format!("host all all {HOST}/32 scram-sha-256\n{open}");
        std::fs::write(&hba, asks).expect("another file");
        to.reload()?;
        let look = || {
            let place = format!("host={HOST} port={port} user=postgres dbname=postgres");
            run(command(&["check", "-d", &place]).env("PGPASSWORD", "secret"))
        };
        let told = wait_until("the new rules", PATIENCE, || {
            let refused = check(port, &[]);
            (refused.code == Some(1)).then(look)
        })?
        .expect(3);
        let (source, target) = (cluster.catalog_port(1), cluster.catalog_port(2));
        let words = format!(
            "look: connections: {HOST}:{source}: it does not get an answer from {HOST}:{target} as role \"postgres\""
        );
        assert!(told.out.contains(&words), "{words}: {told:?}");
        assert!(told.out.contains("1 findings on 3 nodes"), "{told:?}");
        from.execute(knows)?;
        let whole = look().expect(0);
        assert!(whole.out.contains("0 findings on 3 nodes"), "{whole:?}");
        Ok(())
    });
}
