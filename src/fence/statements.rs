//! The SQL that goes to the nodes.
//!
//! These sessions are the extension's owner, a superuser: each sets `search_path` before anything else,
//! for an operator or function of somebody else's must never stand in for one of the server's.
//!
//! Everything is set with `SET LOCAL`, inside the transaction that holds the locks: behind a pooler in
//! transaction mode nothing else stays with the session, and nothing may stay behind in it.

use super::attempt::Barrier;
use crate::gate::lock::numbers;
use remote::TransactionStatus;

/// Begins the transaction that will hold the locks, and warms the session up: a fresh session's first
/// look at a catalog takes milliseconds that nobody should wait for under a lock.  A lock that conflicts
/// with no reader and no writer does that as well as a query, and for less.
///
/// - `statement_timeout` ends a statement whose canceller cannot reach it.
/// - `idle_in_transaction_session_timeout` ends the attempt on a node that never hears from the
///   coordinator again; the hold has a longer one, which comes with the flush.
/// - the TCP settings and `client_connection_check_interval` have the node notice that this side is
///   gone, also while it waits for a lock.
pub fn begin(lock_timeout_ms: i32, idle_timeout_ms: i64) -> String {
    let statement_timeout_ms = i64::from(lock_timeout_ms) + STATEMENT_GRACE_MS;
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;\
         SET LOCAL search_path = pg_catalog;\
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
         SELECT pg_backend_pid() AS pid, {DEFINITION} AS definition"
    )
}

/// The definition of one of this extension's functions on a node, for [`is_ours`]; null where there is no
/// function of that name.  It is put together from the system caches alone: a query of `pg_proc` would have a
/// fresh session plan an index scan, which takes it several times as long.
pub const DEFINITION: &str =
    "pg_catalog.pg_get_functiondef(pg_catalog.to_regprocedure('citus_fence.flush_wal()'))";

/// Whether the function of that definition is this extension's.  Only a superuser makes functions in C: one in
/// another language is somebody else's, and must not run with these sessions' rights.  Where this one is ours,
/// the schema belongs to the extension's owner, and nobody else puts another into it.
///
/// Everything up to the language is known, so that nothing in a stranger's function can pass for it.
pub fn is_ours(definition: Option<&str>) -> bool {
    const HEAD: &str =
        "CREATE OR REPLACE FUNCTION citus_fence.flush_wal()\n RETURNS pg_lsn\n LANGUAGE c\n";
    definition
        .and_then(|text| text.strip_prefix(HEAD))
        .is_some_and(|rest| rest.contains("\nAS '$libdir/citus_fence', "))
}

/// What a node's answers to the two SHOWs of [`begin`] ask for, to be sent before the locks.
///
/// `deadlock_timeout` just below the node's own makes this session the one that finds a deadlock, and so
/// its victim, and never a user's transaction, as long as the cycle closes before it looks.
/// `transaction_timeout` (PostgreSQL 17) must not end the hold.
pub fn settle(server_version: i32, deadlock_timeout: &str) -> String {
    let mut sql = String::new();
    if server_version >= 170_000 {
        sql.push_str("SET LOCAL transaction_timeout = 0;");
    }
    if let Some(theirs) = parse_milliseconds(deadlock_timeout) {
        sql.push_str(&format!("SET LOCAL deadlock_timeout = {};", below(theirs)));
    }
    sql
}

/// A deadlock timeout, in ms, just below another.
pub fn below(deadlock_timeout_ms: i64) -> i64 {
    (deadlock_timeout_ms * 9 / 10).max(1)
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
/// its time.  Asked for with it: what the manifest says of the node.
pub fn flush(idle_timeout_ms: i64) -> String {
    format!(
        "{}; SELECT lsn, system_identifier, timeline FROM citus_fence.flush_and_identify()",
        set_idle_timeout(idle_timeout_ms)
    )
}

/// Which data directory and timeline a node has.
const IDENTITY: &str = "(SELECT system_identifier FROM pg_catalog.pg_control_system()) \
         AS system_identifier, \
     ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)) \
         ::pg_catalog.bit(32)::pg_catalog.int8 AS timeline";

/// Brings the node's WAL to disk where the extension is not: a commit that waits for its record also
/// brings everything before it to disk.  Runs in a session of its own, as it must commit.
pub fn flush_by_commit() -> String {
    format!(
        "BEGIN READ WRITE; SET LOCAL search_path = pg_catalog; SET LOCAL synchronous_commit = 'local';\
         SELECT pg_catalog.pg_logical_emit_message(true, 'citus_fence', 'flush');\
         COMMIT;\
         {};\
         SELECT pg_catalog.pg_current_wal_flush_lsn() AS lsn, {IDENTITY}",
        begin_helper(HELPER_IDLE_MS)
    )
}

/// Ends the transaction, and with it the locks.
pub const ROLLBACK: &str = "ROLLBACK";

/// A restore point, in a subtransaction: should it fail, the locks stay.  The wait for the answer
/// begins anew, so the node's own end of the hold is set again.
pub fn restore_point(name: &str, idle_timeout_ms: i64) -> String {
    let name = name.replace('\\', "\\\\").replace('\'', "''");
    format!(
        "SAVEPOINT citus_fence_errand;\
         SELECT pg_catalog.pg_create_restore_point(E'{name}') AS lsn;\
         RELEASE SAVEPOINT citus_fence_errand;\
         {}",
        set_idle_timeout(idle_timeout_ms)
    )
}

/// Undoes a failed errand.
pub const ERRAND_FAILED: &str = "ROLLBACK TO SAVEPOINT citus_fence_errand;\
     RELEASE SAVEPOINT citus_fence_errand";

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
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path = pg_catalog; {}; \
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
        "BEGIN READ WRITE; SET LOCAL search_path = pg_catalog;\
         SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = {bound_ms};\
         SET LOCAL client_connection_check_interval = '1s';\
         SET LOCAL synchronous_commit = 'local';\
         SELECT pg_catalog.recover_prepared_transactions();\
         COMMIT;\
         {}",
        begin_helper(HELPER_IDLE_MS)
    )
}

/// Citus' own look for distributed deadlocks, in a new helper transaction in place of the last one.
pub fn check_deadlocks(status: TransactionStatus, idle_timeout_ms: i64) -> String {
    let end = match status {
        TransactionStatus::Idle => "",
        TransactionStatus::Active
        | TransactionStatus::InTransaction
        | TransactionStatus::InError
        | TransactionStatus::Unknown => "ROLLBACK;",
    };
    format!(
        "{end}{}; SELECT pg_catalog.check_distributed_deadlocks()",
        begin_helper(idle_timeout_ms)
    )
}

/// Sessions that wait for a lock, each with whom it waits for, sessions that serve transactions begun on
/// other nodes, and those that may have begun them: all that are at work.
pub fn look_for_waiters() -> String {
    format!(
        "{}; SELECT a.pid, a.application_name, \
                CASE WHEN a.wait_event_type = 'Lock' \
                     THEN pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(a.pid), ',') END, \
                a.usename::text, \
                (SELECT ((extract(epoch FROM min(l.waitstart)) - 946684800) * 1000000)::int8 \
                   FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted), \
                a.query \
           FROM pg_catalog.pg_stat_activity a \
          WHERE a.datname = pg_catalog.current_database() \
            AND (a.wait_event_type = 'Lock' OR a.application_name LIKE '%gpid=%' \
                 OR a.state = 'active') \
            AND a.pid <> pg_catalog.pg_backend_pid() \
          ORDER BY 5 NULLS LAST, 1",
        begin_helper(HELPER_IDLE_MS)
    )
}

/// Looks for blockers in a transaction of its own, in place of the one that failed.
pub fn look_for_blockers() -> String {
    format!("ROLLBACK; {}; {BLOCKERS}", begin_helper(HELPER_IDLE_MS))
}

/// Who is in the middle of a command that commits on its way, in this database.
pub const IN_STEPS: &str = "SELECT a.pid, a.usename::text, \
            greatest(0, extract(epoch FROM clock_timestamp() - a.query_start))::int8 AS age, \
            a.state || ': ' || left(regexp_replace(a.query, E'\\\\s+', ' ', 'g'), 120) AS what \
       FROM citus_fence.commands_in_steps() s \
       JOIN pg_catalog.pg_stat_activity a ON a.pid = s.pid \
      WHERE a.datname = pg_catalog.current_database()";

/// The same on this node, in a transaction whose search_path is safe.
pub fn local_blockers() -> &'static str {
    BLOCKERS
}

/// Who holds, on this node and in this database, what an ExclusiveLock on the fence's tables or on a gate
/// (whose locks have the numbers of relations that there are not) has to wait for; the oldest first.  A prepared transaction has no process; its own lock tells which it is.
const BLOCKERS: &str = concat!(
    "SELECT coalesce(l.pid, 0) AS pid, \
            coalesce(a.usename::text, p.owner::text, '') AS usename, \
            greatest(0, extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)))::int8 AS age, \
            CASE WHEN p.gid IS NOT NULL THEN 'prepared transaction ' || p.gid \
                 ELSE coalesce(a.state || ': ', '') \
                      || left(regexp_replace(coalesce(a.query, ''), E'\\\\s+', ' ', 'g'), 120) END AS what \
       FROM pg_catalog.pg_locks l \
       LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
       LEFT JOIN pg_catalog.pg_locks x \
              ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction \
             AND x.locktype = 'transactionid' AND x.granted \
       LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid \
      WHERE l.granted AND l.locktype = 'relation' \
        AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                           WHERE datname = pg_catalog.current_database()) \
        AND (l.relation IN (SELECT c.oid FROM pg_catalog.pg_class c \
                             WHERE c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace \
                               AND c.relname IN ('pg_dist_node', 'pg_dist_partition', 'pg_dist_transaction')) \
             OR l.relation IN (",
    numbers!(gates),
    ")) \
        AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', \
                       'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
        AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
      ORDER BY coalesce(a.xact_start, p.prepared) NULLS LAST \
      LIMIT 3"
);

#[cfg(test)]
mod tests {
    use super::{is_ours, parse_milliseconds, restore_point, settle};

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
        assert_eq!(settle(150_020, "1s"), "SET LOCAL deadlock_timeout = 900;");
        assert_eq!(settle(150_020, "1ms"), "SET LOCAL deadlock_timeout = 1;");
        assert!(settle(170_000, "1s").starts_with("SET LOCAL transaction_timeout = 0;"));
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        let sql = restore_point(r"it's \'; DROP", 1);
        assert!(sql.contains(r"(E'it''s \\''; DROP')"), "{sql}");
    }
}
