//! The part of libpq that is used, as a trait and plain values, so that tests can script it.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::RawFd;

use crate::conninfo::{ConnInfoError, ConnParams};
use crate::reply::ResultSet;

/// Five characters that classify an error of a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// The SQLSTATE a text is, if it is one: five digits or capital letters.
    pub fn parse(text: &str) -> Option<Self> {
        let code: [u8; 5] = text.as_bytes().try_into().ok()?;
        code.iter()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
            .then_some(Self(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // Only ASCII passes `parse`, so this cannot be the empty string.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether it says that the server does not want this user: class 28, invalid authorization.
    pub(super) fn is_refusal(self) -> bool {
        self.0.starts_with(b"28")
    }

    /// Whether it says that the server process is about to end: administrator, crash, shutdown.
    pub(super) fn is_shutdown(self) -> bool {
        self.0.starts_with(b"57P0")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad an error is: whether the session survives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The command failed, the session goes on.
    Error,
    /// The session is over (FATAL).
    Fatal,
    /// The whole server goes down (PANIC).
    Panic,
}

/// An error as a server reported it, or as libpq put it where the server said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Whether the session survives.
    pub severity: Severity,
    /// None if the error is libpq's own.
    pub sqlstate: Option<SqlState>,
    /// The primary message.
    pub message: String,
    /// The detail, if the server sent one.
    pub detail: Option<String>,
    /// The hint, if the server sent one.
    pub hint: Option<String>,
    /// Within what it happened, a line each: the function, the row of a COPY.
    pub context: Option<String>,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnStatus {
    /// Usable.
    Ok,
    /// Failed or lost.
    Bad,
    /// Being made, and no TCP connection yet.
    Reaching,
    /// Being made, and the other side has accepted the TCP connection.
    Answering,
    /// Being made, and the other side has been told for which user and database.
    Introduced,
}

/// Where a connection goes, as libpq has found out from its parameters and its environment. Of
/// several places, the one that is tried or was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    /// The address of it, where there is one and it is known yet.
    pub address: Option<String>,
    /// The port.
    pub port: i32,
}

/// What a connection that is being made needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollStep {
    /// To read from its socket.
    Read,
    /// To write to its socket.
    Write,
    /// Nothing: it is made.
    Ready,
    /// Nothing any more: it failed.
    Failed,
}

/// How far the sending has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All is sent.
    Done,
    /// The socket takes no more for now.
    Pending,
}

/// The transaction a session is in, as the server last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// In none.
    Idle,
    /// A command is under way.
    Active,
    /// In one that works.
    InTransaction,
    /// In one that has failed and only takes a ROLLBACK.
    InError,
    /// The connection is bad.
    Unknown,
}

/// One result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PqResult {
    /// A statement was executed; rows or none.
    Set(ResultSet),
    /// It failed.
    Error(ServerError),
    /// It began to send the rows of a COPY: [`Pq::get_copy_data`] has them.
    CopyOut,
    /// It waits for the rows of a COPY: [`Pq::put_copy_data`] gives them.
    CopyIn,
    /// It began a COPY of another kind, which nothing here can go on with.
    Copy,
    /// libpq reports something it has no business to report in the modes used here.
    Unexpected,
}

/// What `PQgetCopyData` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStep {
    /// A row, which the sink has been given.
    Row,
    /// Nothing yet: more has to be read.
    Pending,
    /// No more rows: the next result says how the COPY ended, which may be an error.
    End,
}

/// A libpq call failed; [`Pq::error_message`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PqFailure;

/// A connection could not even be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The parameters cannot be given to libpq.
    ConnInfo(ConnInfoError),
    /// libpq has no memory for it.
    NoMemory,
}

/// One libpq connection. Dropping it is `PQfinish`, which does not block.
///
/// The methods are libpq's functions, with the same duties: never `get_result` while `is_busy`,
/// the socket to be asked for again after each step of connecting.
pub trait Pq: Sized {
    /// `PQconnectStartParams`, with the database name taken literally and errors made verbose
    /// (that is how the SQLSTATE of a refused connection can be known).
    fn start(params: &ConnParams) -> Result<Self, StartError>;
    /// `PQconnectPoll`.
    fn connect_poll(&mut self) -> PollStep;
    /// `PQsocket`; none if there is no open socket.
    fn socket(&self) -> Option<RawFd>;
    /// `PQstatus`.
    fn status(&self) -> ConnStatus;
    /// `PQhost`, `PQhostaddr` and `PQport`; none where libpq does not get as far as to know.
    fn peer(&self) -> Option<Peer>;
    /// `PQerrorMessage`, raw: several lines, for the caller to clean.
    fn error_message(&self) -> String;
    /// `PQconnectionNeedsPassword`: refused because there was no password to give.
    fn needs_password(&self) -> bool;
    /// `PQtransactionStatus`.
    fn transaction_status(&self) -> TransactionStatus;
    /// `PQbackendPID`: the process at the other end, which may be a pooler's invention.
    fn backend_pid(&self) -> i32;
    /// `PQsetnonblocking(1)`.
    fn set_nonblocking(&mut self) -> Result<(), PqFailure>;
    /// `PQsendQuery`: the simple protocol, several statements allowed.
    fn send_query(&mut self, sql: &CStr) -> Result<(), PqFailure>;
    /// `PQsendQueryParams`: one statement, parameters as text of inferred types.
    fn send_query_params(
        &mut self,
        sql: &CStr,
        params: &[Option<CString>],
    ) -> Result<(), PqFailure>;
    /// `PQflush`.
    fn flush(&mut self) -> Result<Flush, PqFailure>;
    /// `PQconsumeInput`.
    fn consume_input(&mut self) -> Result<(), PqFailure>;
    /// `PQisBusy`: whether `get_result` would block. Parses what has been read.
    fn is_busy(&mut self) -> bool;
    /// `PQgetResult`; none when the command is done.
    fn get_result(&mut self) -> Option<PqResult>;
    /// `PQgetCopyData`, asynchronous, after [`PqResult::CopyOut`]: gives the next row to `sink`.
    fn get_copy_data(&mut self, sink: &mut dyn FnMut(&[u8])) -> CopyStep;
    /// `PQputCopyData`, after [`PqResult::CopyIn`]. What the socket does not take at once waits in libpq's memory,
    /// so [`Pq::flush`] has to have sent all of it before there is more.
    fn put_copy_data(&mut self, data: &[u8]) -> Result<(), PqFailure>;
    /// `PQputCopyEnd`: all rows have been given, and the next result says how the COPY ended.
    fn put_copy_end(&mut self) -> Result<(), PqFailure>;
    /// What the server said, unasked, before it closed an idle session. libpq hands such an error
    /// to the notice receiver; it is kept there until taken.
    fn take_last_words(&mut self) -> Option<ServerError>;
}
