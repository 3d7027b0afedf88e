//! What can go wrong with the gate, and with keeping the node's state.

use pgrx::PgSqlErrorCode;

use super::reservation::{Clone, UNKNOWN};
use super::reserved_file::Token;
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
        /// All of the cluster is.
        with_cluster: bool,
    },
    /// A session that has to be reset before it is used again, and cannot be.
    #[error("terminating connection because it could not be reset: {why}")]
    NotReset {
        /// Why.
        why: String,
    },
    /// A write on a node that is reserved.
    #[error("cannot execute {command}: this node is reserved for {}", Clone(*.clone))]
    Reserved {
        /// What would have written.
        command: String,
        /// For which clone.
        clone: i32,
    },
    /// A switch of a node that is reserved.
    #[error("{function} cannot be used: this node is reserved for {}", Clone(*.clone))]
    SwitchReserved {
        /// The function.
        function: &'static str,
        /// For which clone.
        clone: i32,
    },
    /// Another reservation.
    #[error("this node is already reserved for {}", Clone(*.clone))]
    ReservedAlready {
        /// For which clone.
        clone: i32,
        /// It is the caller's own, and the token is another.
        is_same: bool,
    },
    /// A node that takes writes already.
    #[error("{function} can only be used during recovery")]
    NotInRecovery {
        /// The function.
        function: &'static str,
    },
    /// There is nothing to enter.
    #[error("{function} cannot be used: this node is not reserved")]
    NotReserved {
        /// The function.
        function: &'static str,
    },
    /// Not who has reserved the node.
    #[error("{function} was given another token than the one that this node is reserved with")]
    WrongToken {
        /// The function.
        function: &'static str,
        /// For which clone.
        clone: i32,
    },
    /// Nobody can prove that he is who has reserved the node.
    #[error("the token that this node is reserved with is not known any more")]
    TokenUnknown,
    /// A forced release of something else.
    #[error("this node is reserved for {}, not for clone {given}", Clone(*.clone))]
    OtherClone {
        /// What was given.
        given: i32,
        /// For which clone.
        clone: i32,
    },
    /// No number of a clone.
    #[error("{clone} is not the id of a clone")]
    CloneId {
        /// What was given.
        clone: i32,
    },
    /// A token that is empty or too long.
    #[error("the token must have 1 to {} bytes", Token::MOST_BYTES)]
    TokenLength,
    /// The caller's client is gone.
    #[error("connection to client lost")]
    ClientGone,
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

const IS_BEING_PROMOTED: &str = "It is a clone that is being promoted by citus_promote_clone_and_rebalance(). What is written \
     here before that is done would be lost.";

/// What to do about a node that is read-only: opened by itself, it would write while its cluster does not.
pub fn how_to_write(with_cluster: bool) -> &'static str {
    if with_cluster {
        "The whole cluster is read only. To let it write again, as a superuser or a role with EXECUTE, on its coordinator: SELECT citus_set_cluster_read_write();"
    } else {
        "To let the node write again, as a superuser or a role with EXECUTE, on it: SELECT alter_system_read_write();"
    }
}

/// What to do about a node that is reserved.
pub const RESERVED_HINT: &str = "Write through another node of the cluster. On its coordinator, SELECT * FROM citus_clone_status(); shows how far the clone is.";

/// What to do about a reservation that is in the way.
fn how_to_open(clone: i32) -> String {
    let proper = match clone {
        UNKNOWN => "Finish or give up the promotion of the clone on its coordinator.".to_owned(),
        clone => format!(
            "It is released at the end of SELECT citus_promote_clone_and_rebalance({clone}); on the coordinator, which can be called again."
        ),
    };
    format!(
        "{proper} To open this node whatever becomes of the clone, as a superuser or a role with EXECUTE: SELECT citus_fence.release_node_by_force({clone});"
    )
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
            GateError::ReadOnly { with_cluster, .. } => {
                Report::new(ERRCODE_READ_ONLY_SQL_TRANSACTION, message)
                    .hint(how_to_write(*with_cluster))
            }
            GateError::NotReset { .. } => Report::new(ERRCODE_READ_ONLY_SQL_TRANSACTION, message)
                .detail("To drop the session's temporary tables is a write. What its client has left in it must not reach the next one.")
                .hint("Connect again."),
            GateError::Reserved { .. } => Report::new(ERRCODE_READ_ONLY_SQL_TRANSACTION, message)
                .detail(IS_BEING_PROMOTED)
                .hint(RESERVED_HINT),
            GateError::SwitchReserved { clone, .. } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail(IS_BEING_PROMOTED)
                .hint(how_to_open(*clone)),
            GateError::ReservedAlready { clone, is_same } => {
                let report = Report::new(ERRCODE_OBJECT_IN_USE, message).hint(how_to_open(*clone));
                if *is_same { report.detail("It was reserved with another token.") } else { report }
            }
            GateError::NotInRecovery { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("A node is reserved while it is a standby, and this one may have been written to.")
                    .hint("Call it on the standby that is to become a worker: SELECT pg_is_in_recovery(); is true there.")
            }
            GateError::NotReserved { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .hint("See its state: SELECT state, clone_id FROM citus_fence.stat_gate;")
            }
            GateError::WrongToken { clone, .. } => {
                Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message).hint(how_to_open(*clone))
            }
            GateError::TokenUnknown => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("Its file \"citus_fence.reserved\" was damaged when the server started.")
                .hint(how_to_open(UNKNOWN)),
            GateError::OtherClone { clone, .. } => {
                Report::new(ERRCODE_OBJECT_IN_USE, message).hint(how_to_open(*clone))
            }
            GateError::CloneId { .. } => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("The id is the one that the clone was registered with, and greater than 0."),
            GateError::TokenLength => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("Take a random one, for example: SELECT gen_random_uuid();"),
            GateError::ClientGone => Report::new(ERRCODE_CONNECTION_FAILURE, message),
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
            GateError::Look { .. } => Report::new(ERRCODE_SYSTEM_ERROR, message)
                .detail("The state is not changed."),
            GateError::File { .. } => Report::new(ERRCODE_IO_ERROR, message)
                .detail("The state has to survive a restart, so it is not changed.")
                .hint("Check the data directory's file system, and call the function again."),
        }
    }
}
