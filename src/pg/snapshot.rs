//! Snapshots for looking at catalogs.

use pgrx::pg_sys;

/// Runs `body` under a snapshot taken now, so that it sees everything committed so far, whatever the
/// transaction has seen before and whichever isolation level is the default.
pub fn with_latest<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the caller runs in a transaction.  If the body raises an error the abort pops the snapshot.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) }
    let result = body();
    // SAFETY: pushed above; the body leaves the stack as it was.
    unsafe { pg_sys::PopActiveSnapshot() }
    result
}
