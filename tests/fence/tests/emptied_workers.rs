//! A worker whose metadata was taken from it takes itself for a coordinator without nodes; the coordinator elsewhere
//! counts on it.

use fence_tests::{
    BLOCK, Client, Cluster, Engine, Result, UNBLOCK, call, on_each_engine, prove_usable, refusal,
};

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";
const STATE: &str = "SELECT state FROM citus_fence.stat_gate";

/// What the coordinator alone may do.
const CALLS: [&str; 9] = [
    READ_WRITE,
    READ_ONLY,
    "SELECT * FROM citus_cluster_read_only_status()",
    BLOCK,
    UNBLOCK,
    "SELECT citus_backup_block_start()",
    "SELECT citus_backup_block_stop(1)",
    "SELECT * FROM citus_export_cluster_snapshot()",
    "SELECT public.citus_promote_clone_and_rebalance(1)",
];

/// As Citus' `stop_metadata_sync_to_node()` leaves a worker, and the coordinator's row of it.
fn empty(cluster: &Cluster, worker: usize) -> Result<()> {
    let (node, port) = (cluster.worker(worker), cluster.worker(worker).port());
    match cluster.engine() {
        Engine::Citus => cluster
            .coordinator()
            .execute(&format!("SELECT stop_metadata_sync_to_node('127.0.0.1', {port})"))?,
        Engine::Embedded => {
            node.execute(
                "UPDATE pg_dist_local_group SET groupid = 0; DELETE FROM pg_dist_node; \
                 DELETE FROM pg_dist_partition; DELETE FROM pg_dist_placement; DELETE FROM pg_dist_shard",
            )?;
            cluster.coordinator().execute(&format!(
                "UPDATE pg_dist_node SET hasmetadata = false, metadatasynced = false WHERE nodeport = {port}"
            ))?;
        }
    }
    let left =
        "SELECT (SELECT groupid FROM pg_dist_local_group) + (SELECT count(*) FROM pg_dist_node)";
    assert_eq!(node.query_value(left)?, "0", "it knows more than was meant");
    Ok(())
}

fn expect_refusals(client: &mut Client, port: u16) {
    for sql in CALLS {
        let error = refusal(client, sql);
        assert_eq!(error.code().code(), "55000", "{sql}: {error:?}");
        assert_eq!(error.message(), "this node is not known to be a coordinator", "{sql}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("coordinator of the cluster that this node belongs to"), "{hint}");
        assert!(hint.contains(&format!("name or address', {port})")), "{hint}");
    }
}

#[test]
fn an_emptied_worker_is_no_coordinator() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let port = cluster.worker(1).port();
        empty(&cluster, 1)?;
        let mut there = cluster.connect(1)?;
        expect_refusals(&mut there, port);
        // Least of all does it open itself in a read-only cluster.
        cluster.coordinator().execute(READ_ONLY)?;
        expect_refusals(&mut there, port);
        assert_eq!(cluster.worker(1).query_value(STATE)?, "read-only");
        let rows = "SELECT count(*) FROM citus_cluster_read_only_status() WHERE state = 'read-only' AND error IS NULL";
        assert_eq!(cluster.coordinator().query_value(rows)?, "3");
        cluster.coordinator().execute(READ_WRITE)?;
        assert_eq!(cluster.worker(1).query_value(STATE)?, "read-write");
        // Nothing is there for the operator who only looks, and it says so.
        let state = "SELECT state FROM citus_backup_block_status()";
        assert_eq!(cluster.worker(1).query_value(state)?, "inactive");
        // The coordinator goes on counting on it.
        prove_usable(&cluster)
    });
}

/// The mark of a worker is nothing that a new server has, nor one that says which coordinator it is.
#[test]
fn a_server_of_its_own_needs_no_other() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let alone = cluster.start_spare("alone")?;
        if engine == Engine::Citus {
            alone.execute("CREATE EXTENSION citus_fence")?;
        }
        let works = |what: &str| -> Result<()> {
            let mut client = alone.connect()?;
            for _ in 0..2 {
                assert!(call(&mut client, BLOCK), "{what}");
                assert!(call(&mut client, UNBLOCK), "{what}");
                // What a table's whole rewrite leaves, or the numbers of old transactions being forgotten.
                alone.execute("VACUUM (FULL, FREEZE) pg_dist_local_group")?;
                alone.execute("VACUUM (FULL, FREEZE) pg_attribute")?;
            }
            alone.execute(READ_ONLY)?;
            assert_eq!(alone.query_value(STATE)?, "read-only", "{what}");
            alone.execute(READ_WRITE)?;
            assert_eq!(alone.query_value(STATE)?, "read-write", "{what}");
            Ok(())
        };
        works("a new server")?;
        // Where it cannot be told, one statement says it.
        alone.execute("UPDATE pg_dist_local_group SET groupid = 0")?;
        expect_refusals(&mut alone.connect()?, alone.port());
        alone.execute(&format!(
            "SELECT citus_set_coordinator_host('127.0.0.1', {})",
            alone.port()
        ))?;
        works("a coordinator that is registered")
    });
}
