//! Work on catalogs that the session's own role may not read or write.

use pgrx::pg_sys;

/// Does `work` with the rights of the bootstrap superuser, and with a search path that no user can
/// put names into.  `work` must only run SQL of our own.
///
/// Should it raise an error, the role is given back on the way, and the search path by the abort of
/// the (sub)transaction.
pub fn as_superuser<R>(work: impl FnOnce() -> R) -> R {
    let _role = RoleGuard::switch();
    let level = SearchPathLevel::enter();
    let result = work();
    level.leave();
    result
}

struct RoleGuard {
    role: pg_sys::Oid,
    context: core::ffi::c_int,
}

impl RoleGuard {
    fn switch() -> Self {
        let mut role = pg_sys::InvalidOid;
        let mut context = 0;
        // SAFETY: reads and writes variables of this process; the role always exists.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut role, &mut context);
            pg_sys::SetUserIdAndSecContext(
                pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID),
                context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as core::ffi::c_int,
            );
        }
        Self { role, context }
    }
}

impl Drop for RoleGuard {
    fn drop(&mut self) {
        // SAFETY: what was read in switch(); raises nothing.
        unsafe { pg_sys::SetUserIdAndSecContext(self.role, self.context) }
    }
}

/// Not undone by a Drop: undoing settings while an error unwinds is the abort's business.
struct SearchPathLevel(core::ffi::c_int);

impl SearchPathLevel {
    fn enter() -> Self {
        // SAFETY: the caller runs in a transaction; the setting is saved for leave() or the abort.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
            Self(level)
        }
    }

    fn leave(self) {
        // SAFETY: the level that enter() began.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) }
    }
}
