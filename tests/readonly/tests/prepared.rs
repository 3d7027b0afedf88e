//! Prepared transactions: closing never hangs on one, and says which one it is.

use std::time::{Duration, Instant};

use readonly_tests::{
    Client, Engine, PATIENCE, READ_ONLY, Result, Server, StopMode, assert_agrees, assert_untouched,
    close, is_read_only, on_each_engine, open, refusal, refused, serve, single, traces_of_writers,
    wait_until, writes,
};
use test_cluster::Cluster;

/// How long a call may take that finds a prepared transaction in its way, bound and slack.
const BOUND: Duration = Duration::from_secs(30);

fn prepare(node: &Server, gid: &str) -> Result<()> {
    node.execute(&format!("BEGIN; INSERT INTO served VALUES (100); PREPARE TRANSACTION '{gid}'"))
}

/// The call fails within its bound and names it, and the node goes on writing, also after restarts.
fn fails_and_names(node: &Server, gid: &str) -> Result<()> {
    let mut client = node.connect()?;
    for round in 0..2 {
        client.batch_execute("SET citus_fence.lock_timeout = '500ms'").expect("a setting");
        for terminate in [true, false] {
            let begun = Instant::now();
            let call = format!("SELECT alter_system_read_only(terminate_writers => {terminate})");
            let error = refusal(&mut client, &call);
            assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
            assert_eq!(error.code().code(), "55006", "{error:?}");
            let detail = error.detail().unwrap_or_default();
            assert!(detail.contains(gid), "{detail} does not name {gid}");
            assert!(error.hint().is_some(), "no hint");
        }
        assert!(!assert_agrees(node)?);
        assert!(writes(&mut client));
        if round == 0 {
            // After a crash, and after a clean restart.
            node.stop(StopMode::Immediate)?;
            node.start()?;
            node.restart()?;
            client = node.connect()?;
        }
    }
    Ok(())
}

/// Whoever closes a gate for writers to wait cannot do so before it has ended; the error names it.
fn holds_the_gate(node: &Server, gid: &str) -> Result<()> {
    let mut client = node.connect()?;
    client.batch_execute("SET lock_timeout = '300ms'; BEGIN").expect("a setting");
    let error = refusal(&mut client, "SELECT citus_fence.lock_gate('client')");
    assert_eq!(error.code().code(), "55P03", "{error:?}");
    let text = format!("{} {}", error.message(), error.detail().unwrap_or_default());
    assert!(text.contains(gid), "{text} does not name {gid}");
    assert!(error.hint().is_some(), "no hint");
    client.batch_execute("ROLLBACK").expect("a rollback");
    assert!(writes(&mut client), "the gate stayed closed");
    Ok(())
}

#[test]
fn one_that_was_there_before() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for (number, end) in ["COMMIT", "ROLLBACK"].into_iter().enumerate() {
            let gid = format!("in the way {number}");
            prepare(node, &gid)?;
            holds_the_gate(node, &gid)?;
            fails_and_names(node, &gid)?;
            // It still keeps the gate, after all those restarts.
            holds_the_gate(node, &gid)?;
            let rows = || -> Result<u32> {
                let count = node.query_value("SELECT count(*) FROM served")?;
                Ok(count.parse().expect("a count"))
            };
            let before = rows()?;
            node.execute(&format!("{end} PREPARED '{gid}'"))?;
            assert_eq!(rows()? - before, u32::from(end == "COMMIT"), "{end}");
            // The control: it was this one.
            close(node)?;
            open(node)?;
            let mut client = node.connect()?;
            client
                .batch_execute("BEGIN; SELECT citus_fence.lock_gate('client'); COMMIT")
                .expect("a gate that nobody holds");
        }
        assert_untouched(node)
    });
}

/// The place of a prepared transaction among the backends is used again by others.
#[test]
fn one_whose_session_is_gone_and_whose_place_is_taken() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        prepare(node, "gone")?;
        // Sessions that take the free place, one of them a writer.
        let mut others: Vec<Client> = (0..5).map(|_| node.connect()).collect::<Result<_>>()?;
        others[0].batch_execute("BEGIN; INSERT INTO served VALUES (1)").expect("a write");
        holds_the_gate(node, "gone")?;
        let mut closer = node.connect()?;
        closer.batch_execute("SET citus_fence.lock_timeout = '500ms'").expect("a setting");
        let error = refusal(&mut closer, READ_ONLY);
        assert!(error.detail().unwrap_or_default().contains("gone"), "{error:?}");
        // Those who were in the way are ended all the same, and nobody else is.
        assert!(others[0].simple_query("SELECT 1").is_err(), "the writer lives");
        for other in &mut others[1..] {
            assert_eq!(readonly_tests::value(other, "SELECT 1"), "1");
        }
        node.execute("ROLLBACK PREPARED 'gone'")?;
        let lsn = close(node)?;
        assert!(traces_of_writers(node, &lsn)?.is_empty());
        open(node)?;
        assert_untouched(node)
    });
}

/// Sessions that prepare and commit all the time, while the node is closed again and again.
#[test]
fn prepared_while_it_is_closed() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let script = "\\set gid random(1, 1000000000)\n\
             BEGIN;\nINSERT INTO served VALUES (1);\nPREPARE TRANSACTION 'p:gid';\nCOMMIT PREPARED 'p:gid';\n";
        let mut closed = 0;
        for _ in 0..15 {
            let mut load = node.pgbench(script, 6, &[])?;
            let count = || node.query_value("SELECT count(*) FROM served");
            let before = count()?;
            wait_until("prepared transactions", PATIENCE, || {
                (count().ok()? != before).then_some(())
            })
            .unwrap_or_else(|error| panic!("{error}: {}", load.output()));
            let begun = Instant::now();
            let outcome = node.query_value(READ_ONLY);
            assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
            match outcome {
                Ok(lsn) => {
                    closed += 1;
                    load.wait_for_end(PATIENCE)?;
                    let traces = traces_of_writers(node, &lsn)?;
                    assert!(traces.is_empty(), "{traces:?}");
                    assert!(assert_agrees(node)?);
                    open(node)?;
                }
                Err(error) => {
                    // Its session was terminated between the two halves.
                    assert!(error.to_string().contains("prepared"), "{error}");
                    load.kill();
                    assert!(!assert_agrees(node)?);
                }
            }
            let left = "SELECT gid FROM pg_prepared_xacts";
            for gid in node.query(left)?.into_iter().flatten().flatten() {
                // Its session may be on its way to commit it.
                let _ = node.execute(&format!("ROLLBACK PREPARED '{gid}'"));
            }
        }
        println!("{}: closed {closed} of 15 times under prepared load", engine.name());
        close(node)?;
        open(node)?;
        assert_untouched(node)
    });
}

/// What is prepared may still be ended while the call waits for it; then the call succeeds.
#[test]
fn one_that_is_ended_while_the_call_waits() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        for end in ["COMMIT", "ROLLBACK"] {
            prepare(node, "waited for")?;
            let mut closer = node.connect()?;
            closer.batch_execute("SET citus_fence.lock_timeout = '60s'").expect("a setting");
            let call = std::thread::spawn(move || closer.query_one(READ_ONLY, &[]).map(|_| ()));
            wait_until("the call to begin", PATIENCE, || {
                let state = node.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
                (state == "closing").then_some(())
            })?;
            // New ones are refused meanwhile.
            let mut client = node.connect()?;
            refused(&mut client, "INSERT INTO served VALUES (1)");
            client.batch_execute(&format!("{end} PREPARED 'waited for'")).expect(end);
            call.join().expect("a thread").expect("a closed node");
            assert!(assert_agrees(node)?);
            open(node)?;
        }
        assert_untouched(node)
    });
}

#[test]
fn while_it_is_closed_none_is_made_and_none_is_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        close(node)?;
        let mut client = node.connect()?;
        for end in ["COMMIT PREPARED 'any'", "ROLLBACK PREPARED 'any'"] {
            refused(&mut client, end);
        }
        client.batch_execute("BEGIN; SELECT count(*) FROM served").expect("a read");
        refused(&mut client, "PREPARE TRANSACTION 'read'");
        assert_eq!(node.query_value("SELECT count(*) FROM pg_prepared_xacts")?, "0");
        open(node)?;
        prepare(node, "any")?;
        node.execute("COMMIT PREPARED 'any'")?;
        assert_untouched(node)
    });
}

/// One that was prepared while the library was not loaded holds no gate; it is found all the same.
#[test]
fn one_from_before_the_library_was_loaded() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let with = node.restart_without_fence()?;
        prepare(node, "old")?;
        node.restart_with_libraries(&with)?;
        let mut client = node.connect()?;
        client.batch_execute("SET citus_fence.lock_timeout = '500ms'").expect("a setting");
        let error = refusal(&mut client, READ_ONLY);
        assert!(error.detail().unwrap_or_default().contains("old"), "{error:?}");
        // Nor can the gates be closed for writers to wait: it would walk through.
        client
            .batch_execute(
                "SET lock_timeout = '300ms'; BEGIN; SELECT citus_fence.lock_gate('client')",
            )
            .expect("the clients' gate");
        let error = refusal(&mut client, "SELECT citus_fence.lock_gate('internal')");
        assert!(error.detail().unwrap_or_default().contains("old"), "{error:?}");
        client.batch_execute("ROLLBACK").expect("a rollback");
        node.execute("COMMIT PREPARED 'old'")?;
        assert!(writes(&mut client));
        close(node)?;
        open(node)?;
        assert_untouched(node)
    });
}

/// On a worker, halves of two-phase commits of the coordinator are in the way; a commit of which one
/// half was refused is whole after the recovery.
#[test]
fn halves_of_two_phase_commits_on_a_worker() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.recover_2pc_interval", "-1")
            .build()?;
        cluster.create_distributed(
            "CREATE TABLE shared (id bigint, n bigint)",
            "shared",
            "id",
            4,
        )?;
        let script: String = [1, 2, 3, 4]
            .iter()
            .map(|id| {
                let insert = format!("INSERT INTO %s VALUES ({id}, 1)");
                format!("{};\n", cluster.shard_sql("shared", id, &insert))
            })
            .collect();
        let script = format!("BEGIN;\n{script}END;\n");
        let worker = cluster.worker(1);
        serve(worker)?;
        let rows = |id: &str| -> Result<usize> {
            let rows = cluster.read_all_shards("shared", "SELECT id FROM %s")?;
            Ok(rows.iter().filter(|row| row.values[0].as_deref() == Some(id)).count())
        };
        let mut closed = 0;
        for _ in 0..10 {
            let before = rows("1")?;
            let load = cluster.coordinator().pgbench(&script, 6, &[])?;
            wait_until("two-phase commits", PATIENCE, || {
                (rows("1").ok()? > before + 5).then_some(())
            })
            .unwrap_or_else(|error| panic!("{error}: {}", load.output()));
            let begun = Instant::now();
            let outcome = worker.query_value(READ_ONLY);
            assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
            match outcome {
                Ok(lsn) => {
                    closed += 1;
                    let traces = traces_of_writers(worker, &lsn)?;
                    assert!(traces.is_empty(), "{traces:?}");
                    assert!(is_read_only(worker)?);
                    open(worker)?;
                }
                Err(error) => assert!(error.to_string().contains("prepared"), "{error}"),
            }
            load.kill();
            // Those that are still under way end, or are recovered.
            wait_until("nothing prepared", PATIENCE, || {
                cluster.recover_prepared().ok()?;
                test_cluster::prepared_transactions(&cluster).ok()?.is_empty().then_some(())
            })?;
            let counts = ["1", "2", "3", "4"].map(|id| rows(id).expect("rows"));
            assert!(counts.iter().all(|count| *count == counts[0]), "halved: {counts:?}");
        }
        println!("{}: closed {closed} of 10 times under two-phase load", engine.name());
        cluster.nodes().iter().try_for_each(assert_untouched)
    });
}
