//! A table spread over the workers, and keys that live on different nodes.

use test_cluster::{Cluster, Result, ShardRow};

/// The table `spread (id, n)`, and a key on each of two nodes.
pub struct Spread {
    /// On two different nodes.
    pub keys: [i64; 2],
    /// Those nodes.
    pub nodes: [usize; 2],
}

impl Spread {
    /// What makes the plain table.
    pub const DDL: &'static str = "CREATE TABLE spread (id bigint PRIMARY KEY, n bigint)";

    /// Makes the table, with forty rows whose `n` is 0.
    pub fn create(cluster: &Cluster) -> Result<Self> {
        cluster.create_distributed(Self::DDL, "spread", "id", 8)?;
        let mut client = cluster.connect(0)?;
        for id in 1..=40 {
            let insert =
                cluster.shard_sql("spread", id, &format!("INSERT INTO %s VALUES ({id}, 0)"));
            client.batch_execute(&insert).expect("an insert");
        }
        let rows = cluster.read_all_shards("spread", "SELECT id FROM %s ORDER BY id")?;
        let id = |row: &ShardRow| {
            row.values[0].as_deref().and_then(|text| text.parse().ok()).expect("an id")
        };
        let other = rows.iter().find(|row| row.node != rows[0].node).expect("two nodes have rows");
        Ok(Self { keys: [id(&rows[0]), id(other)], nodes: [rows[0].node, other.node] })
    }

    /// Adds one to a key: a write to a single shard.
    pub fn update(&self, cluster: &Cluster, key: usize) -> String {
        let id = self.keys[key];
        cluster.shard_sql("spread", id, &format!("UPDATE %s SET n = n + 1 WHERE id = {id}"))
    }

    /// Adds one to both keys in one transaction.
    pub fn two_phase(&self, cluster: &Cluster) -> Vec<String> {
        vec!["BEGIN".into(), self.update(cluster, 0), self.update(cluster, 1), "COMMIT".into()]
    }

    /// The `n` of both keys.
    pub fn values(&self, cluster: &Cluster) -> Result<[i64; 2]> {
        let rows = cluster.read_all_shards("spread", "SELECT id, n FROM %s")?;
        let number = |row: &ShardRow, column: usize| {
            row.values[column]
                .as_deref()
                .and_then(|text| text.parse::<i64>().ok())
                .expect("a number")
        };
        Ok(self.keys.map(|key| {
            rows.iter()
                .find(|row| number(row, 0) == key)
                .map(|row| number(row, 1))
                .expect("the row")
        }))
    }

    /// Reads of the table: plain, and, where there is a planner, those that send a subquery's result to
    /// the nodes.
    pub fn reads(engine: test_cluster::Engine) -> &'static [&'static str] {
        match engine {
            test_cluster::Engine::Embedded => &["SELECT count(*) FROM spread"],
            test_cluster::Engine::Citus => &[
                "SELECT count(*) FROM spread",
                "WITH few AS MATERIALIZED (SELECT id FROM spread ORDER BY id LIMIT 5) \
                 SELECT count(*) FROM spread JOIN few USING (id)",
                "SELECT count(*) FROM spread WHERE id IN (SELECT n FROM spread ORDER BY n LIMIT 3)",
                "SELECT id FROM spread WHERE id < 5 INTERSECT SELECT n FROM spread WHERE n < 9",
                "BEGIN; DECLARE every CURSOR FOR SELECT * FROM spread WHERE id IN \
                 (SELECT n FROM spread ORDER BY n LIMIT 3); FETCH 2 FROM every; COMMIT",
                "EXPLAIN (ANALYZE) SELECT count(*) FROM spread WHERE id IN \
                 (SELECT n FROM spread ORDER BY n LIMIT 3)",
                // What an operator looks at is made of commands that run on all nodes.
                "SELECT count(*) FROM citus_stat_activity",
                "SELECT count(*) FROM citus_lock_waits",
                "SELECT count(*) FROM citus_shards",
                "SELECT result::int / success::int FROM run_command_on_workers('SELECT 1')",
            ],
        }
    }
}
