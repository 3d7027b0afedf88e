//! Processes of this server, named by place and pid together.

use pgrx::pg_sys;

/// A server process, by its place in the array of processes *and* its pid: a recycled pid in another
/// place, or a place with another pid, is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessId {
    /// Index in the server's array of processes.
    pub place: i32,
    /// Operating system's number.
    pub pid: i32,
}

/// The process that runs this.  It has a negative place before it is in the array, and when it has left it.
pub fn me() -> ProcessId {
    ProcessId {
        place: my_place(),
        // SAFETY: set once at process start.
        pid: unsafe { pg_sys::MyProcPid },
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn my_place() -> i32 {
    // SAFETY: null, or the entry of this process.
    unsafe { pg_sys::MyProc.as_ref().map_or(-1, |proc| proc.pgprocno) }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn my_place() -> i32 {
    // SAFETY: set once at process start; negative before.
    unsafe { pg_sys::MyProcNumber }
}

/// Whether the server runs for `pg_upgrade`.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: set at the server's start.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether that very process is still attached to shared memory.
pub fn is_alive(process: ProcessId) -> bool {
    entry(process).is_some()
}

/// Sets the process' latch, if it is still there.  To wake a process once too often is harmless.
pub fn wake(process: ProcessId) {
    if let Some(proc) = entry(process) {
        // SAFETY: entry() gave a valid entry of the array, which lives as long as the server; a latch
        // of an entry that was just given up may be set without harm.
        unsafe { pg_sys::SetLatch(&raw mut (*proc).procLatch) }
    }
}

/// Asks the process to break off what it waits for: SIGINT, as `pg_cancel_backend` sends it.
pub fn interrupt(process: ProcessId) {
    if is_alive(process) {
        // SAFETY: sending a signal touches no memory.  Between the look and the signal the pid could
        // only be recycled if the process ended in these microseconds; SIGINT cancels a statement.
        unsafe {
            libc::kill(process.pid, libc::SIGINT);
        }
    }
}

/// Has the process with that pid end (SIGTERM, as `pg_terminate_backend` sends it), if there is one and `still`
/// says so of it and of the number of its transaction among its own.
///
/// `still` is asked under the lock that a process needs to leave the array, so the pid cannot have become
/// another's.  It must raise nothing and wait for nothing.
pub fn terminate_if(pid: i32, still: impl FnOnce(ProcessId, u32) -> bool) -> bool {
    // SAFETY: the lock is held over reads of shared memory and a signal, none of which can raise an error
    // or wait.
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(PROC_ARRAY_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_SHARED);
        let proc = pg_sys::BackendPidGetProcWithLock(pid);
        let hit =
            !proc.is_null() && still(ProcessId { place: place_of(proc), pid }, local_xid(proc));
        // The process leads a group, as pg_terminate_backend() knows, too.
        if hit && libc::kill(-pid, libc::SIGTERM) != 0 {
            libc::kill(pid, libc::SIGTERM);
        }
        pg_sys::LWLockRelease(lock);
        hit
    }
}

/// Place of `ProcArrayLock` among the server's own locks, the same in PostgreSQL 15 to 18.
const PROC_ARRAY_LOCK: usize = 4;

/// The number of its transaction among those of that process.
fn local_xid(proc: *mut pg_sys::PGPROC) -> u32 {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: an entry of the server's array; one aligned word.
    unsafe {
        std::ptr::read_volatile(&raw const (*proc).lxid)
    }
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: an entry of the server's array; one aligned word.
    unsafe {
        std::ptr::read_volatile(&raw const (*proc).vxid.lxid)
    }
}

fn place_of(proc: *mut pg_sys::PGPROC) -> i32 {
    // SAFETY: an entry of the server's array, whose start this is.
    unsafe { proc.offset_from((*pg_sys::ProcGlobal).allProcs) as i32 }
}

/// The process' entry in the server's array, if it is that very process that holds it.
fn entry(process: ProcessId) -> Option<*mut pg_sys::PGPROC> {
    // SAFETY: ProcGlobal and its array are set up before any process can run this and are never
    // moved; the index is checked against the array's length.  The pid is one aligned word that may
    // change under us, which is what the comparison is for.
    unsafe {
        let header = pg_sys::ProcGlobal;
        if header.is_null() || process.place < 0 || process.place as u32 >= (*header).allProcCount {
            return None;
        }
        let proc = (*header).allProcs.add(process.place as usize);
        (process.pid != 0 && std::ptr::read_volatile(&raw const (*proc).pid) == process.pid)
            .then_some(proc)
    }
}

/// Whether the postmaster is loading libraries named in `shared_preload_libraries`: the only moment
/// at which shared memory can be asked for.
pub fn is_preloading() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Has the server refuse settings of this library that do not exist.
pub fn reserve_setting_prefix() {
    // SAFETY: the text is copied; called once all settings are defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(own!("").as_ptr()) }
}
