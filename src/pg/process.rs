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

/// The process that runs this.
pub fn me() -> ProcessId {
    ProcessId {
        place: my_place(),
        // SAFETY: set once at process start.
        pid: unsafe { pg_sys::MyProcPid },
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn my_place() -> i32 {
    // SAFETY: MyProc is set for every process that can run the extension's code, see InitProcess.
    unsafe { (*pg_sys::MyProc).pgprocno }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn my_place() -> i32 {
    // SAFETY: set once at process start.
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

/// Has the server refuse settings of this extension that do not exist.
pub fn reserve_setting_prefix() {
    // SAFETY: the text is copied; called once all settings are defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"citus_fence".as_ptr()) }
}
