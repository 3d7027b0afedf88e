//! One session with a server: every question is bounded, and what is still under way when this
//! program has to leave is cancelled first.
//!
//! ```text
//!            open                      ask                          close
//! (nothing) ──────> session, in a ─────────────> an answer ────────────────────> (nothing)
//!     │ failed,     read-only      │ the server's error: the transaction is over   ^
//!     │ deadline,   transaction    │ deadline, signal: cancelled for CANCEL_TIME ──┤
//!     v signal                     └ lost ─────────────────────────────────────────┘
//!   Failure
//! ```
//! All that is set is set for the transaction alone, so a pooler may be in between.

use std::time::Duration;

use remote::{NodeLabel, Reply};
use tracing::debug;

use crate::connection::Destination;
use crate::failure::Failure;
use crate::signals::Stop;
use crate::talk::Talk;

/// How long an answer may take. The server's own limit is shorter, so that it usually speaks first.
const ANSWER_TIME: Duration = Duration::from_secs(35);

/// How long the end of the transaction is waited for.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Begins the transaction. What follows it is found by name in pg_catalog only, and shows times as UTC.
///
/// `deadlock_timeout` is left alone: only a superuser may set it, and what is asked here takes no
/// lock that anybody could wait for.
const BEGIN: &str = "BEGIN READ ONLY;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL quote_all_identifiers = off;
SET LOCAL statement_timeout = '30s';
SET LOCAL lock_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '60s';
SET LOCAL TimeZone = 'UTC';
SELECT set_config('transaction_timeout', '120s', true)
 WHERE current_setting('server_version_num')::int >= 170000;
SELECT pg_backend_pid()";

/// A session in its transaction.
pub struct Server<'a>(Talk<'a>);

impl<'a> Server<'a> {
    /// Connects and begins.
    pub fn open(destination: &Destination, stop: &'a Stop) -> Result<Self, Failure> {
        let mut server = Self(Talk::to(destination, ANSWER_TIME, stop)?);
        debug!("connected to {}", server.place());
        let pid = server.ask("begin", BEGIN)?.parse_single()?;
        server.0.set_server_pid(pid);
        Ok(server)
    }

    /// Where it is.
    pub fn place(&self) -> &NodeLabel {
        self.0.place()
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, name: &'static str, sql: &str) -> Result<Reply, Failure> {
        let reply = self.0.ask(name, sql)?;
        debug!("{name} took {} ms", reply.took.as_millis());
        Ok(reply)
    }

    /// Ends the transaction and the session. An error of this changes nothing about what was asked,
    /// and a server that has stopped answering does not hold it back.
    pub fn close(self) {
        self.0.close_with("ROLLBACK", CLOSE_TIME);
    }
}
