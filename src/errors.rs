//! From each module's error enum to SQLSTATE, message, detail and hint: one exhaustive match each,
//! so that a new kind of error does not compile until somebody has decided what a user is told.

use pgrx::PgSqlErrorCode;

use crate::catalog::CatalogError;
use crate::fence::error::FenceError;
use crate::pg::libpq;
use crate::readonly::cluster::ClusterError;
use crate::readonly::error::GateError;
use remote::RemoteError;

/// What a user is told.
#[derive(Clone, Debug)]
pub struct Report {
    /// The code.
    pub sqlstate: PgSqlErrorCode,
    /// One line: lower case, no full stop.
    pub message: String,
    /// The facts, in sentences.
    pub detail: Option<String>,
    /// What to do, in sentences, with SQL that can be pasted.
    pub hint: Option<String>,
}

impl Report {
    /// A report without detail and hint.
    pub fn new(sqlstate: PgSqlErrorCode, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// The same with a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The five characters of a SQLSTATE in the server's packed form.
pub fn parse_sqlstate(text: &str) -> Option<PgSqlErrorCode> {
    let bytes: [u8; 5] = text.as_bytes().try_into().ok()?;
    let packed = bytes
        .iter()
        .rev()
        .fold(0i32, |packed, byte| (packed << 6) | i32::from(byte.wrapping_sub(b'0') & 0x3f));
    Some(PgSqlErrorCode::from(packed))
}

impl From<&RemoteError> for Report {
    fn from(error: &RemoteError) -> Self {
        use PgSqlErrorCode::*;
        let node = error.node();
        let theirs = error.sqlstate().and_then(parse_sqlstate);
        let message = error.to_string();
        let look =
            format!("Check that the server at {node} runs and accepts connections from this host.");
        match error {
            RemoteError::BadConnInfo { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
                    "Correct citus_fence.node_conninfo, citus.node_conninfo, or the node's rows in \
                     pg_dist_authinfo and pg_dist_poolinfo.",
                )
            }
            RemoteError::Connect { .. } => {
                Report::new(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, message).hint(look)
            }
            RemoteError::Refused { .. } => Report::new(
                theirs.unwrap_or(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
                message,
            )
            .hint(
                "Give the password in pg_dist_authinfo or in the .pgpass file of the server's \
                 operating system user, and let this host in through the node's pg_hba.conf.",
            ),
            RemoteError::ConnectTimeout { .. } => {
                Report::new(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, message)
                    .hint(format!("{look} citus_fence.connect_timeout is the bound."))
            }
            RemoteError::Query { error: server, .. } => Report {
                sqlstate: theirs.unwrap_or(ERRCODE_CONNECTION_EXCEPTION),
                message,
                detail: server.detail.clone(),
                hint: server.hint.clone(),
            },
            RemoteError::Lost { .. } => Report::new(ERRCODE_CONNECTION_FAILURE, message).hint(look),
            RemoteError::Timeout { .. } => Report::new(ERRCODE_CONNECTION_FAILURE, message)
                .hint(format!("Check whether the server at {node} is frozen or overloaded.")),
            RemoteError::Resources { .. } => Report::new(ERRCODE_OUT_OF_MEMORY, message),
            RemoteError::Stopped { .. } => Report::new(ERRCODE_QUERY_CANCELED, message),
            RemoteError::StillBusy { .. }
            | RemoteError::Closed { .. }
            | RemoteError::Unexpected { .. }
            | RemoteError::ZeroByte { .. } => Report::new(ERRCODE_CONNECTION_EXCEPTION, message),
        }
    }
}

impl From<&CatalogError> for Report {
    fn from(error: &CatalogError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            CatalogError::Missing => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The pg_dist_* tables are not in this database.")
                .hint("Connect to the database that Citus is used in, or run: CREATE EXTENSION citus;"),
            CatalogError::NotCoordinator { coordinator } => {
                let report = Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
                match coordinator {
                    Some(place) => report
                        .detail(format!("This node is a worker; the coordinator is {place}."))
                        .hint(format!("Connect to {place} and call the function there.")),
                    None => report
                        .detail("This node is a worker, and its copy of pg_dist_node has no coordinator.")
                        .hint("Connect to the coordinator and call the function there."),
                }
            }
            CatalogError::BadConnInfo { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
                    "Correct citus_fence.node_conninfo, citus.node_conninfo, or the node's rows in \
                     pg_dist_authinfo and pg_dist_poolinfo.",
                )
            }
            CatalogError::Read { .. } => Report::new(ERRCODE_INTERNAL_ERROR, message),
        }
    }
}

impl From<&FenceError> for Report {
    fn from(error: &FenceError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        const UNBLOCK: &str = "SELECT citus_unblock_writes_for_backup();";
        match error {
            FenceError::NullArgument { argument } => {
                Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message)
                    .detail(format!("The argument {argument} was given as null."))
                    .hint("Give it a value, or leave it out where it has a default.")
            }
            FenceError::TimeoutOutOfRange { given } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                    .detail(format!(
                        "timeout_ms is {given}; it is a number of milliseconds from 1 to {}.",
                        crate::fence::MAX_TIMEOUT_MS
                    ))
                    .hint("The default is five minutes: SELECT citus_block_writes_for_backup(300000);")
            }
            FenceError::RestorePointName => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .detail("PostgreSQL takes names of 1 to 63 bytes for restore points.")
                .hint("For example: SELECT * FROM citus_backup_restore_point('nightly');"),
            FenceError::WalLevel => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .hint("wal_level must be set to \"replica\" or \"logical\" at server start."),
            FenceError::NotPreloaded => libpq::too_old().unwrap_or_else(|| {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("The block lives in shared memory that is set up when the server starts.")
                    .hint("Add citus_fence to shared_preload_libraries, after citus, and restart the server.")
            }),
            FenceError::InRecovery => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("This server is a standby or still recovering; it holds no write back.")
                .hint("Call the function on the coordinator's primary."),
            FenceError::Starting => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("Another session has begun a block of this database and waits for its locks.")
                .hint(format!("See: SELECT * FROM citus_backup_block_status(); to give it up: {UNBLOCK}")),
            FenceError::Active => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The block of this database is held by a background worker.")
                .hint(format!("See: SELECT * FROM citus_backup_block_status(); to release it: {UNBLOCK}")),
            FenceError::Releasing => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The block of this database lets go of its locks.")
                .hint(format!("To wait for it: {UNBLOCK}")),
            FenceError::PreviousFailed { what } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("It ended with: {what}. Backups taken under it may be inconsistent."))
                    .hint(format!("To clear the error: {UNBLOCK}"))
            }
            FenceError::TooManyBlocks { max } => {
                Report::new(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
                    .detail(format!("citus_fence.max_blocks is {max}, and that many databases have a block."))
                    .hint("Release a block in another database, or raise citus_fence.max_blocks and restart the server.")
            }
            FenceError::NoWorkerSlot => Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                .detail("All of max_worker_processes are in use.")
                .hint("Raise max_worker_processes and restart the server, or wait until other background workers have ended."),
            FenceError::WorkerVanished => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("Its background worker ended without a word; its locks went with it.")
                .hint("See the server's log for the reason, then try again."),
            FenceError::WorkerNotConnected { why } => {
                let report = Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
                let again = "then try again.";
                match why {
                    Some(why) => report
                        .detail(*why)
                        .hint(format!("Let the extension's owner connect to this database, {again}")),
                    None => report.hint(format!("See the server's log for the reason, {again}")),
                }
            }
            FenceError::WorkerSilent => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("It did not start, or stands still; the block has been given up.")
                    .hint("See the server's log and whether the postmaster responds, then try again.")
            }
            FenceError::ReleasedWhileStarting => Report::new(ERRCODE_QUERY_CANCELED, message)
                .detail("Another session called citus_unblock_writes_for_backup().")
                .hint("Begin again: SELECT citus_block_writes_for_backup();"),
            FenceError::ClientGone => Report::new(ERRCODE_CONNECTION_FAILURE, message),
            FenceError::TooManyNodes { count, max } => {
                Report::new(ERRCODE_PROGRAM_LIMIT_EXCEEDED, message)
                    .detail(format!("pg_dist_node has {count} primaries; citus_fence.max_nodes is {max}."))
                    .hint(format!("Set citus_fence.max_nodes to at least {count} and restart the coordinator."))
            }
            FenceError::NoDescriptors { count } => {
                Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                    .detail(format!("{count} connections are needed; the server lends out a third of its file descriptors."))
                    .hint("Raise max_files_per_process and the operating system's limit, and restart the server.")
            }
            FenceError::Remote(remote) => Report::from(remote),
            FenceError::Catalog(catalog) => Report::from(catalog),
            FenceError::LocksNotHeld { after_ms, last, blockers } => {
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
            FenceError::TooLittleTime { last, .. } => Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message)
                .detail(format!(
                    "That is the smaller of timeout_ms and citus_fence.acquire_timeout, and too short to \
                     tell whether a node is in trouble. It ended with: {last}."
                ))
                .hint("Give it a second or more: SELECT citus_block_writes_for_backup(300000);"),
            FenceError::NodesChanged => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .hint("Try again once no node is being added or removed."),
            FenceError::Expired { timeout_ms } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("Its timeout of {timeout_ms} ms was reached."))
                    .hint("Give citus_block_writes_for_backup a longer timeout_ms, or move the deadline with citus_extend_backup_block(timeout_ms) while the block is active.")
            }
            FenceError::NoGate { .. } => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The extension citus_fence is not there, or another one than this.")
                .hint("Install it on that node and preload it, or SET citus_fence.block_mode = '2pc'."),
            FenceError::Unconfirmed { node } => Report::new(ERRCODE_WARNING, message)
                .detail(format!("{node}. Its locks end when it notices that the session is closed."))
                .hint("See pg_locks on that node."),
            FenceError::Terminated => Report::new(ERRCODE_ADMIN_SHUTDOWN, message)
                .detail("The background worker was terminated by an administrator or by the server's shutdown."),
            FenceError::NoBlock => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The function works on the active block of this database.")
                .hint("Begin one: SELECT citus_block_writes_for_backup();"),
            FenceError::Local { sqlstate, detail, hint, .. } => Report {
                sqlstate: *sqlstate,
                message,
                detail: detail.clone(),
                hint: hint.clone(),
            },
        }
    }
}

impl From<&ClusterError> for Report {
    fn from(error: &ClusterError) -> Self {
        let message = error.to_string();
        match error {
            ClusterError::Gate(error) => error.into(),
            ClusterError::Fence(error) => error.into(),
            ClusterError::WritersInTheWay { last, blockers, .. } => {
                let mut detail = format!("The last attempt ended with: {last}.");
                if !blockers.is_empty() {
                    detail.push_str(&format!(" In the way: {}.", blockers.join("; ")));
                }
                Report::new(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, message)
                    .detail(detail)
                    .hint("End what is in the way, or raise citus_fence.acquire_timeout. Nothing has been switched.")
            }
            ClusterError::NoGate { .. } => {
                Report::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("The extension citus_fence is not there, or another one than this.")
                    .hint("Install it on that node, and preload it.")
            }
            ClusterError::NotSwitched { why, .. } => {
                Report::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("{why}. All other nodes have been switched back."))
                    .hint("Once the node is well: SELECT citus_set_cluster_read_only();")
            }
            ClusterError::HalfWay { nodes } => {
                Report::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("Not switched: {}.", nodes.join("; ")))
                    .hint("See citus_cluster_read_only_status(); call citus_set_cluster_read_only() or citus_set_cluster_read_write() again once these nodes answer.")
            }
            ClusterError::NotAllOpened { nodes } => {
                Report::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("Not switched: {}.", nodes.join("; ")))
                    .hint("See citus_cluster_read_only_status(); call citus_set_cluster_read_write() again once these nodes answer.")
            }
            ClusterError::UnderBlock => Report::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, message)
                .detail("Transactions wait for the block to end, and the switch would wait for them.")
                .hint("See citus_backup_block_status(); to end the block: SELECT citus_unblock_writes_for_backup();"),
            ClusterError::CoordinatorReadOnly => {
                Report::new(PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION, message)
                    .detail("That the cluster is to be read only must be written down here first.")
                    .hint("Let it write first: SELECT alter_system_read_write();")
            }
        }
    }
}

/// How many prepared transactions a message names.
const MOST_NAMES: usize = 20;

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
            GateError::NotSuperuser { .. } => Report::new(ERRCODE_INSUFFICIENT_PRIVILEGE, message)
                .hint("Call it as a superuser."),
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
            GateError::Prepared { gids } => {
                let shown = gids.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
                let more = if gids.len() > MOST_NAMES { ", …" } else { "" };
                Report::new(ERRCODE_OBJECT_IN_USE, message)
                    .detail(format!(
                        "There are {}: {shown}{more}. No session ended them within \
                         citus_fence.lock_timeout.",
                        gids.len()
                    ))
                    .hint("Use COMMIT PREPARED or ROLLBACK PREPARED, or have Citus do so: SELECT recover_prepared_transactions(); on the node that began them. The system is still read-write.")
            }
            GateError::Look { .. } => Report::new(ERRCODE_INTERNAL_ERROR, message)
                .detail("The state is not changed."),
            GateError::Deadlock { pid } => Report::new(ERRCODE_T_R_DEADLOCK_DETECTED, message)
                .detail(format!(
                    "It is waited for until it ends, but process {pid} needs a lock that this \
                     transaction holds."
                ))
                .hint("Call the function in a transaction of its own."),
            GateError::File { .. } => Report::new(ERRCODE_IO_ERROR, message)
                .detail("The state has to survive a restart, so it is not changed.")
                .hint("Check the data directory's file system, and call the function again."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_sqlstate;
    use pgrx::PgSqlErrorCode;

    #[test]
    fn sqlstates_are_packed_as_the_server_packs_them() {
        assert_eq!(parse_sqlstate("55P03"), Some(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE));
        assert_eq!(parse_sqlstate("22023"), Some(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE));
        assert_eq!(parse_sqlstate("2202"), None);
    }
}
