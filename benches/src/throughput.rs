//! What writers to a single shard, and readers, notice of a block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Result};

use crate::figures::Table;

/// Length of one interval.
const INTERVAL: Duration = Duration::from_secs(2);
const KEYS: i64 = 200;

/// What a client does all the time.
#[derive(Clone, Copy)]
enum Load {
    Write,
    Read,
}

/// Clients on every node, counting what they do.
struct Clients {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Clients {
    fn start(cluster: &Cluster, load: Load) -> Self {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        // Two cores are busy with two clients; the nodes take turns.
        let threads = (0..2)
            .map(|number| {
                let node = number % cluster.nodes().len();
                let params = cluster.node(node).connect_params();
                let statements: Vec<String> = (1..=KEYS)
                    .map(|id| match load {
                        Load::Write => format!("UPDATE %s SET n = n + 1 WHERE id = {id}"),
                        Load::Read => format!("SELECT n FROM %s WHERE id = {id}"),
                    })
                    .enumerate()
                    .map(|(key, sql)| cluster.shard_sql("loaded", key + 1, &sql))
                    .collect();
                let (done, stop) = (done.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut client = params.connect().expect("a connection");
                    for statement in statements.iter().cycle().skip(number * 97) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        client.batch_execute(statement).expect("a statement that does not wait");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self { done, stop, threads }
    }

    /// Statements a second over an interval.
    fn rate(&self) -> f64 {
        let (begun, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        while begun.elapsed() < INTERVAL {
            std::thread::park_timeout(INTERVAL - begun.elapsed());
        }
        (self.done.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
    }
}

/// Intervals outside and under a block, in turns; which comes first changes from pair to pair.
pub fn measure(cluster: &Cluster, pairs: usize, table: &mut Table) -> Result<()> {
    cluster.create_distributed(
        "CREATE TABLE loaded (id bigint PRIMARY KEY, n bigint)",
        "loaded",
        "id",
        16,
    )?;
    let mut client = cluster.connect(0)?;
    for id in 1..=KEYS {
        let insert = cluster.shard_sql("loaded", id, &format!("INSERT INTO %s VALUES ({id}, 0)"));
        client.batch_execute(&insert).expect("an insert");
    }
    for (load, what) in [
        (Load::Write, "single-shard writes under a block / outside"),
        (Load::Read, "single-shard reads under a block / outside"),
    ] {
        let clients = Clients::start(cluster, load);
        clients.rate();
        let mut ratios = Vec::new();
        for pair in 0..pairs {
            let mut blocked = || {
                client.query_one("SELECT citus_block_writes_for_backup()", &[]).expect("a block");
                let rate = clients.rate();
                client.query_one("SELECT citus_unblock_writes_for_backup()", &[]).expect("its end");
                rate
            };
            let (blocked, free) = if pair % 2 == 0 {
                let free = clients.rate();
                (blocked(), free)
            } else {
                (blocked(), clients.rate())
            };
            ratios.push(blocked / free);
        }
        clients.stop();
        table.ratios(what, ratios, "p50 >= 0.95");
    }
    Ok(())
}
