//! Whose functions split a node.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use test_cluster::postgres::{Error, NoTls};
use test_cluster::{Cluster, ConnectParams, HOST, Replica, Result, describe};

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// This extension's.
    Ours,
    /// Those that Citus has from 13.2 on: the control.
    CitusOwn,
}

impl How {
    /// Where its functions are: both have the same names.
    fn schema(self) -> &'static str {
        match self {
            How::Ours => "public",
            How::CitusOwn => "pg_catalog",
        }
    }

    /// Whether a cluster has it.
    pub fn exists(self, cluster: &Cluster) -> Result<bool> {
        let look = format!(
            "SELECT to_regprocedure('{}.citus_promote_clone_and_rebalance(int, name, int)') IS NOT NULL",
            self.schema()
        );
        Ok(cluster.coordinator().query_value(&look)? == "t")
    }

    /// Makes a replica known to the cluster; the id it gets.
    pub fn register(self, cluster: &Cluster, replica: &Replica) -> Result<i32> {
        let add = format!(
            "SELECT {}.citus_add_clone_node('{HOST}', {}, '{HOST}', {})",
            self.schema(),
            replica.catalog_port(),
            cluster.catalog_port(replica.source())
        );
        let id = cluster.coordinator().query_value(&add)?;
        Ok(id.parse().expect("an id"))
    }

    /// The call that splits the node.
    pub fn call(self, clone: i32) -> String {
        format!("SELECT {}.citus_promote_clone_and_rebalance({clone})", self.schema())
    }

    /// Makes the call in a session of its own.
    pub fn split(self, cluster: &Cluster, clone: i32) -> Call {
        Call::make(&cluster.coordinator().connect_params(), self.call(clone))
    }
}

/// A call under way.
pub struct Call {
    notices: Arc<Mutex<Vec<Notice>>>,
    thread: JoinHandle<Called>,
}

/// What the server said meanwhile.
#[derive(Clone, Debug)]
pub struct Notice {
    /// When it came.
    pub at: Instant,
    /// Its text.
    pub message: String,
}

/// A call that has ended.
#[derive(Debug)]
pub struct Called {
    /// When it was made.
    pub began: Instant,
    /// When it was answered.
    pub ended: Instant,
    /// What was said meanwhile.
    pub notices: Vec<Notice>,
    /// How it ended: the error in full.
    pub outcome: std::result::Result<(), String>,
}

impl Call {
    /// Makes a call in a session of its own.
    pub fn make(params: &ConnectParams, sql: String) -> Call {
        Call::in_turn(params, [sql])
    }

    /// Several, one after the other in one session.
    pub fn in_turn<const N: usize>(params: &ConnectParams, statements: [String; N]) -> Call {
        let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let heard = Arc::clone(&notices);
        let mut config = params.config();
        config.notice_callback(move |notice| {
            heard.lock().push(Notice { at: Instant::now(), message: notice.message().to_owned() });
        });
        let seen = Arc::clone(&notices);
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let outcome: std::result::Result<(), Error> =
                config.connect(NoTls).and_then(|mut client| {
                    statements.iter().try_for_each(|sql| client.batch_execute(sql))
                });
            Called {
                began,
                ended: Instant::now(),
                notices: seen.lock().clone(),
                outcome: outcome.map_err(|error| describe(&error)),
            }
        });
        Call { notices, thread }
    }

    /// What was said by now.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.lock().clone()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    pub fn end(self) -> Called {
        self.thread.join().expect("the thread of a call")
    }
}
