//! How the nodes of a restored cluster reach each other: not by production's poolers, and each of them each other one.

mod common;

use common::backup::{backup, finish, restore_all};
use common::run;
use fence_tests::on_each_engine;
use test_cluster::{Cluster, Engine, HOST, Result};

/// Each worker has itself for a pooler, which is not known to be none.
fn with_poolers(cluster: &Cluster) -> Result<()> {
    cluster.coordinator().execute(
        "INSERT INTO pg_dist_poolinfo SELECT nodeid, format('host=%s port=%s', nodename, nodeport) FROM pg_dist_node
          WHERE groupid > 0",
    )
}

#[test]
fn productions_poolers_are_named_and_others_can_be_put_in_their_place() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        with_poolers(&cluster)?;
        let dir = backup(&cluster, "pooled")?;
        let places = cluster.places()?;
        let done = run(&mut restore_all(&dir, &places, &[])).expect(0);
        let told: Vec<&str> = done.out.lines().filter(|line| line.contains("pooler")).collect();
        assert_eq!(told.len(), 2, "{done:?}");
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let coordinator = restored.coordinator();
        finish(coordinator.port(), &[]).expect(0);
        let poolers = "SELECT count(*) FROM pg_dist_poolinfo";
        assert_eq!(coordinator.query_value(poolers)?, "0");
        for (number, line) in (1..).zip(told) {
            let former = format!(
                "node {number}'s pooler (host={HOST} port={})",
                cluster.catalog_port(number)
            );
            assert!(line.contains(&former), "{former}: {line}");
            // What it says, with the new pooler's place filled in.
            let (_, insert) = line.split_once("finish: ").expect("a statement");
            let port = restored.worker(number).port();
            let filled = insert.replace("host=… port=…", &format!("host={HOST} port={port}"));
            coordinator.execute(&filled)?;
        }
        assert_eq!(coordinator.query_value(poolers)?, "2");
        if engine == Engine::Citus {
            let reached = "SELECT count(*) FROM run_command_on_workers('SELECT 1') WHERE success";
            assert_eq!(coordinator.query_value(reached)?, "2");
        }
        Ok(())
    });
}

/// Whoever has metadata is asked what it reaches before anything is decided, and a node without it afterwards.
#[test]
fn finish_names_a_pair_of_nodes_that_do_not_reach_each_other() {
    on_each_engine(|engine| {
        if engine != Engine::Citus {
            // The embedded catalog's nodes are not asked what they reach.
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let port = cluster.catalog_port(1);
        let stop = format!("SELECT stop_metadata_sync_to_node('{HOST}', {port})");
        cluster.coordinator().execute(&stop)?;
        let dir = backup(&cluster, "pair")?;
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let (coordinator, deaf) = (restored.coordinator().port(), restored.worker(1));
        finish(coordinator, &[]).expect(0);
        // Nobody offers it that.
        deaf.execute("ALTER SYSTEM SET citus.node_conninfo = 'sslmode=require'")?;
        deaf.reload()?;
        let found = test_cluster::wait_until("the setting", test_cluster::PATIENCE, || {
            let shown = deaf.query_value("SHOW citus.node_conninfo").ok()?;
            (shown == "sslmode=require").then(|| finish(coordinator, &[]))
        })?
        .expect(3);
        for node in restored.nodes() {
            let words = format!(
                "look: connections: {HOST}:{}: it does not get an answer from {HOST}:{}",
                deaf.port(),
                node.port()
            );
            assert!(found.out.contains(&words), "{words}: {found:?}");
        }
        assert_eq!(found.out.matches("look: ").count(), 3, "{found:?}");
        Ok(())
    });
}
