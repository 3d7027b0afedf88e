//! The coordinator's note that the cluster is to be read-only.
//!
//! It is a row, committed by a session of its own before the first gate is closed, and taken away when
//! every node writes again.

use super::ClusterError;
use crate::citus::identity::as_owner;
use crate::fence::statements;
use remote::{Command, Deadline, Session, Waiter};

/// A row in a table of this extension.
const WRITE: &str = concat!(
    "BEGIN READ WRITE; ",
    as_owner!(),
    "SET LOCAL lock_timeout = '5s'; SET LOCAL synchronous_commit = 'local';\
     INSERT INTO citus_fence.cluster_read_only (asked_by) SELECT session_user \
     ON CONFLICT DO NOTHING;\
     COMMIT"
);

/// Takes it away, in whatever database.
pub const REMOVE: &str = concat!(
    "BEGIN READ WRITE; ",
    as_owner!(),
    "SET LOCAL lock_timeout = '5s'; SET LOCAL synchronous_commit = 'local';\
     DELETE FROM citus_fence.cluster_read_only;\
     COMMIT"
);

const LOOK: &str = "SELECT count(*) AS rows FROM citus_fence.cluster_read_only";

/// Whether it is written.
pub fn is_written<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    deadline: Deadline,
) -> Result<bool, ClusterError> {
    let reply =
        home.run(waiter, Command::new("look for an interrupted switch", look()), deadline)?;
    Ok(reply.sets.iter().any(|set| set.value(0, "rows") == Some("1")))
}

fn look() -> String {
    format!("{}; {LOOK}; COMMIT", statements::begin_helper(statements::HELPER_IDLE_MS))
}

/// Writes it down; nothing happens where it is written already.
pub fn write<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    deadline: Deadline,
) -> Result<(), ClusterError> {
    match home.run(waiter, Command::new("note of the switch", WRITE), deadline) {
        Ok(_) => Ok(()),
        Err(error) if error.sqlstate().is_some_and(|code| code == "25006") => {
            Err(ClusterError::CoordinatorReadOnly { databases: Vec::new() })
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes it away.
pub fn remove<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    deadline: Deadline,
) -> Result<(), ClusterError> {
    home.run(waiter, Command::new("end of the note of the switch", REMOVE), deadline)?;
    Ok(())
}
