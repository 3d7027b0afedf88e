//! Citus' maintenance daemon, and the worker that it starts for the metadata of other nodes.

use std::cell::Cell;
use std::ffi::CStr;

use crate::pg::guc;

/// How often it does what writes.
const INTERVALS: [&CStr; 3] = [
    c"citus.background_task_queue_interval",
    c"citus.defer_shard_delete_interval",
    c"citus.recover_2pc_interval",
];

/// How often it looks for deadlocks, in units of `deadlock_timeout`; -1 for never.
const SEARCH: &CStr = c"citus.distributed_deadlock_detection_factor";
/// Often enough that it takes its settings back soon, and no oftener.
const SELDOM: &CStr = c"5";

/// What the worker runs that the daemon starts, every few seconds anew if need be, to bring the nodes' metadata up to
/// date.  While one is there the daemon starts no other.
pub const METADATA_SYNC: &CStr = c"SyncNodeMetadataToNodesMain";

/// Never.
const OFF: &CStr = c"-1";
/// As good as never, and the longest that Citus takes for each: a week.
const LONGEST: &CStr = c"604800000";

thread_local! {
    /// They are kept off here.
    static KEPT_OFF: Cell<bool> = const { Cell::new(false) };
    /// Whether this process has committed before.
    static IS_AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// Whether a setting says never.
fn is_off(value: String) -> bool {
    value.parse::<f64>().is_ok_and(|factor| factor < 0.0)
}

/// On a read-only node this work would fail at its commit, and the daemon with it, every few seconds anew.
/// So the daemon, for which this is called whenever it commits something, the first time when it has
/// connected to its database, is told to leave it until the node writes again.
///
/// What the configuration files say goes on to be read underneath, so it is what they say by then that counts.
///
/// With a commit in the middle of its round the daemon then waits for no longer than the interval of what it has just
/// done: -1 there is for ever, also past its own end when that has just been asked for, and the server would not stop.
/// So -1 is for a daemon that has done nothing yet, for which everything is due; a later one is given the longest.
///
/// It hears that the node writes again when it commits something: its search for deadlocks, every few seconds.  Where
/// that is switched off as well, nothing would be left but a look at the nodes once a minute, so there it searches
/// for as long as the rest is left.
pub fn keep_from_writing(keep: bool) {
    let is_at_work = IS_AT_WORK.replace(true);
    if keep == KEPT_OFF.get() {
        return;
    }
    KEPT_OFF.set(keep);
    let off = if is_at_work { LONGEST } else { OFF };
    if !keep || SEARCH.to_str().ok().and_then(guc::read).is_some_and(is_off) {
        guc::set_over_files(SEARCH, keep.then_some(SELDOM));
    }
    for name in INTERVALS {
        // Not every release of Citus has all of them.
        if name.to_str().ok().and_then(guc::read).is_some() {
            guc::set_over_files(name, keep.then_some(off));
        }
    }
}
