//! Everything that can go wrong with a remote session, one variant per kind.

use std::time::Duration;

use crate::conninfo::ConnInfoError;
use crate::node::NodeLabel;
use crate::pq::{ConnStatus, ServerError, SqlState};

/// A failure on one node. `Display` is one line, names the node and the command, and holds no
/// secret; a server's detail and hint are for the caller to place ([`RemoteError::server_error`]).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// The connection parameters cannot be used; nothing was tried.
    #[error("invalid connection parameters for {node}: {error}")]
    BadConnInfo {
        /// The node they are for.
        node: NodeLabel,
        /// What is wrong with them.
        error: ConnInfoError,
    },
    /// The connection failed: nobody listens, TLS does not work, the server is starting up, …
    #[error("could not connect to {node}: {message}")]
    Connect {
        /// The node.
        node: NodeLabel,
        /// The server's primary message, or libpq's.
        message: String,
        /// Set if it was the server that declined.
        sqlstate: Option<SqlState>,
    },
    /// The server does not let this user in: password, role or pg_hba.conf.
    #[error("{node} refused the connection: {message}")]
    Refused {
        /// The node.
        node: NodeLabel,
        /// The server's primary message, or libpq's where a password was asked for and none known.
        message: String,
        /// Class 28, or none where libpq had no password to give.
        sqlstate: Option<SqlState>,
    },
    /// The deadline passed before the connection was made.
    #[error("could not connect to {node} within {} ms: {}", after.as_millis(), silence(*reached))]
    ConnectTimeout {
        /// The node.
        node: NodeLabel,
        /// How long it was tried.
        after: Duration,
        /// How far it came; Bad if it was not even tried.
        reached: ConnStatus,
    },
    /// The server reported an error; the session goes on.
    #[error("{command} failed on {node}: {}", error.message)]
    Query {
        /// The node.
        node: NodeLabel,
        /// The command's label.
        command: &'static str,
        /// The server's report.
        error: Box<ServerError>,
    },
    /// The connection is gone, and with it the session and its transaction.
    #[error("lost the connection to {node} during {command}: {message}")]
    Lost {
        /// The node.
        node: NodeLabel,
        /// The command's label, or [`crate::IDLE_HOLD`] where none was running.
        command: &'static str,
        /// The server's last words if it sent any, else libpq's.
        message: String,
        /// Set if the server said why.
        sqlstate: Option<SqlState>,
    },
    /// The deadline passed; the command may still be running there, and the session is Busy.
    #[error("{command} on {node} did not finish within {} ms", after.as_millis())]
    Timeout {
        /// The node.
        node: NodeLabel,
        /// The command's label.
        command: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// No memory here for a connection or a command.
    #[error("not enough memory for {command} on {node}")]
    Resources {
        /// The node.
        node: NodeLabel,
        /// The command's label.
        command: &'static str,
    },
    /// The waiter was told to stop; if a command was running, the session is Busy.
    #[error("{command} on {node} was interrupted")]
    Stopped {
        /// The node.
        node: NodeLabel,
        /// The command's label.
        command: &'static str,
    },
    /// The session still waits for the answer to an earlier command.
    #[error("cannot run {command} on {node}: {running} has not finished there")]
    StillBusy {
        /// The node.
        node: NodeLabel,
        /// The command that was to run.
        command: &'static str,
        /// The command that is running.
        running: &'static str,
    },
    /// The session was given up earlier.
    #[error("cannot run {command} on {node}: the session is closed: {why}")]
    Closed {
        /// The node.
        node: NodeLabel,
        /// The command that was to run.
        command: &'static str,
        /// Why it was given up.
        why: String,
    },
    /// The answer is not of the form the caller relies on.
    #[error("unexpected answer to {command} from {node}: {what}")]
    Unexpected {
        /// The node.
        node: NodeLabel,
        /// The command's label.
        command: &'static str,
        /// What is unexpected.
        what: &'static str,
    },
    /// The command's text or a parameter holds a zero byte and cannot be sent.
    #[error("cannot send {command} to {node}: it contains a zero byte")]
    ZeroByte {
        /// The node.
        node: NodeLabel,
        /// The command's label.
        command: &'static str,
    },
}

/// What a connection attempt that timed out was waiting for.
fn silence(reached: ConnStatus) -> &'static str {
    match reached {
        ConnStatus::Bad => "no time was left to try it",
        ConnStatus::Reaching => "the host does not answer",
        ConnStatus::Answering | ConnStatus::Introduced | ConnStatus::Ok => {
            "the host accepts connections but the server does not answer"
        }
    }
}

impl RemoteError {
    /// The node it happened on.
    pub fn node(&self) -> &NodeLabel {
        match self {
            Self::BadConnInfo { node, .. }
            | Self::Connect { node, .. }
            | Self::Refused { node, .. }
            | Self::ConnectTimeout { node, .. }
            | Self::Query { node, .. }
            | Self::Lost { node, .. }
            | Self::Timeout { node, .. }
            | Self::Resources { node, .. }
            | Self::Stopped { node, .. }
            | Self::StillBusy { node, .. }
            | Self::Closed { node, .. }
            | Self::Unexpected { node, .. }
            | Self::ZeroByte { node, .. } => node,
        }
    }

    /// The SQLSTATE the *server* gave, if a server spoke.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Connect { sqlstate, .. }
            | Self::Refused { sqlstate, .. }
            | Self::Lost { sqlstate, .. } => sqlstate.as_ref().map(SqlState::as_str),
            Self::Query { error, .. } => error.sqlstate.as_ref().map(SqlState::as_str),
            Self::BadConnInfo { .. }
            | Self::ConnectTimeout { .. }
            | Self::Timeout { .. }
            | Self::Resources { .. }
            | Self::Stopped { .. }
            | Self::StillBusy { .. }
            | Self::Closed { .. }
            | Self::Unexpected { .. }
            | Self::ZeroByte { .. } => None,
        }
    }

    /// The server's detail, if it sent one, to stand inside a sentence.
    pub fn detail(&self) -> Option<&str> {
        let detail = self.server_error()?.detail.as_deref()?;
        Some(detail.trim_end_matches('.'))
    }

    /// The server's (or libpq's) own words, without our frame around them.
    pub fn server_message(&self) -> Option<&str> {
        match self {
            Self::Connect { message, .. }
            | Self::Refused { message, .. }
            | Self::Lost { message, .. } => Some(message),
            Self::Query { error, .. } => Some(&error.message),
            Self::BadConnInfo { .. }
            | Self::ConnectTimeout { .. }
            | Self::Timeout { .. }
            | Self::Resources { .. }
            | Self::Stopped { .. }
            | Self::StillBusy { .. }
            | Self::Closed { .. }
            | Self::Unexpected { .. }
            | Self::ZeroByte { .. } => None,
        }
    }

    /// The full report of a failed command, with detail and hint.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Query { error, .. } => Some(error),
            _ => None,
        }
    }
}
