//! Whether a start of the server has to look for interrupted splits: a worker for that takes one of few places, and on
//! most servers there is never a split.
//!
//! The registry is the truth, and this file only says that there is something to look for: it is there before a split
//! changes anything, and is taken away by a start that has found nothing.  A standby of the coordinator does not have it, so
//! whoever starts as a standby looks when he is promoted.  After a crash without a new start the postmaster starts the split's
//! own worker again.

use std::path::Path;

use pgrx::PgSqlErrorCode;

use super::error::CloneError;
use crate::fence::FenceError;
use crate::pg::durable_file::DurableFile;
use crate::report::Report;

const FILE: DurableFile =
    DurableFile { name: "citus_fence.clone_splits", temporary: "citus_fence.clone_splits.tmp" };
/// These say that the server starts as a standby, or recovers to some point.
const SIGNALS: [&str; 2] = ["standby.signal", "recovery.signal"];

/// Whether there may be something to look for.  In the data directory, as every process of the server is.
pub fn is_there() -> bool {
    // What cannot be read may be there.
    !matches!(FILE.read(), Ok(None)) || SIGNALS.iter().any(|signal| Path::new(signal).exists())
}

/// Has the next start look; on disk when this returns.
pub fn note() -> Result<(), CloneError> {
    let text = "A clone split was begun here: see citus_clone_status() of the databases.\n";
    FILE.write(text).map_err(|failed| {
        let message = format!("could not {} file \"{}\"", failed.what, failed.file);
        let report = Report::new(PgSqlErrorCode::ERRCODE_IO_ERROR, message);
        CloneError::Fence(FenceError::Local(report.detail(format!("{}.", failed.why))))
    })
}

/// There is nothing to look for any more.
pub fn forget() {
    // Should it stay, the next start looks once more.
    let _ = FILE.remove();
}
