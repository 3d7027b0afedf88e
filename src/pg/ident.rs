//! Who and where this server and session are.

use std::ffi::CStr;

use pgrx::pg_sys;

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

/// Whether this server is a standby, or still recovering.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Identifies the data directory's origin; a server and its standbys share it.
pub fn system_identifier() -> u64 {
    // SAFETY: reads the control file's copy in memory.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Runs `body` with the rights of another role.  An error out of it leaves the session as it was, for
/// the guard restores it on the way, and so does the abort of the transaction.
pub fn as_role<R>(role: pg_sys::Oid, body: impl FnOnce() -> R) -> R {
    struct Restore(pg_sys::Oid, i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: puts back what was there before.
            unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) }
        }
    }
    let mut before = Restore(pg_sys::InvalidOid, 0);
    // SAFETY: reads and sets variables of this process; SET ROLE and the like are refused inside.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut before.0, &mut before.1);
        pg_sys::SetUserIdAndSecContext(
            role,
            before.1 | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32,
        );
    }
    body()
}

unsafe fn owned(text: *const core::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's pointer is a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
