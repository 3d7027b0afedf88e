//! What can go wrong with the gate, and with keeping the node's state.

use pgrx::PgSqlErrorCode;

use crate::pg::libpq;
use crate::report::Report;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GateError {
    /// An argument that must not be null is.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Its name.
        argument: &'static str,
    },
    /// A gate that does not exist.
    #[error("there is no gate \"{given}\"")]
    UnknownGate {
        /// What was given.
        given: String,
    },
    /// No shared memory.
    #[error("citus_fence must be loaded via shared_preload_libraries")]
    NotPreloaded,
    /// Loaded in the wrong order.
    #[error("citus_fence must be loaded after citus")]
    LoadOrder,
    /// On a standby.
    #[error("{function} cannot be used during recovery")]
    InRecovery {
        /// The function.
        function: &'static str,
    },
    /// The calling transaction is a writer itself.
    #[error("{function} cannot be called in a transaction that has written")]
    HasWritten {
        /// The function.
        function: &'static str,
    },
    /// A write on a read-only node.
    #[error("cannot execute {command}: system is now read only")]
    ReadOnly {
        /// What would have written.
        command: String,
    },
    /// A write of the transaction that holds a gate closed.
    #[error("cannot execute {command}: this transaction holds a gate closed")]
    ClosedBySelf {
        /// What would have written.
        command: String,
    },
    /// Others got in the way of closing a gate for too long.
    #[error("could not close the {gate} gate within lock_timeout")]
    NotClosed {
        /// Which gate.
        gate: &'static str,
        /// Names of prepared transactions that hold it.
        prepared: Vec<String>,
    },
    /// The prepared transactions cannot be looked at.
    #[error("could not look for prepared transactions: {why}")]
    Look {
        /// The server's reason.
        why: String,
    },
    /// The state file cannot be written or removed.
    #[error("could not {what} file \"{file}\": {why}")]
    File {
        /// The step.
        what: &'static str,
        /// The file.
        file: &'static str,
        /// The operating system's reason.
        why: String,
    },
}

impl From<&GateError> for Report {
    fn from(error: &GateError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            GateError::NullArgument { argument } => {
                Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
                    .hint(format!("Give a value for {argument}, or leave it out where it has a default."))
            }
            GateError::UnknownGate { .. } => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("The gates are \"client\" and \"internal\"."),
            GateError::NotPreloaded => libpq::too_old().unwrap_or_else(|| {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("Writers pass the gate only where the server was started with the library.")
                    .hint(
                        "Add citus_fence to shared_preload_libraries, behind citus if that is there, \
                         and restart the server.",
                    )
            }),
            GateError::LoadOrder => Report::new(ERRCODE_CONFIG_FILE_ERROR, message)
                .detail(
                    "A writer has to be turned away before Citus commits any part of its transaction on \
                     another node.",
                )
                .hint("Set shared_preload_libraries = 'citus,citus_fence', and start the server again."),
            GateError::InRecovery { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("A standby is read-only as it is.")
                    .hint("Call it on the primary, or on this server after: SELECT pg_promote();")
            }
            GateError::HasWritten { .. } => Report::new(ERRCODE_ACTIVE_SQL_TRANSACTION, message)
                .detail("It deals with the transactions that have written, and its own is one of them.")
                .hint("Commit or roll back first, and call it again."),
            GateError::ReadOnly { .. } => Report::new(ERRCODE_READ_ONLY_SQL_TRANSACTION, message)
                .hint("To let this node write again, as a superuser: SELECT alter_system_read_write();"),
            GateError::ClosedBySelf { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("A transaction that closes a gate for others does not pass it either.")
                    .hint("End the transaction, which opens the gate, and write in another.")
            }
            GateError::NotClosed { prepared, .. } => {
                let report = Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message);
                if prepared.is_empty() {
                    report.hint("To see who is in the way: SELECT * FROM citus_fence.gate_blockers;")
                } else {
                    report
                        .detail(format!(
                            "Among those in the way are prepared transactions: {}.",
                            prepared.join(", ")
                        ))
                        .hint(
                            "Commit or roll them back (on a Citus coordinator: SELECT \
                             recover_prepared_transactions();), and see: \
                             SELECT * FROM citus_fence.gate_blockers;",
                        )
                }
            }
            GateError::Look { .. } => Report::new(ERRCODE_INTERNAL_ERROR, message)
                .detail("The state is not changed."),
            GateError::File { .. } => Report::new(ERRCODE_IO_ERROR, message)
                .detail("The state has to survive a restart, so it is not changed.")
                .hint("Check the data directory's file system, and call the function again."),
        }
    }
}
