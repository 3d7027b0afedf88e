//! What scripted servers answer.

use super::Incoming;
use crate::*;

/// One row with a 1 in it, after a while.
pub fn rows(after: u64) -> Vec<(u64, Incoming)> {
    let set = ResultSet {
        columns: vec!["one".into()],
        rows: vec![vec![Some("1".into())]],
        command_tag: "SELECT 1".into(),
        affected: 1,
    };
    vec![(after, Incoming::Result(PqResult::Set(set))), (after, Incoming::Ready)]
}

/// An error of the server.
pub fn error(severity: Severity, sqlstate: &str, message: &str) -> ServerError {
    ServerError {
        severity,
        sqlstate: SqlState::parse(sqlstate),
        message: message.into(),
        detail: Some("the detail".into()),
        hint: Some("the hint".into()),
        context: None,
    }
}

/// A command that fails after a while.
pub fn fails(after: u64, sqlstate: &str, message: &str) -> Vec<(u64, Incoming)> {
    let error = error(Severity::Error, sqlstate, message);
    vec![(after, Incoming::Result(PqResult::Error(error))), (after, Incoming::Ready)]
}

/// A command that is never answered.
pub fn hangs() -> Vec<(u64, Incoming)> {
    Vec::new()
}

/// What libpq says of a connection that was closed.
pub const EOF: &str = "server closed the connection unexpectedly\n\tThis probably means the server \
                       terminated abnormally\n\tbefore or while processing the request.\n";
