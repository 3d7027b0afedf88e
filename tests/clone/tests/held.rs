//! Who waits while a split holds writers back, and who does not: seen while it stands still with everything held.

use std::collections::BTreeMap;

use clone_tests::{Bed, Engine, How, PATIENCE, Result, Stand, on_each_engine, ours_exists};
use test_cluster::postgres::Client;
use test_cluster::postgres::error::SqlState;
use test_cluster::{describe, wait_until};

/// Enough for a key in every shard.
const KEYS: i64 = 100;
/// For how long a write is tried.
const TRY: &str = "SET statement_timeout = '700ms'";

/// A key of each shard.
fn keys(bed: &Bed) -> Result<BTreeMap<i64, i64>> {
    let rows =
        bed.cluster.read_all_shards("probes", "SELECT max(key) FROM %s HAVING count(*) > 0")?;
    let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
    Ok(rows.iter().filter_map(|row| Some((row.shardid, number(&row.values[0])?))).collect())
}

/// Whether a statement ends in time.
fn ends(client: &mut Client, sql: &str) -> bool {
    match client.batch_execute(sql) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(
                error.code(),
                Some(&SqlState::QUERY_CANCELED),
                "{sql}: {}",
                describe(&error)
            );
            false
        }
    }
}

#[test]
fn only_writers_of_what_moves_wait_and_readers_never() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let mut bed = bed;
        let ddl = "CREATE TABLE probes (key bigint NOT NULL, n bigint NOT NULL)";
        bed.cluster.create_distributed(ddl, "probes", "key", 8)?;
        let insert = |key: i64| {
            engine.shard_sql("probes", key, &format!("INSERT INTO %s (key, n) VALUES ({key}, 1)"))
        };
        let inserts: Vec<String> = (1..=KEYS).map(insert).collect();
        bed.cluster.coordinator().execute(&format!("BEGIN; {}; COMMIT", inserts.join("; ")))?;
        let keys = keys(&bed)?;
        let owner = |bed: &Bed| -> Result<BTreeMap<i64, usize>> {
            let placements = bed.cluster.placements("probes")?;
            Ok(placements
                .into_iter()
                .map(|placement| (placement.shardid, placement.node))
                .collect())
        };
        let before = owner(&bed)?;

        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let mut stand = Stand::before(&bed.cluster, "promoting")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        // Who came through, per shard, at every node.
        let mut through: BTreeMap<(i64, usize), bool> = BTreeMap::new();
        for node in 0..bed.cluster.nodes().len() {
            let mut client = bed.cluster.connect(node)?;
            client.batch_execute(TRY).expect("a setting");
            for (&shard, &key) in &keys {
                let read =
                    engine.shard_sql("probes", key, &format!("SELECT n FROM %s WHERE key = {key}"));
                // A transaction that might write takes the shard's lock on the embedded engine.
                let read = format!("BEGIN READ ONLY; {read}; COMMIT");
                assert!(ends(&mut client, &read), "shard {shard} cannot be read at node {node}");
                through.insert((shard, node), ends(&mut client, &insert(key)));
            }
        }
        stand.let_go()?;
        wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the split");
        bed.cluster.adopt(replica);
        let after = owner(&bed)?;
        for ((shard, node), through) in &through {
            let moved = before[shard] != after[shard];
            assert_eq!(*through, !moved, "shard {shard} at node {node}: moved {moved}");
        }
        // Neither all nor none, or nothing was shown.
        assert!(
            through.values().any(|through| *through) && through.values().any(|through| !through)
        );
        Ok(())
    });
}
