//! Many nodes at once: connect to all, run a command on all.

use super::connection::{RunTask, Session};
use super::conninfo::ConnParams;
use super::deadline::Deadline;
use super::drive::{DriveEnd, Task, drive};
use super::error::RemoteError;
use super::node::NodeLabel;
use super::pq::{ConnStatus, PollStep, Pq, StartError};
use super::reply::{Command, Reply};
use super::text;
use super::wait::{Interest, Waiter};

/// The label of connecting where an error wants a command's.
const CONNECT: &str = "connect";

/// Where to connect to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What messages call it.
    pub node: NodeLabel,
    /// What libpq is given.
    pub params: ConnParams,
}

/// Connects to all targets at once: one result per target, in order. The slowest decides how long
/// it takes; none takes longer than the deadline (but see the module's note on host *names*).
pub fn connect_all<C: Pq, W: Waiter + ?Sized>(
    waiter: &mut W,
    targets: &[Target],
    deadline: Deadline,
) -> Vec<Result<Session<C>, RemoteError>> {
    let started = waiter.now();
    let mut tasks: Vec<ConnectTask<C>> = Vec::with_capacity(targets.len());
    for (position, target) in targets.iter().enumerate() {
        // Starting may take long where a name is looked up: not all names, if the time is over.
        tasks.push(match position > 0 && deadline.expired(waiter) {
            true => ConnectTask::not_started(target),
            false => ConnectTask::start(target),
        });
    }
    let end = drive(waiter, &mut tasks, deadline);
    let after = waiter.now().saturating_sub(started);
    tasks.into_iter().map(|task| task.into_result(end, after)).collect()
}

/// Runs a command on each session, all at once: one result per session, in order. `command` is
/// given the session's position.
///
/// A command that has not ended by the deadline is a [`RemoteError::Timeout`] and leaves its
/// session Busy, for [`super::cancel_and_drain`]; so does [`RemoteError::Stopped`].
pub fn run_all<'c, C: Pq, W: Waiter + ?Sized>(
    waiter: &mut W,
    sessions: &mut [&mut Session<C>],
    command: impl Fn(usize) -> Command<'c>,
    deadline: Deadline,
) -> Vec<Result<Reply, RemoteError>> {
    let started = waiter.now();
    let mut names = Vec::with_capacity(sessions.len());
    let mut tasks = Vec::with_capacity(sessions.len());
    for (position, session) in sessions.iter_mut().enumerate() {
        let command = command(position);
        names.push(command.name);
        tasks.push(RunTask::start(session, &command));
    }
    let end = drive(waiter, &mut tasks, deadline);
    let after = waiter.now().saturating_sub(started);
    tasks.into_iter().zip(names).map(|(task, name)| task.into_result(end, name, after)).collect()
}

/// A connection that is being made.
pub(super) struct ConnectTask<C: Pq> {
    target: Target,
    stage: Stage<C>,
}

/// How far it is.
enum Stage<C: Pq> {
    /// libpq waits for its socket.
    Waiting { conn: C, interest: Interest },
    /// It is a session, or never will be. None if it was not even tried.
    Ended(Option<Result<Session<C>, RemoteError>>),
}

impl<C: Pq> ConnectTask<C> {
    /// Starts connecting, as far as that goes without waiting.
    pub(super) fn start(target: &Target) -> Self {
        let mut task = Self { target: target.clone(), stage: Stage::Ended(None) };
        match C::start(&target.params) {
            // libpq says to behave at first as if it had asked for writing.
            Ok(conn) if conn.status() != ConnStatus::Bad => task.wait(conn, false),
            Ok(conn) => task.fail(&conn),
            Err(StartError::ConnInfo(error)) => {
                let node = target.node.clone();
                task.end(Err(RemoteError::BadConnInfo { node, error }));
            }
            Err(StartError::NoMemory) => task.end(Err(task.no_memory())),
        }
        task
    }

    /// A target that there was no time left to try.
    fn not_started(target: &Target) -> Self {
        Self { target: target.clone(), stage: Stage::Ended(None) }
    }

    /// Takes libpq's next step.
    pub(super) fn advance(&mut self) {
        // Out of `self` while it is worked on: should this unwind, the connection is closed.
        let Stage::Waiting { mut conn, .. } =
            std::mem::replace(&mut self.stage, Stage::Ended(None))
        else {
            return;
        };
        match conn.connect_poll() {
            PollStep::Read => self.wait(conn, true),
            PollStep::Write => self.wait(conn, false),
            PollStep::Failed => self.fail(&conn),
            PollStep::Ready => match conn.set_nonblocking() {
                Ok(()) => {
                    let Target { node, params } = self.target.clone();
                    self.end(Ok(Session::established(node, params, conn)));
                }
                Err(_) => self.fail(&conn),
            },
        }
    }

    /// What to wait for; none once it has ended.
    pub(super) fn interest(&self) -> Option<Interest> {
        match &self.stage {
            Stage::Waiting { interest, .. } => Some(*interest),
            Stage::Ended(_) => None,
        }
    }

    /// The session or error, once there is one.
    pub(super) fn take_result(&mut self) -> Option<Result<Session<C>, RemoteError>> {
        match &mut self.stage {
            Stage::Waiting { .. } => None,
            Stage::Ended(result) => result.take(),
        }
    }

    /// The result; where there is none, why the drive left without it.
    fn into_result(
        mut self,
        end: DriveEnd,
        after: std::time::Duration,
    ) -> Result<Session<C>, RemoteError> {
        if let Some(result) = self.take_result() {
            return result;
        }
        let reached = match &self.stage {
            Stage::Waiting { conn, .. } => conn.status(),
            Stage::Ended(_) => ConnStatus::Bad,
        };
        let node = self.target.node;
        match end {
            DriveEnd::Stopped => Err(RemoteError::Stopped { node, command: CONNECT }),
            DriveEnd::TimedOut | DriveEnd::Finished => {
                Err(RemoteError::ConnectTimeout { node, after, reached })
            }
        }
    }

    /// Waits for the socket, which may be another one than at the last step.
    fn wait(&mut self, conn: C, read: bool) {
        match conn.socket() {
            Some(socket) => {
                let interest = Interest { socket, read, write: !read };
                self.stage = Stage::Waiting { conn, interest };
            }
            None => self.fail(&conn),
        }
    }

    /// Ends with the reason libpq gives.
    fn fail(&mut self, conn: &C) {
        let Target { node, params } = &self.target;
        let (sqlstate, message) = text::connect_failure(&conn.error_message(), node, params);
        let refused = sqlstate.is_some_and(|code| code.is_refusal()) || conn.needs_password();
        let node = node.clone();
        self.end(Err(match refused {
            true => RemoteError::Refused { node, message, sqlstate },
            false => RemoteError::Connect { node, message, sqlstate },
        }));
    }

    /// The error of a libpq without memory.
    fn no_memory(&self) -> RemoteError {
        RemoteError::Resources { node: self.target.node.clone(), command: CONNECT }
    }

    /// Nothing more to wait for.
    fn end(&mut self, result: Result<Session<C>, RemoteError>) {
        self.stage = Stage::Ended(Some(result));
    }
}

impl<C: Pq> Task for ConnectTask<C> {
    fn interest(&self) -> Option<Interest> {
        self.interest()
    }

    fn advance(&mut self, _read: bool, _write: bool) {
        self.advance();
    }
}
