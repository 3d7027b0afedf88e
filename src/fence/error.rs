//! What can go wrong with a fence, whatever it is for.

use pgrx::PgSqlErrorCode;
use remote::RemoteError;

use crate::citus::CatalogError;
use crate::citus::identity::IdentityError;
use crate::citus::myself::{HomeError, Unproved};
use crate::report::Report;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FenceError {
    /// A node.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Another server answers than was meant, or one that does not run what this one runs.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A node on which there is no gate to close.
    #[error("{node} does not have the gate of citus_fence")]
    NoGate {
        /// The node.
        node: String,
    },
    /// The server lends no more descriptors.
    #[error("not enough file descriptors to connect to all nodes")]
    NoDescriptors {
        /// Connections needed.
        count: usize,
    },
    /// An error that this server raised.
    #[error("{}", .0.message)]
    Local(Report),
}

impl From<HomeError> for FenceError {
    fn from(error: HomeError) -> Self {
        match error {
            HomeError::Identity(error) => Self::Identity(error),
            HomeError::Remote(error) => Self::Remote(error),
        }
    }
}

impl From<Report> for FenceError {
    fn from(report: Report) -> Self {
        Self::Local(report)
    }
}

impl From<&FenceError> for Report {
    fn from(error: &FenceError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            FenceError::Remote(remote) => Report::from(remote),
            FenceError::Catalog(catalog) => Report::from(catalog),
            FenceError::Identity(identity) => Report::from(identity),
            FenceError::NoGate { .. } => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The extension citus_fence is not there, or another one than this.")
                .hint("Install it on that node, and preload it."),
            FenceError::NoDescriptors { count } => {
                Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                    .detail(format!("{count} connections are needed; the server lends out a third of its file descriptors."))
                    .hint("Raise max_files_per_process and the operating system's limit, and restart the server.")
            }
            FenceError::Local(report) => report.clone(),
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug)]
pub enum Failed {
    /// The waiter was told to stop.
    Stopped,
    /// Another attempt would fail the same way.
    ForGood(FenceError),
    /// Somebody was in the way, or the cluster changed: let go and try again.
    ForNow(Reason),
    /// A server that starts, or is out of something for a moment: try again, and if it stays so, this is the error.
    Passing(FenceError),
}

impl<E: Into<FenceError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::ForGood(error.into())
    }
}

impl Failed {
    /// A failed exchange with a node, in which nobody was in the way.
    pub fn of_node(error: RemoteError) -> Self {
        match error {
            RemoteError::Stopped { .. } => Self::Stopped,
            other if may_pass(&other) => Self::Passing(other.into()),
            other => other.into(),
        }
    }

    /// Nobody in particular was in the way.
    pub fn for_now(what: impl Into<String>) -> Self {
        Self::ForNow(Reason { what: what.into(), blockers: vec![], tells: false })
    }

    /// Likewise, and what is said of it tells all.
    pub fn because(what: impl Into<String>) -> Self {
        Self::ForNow(Reason { what: what.into(), blockers: vec![], tells: true })
    }
}

impl From<Unproved> for Failed {
    fn from(unproved: Unproved) -> Self {
        match unproved {
            Unproved::Stopped => Self::Stopped,
            Unproved::Error(error) => error.into(),
            Unproved::Passing(error) => Self::Passing(error.into()),
            Unproved::Remote(error) => Self::of_node(error),
        }
    }
}

/// What libpq says, without a code, of what stays as it is.
const STAYS: [&str; 3] = ["certificate", "does not support SSL", "Name or service not known"];

/// What passes by itself: a server that is being restarted, does not answer for a moment, or is out of connections or
/// memory.  One that lets nobody in, or has no such database, stays so.
pub fn may_pass(error: &RemoteError) -> bool {
    let code_may_pass =
        |code: &str| ["08", "53", "57P0"].iter().any(|class| code.starts_with(class));
    match error {
        RemoteError::Connect { message, .. } => match error.sqlstate() {
            // libpq's own words; in another language than English they are waited for, too.
            None => !STAYS.iter().any(|words| message.contains(words)),
            // A pooler that has no such database or user.
            Some("08P01") => false,
            Some(code) => code_may_pass(code),
        },
        RemoteError::ConnectTimeout { .. } | RemoteError::Lost { .. } => true,
        RemoteError::Query { .. } => error.sqlstate().is_some_and(code_may_pass),
        RemoteError::BadConnInfo { .. }
        | RemoteError::Refused { .. }
        | RemoteError::Timeout { .. }
        | RemoteError::Resources { .. }
        | RemoteError::Stopped { .. }
        | RemoteError::StillBusy { .. }
        | RemoteError::Closed { .. }
        | RemoteError::Unexpected { .. }
        | RemoteError::ZeroByte { .. } => false,
    }
}

/// What an attempt ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// In its own words.
    pub what: String,
    /// Who was in the way: node, pid, age, query.
    pub blockers: Vec<String>,
    /// Whether the words say what stood in the way, and not merely that the time was over.
    pub tells: bool,
}

/// What another attempt may not meet: no lock in time, a deadlock, a serialization failure, a statement cancelled
/// by its own time-out.
pub fn is_passing(sqlstate: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        sqlstate,
        ERRCODE_LOCK_NOT_AVAILABLE
            | ERRCODE_T_R_DEADLOCK_DETECTED
            | ERRCODE_T_R_SERIALIZATION_FAILURE
            | ERRCODE_QUERY_CANCELED
    )
}

/// The same of an answer of a node, or of one that did not come.
pub fn is_passing_remote(error: &RemoteError) -> bool {
    match error {
        RemoteError::Timeout { .. } => true,
        other => other.sqlstate().and_then(crate::report::parse_sqlstate).is_some_and(is_passing),
    }
}

/// What an attempt that finds other nodes than it began with ends with.
pub const NODES_CHANGED: &str = "the nodes of the cluster changed while they were being locked";
