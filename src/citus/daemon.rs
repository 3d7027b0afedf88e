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

/// What the worker runs that the daemon starts, every few seconds anew if need be, to bring the nodes' metadata up to
/// date.  While one is there the daemon starts no other.
pub const METADATA_SYNC: &CStr = c"SyncNodeMetadataToNodesMain";

thread_local! {
    /// They are switched off here.
    static KEPT_OFF: Cell<bool> = const { Cell::new(false) };
}

/// On a read-only node this work would fail at its commit, and the daemon with it, every few seconds anew.
/// So the daemon, for which this is called whenever it commits something, the first time when it has
/// connected to its database, is told to leave it until the node writes again.
///
/// What the configuration files say goes on to be read underneath, so it is what they say by then that counts.
pub fn keep_from_writing(keep: bool) {
    if !keep && !KEPT_OFF.get() {
        return;
    }
    KEPT_OFF.set(keep);
    for name in INTERVALS {
        // Not every release of Citus has all of them.
        if name.to_str().ok().and_then(guc::read).is_some() {
            guc::set_over_files(name, keep.then_some(c"-1"));
        }
    }
}
