//! A commit that sits in its middle holds a block off, and hurts nobody else for long.

use std::time::{Duration, Instant};

use fence_tests::{
    Cluster, Engine, Result, Spread, StuckCommit, on_each_engine, prove_usable, refusal, state,
    wait_until_free,
};

const LOCK_TIMEOUT: Duration = Duration::from_millis(400);
/// What an attempt may cost a writer beyond the lock timeout, on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

#[test]
fn attempts_are_bounded_and_the_error_names_who_is_in_the_way() {
    on_each_engine(|engine: Engine| {
        for node in [0, 1] {
            let cluster = Cluster::builder(engine).workers(2).build()?;
            let spread = Spread::create(&cluster)?;
            let stuck = StuckCommit::begin(&cluster, node, &spread.two_phase(&cluster))?;
            let pid = cluster
                .node(node)
                .query_value("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")?;

            // Other writers: two-phase commits of another table, from the node that is not stuck.
            let writer_node = 2;
            let others = Others::create(&cluster)?;
            let params = cluster.node(writer_node).connect_params();
            let statements = others.two_phase(&cluster);
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let stopped = stop.clone();
            let writer = std::thread::spawn(move || {
                let mut client = params.connect().expect("a connection");
                let mut longest = Duration::ZERO;
                let mut count = 0;
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    let begun = Instant::now();
                    for statement in &statements {
                        client.batch_execute(statement).expect("a write");
                    }
                    longest = longest.max(begun.elapsed());
                    count += 1;
                }
                (longest, count)
            });

            let mut client = cluster.connect(0)?;
            client
                .batch_execute(&format!(
                    "SET citus_fence.lock_timeout = '{}ms'; SET citus_fence.acquire_timeout = '4s'",
                    LOCK_TIMEOUT.as_millis()
                ))
                .expect("settings");
            let asked = Instant::now();
            let error = refusal(&mut client, fence_tests::BLOCK);
            let took = asked.elapsed();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let (longest, count) = writer.join().expect("a thread");

            assert_eq!(error.code().code(), "55P03", "{error:?}");
            assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(12), "{took:?}");
            let detail = error.detail().unwrap_or_default();
            assert!(detail.contains(&format!("process {pid} ")), "{detail} does not name {pid}");
            if node > 0 {
                let port = cluster.node(node).port().to_string();
                assert!(detail.contains(&port), "{detail} does not name the node");
            }
            assert!(count > 0);
            assert!(longest < LOCK_TIMEOUT + SLACK, "a writer waited {longest:?}");
            assert_eq!(state(&mut client), "inactive");
            wait_until_free(&cluster, Duration::from_secs(5))?;
            stuck.go_on()?.expect("the commit goes on");
            assert_eq!(spread.values(&cluster)?, [1, 1]);
            prove_usable(&cluster)?;
        }
        Ok(())
    });
}

/// Rows that the stuck transaction has not touched.
struct Others {
    keys: [i64; 2],
}

impl Others {
    fn create(cluster: &Cluster) -> Result<Self> {
        let rows =
            cluster.read_all_shards("spread", "SELECT id FROM %s WHERE id > 30 ORDER BY id")?;
        let id = |row: &test_cluster::ShardRow| -> i64 {
            row.values[0].as_deref().and_then(|text| text.parse().ok()).expect("an id")
        };
        let other = rows.iter().find(|row| row.node != rows[0].node).expect("two nodes have rows");
        Ok(Self { keys: [id(&rows[0]), id(other)] })
    }

    fn two_phase(&self, cluster: &Cluster) -> Vec<String> {
        let update = |id: i64| {
            cluster.shard_sql("spread", id, &format!("UPDATE %s SET n = n + 1 WHERE id = {id}"))
        };
        vec!["BEGIN".into(), update(self.keys[0]), update(self.keys[1]), "COMMIT".into()]
    }
}
