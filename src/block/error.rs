//! What can go wrong with a block.

use crate::pg::libpq;
use crate::report::Report;
use pgrx::PgSqlErrorCode;

use crate::citus::CatalogError;
use crate::fence::FenceError;
use remote::RemoteError;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BlockError {
    /// An argument that must not be null is.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Its name.
        argument: &'static str,
    },
    /// A timeout outside its range.
    #[error("timeout_ms is out of range")]
    TimeoutOutOfRange {
        /// What was given.
        given: i32,
    },
    /// No mode of a block.
    #[error("there is no block mode \"{given}\"")]
    UnknownMode {
        /// What was given.
        given: String,
    },
    /// The calling transaction is one that the block would hold back.
    #[error("{function} cannot be called in a transaction that has written")]
    HasWritten {
        /// The function.
        function: &'static str,
    },
    /// The block would wait for the calling transaction's own lock.
    #[error("{function} cannot be called in a transaction that has locked {table}")]
    HasLocked {
        /// The function.
        function: &'static str,
        /// A table of Citus' catalog.
        table: &'static str,
    },
    /// The block that the caller named is not the one that there is.
    #[error("backup block {number} is over")]
    Over {
        /// Its number.
        number: i64,
        /// Why it ended, as far as that is known.
        why: Option<String>,
    },
    /// A function of Citus that would wait for the block to end.
    #[error("cannot execute {function} while a backup block is held")]
    OfCitus {
        /// The function.
        function: &'static str,
        /// What to call instead.
        instead: &'static str,
    },
    /// A restore point without a usable name.
    #[error("invalid name for a restore point")]
    RestorePointName,
    /// Restore points need more WAL than the server writes.
    #[error("WAL level not sufficient for creating a restore point")]
    WalLevel,
    /// No shared memory.
    #[error("citus_fence must be loaded via shared_preload_libraries")]
    NotPreloaded,
    /// On a standby.
    #[error("a backup block cannot be used during recovery")]
    InRecovery,
    /// There is a block already, in one of three states.
    #[error("a backup block is already being started")]
    Starting,
    /// See [`BlockError::Starting`].
    #[error("a backup block is already active")]
    Active,
    /// See [`BlockError::Starting`].
    #[error("a backup block is being released")]
    Releasing,
    /// An uncleared error.
    #[error("the previous backup block ended in an error")]
    PreviousFailed {
        /// The error's message.
        what: String,
    },
    /// Another operation needs the cluster to itself.
    #[error("cannot begin a backup block while {}", .0.what)]
    UnderWay(crate::fence::under_way::UnderWay),
    /// Every slot is taken by another database.
    #[error("too many databases have a backup block")]
    TooManyBlocks {
        /// `citus_fence.max_blocks`.
        max: usize,
    },
    /// No background worker could be registered.
    #[error("could not start the background worker of the backup block")]
    NoWorkerSlot,
    /// The worker is gone.
    #[error("the backup block was lost")]
    WorkerVanished,
    /// The worker's own session was refused by this server.
    #[error("the background worker of the backup block could not connect to the database")]
    WorkerNotConnected {
        /// Why, as far as the catalog tells.
        why: Option<&'static str>,
    },
    /// The worker neither started nor gave up in time.
    #[error("the background worker of the backup block does not answer")]
    WorkerSilent,
    /// Somebody unblocked before the block was active.
    #[error("the backup block was released while it was being started")]
    ReleasedWhileStarting,
    /// The requestor's client hung up.
    #[error("connection to client lost")]
    ClientGone,
    /// More nodes than there are rows in shared memory.
    #[error("too many nodes for a backup block")]
    TooManyNodes {
        /// Nodes there are.
        count: usize,
        /// Rows there are.
        max: usize,
    },
    /// The fence that it stands on.
    #[error(transparent)]
    Fence(FenceError),
    /// All attempts failed.
    #[error("could not lock all nodes for the backup block within {after_ms} ms")]
    LocksNotHeld {
        /// How long it was tried.
        after_ms: i32,
        /// What the last attempt ended with that tells something.
        last: String,
        /// Who was in the way: node, pid, age, query.
        blockers: Vec<String>,
    },
    /// The time was over before anything could be found out.
    #[error("the backup block could not be started within {limit_ms} ms")]
    TooLittleTime {
        /// How long it was tried.
        limit_ms: i32,
        /// What it was at.
        last: String,
    },
    /// Mode `all` on a node that has no gate.
    #[error("{node} does not have the gate that block mode \"all\" closes")]
    NoGate {
        /// The node.
        node: String,
    },
    /// The deadline of an active block.
    #[error("the backup block expired")]
    Expired {
        /// Its timeout.
        timeout_ms: i32,
    },
    /// A node did not answer to the release.
    #[error("a node did not confirm the release of the backup block")]
    Unconfirmed {
        /// The node, and what happened instead.
        node: String,
    },
    /// SIGTERM.
    #[error("the background worker of the backup block was terminated")]
    Terminated,
    /// Nothing to act on.
    #[error("there is no active backup block")]
    NoBlock,
}

impl From<&BlockError> for Report {
    fn from(error: &BlockError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        const UNBLOCK: &str = "SELECT citus_unblock_writes_for_backup();";
        match error {
            BlockError::NullArgument { argument } => {
                Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
                    .detail(format!("The argument {argument} was given as null."))
                    .hint("Give it a value, or leave it out where it has a default.")
            }
            BlockError::TimeoutOutOfRange { given } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                    .detail(format!(
                        "timeout_ms is {given}; it is a number of milliseconds from 1 to {}.",
                        crate::block::MAX_TIMEOUT_MS
                    ))
                    .hint("The default is five minutes: SELECT citus_block_writes_for_backup(300000);")
            }
            BlockError::UnknownMode { .. } => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("The modes are '2pc' and 'all'; where none is given, citus_fence.block_mode says which."),
            BlockError::HasWritten { .. } => Report::new(ERRCODE_ACTIVE_SQL_TRANSACTION, message)
                .detail("It has written, or run on other nodes what may have; its COMMIT would wait for the block that it has begun itself.")
                .hint("Commit or roll back first, and call it again."),
            BlockError::HasLocked { .. } => Report::new(ERRCODE_ACTIVE_SQL_TRANSACTION, message)
                .detail("The block needs that lock, and would wait for the transaction that it was called in.")
                .hint("Commit or roll back first, and call it again."),
            BlockError::Over { why, .. } => {
                let report = Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .hint("Do not rely on copies that were being taken under it. See: SELECT * FROM citus_backup_block_status();");
                match why {
                    Some(why) => report.detail(format!("It ended with: {why}.")),
                    None => report,
                }
            }
            BlockError::OfCitus { instead, .. } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("It would wait until the block has ended.")
                .hint(*instead),
            BlockError::RestorePointName => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .detail("PostgreSQL takes names of 1 to 63 bytes for restore points.")
                .hint("For example: SELECT * FROM citus_backup_restore_point('nightly');"),
            BlockError::WalLevel => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .hint("wal_level must be set to \"replica\" or \"logical\" at server start."),
            BlockError::NotPreloaded => libpq::too_old().unwrap_or_else(|| {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("The block lives in shared memory that is set up when the server starts.")
                    .hint("Add citus_fence to shared_preload_libraries, after citus, and restart the server.")
            }),
            BlockError::InRecovery => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("This server is a standby or still recovering; it holds no write back.")
                .hint("Call the function on the coordinator's primary."),
            BlockError::Starting => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("Another session has begun a block of this database and waits for its locks.")
                .hint(format!("See: SELECT * FROM citus_backup_block_status(); to give it up: {UNBLOCK}")),
            BlockError::Active => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("The block of this database is held by a background worker.")
                .hint(format!("See: SELECT * FROM citus_backup_block_status(); to release it: {UNBLOCK}")),
            BlockError::Releasing => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("The block of this database lets go of its locks.")
                .hint(format!("To wait for it: {UNBLOCK}")),
            BlockError::PreviousFailed { what } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("It ended with: {what}. Backups taken under it may be inconsistent."))
                    .hint(format!("To clear the error: {UNBLOCK}"))
            }
            BlockError::UnderWay(other) => {
                Report::new(ERRCODE_OBJECT_IN_USE, message).hint(other.hint)
            }
            BlockError::TooManyBlocks { max } => {
                Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
                    .detail(format!("citus_fence.max_blocks is {max}, and that many databases have a block."))
                    .hint("Release a block in another database, or raise citus_fence.max_blocks and restart the server.")
            }
            BlockError::NoWorkerSlot => Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                .detail("All of max_worker_processes are in use.")
                .hint("Raise max_worker_processes and restart the server, or wait until other background workers have ended."),
            BlockError::WorkerVanished => Report::new(ERRCODE_SYSTEM_ERROR, message)
                .detail("Its background worker ended without a word; its locks went with it.")
                .hint("See the server's log for the reason, then try again."),
            BlockError::WorkerNotConnected { why } => {
                let again = "then try again.";
                match why {
                    Some(why) => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                        .detail(*why)
                        .hint(format!("Let the extension's owner connect to this database, {again}")),
                    None => Report::new(ERRCODE_SYSTEM_ERROR, message)
                        .hint(format!("See the server's log for the reason, {again}")),
                }
            }
            BlockError::WorkerSilent => {
                Report::new(ERRCODE_SYSTEM_ERROR, message)
                    .detail("It did not start, or stands still; the block has been given up.")
                    .hint("See the server's log and whether the postmaster responds, then try again.")
            }
            BlockError::ReleasedWhileStarting => Report::new(ERRCODE_QUERY_CANCELED, message)
                .detail("Another session called citus_unblock_writes_for_backup().")
                .hint("Begin again: SELECT citus_block_writes_for_backup();"),
            BlockError::ClientGone => Report::new(ERRCODE_CONNECTION_FAILURE, message),
            BlockError::TooManyNodes { count, max } => {
                Report::new(ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
                    .detail(format!("pg_dist_node has {count} primaries; citus_fence.max_nodes is {max}."))
                    .hint(format!("Set citus_fence.max_nodes to at least {count} and restart the coordinator."))
            }
            BlockError::Fence(fence) => Report::from(fence),
            BlockError::LocksNotHeld { after_ms, last, blockers } => {
                let report = Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message);
                let mut detail = format!("The last attempt ended with: {last}.");
                for blocker in blockers {
                    detail.push_str(&format!(" In the way: {blocker}."));
                }
                report.detail(detail).hint(format!(
                    "End the sessions in the way or wait for them, then try again; citus_fence.acquire_timeout \
                     ({after_ms} ms here) is how long a call tries, citus_fence.lock_timeout bounds each attempt.",
                ))
            }
            BlockError::TooLittleTime { last, .. } => Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message)
                .detail(format!(
                    "That is the smaller of timeout_ms and citus_fence.acquire_timeout, and too short to \
                     tell whether a node is in trouble. It ended with: {last}."
                ))
                .hint("Give it a second or more: SELECT citus_block_writes_for_backup(300000);"),
            BlockError::Expired { timeout_ms } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("Its timeout of {timeout_ms} ms was reached."))
                    .hint("Give citus_block_writes_for_backup a longer timeout_ms, or move the deadline with citus_extend_backup_block(timeout_ms) while the block is active.")
            }
            BlockError::NoGate { .. } => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The extension citus_fence is not there, or another one than this.")
                .hint("Install it on that node and preload it, or SET citus_fence.block_mode = '2pc'."),
            BlockError::Unconfirmed { node } => Report::new(ERRCODE_WARNING, message)
                .detail(format!("{node}. Its locks end when it notices that the session is closed."))
                .hint("See pg_locks on that node."),
            BlockError::Terminated => Report::new(ERRCODE_ADMIN_SHUTDOWN, message)
                .detail("The background worker was terminated by an administrator or by the server's shutdown."),
            BlockError::NoBlock => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The function works on the active block of this database.")
                .hint("Begin one: SELECT citus_block_writes_for_backup();"),
        }
    }
}

impl From<FenceError> for BlockError {
    fn from(error: FenceError) -> Self {
        match error {
            FenceError::NoGate { node } => Self::NoGate { node },
            other => Self::Fence(other),
        }
    }
}

impl From<RemoteError> for BlockError {
    fn from(error: RemoteError) -> Self {
        FenceError::from(error).into()
    }
}

impl From<CatalogError> for BlockError {
    fn from(error: CatalogError) -> Self {
        FenceError::from(error).into()
    }
}
