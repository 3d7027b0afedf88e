//! What can go wrong with switching the cluster.

use pgrx::PgSqlErrorCode;

use crate::citus::CatalogError;
use crate::citus::myself::Unproved;
use crate::fence::FenceError;
use crate::fence::error::may_pass;
use crate::fence::under_way::UnderWay;
use crate::pg::wait::CLIENT_GONE;
use crate::readonly::error::SwitchError;
use crate::report::Report;
use remote::RemoteError;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// This node's own part.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// What closing the gates has in common with a backup block.
    #[error(transparent)]
    Fence(FenceError),
    /// The gates could not be closed in time.
    #[error("could not hold back all writers of the cluster within {after_ms} ms")]
    WritersInTheWay {
        /// How long it was tried.
        after_ms: i32,
        /// What the last attempt ended with that tells something.
        last: String,
        /// Who was in the way: node, pid, age, query.
        blockers: Vec<String>,
    },
    /// A node where the extension is not, or something else in its place.
    #[error("{node} does not have the gate that makes it read only")]
    NoGate {
        /// The node.
        node: String,
    },
    /// A node could not be switched, and everything was taken back.
    #[error("could not switch {node}")]
    NotSwitched {
        /// The node.
        node: String,
        /// Why.
        why: String,
        /// The code of that.
        sqlstate: PgSqlErrorCode,
    },
    /// Some nodes could not be switched, or switched back.
    #[error("the cluster is read only in part")]
    HalfWay {
        /// The nodes, and why.
        nodes: Vec<String>,
    },
    /// Some nodes could not be told to write.
    #[error("could not switch every node to read-write")]
    NotAllOpened {
        /// The nodes, and why.
        nodes: Vec<String>,
    },
    /// The nodes could not finish what is in doubt, and no writer ends: all wait for the other operation.
    #[error("cannot make the cluster read only while {}", .0.what)]
    UnderWay(UnderWay),
    /// The switch failed and was taken back, but for its note.
    #[error("{first}")]
    NoteLeft {
        /// Why it failed.
        first: Box<ClusterError>,
        /// Why the note is left.
        why: String,
    },
    /// The caller's client is gone.
    #[error("{CLIENT_GONE}")]
    ClientGone,
    /// A cancel or a termination has come, and is about to be told in the server's own words.
    #[error("the switch of the cluster was broken off")]
    BrokenOff,
    /// The coordinator itself was switched to read-only, so that nothing can be written down.
    #[error("{}", read_only_with(.databases))]
    CoordinatorReadOnly {
        /// Other databases of this server whose clusters are noted as read-only.
        databases: Vec<String>,
    },
}

impl From<FenceError> for ClusterError {
    fn from(error: FenceError) -> Self {
        match error {
            FenceError::NoGate { node } => Self::NoGate { node },
            other => Self::Fence(other),
        }
    }
}

impl From<Unproved> for ClusterError {
    fn from(unproved: Unproved) -> Self {
        match unproved {
            // Nothing stops the waiter but interrupts, which unwind.
            Unproved::Stopped => Self::ClientGone,
            Unproved::Error(error) | Unproved::Passing(error) => FenceError::from(error).into(),
            Unproved::Remote(error) => error.into(),
        }
    }
}

impl ClusterError {
    /// Whether it passes by itself.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Fence(FenceError::Remote(error)) if may_pass(error))
    }
}

impl From<RemoteError> for ClusterError {
    fn from(error: RemoteError) -> Self {
        FenceError::from(error).into()
    }
}

impl From<CatalogError> for ClusterError {
    fn from(error: CatalogError) -> Self {
        FenceError::from(error).into()
    }
}

fn read_only_with(databases: &[String]) -> String {
    if databases.is_empty() {
        return "the coordinator is read only by itself".into();
    }
    format!("the coordinator is read only with the cluster in database {}", quoted(databases))
}

/// Names of databases, in a message.
pub fn quoted(databases: &[String]) -> String {
    let quoted: Vec<String> = databases.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.join(", ")
}

impl From<&ClusterError> for Report {
    fn from(error: &ClusterError) -> Self {
        let message = error.to_string();
        match error {
            ClusterError::Switch(error) => error.into(),
            ClusterError::Fence(error) => error.into(),
            ClusterError::WritersInTheWay { last, blockers, .. } => {
                let mut detail = format!("The last attempt ended with: {last}.");
                if !blockers.is_empty() {
                    detail.push_str(&format!(" In the way: {}.", blockers.join("; ")));
                }
                Report::new(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, message)
                    .detail(detail)
                    .hint("End what is in the way, or raise citus_fence.acquire_timeout. This call has switched nothing.")
            }
            ClusterError::NoGate { .. } => {
                Report::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("The extension citus_fence is not there, or another one than this.")
                    .hint("Install it on that node, and preload it.")
            }
            ClusterError::NotSwitched { why, sqlstate, .. } => {
                // Its own time was over; nobody has cancelled this call.
                let sqlstate = match *sqlstate {
                    PgSqlErrorCode::ERRCODE_QUERY_CANCELED => {
                        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
                    }
                    other => other,
                };
                Report::new(sqlstate, message)
                    .detail(format!("{why}. All other nodes have been switched back."))
                    .hint("Once the node is well: SELECT citus_set_cluster_read_only();")
            }
            ClusterError::HalfWay { nodes } => {
                Report::new(PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, message)
                    .detail(format!("Not switched: {}.", nodes.join("; ")))
                    .hint("See citus_cluster_read_only_status(); call citus_set_cluster_read_only() or citus_set_cluster_read_write() again once these nodes answer.")
            }
            ClusterError::NotAllOpened { nodes } => {
                Report::new(PgSqlErrorCode::ERRCODE_SYSTEM_ERROR, message)
                    .detail(format!("Not switched: {}.", nodes.join("; ")))
                    .hint("See citus_cluster_read_only_status(); call citus_set_cluster_read_write() again once these nodes answer.")
            }
            ClusterError::UnderWay(other) => {
                Report::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, message)
                    .detail("Transactions wait for it to end, and the switch would wait for them.")
                    .hint(other.hint)
            }
            ClusterError::NoteLeft { first, why } => {
                let mut report = Report::from(&**first);
                let detail = report.detail.take().map_or_else(String::new, |text| text + " ");
                let note = "The note on this node that the cluster is to be read only could not be \
                            taken away, so citus_cluster_read_only_status() shows a switch that was \
                            interrupted";
                report.detail(format!("{detail}{note}: {why}."))
            }
            ClusterError::ClientGone => {
                Report::new(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, message)
            }
            ClusterError::BrokenOff => Report::new(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, message),
            ClusterError::CoordinatorReadOnly { databases } => {
                Report::new(PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION, message)
                    .detail("That the cluster is to be read only must be written down here first.")
                    .hint(if databases.is_empty() {
                        "Let it write first: SELECT alter_system_read_write();"
                    } else {
                        "Let that cluster write first, in that database, on its coordinator: SELECT citus_set_cluster_read_write();"
                    })
            }
        }
    }
}
