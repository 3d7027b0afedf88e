//! Who and where this server and session are.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use super::shmem::Drawn;

/// Database of this session.
pub fn database() -> pg_sys::Oid {
    // SAFETY: set once when the session starts.
    unsafe { pg_sys::MyDatabaseId }
}

/// Name of the database of this session.
pub fn database_name() -> String {
    // SAFETY: a palloc'd string or null; copied and left to the memory context.
    unsafe { owned(pg_sys::get_database_name(pg_sys::MyDatabaseId)) }
}

/// Whether a database of that number still exists.
pub fn database_exists(database: u32) -> bool {
    // SAFETY: as in database_name().
    unsafe { !pg_sys::get_database_name(pg_sys::Oid::from(database)).is_null() }
}

/// Name of a role, or the empty text where it is gone.
pub fn role_name(role: pg_sys::Oid) -> String {
    // SAFETY: as in database_name(); no error is raised for a missing role.
    unsafe { owned(pg_sys::GetUserNameFromId(role, true)) }
}

/// Role whose rights this session has now.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of this process.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the session's role may read what other sessions run.
pub fn may_read_all_stats() -> bool {
    const PG_READ_ALL_STATS: u32 = 3375;
    // SAFETY: look-ups in the system cache.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), pg_sys::Oid::from(PG_READ_ALL_STATS)) }
}

/// Port that this server listens on.
pub fn port() -> i32 {
    // SAFETY: set once when the server starts.
    unsafe { pg_sys::PostPortNumber }
}

/// Whether this server is a standby, or still recovering.  Every statement asks, and once it is over it
/// stays over, so the answer is remembered.
pub fn in_recovery() -> bool {
    static IS_OVER: AtomicBool = AtomicBool::new(false);
    if IS_OVER.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: reads shared memory.
    let in_recovery = unsafe { pg_sys::RecoveryInProgress() };
    IS_OVER.store(!in_recovery, Ordering::Relaxed);
    in_recovery
}

/// A number that this server has drawn at its start, and no other has; `None` where the library was not preloaded.
pub static SERVER_NUMBER: Drawn = Drawn::new(own!(" server"));

/// When the postmaster was started, in seconds of the epoch, as `extract(epoch from …)` writes it.
pub fn started() -> String {
    /// From 1970 to 2000.
    const EPOCHS: i64 = 946_684_800;
    // SAFETY: reads a variable of this process, set at the server's start.
    let microseconds = unsafe { pg_sys::PgStartTime };
    let seconds = microseconds.div_euclid(1_000_000) + EPOCHS;
    format!("{seconds}.{:06}", microseconds.rem_euclid(1_000_000))
}

/// Whether a role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a look-up in the system cache, inside a transaction.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Identifies the data directory's origin; a server and its standbys share it.
pub fn system_identifier() -> u64 {
    // SAFETY: reads the control file's copy in memory.
    unsafe { pg_sys::GetSystemIdentifier() }
}

unsafe fn owned(text: *const core::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's pointer is a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
