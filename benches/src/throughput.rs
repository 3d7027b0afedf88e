//! What writers to a single shard, and readers, notice of a block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use test_cluster::postgres::Client;
use test_cluster::{Cluster, Result};

use crate::figures::Table;
use crate::turns;

/// Length of one interval.
const INTERVAL: Duration = Duration::from_secs(2);
const KEYS: i64 = 200;

/// What a client does all the time.
#[derive(Clone, Copy)]
pub enum Load {
    /// To a row of a shard.
    Write,
    /// Of such a row.
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

/// A table of a cluster, and a session that blocks.
pub struct Loaded<'a> {
    cluster: &'a Cluster,
    client: Client,
}

impl<'a> Loaded<'a> {
    /// Makes the table.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        cluster.create_distributed(
            "CREATE TABLE loaded (id bigint PRIMARY KEY, n bigint)",
            "loaded",
            "id",
            16,
        )?;
        let mut client = cluster.connect(0)?;
        for id in 1..=KEYS {
            let insert =
                cluster.shard_sql("loaded", id, &format!("INSERT INTO %s VALUES ({id}, 0)"));
            client.batch_execute(&insert).expect("an insert");
        }
        Ok(Self { cluster, client })
    }

    /// The clients' rate under a block.
    fn blocked(&mut self, clients: &Clients) -> f64 {
        self.client.query_one("SELECT citus_block_writes_for_backup()", &[]).expect("a block");
        let rate = clients.rate();
        self.client.query_one("SELECT citus_unblock_writes_for_backup()", &[]).expect("its end");
        rate
    }

    /// The rate under a block, of clients that have the machine for themselves.
    pub fn rate(&mut self, load: Load) -> f64 {
        let clients = Clients::start(self.cluster, load);
        let rate = self.blocked(&clients);
        clients.stop();
        rate
    }
}

/// The loads, and what they are called.
pub const LOADS: [(Load, &str); 2] = [
    (Load::Write, "single-shard writes under a block"),
    (Load::Read, "single-shard reads under a block"),
];

/// Intervals outside and under a block, in turns; which comes first changes from pair to pair.
pub fn measure(cluster: &Cluster, pairs: usize, table: &mut Table) -> Result<()> {
    let mut loaded = Loaded::new(cluster)?;
    for (load, what) in LOADS {
        let clients = Clients::start(cluster, load);
        clients.rate();
        let ratios = turns::ratios(
            &mut loaded,
            pairs,
            |loaded| Ok(loaded.blocked(&clients)),
            |_| Ok(clients.rate()),
        )?;
        clients.stop();
        table.ratios(&format!("{what} / outside"), ratios, "p50 >= 0.95");
    }
    Ok(())
}
