//! Who is in the way: by node, process, age and query.

use std::time::Duration;

use remote::ResultSet;

use super::error::{Failed, FenceError, Reason, is_passing};
use super::statements::{HELPER_IDLE_MS, begin_helper};
use crate::citus;
use crate::gate::lock::numbers;
use crate::pg::interrupts;
use crate::pg::worker::{self, Transaction};
use crate::report::Report;

/// A text as it can be shown: in a database that knows no encoding (SQL_ASCII) clients leave any bytes in queries and
/// names, and one such must not hide who is in the way.
macro_rules! shown {
    ($text:expr) => {
        concat!(
            "CASE WHEN pg_catalog.current_setting('server_encoding') = 'SQL_ASCII' \
                  THEN pg_catalog.encode(pg_catalog.convert_to(",
            $text,
            ", 'SQL_ASCII'), 'escape') ELSE ",
            $text,
            " END"
        )
    };
}
pub(crate) use shown;

/// Looks for them in a transaction of its own, in place of the one that failed.
pub fn look() -> String {
    format!("ROLLBACK; {}; {BLOCKERS}", begin_helper(HELPER_IDLE_MS))
}

/// Who is in the middle of a command that commits on its way, in this database.
pub const IN_STEPS: &str = concat!(
    "SELECT a.pid, a.usename::text, \
            greatest(0, extract(epoch FROM clock_timestamp() - a.query_start))::int8 AS age, \
            a.state || ': ' || ",
    shown!("left(regexp_replace(a.query, E'\\\\s+', ' ', 'g'), 120)"),
    " AS what \
       FROM citus_fence.commands_in_steps() s \
       JOIN pg_catalog.pg_stat_activity a ON a.pid = s.pid \
      WHERE a.datname = pg_catalog.current_database()"
);

/// Who holds, on this node and in this database, what an ExclusiveLock on the fence's tables or on a gate
/// (whose locks have the numbers of relations that there are not) has to wait for; the oldest first.  A prepared transaction has no process; its own lock tells which it is.
const BLOCKERS: &str = concat!(
    "SELECT coalesce(l.pid, 0) AS pid, \
            coalesce(a.usename::text, p.owner::text, '') AS usename, \
            greatest(0, extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)))::int8 AS age, \
            CASE WHEN p.gid IS NOT NULL THEN 'prepared transaction ' || ",
    shown!("p.gid"),
    " ELSE coalesce(coalesce(a.state, CASE WHEN a.usename IS NULL THEN a.backend_type END) || ': ', '') || ",
    shown!("left(regexp_replace(coalesce(a.query, ''), E'\\\\s+', ' ', 'g'), 120)"),
    " END AS what \
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
                               AND c.relname IN ('pg_dist_node', 'pg_dist_partition', 'pg_dist_transaction', \
                                                 'pg_dist_authinfo', 'pg_dist_poolinfo', 'pg_dist_local_group')) \
             OR l.relation IN (",
    numbers!(gates),
    ")) \
        AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', \
                       'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
        AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
      ORDER BY coalesce(a.xact_start, p.prepared) NULLS LAST \
      LIMIT 3"
);

/// What it means that this server did not let a worker do something here; `stop` tells whether it is to stop anyway.
pub fn blocked_here(stop: impl Fn() -> bool, error: Report) -> Failed {
    if interrupts::terminated() || stop() {
        return Failed::Stopped;
    }
    if !is_passing(error.sqlstate) {
        return FenceError::from(error).into();
    }
    let look = Transaction::begin();
    let find = || look.with_latest_snapshot(|| look_here("this node"));
    let mut blockers = look.bounded(LOOK_HERE_BOUND, &stop, find).unwrap_or_default();
    drop(look);
    if blockers.is_empty() {
        // The look needs Citus' catalog itself where Citus plans it.
        let look = Transaction::begin();
        blockers = worker::catch(citus::keepers).unwrap_or_default();
        drop(look);
    }
    if let (Some(detail), true) = (&error.detail, blockers.is_empty()) {
        blockers.push(format!("on this node: {}", detail.trim_end_matches('.')));
    }
    let tells = !blockers.is_empty();
    Failed::ForNow(Reason { what: error.message, blockers, tells })
}

/// Longest time for a look at who is in the way here.
const LOOK_HERE_BOUND: Duration = Duration::from_millis(200);

/// Who is in the way on this node, in a transaction whose search_path is safe.
fn look_here(node: &str) -> Vec<String> {
    let look = || {
        pgrx::Spi::connect(|client| {
            let mut blockers = Vec::new();
            for row in client.select(BLOCKERS, None, &[])? {
                blockers.push(describe(
                    node,
                    row.get::<i32>(1)?.unwrap_or_default(),
                    &row.get::<String>(2)?.unwrap_or_default(),
                    row.get::<i64>(3)?.unwrap_or_default(),
                    &row.get::<String>(4)?.unwrap_or_default(),
                ));
            }
            blockers.dedup();
            Ok::<_, pgrx::spi::Error>(blockers)
        })
    };
    look().unwrap_or_default()
}

/// Rows of [`look`] and the like.
pub fn describe_all(node: &str, set: &ResultSet) -> Vec<String> {
    let describe_row = |row| {
        let text = |column| set.value(row, column).unwrap_or_default();
        let number = |column| text(column).parse::<i64>().unwrap_or_default();
        describe(node, number("pid") as i32, text("usename"), number("age"), text("what"))
    };
    let mut all: Vec<String> = (0..set.rows.len()).map(describe_row).collect();
    // Each once, whatever it holds.
    all.dedup();
    all
}

/// Whether a prepared transaction is among them, which has no process.
pub fn names_prepared(blockers: &ResultSet) -> bool {
    (0..blockers.rows.len()).any(|row| blockers.value(row, "pid") == Some("0"))
}

/// One of them, in words.  An autovacuum is of no role; what it runs says that it is one, and whether it is one against
/// a wraparound, which nothing asks to leave.
fn describe(node: &str, pid: i32, user: &str, age: i64, what: &str) -> String {
    let of = if user.is_empty() { String::new() } else { format!(" of {user}") };
    if pid == 0 {
        format!("on {node}, {what}{of} for {age} s")
    } else {
        format!("on {node}, process {pid}{of} for {age} s ({what})")
    }
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn who_has_no_role_is_told_without_one() {
        let vacuum =
            "active: autovacuum: VACUUM pg_catalog.pg_dist_transaction (to prevent wraparound)";
        assert_eq!(
            describe("w:1", 7, "", 3, vacuum),
            format!("on w:1, process 7 for 3 s ({vacuum})")
        );
        assert_eq!(describe("w:1", 7, "u", 3, "idle"), "on w:1, process 7 of u for 3 s (idle)");
        assert_eq!(
            describe("w:1", 0, "u", 3, "prepared transaction g"),
            "on w:1, prepared transaction g of u for 3 s"
        );
    }
}
