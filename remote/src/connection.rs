//! A session on a node: a connection, and the certainty of what state it is in.

use std::ffi::{CString, NulError};
use std::fmt;
use std::time::Duration;

use crate::conninfo::ConnParams;
use crate::deadline::Deadline;
use crate::drive::{DriveEnd, Task, drive};
use crate::error::RemoteError;
use crate::exchange::{Exchange, Outcome};
use crate::ffi::LibPq;
use crate::node::NodeLabel;
use crate::pq::{ConnStatus, Pq, PqFailure, ServerError, TransactionStatus};
use crate::reply::{Command, Reply};
use crate::text;
use crate::wait::{Interest, Waiter};
use crate::watch::IDLE_HOLD;

/// What a session can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It takes a command.
    Idle,
    /// It waits for the answer to one.
    Busy,
    /// It has no connection any more and never will.
    Broken,
}

/// The connection, and what it is doing.
enum Link<C> {
    /// Nothing.
    Idle(C),
    /// A command.
    Busy(C, Exchange),
    /// Closed, and why.
    Broken(String),
}

/// A session on one node. Dropping it closes the connection, in any state, without blocking; the
/// server ends its transaction when it notices.
///
/// It costs one file descriptor and about 40 kB here: libpq's two buffers of 16 kB, of which only
/// what is used becomes resident, and some 3 kB of parameters and strings. Measured with 150
/// sessions: 18 kB resident for each, 63 kB with TLS. Plus whatever answer is being collected. On
/// the node it costs a server process.
pub struct Session<C: Pq = LibPq> {
    node: NodeLabel,
    params: ConnParams,
    link: Link<C>,
    server_pid: Option<i32>,
}

impl<C: Pq> Session<C> {
    /// Takes over a connection that has just been made and is in non-blocking mode.
    pub(super) fn established(node: NodeLabel, params: ConnParams, conn: C) -> Self {
        Self { node, params, link: Link::Idle(conn), server_pid: None }
    }

    /// The node at the other end.
    pub fn node(&self) -> &NodeLabel {
        &self.node
    }

    /// What a second connection to the same place needs: the parameters it was connected with, and the address
    /// that it has come to, so that no name is looked up again.
    pub fn params(&self) -> &ConnParams {
        &self.params
    }

    /// What it can be used for.
    pub fn state(&self) -> SessionState {
        match self.link {
            Link::Idle(_) => SessionState::Idle,
            Link::Busy(..) => SessionState::Busy,
            Link::Broken(_) => SessionState::Broken,
        }
    }

    /// The transaction it is in, as the server last said.
    pub fn transaction_status(&self) -> TransactionStatus {
        match &self.link {
            Link::Idle(conn) | Link::Busy(conn, _) => conn.transaction_status(),
            Link::Broken(_) => TransactionStatus::Unknown,
        }
    }

    /// The server process, if it has been asked for its pid (by [`Session::identify`], or by a
    /// command of the caller's and [`Session::set_server_pid`]).
    pub fn server_pid(&self) -> Option<i32> {
        self.server_pid
    }

    /// Notes the pid that the server process itself reported (`pg_backend_pid()`), which cancelling
    /// uses. Behind a pooler it is only true within the transaction in which it was asked for.
    pub fn set_server_pid(&mut self, pid: i32) {
        self.server_pid = Some(pid);
    }

    /// The pid in the connection's own startup data: the truth if the server was reached directly,
    /// an invented number behind a pooler.
    pub fn startup_pid(&self) -> Option<i32> {
        match &self.link {
            Link::Idle(conn) | Link::Busy(conn, _) => {
                Some(conn.backend_pid()).filter(|pid| *pid > 0)
            }
            Link::Broken(_) => None,
        }
    }

    /// Asks the server process for its pid and notes it.
    pub fn identify<W: Waiter + ?Sized>(
        &mut self,
        waiter: &mut W,
        deadline: Deadline,
    ) -> Result<i32, RemoteError> {
        let command = Command::new("identify session", "SELECT pg_catalog.pg_backend_pid()");
        let pid = self.run(waiter, command, deadline)?.parse_single()?;
        self.set_server_pid(pid);
        Ok(pid)
    }

    /// Runs a command and waits for its whole answer. After [`RemoteError::Timeout`] and
    /// [`RemoteError::Stopped`] the session is Busy.
    pub fn run<W: Waiter + ?Sized>(
        &mut self,
        waiter: &mut W,
        command: Command<'_>,
        deadline: Deadline,
    ) -> Result<Reply, RemoteError> {
        let started = waiter.now();
        let mut tasks = [RunTask::start(self, &command, started)];
        let end = drive(waiter, &mut tasks, deadline);
        let after = waiter.now().saturating_sub(started);
        let [task] = tasks;
        task.into_result(end, command.name, after)
    }

    /// Sends a command and does not wait: the session is Busy, and [`crate::watch()`] or
    /// [`crate::cancel_and_drain`] gives the answer.
    pub fn send(&mut self, command: &Command<'_>) -> Result<(), RemoteError> {
        let name = command.name;
        let conn = match &mut self.link {
            Link::Idle(conn) => conn,
            Link::Busy(_, exchange) => {
                return Err(RemoteError::StillBusy {
                    node: self.node.clone(),
                    command: name,
                    running: exchange.command,
                });
            }
            Link::Broken(_) => return Err(self.closed_error(name)),
        };
        let Ok((sql, params)) = to_c(command) else {
            return Err(RemoteError::ZeroByte { node: self.node.clone(), command: name });
        };
        let sent = match params.as_slice() {
            [] => conn.send_query(&sql),
            params => conn.send_query_params(&sql, params),
        };
        match sent {
            Ok(()) => {
                let mut exchange = Exchange::new(name);
                exchange.keeps = command.keeps_copies;
                // Out with it now, so that all nodes have their command before anybody waits.
                exchange.push(conn);
                self.become_busy(exchange);
                Ok(())
            }
            Err(PqFailure) if conn.status() == ConnStatus::Bad => {
                let last_words = conn.take_last_words();
                Err(self.lost(name, last_words))
            }
            Err(PqFailure) => {
                let node = self.node.clone();
                self.break_off(format!("not enough memory for {name}"));
                Err(RemoteError::Resources { node, command: name })
            }
        }
    }

    /// Says that the command under way may be a COPY that sends rows.
    pub(super) fn expect_rows(&mut self) {
        if let Link::Busy(_, exchange) = &mut self.link {
            exchange.copies = true;
        }
    }

    /// Says that the command under way may be a COPY that takes rows.
    pub(super) fn will_feed(&mut self) {
        if let Link::Busy(_, exchange) = &mut self.link {
            exchange.feeds = true;
        }
    }

    /// Whether the server waits for rows, and has all that it was given before.
    pub(super) fn wants_rows(&self) -> bool {
        matches!(&self.link, Link::Busy(_, exchange) if exchange.wants_rows() && !exchange.is_sending())
    }

    /// Gives rows, or their end where there are none.
    pub(super) fn feed(&mut self, rows: &[u8]) -> bool {
        match &mut self.link {
            Link::Busy(conn, exchange) => exchange.feed(conn, rows),
            Link::Idle(_) | Link::Broken(_) => false,
        }
    }

    /// What a wait for this session is for; none if it has nothing to wait with.
    pub(super) fn interest(&self) -> Option<Interest> {
        let (conn, write) = match &self.link {
            Link::Idle(conn) => (conn, false),
            Link::Busy(conn, exchange) => (conn, exchange.is_sending()),
            Link::Broken(_) => return None,
        };
        conn.socket().map(|socket| Interest { socket, read: true, write })
    }

    /// Whether a command is under way of which part has not been sent.
    pub(super) fn is_sending(&self) -> bool {
        matches!(&self.link, Link::Busy(_, exchange) if exchange.is_sending())
    }

    /// Goes on with the command that is under way, without waiting. Gives its end once it has one.
    ///
    /// Rows of a COPY that nobody takes any more, as after a cancel, are thrown away.
    pub(super) fn advance(&mut self, read: bool) -> Option<Result<Reply, RemoteError>> {
        self.advance_into(read, &mut |_| ())
    }

    /// The same, with somebody who takes the rows of a COPY.
    pub(super) fn advance_into(
        &mut self,
        read: bool,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Option<Result<Reply, RemoteError>> {
        let Link::Busy(conn, exchange) = &mut self.link else {
            return None;
        };
        let command = exchange.command;
        let outcome = exchange.advance(conn, read, sink)?;
        let node = self.node.clone();
        Some(match outcome {
            Outcome::Done(sets) => {
                self.become_idle();
                Ok(Reply { node, command, sets, took: Duration::ZERO })
            }
            Outcome::Failed(error) => {
                self.become_idle();
                Err(RemoteError::Query { node, command, error: Box::new(error) })
            }
            Outcome::Lost(last_words) => Err(self.lost(command, last_words)),
            Outcome::Unusable(what) => {
                self.break_off(format!("unexpected answer to {command}: {what}"));
                Err(RemoteError::Unexpected { node, command, what })
            }
        })
    }

    /// Looks at what came in on an idle session: notices and changed parameters are nothing, an
    /// error or the end of file is the end.
    pub(super) fn check_idle(&mut self) -> Result<(), RemoteError> {
        let Link::Idle(conn) = &mut self.link else {
            return Ok(());
        };
        let read = conn.consume_input();
        // This parses what was read; the server's last words come out as a notice.
        conn.is_busy();
        let last_words = conn.take_last_words();
        if read.is_ok() && last_words.is_none() && conn.status() == ConnStatus::Ok {
            return Ok(());
        }
        Err(self.lost(IDLE_HOLD, last_words))
    }

    /// Closes the connection for good and gives the error that says why it was lost.
    fn lost(&mut self, command: &'static str, last_words: Option<ServerError>) -> RemoteError {
        let (sqlstate, message) = match (last_words, &self.link) {
            (Some(error), _) => (error.sqlstate, text::one_line(&error.message)),
            (None, Link::Idle(conn) | Link::Busy(conn, _)) => {
                text::loss(&conn.error_message(), &self.params)
            }
            (None, Link::Broken(why)) => (None, why.clone()),
        };
        self.link = Link::Broken(message.clone());
        RemoteError::Lost { node: self.node.clone(), command, message, sqlstate }
    }

    /// Closes the connection for good.
    pub(super) fn break_off(&mut self, why: String) {
        self.link = Link::Broken(why);
    }

    /// The error of a command that finds the session closed.
    pub(super) fn closed_error(&self, command: &'static str) -> RemoteError {
        let why = match &self.link {
            Link::Broken(why) => why.clone(),
            Link::Idle(_) | Link::Busy(..) => String::new(),
        };
        RemoteError::Closed { node: self.node.clone(), command, why }
    }

    /// From Idle to Busy.
    fn become_busy(&mut self, exchange: Exchange) {
        self.change(|link| match link {
            Link::Idle(conn) => Link::Busy(conn, exchange),
            other => other,
        });
    }

    /// From Busy to Idle.
    fn become_idle(&mut self) {
        self.change(|link| match link {
            Link::Busy(conn, _) => Link::Idle(conn),
            other => other,
        });
    }

    /// Replaces the link by what is made of it; if that unwinds, it stays Broken.
    fn change(&mut self, make: impl FnOnce(Link<C>) -> Link<C>) {
        let link = std::mem::replace(&mut self.link, Link::Broken("given up".to_owned()));
        self.link = make(link);
    }
}

impl<C: Pq> fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} {:?})", self.node, self.state())
    }
}

/// A command's text and parameters as C strings.
fn to_c(command: &Command<'_>) -> Result<(CString, Vec<Option<CString>>), NulError> {
    let sql = CString::new(command.sql.as_bytes())?;
    let params = command
        .params
        .iter()
        .map(|param| param.as_deref().map(CString::new).transpose())
        .collect::<Result<_, _>>()?;
    Ok((sql, params))
}

/// Why a drive left without the end of a command.
pub(super) fn unfinished<C: Pq>(
    session: &Session<C>,
    command: &'static str,
    end: DriveEnd,
    after: Duration,
) -> RemoteError {
    let node = session.node().clone();
    match end {
        DriveEnd::Stopped => RemoteError::Stopped { node, command },
        DriveEnd::TimedOut | DriveEnd::Finished => RemoteError::Timeout { node, command, after },
    }
}

/// A command on a session, from sending to its end.
pub(super) struct RunTask<'a, C: Pq> {
    session: &'a mut Session<C>,
    started: Duration,
    result: Option<Result<Reply, RemoteError>>,
}

impl<'a, C: Pq> RunTask<'a, C> {
    /// Sends the command. If that fails, the task is finished.
    pub(super) fn start(
        session: &'a mut Session<C>,
        command: &Command<'_>,
        started: Duration,
    ) -> Self {
        let result = session.send(command).err().map(Err);
        let mut task = Self { session, started, result };
        // A connection that broke while sending has no socket to wait with.
        if task.result.is_none() && task.session.interest().is_none() {
            task.result = task.session.advance(false);
        }
        task
    }

    /// The result; where there is none, why the drive left without it.
    pub(super) fn into_result(
        self,
        end: DriveEnd,
        command: &'static str,
        after: Duration,
    ) -> Result<Reply, RemoteError> {
        self.result.unwrap_or_else(|| Err(unfinished(self.session, command, end, after)))
    }
}

impl<C: Pq> Task for RunTask<'_, C> {
    fn interest(&self) -> Option<Interest> {
        match self.result {
            Some(_) => None,
            None => self.session.interest(),
        }
    }

    fn advance(&mut self, read: bool, _write: bool, now: Duration) {
        if self.result.is_none() {
            self.result = self.session.advance(read);
            if let Some(Ok(reply)) = &mut self.result {
                reply.took = now.saturating_sub(self.started);
            }
        }
    }
}
