//! A shard move that was under way when the copies were made: what it has left in them acts on nobody, and is gone in the
//! end. Only Citus moves shards.

mod common;

use std::fs;

use common::backup::{Listeners, backup, check, finish, manifest, restore_all, write_manifest};
use common::run;
use fence_tests::on_each_engine;
use test_cluster::{
    Cluster, Engine, HOST, PATIENCE, Restore, StopMode, give_tree_to_server_user, wait_until,
};

/// What Citus itself waits for in its tests once a moved shard has been copied.
const AFTER_COPY: &str = "pg_advisory_lock(55152, 44000)";

#[test]
fn half_a_shard_move_is_cut_off_and_cleaned_up() {
    on_each_engine(|engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.defer_shard_delete_interval", "-1")
            .setting("citus.recover_2pc_interval", "-1")
            .build()?;
        let coordinator = cluster.coordinator();
        cluster.create_distributed("CREATE TABLE moved (k bigint PRIMARY KEY)", "moved", "k", 2)?;
        coordinator.execute("INSERT INTO moved SELECT generate_series(1, 1000)")?;
        let placement = cluster
            .placements("moved")?
            .into_iter()
            .find(|placement| placement.node == 1)
            .expect("a shard on worker 1");
        let (from, to) = (cluster.catalog_port(1), cluster.catalog_port(2));
        let mut lock = cluster.connect(0)?;
        lock.batch_execute(&format!("SELECT {AFTER_COPY}")).expect("a lock");
        let mut mover = cluster.connect(0)?;
        let call = format!(
            "SET citus.running_under_citus_test_suite = on;
             SELECT citus_move_shard_placement({}, '{HOST}', {from}, '{HOST}', {to}, 'force_logical')",
            placement.shardid
        );
        let moving = std::thread::spawn(move || mover.batch_execute(&call).is_err());
        let follows = "SELECT count(*) FROM pg_subscription";
        wait_until("the move's subscription", PATIENCE, || {
            cluster.worker(2).query_value(follows).ok().filter(|count| count != "0")
        })?;
        wait_until("the move to wait", PATIENCE, || {
            let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 55152";
            coordinator.query_value(waits).ok().filter(|count| count != "0")
        })?;
        // Killed there, and its session with it; nobody cleans up after it.
        coordinator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks
              WHERE locktype = 'advisory' AND NOT granted AND classid = 55152",
        )?;
        assert!(moving.join().expect("its thread"), "the move was cut off");
        drop(lock);
        let left = |node: usize, what: &str| cluster.node(node).query_value(what);
        assert_eq!(left(1, "SELECT count(*) FROM pg_replication_slots")?, "1");
        assert_eq!(left(1, "SELECT count(*) FROM pg_publication")?, "1");
        assert_eq!(left(2, follows)?, "1");
        // As the move does a moment later.
        let name = left(2, "SELECT subname FROM pg_subscription")?;
        cluster.worker(2).execute(&format!("ALTER SUBSCRIPTION {name} ENABLE"))?;

        // A backup for its manifest; the copies are those of the disks, which bring slots along.
        let dir = backup(&cluster, "moves")?;
        let mut kept = manifest(&dir);
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        for node in cluster.nodes() {
            node.stop(StopMode::Immediate)?;
        }
        let places = cluster.places()?;
        let mut plain = Vec::new();
        for (group, node) in places.nodes().iter().enumerate() {
            kept["nodes"][group]["data"] = serde_json::Value::Null;
            kept["nodes"][group]["tool"] = "a snapshot".into();
            let copy = cluster.copy_target("plain", group)?;
            for target in [&node.data_dir(), &copy] {
                cluster.node(group).copy_files(target)?;
                give_tree_to_server_user(target)?;
            }
            plain.push(copy);
        }
        write_manifest(&dir, &kept);
        let listeners = Listeners::at(ports);

        let prepared = run(&mut restore_all(&dir, &places, &[])).expect(0);
        for words in [
            "subscription citus_shard_move_subscription_",
            "dropped",
            "replication slot citus_shard_move_slot_",
        ] {
            assert!(prepared.out.contains(words), "{words}: {prepared:?}");
        }
        for node in places.nodes() {
            let slots = fs::read_dir(node.data_dir().join("pg_replslot")).expect("slots");
            assert_eq!(slots.count(), 0);
            // As everybody has it; this test's production was to clean nothing up.
            node.set_while_stopped("max_logical_replication_workers", "4")?;
        }
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let port = restored.coordinator().port();
        let finished = finish(port, &[]).expect(3);
        for words in ["is left of a move that was under way", "waits to be cleaned up"] {
            assert!(finished.out.contains(words), "{words}: {finished:?}");
        }
        assert_eq!(restored.coordinator().query_value("SELECT count(*) FROM moved")?, "1000");
        // As what is found says, Citus cleans it up once it is let to.
        restored.coordinator().execute("CALL citus_cleanup_orphaned_resources()")?;
        check(port, &[]).expect(0);
        for node in restored.nodes() {
            assert_eq!(node.query_value("SELECT count(*) FROM moved")?, "1000");
            assert_eq!(node.query_value("SELECT count(*) FROM pg_publication")?, "0");
        }
        assert_eq!(listeners.connections(), 0, "nobody has called production");

        // The control: started as they are, the same copies call.
        let mut control = Restore::new(&cluster, &plain)?;
        control.start()?;
        wait_until("a copy to call production", PATIENCE, || {
            (listeners.connections() > 0).then_some(())
        })
    });
}
