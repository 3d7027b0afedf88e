//! Advisory locks of the server's lock table, as libraries use them between themselves: by a class beside
//! those of `pg_advisory_lock()`, and a number of 64 bits.

use std::ffi::c_int;

use pgrx::pg_sys;

/// How a lock is held: `ShareLock`, beside others like it.
pub const SHARED: c_int = pg_sys::ShareLock as c_int;

/// `ExclusiveLock`, alone.
pub const ALONE: c_int = pg_sys::ExclusiveLock as c_int;

/// Whether the server has a lock mode of that number.
pub fn is_mode(mode: c_int) -> bool {
    (pg_sys::AccessShareLock as c_int..=pg_sys::AccessExclusiveLock as c_int).contains(&mode)
}

/// Takes the lock of this database to the end of the (sub)transaction; a prepared transaction keeps it.  Waits
/// as long as `lock_timeout` allows, and raises an error when it gives up.  `mode` is one that [`is_mode`] knows.
pub fn acquire(class: u16, number: i64, mode: c_int) {
    let number = number.cast_unsigned();
    let tag = pg_sys::LOCKTAG {
        // SAFETY: set once when the session starts.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: (number >> 32) as u32,
        locktag_field3: number as u32,
        locktag_field4: class,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    };
    // SAFETY: any number may be locked, by a mode that the server has; in a transaction.
    unsafe { pg_sys::LockAcquire(&tag, mode, false, false) };
}
