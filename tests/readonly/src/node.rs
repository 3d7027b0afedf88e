//! One node under test, and its switch.

use std::path::PathBuf;
use std::time::Duration;

use test_cluster::postgres::Client;
use test_cluster::{
    Cluster, ConnectParams, Engine, PATIENCE, Result, Server, describe, wait_until,
};

use crate::{REFUSED, WORDS, db_error, refusal, value};

/// Closes a node, terminating who is in the way.
pub const READ_ONLY: &str = "SELECT alter_system_read_only()";
/// Opens it.
pub const READ_WRITE: &str = "SELECT alter_system_read_write()";

/// A cluster of one worker whose coordinator is the node under test.
pub fn single(engine: Engine) -> Result<Cluster> {
    Cluster::builder(engine).workers(1).build()
}

/// Closes a node in a session of its own; the position that the call returns.
pub fn close(node: &Server) -> Result<String> {
    node.query_value(READ_ONLY)
}

/// Opens it.
pub fn open(node: &Server) -> Result<()> {
    node.execute(READ_WRITE)
}

/// What the node says of itself.
pub fn is_read_only(node: &Server) -> Result<bool> {
    Ok(node.query_value("SHOW citus_fence.system_is_read_only")? == "on")
}

/// Waits until a switch is under way: the node refuses writers, and waits for those it has.
pub fn await_closing(node: &Server) -> Result<()> {
    wait_until("the node to be closing", PATIENCE, || {
        let state = node.query_value("SELECT state FROM citus_fence.stat_gate").ok()?;
        (state == "closing").then_some(())
    })
}

/// How many transactions have committed with an xid and without having passed the gate.
pub fn ungated(node: &Server) -> Result<u64> {
    let text = node.query_value("SELECT ungated_commits FROM citus_fence.stat_gate")?;
    Ok(text.parse().unwrap_or_else(|_| panic!("{}: {text} is no count", node.name())))
}

/// The file that keeps the state of a read-only node.
pub fn state_file(node: &Server) -> PathBuf {
    node.data_dir().join("citus_fence.read_only")
}

/// A table to write to, `served`, with one row.
pub fn serve(node: &Server) -> Result<()> {
    node.execute("CREATE TABLE served (n bigint); INSERT INTO served VALUES (0)")
}

/// Writes to `served`: true if it went through, false if it was refused as it should be.
///
/// # Panics
/// On any other error.
pub fn writes(client: &mut Client) -> bool {
    match client.batch_execute("UPDATE served SET n = n + 1") {
        Ok(()) => true,
        Err(error) => {
            let db = db_error("a write", &error);
            assert_eq!(db.code().code(), REFUSED, "{}", describe(&error));
            assert_eq!(db.severity(), "ERROR");
            assert!(db.message().contains(WORDS), "{}", db.message());
            false
        }
    }
}

/// Writes to `served` in a session of its own: true if it went through, false if it had to wait for
/// longer than `patience`.
///
/// # Panics
/// On any other error.
pub fn try_write_in(params: &ConnectParams, patience: Duration) -> Result<bool> {
    let mut client = params.connect()?;
    client
        .batch_execute(&format!("SET lock_timeout = {}", patience.as_millis()))
        .unwrap_or_else(|error| panic!("{}", describe(&error)));
    match client.batch_execute("INSERT INTO served VALUES (7)") {
        Ok(()) => Ok(true),
        Err(error) => {
            assert_eq!(db_error("a write", &error).code().code(), "55P03", "{}", describe(&error));
            Ok(false)
        }
    }
}

/// A statement is refused, in the words that everything is refused in, and its session lives on.
pub fn refused(client: &mut Client, sql: &str) {
    let error = refusal(client, sql);
    assert_eq!(error.code().code(), REFUSED, "{sql}: {error:?}");
    assert!(error.message().contains(WORDS), "{sql}: {}", error.message());
    assert_eq!(error.severity(), "ERROR", "{sql}");
    let _ = client.batch_execute("ROLLBACK");
    assert_eq!(value(client, "SELECT 1"), "1");
}

/// What the node says of itself is what a writer sees; which of the two it is.
pub fn assert_agrees(node: &Server) -> Result<bool> {
    let closed = is_read_only(node)?;
    let went_through = writes(&mut node.connect()?);
    assert_ne!(closed, went_through, "{}: says {closed}, writes {went_through}", node.name());
    Ok(closed)
}

/// Gives a file to whoever owns the node's data directory.
pub fn give_as(path: &std::path::Path, node: &Server) {
    use std::os::unix::fs::{MetadataExt, chown};
    let owner = std::fs::metadata(node.data_dir()).expect("a data directory");
    chown(path, Some(owner.uid()), Some(owner.gid())).expect("a change of owner");
}
