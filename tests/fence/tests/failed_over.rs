//! A read-only cluster from outside and from inside: how to leave it is told where it is one, and a worker that fails over
//! meanwhile is taken in, and seen to write.

use fence_tests::{
    Client, Cluster, Engine, Heard, PATIENCE, Result, on_each_engine, refusal, wait_until,
};
use test_cluster::StopMode;

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";
const WRITE: &str = "CREATE TABLE late (n int)";

/// What a refused client is told to do.
fn hint(client: &mut Client, sql: &str) -> String {
    let error = refusal(client, sql);
    assert_eq!(error.code().code(), "25006", "{sql}: {error:?}");
    error.hint().unwrap_or_default().to_owned()
}

#[test]
fn who_is_refused_is_told_of_the_cluster_where_it_is_the_cluster() {
    const CLUSTER: &str = "citus_set_cluster_read_write()";
    const NODE: &str = "alter_system_read_write()";
    const ALONE: &str = "this lets this node alone write";
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        // One is read-only by itself before.
        cluster.worker(1).execute("SELECT alter_system_read_only()")?;
        let told = hint(&mut cluster.connect(1)?, WRITE);
        assert!(told.contains(NODE) && !told.contains(CLUSTER), "{told}");
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        for node in 0..=2 {
            let mut client = cluster.connect(node)?;
            let told = hint(&mut client, WRITE);
            assert!(told.contains(CLUSTER) && !told.contains(NODE), "{node}: {told}");
        }
        // It outlives a restart.
        cluster.worker(2).restart()?;
        let told = hint(&mut cluster.connect(2)?, WRITE);
        assert!(told.contains(CLUSTER), "{told}");
        // The node's own call says what it does.
        let mut alone = Heard::on(&cluster, 0)?;
        alone.client.batch_execute("SELECT alter_system_read_write()").expect("a switch");
        let said = alone.take();
        assert!(
            said.iter().any(|line| line.contains("WARNING") && line.contains(ALONE)),
            "{said:?}"
        );
        // The call that it names opens the rest.
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        for node in 0..=2 {
            cluster
                .connect(node)?
                .batch_execute(&format!("{WRITE}; DROP TABLE late"))
                .expect(WRITE);
        }
        // And a node that is switched by itself after that is one by itself.
        client.batch_execute("SELECT alter_system_read_only()").expect("a switch");
        let told = hint(&mut client, WRITE);
        assert!(told.contains(NODE) && !told.contains(CLUSTER), "{told}");
        alone.client.batch_execute("SELECT alter_system_read_write()").expect("a switch");
        let said = alone.take();
        assert!(!said.iter().any(|line| line.contains(ALONE)), "{said:?}");
        Ok(())
    });
}

/// State and what is said of it, by the node's port.
fn status(client: &mut Client, port: u16) -> (Option<String>, Option<String>) {
    let sql = "SELECT state, error FROM citus_cluster_read_only_status() WHERE nodeport = $1";
    let row = client
        .query_one(sql, &[&i32::from(port)])
        .unwrap_or_else(|error| panic!("status: {}", fence_tests::words(&error)));
    (row.get(0), row.get(1))
}

/// Has the worker fail over to its standby.
fn fail_over(cluster: &Cluster) -> Result<u16> {
    let (old, new) = (cluster.worker(1), cluster.standby_of(1));
    let lsn = old.query_value("SELECT pg_current_wal_flush_lsn()")?;
    new.wait_for_replay_of(&lsn, PATIENCE)?;
    old.stop(StopMode::Immediate)?;
    new.execute("SELECT pg_promote()")?;
    Ok(new.port())
}

#[test]
fn a_worker_that_fails_over_is_taken_in_and_seen() {
    on_each_engine(|engine: Engine| {
        // The embedded catalog has no such function.
        if engine != Engine::Citus {
            return Ok(());
        }
        for in_steps in [false, true] {
            let cluster = Cluster::builder(engine).workers(2).standbys([1]).build()?;
            let mut client = cluster.connect(0)?;
            client
                .batch_execute("CREATE TABLE own (n int); CREATE SEQUENCE numbers")
                .expect("a table");
            client.batch_execute(READ_ONLY).expect(READ_ONLY);
            let port = fail_over(&cluster)?;
            let node = "(SELECT nodeid FROM pg_dist_node WHERE groupid = 1)";
            let update = |host: &str, port: u16| {
                format!("SELECT citus_update_node({node}, '{host}', {port}, true, 1000)")
            };
            // Nothing passes with it.
            for other in [
                "INSERT INTO own VALUES (1)",
                "UPDATE pg_dist_node SET shouldhaveshards = false",
                "CREATE TABLE late (n int)",
                "SELECT citus_set_node_property('127.0.0.1', 1, 'shouldhaveshards', true)",
                "SELECT nextval('numbers')",
                "COPY own FROM PROGRAM 'echo 1'",
            ] {
                client.batch_execute("BEGIN").expect("BEGIN");
                client.batch_execute(&update("127.0.0.1", port)).expect("an update of the node");
                hint(&mut client, other);
                client.batch_execute("ROLLBACK").expect("ROLLBACK");
            }
            if in_steps {
                // As Patroni does where it hands over: a name that nobody has until the new one is there.
                client.batch_execute("BEGIN").expect("BEGIN");
                client.batch_execute(&update("127.0.0.1-demoted", 5432)).expect("the first step");
                client.batch_execute(&update("127.0.0.1", port)).expect("the second step");
                client.batch_execute("COMMIT").expect("COMMIT");
            } else {
                client.batch_execute(&update("127.0.0.1", port)).expect("an update of the node");
            }
            assert_eq!(client.query("TABLE own", &[]).expect("a read").len(), 0);
            // It writes, and the status says so and what to do.
            let (state, error) = status(&mut client, port);
            assert_eq!(state.as_deref(), Some("read-write"));
            let error = error.unwrap_or_default();
            assert!(error.contains("citus_set_cluster_read_only()"), "{error}");
            let (state, error) = status(&mut client, cluster.worker(2).port());
            assert_eq!((state.as_deref(), error), (Some("read-only"), None));
            client.batch_execute(READ_ONLY).expect(READ_ONLY);
            let (state, error) = status(&mut client, port);
            assert_eq!((state.as_deref(), error), (Some("read-only"), None));
            client.batch_execute(READ_WRITE).expect(READ_WRITE);
            // The other nodes hear of it when they can.
            wait_until("the metadata", PATIENCE, || {
                let there = format!("SELECT count(*) FROM pg_dist_node WHERE nodeport = {port}");
                (cluster.worker(2).query_value(&there).ok()? == "1").then_some(())
            })?;
            let ungated = "SELECT ungated_commits FROM citus_fence.stat_gate";
            assert_eq!(cluster.coordinator().query_value(ungated)?, "0");
        }
        Ok(())
    });
}
