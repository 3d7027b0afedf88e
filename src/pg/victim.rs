//! Ending the sessions that are in the way of a switch to read-only.

use pgrx::pg_sys;

use super::gate_area::{AREA, MarkedProcess};
use super::gate_lock::Holder;

/// Place of `ProcArrayLock` among the server's own locks, the same in PostgreSQL 15 to 18.
const PROC_ARRAY_LOCK: usize = 4;

/// Ends the process of a transaction that has passed a gate, if it is still in that transaction.
pub fn end_holder(holder: Holder) -> bool {
    holder.pid != 0 && end(holder.pid, |proc| local_xid(proc) == holder.local_xid)
}

/// Ends a marked process, if it is still marked.
pub fn end_marked(process: MarkedProcess) -> bool {
    end(process.pid, |_| AREA.is_marked(process))
}

/// Sends SIGTERM to the process if `still` says so of its entry, and it may be ended.  Under the lock that a process needs to
/// leave the array, so the number cannot have become another's.
fn end(pid: i32, still: impl FnOnce(*mut pg_sys::PGPROC) -> bool) -> bool {
    // SAFETY: the lock is held over reads of shared memory and a signal, none of which can raise an error
    // or wait.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(PROC_ARRAY_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_SHARED);
        let proc = pg_sys::BackendPidGetProcWithLock(pid);
        let hit = !proc.is_null() && still(proc) && !AREA.must_finish(place(proc), pid);
        if hit {
            AREA.note_victim(place(proc), pid);
            // The process leads a group, as pg_terminate_backend() knows, too.
            if libc::kill(-pid, libc::SIGTERM) != 0 {
                libc::kill(pid, libc::SIGTERM);
            }
        }
        pg_sys::LWLockRelease(lock);
        hit
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn local_xid(proc: *mut pg_sys::PGPROC) -> u32 {
    // SAFETY: an entry of the server's array; one aligned word.
    unsafe { std::ptr::read_volatile(&raw const (*proc).lxid) }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn local_xid(proc: *mut pg_sys::PGPROC) -> u32 {
    // SAFETY: an entry of the server's array; one aligned word.
    unsafe { std::ptr::read_volatile(&raw const (*proc).vxid.lxid) }
}

fn place(proc: *mut pg_sys::PGPROC) -> i32 {
    // SAFETY: an entry of the server's array, whose start this is.
    unsafe { proc.offset_from((*pg_sys::ProcGlobal).allProcs) as i32 }
}
