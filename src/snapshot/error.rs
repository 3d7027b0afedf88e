//! What can go wrong with a cluster snapshot.

use pgrx::PgSqlErrorCode;

use crate::citus::CatalogError;
use crate::fence::FenceError;
use crate::fence::under_way::UnderWay;
use crate::pg::libpq;
use crate::report::Report;
use remote::RemoteError;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// An argument without a value.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Which.
        argument: &'static str,
    },
    /// A life that is none.
    #[error("timeout_ms is out of range")]
    TimeoutOutOfRange {
        /// What was given.
        given: i32,
    },
    /// A mode that there is not.
    #[error("unknown mode \"{given}\"")]
    BadMode {
        /// What was given.
        given: String,
    },
    /// No shared memory.
    #[error("citus_fence must be loaded via shared_preload_libraries")]
    NotPreloaded,
    /// A standby.
    #[error("a cluster snapshot cannot be exported during recovery")]
    InRecovery,
    /// The fence would wait for the caller itself.
    #[error("a cluster snapshot cannot be exported in a transaction that has written")]
    HasWritten,
    /// The same.
    #[error("a cluster snapshot cannot be exported in a transaction that has locked {table}")]
    HasLocked {
        /// A table of Citus' catalog.
        table: &'static str,
    },
    /// Another operation has the cluster to itself.
    #[error("cannot export a cluster snapshot while {}", .0.what)]
    UnderWay(UnderWay),
    /// The extension goes.
    #[error("cannot drop extension citus_fence while {}", .0.what)]
    Dropped(UnderWay),
    /// No slot.
    #[error("too many cluster snapshots")]
    TooMany {
        /// How many there can be.
        max: usize,
    },
    /// No room for so many nodes.
    #[error("the cluster has more nodes than a cluster snapshot can hold")]
    TooManyNodes {
        /// How many there are.
        count: usize,
        /// How many there can be.
        max: usize,
    },
    /// No process.
    #[error("could not start a background worker for the cluster snapshot")]
    NoWorkerSlot,
    /// Its process is gone.
    #[error("the cluster snapshot was lost while it was being exported")]
    WorkerVanished,
    /// Its process does nothing.
    #[error("the background worker of the cluster snapshot does not answer")]
    WorkerSilent,
    /// Somebody released it before it was there.
    #[error("the cluster snapshot was given up while it was being exported")]
    GivenUp,
    /// Whoever asked is gone.
    #[error("connection to client lost")]
    ClientGone,
    /// Not to be had in time.
    #[error("could not hold back writers on all nodes within {after_ms} ms")]
    NotHeld {
        /// The limit.
        after_ms: i32,
        /// What the last attempt ended with.
        last: String,
        /// Who was in the way.
        blockers: Vec<String>,
    },
    /// A node without a gate, and mode `all` was asked for.
    #[error("{node} does not have the gate of citus_fence")]
    NoGate {
        /// The node.
        node: String,
    },
    /// The deadline came.
    #[error("the cluster snapshot has expired")]
    Expired {
        /// Its life.
        timeout_ms: i32,
    },
    /// SIGTERM.
    #[error("the background worker of the cluster snapshot was terminated")]
    Terminated,
    /// Nothing of that number.
    #[error("there is no cluster snapshot {id}")]
    NotThere {
        /// The number.
        id: i64,
    },
    /// The nodes, or the catalog.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

impl From<&SnapshotError> for Report {
    fn from(error: &SnapshotError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            SnapshotError::NullArgument { .. } => {
                Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
                    .hint("Give it a value, or leave it out where it has a default.")
            }
            SnapshotError::TimeoutOutOfRange { given } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                    .detail(format!(
                        "timeout_ms is {given}; it is a number of milliseconds from 1 to {}.",
                        super::MAX_TIMEOUT_MS
                    ))
                    .hint("The default is a minute: SELECT * FROM citus_export_cluster_snapshot(60000);")
            }
            SnapshotError::BadMode { .. } => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .hint("It is 'all', '2pc', or null for the first of them that every node can do."),
            SnapshotError::NotPreloaded => libpq::too_old().unwrap_or_else(|| {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .hint("Add citus_fence to shared_preload_libraries, after citus, and restart the server.")
            }),
            SnapshotError::InRecovery => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("This server is a standby or still recovering.")
                .hint("Call the function on the coordinator's primary."),
            SnapshotError::HasWritten => Report::new(ERRCODE_ACTIVE_SQL_TRANSACTION, message)
                .detail("The snapshot waits until whoever has written is done, this transaction among them.")
                .hint("Commit first."),
            SnapshotError::HasLocked { .. } => Report::new(ERRCODE_ACTIVE_SQL_TRANSACTION, message)
                .detail("The snapshot needs that lock, and would wait for this transaction.")
                .hint("Commit or roll back first."),
            SnapshotError::UnderWay(other) | SnapshotError::Dropped(other) => Report::new(ERRCODE_OBJECT_IN_USE, message).hint(other.hint),
            SnapshotError::TooMany { max } => Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
                .detail(format!("citus_fence.max_cluster_snapshots is {max}, and as many are held."))
                .hint("Release one (see citus_cluster_snapshot_status()), or raise citus_fence.max_cluster_snapshots and restart the server."),
            SnapshotError::TooManyNodes { count, max } => Report::new(ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
                .detail(format!("pg_dist_node has {count} primaries; citus_fence.max_nodes is {max}."))
                .hint(format!("Set citus_fence.max_nodes to at least {count} and restart the coordinator.")),
            SnapshotError::NoWorkerSlot => Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                .detail("All of max_worker_processes are in use.")
                .hint("Raise max_worker_processes and restart the server, or wait until other background workers have ended."),
            SnapshotError::WorkerVanished => Report::new(ERRCODE_SYSTEM_ERROR, message)
                .detail("Its background worker ended without a word; nothing is held any more.")
                .hint("See the server's log for the reason, then try again."),
            SnapshotError::WorkerSilent => Report::new(ERRCODE_SYSTEM_ERROR, message)
                .detail("It did not start, or stands still; the snapshot has been given up.")
                .hint("See the server's log and whether the postmaster responds, then try again."),
            SnapshotError::GivenUp => Report::new(ERRCODE_QUERY_CANCELED, message)
                .detail("Another session called citus_release_cluster_snapshot()."),
            SnapshotError::ClientGone => Report::new(ERRCODE_CONNECTION_FAILURE, message),
            SnapshotError::NotHeld { after_ms, last, blockers } => {
                let mut detail = format!("The last attempt ended with: {last}.");
                for blocker in blockers {
                    detail.push_str(&format!(" In the way: {blocker}."));
                }
                Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message).detail(detail).hint(format!(
                    "End the sessions in the way or wait for them, then try again; citus_fence.acquire_timeout \
                     ({after_ms} ms here) is how long a call tries, citus_fence.lock_timeout bounds each attempt.",
                ))
            }
            SnapshotError::NoGate { .. } => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The extension citus_fence is not there, or another one than this.")
                .hint("Install it on that node and preload it, or export with mode => '2pc'."),
            SnapshotError::Expired { timeout_ms } => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail(format!("Its timeout of {timeout_ms} ms was reached."))
                .hint("Give citus_export_cluster_snapshot() a longer timeout_ms, or call citus_extend_cluster_snapshot() in time."),
            SnapshotError::Terminated => Report::new(ERRCODE_ADMIN_SHUTDOWN, message)
                .detail("It was terminated by an administrator or by the server's shutdown."),
            SnapshotError::NotThere { .. } => Report::new(ERRCODE_UNDEFINED_OBJECT, message)
                .detail("It has been released, has ended by itself, or has never been.")
                .hint("See: SELECT * FROM citus_cluster_snapshot_status();"),
            SnapshotError::Fence(fence) => Report::from(fence),
        }
    }
}

impl From<CatalogError> for SnapshotError {
    fn from(error: CatalogError) -> Self {
        FenceError::from(error).into()
    }
}

impl From<RemoteError> for SnapshotError {
    fn from(error: RemoteError) -> Self {
        FenceError::from(error).into()
    }
}
