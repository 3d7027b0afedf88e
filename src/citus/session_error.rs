//! What a user is told of a session with another node.

use pgrx::PgSqlErrorCode;
use remote::RemoteError;

use crate::report::{Report, parse_sqlstate};

impl From<&RemoteError> for Report {
    fn from(error: &RemoteError) -> Self {
        use PgSqlErrorCode::*;
        let node = error.node();
        let theirs = error.sqlstate().and_then(parse_sqlstate);
        let message = error.to_string();
        let look = match theirs {
            Some(ERRCODE_TOO_MANY_CONNECTIONS) => format!(
                "End sessions at {node}, or raise max_connections there; those of citus_fence are a superuser's, for \
                 whom superuser_reserved_connections are kept."
            ),
            _ => format!(
                "Check that the server at {node} runs and accepts connections from this host."
            ),
        };
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
                Report::new(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, message).hint(
                    format!("{look} citus_fence.connect_timeout is the bound of each attempt."),
                )
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
