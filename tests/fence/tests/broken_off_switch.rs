//! A switch of the cluster to read-only that is broken off before any node is switched: by a cancel, a termination or a
//! time-out, wherever it is. Nothing is left of it, the note on the coordinator least of all.

use std::thread::JoinHandle;

use fence_tests::{
    Cluster, Engine, PATIENCE, Result, on_each_engine, prove_usable, wait_until, words,
};
use test_cluster::StopMode;
use test_cluster::postgres::Error;

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";
const NOTES: &str = "SELECT count(*) FROM citus_fence.cluster_read_only";
/// Nobody changes the note meanwhile.
const KEEP: &str = "BEGIN; LOCK citus_fence.cluster_read_only IN SHARE MODE";

/// What ends a call, and with which SQLSTATE.
const WAYS: [(&str, &str); 3] =
    [("pg_cancel_backend", "57014"), ("pg_terminate_backend", "57P01"), ("", "57014")];

/// The call, in a session of its own; with a time-out where nobody else is to end it.
fn begin(
    cluster: &Cluster,
    way: &str,
) -> Result<(i32, JoinHandle<std::result::Result<(), Error>>)> {
    let mut caller = cluster.connect(0)?;
    let pid: i32 = caller.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
    if way.is_empty() {
        caller.batch_execute("SET statement_timeout = '2s'").expect("a setting");
    }
    Ok((pid, std::thread::spawn(move || caller.batch_execute(READ_ONLY))))
}

/// Ends it, and sees that it has ended so.
fn end(
    cluster: &Cluster,
    (way, code): (&str, &str),
    (pid, call): (i32, JoinHandle<std::result::Result<(), Error>>),
) -> Result<()> {
    assert!(!call.is_finished(), "{way}: it has ended by itself");
    if !way.is_empty() {
        cluster.coordinator().execute(&format!("SELECT {way}({pid})"))?;
    }
    wait_until("the end of the call", PATIENCE, || call.is_finished().then_some(()))?;
    let error = call.join().expect("a thread").expect_err("a call that was broken off");
    // A client may find its connection closed before it has read why.
    let is_closed = error.is_closed() && code.starts_with("57P");
    assert!(is_closed || words(&error).starts_with(code), "{way}: {}", words(&error));
    Ok(())
}

/// Sessions of the extension's own that wait for a lock on the coordinator.
fn wait_for_a_waiter(cluster: &Cluster, what: &str) -> Result<()> {
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity \
          WHERE application_name LIKE 'citus_fence%' AND wait_event_type = 'Lock' AND query LIKE '%{what}%'"
    );
    wait_until("a session that waits", PATIENCE, || {
        (cluster.coordinator().query_value(&waits).ok()? == "1").then_some(())
    })
}

#[test]
fn while_writers_are_held_back() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut in_the_way = cluster.connect(1)?;
        for way in WAYS {
            in_the_way
                .batch_execute("BEGIN; CREATE TEMPORARY TABLE written (n int)")
                .expect("a write");
            let call = begin(&cluster, way.0)?;
            let closed = "SELECT client_gate_closed FROM citus_fence.stat_gate";
            wait_until("a closed gate", PATIENCE, || {
                (cluster.coordinator().query_value(closed).ok()? == "t").then_some(())
            })?;
            assert_eq!(cluster.coordinator().query_value(NOTES)?, "1", "the call's own note");
            end(&cluster, way, call)?;
            in_the_way.batch_execute("ROLLBACK").expect("a rollback");
            assert_eq!(cluster.coordinator().query_value(NOTES)?, "0", "after {way:?}");
            cluster.execute_everywhere("CREATE TEMPORARY TABLE written (n int)")?;
        }
        prove_usable(&cluster)
    });
}

/// The note is being written, and may yet get there.
#[test]
fn while_it_is_written_down() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        for way in WAYS {
            let mut keeper = cluster.connect(0)?;
            keeper.batch_execute(KEEP).expect("a lock");
            let call = begin(&cluster, way.0)?;
            wait_for_a_waiter(&cluster, "INSERT INTO citus_fence.cluster_read_only")?;
            end(&cluster, way, call)?;
            keeper.batch_execute("ROLLBACK").expect("a rollback");
            let left =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'citus_fence%'";
            wait_until("the end of its sessions", PATIENCE, || {
                (cluster.coordinator().query_value(left).ok()? == "0").then_some(())
            })?;
            assert_eq!(cluster.coordinator().query_value(NOTES)?, "0", "after {way:?}");
        }
        prove_usable(&cluster)
    });
}

/// An earlier switch that was not finished is none of this call's.
#[test]
fn the_note_of_an_earlier_call_stays() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster
            .coordinator()
            .execute("INSERT INTO citus_fence.cluster_read_only (asked_by) VALUES ('earlier')")?;
        let mut in_the_way = cluster.connect(1)?;
        in_the_way.batch_execute("BEGIN; CREATE TEMPORARY TABLE written (n int)").expect("a write");
        for way in WAYS {
            let call = begin(&cluster, way.0)?;
            let closed = "SELECT client_gate_closed FROM citus_fence.stat_gate";
            wait_until("a closed gate", PATIENCE, || {
                (cluster.coordinator().query_value(closed).ok()? == "t").then_some(())
            })?;
            end(&cluster, way, call)?;
            assert_eq!(cluster.coordinator().query_value(NOTES)?, "1", "after {way:?}");
        }
        in_the_way.batch_execute("ROLLBACK").expect("a rollback");
        cluster.coordinator().execute(READ_WRITE)?;
        assert_eq!(cluster.coordinator().query_value(NOTES)?, "0");
        Ok(())
    });
}

/// All nodes write, and the note is still to be taken away: that is done, whoever breaks it off.
#[test]
fn a_call_that_has_opened_all_nodes_takes_its_note_away() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        for (way, _) in &WAYS[..2] {
            cluster.coordinator().execute(READ_ONLY)?;
            let mut keeper = cluster.connect(0)?;
            keeper.batch_execute(KEEP).expect("a lock");
            let mut caller = cluster.connect(0)?;
            let pid: i32 = caller.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
            let call = std::thread::spawn(move || caller.batch_execute(READ_WRITE));
            wait_for_a_waiter(&cluster, "DELETE FROM citus_fence.cluster_read_only")?;
            cluster.coordinator().execute(&format!("SELECT {way}({pid})"))?;
            keeper.batch_execute("ROLLBACK").expect("a rollback");
            let _ = call.join().expect("a thread");
            wait_until("the note's end", PATIENCE, || {
                (cluster.coordinator().query_value(NOTES).ok()? == "0").then_some(())
            })?;
        }
        prove_usable(&cluster)
    });
}

/// A server that is being stopped takes no session in which the note could go: that is said, and keeps nobody.
#[test]
fn a_stop_of_the_server_is_not_kept_up() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let node = cluster.coordinator();
        let mut in_the_way = cluster.connect(1)?;
        in_the_way.batch_execute("BEGIN; CREATE TEMPORARY TABLE written (n int)").expect("a write");
        let (_, call) = begin(&cluster, "pg_terminate_backend")?;
        let closed = "SELECT client_gate_closed FROM citus_fence.stat_gate";
        wait_until("a closed gate", PATIENCE, || {
            (node.query_value(closed).ok()? == "t").then_some(())
        })?;
        node.stop(StopMode::Fast)?;
        assert!(call.join().expect("a thread").is_err());
        node.start()?;
        in_the_way.batch_execute("ROLLBACK").expect("a rollback");
        if node.query_value(NOTES)? == "1" {
            let log = node.log();
            assert!(log.contains("could not be taken away"), "{log}");
            assert!(log.contains("WARNING:  the switch of the cluster was broken off"), "{log}");
        }
        node.execute(READ_WRITE)?;
        assert_eq!(node.query_value(NOTES)?, "0");
        prove_usable(&cluster)
    });
}
