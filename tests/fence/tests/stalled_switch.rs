//! Something stands still in the middle of citus_set_cluster_read_only(), when gates are closed: nobody waits
//! for it any longer than the attempt is to last.

use std::thread::JoinHandle;
use std::time::Duration;

use fence_tests::{
    Client, Cluster, Engine, Load, PATIENCE, Result, in_background, on_each_engine, wait_until,
    wait_until_free, words,
};
use test_cluster::Stopped;
use test_cluster::postgres::Error;

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";

/// Longest attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// A node that hears nothing more opens its gates after this.
const SILENCE: Duration = Duration::from_secs(3);
/// The coordinator keeps them closed for longer while nodes are being switched, which may take them so long.
const SWITCH: Duration = Duration::from_secs(12);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(3);

/// A cluster with a table on every node that no other node knows.
fn cluster(engine: Engine) -> Result<Cluster> {
    let cluster = Cluster::builder(engine).workers(2).build()?;
    cluster.execute_everywhere("CREATE TABLE own (n int)")?;
    Ok(cluster)
}

/// A writer that keeps a gate of a node open, as a client or as Citus' sessions between nodes do.
fn in_the_way(cluster: &Cluster, node: usize, gate: &str) -> Result<Client> {
    let name = if gate == "client" { "test" } else { "citus_internal gpid=10000000001" };
    let mut client = cluster.node(node).connect_params().application_name(name).connect()?;
    client.batch_execute("BEGIN; INSERT INTO own VALUES (0)").expect("a write");
    Ok(client)
}

/// A session that calls it, with its process.
fn caller(cluster: &Cluster) -> Result<(JoinHandle<std::result::Result<(), Error>>, i32)> {
    let mut caller = cluster.connect(0)?;
    let pid = caller.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
    Ok((std::thread::spawn(move || caller.batch_execute(READ_ONLY)), pid))
}

/// Waits until the coordinator holds that gate closed, and with it all that are closed before.
fn await_closed(cluster: &Cluster, gate: &str) -> Result<()> {
    let closed = format!("SELECT {gate}_gate_closed FROM citus_fence.stat_gate");
    wait_until(&format!("a closed {gate} gate"), PATIENCE, || {
        (cluster.coordinator().query_value(&closed).ok()? == "t").then_some(())
    })
}

/// Writers of rows that no other node has to do with.
fn writers(cluster: &Cluster) -> Result<Vec<Load>> {
    let insert = |_| vec!["INSERT INTO own VALUES (1)".to_owned()];
    (0..cluster.nodes().len()).map(|node| Load::start(cluster, node, insert)).collect()
}

/// Ends the writers: nobody has waited for longer than that, or met anything but the read-only node.
fn assert_not_stalled(writers: Vec<Load>, bound: Duration) {
    for (node, writer) in writers.into_iter().enumerate() {
        let outcome = writer.stop();
        assert!(outcome.longest < bound, "node {node}: a write took {:?}", outcome.longest);
        let strange = outcome.errors.iter().find(|error| !error.starts_with("25006"));
        assert_eq!(strange, None, "node {node}");
    }
}

/// What each node says of itself agrees with how the call has ended; afterwards nothing of it is left.
fn assert_settled(cluster: &Cluster, has_succeeded: bool) -> Result<()> {
    let noted = "SELECT count(*) FROM citus_fence.cluster_read_only";
    let expected = if has_succeeded { ("read-only", "1") } else { ("read-write", "0") };
    for node in cluster.nodes() {
        let state = node.query_value("SELECT state FROM citus_fence.stat_gate")?;
        assert_eq!(state, expected.0, "{}", node.name());
    }
    assert_eq!(cluster.coordinator().query_value(noted)?, expected.1);
    wait_until_free(cluster, Duration::from_secs(15))?;
    cluster.coordinator().execute(READ_WRITE)?;
    assert_eq!(cluster.coordinator().query_value(noted)?, "0");
    for node in cluster.nodes() {
        assert_eq!(node.query_value("SELECT count(*) FROM citus_fence.gate_blockers")?, "0");
    }
    cluster.execute_everywhere("INSERT INTO own VALUES (2)")
}

/// A postmaster stands still: its sessions go on, and new ones do not come.
#[test]
fn a_node_that_takes_no_new_session_stalls_nobody() {
    on_each_engine(|engine: Engine| {
        let cluster = cluster(engine)?;
        let mut in_the_way = in_the_way(&cluster, 1, "client")?;
        let writers = writers(&cluster)?;
        let call = in_background(&cluster, 0, &[READ_ONLY.to_owned()]);
        await_closed(&cluster, "client")?;
        let still = Stopped::process(cluster.node(2).pid()?)?;
        in_the_way.batch_execute("COMMIT").expect("the end of what was in the way");
        // Either way: nobody is held back any more.
        let result = call.join().expect("a thread");
        still.go_on();
        if let Err(error) = &result {
            let words = words(error);
            assert!(words.contains(&cluster.node(2).port().to_string()), "{words}");
        }
        assert_not_stalled(writers, ATTEMPT + SLACK);
        assert_settled(&cluster, result.is_ok())
    });
}

/// The session that has called it stands still: the nodes open their gates by themselves.
#[test]
fn a_caller_that_stands_still_stalls_nobody_for_long() {
    on_each_engine(|engine: Engine| {
        let cluster = cluster(engine)?;
        for gate in ["client", "internal"] {
            let mut in_the_way = in_the_way(&cluster, 1, gate)?;
            let writers = writers(&cluster)?;
            let (call, pid) = caller(&cluster)?;
            await_closed(&cluster, gate)?;
            let still = Stopped::process(pid)?;
            for writer in &writers {
                writer.wait_for_more(1)?;
            }
            assert!(!call.is_finished());
            in_the_way.batch_execute("COMMIT").expect("the end of what was in the way");
            still.go_on();
            let result = call.join().expect("a thread");
            assert_not_stalled(writers, ATTEMPT + SILENCE + SLACK);
            assert_settled(&cluster, result.is_ok())?;
        }
        Ok(())
    });
}

/// The same when a part of the nodes is switched already: all are switched back.
#[test]
fn a_caller_that_stands_still_while_nodes_are_switched() {
    on_each_engine(|engine: Engine| {
        let cluster = cluster(engine)?;
        // Keeps one node closing for as long as it is there: no gate of the cluster's database shows it.
        let worker = cluster.worker(2);
        worker.execute("CREATE DATABASE other")?;
        let mut other = worker.connect_params().database("other").connect()?;
        other
            .batch_execute("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'theirs'")
            .expect("a prepared transaction");
        let writers = writers(&cluster)?;
        let (call, pid) = caller(&cluster)?;
        wait_until("a node that is closing", PATIENCE, || {
            let state = worker.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
            (state == "closing").then_some(())
        })?;
        let still = Stopped::process(pid)?;
        other.batch_execute("COMMIT PREPARED 'theirs'").expect("its end");
        // The others refuse it.
        writers[0].wait_for_more(1)?;
        assert!(!call.is_finished());
        still.go_on();
        let error = call.join().expect("a thread").expect_err("the coordinator has let go");
        assert!(words(&error).contains("switched back"), "{}", words(&error));
        assert_not_stalled(writers, SWITCH + SLACK);
        assert_settled(&cluster, false)
    });
}
