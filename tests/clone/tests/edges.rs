//! Sources that have little to give: no table at all, and one table without any reference table beside it; and a replica that
//! was promoted by somebody else in the middle of a split, which is never opened.

use std::time::Duration;

use clone_tests::{
    Bed, Engine, How, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists, wait_until,
};

const ROWS: i64 = 200;

#[test]
fn a_source_without_tables_and_one_without_reference_tables_are_split() {
    on_each_engine(|engine: Engine| {
        let mut cluster = Bed::builder(engine).build()?;
        if !How::Ours.exists(&cluster)? {
            return Ok(());
        }
        let split = |cluster: &mut test_cluster::Cluster| -> Result<usize> {
            let replica = cluster.clone_of(SOURCE)?;
            cluster.wait_streaming(&replica, PATIENCE)?;
            let id = How::Ours.register(cluster, &replica)?;
            How::Ours.split(cluster, id).end().outcome.expect("the split");
            Ok(cluster.adopt(replica))
        };
        split(&mut cluster)?;
        cluster.create_distributed("CREATE TABLE few (key bigint NOT NULL)", "few", "key", 8)?;
        let insert = |key: i64| {
            engine.shard_sql("few", key, &format!("INSERT INTO %s (key) VALUES ({key})"))
        };
        let inserts: Vec<String> = (1..=ROWS).map(insert).collect();
        cluster.coordinator().execute(&format!("BEGIN; {}; COMMIT", inserts.join("; ")))?;
        let before = cluster.placements("few")?;
        assert!(before.iter().any(|placement| placement.node == SOURCE), "nothing to give");
        let node = split(&mut cluster)?;
        let rows = cluster.read_all_shards("few", "SELECT count(*) FROM %s")?;
        let count: i64 =
            rows.iter().filter_map(|row| row.values[0].as_deref()?.parse::<i64>().ok()).sum();
        assert_eq!(count, ROWS);
        let after = cluster.placements("few")?;
        assert!(after.iter().any(|placement| placement.node == node), "nothing was given");
        Ok(())
    });
}

#[test]
fn a_replica_that_somebody_else_promotes_stays_closed() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let mut stand = Stand::before(&bed.cluster, "prepared")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        replica.server().query("SELECT pg_promote(true, 30)")?;
        stand.let_go()?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect_err("a split of a replica that is none any more");
        // Nobody writes there, and its daemon decides nothing.
        let refused = replica.server().query("CREATE TABLE lost ()");
        let said = refused.expect_err("a write on a twin of the source").to_string();
        assert!(said.contains("25006") || said.contains("reserved"), "{said}");
        let state = replica.server().query_value("SELECT state FROM citus_fence.stat_gate")?;
        assert_eq!(state, "reserved");
        if engine == Engine::Citus {
            let interval = replica.server().query_value("SHOW citus.recover_2pc_interval")?;
            assert_eq!(interval, "-1");
        }
        for node in bed.cluster.nodes() {
            let prepared =
                "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%'";
            let free = wait_until("nothing to be prepared", Duration::from_secs(20), || {
                (node.query_value(prepared).ok()? == "0").then_some(())
            });
            assert!(free.is_ok(), "{}", node.name());
        }
        Ok(())
    });
}
