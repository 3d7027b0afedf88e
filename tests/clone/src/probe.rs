//! A table whose shards are tried one by one: whether a write to each comes through, at every node.

use std::collections::BTreeMap;

use test_cluster::postgres::Client;
use test_cluster::postgres::error::SqlState;
use test_cluster::{Cluster, HOST, Replica, Result, describe};

/// Enough for a key in every shard.
const KEYS: i64 = 100;
/// For how long a write is tried.
const TRY: &str = "SET statement_timeout = '700ms'";

/// The table `probes`, of 8 shards.
pub struct Probe {
    /// A key of each shard.
    keys: BTreeMap<i64, i64>,
}

/// Who came through, by shard and node.
pub type Through = BTreeMap<(i64, usize), bool>;

impl Probe {
    /// Makes the table.
    pub fn make(cluster: &Cluster) -> Result<Probe> {
        let ddl = "CREATE TABLE probes (key bigint NOT NULL, n bigint NOT NULL)";
        cluster.create_distributed(ddl, "probes", "key", 8)?;
        let inserts: Vec<String> = (1..=KEYS).map(|key| insert(cluster, key)).collect();
        cluster.coordinator().execute(&format!("BEGIN; {}; COMMIT", inserts.join("; ")))?;
        let rows =
            cluster.read_all_shards("probes", "SELECT max(key) FROM %s HAVING count(*) > 0")?;
        let number = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
        let keys = rows.iter().filter_map(|row| Some((row.shardid, number(&row.values[0])?)));
        Ok(Probe { keys: keys.collect() })
    }

    /// A write to one shard.
    pub fn insert_into(&self, cluster: &Cluster, shard: i64) -> String {
        insert(cluster, self.keys[&shard])
    }

    /// A write to each of them.
    pub fn inserts(&self, cluster: &Cluster) -> Vec<(i64, String)> {
        self.keys.iter().map(|(shard, key)| (*shard, insert(cluster, *key))).collect()
    }

    /// The split of `node` to a replica that counts shards, and those of the table that it moves.
    pub fn split(cluster: &Cluster, replica: &Replica, id: i32) -> Result<(String, Vec<i64>)> {
        let plan = format!(
            "SELECT shardid FROM public.get_snapshot_based_node_split_plan('{HOST}', {}, '{HOST}', {}, 'by_shard_count')
              WHERE table_name = 'probes'::regclass AND placement_node = '{HOST}:{1}' ORDER BY shardid",
            cluster.catalog_port(replica.source()),
            replica.catalog_port()
        );
        let moving = cluster.coordinator().query(&plan)?.into_iter().flatten().flatten();
        let moving = moving.map(|id| id.parse().expect("a shard")).collect();
        let call =
            format!("SELECT public.citus_promote_clone_and_rebalance({id}, 'by_shard_count')");
        Ok((call, moving))
    }

    /// Where each shard is, by the coordinator's catalog.
    pub fn owners(&self, cluster: &Cluster) -> Result<BTreeMap<i64, usize>> {
        let placements = cluster.placements("probes")?.into_iter();
        Ok(placements.map(|placement| (placement.shardid, placement.node)).collect())
    }

    /// Tries a write to each shard at each of these nodes, and reads it.
    ///
    /// # Panics
    /// When a reader waits, or a write fails otherwise than by waiting.
    pub fn through(&self, cluster: &Cluster, nodes: &[usize]) -> Result<Through> {
        let mut through = Through::new();
        for &node in nodes {
            let mut client = cluster.connect(node)?;
            client.batch_execute(TRY).expect("a setting");
            for (&shard, &key) in &self.keys {
                let read = format!("SELECT n FROM %s WHERE key = {key}");
                let read = cluster.shard_sql("probes", key, &read);
                // A transaction that might write takes the shard's lock on the embedded engine.
                let read = format!("BEGIN READ ONLY; {read}; COMMIT");
                assert!(ends(&mut client, &read), "shard {shard} cannot be read at node {node}");
                through.insert((shard, node), ends(&mut client, &insert(cluster, key)));
            }
        }
        Ok(through)
    }
}

/// Whether exactly those waited whose shards have moved since.
///
/// # Panics
/// When it was otherwise, or when nobody waited or everybody did.
pub fn only_moved_waited(
    through: &Through,
    before: &BTreeMap<i64, usize>,
    after: &BTreeMap<i64, usize>,
) {
    for ((shard, node), through) in through {
        let moved = before[shard] != after[shard];
        assert_eq!(*through, !moved, "shard {shard} at node {node}: moved {moved}");
    }
    // Neither all nor none, or nothing was shown.
    assert!(through.values().any(|through| *through) && through.values().any(|through| !through));
}

fn insert(cluster: &Cluster, key: i64) -> String {
    cluster.shard_sql("probes", key, &format!("INSERT INTO %s (key, n) VALUES ({key}, 1)"))
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
