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

use remote::{
    Command, Deadline, LibPq, NodeLabel, PollWaiter, RemoteError, Reply, Session, cancel_and_drain,
    connect_all,
};
use tracing::debug;

use crate::connection::Destination;
use crate::failure::Failure;
use crate::signals::Stop;

/// How long an answer may take. The server's own limit is shorter, so that it usually speaks first.
const ANSWER_TIME: Duration = Duration::from_secs(35);

/// How long a cancel may take that is on the way out.
const CANCEL_TIME: Duration = Duration::from_secs(1);

/// How long the end of the transaction is waited for.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Begins the transaction. What follows it is found by name in pg_catalog only, and shows times as UTC.
///
/// `deadlock_timeout` is left alone: only a superuser may set it, and what is asked here takes no
/// lock that anybody could wait for.
const BEGIN: &str = "BEGIN READ ONLY;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL statement_timeout = '30s';
SET LOCAL lock_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '60s';
SET LOCAL TimeZone = 'UTC';
SELECT set_config('transaction_timeout', '120s', true)
 WHERE current_setting('server_version_num')::int >= 170000;
SELECT pg_backend_pid()";

/// A session in its transaction.
pub struct Server<'a> {
    session: Session<LibPq>,
    waiter: PollWaiter,
    stop: &'a Stop,
}

impl<'a> Server<'a> {
    /// Connects and begins.
    pub fn open(destination: &Destination, stop: &'a Stop) -> Result<Self, Failure> {
        debug!("connecting with {}", destination.target.params);
        let mut waiter = PollWaiter::with_stop(stop.flag());
        let deadline = Deadline::after(&waiter, destination.connect_timeout);
        let targets = std::slice::from_ref(&destination.target);
        let session = connect_all(&mut waiter, targets, deadline)
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(nothing_tried(destination)))
            .map_err(|error| or_told(error, stop))?;
        debug!("connected to {}", session.node());
        let mut server = Self { session, waiter, stop };
        let pid = server.ask("begin", BEGIN)?.parse_single()?;
        server.session.set_server_pid(pid);
        Ok(server)
    }

    /// Where it is.
    pub fn place(&self) -> &NodeLabel {
        self.session.node()
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, name: &'static str, sql: &str) -> Result<Reply, Failure> {
        let deadline = Deadline::after(&self.waiter, ANSWER_TIME);
        let answer = self.session.run(&mut self.waiter, Command::new(name, sql), deadline);
        match answer {
            Ok(reply) => {
                debug!("{name} took {} ms", reply.took.as_millis());
                Ok(reply)
            }
            Err(error) => {
                debug!("{error}");
                self.cancel();
                Err(or_told(error, self.stop))
            }
        }
    }

    /// Ends the transaction and the session. An error of this changes nothing about what was asked,
    /// and a server that has stopped answering does not hold it back.
    pub fn close(mut self) {
        let deadline = Deadline::after(&self.waiter, CLOSE_TIME);
        let _ = self.session.run(&mut self.waiter, Command::new("end", "ROLLBACK"), deadline);
    }

    /// Cancels what is still under way, if anything is. A signal does not stop this; a second one
    /// ends the program.
    fn cancel(&mut self) {
        let mut waiter = PollWaiter::new();
        let deadline = Deadline::after(&waiter, CANCEL_TIME);
        for end in cancel_and_drain(&mut waiter, &mut [&mut self.session], deadline) {
            debug!("after a cancel: {end:?}");
        }
    }
}

/// The error itself, or that a signal was its cause.
fn or_told(error: RemoteError, stop: &Stop) -> Failure {
    match (&error, stop.signal()) {
        (RemoteError::Stopped { .. }, Some(signal)) => Failure::ToldToStop { signal },
        _ => Failure::Remote(error),
    }
}

/// The error of a connection without a result, which does not happen: there is one per target.
fn nothing_tried(destination: &Destination) -> RemoteError {
    RemoteError::Unexpected {
        node: destination.target.node.clone(),
        command: "connect",
        what: "no result",
    }
}
