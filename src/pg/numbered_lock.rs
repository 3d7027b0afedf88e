//! Heavyweight locks on numbers that no relation has: in the server's lock table like any other, with its
//! waits, its time-outs and its search for deadlocks.

use std::ffi::c_int;

use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Mode {
    /// RowExclusiveLock, beside others like it.  On a lock of the session's own database it takes the server's
    /// fast path.
    Shared = pg_sys::RowExclusiveLock as c_int,
    /// ExclusiveLock, alone.  Not AccessExclusiveLock, which would take a transaction number.
    Alone = pg_sys::ExclusiveLock as c_int,
}

/// A lock.
#[derive(Clone, Copy)]
pub struct NumberedLock(pg_sys::LOCKTAG);

impl NumberedLock {
    /// The one of that number in this session's database.
    pub fn of_database(number: u32) -> Self {
        // SAFETY: set once when the session starts.
        Self::new(unsafe { pg_sys::MyDatabaseId }, number)
    }

    /// The one of that number in the whole server.
    pub fn of_server(number: u32) -> Self {
        Self::new(pg_sys::InvalidOid, number)
    }

    fn new(database: pg_sys::Oid, number: u32) -> Self {
        Self(pg_sys::LOCKTAG {
            locktag_field1: database.to_u32(),
            locktag_field2: number,
            locktag_field3: 0,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        })
    }

    /// Takes it to the end of the (sub)transaction, if that needs no wait.
    pub fn try_acquire(&self, mode: Mode) -> bool {
        self.lock(mode, true)
    }

    /// The same, and waits as long as `lock_timeout` allows.
    pub fn acquire(&self, mode: Mode) {
        self.lock(mode, false);
    }

    /// The same; false when `lock_timeout` has passed.  The caller must then raise an error.
    pub fn acquire_in_time(&self, mode: Mode) -> bool {
        PgTryBuilder::new(|| self.lock(mode, false))
            .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| false)
            .execute()
    }

    /// Gives it back; whoever does not hold it gets a warning.
    pub fn release(&self, mode: Mode) {
        // SAFETY: any lock may be asked to be released.
        unsafe { pg_sys::LockRelease(&self.0, mode as c_int, false) };
    }

    fn lock(&self, mode: Mode, dont_wait: bool) -> bool {
        // SAFETY: a tag of our own; in a transaction.  Raises an error when a wait is given up.
        let result = unsafe { pg_sys::LockAcquire(&self.0, mode as c_int, false, dont_wait) };
        result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Runs `body` with locks going to the top transaction, so that they are kept when a savepoint is rolled
/// back.
pub fn for_top_transaction<R>(body: impl FnOnce() -> R) -> R {
    struct Restore(pg_sys::ResourceOwner);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: what was there before.  After an error the abort sets it anyway.
            unsafe { pg_sys::CurrentResourceOwner = self.0 }
        }
    }
    // SAFETY: variables of this process; the caller runs in a transaction.
    let _restore = unsafe {
        let restore = Restore(pg_sys::CurrentResourceOwner);
        pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
        restore
    };
    body()
}

/// A transaction that holds such a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process; 0 for a prepared transaction.
    pub pid: i32,
    /// Its number among that process' transactions.
    pub local_xid: u32,
}

/// All who hold a lock of one of those numbers in that mode, in any database.
pub fn holders(numbers: &[u32], mode: Mode) -> Vec<Holder> {
    let context = super::memory::Scratch::new();
    context.run(|| {
        // SAFETY: a snapshot of the lock tables, allocated in the current memory context; the array has
        // the length it says.
        let locks = unsafe {
            let data = pg_sys::GetLockStatusData();
            std::slice::from_raw_parts((*data).locks, (*data).nelements.max(0) as usize)
        };
        locks
            .iter()
            .filter(|lock| {
                lock.locktag.locktag_type == pg_sys::LockTagType::LOCKTAG_RELATION as u8
                    && numbers.contains(&lock.locktag.locktag_field2)
                    && lock.holdMask & (1 << mode as c_int) != 0
            })
            .map(|lock| Holder { pid: lock.pid, local_xid: local_xid_of(lock) })
            .collect()
    })
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn local_xid_of(lock: &pg_sys::LockInstanceData) -> u32 {
    lock.lxid
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn local_xid_of(lock: &pg_sys::LockInstanceData) -> u32 {
    lock.vxid.localTransactionId
}
