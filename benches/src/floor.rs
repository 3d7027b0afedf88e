//! The floor: a bare program that opens the same connections at once and sends the same locks.  Nearly
//! all of its time is the servers' forking of a process per connection.

use std::time::{Duration, Instant};

use test_cluster::Cluster;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio_postgres::{Config, NoTls};

const LOCAL: &str = "BEGIN; LOCK TABLE pg_catalog.pg_dist_node, pg_catalog.pg_dist_partition, \
     pg_catalog.pg_dist_transaction IN EXCLUSIVE MODE";
const REMOTE: &str = "BEGIN; LOCK TABLE pg_catalog.pg_dist_transaction, \
     pg_catalog.pg_dist_partition IN EXCLUSIVE MODE";

/// A runtime of one thread, as the fence has one.
pub struct Floor {
    runtime: Runtime,
    configs: Vec<Config>,
}

impl Floor {
    /// Knows where to connect to.
    pub fn new(cluster: &Cluster) -> Self {
        let runtime =
            Builder::new_current_thread().enable_all().build().expect("a runtime of one thread");
        let configs = cluster
            .nodes()
            .iter()
            .map(|node| {
                let mut config = Config::new();
                config
                    .host("127.0.0.1")
                    .port(node.port())
                    .user("postgres")
                    .dbname(cluster.database());
                config
            })
            .collect();
        Self { runtime, configs }
    }

    /// Connects to all nodes at once and locks all at once, the coordinator first; then lets go.
    pub fn once(&self) -> Duration {
        let local = LocalSet::new();
        local.block_on(&self.runtime, async {
            let begun = Instant::now();
            let connecting: Vec<_> = self
                .configs
                .iter()
                .cloned()
                .map(|config| {
                    tokio::task::spawn_local(async move {
                        let (client, connection) =
                            config.connect(NoTls).await.expect("a connection");
                        tokio::task::spawn_local(connection);
                        client
                    })
                })
                .collect();
            let mut clients = Vec::new();
            for client in connecting {
                clients.push(client.await.expect("a task"));
            }
            clients[0].batch_execute(LOCAL).await.expect("the coordinator's locks");
            let locking: Vec<_> = clients
                .into_iter()
                .enumerate()
                .map(|(number, client)| {
                    tokio::task::spawn_local(async move {
                        if number > 0 {
                            client.batch_execute(REMOTE).await.expect("a worker's locks");
                        }
                        client
                    })
                })
                .collect();
            let mut clients = Vec::new();
            for client in locking {
                clients.push(client.await.expect("a task"));
            }
            let took = begun.elapsed();
            for client in clients {
                client.batch_execute("ROLLBACK").await.expect("a rollback");
            }
            took
        })
    }
}
