//! A caller of the whole cluster's switch that is gone changes nothing any more.

use std::time::Duration;

use fence_tests::{
    Cluster, Engine, PATIENCE, Result, on_each_engine, wait_until, wait_until_free, worker_pid,
};
use test_cluster::Stopped;

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
/// Far less than the call would try.
const SOON: Duration = Duration::from_secs(20);

fn calls(cluster: &Cluster) -> Result<String> {
    cluster.coordinator().query_value(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query = '{READ_ONLY}' AND pid <> pg_backend_pid()"
    ))
}

fn noted(cluster: &Cluster) -> Result<String> {
    cluster.coordinator().query_value("SELECT count(*) FROM citus_fence.cluster_read_only")
}

fn states(cluster: &Cluster) -> Result<String> {
    cluster
        .coordinator()
        .query_value("SELECT string_agg(DISTINCT state, ',') FROM citus_cluster_read_only_status()")
}

/// What keeps the switch waiting on a worker: how it begins, and how it ends.
const IN_THE_WAY: [(&str, &str); 2] = [
    ("BEGIN; INSERT INTO kept VALUES (1)", "COMMIT"),
    ("BEGIN; INSERT INTO kept VALUES (1); PREPARE TRANSACTION 'left'", "COMMIT PREPARED 'left'"),
];

#[test]
fn a_switch_of_the_cluster_whose_caller_is_gone_does_not_happen() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let caller = || {
            let patient = "SET citus_fence.acquire_timeout = '10min'";
            cluster.coordinator().psql_call(patient, READ_ONLY)
        };
        let mut writer = cluster.connect(1)?;
        writer.batch_execute("CREATE TABLE kept (n int)").expect("a table");
        for (begin, end) in IN_THE_WAY {
            writer.batch_execute(begin).unwrap_or_else(|error| panic!("{begin}: {error}"));
            let gone = caller()?;
            wait_until("the switch to be under way", PATIENCE, || {
                (noted(&cluster).ok()? == "1").then_some(())
            })?;
            gone.kill();
            wait_until("its session to end", SOON, || {
                (calls(&cluster).ok()? == "0").then_some(())
            })?;
            assert_eq!(noted(&cluster)?, "0", "{begin}: a switch that does not happen is noted");
            wait_until_free(&cluster, SOON)?;
            writer.batch_execute(end).unwrap_or_else(|error| panic!("{end}: {error}"));
            assert_eq!(states(&cluster)?, "read-write", "{begin}");

            // The control: one that stays has its way.
            writer.batch_execute(begin).unwrap_or_else(|error| panic!("{begin}: {error}"));
            let stays = caller()?;
            wait_until("the switch to be under way", PATIENCE, || {
                (noted(&cluster).ok()? == "1").then_some(())
            })?;
            writer.batch_execute(end).unwrap_or_else(|error| panic!("{end}: {error}"));
            assert!(stays.succeeds());
            assert_eq!(states(&cluster)?, "read-only", "{begin}");
            cluster.coordinator().execute("SELECT citus_set_cluster_read_write()")?;
        }
        Ok(())
    });
}

/// The block's worker is slow to answer, and who asked is gone before it begins.
#[test]
fn what_a_gone_caller_asked_of_a_block_is_not_done() {
    const EXTEND: &str = "SELECT citus_extend_backup_block(1200000)";
    const POINT: &str = "SELECT citus_backup_restore_point('gone')";
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let node = cluster.coordinator();
        let mut client = cluster.connect(0)?;
        client.batch_execute("SELECT citus_block_writes_for_backup(600000)").expect("a block");
        let worker = worker_pid(&mut client);
        let terms = "SELECT timeout_ms FROM citus_backup_block_status()";
        let timeout = || -> Result<i64> { Ok(node.query_value(terms)?.parse().expect("a number")) };
        let points = || node.log().matches("restore point \"gone\" created").count();
        for call in [EXTEND, POINT] {
            let still = Stopped::process(worker)?;
            let gone = node.psql_call("", call)?;
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE query = $q${call}$q$ AND wait_event_type = 'Extension'"
            );
            wait_until("the call to wait", PATIENCE, || {
                (node.query_value(&waits).ok()? == "1").then_some(())
            })?;
            gone.kill();
            wait_until("its session to end", SOON, || {
                (node.query_value(&waits).ok()? == "0").then_some(())
            })?;
            still.go_on();
            // Whatever is in the letter box is read before this one is.
            client.batch_execute("SELECT citus_extend_backup_block(600000)").expect("an extension");
            assert!(timeout()? < 1_000_000, "{call}");
            assert_eq!(points(), 0, "{call}");
        }
        // The control: who stays has it.
        client.batch_execute(EXTEND).expect(EXTEND);
        client.batch_execute(POINT).expect(POINT);
        assert!(timeout()? >= 1_200_000);
        assert_eq!(points(), 1);
        client.batch_execute("SELECT citus_unblock_writes_for_backup()").expect("its end");
        Ok(())
    });
}
