//! An error on its way through shared memory, from a background worker to whoever asks.

use super::text::Text;
use crate::report::Report;

/// What a [`Report`] says, as far as there is room for it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Failure {
    /// SQLSTATE in the server's packed form; 0 where there is no failure.
    pub sqlstate: i32,
    /// One line.
    pub message: Text<512>,
    /// The facts.
    pub detail: Text<1024>,
    /// What to do.
    pub hint: Text<512>,
}

impl Failure {
    /// No failure.
    pub const NONE: Self =
        Self { sqlstate: 0, message: Text::EMPTY, detail: Text::EMPTY, hint: Text::EMPTY };

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.sqlstate != 0
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self {
            sqlstate: report.sqlstate as i32,
            message: Text::new(&report.message),
            detail: report.detail.as_deref().map_or(Text::EMPTY, Text::new),
            hint: report.hint.as_deref().map_or(Text::EMPTY, Text::new),
        }
    }
}

impl From<&Failure> for Report {
    fn from(failure: &Failure) -> Self {
        Self {
            sqlstate: pgrx::PgSqlErrorCode::from(failure.sqlstate),
            message: failure.message.as_str().to_owned(),
            detail: failure.detail.non_empty().map(str::to_owned),
            hint: failure.hint.non_empty().map(str::to_owned),
        }
    }
}
