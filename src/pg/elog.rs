//! Messages to the client and to the server's log.

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;

use crate::report::Report;

/// Raises the report as an ERROR.  A SQLSTATE from another server that PostgreSQL itself has no name for
/// becomes XX000.
pub fn raise(report: &Report) -> ! {
    emit(PgLogLevel::ERROR, report);
    unreachable!("an ERROR does not return")
}

/// Raises the report as a FATAL error: the session ends.
pub fn end(report: &Report) -> ! {
    emit(PgLogLevel::FATAL, report);
    unreachable!("a FATAL error does not return")
}

/// Sends the report to the client, or in a background worker to the log.
pub fn emit(level: PgLogLevel, report: &Report) {
    let mut error =
        ErrorReport::new(report.sqlstate, report.message.clone(), env!("CARGO_PKG_NAME"));
    if let Some(detail) = &report.detail {
        error = error.set_detail(detail.clone());
    }
    if let Some(hint) = &report.hint {
        error = error.set_hint(hint.clone());
    }
    error.report(level);
}

/// A line in the server's log, for the operator who reads it later.
pub fn log(message: &str) {
    pgrx::log!("{message}");
}
