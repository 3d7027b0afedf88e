//! COPY with FREEZE: rows are written as old ones at once, so that no later scan has to mark them, and no vacuum to
//! freeze them. With checksums or `wal_log_hints` the first scan would write the whole table to the WAL once more.
//!
//! The server takes it for a table that was truncated in the same transaction. So the table is locked against
//! everybody, and truncated only if it has no row then: whatever is in it, nothing is lost. Nobody is waited for: where
//! others are at the table, it is copied into as it is. A frozen row is seen by snapshots that are older than it is, so
//! only tables are written in this way that the same restore has made.

use remote::RemoteError;

use crate::dump::{NodeSession, literal};

/// A file of fewer bytes is not worth the table's new file.
pub const WORTH_IT: u64 = 1 << 20;

/// Makes a table ready for it, in a transaction that was begun; false where it must be copied into as it is.
pub fn prepare(session: &mut NodeSession, table: &str) -> Result<bool, RemoteError> {
    let lock = format!("SAVEPOINT alone; LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE NOWAIT");
    match session.ask("lock the table", &lock) {
        Ok(_) => {}
        Err(RemoteError::Query { .. }) if session.is_alive() => {
            session.ask("go on without a lock", "ROLLBACK TO alone; RELEASE alone")?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    session.ask("keep the lock", "RELEASE alone")?;
    // A subscriber would truncate its table, too; a trigger may do anything; Citus sends what is done to its tables to
    // other nodes.
    let is_fit = format!(
        "SELECT c.relkind = 'r' AND m.amname = 'heap' AND NOT EXISTS (SELECT FROM ONLY {table})
                AND NOT EXISTS (SELECT FROM pg_constraint WHERE confrelid = c.oid)
                AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid)
                AND NOT EXISTS (SELECT FROM pg_publication)
                AND NOT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid::oid = c.oid)
           FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE c.oid = {}::regclass",
        literal(table)
    );
    let reply = session.ask("ask whether rows can be frozen", &is_fit)?;
    if reply.single_value()? != "t" {
        return Ok(false);
    }
    session.ask("begin a new file", &format!("TRUNCATE ONLY {table}"))?;
    Ok(true)
}
