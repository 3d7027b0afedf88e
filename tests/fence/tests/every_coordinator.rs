//! Every node that can coordinate is held: a worker whose metadata sync was stopped, an inactive node
//! that answers.  One that does not answer is named in a warning if it is inactive.

use fence_tests::{
    BLOCK, Cluster, Engine, PATIENCE, Result, Spread, UNBLOCK, call, in_background, left_behind,
    on_each_engine, wait_until,
};
use test_cluster::StopMode;

fn mark(cluster: &Cluster, node: usize, change: &str) -> Result<()> {
    cluster
        .coordinator()
        .execute(&format!("UPDATE pg_dist_node SET {change} WHERE groupid = {node}"))
}

#[test]
fn nodes_that_the_catalog_takes_for_passive_are_held_too() {
    on_each_engine(|engine: Engine| {
        for change in ["hasmetadata = false, metadatasynced = false", "isactive = false"] {
            let cluster = Cluster::builder(engine).workers(2).build()?;
            let spread = Spread::create(&cluster)?;
            mark(&cluster, 1, change)?;
            let mut client = cluster.connect(0)?;
            assert!(call(&mut client, BLOCK));
            assert!(left_behind(cluster.worker(1))? > 0, "{change}: not held");
            // It still plans and records two-phase commits of its own; under the block it waits.
            let writer = in_background(&cluster, 1, &spread.two_phase(&cluster));
            wait_until("the writer to wait", PATIENCE, || {
                let waiting = client
                    .query("SELECT FROM citus_backup_block_waiters() WHERE query = 'COMMIT'", &[])
                    .expect("waiters");
                (waiting.len() == 1).then_some(())
            })?;
            assert_eq!(spread.values(&cluster)?, [0, 0], "{change}: a write got through");
            assert!(call(&mut client, UNBLOCK));
            writer.join().expect("a thread").expect("the write goes on");
            assert_eq!(spread.values(&cluster)?, [1, 1]);
        }
        Ok(())
    });
}

#[test]
fn an_inactive_node_that_does_not_answer_is_named_in_a_warning() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        mark(&cluster, 2, "isactive = false")?;
        cluster.worker(2).stop(StopMode::Fast)?;
        let port = cluster.worker(2).port().to_string();
        let said = cluster.coordinator().psql(&format!("{BLOCK}; {UNBLOCK}"))?;
        assert!(said.contains('t'), "{said}");
        let log = cluster.coordinator().log();
        let named = log
            .lines()
            .any(|line| line.contains("inactive nodes that do not answer") && line.contains(&port));
        assert!(named, "{log}");
        Ok(())
    });
}
