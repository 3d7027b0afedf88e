//! Settings of Citus that others go by.

use std::time::Duration;

use crate::pg::guc;

/// How often Citus looks for distributed deadlocks; `None` where it does not.
pub fn deadlock_search_interval() -> Option<Duration> {
    let factor = guc::read_number("citus.distributed_deadlock_detection_factor")?;
    let deadlock_timeout_ms = guc::read_number("deadlock_timeout")?;
    (factor > 0.0).then(|| Duration::from_millis((factor * deadlock_timeout_ms).max(50.0) as u64))
}
