//! Ending the sessions that are in the way of a switch to read-only.

use super::area::{AREA, MarkedProcess};
use crate::pg::numbered_lock::Holder;
use crate::pg::process::{self, ProcessId};

/// Ends the process of a transaction that has passed a gate, if it is still in that transaction.  Who holds the lock
/// and has not passed is about to see that the node is closed, and to give it back: he has not written, and stays.
/// `spares_workers`: background workers of other extensions are not ended.
pub fn end_holder(holder: Holder, spares_workers: bool) -> bool {
    holder.pid != 0
        && end(holder.pid, |process, local_xid| {
            local_xid == holder.local_xid
                && AREA.has_passed(process, local_xid)
                && !(spares_workers && AREA.is_worker(process))
        })
}

/// Ends a marked process, if it is still marked.
pub fn end_marked(process: MarkedProcess) -> bool {
    end(process.pid, |_, _| AREA.is_marked(process))
}

/// Tells it to end if `still` says so of it, and it may be ended.  It is to know why.
fn end(pid: i32, still: impl FnOnce(ProcessId, u32) -> bool) -> bool {
    process::terminate_if(pid, |process, local_xid| {
        let hit = still(process, local_xid) && !AREA.must_finish(process.place, pid);
        if hit {
            AREA.note_victim(process.place, pid);
        }
        hit
    })
}
