//! Settings for tests: to stop a commit at a known point, so that something can be done to it there.

use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};

use crate::pg::stoppable::serve;
use crate::pg::wait;
use remote::{Deadline, Waiter};

/// Where a two-phase commit can be held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum PausePoint {
    /// Nowhere.
    #[name = c"none"]
    None,
    /// The commit records are written, nothing is prepared.
    #[name = c"after_record"]
    AfterRecord,
    /// All is prepared, nothing is committed.
    #[name = c"after_prepare"]
    AfterPrepare,
    /// This node has committed, the prepared transactions have not.
    #[name = c"after_commit"]
    AfterCommit,
}

/// `pg_dist.commit_delay`, in ms.
static COMMIT_DELAY: GucSetting<i32> = GucSetting::<i32>::new(0);
/// `pg_dist.pause_at`.
static PAUSE_AT: GucSetting<PausePoint> = GucSetting::<PausePoint>::new(PausePoint::None);

/// Defines the settings.
pub fn init() {
    GucRegistry::define_int_guc(
        c"pg_dist.commit_delay",
        c"How long two-phase commits of the embedded catalog stop at pg_dist.pause_at.",
        c"For tests.",
        &COMMIT_DELAY,
        0,
        600_000,
        GucContext::Userset,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_enum_guc(
        c"pg_dist.pause_at",
        c"Where two-phase commits of the embedded catalog stop for pg_dist.commit_delay.",
        c"For tests.",
        &PAUSE_AT,
        GucContext::Userset,
        GucFlags::default(),
    );
}

/// Stops here if this is the point.  Before the commit the stop can be interrupted, after it not.
pub fn pause(point: PausePoint) {
    let delay = Duration::from_millis(COMMIT_DELAY.get().max(0).unsigned_abs().into());
    if PAUSE_AT.get() != point || delay.is_zero() {
        return;
    }
    if point == PausePoint::AfterCommit {
        return std::thread::sleep(delay);
    }
    let mut waiter = wait::interruptible();
    let deadline = Deadline::after(&waiter, delay);
    while !deadline.expired(&waiter) {
        waiter.wait(&[], deadline.remaining(&waiter));
        serve();
    }
}
