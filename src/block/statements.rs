//! The SQL that goes to the nodes while a block is held, over the sessions that hold it and over helpers; the rules
//! for it are those of [`crate::fence::statements`].

use remote::TransactionStatus;

use crate::fence::blockers::shown;
use crate::fence::statements::{HELPER_IDLE_MS, begin_helper, set_idle_timeout};

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
                {} \
           FROM pg_catalog.pg_stat_activity a \
          WHERE a.datname = pg_catalog.current_database() \
            AND (a.wait_event_type = 'Lock' OR a.application_name LIKE '%gpid=%' \
                 OR a.state = 'active') \
            AND a.pid <> pg_catalog.pg_backend_pid() \
          ORDER BY 5 NULLS LAST, 1",
        begin_helper(HELPER_IDLE_MS),
        shown!("a.query")
    )
}

#[cfg(test)]
mod tests {
    use super::restore_point;

    #[test]
    fn names_cannot_leave_their_quotes() {
        let sql = restore_point(r"it's \'; DROP", 1);
        assert!(sql.contains(r"(E'it''s \\''; DROP')"), "{sql}");
    }
}
