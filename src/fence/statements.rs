//! The SQL that goes to the nodes.
//!
//! These sessions are the extension's owner, a superuser: each transaction begins with [`AS_OWNER`].
//!
//! Everything is set with `SET LOCAL`, inside the transaction that holds the locks: behind a pooler in
//! transaction mode nothing else stays with the session, and nothing may stay behind in it.

use super::steps::Barrier;
use crate::citus::identity::{self, AS_OWNER, MARKS, QUICK_QUESTION};

/// Begins the transaction that will hold the locks, and warms the session up: a fresh session's first
/// look at a catalog takes milliseconds that nobody should wait for under a lock.  A lock that conflicts
/// with no reader and no writer does that as well as a query, and for less.
///
/// - `statement_timeout` ends a statement whose canceller cannot reach it.
/// - `idle_in_transaction_session_timeout` ends the attempt on a node that never hears from the
///   coordinator again; the hold has a longer one, which comes with the flush.
/// - [`QUICK_QUESTION`]: who answers, and what it runs.
/// - `citus.enable_version_checks`: a fresh session's first look at Citus' catalog reads the control file of every
///   extension there is on the machine, which took a seventh of the node's time.  What is locked here is the same
///   in every version.
/// - the TCP settings and `client_connection_check_interval` have the node notice that this side is
///   gone, also while it waits for a lock.
pub fn begin(lock_timeout_ms: i32, idle_timeout_ms: i64, is_citus: bool) -> String {
    let unchecked = if is_citus { "SET LOCAL citus.enable_version_checks = off;" } else { "" };
    let statement_timeout_ms = i64::from(lock_timeout_ms) + STATEMENT_GRACE_MS;
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
         {AS_OWNER}\
         {unchecked}\
         SET LOCAL lock_timeout = {lock_timeout_ms};\
         SET LOCAL statement_timeout = {statement_timeout_ms};\
         SET LOCAL idle_in_transaction_session_timeout = {idle_timeout_ms};\
         SET LOCAL client_connection_check_interval = '1s';\
         SET LOCAL tcp_keepalives_idle = 5;\
         SET LOCAL tcp_keepalives_interval = 2;\
         SET LOCAL tcp_keepalives_count = 3;\
         SHOW server_version_num;\
         SHOW deadlock_timeout;\
         LOCK TABLE pg_catalog.pg_dist_transaction, pg_catalog.pg_dist_partition \
             IN ACCESS SHARE MODE;\
         {QUICK_QUESTION}, pg_backend_pid() AS pid, {DEFINITION} AS definition"
    )
}

/// Asks a node that is known by no number for the rest.
pub fn marks() -> String {
    format!("SELECT {MARKS}")
}

/// The definition of one of this extension's functions on a node, for [`is_ours`]; null where there is no
/// function of that name.  It is put together from the system caches alone: a query of `pg_proc` would have a
/// fresh session plan an index scan, which takes it several times as long.
pub const DEFINITION: &str =
    "pg_catalog.pg_get_functiondef(pg_catalog.to_regprocedure('citus_fence.flush_wal()'))";

/// Whether the function of that definition is this extension's.
pub fn is_ours(definition: Option<&str>) -> bool {
    identity::is_own_function(definition, "citus_fence.flush_wal()", "pg_lsn")
}

/// What a node's answers to the two SHOWs of [`begin`] ask for, to be sent before the locks, which it may wait so long
/// for.
///
/// `transaction_timeout` (PostgreSQL 17) must not end the hold.
pub fn settle(server_version: i32, deadlock_timeout: &str, lock_timeout_ms: i64) -> String {
    let mut sql = String::new();
    if server_version >= 170_000 {
        sql.push_str("SET LOCAL transaction_timeout = 0;");
    }
    if let Some(theirs) = parse_milliseconds(deadlock_timeout) {
        let ours = own_deadlock_timeout(theirs, lock_timeout_ms);
        sql.push_str(&format!("SET LOCAL deadlock_timeout = {ours};"));
    }
    sql
}

/// When a session that waits so long for its locks looks why it has to, in ms.
///
/// Just before the server's others do: then it is the one that finds a deadlock, and so its victim, and never a user's
/// transaction, as long as the cycle closes before it looks.  And early within its own wait: it is this look that asks
/// an autovacuum in the way to leave, which takes it a moment.
pub fn own_deadlock_timeout(theirs_ms: i64, lock_timeout_ms: i64) -> i64 {
    (theirs_ms * 9 / 10).min(lock_timeout_ms / 4).max(1)
}

/// A time as SHOW writes it.
fn parse_milliseconds(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

/// What a statement may take beyond the time it waits for locks.
pub const STATEMENT_GRACE_MS: i64 = 5_000;

/// How long after the deadline a node ends a hold by itself.
pub const IDLE_GRACE_MS: i64 = 5_000;

/// The locks of a barrier, after what a node needs before them.
///
/// A commit record takes RowExclusiveLock on `pg_dist_transaction` before the first PREPARE and keeps it
/// past the last COMMIT PREPARED, so once this is granted no two-phase commit that this node coordinates
/// is under way, and none begins; `pg_dist_partition` stands for DDL.
pub fn lock(barrier: Barrier, settle: &str, lock_timeout_ms: i64) -> String {
    let lock = match barrier {
        Barrier::ClientGate => "SELECT citus_fence.lock_gate('client')",
        Barrier::InternalGate => "SELECT citus_fence.lock_gate('internal')",
        Barrier::Tables => {
            "LOCK TABLE pg_catalog.pg_dist_transaction, pg_catalog.pg_dist_partition \
             IN EXCLUSIVE MODE"
        }
    };
    format!("{settle}SET LOCAL lock_timeout = {lock_timeout_ms};{lock}")
}

/// Brings the node's WAL to disk, by this extension's function, and gives the node's own end of the hold
/// its time.  Asked for with it: what there is to tell of the node, as one value, for which the node plans less
/// than for a table of one row.
pub fn flush(idle_timeout_ms: i64) -> String {
    format!(
        "{}; SELECT citus_fence.flush_and_identify() AS flushed",
        set_idle_timeout(idle_timeout_ms)
    )
}

/// Which data directory and timeline a node has.
const IDENTITY: &str = "(SELECT system_identifier FROM pg_catalog.pg_control_system()), \
     ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)) \
         ::pg_catalog.bit(32)::pg_catalog.int8";

/// Brings the node's WAL to disk where the extension is not: a commit that waits for its record also
/// brings everything before it to disk.  Runs in a session of its own, as it must commit.
pub fn flush_by_commit() -> String {
    format!(
        "BEGIN READ WRITE; {AS_OWNER} SET LOCAL synchronous_commit = 'local';\
         SELECT pg_catalog.pg_logical_emit_message(true, 'citus_fence', 'flush');\
         COMMIT;\
         {};\
         SELECT ROW(pg_catalog.pg_current_wal_flush_lsn(), {IDENTITY}) AS flushed",
        begin_helper(HELPER_IDLE_MS)
    )
}

/// Ends the transaction, and with it the locks.
pub const ROLLBACK: &str = "ROLLBACK";

/// Gives the node's own end of the hold a new time.
pub fn set_idle_timeout(idle_timeout_ms: i64) -> String {
    format!("SET LOCAL idle_in_transaction_session_timeout = {idle_timeout_ms}")
}

/// Begins the transaction in which a helper session stays: a session that is idle outside of one has no
/// time-out that `SET LOCAL` could give it, and would be left behind on a node whose link goes silent.
/// What it runs may itself wait for other nodes (Citus' search for deadlocks asks them all); it ends soon
/// after this side has closed the session.
pub fn begin_helper(idle_timeout_ms: i64) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; {AS_OWNER} {}; \
         SET LOCAL statement_timeout = '5s'; \
         SET LOCAL client_connection_check_interval = '1s'",
        set_idle_timeout(idle_timeout_ms)
    )
}

/// How long a node keeps a helper session that it hears nothing more from.
pub const HELPER_IDLE_MS: i64 = 5_000;

/// Longest time that a node may take to finish what it has left in doubt.
const LONGEST_RECOVERY_MS: i64 = 2_000;

/// Has the node finish what two-phase commits it has left in doubt, bounded: by then the node itself gives it
/// up, for a recovery holds a gate, and one that goes on is in the way of the attempt that asked for it.  It
/// must not wait for a synchronous standby: that wait has no time-out, and what is recovered has been
/// acknowledged or not long before.
pub fn recover(bound_ms: i64) -> String {
    let bound_ms = bound_ms.clamp(1, LONGEST_RECOVERY_MS);
    format!(
        "BEGIN READ WRITE; {AS_OWNER}\
         SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = {bound_ms};\
         SET LOCAL client_connection_check_interval = '1s';\
         SET LOCAL synchronous_commit = 'local';\
         SELECT pg_catalog.recover_prepared_transactions();\
         COMMIT;\
         {}",
        begin_helper(HELPER_IDLE_MS)
    )
}

#[cfg(test)]
mod tests {
    use super::{is_ours, parse_milliseconds, settle};

    #[test]
    fn only_a_function_in_c_is_ours() {
        let c = "CREATE OR REPLACE FUNCTION citus_fence.flush_wal()\n RETURNS pg_lsn\n LANGUAGE c\n STRICT\n \
                 SET search_path TO 'pg_catalog'\nAS '$libdir/citus_fence', $function$f$function$\n";
        assert!(is_ours(Some(c)));
        assert!(!is_ours(Some(&c.replace("$libdir/citus_fence", "$libdir/other"))));
        assert!(!is_ours(Some(&c.replace("LANGUAGE c", "LANGUAGE plpgsql"))));
        let body = format!("AS $function${c}$function$\n");
        assert!(!is_ours(Some(&(c.replace("LANGUAGE c", "LANGUAGE sql") + &body))));
        assert!(!is_ours(None));
    }

    #[test]
    fn times_are_read_as_they_are_shown() {
        assert_eq!(parse_milliseconds("1s"), Some(1000));
        assert_eq!(parse_milliseconds("250ms"), Some(250));
        assert_eq!(parse_milliseconds("2min"), Some(120_000));
        assert_eq!(parse_milliseconds("1 parsec"), None);
        assert_eq!(settle(150_020, "1s", 5_000), "SET LOCAL deadlock_timeout = 900;");
        assert_eq!(settle(150_020, "1ms", 5_000), "SET LOCAL deadlock_timeout = 1;");
        assert_eq!(settle(150_020, "10s", 5_000), "SET LOCAL deadlock_timeout = 1250;");
        assert_eq!(settle(150_020, "1s", 1), "SET LOCAL deadlock_timeout = 1;");
        assert!(settle(170_000, "1s", 5_000).starts_with("SET LOCAL transaction_timeout = 0;"));
    }
}
