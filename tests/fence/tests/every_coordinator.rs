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

#[test]
fn a_node_that_comes_or_goes_while_the_block_starts_is_seen() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spare = cluster.start_spare("spare")?;
        for (change, nodes) in [("citus_add_node", 4), ("citus_remove_node", 3)] {
            let mut changer = cluster.connect(0)?;
            changer.batch_execute("BEGIN").expect("a transaction");
            changer
                .batch_execute(&format!("SELECT {change}('127.0.0.1', {})", spare.port()))
                .unwrap_or_else(|error| panic!("{change}: {}", fence_tests::words(&error)));
            // The list has been read and the nodes are connected to; the lock on it is not yet had.
            let caller = in_background(&cluster, 0, &[BLOCK.to_owned()]);
            let mut client = cluster.connect(0)?;
            test_cluster::wait_for_sql(
                &mut client,
                "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                  WHERE a.backend_type LIKE 'citus_fence%' AND NOT l.granted \
                    AND l.relation = 'pg_dist_node'::regclass",
                PATIENCE,
            )?;
            changer.batch_execute("COMMIT").expect("a commit");
            caller.join().expect("a thread").expect("a block");
            let held = client.query("SELECT * FROM citus_backup_block_nodes()", &[]).expect("rows");
            assert_eq!(held.len(), nodes, "after {change}");
            if nodes == 4 {
                assert!(left_behind(&spare)? > 0, "the new node is not under the block");
            }
            assert!(call(&mut client, UNBLOCK));
        }
        // The first attempts went by the old list, and were given up for it.
        let log = cluster.coordinator().log();
        let given_up = log.matches("the nodes of the cluster changed while they were being locked");
        assert_eq!(given_up.count(), 2, "{log}");
        Ok(())
    });
}
