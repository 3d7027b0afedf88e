//! The whole cluster read-only: no distributed transaction is cut in half, all nodes or none.

use std::time::{Duration, Instant};

use fence_tests::{
    Bank, Client, Cluster, Engine, Heard, PATIENCE, Result, Spread, on_each_engine, refusal,
    wait_until, wait_until_free,
};
use test_cluster::{Phase, StopMode, Writers};

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";

const ROUNDS: usize = 50;
const CONTROL_ROUNDS: usize = 20;

/// What each node says of itself.
fn states(client: &mut Client) -> Vec<Option<String>> {
    client
        .query("SELECT state FROM citus_cluster_read_only_status() ORDER BY groupid", &[])
        .unwrap_or_else(|error| panic!("status: {}", fence_tests::words(&error)))
        .into_iter()
        .map(|row| row.get(0))
        .collect()
}

fn all_are(client: &mut Client, state: &str) -> bool {
    states(client).iter().all(|found| found.as_deref() == Some(state))
}

/// Whether the switch is written down.
fn is_noted(cluster: &Cluster) -> Result<bool> {
    let count =
        cluster.coordinator().query_value("SELECT count(*) FROM citus_fence.cluster_read_only")?;
    Ok(count == "1")
}

#[test]
fn no_transaction_is_cut_in_half() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 2)?;
        let mut client = cluster.connect(0)?;
        for round in 0..ROUNDS {
            writers.wait_for_more(10, PATIENCE)?;
            client.batch_execute(READ_ONLY).expect(READ_ONLY);
            let closed = Instant::now();
            let before: Vec<String> = writers
                .marks()
                .into_iter()
                .filter(|mark| mark.acknowledged < closed)
                .map(|mark| mark.transfer)
                .collect();
            let audit = bank.audit(&cluster, before.iter().map(String::as_str))?;
            assert!(audit.is_clean(), "round {round}: {audit}");
            assert!(all_are(&mut client, "read-only"), "{:?}", states(&mut client));
            client.batch_execute(READ_WRITE).expect(READ_WRITE);
            assert!(all_are(&mut client, "read-write"), "{:?}", states(&mut client));
        }
        let summary = writers.stop();
        let strange: Vec<_> = summary
            .errors
            .iter()
            .filter(|error| error.sqlstate.as_deref() != Some("25006"))
            .collect();
        assert!(strange.is_empty(), "writers met something else than read-only nodes: {strange:?}");
        let cut: Vec<_> =
            summary.errors.iter().filter(|error| error.phase == Phase::Committing).collect();
        assert!(cut.is_empty(), "writers that do not know what became of their commit: {cut:?}");
        let audit = bank.audit(&cluster, summary.transfers())?;
        assert!(audit.is_clean(), "at the end: {audit}");
        for node in cluster.nodes() {
            let ungated = node.query_value("SELECT ungated_commits FROM citus_fence.stat_gate")?;
            assert_eq!(ungated, "0", "{} has commits that passed no gate", node.name());
        }
        Ok(())
    });
}

/// The control: the nodes are switched one after the other, with no gate closed before.  Commits are broken
/// off in their middle: their clients do not know what became of them, and nor do the nodes that have
/// prepared them.
#[test]
fn node_by_node_commits_are_broken_off() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 3)?;
        let is_broken = |writers: &Writers| {
            writers.errors().iter().any(|error| error.phase == Phase::Committing)
        };
        for _ in 0..CONTROL_ROUNDS {
            writers.wait_for_more(10, PATIENCE)?;
            for node in cluster.nodes() {
                // Fails where the node before has left something prepared here.
                let call = "SET citus_fence.lock_timeout = '1s'; SELECT alter_system_read_only()";
                let _ = node.execute(call);
            }
            for node in cluster.nodes() {
                node.execute("SELECT alter_system_read_write()")?;
            }
            if is_broken(&writers) {
                break;
            }
            wait_until("recovery", PATIENCE, || cluster.recover_prepared().ok())?;
        }
        assert!(is_broken(&writers), "nothing is broken off: the test beside this shows nothing");
        drop(writers);
        Ok(())
    });
}

#[test]
fn writes_are_refused_everywhere_and_reads_go_on() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        cluster.execute_everywhere("CREATE TABLE own (n int)")?;
        Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        assert!(is_noted(&cluster)?);
        for round in 0..2 {
            for number in 0..cluster.nodes().len() {
                let mut session = cluster.connect(number)?;
                let error = refusal(&mut session, "INSERT INTO own VALUES (1)");
                assert_eq!(error.code().code(), "25006", "{error:?}");
                session.batch_execute("SELECT count(*) FROM own").expect("a read");
                for read in Spread::reads(engine) {
                    session.batch_execute(read).unwrap_or_else(|error| {
                        panic!("{read}: {}", fence_tests::words(&error));
                    });
                }
            }
            if round == 0 {
                for node in cluster.nodes() {
                    node.restart()?;
                }
            }
        }
        // Again is no error, and changes nothing.
        let mut client = cluster.connect(0)?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert!(!is_noted(&cluster)?);
        cluster.execute_everywhere("INSERT INTO own VALUES (1)")
    });
}

/// What operators set for want of something better must not be in the way; nor settings that have a reading
/// transaction wait for all that may write, the caller among them.
#[test]
fn it_works_whatever_transactions_are_by_default() {
    const READ_ONLY_BY_DEFAULT: &[&str] = &["default_transaction_read_only = on"];
    const DEFERRABLE: &[&str] =
        &["default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on"];
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        // One after the other: with both the caller itself may not write, and nobody waits for it.
        for settings in [DEFERRABLE, READ_ONLY_BY_DEFAULT] {
            for node in cluster.nodes() {
                for setting in settings {
                    node.execute(&format!("ALTER SYSTEM SET {setting}"))?;
                }
                node.restart()?;
            }
            let mut client = cluster.connect(0)?;
            client.batch_execute(READ_ONLY).expect(READ_ONLY);
            assert!(is_noted(&cluster)?);
            assert!(all_are(&mut client, "read-only"), "{settings:?}: {:?}", states(&mut client));
            client.batch_execute(READ_WRITE).expect(READ_WRITE);
            assert!(!is_noted(&cluster)?);
            assert!(all_are(&mut client, "read-write"));
        }
        Ok(())
    });
}

/// All or none: a node that does not answer leaves all others as they were.
#[test]
fn a_dead_node_leaves_the_cluster_writing() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        cluster.execute_everywhere("CREATE TABLE own (n int)")?;
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(
                "SET citus_fence.connect_timeout = '1s'; SET citus_fence.acquire_timeout = '3s'",
            )
            .expect("settings");
        for is_frozen in [true, false] {
            if is_frozen {
                cluster.node(2).freeze()?;
            } else {
                cluster.node(2).stop(StopMode::Immediate)?;
            }
            let error = refusal(&mut client, READ_ONLY);
            assert_eq!(error.code().code(), "08001", "{error:?}");
            assert!(error.message().contains(&cluster.node(2).port().to_string()), "{error:?}");
            assert!(!is_noted(&cluster)?);
            for node in [0, 1] {
                cluster.node(node).execute("INSERT INTO own VALUES (1)")?;
            }
            if is_frozen {
                cluster.node(2).thaw()?;
            } else {
                cluster.node(2).start()?;
            }
        }
        wait_until_free(&cluster, Duration::from_secs(10))?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        // To open, every node is asked; who does not answer is named, and finished by the next call.
        cluster.node(2).stop(StopMode::Immediate)?;
        let error = refusal(&mut client, READ_WRITE);
        assert_eq!(error.code().code(), "58000", "{error:?}");
        assert_eq!(error.message(), "could not switch every node to read-write");
        assert!(
            error.detail().unwrap_or_default().contains(&cluster.node(2).port().to_string()),
            "{error:?}"
        );
        cluster.node(1).execute("INSERT INTO own VALUES (1)")?;
        assert!(is_noted(&cluster)?);
        cluster.node(2).start()?;
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert!(!is_noted(&cluster)?);
        cluster.execute_everywhere("INSERT INTO own VALUES (1)")
    });
}

/// A node that Citus has been told not to use is left out where it does not answer, and is switched with the
/// others where it does.
#[test]
fn an_inactive_node_keeps_nobody_from_switching() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        // Not the worker that Citus calls the first, by address: it needs that one itself.
        let node = cluster.workers().iter().max_by_key(|node| node.port()).expect("workers");
        let port = node.port();
        let group = "SELECT groupid FROM pg_dist_node WHERE nodeport =";
        let group = cluster.coordinator().query_value(&format!("{group} {port}"))?;
        let group: usize = group.parse().expect("a group");
        cluster
            .coordinator()
            .execute(&format!("SELECT citus_disable_node('127.0.0.1', {port})"))?;
        let is_inactive = format!("SELECT NOT isactive FROM pg_dist_node WHERE nodeport = {port}");
        wait_until("an inactive node", PATIENCE, || {
            (cluster.coordinator().query_value(&is_inactive).ok()? == "t").then_some(())
        })?;
        let mut client = cluster.connect(0)?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        assert!(all_are(&mut client, "read-only"), "{:?}", states(&mut client));
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        node.stop(StopMode::Immediate)?;
        let mut warned = Heard::on(&cluster, 0)?;
        for _ in 0..2 {
            warned.client.batch_execute(READ_ONLY).expect(READ_ONLY);
            let said = warned.take().join("\n");
            assert!(said.contains("WARNING") && said.contains(&port.to_string()), "{said}");
            for (other, state) in states(&mut client).into_iter().enumerate() {
                assert_eq!(state.as_deref(), (other != group).then_some("read-only"), "{other}");
            }
            client.batch_execute(READ_WRITE).expect(READ_WRITE);
            assert!(!is_noted(&cluster)?);
        }
        // One that is silent costs its bound each time it is asked; the others bear waiting for it, longer
        // than a node keeps a gate closed that hears nothing more.
        node.start()?;
        node.freeze()?;
        client.batch_execute("SET citus_fence.connect_timeout = '4s'").expect("a setting");
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        assert!(states(&mut client).iter().flatten().all(|state| state == "read-only"));
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert!(!is_noted(&cluster)?);
        node.thaw()?;
        Ok(())
    });
}

/// A writer in the way, a foreign prepared transaction too, is named, and nothing is switched.
#[test]
fn who_is_in_the_way_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        cluster.execute_everywhere("CREATE TABLE own (n int)")?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.acquire_timeout = '2s'").expect("a setting");
        for (begin, end, name) in [
            ("BEGIN; INSERT INTO own VALUES (1)", "ROLLBACK", None),
            (
                "BEGIN; INSERT INTO own VALUES (1); PREPARE TRANSACTION 'my own'",
                "ROLLBACK PREPARED 'my own'",
                Some("my own"),
            ),
        ] {
            let mut writer = cluster.connect(1)?;
            writer.batch_execute(begin).expect(begin);
            let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
            let error = refusal(&mut client, READ_ONLY);
            assert_eq!(error.code().code(), "55P03", "{error:?}");
            let detail = error.detail().unwrap_or_default();
            let expected = name.map_or_else(|| format!("process {pid} "), str::to_owned);
            assert!(detail.contains(&expected), "{detail} does not name {expected}");
            assert!(detail.contains(&cluster.node(1).port().to_string()), "{detail}");
            assert!(all_are(&mut client, "read-write"));
            assert!(!is_noted(&cluster)?);
            writer.batch_execute(end).expect(end);
        }
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        Ok(())
    });
}

/// What was prepared while the library was not loaded holds no gate that would show it.
#[test]
fn what_was_prepared_before_the_preload_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let node = cluster.node(1);
        node.execute("CREATE TABLE own (n int)")?;
        let with = node.restart_without_fence()?;
        node.execute("BEGIN; INSERT INTO own VALUES (1); PREPARE TRANSACTION 'old'")?;
        node.restart_with_libraries(&with)?;
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(
                "SET citus_fence.acquire_timeout = '4s'; SET citus_fence.block_mode = 'all'",
            )
            .expect("settings");
        for call in [READ_ONLY, "SELECT citus_block_writes_for_backup()"] {
            let error = refusal(&mut client, call);
            assert_eq!(error.code().code(), "55P03", "{error:?}");
            let detail = error.detail().unwrap_or_default();
            assert!(detail.contains("'old'"), "{call}: {detail}");
            assert!(detail.contains(&node.port().to_string()), "{call}: {detail}");
        }
        node.execute("ROLLBACK PREPARED 'old'")?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        Ok(())
    });
}

/// Between two of its steps such a command holds no gate.  Cut there, it leaves an index on some nodes only.
#[test]
fn a_command_that_commits_on_its_way_is_waited_for() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let node = cluster.coordinator();
        node.execute("CREATE TABLE indexed (id bigint, n int)")?;
        if engine == Engine::Citus {
            node.execute("SELECT create_distributed_table('indexed', 'id')")?;
        }
        node.execute("CREATE INDEX slow ON indexed (n)")?;
        const DROP: &str = "DROP INDEX CONCURRENTLY slow";
        let mut reader = cluster.connect(0)?;
        reader.batch_execute("BEGIN; SELECT count(*) FROM indexed").expect("a read");
        let drop = fence_tests::in_background(&cluster, 0, &[DROP.to_owned()]);
        wait_until("the second step", PATIENCE, || {
            let is_invalid = "SELECT count(*) FROM pg_index i JOIN pg_stat_activity a
                  ON i.indexrelid = 'slow'::regclass AND NOT i.indisvalid
                 AND a.wait_event_type = 'Lock' AND a.query = ";
            (node.query_value(&format!("{is_invalid}'{DROP}'")).ok()? == "1").then_some(())
        })?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.acquire_timeout = '2s'").expect("a setting");
        let error = refusal(&mut client, READ_ONLY);
        assert_eq!(error.code().code(), "55P03", "{error:?}");
        assert!(error.detail().unwrap_or_default().contains(DROP), "{error:?}");
        assert!(all_are(&mut client, "read-write"));
        reader.batch_execute("COMMIT").expect("the end of the read");
        drop.join().expect("a thread").expect(DROP);
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        for node in cluster.nodes() {
            let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'slow%'";
            assert_eq!(node.query_value(left)?, "0");
        }
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        Ok(())
    });
}

/// Under a block the switch would wait for those who wait for the block.
#[test]
fn under_a_block_it_is_refused() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        for mode in ["2pc", "all"] {
            client.batch_execute(&format!("SET citus_fence.block_mode = '{mode}'")).expect(mode);
            client.batch_execute("SELECT citus_block_writes_for_backup()").expect("a block");
            let error = refusal(&mut client, READ_ONLY);
            assert_eq!(error.code().code(), "55006", "{mode}: {error:?}");
            client.batch_execute("SELECT citus_unblock_writes_for_backup()").expect("its end");
            client.batch_execute(READ_ONLY).expect(READ_ONLY);
            client.batch_execute(READ_WRITE).expect(READ_WRITE);
        }
        Ok(())
    });
}

/// A node without the extension cannot be told anything; the others are not said to be read-only.
#[test]
fn a_node_that_cannot_be_told_to_write_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let node = cluster.node(2);
        let drop = match engine {
            Engine::Embedded => "DROP EXTENSION citus_fence",
            Engine::Citus => "SET citus.enable_ddl_propagation = off; DROP EXTENSION citus_fence",
        };
        node.execute(drop)?;
        let error = refusal(&mut cluster.connect(0)?, READ_WRITE);
        assert_eq!(error.code().code(), "58000", "{error:?}");
        assert_eq!(error.message(), "could not switch every node to read-write");
        let detail = error.detail().unwrap_or_default();
        assert!(detail.contains(&node.port().to_string()), "{detail}");
        Ok(())
    });
}

/// The coordinator dies at any moment of the switch; the next call finishes it, either way.
#[test]
fn a_crash_in_the_middle_is_finished_by_the_next_call() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        cluster.execute_everywhere("CREATE TABLE own (n int)")?;
        for round in 0..12 {
            let mut caller = cluster.connect(0)?;
            let begun = Instant::now();
            let call = std::thread::spawn(move || caller.batch_execute(READ_ONLY));
            // Over the whole length of the call, which takes some tens of milliseconds.
            let strike = Duration::from_millis(4 * round);
            while begun.elapsed() < strike && !call.is_finished() {
                std::hint::spin_loop();
            }
            cluster.coordinator().crash()?;
            let was_told = call.join().expect("a thread").is_ok();
            cluster.coordinator().start()?;
            let mut client = cluster.connect(0)?;
            if was_told {
                assert!(all_are(&mut client, "read-only"), "round {round}: told, and lost");
            }
            if round % 2 == 0 {
                client.batch_execute(READ_ONLY).unwrap_or_else(|error| {
                    panic!("round {round}: {}", fence_tests::words(&error));
                });
                assert!(all_are(&mut client, "read-only"), "round {round}");
            }
            client.batch_execute(READ_WRITE).unwrap_or_else(|error| {
                panic!("round {round}: {}", fence_tests::words(&error));
            });
            assert!(all_are(&mut client, "read-write"), "round {round}");
            assert!(!is_noted(&cluster)?);
            cluster.execute_everywhere("INSERT INTO own VALUES (1)")?;
        }
        Ok(())
    });
}

/// A cancel that comes while the nodes are being switched comes too late: they are all switched, and the
/// caller is told.
#[test]
fn a_cancel_in_the_middle_of_the_switch_is_not_half_heard() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        // Keeps one node closing for as long as it is there: no gate of the cluster's database shows it.
        let worker = cluster.worker(2);
        worker.execute("CREATE DATABASE other")?;
        let mut other = worker.connect_params().database("other").connect()?;
        other
            .batch_execute("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'theirs'")
            .expect("it");
        let mut caller = cluster.connect(0)?;
        let pid: i32 = caller.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
        let call = std::thread::spawn(move || caller.batch_execute(READ_ONLY));
        wait_until("a node that is closing", PATIENCE, || {
            let state = worker.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
            (state == "closing").then_some(())
        })?;
        cluster.coordinator().execute(&format!("SELECT pg_cancel_backend({pid})"))?;
        other.batch_execute("COMMIT PREPARED 'theirs'").expect("its end");
        let result = call.join().expect("a thread");
        let mut client = cluster.connect(0)?;
        assert!(all_are(&mut client, "read-only"), "{:?}", states(&mut client));
        assert!(is_noted(&cluster)?);
        result.unwrap_or_else(|error| panic!("it is read-only: {}", fence_tests::words(&error)));
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert!(all_are(&mut client, "read-write"), "{:?}", states(&mut client));
        Ok(())
    });
}
