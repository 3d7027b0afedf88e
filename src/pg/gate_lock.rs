//! The gates' locks: heavyweight locks on relation numbers that no relation has.

use std::ffi::c_int;

use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};

use crate::readonly::policy::Gate;

// Numbers below 10000 are given out by hand, and the last two thousand of them never to anything that is
// released: no relation will ever have these.

/// Held by whoever is about to close the gates, until all of them are closed.
const ATTEMPT: u32 = 9996;
const CLIENT: u32 = 9997;
const INTERNAL: u32 = 9998;
/// Taken by whoever switches the node.
const SWITCH: u32 = 9999;

const PASS: c_int = pg_sys::RowExclusiveLock as c_int;
/// Not AccessExclusiveLock, which would take a transaction number.
const CLOSE: c_int = pg_sys::ExclusiveLock as c_int;

fn tag(database: pg_sys::Oid, number: u32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database.to_u32(),
        locktag_field2: number,
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

/// The gate's lock in this database.  With the database of the session itself, and in the mode of those
/// who pass, it takes the server's fast path.
fn gate_tag(gate: Gate) -> pg_sys::LOCKTAG {
    let number = match gate {
        Gate::Client => CLIENT,
        Gate::Internal => INTERNAL,
    };
    // SAFETY: set once when the session starts.
    tag(unsafe { pg_sys::MyDatabaseId }, number)
}

/// Runs `body` with locks going to the top transaction, so that they are kept when a savepoint is rolled
/// back.
fn for_top_transaction<R>(body: impl FnOnce() -> R) -> R {
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

fn acquire(tag: &pg_sys::LOCKTAG, mode: c_int, dont_wait: bool) -> bool {
    // SAFETY: a tag of our own; in a transaction.  Raises an error when a wait is given up.
    let result = unsafe { pg_sys::LockAcquire(tag, mode, false, dont_wait) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes the lock of those who pass, to the end of the transaction, if that needs no wait.
pub fn try_pass(gate: Gate) -> bool {
    for_top_transaction(|| acquire(&gate_tag(gate), PASS, true))
}

/// The same, and waits as long as `lock_timeout` allows.
pub fn pass(gate: Gate) {
    for_top_transaction(|| acquire(&gate_tag(gate), PASS, false));
}

/// Gives back what [`try_pass`] or [`pass`] took, by somebody who is turned away after all.
pub fn turn_back(gate: Gate) {
    // SAFETY: taken right before, with the same owner.
    for_top_transaction(|| unsafe { pg_sys::LockRelease(&gate_tag(gate), PASS, false) });
}

/// Closes the gate to the end of the transaction, if nobody is in the way.
pub fn try_close(gate: Gate) -> bool {
    for_top_transaction(|| acquire(&gate_tag(gate), CLOSE, true))
}

/// The same, and waits for those in the way.  False when `lock_timeout` has passed; the caller must then
/// raise an error.
pub fn close(gate: Gate) -> bool {
    acquire_in_time(&gate_tag(gate))
}

/// Says that the gates are about to be closed, to the end of the transaction or to [`end_attempt`].  Waits
/// for whoever says the same; false when `lock_timeout` has passed.
pub fn begin_attempt() -> bool {
    acquire_in_time(&attempt_tag())
}

/// All gates are closed, on all nodes.
pub fn end_attempt() {
    // SAFETY: taken in begin_attempt(), by this transaction with the same owner.
    for_top_transaction(|| unsafe { pg_sys::LockRelease(&attempt_tag(), CLOSE, false) });
}

/// Waits while somebody is about to close the gates; false if nobody is.
pub fn await_attempt() -> bool {
    let tag = attempt_tag();
    let is_under_way = !acquire(&tag, PASS, true);
    if is_under_way {
        acquire(&tag, PASS, false);
    }
    // SAFETY: taken right before, with the same owner.
    unsafe { pg_sys::LockRelease(&tag, PASS, false) };
    is_under_way
}

fn attempt_tag() -> pg_sys::LOCKTAG {
    // SAFETY: set once when the session starts.
    tag(unsafe { pg_sys::MyDatabaseId }, ATTEMPT)
}

fn acquire_in_time(tag: &pg_sys::LOCKTAG) -> bool {
    PgTryBuilder::new(|| for_top_transaction(|| acquire(tag, CLOSE, false)))
        .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| false)
        .execute()
}

/// Makes switches of the node one at a time.  Given back when dropped; after an error, by the abort of the
/// (sub)transaction.
pub struct SwitchLock(());

impl SwitchLock {
    /// Waits for it.
    pub fn acquire() -> Self {
        acquire(&tag(pg_sys::InvalidOid, SWITCH), CLOSE, false);
        Self(())
    }
}

impl Drop for SwitchLock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: taken in acquire(), in the same subtransaction.
            unsafe { pg_sys::LockRelease(&tag(pg_sys::InvalidOid, SWITCH), CLOSE, false) };
        }
    }
}

/// A transaction that has passed a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process; 0 for a prepared transaction.
    pub pid: i32,
    /// Its number among that process' transactions.
    pub local_xid: u32,
}

/// All who have passed a gate, in any database.
pub fn holders() -> Vec<Holder> {
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
                    && (lock.locktag.locktag_field2 == CLIENT
                        || lock.locktag.locktag_field2 == INTERNAL)
                    && lock.holdMask & (1 << PASS) != 0
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
