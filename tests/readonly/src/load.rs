//! Full load on a node: pgbench with transactions that write in several ways, and threads that come
//! back after every error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use test_cluster::{Cluster, PATIENCE, PgBench, Result, Server, wait_until};

/// Rows to write to.
const ROWS: u32 = 200;
/// Sessions of pgbench.
const SESSIONS: u32 = 12;

/// The tables of the load.
pub struct Load<'a> {
    node: &'a Server,
    script: String,
}

impl<'a> Load<'a> {
    /// Its tables on the coordinator; `distributed` adds a write to two shards to every transaction.
    pub fn create(cluster: &'a Cluster, distributed: bool) -> Result<Self> {
        let node = cluster.coordinator();
        node.execute(&format!(
            "CREATE TABLE loaded (id int PRIMARY KEY, n bigint);
             INSERT INTO loaded SELECT i, 0 FROM generate_series(1, {ROWS}) i;
             CREATE TABLE history (id bigserial PRIMARY KEY, n int);
             CREATE SEQUENCE ticket"
        ))?;
        let mut script = format!("\\set id random(1, {ROWS})\nBEGIN;\n");
        if distributed {
            cluster.create_distributed(
                "CREATE TABLE shared (id bigint, n bigint)",
                "shared",
                "id",
                4,
            )?;
            for id in [1, 2, 3, 4] {
                let insert = format!("INSERT INTO %s VALUES ({id}, 1)");
                script.push_str(&cluster.shard_sql("shared", id, &insert));
                script.push_str(";\n");
            }
        }
        script.push_str(
            "UPDATE loaded SET n = n + 1 WHERE id = :id;
             INSERT INTO history (n) VALUES (:id);
             END;
             SELECT nextval('ticket');
             INSERT INTO history (n) VALUES (:id);\n",
        );
        Ok(Self { node, script })
    }

    /// Begins it, and returns once it is in full swing.
    pub fn begin(&self, more: &[&str]) -> Result<PgBench> {
        let before = self.done()?;
        let load = self.node.pgbench(&self.script, SESSIONS, more)?;
        wait_until("transactions of pgbench", PATIENCE, || {
            (self.done().ok()? > before + 40).then_some(())
        })
        .inspect_err(|_| println!("{}", load.output()))?;
        Ok(load)
    }

    /// How many transaction numbers have been used.
    fn done(&self) -> Result<u64> {
        let text = self.node.query_value("SELECT pg_snapshot_xmax(pg_current_snapshot())")?;
        Ok(text.parse().expect("a transaction number"))
    }
}

/// Sessions that write all the time and come back whatever happens to them.
pub struct Stubborn {
    stop: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    late: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stubborn {
    /// Each runs this one statement, which is to write.
    pub fn start(node: &Server, statement: &'static str, threads: usize) -> Self {
        let mut stubborn = Self {
            stop: Arc::default(),
            closed: Arc::default(),
            late: Arc::default(),
            refused: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..threads {
            let params = node.connect_params().application_name("stubborn");
            let (stop, closed) = (stubborn.stop.clone(), stubborn.closed.clone());
            let (late, refused) = (stubborn.late.clone(), stubborn.refused.clone());
            stubborn.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let Ok(mut client) = params.connect() else { continue };
                    while !stop.load(Ordering::SeqCst) && !client.is_closed() {
                        let was_closed = closed.load(Ordering::SeqCst);
                        match client.batch_execute(statement) {
                            Ok(()) if was_closed && closed.load(Ordering::SeqCst) => {
                                late.fetch_add(1, Ordering::SeqCst);
                            }
                            Ok(()) => {}
                            Err(_) if was_closed => {
                                refused.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(_) => {}
                        }
                    }
                }
            }));
        }
        stubborn
    }

    /// From here on until [`Stubborn::opens`] nothing may succeed.
    pub fn is_closed(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// To be called before the node is opened.
    pub fn opens(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    /// How often they were refused while closed.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Ends them; how many writes that were begun while the node was closed have succeeded.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a thread");
        }
        self.late.load(Ordering::SeqCst)
    }
}
