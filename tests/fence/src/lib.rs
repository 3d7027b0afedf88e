//! What the tests of the fence share: calling it, and looking at what it leaves behind.
//!
//! The tests are in `tests/`, a file per question. Each runs on every engine that there is.

mod heard;
mod load;
mod spread;
mod stuck;

use std::time::Duration;

pub use heard::Heard;
pub use load::Load;
pub use spread::Spread;
pub use stuck::StuckCommit;
use test_cluster::postgres::error::DbError;
pub use test_cluster::postgres::{Client, NoTls};
pub use test_cluster::{Bank, Cluster, Engine, PATIENCE, Result, Server, wait_until};

/// Begins a block, with the default timeout.
pub const BLOCK: &str = "SELECT citus_block_writes_for_backup()";
/// Ends it.
pub const UNBLOCK: &str = "SELECT citus_unblock_writes_for_backup()";

/// Runs a test on every engine there is, and says on which it failed.
pub fn on_each_engine(test: impl Fn(Engine) -> Result<()>) {
    for engine in Engine::available() {
        if let Err(error) = test(engine) {
            panic!("on {}: {error}", engine.name());
        }
    }
}

/// The one boolean that a call returns.
pub fn call(client: &mut Client, sql: &str) -> bool {
    client.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {}", words(&error))).get(0)
}

/// An error in the server's words, with detail and hint.
pub fn words(error: &test_cluster::postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!(
            "{} {} ({}) ({})",
            db.code().code(),
            db.message(),
            db.detail().unwrap_or("no detail"),
            db.hint().unwrap_or("no hint")
        ),
        None => error.to_string(),
    }
}

/// The error that a statement has to end with.
pub fn refusal(client: &mut Client, sql: &str) -> DbError {
    match client.simple_query(sql) {
        Ok(_) => panic!("{sql} succeeded"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone(),
    }
}

/// The block's state, as its status says.
pub fn state(client: &mut Client) -> String {
    client
        .query_one("SELECT state FROM citus_backup_block_status()", &[])
        .unwrap_or_else(|error| panic!("status: {}", words(&error)))
        .get(0)
}

/// Process of the worker that holds the block.
pub fn worker_pid(client: &mut Client) -> i32 {
    client
        .query_one("SELECT worker_pid FROM citus_backup_block_status()", &[])
        .unwrap_or_else(|error| panic!("status: {}", words(&error)))
        .get(0)
}

/// Locks of a fence, and sessions and workers of this extension, on one node.
pub fn left_behind(node: &Server) -> Result<i64> {
    let count = node.query_value(
        "SELECT (SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                  WHERE c.relname IN ('pg_dist_node', 'pg_dist_partition', 'pg_dist_transaction')
                    AND l.mode = 'ExclusiveLock'
                    AND l.pid IN (SELECT pid FROM pg_stat_activity
                                   WHERE application_name LIKE 'citus_fence%'
                                      OR backend_type LIKE 'citus_fence%'))
              + (SELECT count(*) FROM pg_stat_activity
                  WHERE application_name LIKE 'citus_fence%' OR backend_type LIKE 'citus_fence%')",
    )?;
    Ok(count.parse().expect("a count"))
}

/// Waits until nothing of a fence is left on any node that runs, at most `bound`.
pub fn wait_until_free(cluster: &Cluster, bound: Duration) -> Result<()> {
    wait_until("no lock, session or worker of the fence on any node", bound, || {
        let free = cluster
            .nodes()
            .iter()
            .filter(|node| node.is_running() && !node.is_frozen())
            .all(|node| matches!(left_behind(node), Ok(0)));
        free.then_some(())
    })
}

/// A block can be had, held on every node, and given back; nothing is left.
pub fn prove_usable(cluster: &Cluster) -> Result<()> {
    let mut client = cluster.connect(0)?;
    assert!(call(&mut client, BLOCK), "a new block");
    for (number, node) in cluster.nodes().iter().enumerate() {
        assert!(left_behind(node)? > 0, "node {number} is not under the block");
    }
    assert!(call(&mut client, UNBLOCK), "its release");
    wait_until_free(cluster, Duration::from_secs(1))
}

/// Begins a block, and gives its number.
pub fn start(client: &mut Client, arguments: &str) -> i64 {
    let sql = format!("SELECT citus_backup_block_start({arguments})");
    client.query_one(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {}", words(&error))).get(0)
}

/// Why the last block did not last, as the status says.
pub fn reason(client: &mut Client) -> Option<String> {
    client
        .query_one("SELECT error FROM citus_backup_block_status()", &[])
        .unwrap_or_else(|error| panic!("status: {}", words(&error)))
        .get(0)
}

/// Runs one statement in a thread of its own; the handle gives its result.
pub fn in_background(
    cluster: &Cluster,
    node: usize,
    statements: &[String],
) -> std::thread::JoinHandle<std::result::Result<(), test_cluster::postgres::Error>> {
    let params = cluster.node(node).connect_params();
    let statements = statements.to_vec();
    std::thread::spawn(move || {
        let mut client = params.connect().expect("a connection");
        statements.iter().try_for_each(|statement| client.batch_execute(statement))
    })
}
