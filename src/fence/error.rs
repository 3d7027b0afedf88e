//! What can go wrong with a block.

use pgrx::PgSqlErrorCode;

use crate::catalog::CatalogError;
use remote::RemoteError;

/// One variant per kind; [`crate::errors`] gives each its SQLSTATE, detail and hint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FenceError {
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
    /// See [`FenceError::Starting`].
    #[error("a backup block is already active")]
    Active,
    /// See [`FenceError::Starting`].
    #[error("a backup block is being released")]
    Releasing,
    /// An uncleared error.
    #[error("the previous backup block ended in an error")]
    PreviousFailed {
        /// The error's message.
        what: String,
    },
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
    /// The server lends no more descriptors.
    #[error("not enough file descriptors to connect to all nodes")]
    NoDescriptors {
        /// Connections needed.
        count: usize,
    },
    /// A node.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// All attempts failed.
    #[error("could not lock all nodes for the backup block within {after_ms} ms")]
    LocksNotHeld {
        /// How long it was tried.
        after_ms: i32,
        /// What the last attempt ended with.
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
    /// The list of nodes changed between reading it and locking it.
    #[error("the nodes of the cluster changed while they were being locked")]
    NodesChanged,
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
    /// An error that this server raised in the worker.
    #[error("{message}")]
    Local {
        /// Its code.
        sqlstate: PgSqlErrorCode,
        /// Its message.
        message: String,
        /// Its detail.
        detail: Option<String>,
        /// Its hint.
        hint: Option<String>,
    },
}
