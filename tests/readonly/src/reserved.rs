//! A standby that is reserved for a clone: the calls, and what the node says and does.

use std::path::PathBuf;

use test_cluster::postgres::Client;
use test_cluster::{Cluster, Engine, PATIENCE, Result, Server, describe};

use crate::{REFUSED, db_error, is_read_only, serve, value};

/// The secret of the split.
pub const TOKEN: &str = "5f0c1b7e-2a57-4d2c-9a53-0c6a3f4b7d11";
/// Reserves a node for clone 7.
pub const RESERVE: &str =
    "SELECT citus_fence.reserve_node(7, '5f0c1b7e-2a57-4d2c-9a53-0c6a3f4b7d11')";
/// Makes a session the split's own.
pub const ENTER: &str =
    "SELECT citus_fence.enter_reserved_node('5f0c1b7e-2a57-4d2c-9a53-0c6a3f4b7d11')";
/// Releases the node.
pub const RELEASE: &str = "SELECT citus_fence.release_node('5f0c1b7e-2a57-4d2c-9a53-0c6a3f4b7d11')";
/// The words of every refusal.
pub const WORDS: &str = ": this node is reserved for clone 7";
/// A write.
pub const WRITE: &str = "UPDATE served SET n = n + 1";

/// A worker with a table to write to, and a standby of it that has the table.
pub fn with_standby(engine: Engine) -> Result<Cluster> {
    let cluster = Cluster::builder(engine).workers(1).standbys([1]).build()?;
    serve(cluster.worker(1))?;
    cluster.worker(1).wait_for_replay_on(cluster.standby_of(1), PATIENCE)?;
    Ok(cluster)
}

/// Promotes it.
pub fn promote(standby: &Server) -> Result<()> {
    assert_eq!(standby.query_value("SELECT pg_promote()")?, "t");
    Ok(())
}

/// The file that keeps the state.
pub fn file(node: &Server) -> PathBuf {
    node.data_dir().join("citus_fence.reserved")
}

/// The state that the node shows, with the clone's id.
pub fn state(node: &Server) -> Result<String> {
    node.query_value("SELECT concat_ws(' ', state, clone_id) FROM citus_fence.stat_gate")
}

/// Whether a write goes through; if not, it is refused because of clone 7, and the session lives on.
pub fn writes(client: &mut Client, sql: &str) -> bool {
    let Err(error) = client.batch_execute(sql) else { return true };
    let db = db_error(sql, &error);
    assert_eq!(db.code().code(), REFUSED, "{sql}: {}", describe(&error));
    assert!(db.message().contains(WORDS), "{sql}: {}", db.message());
    assert!(db.hint().is_some() && db.severity() == "ERROR", "{sql}: {db:?}");
    let _ = client.batch_execute("ROLLBACK");
    assert_eq!(value(client, "SELECT 1"), "1");
    false
}

/// The node says that it is reserved, and refuses a client.
pub fn assert_reserved(node: &Server, when: &str) -> Result<()> {
    assert_eq!(state(node)?, "reserved 7", "{when}");
    assert!(is_read_only(node)?, "{when}");
    assert!(!writes(&mut node.connect()?, WRITE), "{when}: a client's write went through");
    Ok(())
}
