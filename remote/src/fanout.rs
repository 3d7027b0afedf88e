//! Many nodes at once: connect to all, run a command on all, or both.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::connection::{RunTask, Session, unfinished};
use crate::conninfo::ConnParams;
use crate::deadline::Deadline;
use crate::drive::{DriveEnd, Task, drive};
use crate::error::RemoteError;
use crate::ffi::LibPq;
use crate::node::NodeLabel;
use crate::pq::{ConnStatus, Peer, PollStep, Pq, StartError};
use crate::reply::{Command, Reply};
use crate::text;
use crate::wait::{Interest, Waiter};

/// The label of connecting where an error wants a command's.
const CONNECT: &str = "connect";

/// Where to connect to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    let mut tasks = start_all(waiter, targets, deadline);
    let end = drive(waiter, &mut tasks, deadline);
    let after = waiter.now().saturating_sub(started);
    tasks.into_iter().map(|task| task.into_result(end, after)).collect()
}

/// What became of a target: no session; or one, and the answer to its first command.
pub type Begun<C> = Result<(Session<C>, Result<Reply, RemoteError>), RemoteError>;

/// Connections that have been asked for, all at once, and that nobody waits for yet.
pub struct Connecting<C: Pq = LibPq> {
    tasks: Vec<ConnectTask<C>>,
    /// What the last of them is asked for in place of what the others are.
    other_question: Option<Command<'static>>,
    started: Duration,
}

impl<C: Pq> Connecting<C> {
    /// Asks for them.
    pub fn start<W: Waiter + ?Sized>(waiter: &W, targets: &[Target], deadline: Deadline) -> Self {
        let started = waiter.now();
        let tasks = start_all(waiter, targets, deadline);
        Self { tasks, other_question: None, started }
    }

    /// The same, and one more, the last, with a question of its own.
    pub fn start_with<W: Waiter + ?Sized>(
        waiter: &W,
        targets: &[Target],
        other: Option<(&Target, Command<'static>)>,
        deadline: Deadline,
    ) -> Self {
        let Some((target, question)) = other else {
            return Self::start(waiter, targets, deadline);
        };
        let all: Vec<Target> = targets.iter().chain([target]).cloned().collect();
        Self { other_question: Some(question), ..Self::start(waiter, &all, deadline) }
    }

    /// Goes on with them until every server has been told whom to make a session for, and so has the most of its
    /// work to do by itself; for no longer than `bound`.  Whoever has something else to do does it then.
    pub fn introduce<W: Waiter + ?Sized>(&mut self, waiter: &mut W, bound: Duration) {
        let deadline = Deadline::after(waiter, bound);
        let mut tasks: Vec<IntroduceTask<'_, C>> =
            self.tasks.iter_mut().map(IntroduceTask).collect();
        // However it ends, [`Self::run`] goes on from there.
        let _ = drive(waiter, &mut tasks, deadline);
    }

    /// Runs a command on each session as soon as it is there, so that the quick do not wait for the slow: one
    /// result per target, in order.  The deadline is for both; a command that has not ended by then leaves its
    /// session Busy, as [`run_all`] does.
    pub fn run<W: Waiter + ?Sized>(
        self,
        waiter: &mut W,
        command: &Command<'_>,
        deadline: Deadline,
    ) -> Vec<Begun<C>> {
        let last = self.tasks.len().saturating_sub(1);
        let command = |index: usize| match &self.other_question {
            Some(question) if index == last => question,
            Some(_) | None => command,
        };
        let mut tasks: Vec<BeginTask<'_, C>> = self
            .tasks
            .into_iter()
            .enumerate()
            .map(|(index, connecting)| BeginTask::start(connecting, command(index)))
            .collect();
        let end = drive(waiter, &mut tasks, deadline);
        let after = waiter.now().saturating_sub(self.started);
        tasks.into_iter().map(|task| task.into_result(end, after)).collect()
    }
}

fn start_all<C: Pq, W: Waiter + ?Sized>(
    waiter: &W,
    targets: &[Target],
    deadline: Deadline,
) -> Vec<ConnectTask<C>> {
    let mut tasks: Vec<ConnectTask<C>> = Vec::with_capacity(targets.len());
    for (position, target) in targets.iter().enumerate() {
        // Starting may take long where a name is looked up: not all names, if the time is over.
        tasks.push(match position > 0 && deadline.expired(waiter) {
            true => ConnectTask::not_started(target),
            false => ConnectTask::start(target),
        });
    }
    tasks
}

/// Runs a command on each session, all at once: one result per session, in order. `command` is
/// given the session's position.
///
/// A command that has not ended by the deadline is a [`RemoteError::Timeout`] and leaves its
/// session Busy, for [`crate::cancel_and_drain`]; so does [`RemoteError::Stopped`].
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
        tasks.push(RunTask::start(session, &command, started));
    }
    let end = drive(waiter, &mut tasks, deadline);
    let after = waiter.now().saturating_sub(started);
    tasks.into_iter().zip(names).map(|(task, name)| task.into_result(end, name, after)).collect()
}

/// A connection that is being made.
pub(super) struct ConnectTask<C: Pq> {
    target: Target,
    /// The caller does not know the place: the label follows libpq.
    place_is_libpqs: bool,
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
        let mut task = Self::not_started(target);
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
        let place_is_libpqs = !target.node.is_known();
        Self { target: target.clone(), place_is_libpqs, stage: Stage::Ended(None) }
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
                    self.settle(&conn);
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

    /// Whether its server needs to be told nothing more to make a session, or there will be none.
    fn is_introduced(&self) -> bool {
        match &self.stage {
            Stage::Waiting { conn, .. } => conn.status() == ConnStatus::Introduced,
            Stage::Ended(_) => true,
        }
    }

    /// The session, once there is one; an error stays.
    fn take_session(&mut self) -> Option<Session<C>> {
        match self.take_result()? {
            Ok(session) => Some(session),
            Err(error) => {
                self.end(Err(error));
                None
            }
        }
    }

    /// The result; where there is none, why the drive left without it.
    fn into_result(mut self, end: DriveEnd, after: Duration) -> Result<Session<C>, RemoteError> {
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
        self.learn_place(&conn);
        match conn.socket() {
            Some(socket) => {
                let interest = Interest { socket, read, write: !read };
                self.stage = Stage::Waiting { conn, interest };
            }
            None => self.fail(&conn),
        }
    }

    /// Learns from libpq where it goes, if the caller left that to libpq.
    fn learn_place(&mut self, conn: &C) {
        if !self.place_is_libpqs {
            return;
        }
        if let Some(Peer { host, port, .. }) = conn.peer() {
            self.target.node = NodeLabel { nodeid: self.target.node.nodeid, host, port };
        }
    }

    /// The place that was reached is the place from now on.
    fn settle(&mut self, conn: &C) {
        self.learn_place(conn);
        if let Some(peer) = conn.peer() {
            self.target.params.keep_place(peer);
        }
    }

    /// Ends with the reason libpq gives.
    fn fail(&mut self, conn: &C) {
        self.learn_place(conn);
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

    fn advance(&mut self, _read: bool, _write: bool, _now: Duration) {
        self.advance();
    }
}

/// A connection that is being made, up to where its server goes on by itself.
struct IntroduceTask<'t, C: Pq>(&'t mut ConnectTask<C>);

impl<C: Pq> Task for IntroduceTask<'_, C> {
    fn interest(&self) -> Option<Interest> {
        match self.0.is_introduced() {
            true => None,
            false => self.0.interest(),
        }
    }

    fn advance(&mut self, _read: bool, _write: bool, _now: Duration) {
        self.0.advance();
    }
}

/// A connection that is being made, and its first command.
struct BeginTask<'c, C: Pq> {
    connecting: ConnectTask<C>,
    command: &'c Command<'c>,
    session: Option<Session<C>>,
    result: Option<Result<Reply, RemoteError>>,
}

impl<'c, C: Pq> BeginTask<'c, C> {
    /// Goes on with a connection; where it is a session already, with its command.
    fn start(connecting: ConnectTask<C>, command: &'c Command<'c>) -> Self {
        let mut task = Self { connecting, command, session: None, result: None };
        task.begin();
        task
    }

    /// Sends the command once there is a session.
    fn begin(&mut self) {
        if let Some(session) = self.connecting.take_session() {
            let session = self.session.insert(session);
            self.result = session.send(self.command).err().map(Err);
            // A connection that broke while sending has no socket to wait with.
            if self.result.is_none() && session.interest().is_none() {
                self.result = session.advance(false);
            }
        }
    }

    /// The result; where there is none, why the drive left without it.
    fn into_result(self, end: DriveEnd, after: Duration) -> Begun<C> {
        let Some(session) = self.session else {
            return Err(match self.connecting.into_result(end, after) {
                Err(error) => error,
                // A session is taken out as soon as it is there.
                Ok(session) => session.closed_error(CONNECT),
            });
        };
        let result =
            self.result.unwrap_or_else(|| Err(unfinished(&session, self.command.name, end, after)));
        Ok((session, result))
    }
}

impl<C: Pq> Task for BeginTask<'_, C> {
    fn interest(&self) -> Option<Interest> {
        match (&self.session, &self.result) {
            (None, _) => self.connecting.interest(),
            (Some(session), None) => session.interest(),
            (Some(_), Some(_)) => None,
        }
    }

    fn advance(&mut self, read: bool, _write: bool, _now: Duration) {
        if let Some(session) = &mut self.session {
            if self.result.is_none() {
                self.result = session.advance(read);
            }
            return;
        }
        self.connecting.advance();
        self.begin();
    }
}
