//! Bringing sessions back that are Busy with a command nobody waits for any more.
//!
//! ```text
//! Busy ── the answer is here already ────────────────────────────────> answered: Idle
//!   └──> second connection ──> pg_cancel_backend(pid) ──> drain ─────> answered: Idle
//!          └─ fails ─────────────└─ fails ──────────────────└─ deadline, stop, EOF: Broken
//! ```
//!
//! libpq's `PQcancel` blocks without bound on a frozen host, and its non-blocking successor only
//! exists since 17. So the cancel is an ordinary command on an ordinary, bounded connection to the
//! same place: it also works with TLS and through poolers.
//!
//! A cancel that comes too late cannot hit the session's next command: the session stays Busy
//! until `pg_cancel_backend` has returned, so the signal is sent while the server process works on
//! this command or waits for the next one, and a waiting process ignores it.

use crate::connection::{Session, SessionState};
use crate::deadline::Deadline;
use crate::drive::{DriveEnd, Task, drive};
use crate::error::RemoteError;
use crate::fanout::{ConnectTask, Target};
use crate::pq::Pq;
use crate::reply::{Command, Reply};
use crate::wait::{Interest, Waiter};

/// The label of cancelling in messages.
const CANCEL: &str = "cancel";

/// What became of a session.
#[derive(Debug)]
pub enum DrainEnd {
    /// It was Idle, and nothing was done.
    NotBusy,
    /// Its command has ended and it is Idle: cancelled (an error with SQLSTATE 57014), or, as the
    /// cancel came too late, done or failed in its own way.
    Answered(Result<Reply, RemoteError>),
    /// It did not come back, or was lost before, and is closed. What its command did, or still
    /// does, is not known.
    Broken(RemoteError),
}

/// Cancels what the Busy ones of these sessions are doing and takes the answers: all at once, one
/// end per session, in order. When this returns no session is Busy; one that has not come back by
/// the deadline, or when the waiter stops, is Broken and closed.
pub fn cancel_and_drain<C: Pq, W: Waiter + ?Sized>(
    waiter: &mut W,
    sessions: &mut [&mut Session<C>],
    deadline: Deadline,
) -> Vec<DrainEnd> {
    let started = waiter.now();
    let mut tasks: Vec<CancelTask<'_, C>> = Vec::with_capacity(sessions.len());
    for session in sessions.iter_mut() {
        tasks.push(CancelTask::start(session));
    }
    let end = drive(waiter, &mut tasks, deadline);
    let after = waiter.now().saturating_sub(started);
    tasks
        .into_iter()
        .map(|mut task| {
            if task.end.is_none() {
                let node = task.session.node().clone();
                task.give_up(match end {
                    DriveEnd::Stopped => RemoteError::Stopped { node, command: CANCEL },
                    DriveEnd::TimedOut | DriveEnd::Finished => {
                        RemoteError::Timeout { node, command: CANCEL, after }
                    }
                });
            }
            // Always there by now; a session without an end is Broken.
            task.end.unwrap_or_else(|| DrainEnd::Broken(task.session.closed_error(CANCEL)))
        })
        .collect()
}

/// One session on its way back.
struct CancelTask<'a, C: Pq> {
    session: &'a mut Session<C>,
    stage: Stage<C>,
    end: Option<DrainEnd>,
}

/// How far it is.
enum Stage<C: Pq> {
    /// The second connection is being made.
    Connecting(ConnectTask<C>),
    /// It has been told to cancel.
    Asking(Session<C>),
    /// The session's own answer is waited for.
    Draining,
}

impl<'a, C: Pq> CancelTask<'a, C> {
    /// Takes what has already come, and starts the second connection if that is not the answer.
    fn start(session: &'a mut Session<C>) -> Self {
        let state = session.state();
        let mut task = Self { session, stage: Stage::Draining, end: None };
        match state {
            SessionState::Idle => task.end = Some(DrainEnd::NotBusy),
            SessionState::Broken => {
                task.end = Some(DrainEnd::Broken(task.session.closed_error(CANCEL)));
            }
            SessionState::Busy => {
                task.drain();
                if task.end.is_none() {
                    task.call_for_cancel();
                }
            }
        }
        task
    }

    /// Starts the second connection, if a cancel can do anything.
    fn call_for_cancel(&mut self) {
        let unexpected = |what| RemoteError::Unexpected {
            node: self.session.node().clone(),
            command: CANCEL,
            what,
        };
        // The server waits for the rest of a half-sent command, and would ignore the cancel and
        // then run it in full.
        if self.session.is_sending() {
            return self.give_up(unexpected("the command was sent only in part"));
        }
        if cancel_command(self.session).is_none() {
            return self.give_up(unexpected("the server process is not known"));
        }
        let target =
            Target { node: self.session.node().clone(), params: self.session.params().clone() };
        self.stage = Stage::Connecting(ConnectTask::start(&target));
        self.advance_second();
    }

    /// Goes on with the second connection: from connecting to asking to draining.
    fn advance_second(&mut self) {
        if let Stage::Connecting(connecting) = &mut self.stage {
            match connecting.take_result() {
                None => return,
                Some(Err(error)) => return self.fail(error),
                Some(Ok(mut second)) => match cancel_command(self.session) {
                    Some(command) => match second.send(&command) {
                        Ok(()) => self.stage = Stage::Asking(second),
                        Err(error) => return self.fail(error),
                    },
                    None => return self.drain(),
                },
            }
        }
        if let Stage::Asking(second) = &mut self.stage {
            match second.advance(true) {
                None => {}
                Some(Err(error)) => self.fail(error),
                // True, or false because the process is no more: either way the end is near.
                Some(Ok(_)) => {
                    self.stage = Stage::Draining;
                    self.drain();
                }
            }
        }
    }

    /// Takes what has come on the session itself.
    fn drain(&mut self) {
        if let Some(result) = self.session.advance(true) {
            self.end = Some(match (self.session.state(), result) {
                (SessionState::Broken, Err(error)) => DrainEnd::Broken(error),
                (_, result) => DrainEnd::Answered(result),
            });
        }
    }

    /// The cancel cannot be delivered: unless the answer has come meanwhile, the session is over.
    fn fail(&mut self, error: RemoteError) {
        self.stage = Stage::Draining;
        self.drain();
        if self.end.is_none() {
            self.give_up(error);
        }
    }

    /// Closes the session.
    fn give_up(&mut self, error: RemoteError) {
        self.session.break_off(format!("a command could not be cancelled: {error}"));
        self.end = Some(DrainEnd::Broken(error));
    }
}

impl<C: Pq> Task for CancelTask<'_, C> {
    fn interest(&self) -> Option<Interest> {
        match (&self.end, &self.stage) {
            (Some(_), _) => None,
            (None, Stage::Connecting(connecting)) => connecting.interest(),
            (None, Stage::Asking(second)) => second.interest(),
            (None, Stage::Draining) => self.session.interest(),
        }
    }

    fn advance(&mut self, _read: bool, _write: bool, _now: std::time::Duration) {
        match &mut self.stage {
            Stage::Connecting(connecting) => {
                connecting.advance();
                self.advance_second();
            }
            Stage::Asking(_) => self.advance_second(),
            Stage::Draining => self.drain(),
        }
    }
}

/// The command that cancels what the session is doing; none if its server process is unknown.
///
/// A pid that the server process itself reported is taken at its word. One from the startup data
/// may be a pooler's invention and belong to a stranger: that one must also carry our application
/// name, which the second connection shares.
fn cancel_command<C: Pq>(session: &Session<C>) -> Option<Command<'static>> {
    if let Some(pid) = session.server_pid() {
        return Some(Command::new(CANCEL, format!("SELECT pg_catalog.pg_cancel_backend({pid})")));
    }
    session.startup_pid().map(|pid| {
        Command::new(
            CANCEL,
            format!(
                "SELECT pg_catalog.pg_cancel_backend(pid) \
                 FROM pg_catalog.pg_stat_get_activity({pid}) \
                 WHERE application_name = pg_catalog.current_setting('application_name')"
            ),
        )
    })
}
