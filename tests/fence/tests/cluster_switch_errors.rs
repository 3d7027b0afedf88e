//! A switch of the cluster to read-only that comes to nothing: what the caller is told, and that every node
//! writes.

use fence_tests::{
    Client, Cluster, Engine, PATIENCE, Result, in_background, on_each_engine, refusal, wait_until,
    words,
};
use test_cluster::StopMode;

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";

/// Every node writes, in the cluster's database; whether the switch is noted.
fn all_write(cluster: &Cluster) -> Result<bool> {
    cluster.execute_everywhere("CREATE TEMPORARY TABLE written (n int)")?;
    let noted = "SELECT count(*) FROM citus_fence.cluster_read_only";
    Ok(cluster.coordinator().query_value(noted)? == "1")
}

/// A transaction in a database that is no part of the cluster.
fn elsewhere(cluster: &Cluster, node: usize) -> Result<Client> {
    let node = cluster.node(node);
    node.execute("CREATE DATABASE elsewhere")?;
    let mut client = node.connect_params().database("elsewhere").connect()?;
    client.batch_execute("BEGIN; CREATE TABLE own (n int)").expect("a write");
    Ok(client)
}

#[test]
fn a_node_without_the_preload_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).without_fence_preload(2).build()?;
        let error = refusal(&mut cluster.connect(0)?, READ_ONLY);
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(error.message().contains(&cluster.node(2).port().to_string()), "{error:?}");
        assert!(error.message().contains("shared_preload_libraries"), "{error:?}");
        assert!(!all_write(&cluster)?);
        Ok(())
    });
}

/// Nobody holds writers of other databases back: they are ended, as on a single node.
#[test]
fn a_writer_in_another_database_is_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut writer = elsewhere(&cluster, 1)?;
        cluster.coordinator().execute(READ_ONLY)?;
        let error = refusal(&mut writer, "COMMIT");
        assert_eq!((error.severity(), error.code().code()), ("FATAL", "25006"), "{error:?}");
        cluster.coordinator().execute(READ_WRITE)?;
        assert!(!all_write(&cluster)?);
        Ok(())
    });
}

/// What is prepared there is nobody's to end: it is named, and all are switched back.
#[test]
fn what_is_prepared_in_another_database_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus_fence.lock_timeout", "500ms")
            .build()?;
        let mut writer = elsewhere(&cluster, 1)?;
        writer.batch_execute("PREPARE TRANSACTION 'theirs'").expect("a prepared transaction");
        let mut client = cluster.connect(0)?;
        let error = refusal(&mut client, READ_ONLY);
        assert_eq!(error.code().code(), "55006", "{error:?}");
        assert!(error.message().contains("could not switch"), "{error:?}");
        assert!(error.message().contains(&cluster.node(1).port().to_string()), "{error:?}");
        assert!(error.detail().unwrap_or_default().contains("theirs"), "{error:?}");
        assert!(!all_write(&cluster)?);
        writer.batch_execute("COMMIT PREPARED 'theirs'").expect("its end");
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        Ok(())
    });
}

/// What could not be switched is the error; that the note is left is told besides.
#[test]
fn a_note_that_cannot_be_taken_away_does_not_hide_why_the_switch_failed() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut in_the_way = cluster.connect(1)?;
        in_the_way.batch_execute("BEGIN; CREATE TEMPORARY TABLE written (n int)").expect("a write");
        let mut caller = cluster.connect(0)?;
        caller.batch_execute("SET citus_fence.acquire_timeout = '3s'").expect("a setting");
        let call = std::thread::spawn(move || caller.batch_execute(READ_ONLY));
        let noted = "SELECT count(*) FROM citus_fence.cluster_read_only";
        wait_until("the note", PATIENCE, || {
            (cluster.coordinator().query_value(noted).ok()? == "1").then_some(())
        })?;
        let mut keeper = cluster.connect(0)?;
        let keep = "BEGIN; LOCK citus_fence.cluster_read_only IN SHARE MODE";
        keeper.batch_execute(keep).expect("a lock");
        let error = call.join().expect("a thread").expect_err("a switch with a writer in the way");
        let told = words(&error);
        assert!(told.starts_with("55P03 could not hold back all writers"), "{told}");
        assert!(told.contains("could not be taken away"), "{told}");
        keeper.batch_execute("ROLLBACK").expect("a rollback");
        in_the_way.batch_execute("ROLLBACK").expect("a rollback");
        cluster.coordinator().execute(READ_WRITE)?;
        assert!(!all_write(&cluster)?, "no note is left");
        Ok(())
    });
}

/// A cancel would leave nodes that do not agree, and waits; a termination does not.
#[test]
fn a_caller_that_switches_can_be_terminated() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let node = cluster.node(1);
        node.execute("CREATE DATABASE elsewhere")?;
        let mut prepared = node.connect_params().database("elsewhere").connect()?;
        let prepare = "BEGIN; CREATE TABLE own (n int); PREPARE TRANSACTION 'stays'";
        prepared.batch_execute(prepare).expect("a prepared transaction");
        // The node waits for it for as long as lock_timeout says, with the gates of all nodes closed.
        let mut caller = cluster.connect(0)?;
        let pid: i32 = caller.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
        let call = std::thread::spawn(move || caller.batch_execute(READ_ONLY));
        wait_until("a node that is being switched", PATIENCE, || {
            let state = node.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
            (state == "closing").then_some(())
        })?;
        let gone = format!("SELECT pg_terminate_backend({pid}, 2000)");
        assert_eq!(cluster.coordinator().query_value(&gone)?, "t", "still there after two seconds");
        assert!(call.join().expect("a thread").is_err());
        prepared.batch_execute("ROLLBACK PREPARED 'stays'").expect("a rollback");
        wait_until("a node that takes the function's word again", PATIENCE, || {
            cluster.coordinator().execute(READ_WRITE).ok()
        })?;
        assert!(!all_write(&cluster)?, "no note is left");
        Ok(())
    });
}

/// What keeps a node from being switched is named by that node, also where a subscription's worker is given time first.
#[test]
fn what_is_prepared_beside_a_subscription_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let (publisher, node) = (cluster.worker(1), cluster.worker(2));
        for server in [publisher, node] {
            server.execute("CREATE DATABASE elsewhere")?;
        }
        let there =
            |server: &test_cluster::Server| server.connect_params().database("elsewhere").connect();
        let (mut from, mut to) = (there(publisher)?, there(node)?);
        for client in [&mut from, &mut to] {
            client.batch_execute("CREATE TABLE news (n int PRIMARY KEY)").expect("a table");
        }
        from.batch_execute("CREATE PUBLICATION p FOR TABLE news").expect("a publication");
        let conninfo = publisher.tcp_params().database("elsewhere").conninfo().replace('\'', "''");
        to.batch_execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p"))
            .expect("a subscription");
        from.batch_execute("INSERT INTO news VALUES (1)").expect("a row");
        wait_until("the row", PATIENCE, || {
            let row = to.query_one("SELECT count(*) FROM news", &[]).ok()?;
            (row.get::<_, i64>(0) == 1).then_some(())
        })?;
        to.batch_execute(
            "BEGIN; CREATE TABLE own (n int); PREPARE TRANSACTION 'other database''s'",
        )
        .expect("a prepared transaction");
        let error = refusal(&mut cluster.connect(0)?, READ_ONLY);
        let told = format!("{} {}", error.message(), error.detail().unwrap_or_default());
        assert_eq!(error.code().code(), "55006", "{error:?}");
        assert!(told.contains(&node.port().to_string()), "{error:?}");
        assert!(told.contains("other database''s"), "{error:?}");
        assert!(!all_write(&cluster)?);
        to.batch_execute("ROLLBACK PREPARED 'other database''s'").expect("its end");
        cluster.coordinator().execute(READ_ONLY)?;
        cluster.coordinator().execute(READ_WRITE)?;
        Ok(())
    });
}

/// An error names those that were not opened, and why, and nobody else: what was opened before takes writes.
#[test]
fn only_who_was_not_opened_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        cluster.worker(1).stop(StopMode::Immediate)?;
        // So that its last look comes when the time is nearly over, as it does with the default.
        client.batch_execute("SET citus_fence.acquire_timeout = '26s'").expect("a setting");
        let error = refusal(&mut client, READ_WRITE);
        let detail = error.detail().unwrap_or_default().to_owned();
        assert_eq!(error.code().code(), "58000", "{error:?}");
        let port = |node: usize| format!(":{}", cluster.node(node).port());
        assert!(detail.contains(&port(1)) && detail.contains("refused"), "{detail}");
        assert!(!detail.contains("0 ms"), "{detail}");
        for node in [0, 2] {
            assert!(!detail.contains(&port(node)), "{detail}");
            let state = "SELECT state FROM citus_fence.stat_gate";
            assert_eq!(cluster.node(node).query_value(state)?, "read-write");
        }
        cluster.worker(1).start()?;
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        assert!(!all_write(&cluster)?);
        Ok(())
    });
}

/// The same of a switch that is taken back.
#[test]
fn only_who_was_not_switched_back_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let node = cluster.node(2);
        let mut prepared = elsewhere(&cluster, 2)?;
        prepared.batch_execute("PREPARE TRANSACTION 'stays'").expect("a prepared transaction");
        let call = in_background(&cluster, 0, &[READ_ONLY.to_owned()]);
        wait_until("a node that is being switched", PATIENCE, || {
            let state = node.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
            (state == "closing").then_some(())
        })?;
        node.stop(StopMode::Immediate)?;
        let error = call.join().expect("a thread").expect_err("a switch without a node");
        let told = words(&error);
        assert!(told.starts_with("58000"), "{told}");
        assert!(told.contains(&format!(":{}", node.port())), "{told}");
        for writes in [0, 1] {
            assert!(!told.contains(&format!(":{} ", cluster.node(writes).port())), "{told}");
            let state = "SELECT state FROM citus_fence.stat_gate";
            assert_eq!(cluster.node(writes).query_value(state)?, "read-write");
        }
        node.start()?;
        let mut elsewhere = node.connect_params().database("elsewhere").connect()?;
        elsewhere.batch_execute("ROLLBACK PREPARED 'stays'").expect("its end");
        cluster.coordinator().execute(READ_WRITE)?;
        assert!(!all_write(&cluster)?);
        Ok(())
    });
}

/// Whoever comes while the cluster is being switched is refused at once, and not after the switch.
#[test]
fn a_switch_under_way_keeps_others_from_beginning() {
    const SWITCHED: &str = "the cluster is being switched";
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut in_the_way = cluster.connect(1)?;
        in_the_way.batch_execute("BEGIN; CREATE TEMPORARY TABLE written (n int)").expect("a write");
        let call = in_background(&cluster, 0, &[READ_ONLY.to_owned()]);
        wait_until("a switch under way", PATIENCE, || {
            let closed = "SELECT client_gate_closed FROM citus_fence.stat_gate";
            (cluster.coordinator().query_value(closed).ok()? == "t").then_some(())
        })?;
        for other in [
            "SELECT citus_block_writes_for_backup()",
            "SELECT citus_backup_block_start()",
            "SELECT citus_export_cluster_snapshot()",
        ] {
            let error = refusal(&mut cluster.connect(0)?, other);
            assert_eq!(error.code().code(), "55006", "{other}: {error:?}");
            assert!(error.message().contains(SWITCHED), "{other}: {error:?}");
            assert!(error.hint().is_some(), "{other}: {error:?}");
        }
        assert!(!call.is_finished(), "the switch was to be in the way of all of them");
        in_the_way.batch_execute("ROLLBACK").expect("a rollback");
        call.join().expect("a thread").expect("the switch");
        // And nobody any more.
        cluster.coordinator().execute("SELECT citus_block_writes_for_backup()")?;
        cluster.coordinator().execute("SELECT citus_unblock_writes_for_backup()")?;
        cluster.coordinator().execute(READ_WRITE)?;
        Ok(())
    });
}
