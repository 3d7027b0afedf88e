//! One error type for the crate. Every message names the server and what was asked of it, and ends
//! with the last lines of that server's log: a failed test on another machine is understood from
//! its output alone.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// How many lines of a server's log an error carries.
const LOG_TAIL_LINES: usize = 25;

/// Everything that can go wrong while servers are built, driven and looked at.
///
/// The texts are boxed to keep the type small: it is part of every result.
#[derive(thiserror::Error)]
pub enum Error {
    /// The machine lacks something that the tests need.
    #[error("{0}")]
    Environment(String),

    /// A file or a socket.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as "cannot …".
        action: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A program of PostgreSQL's did not do what it was started for.
    #[error("{server}: {command} failed ({outcome}){output}{log}")]
    Command {
        /// The server it was run for.
        server: Box<str>,
        /// The program with its arguments.
        command: Box<str>,
        /// Its exit status, or why there is none.
        outcome: Box<str>,
        /// What it printed, indented, with a line break in front.
        output: Box<str>,
        /// The server's last log lines, likewise.
        log: Box<str>,
    },

    /// A server is not in the state that was asked for.
    #[error("{server}: {what}{log}")]
    Server {
        /// The server's name.
        server: Box<str>,
        /// What is wrong.
        what: Box<str>,
        /// Its last log lines.
        log: Box<str>,
    },

    /// A statement, or the connection for it, failed.
    #[error("{server}: {statement}: {message}{log}")]
    Sql {
        /// The server it was sent to.
        server: Box<str>,
        /// The statement, cut to a readable length.
        statement: Box<str>,
        /// The server's answer with detail, hint and SQLSTATE.
        message: Box<str>,
        /// The SQLSTATE, when the server sent one.
        sqlstate: Option<Box<str>>,
        /// The server's last log lines.
        log: Box<str>,
    },

    /// An awaited state did not come.
    #[error("waited {waited:.1?} in vain for {what}")]
    Timeout {
        /// What was awaited, with what was seen last.
        what: Box<str>,
        /// For how long.
        waited: Duration,
    },
}

impl std::fmt::Debug for Error {
    /// The message itself: this is what the test runner prints of a test that returns an error, and
    /// the log in it is to have its line breaks.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Error {
    /// The SQLSTATE that the server sent, for tests that expect a certain refusal.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Sql { sqlstate, .. } => sqlstate.as_deref(),
            Error::Environment(_)
            | Error::Io { .. }
            | Error::Command { .. }
            | Error::Server { .. }
            | Error::Timeout { .. } => None,
        }
    }
}

/// Puts a path and an intention to an I/O error.
pub(crate) trait IoContext<T> {
    /// `action` reads as "cannot …".
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.as_ref().to_owned(), source })
    }
}

/// A PostgreSQL error in full. The `Display` of the `postgres` crate leaves out the detail, the hint
/// and the SQLSTATE.
pub fn describe(error: &postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                let _ = write!(text, ": {inner_text}");
            }
            source = inner.source();
        }
        return text;
    };
    let mut text = format!("{}: {} [{}]", db.severity(), db.message(), db.code().code());
    if let Some(detail) = db.detail() {
        let _ = write!(text, "\n  DETAIL: {detail}");
    }
    if let Some(hint) = db.hint() {
        let _ = write!(text, "\n  HINT: {hint}");
    }
    text
}

/// The last lines of a log file, indented, with a line break in front; empty when there are none.
pub(crate) fn log_tail(path: &Path) -> String {
    let Ok(bytes) = std::fs::read(path) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    if tail.is_empty() {
        return String::new();
    }
    format!("\n  end of its log:{}", indent(&tail.join("\n")))
}

/// Text indented below a message, with a line break in front; empty for blank text.
pub(crate) fn indent(text: &str) -> String {
    let text = text.trim_end().trim_start_matches('\n');
    if text.is_empty() {
        return String::new();
    }
    text.lines().fold(String::new(), |mut all, line| {
        let _ = write!(all, "\n    {line}");
        all
    })
}

/// A statement as it appears in a message.
pub(crate) fn shorten(sql: &str) -> String {
    const LONGEST: usize = 300;
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}
