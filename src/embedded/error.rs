//! What can go wrong here, and what the user is told.

use pgrx::PgSqlErrorCode;

use crate::citus::CatalogError;
use crate::pg::elog;
use crate::pg::text_sql::SqlError;
use crate::report::Report;
use remote::{NodeLabel, RemoteError};

/// One variant per kind of failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// An argument that must not be null is.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Its name.
        argument: &'static str,
    },
    /// A node's name or port that cannot be one.
    #[error("invalid address for a node")]
    InvalidAddress {
        /// What was given.
        given: NodeLabel,
    },
    /// A number of shards outside its range.
    #[error("shard_count is out of range")]
    ShardCountOutOfRange {
        /// What was given.
        given: i32,
    },
    /// The function reads what others have just committed, and so needs a snapshot per statement.
    #[error("{function} cannot run in a transaction that keeps its snapshot")]
    KeptSnapshot {
        /// The function.
        function: &'static str,
    },
    /// A command for another node within a savepoint.
    #[error("commands on other nodes are not supported in a subtransaction")]
    Subtransaction,
    /// `PREPARE TRANSACTION` of a transaction that other nodes take part in.
    #[error("cannot prepare a transaction that other nodes take part in")]
    LocalPrepare,
    /// The coordinator has no row of its own.
    #[error("the coordinator has no row in pg_dist_node")]
    NoCoordinatorRow,
    /// Not a node.
    #[error("there is no node {node}")]
    UnknownNode {
        /// What was given.
        node: NodeLabel,
    },
    /// Something that only makes sense for workers.
    #[error("cannot {action} the coordinator")]
    IsCoordinator {
        /// What was asked for.
        action: &'static str,
    },
    /// A node that is to go still holds shards.
    #[error("cannot remove node {node}, because it holds shards")]
    HoldsShards {
        /// The node.
        node: NodeLabel,
        /// How many.
        placements: i64,
    },
    /// The extension is missing there.
    #[error("extension \"pg_dist\" does not exist on {node}")]
    MissingExtension {
        /// The node.
        node: NodeLabel,
        /// The database there.
        database: String,
    },
    /// The node is part of another cluster, or this node itself.
    #[error("{node} already belongs to a cluster")]
    ForeignNode {
        /// The node.
        node: NodeLabel,
        /// Its group there.
        group: String,
    },
    /// Nowhere to put shards.
    #[error("no node can hold shards")]
    NoShardNodes,
    /// A table that is no distributed table.
    #[error("\"{table}\" is not a distributed table")]
    NotDistributed {
        /// The table.
        table: String,
    },
    /// A table that already is one.
    #[error("\"{table}\" is already distributed")]
    AlreadyDistributed {
        /// The table.
        table: String,
    },
    /// Not an ordinary table.
    #[error("\"{table}\" cannot be distributed")]
    NotATable {
        /// The relation.
        table: String,
    },
    /// Rows would be left behind.
    #[error("cannot distribute \"{table}\", because it has rows")]
    HasRows {
        /// The table.
        table: String,
    },
    /// No such column.
    #[error("column \"{column}\" of \"{table}\" does not exist")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The distribution column's type has no hash function.
    #[error("cannot distribute by column \"{column}\", because its type cannot be hashed")]
    NoHash {
        /// The column.
        column: String,
        /// Its type.
        type_name: String,
    },
    /// Shard names would be cut, and might then be equal.
    #[error("the name of \"{table}\" is too long for shard names")]
    NameTooLong {
        /// The table.
        table: String,
    },
    /// Colocation with a table of another kind.
    #[error("cannot colocate \"{table}\" with \"{other}\"")]
    CannotColocate {
        /// The table.
        table: String,
        /// The one to go with.
        other: String,
    },
    /// No shard, or none that can be reached, holds a hash.
    #[error("no active placement holds the {what} of \"{table}\"")]
    NoPlacement {
        /// The table.
        table: String,
        /// The key or shard.
        what: String,
    },
    /// A remote command ended the transaction that it was part of.
    #[error("the transaction on {node} was ended by a command in it")]
    TransactionEnded {
        /// The node.
        node: NodeLabel,
    },
    /// A shard is elsewhere than this transaction's snapshot says.
    #[error("could not serialize access to \"{table}\" due to a shard that has moved")]
    Moved {
        /// The table.
        table: String,
    },
    /// A number that is no lock mode.
    #[error("there is no lock mode {mode}")]
    UnknownLockMode {
        /// What was given.
        mode: i32,
    },
    /// The answer to a plain COMMIT did not come.
    #[error("it is not known whether the transaction on {node} is committed: {reason}")]
    UnknownOutcome {
        /// The node.
        node: NodeLabel,
        /// What happened instead.
        reason: String,
    },
    /// A row of the catalog that does not make sense.
    #[error("unexpected value in {table}")]
    Corrupt {
        /// The table.
        table: &'static str,
    },
    /// A command of the user's or ours that cannot be executed here.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The tables that Citus has as well.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Another node.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Gives the value, or raises the error.
pub fn or_raise<T>(result: Result<T, EmbeddedError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}

impl From<&EmbeddedError> for Report {
    fn from(error: &EmbeddedError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            EmbeddedError::NullArgument { .. } => {
                Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
            }
            EmbeddedError::InvalidAddress { given } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message).detail(format!(
                    "The name is \"{}\" and the port is {}; a port is a number from 1 to 65535.",
                    given.host, given.port
                ))
            }
            EmbeddedError::ShardCountOutOfRange { given } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message).detail(format!(
                    "shard_count is {given}; it is a number from 1 to {}.",
                    super::distribute::MAX_SHARDS
                ))
            }
            EmbeddedError::KeptSnapshot { .. } => {
                Report::new(ERRCODE_INVALID_TRANSACTION_STATE, message)
                    .detail("It must see what was committed while it waited for a lock.")
                    .hint("Use: BEGIN ISOLATION LEVEL READ COMMITTED;")
            }
            EmbeddedError::Subtransaction => Report::new(ERRCODE_FEATURE_NOT_SUPPORTED, message)
                .detail(
                    "Savepoints, and PL/pgSQL blocks with EXCEPTION, are not carried to other nodes.",
                )
                .hint("Call the function outside of them."),
            EmbeddedError::LocalPrepare => Report::new(ERRCODE_FEATURE_NOT_SUPPORTED, message)
                .hint("Use COMMIT, which is a two-phase commit where one is needed."),
            EmbeddedError::NoCoordinatorRow => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("Workers must know how to reach the coordinator.")
                    .hint("First: SELECT citus_set_coordinator_host('name or address of this host');")
            }
            EmbeddedError::UnknownNode { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                    .hint("See: SELECT nodename, nodeport FROM pg_dist_node;")
            }
            EmbeddedError::IsCoordinator { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("The embedded catalog needs its coordinator, active and in group 0.")
                    .hint("Name a worker: SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0;")
            }
            EmbeddedError::HoldsShards { node, placements } => {
                Report::new(ERRCODE_OBJECT_IN_USE, message)
                    .detail(format!("{placements} shards are placed on it."))
                    .hint(format!(
                        "To use it no more and keep its row: SELECT citus_disable_node({}, {});",
                        crate::pg::quote::literal(&node.host),
                        node.port
                    ))
            }
            EmbeddedError::MissingExtension { node, database } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("A worker of the embedded catalog needs it in database \"{database}\"."))
                    .hint(format!("On {node}: CREATE EXTENSION pg_dist;"))
            }
            EmbeddedError::ForeignNode { node, group } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!(
                        "Its pg_dist_node is not empty, and as group {group} it is no node of this cluster."
                    ))
                    .hint(format!(
                        "If it is not this node itself and nothing on it is needed, on {node}: \
                         DROP EXTENSION pg_dist; CREATE EXTENSION pg_dist;"
                    ))
            }
            EmbeddedError::NoShardNodes => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("There is no active primary whose shouldhaveshards is true.")
                    .hint("First: SELECT citus_add_node('name or address', 5432);")
            }
            EmbeddedError::NotDistributed { table } => {
                Report::new(ERRCODE_UNDEFINED_OBJECT, message)
                    .detail("It has no row in pg_dist_partition with a hash-distributed column.")
                    .hint(format!(
                        "On the coordinator: SELECT create_distributed_table({}, 'column');",
                        crate::pg::quote::literal(table)
                    ))
            }
            EmbeddedError::AlreadyDistributed { .. } => {
                Report::new(ERRCODE_DUPLICATE_OBJECT, message)
                    .hint("See: SELECT * FROM pg_dist_partition;")
            }
            EmbeddedError::NotATable { .. } => Report::new(ERRCODE_WRONG_OBJECT_TYPE, message)
                .detail("It is not an ordinary permanent table."),
            EmbeddedError::HasRows { table } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("The embedded catalog moves no rows into shards.")
                    .hint(format!("If they are not needed: TRUNCATE {table};"))
            }
            EmbeddedError::NoColumn { .. } => Report::new(ERRCODE_UNDEFINED_COLUMN, message),
            EmbeddedError::NoHash { type_name, .. } => {
                Report::new(ERRCODE_UNDEFINED_FUNCTION, message)
                    .detail(format!("Type {type_name} has no default hash operator class."))
                    .hint("Choose a column of another type.")
            }
            EmbeddedError::NameTooLong { .. } => Report::new(ERRCODE_NAME_TOO_LONG, message)
                .detail("A shard is named after its table, an underscore and the shard's number, in 63 bytes.")
                .hint("Give the table a shorter name."),
            EmbeddedError::CannotColocate { other, .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                    .detail(format!(
                        "\"{other}\" is not distributed, or by a column of another type or collation, or into another number of shards."
                    ))
                    .hint("Use colocate_with => 'none', or a matching table, column and shard_count.")
            }
            EmbeddedError::NoPlacement { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("Its shard has no placement on an active primary.")
                    .hint("See: SELECT * FROM pg_dist_placement JOIN pg_dist_node USING (groupid);")
            }
            EmbeddedError::TransactionEnded { .. } => {
                Report::new(ERRCODE_INVALID_TRANSACTION_TERMINATION, message)
                    .detail("What was done there before that is committed or rolled back by itself.")
                    .hint("Send no BEGIN, COMMIT or ROLLBACK in a command for a shard.")
            }
            EmbeddedError::Moved { .. } => {
                Report::new(ERRCODE_T_R_SERIALIZATION_FAILURE, message)
                    .detail("The transaction keeps a snapshot from before the move.")
                    .hint("Run the transaction again.")
            }
            EmbeddedError::UnknownLockMode { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                    .detail("Lock modes are numbered from 1 (ACCESS SHARE) to 8 (ACCESS EXCLUSIVE).")
                    .hint("For whoever moves shards: SELECT lock_shard_metadata(7, ARRAY[shardid]);")
            }
            EmbeddedError::UnknownOutcome { node, .. } => {
                Report::new(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN, message)
                    .detail("It was the only node that wrote, so its COMMIT was not a two-phase one.")
                    .hint(format!("Look on {node} whether its changes are there."))
            }
            EmbeddedError::Corrupt { .. } => Report::new(ERRCODE_DATA_CORRUPTED, message),
            EmbeddedError::Sql(SqlError::ZeroByte) => {
                Report::new(ERRCODE_UNTRANSLATABLE_CHARACTER, message)
            }
            EmbeddedError::Sql(SqlError::Refused(_)) => {
                Report::new(ERRCODE_FEATURE_NOT_SUPPORTED, message)
                    .detail("Commands for shards on this node run inside the calling function.")
            }
            EmbeddedError::Catalog(error) => Report::from(error),
            EmbeddedError::Remote(error) => Report::from(error),
        }
    }
}
