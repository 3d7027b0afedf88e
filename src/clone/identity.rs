//! The promotion, and the clone's own identity after it.
//!
//! Everything here can be done again: a crash between any two of it goes on from there.

use std::time::Duration;

use remote::{Deadline, Pause, RemoteError, Session, Waiter, pause};

use super::error::CloneError;
use super::links::{SHORT, ask};
use super::registry::{Fork, Plan, Replica};
use super::statements::{self, query};
use crate::pg::quote::literal;

/// How often is looked whether a promotion is over, or a position replayed.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long the clone may take to say how far it is.
const ANSWER_BOUND: Duration = Duration::from_secs(3);
/// How long a promotion may take before it is asked for again.
const PROMOTION_BOUND: Duration = Duration::from_secs(60);
/// Bound on the transaction that makes the identity.
const IDENTITY_BOUND: Duration = Duration::from_secs(70);

/// The position up to which the clone has to replay: behind everything that the source has written by now.
///
/// It is that of a message, and not where the next record would go: at the boundary of a page that is a position
/// which an idle source never reaches.  The message's own transaction brings it to disk.
pub fn target<W: Waiter>(waiter: &mut W, source: &mut Session) -> Result<String, CloneError> {
    let sql = statements::write(
        "SET LOCAL synchronous_commit = 'local';\
         SELECT pg_logical_emit_message(true, 'citus_fence', 'clone split')::text AS lsn",
    );
    let reply = ask(waiter, source, "write the target", &sql, SHORT)?;
    Ok(reply.single_value()?.to_owned())
}

/// Waits until the clone has replayed up to there; false when the time is over.
pub fn replayed<W: Waiter>(
    waiter: &mut W,
    clone: &mut Session,
    lsn: &str,
    by: Deadline,
) -> Result<bool, CloneError> {
    let sql = query(&format!(
        "SELECT coalesce(pg_last_wal_replay_lsn() >= {}::pg_lsn, false)",
        literal(lsn)
    ));
    loop {
        // Writers wait: one that does not even answer is given up soon.
        let reply = ask(waiter, clone, "look how far the clone is", &sql, ANSWER_BOUND)?;
        if reply.single_value()? == "t" {
            return Ok(true);
        }
        if by.expired(waiter) {
            return Ok(false);
        }
        rest(waiter, clone, "look how far the clone is")?;
    }
}

/// Whether this server is the one that was made harmless, and has not been opened since.
pub fn is_reserved<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<bool, CloneError> {
    let sql = query("SELECT coalesce(citus_fence.reserved_for(), 0) AS clone");
    let reply = ask(waiter, session, "look for whom the clone is reserved", &sql, SHORT)?;
    Ok(reply.parse_single::<i32>()? == clone.nodeid)
}

/// Whether the clone is promoted, has the new metadata, and takes clients: so it was opened before the first node committed.
pub fn is_open_node<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<bool, CloneError> {
    let sql = query(&format!(
        "SELECT NOT pg_is_in_recovery() AND citus_fence.reserved_for() IS NULL \
                AND EXISTS (SELECT FROM pg_dist_node WHERE nodeid = {}) AS is_open",
        clone.nodeid
    ));
    let reply = ask(waiter, session, "look whether the clone is open", &sql, SHORT)?;
    Ok(reply.single_value()? == "t")
}

/// At the clone's address there may be another replica by now, which must not be promoted as it is.
fn not_reserved(session: &Session, clone: &Replica) -> CloneError {
    CloneError::NotReserved { node: session.node().to_string(), nodeid: clone.nodeid }
}

/// Ends the clone's recovery; where it has left its source's timeline, if that is to be found.
pub fn promote<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<Option<Fork>, CloneError> {
    // To ask and look: to wait for it, the function sleeps in steps of a tenth of a second.
    let ask_for = query(&format!(
        "SELECT CASE WHEN citus_fence.reserved_for() IS DISTINCT FROM {} THEN 'another' \
                     WHEN pg_is_in_recovery() THEN pg_promote(false)::text ELSE 'promoted' END AS asked",
        clone.nodeid
    ));
    let reply = ask(waiter, session, "promote", &ask_for, SHORT)?;
    if reply.single_value()? == "another" {
        return Err(not_reserved(session, clone));
    }
    let by = Deadline::after(waiter, PROMOTION_BOUND);
    let look = query(statements::FORK);
    loop {
        let reply = ask(waiter, session, "look whether it is promoted", &look, SHORT)?;
        let answer = reply.single_value()?;
        if answer != "recovery" {
            return Ok(Fork::parse(answer));
        }
        if by.expired(waiter) {
            return Err(reply.unexpected("the server is still in recovery").into());
        }
        rest(waiter, session, "look whether it is promoted")?;
    }
}

/// Where the promoted clone has left its source's timeline.
pub fn fork<W: Waiter>(waiter: &mut W, session: &mut Session) -> Result<Option<Fork>, CloneError> {
    let sql = query(statements::FORK);
    let reply = ask(waiter, session, "look where it has forked", &sql, SHORT)?;
    Ok(Fork::parse(reply.single_value()?))
}

/// Gives the promoted clone its own identity.
///
/// In this order: what it inherited as prepared is rolled back, for the source finishes its own; one transaction makes
/// the identity; our own switch is committed.
pub fn become_itself<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
    plan: &Plan,
    is_citus: bool,
    was_coordinator: bool,
) -> Result<Vec<String>, CloneError> {
    let enter = query(&format!(
        "SELECT coalesce(CASE WHEN citus_fence.reserved_for() = {} \
                              THEN citus_fence.enter_reserved_node({})::text END, 'another')",
        clone.nodeid,
        literal(&clone.token)
    ));
    let entered = ask(waiter, session, "enter the clone", &enter, SHORT)?;
    if entered.single_value()? == "another" {
        return Err(not_reserved(session, clone));
    }
    let mut left = Vec::new();
    let inherited =
        ask(waiter, session, "look at what is prepared", &query(statements::INHERITED), SHORT)?;
    let set = inherited.last_set()?;
    let switch = clone.switch_gid();
    let has_identity = has_identity(waiter, session, plan)?;
    for row in 0..set.rows.len() {
        let gid = set.value(row, "gid").unwrap_or_default();
        // Once it has its own identity, what is prepared is its own.
        if gid == switch || (has_identity && gid != clone.seal_gid()) {
            continue;
        }
        if set.value(row, "here") != Some("t") {
            let database = set.value(row, "database").unwrap_or_default();
            left.push(format!("prepared transaction {gid} in database {database}"));
            continue;
        }
        let sql = format!("ROLLBACK PREPARED {}", literal(gid));
        ask(waiter, session, "roll back what the clone inherited", &sql, SHORT)?;
    }
    let identity = statements::identity(&clone.token, plan, is_citus, was_coordinator);
    if !has_identity {
        ask(waiter, session, "make the clone's identity", &identity, IDENTITY_BOUND)?;
    }
    // Its gate stays closed until the registry says that there is no way back any more, and its settings come back when
    // writers go on: they are not to wait for that, too.
    commit_prepared(waiter, session, clone, &switch)?;
    Ok(left)
}

fn has_identity<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    plan: &Plan,
) -> Result<bool, CloneError> {
    let reply = ask(waiter, session, "look at the clone's group", &statements::who(), SHORT)?;
    Ok(reply.parse_single::<i32>()? == plan.group)
}

/// Commits our switch on a node, or finds that it is committed.
pub fn commit_prepared<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
    gid: &str,
) -> Result<(), CloneError> {
    let sql = format!("COMMIT PREPARED {}", literal(gid));
    match ask(waiter, session, "commit the switch", &sql, SHORT) {
        Ok(_) => Ok(()),
        Err(error) if error.sqlstate() == Some(NO_SUCH_GID) => {
            let node = session.node().to_string();
            require_switched(waiter, session, clone, node)
        }
        Err(error) => Err(error.into()),
    }
}

/// What the server says where nothing of that name is prepared.
pub const NO_SUCH_GID: &str = "42704";
/// object_in_use.
pub const IN_USE: &str = "55006";

/// Nothing is prepared there any more, so the new metadata must be there.
pub fn require_switched<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
    node: String,
) -> Result<(), CloneError> {
    let sql = statements::has_switched(clone);
    let reply = ask(waiter, session, "look for the new metadata", &sql, SHORT)?;
    if reply.single_value()? == "1" {
        return Ok(());
    }
    // Where nothing moves, that says nothing.
    let moves = clone.plan.as_ref().is_some_and(|plan| !plan.moving.is_empty());
    if moves && had_switched(waiter, session, clone)? {
        return Ok(());
    }
    Err(CloneError::Lost { node, nodeid: clone.nodeid, what: clone.switch_gid() })
}

/// Whether a node has had the new metadata, and the clone has been removed from it since.
pub fn had_switched<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<bool, CloneError> {
    let Some(plan) = &clone.plan else { return Ok(false) };
    let sql = statements::had_switched(clone, plan);
    let reply = ask(waiter, session, "look whether the clone was removed", &sql, SHORT)?;
    Ok(reply.single_value()? == "t")
}

fn rest<W: Waiter>(
    waiter: &mut W,
    session: &Session,
    command: &'static str,
) -> Result<(), CloneError> {
    match pause(waiter, LOOK_AGAIN) {
        Pause::Over => Ok(()),
        Pause::Stopped => {
            Err(RemoteError::Stopped { node: session.node().clone(), command }.into())
        }
    }
}
