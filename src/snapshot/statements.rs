//! The SQL that goes to the nodes.
//!
//! These sessions are the extension's owner: each transaction begins with [`AS_OWNER`], and sets everything with
//! `SET LOCAL`, inside the transaction, for poolers in transaction mode.

use crate::citus::identity::{AS_OWNER, MARKS, QUESTION};
use crate::fence::statements::set_idle_timeout;
use crate::pg::quote::literal;

/// Warms a keeper's session up, in a transaction that is over afterwards: whatever is looked up for the first time is
/// looked up here, and not while writers are held back.
pub fn warm_up(is_citus: bool, lock_timeout_ms: i32) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {AS_OWNER}{}\
         SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = '10s';\
         SET LOCAL client_connection_check_interval = '1s';\
         SHOW server_version_num;SELECT pg_current_snapshot(), {WHERE}, {QUESTION}, {MARKS};\
         COMMIT",
        unchecked(is_citus)
    )
}

/// Begins the transaction that the snapshot will live in. None is taken yet: SET takes none.
///
/// - `idle_in_transaction_session_timeout` ends it on a node that never hears from this side again.
/// - `transaction_timeout` (PostgreSQL 17) must not end it; before, there is none to be set.
pub fn begin(server_version: i32, idle_timeout_ms: i64, is_citus: bool) -> String {
    let no_timeout =
        if server_version >= 170_000 { "SET LOCAL transaction_timeout = 0;" } else { "" };
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\
         {AS_OWNER}\
         {}{no_timeout}\
         SET LOCAL statement_timeout = '10s';\
         SET LOCAL lock_timeout = '5s';\
         SET LOCAL client_connection_check_interval = '1s';\
         SET LOCAL tcp_keepalives_idle = 5;\
         SET LOCAL tcp_keepalives_interval = 2;\
         SET LOCAL tcp_keepalives_count = 3;\
         SET LOCAL idle_in_transaction_session_timeout = {idle_timeout_ms}",
        unchecked(is_citus)
    )
}

/// What is locked and read here is the same in every version of Citus; a fresh session's look at the versions reads
/// the control file of every extension there is.
fn unchecked(is_citus: bool) -> &'static str {
    if is_citus { "SET LOCAL citus.enable_version_checks = off;" } else { "" }
}

/// Whatever a snapshot taken before shows is in the WAL before this position: a commit is seen once its record is
/// written there.
const WHERE: &str = "pg_current_wal_insert_lsn() AS wal_lsn";

/// What is prepared on the node in this database, as a list. Before any snapshot is taken: whatever a snapshot does
/// not show because it was only prepared then is in the list, whoever has finished it since.
pub const PREPARED: &str = "SELECT coalesce(pg_catalog.json_agg(p.gid)::pg_catalog.text, '[]') AS prepared \
       FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()";

/// Which of these the node has coordinated and decided to commit.
pub fn committed(gids: &[String]) -> String {
    let gids: Vec<String> = gids.iter().map(|gid| literal(gid)).collect();
    format!(
        "SELECT coalesce(pg_catalog.json_agg(t.gid)::pg_catalog.text, '[]') AS committed \
           FROM pg_catalog.pg_dist_transaction t WHERE t.gid IN ({})",
        gids.join(", ")
    )
}

/// Takes the snapshot; then the position, so that it is no earlier. From here on a node that hears nothing more keeps
/// it for so long.
pub fn export(idle_timeout_ms: i64) -> String {
    format!(
        "SELECT pg_export_snapshot() AS snapshot_id; SELECT {WHERE}; {}",
        set_idle_timeout(idle_timeout_ms)
    )
}
