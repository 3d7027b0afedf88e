//! Messages to the client and to the server's log.

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;

use super::names;
use crate::report::Report;

/// Has the server's errors go to clients as they were raised.  Where the environment has `RUST_BACKTRACE`, as images of
/// containers do, each would be given a trace as its detail.  Called once, when the library is loaded.
pub fn without_traces() {
    const NAME: &str = "RUST_LIB_BACKTRACE";
    let former = std::env::var_os(NAME);
    // SAFETY: the process has one thread.
    unsafe { std::env::set_var(NAME, "0") };
    // Whether traces are wanted is looked up the first time, and remembered.
    let _ = std::backtrace::Backtrace::capture();
    // SAFETY: as above.
    unsafe {
        match former {
            Some(value) => std::env::set_var(NAME, value),
            None => std::env::remove_var(NAME),
        }
    }
}

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
        error = error.set_hint(names::as_reached(hint).into_owned());
    }
    error.report(level);
}

/// A line in the server's log, for the operator who reads it later.
pub fn log(message: &str) {
    pgrx::log!("{message}");
}
