//! How far a restore is, in the database that is restored: a table of the command's own on every node.
//!
//! What is done and the row that says so are written in *one transaction of one node*, so one is there if and only
//! if the other is, whoever or whatever is killed in between. The row comes first. A process that was left behind by
//! a former run, and has not ended yet, holds its row's place: who comes after it waits for its end, and then
//! finds the row (done: passed over) or does not (undone: done again). Nothing is done twice.
//!
//! Rows of a file that is loaded by the coordinator into shards elsewhere are committed by Citus in two phases, with
//! this row in the coordinator's half, so that they are of one mind too.

use remote::RemoteError;

use crate::dump::{NodeSession, literal};
use crate::failure::Failure;
use crate::rows::rows;

/// Its schema.
pub const SCHEMA: &str = "citus_fence_restore";

/// Makes it, and leaves nothing of it: whether that may be done at all.
pub const TRY: &str = "BEGIN; CREATE SCHEMA IF NOT EXISTS citus_fence_restore; \
 CREATE TABLE IF NOT EXISTS citus_fence_restore.progress (what text PRIMARY KEY); ROLLBACK";

/// What stands on the coordinator when all is there and compared: from here on other nodes' progress may go.
pub const WHOLE: &str = "whole";

/// A lock that a restore has on every node for as long as it is at work.
const AT_WORK: i64 = 0x6366_7264_0001;
/// A lock that its psql has, and its sessions that make things: each may outlive it for a moment.
pub const SCRIPT: i64 = 0x6366_7264_0002;

/// The dump whose restore was begun here.
pub fn begun(session: &mut NodeSession) -> Result<Option<String>, Failure> {
    let there = format!("SELECT to_regclass('{SCHEMA}.progress') IS NOT NULL");
    if session.ask("look for a restore", &there)?.single_value()? != "t" {
        return Ok(None);
    }
    let sql = format!(
        "SELECT coalesce(max(substr(what, 6)), '') FROM {SCHEMA}.progress WHERE what LIKE 'dump %'"
    );
    Ok(Some(session.ask("ask which dump is restored", &sql)?.single_value()?.to_owned()))
}

/// Takes the place of the one restore that is at work; false if somebody has it. The session of one that was killed
/// may need a moment to notice.
pub fn claim(session: &mut NodeSession) -> Result<bool, Failure> {
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_lock({AT_WORK}); COMMIT"
    );
    match session.ask("see whether another restore is at work", &sql) {
        Ok(_) => Ok(true),
        // lock_not_available
        Err(error) if error.sqlstate() == Some("55P03") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Has what a former run's commits have left in doubt finished, so that rows and marks are of one mind. The cluster
/// would do it by itself, a minute later.
pub fn recover(session: &mut NodeSession) -> Result<(), Failure> {
    let sql = "SELECT recover_prepared_transactions()";
    session.ask_within("recover prepared transactions", sql, super::target::LONG)?;
    Ok(())
}

/// Has a session waited for by the next run, as a psql is. At most one at a time has this.
pub fn hold_script(session: &mut NodeSession) -> Result<(), Failure> {
    let sql = format!("SELECT pg_advisory_lock({SCRIPT})");
    session.ask_within("take the place of a script", &sql, super::target::LONG)?;
    Ok(())
}

/// The same for one of several that are at work side by side.
pub fn share_script(session: &mut NodeSession) -> Result<(), Failure> {
    let sql = format!("SELECT pg_advisory_lock_shared({SCRIPT})");
    session.ask_within("take the place of a script", &sql, super::target::LONG)?;
    Ok(())
}

/// Waits for what a former run's psql has left behind.
pub fn await_script(session: &mut NodeSession) -> Result<(), Failure> {
    let sql = format!("SELECT pg_advisory_lock({SCRIPT}); SELECT pg_advisory_unlock({SCRIPT})");
    session.ask_within("wait for a former run", &sql, super::target::LONG)?;
    Ok(())
}

/// Begins on a node, or finds that it was begun.
pub fn begin(session: &mut NodeSession, id: &str) -> Result<(), Failure> {
    let sql = format!(
        "BEGIN; CREATE SCHEMA IF NOT EXISTS {SCHEMA};
         CREATE TABLE IF NOT EXISTS {SCHEMA}.progress (what text PRIMARY KEY);
         INSERT INTO {SCHEMA}.progress VALUES ({}) ON CONFLICT DO NOTHING; COMMIT",
        literal(&format!("dump {id}"))
    );
    session.ask("begin", &sql)?;
    Ok(())
}

/// What is done here.
pub fn done(session: &mut NodeSession) -> Result<std::collections::HashSet<String>, Failure> {
    let reply = session.ask("ask what is done", &format!("SELECT what FROM {SCHEMA}.progress"))?;
    let mut done = std::collections::HashSet::new();
    for row in rows(&reply)? {
        done.insert(row.get("what")?);
    }
    Ok(done)
}

/// The statement that says of something that it is done.
pub fn mark(what: &str) -> String {
    format!("INSERT INTO {SCHEMA}.progress VALUES ({})", literal(what))
}

/// Whether an error says that it was done before.
pub fn is_done(error: &RemoteError) -> bool {
    // unique_violation
    error.sqlstate() == Some("23505")
}

/// Notes something on a node that is so from now on.
pub fn note(session: &mut NodeSession, what: &str) -> Result<(), Failure> {
    session.ask("note how far it is", &format!("{} ON CONFLICT DO NOTHING", mark(what)))?;
    Ok(())
}

/// Removes it from all nodes if nothing has been done; false where something has, or it cannot be found out.
pub fn forget(sessions: &mut [NodeSession]) -> bool {
    let untouched = sessions
        .iter_mut()
        .all(|session| session.is_alive() && done(session).is_ok_and(|done| done.len() <= 1));
    let drop = format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE");
    untouched
        && sessions.iter_mut().rev().all(|session| session.ask("leave nothing", &drop).is_ok())
}

/// Removes it from the other nodes. The coordinator's goes with the restore's last transaction.
pub fn end_elsewhere(sessions: &mut [NodeSession]) -> Result<(), Failure> {
    for session in sessions.iter_mut().skip(1) {
        session.ask("end", &format!("DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))?;
    }
    Ok(())
}
