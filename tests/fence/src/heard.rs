//! A session that remembers the WARNINGs and NOTICEs it is sent.

use std::sync::{Arc, Mutex};

use test_cluster::postgres::{Client, NoTls};
use test_cluster::{Cluster, Result};

/// The session, and what it has heard.
pub struct Heard {
    /// The session.
    pub client: Client,
    said: Arc<Mutex<Vec<String>>>,
}

impl Heard {
    /// Connects to a node of a cluster without TLS.
    pub fn on(cluster: &Cluster, node: usize) -> Result<Self> {
        Self::in_database(cluster, node, cluster.database())
    }

    /// The same in another of its databases.
    pub fn in_database(cluster: &Cluster, node: usize, database: &str) -> Result<Self> {
        let said = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&said);
        let mut config = cluster.node(node).connect_params().database(database).config();
        config.notice_callback(move |notice| {
            let text = format!(
                "{}: {} ({})",
                notice.severity(),
                notice.message(),
                notice.detail().unwrap_or("no detail")
            );
            list.lock().expect("no thread panics with it").push(text);
        });
        let client = config.connect(NoTls).expect("a connection");
        Ok(Self { client, said })
    }

    /// What it has heard since the last time it was asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.said.lock().expect("no thread panics with it"))
    }
}
