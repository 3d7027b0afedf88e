//! Commands and their answers, as plain values.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::RemoteError;
use crate::node::NodeLabel;

/// Something to run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// A short label for messages, such as `lock catalogs`: the SQL itself is for no message.
    pub name: &'static str,
    /// The SQL. Without parameters it goes by the simple protocol and may be several statements.
    pub sql: Cow<'a, str>,
    /// Parameters `$1`, `$2`, … as text; none is NULL.
    pub params: Vec<Option<String>>,
    /// Whether rows that a COPY among its statements sends are kept; else a COPY is an error.
    pub keeps_copies: bool,
}

impl<'a> Command<'a> {
    /// A command without parameters.
    pub fn new(name: &'static str, sql: impl Into<Cow<'a, str>>) -> Self {
        Self { name, sql: sql.into(), params: Vec::new(), keeps_copies: false }
    }

    /// The same, whose statements may be a `COPY … TO STDOUT` in text format of few rows: those are kept in its
    /// [`ResultSet`], which names no columns.
    #[must_use]
    pub fn with_copies(mut self) -> Self {
        self.keeps_copies = true;
        self
    }

    /// The same with one more parameter.
    #[must_use]
    pub fn with_param(mut self, value: impl Into<String>) -> Self {
        self.params.push(Some(value.into()));
        self
    }
}

/// What one statement gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultSet {
    /// Column names; empty for a statement that returns no rows, and for a COPY.
    pub columns: Vec<String>,
    /// Values as text, none for NULL; those of a COPY as it escapes them.
    pub rows: Vec<Vec<Option<String>>>,
    /// The server's word for what was done, such as `SELECT 1`; empty for an empty statement.
    pub command_tag: String,
    /// Rows returned or changed, zero where the tag has no number.
    pub affected: u64,
}

impl ResultSet {
    /// The value of a named column in a row; none if it is NULL or there is no such value.
    pub fn value(&self, row: usize, column: &str) -> Option<&str> {
        let position = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.get(position)?.as_deref()
    }
}

/// The whole answer to a command, from whom and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The node that answered.
    pub node: NodeLabel,
    /// The command's label.
    pub command: &'static str,
    /// One per statement.
    pub sets: Vec<ResultSet>,
    /// How long after the command was given to all nodes this one's answer was complete, where a
    /// [`crate::run_all`] waited for it.
    pub took: Duration,
}

impl Reply {
    /// What the last statement gave; an error if there was none.
    pub fn last_set(&self) -> Result<&ResultSet, RemoteError> {
        self.sets.last().ok_or_else(|| self.unexpected("no result"))
    }

    /// The one row of the last statement. No row, or several, is an error: "nothing found" must
    /// not pass for "nothing there".
    pub fn single_row(&self) -> Result<&[Option<String>], RemoteError> {
        match self.last_set()?.rows.as_slice() {
            [row] => Ok(row),
            [] => Err(self.unexpected("no row where one was expected")),
            _ => Err(self.unexpected("several rows where one was expected")),
        }
    }

    /// The one value, not NULL, of the one row of the last statement.
    pub fn single_value(&self) -> Result<&str, RemoteError> {
        match self.single_row()? {
            [Some(value)] => Ok(value),
            [None] => Err(self.unexpected("NULL where a value was expected")),
            _ => Err(self.unexpected("not one column where one was expected")),
        }
    }

    /// The single value as something that can be parsed from text.
    pub fn parse_single<T: std::str::FromStr>(&self) -> Result<T, RemoteError> {
        self.single_value()?.parse().map_err(|_| self.unexpected("a value of another type"))
    }

    /// An error that says this answer is not of the form the caller relies on.
    pub fn unexpected(&self, what: &'static str) -> RemoteError {
        RemoteError::Unexpected { node: self.node.clone(), command: self.command, what }
    }
}
