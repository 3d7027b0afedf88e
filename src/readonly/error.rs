//! What can go wrong with switching a node to read-only and back.

use pgrx::PgSqlErrorCode;

use crate::gate::error::GateError;
use crate::report::Report;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SwitchError {
    /// The gate's own.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// Prepared transactions that nobody ends.
    #[error("could not make the system read only because of prepared transactions")]
    Prepared {
        /// Their names, quoted.
        gids: Vec<String>,
    },
    /// Sessions that do not end, in the switch of a whole cluster, which waits for no node for ever.
    #[error("could not make the system read only because of sessions that do not end")]
    Writers {
        /// Their processes.
        pids: Vec<i32>,
    },
    /// A clone split has its part prepared here.
    #[error("cannot make the system read only while a clone split is under way")]
    Split {
        /// What it has prepared.
        gid: String,
    },
    /// A writer that is waited for waits for this session.
    #[error("the transaction of process {pid} waits for this one")]
    Deadlock {
        /// The writer.
        pid: i32,
    },
}

/// How many prepared transactions a message names.
const MOST_NAMES: usize = 20;

impl From<&SwitchError> for Report {
    fn from(error: &SwitchError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            SwitchError::Gate(error) => error.into(),
            SwitchError::Prepared { gids } => {
                let shown = gids.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
                let more = if gids.len() > MOST_NAMES { ", …" } else { "" };
                Report::new(ERRCODE_OBJECT_IN_USE, message)
                    .detail(format!(
                        "There are {}: {shown}{more}. No session ended them within \
                         citus_fence.lock_timeout, or 3.5 s in the switch of a cluster.",
                        gids.len()
                    ))
                    .hint("Use COMMIT PREPARED or ROLLBACK PREPARED, or have Citus do so: SELECT recover_prepared_transactions(); on the node that began them. The system is still read-write.")
            }
            SwitchError::Writers { pids } => {
                let names: Vec<String> = pids.iter().map(i32::to_string).collect();
                Report::new(ERRCODE_OBJECT_IN_USE, message)
                    .detail(format!("Processes that were told to end and are still there: {}.", names.join(", ")))
                    .hint("See pg_stat_activity for what they do. The system is still read-write.")
            }
            SwitchError::Split { gid } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail(format!("Its transaction {gid} is prepared on this node."))
                .hint("See on the coordinator how far it is: SELECT * FROM citus_clone_status();"),
            SwitchError::Deadlock { pid } => Report::new(ERRCODE_T_R_DEADLOCK_DETECTED, message)
                .detail(format!(
                    "It is waited for until it ends, but process {pid} needs a lock that this \
                     transaction holds, or, as CREATE INDEX CONCURRENTLY does, waits for this \
                     transaction's snapshot."
                ))
                .hint("Call the function again, in a transaction of its own. Such sessions are terminated by: SELECT alter_system_read_only();"),
        }
    }
}
