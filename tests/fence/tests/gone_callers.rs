//! A caller of the whole cluster's switch that is gone changes nothing any more.

use std::time::Duration;

use fence_tests::{Cluster, Engine, PATIENCE, Result, on_each_engine, wait_until, wait_until_free};

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
