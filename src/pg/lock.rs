//! Heavyweight locks, and where to find the relations and extensions that they are for.

use pgrx::pg_sys;

use super::small_table;

/// Takes ExclusiveLock on a relation until the end of the transaction: readers go on, writers and a
/// second holder wait.  Waits as long as `lock_timeout` allows; raises an error when it gives up.
pub fn lock_relation_exclusive(relation: pg_sys::Oid) {
    // SAFETY: any number may be locked; the caller runs in a transaction.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::ExclusiveLock as pg_sys::LOCKMODE) }
}

/// Whether this transaction itself holds a relation in a mode that LOCK TABLE … IN EXCLUSIVE MODE of another session has
/// to wait for.
pub fn is_held_by_me(relation: pg_sys::Oid) -> bool {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: set once when the session starts.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: relation.to_u32(),
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    (pg_sys::RowShareLock..=pg_sys::AccessExclusiveLock).any(|mode| {
        let mode = mode as pg_sys::LOCKMODE;
        // SAFETY: a look at this process' own table of locks.
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return unsafe { pg_sys::LockHeldByMe(&tag, mode) };
        // SAFETY: as above.
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return unsafe { pg_sys::LockHeldByMe(&tag, mode, false) };
    })
}

/// Keeps the extension from being dropped until the end of the transaction: `DROP EXTENSION` waits.
pub fn keep_extension(extension: pg_sys::Oid) {
    // SAFETY: as in lock_relation_exclusive().
    unsafe {
        pg_sys::LockDatabaseObject(
            pg_sys::ExtensionRelationId,
            extension,
            0,
            pg_sys::AccessShareLock as pg_sys::LOCKMODE,
        );
    }
}

/// Makes errands of this extension one at a time, over all sessions of the database.  Waits, and can be
/// cancelled.  Given back when dropped; after an error, by the end of the transaction.
pub struct ErrandLock(Option<pg_sys::Oid>);

impl ErrandLock {
    /// Waits for it.
    pub fn acquire() -> Self {
        let extension = extension(own!(""));
        if let Some(extension) = extension {
            // SAFETY: inside a transaction.  The mode conflicts with itself and not with the one that
            // keeps the extension.
            unsafe {
                pg_sys::LockDatabaseObject(
                    pg_sys::ExtensionRelationId,
                    extension,
                    0,
                    pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
                );
            }
        }
        Self(extension)
    }
}

impl Drop for ErrandLock {
    fn drop(&mut self) {
        // While an error unwinds, the abort that follows releases the lock.
        if let Some(extension) = self.0
            && !std::thread::panicking()
        {
            // SAFETY: taken in acquire(), in the same transaction.
            unsafe {
                pg_sys::UnlockDatabaseObject(
                    pg_sys::ExtensionRelationId,
                    extension,
                    0,
                    pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE,
                );
            }
        }
    }
}

/// The relation of that name in `pg_catalog`, or `None`.
pub fn catalog_relation(name: &core::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a look-up in the system cache, inside a transaction.
    let oid = unsafe {
        pg_sys::get_relname_relid(name.as_ptr(), pg_sys::Oid::from(PG_CATALOG_NAMESPACE))
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The relation of that name in a schema, or `None`.
pub fn relation_in(schema: &core::ffi::CStr, name: &core::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: look-ups in the system caches, inside a transaction; no error for what is missing.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Relations that can be read while this lives, whoever asks for them meanwhile.
pub struct Readable(Vec<pg_sys::Oid>);

impl Readable {
    /// If nobody keeps readers from any of them right now.
    pub fn try_all(relations: impl Iterator<Item = pg_sys::Oid>) -> Option<Self> {
        let mut readable = Self(Vec::new());
        for relation in relations {
            // SAFETY: any number may be locked; the caller runs in a transaction.
            if !unsafe { pg_sys::ConditionalLockRelationOid(relation, READ) } {
                return None;
            }
            readable.0.push(relation);
        }
        Some(readable)
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        // While an error unwinds, the abort that follows releases the locks.
        if !std::thread::panicking() {
            for relation in &self.0 {
                // SAFETY: taken in try_all(), in the same transaction.
                unsafe { pg_sys::UnlockRelationOid(*relation, READ) }
            }
        }
    }
}

const READ: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// Processes that keep a relation of this database from its readers.  Found without a query, which might itself
/// have to read what is kept.
pub fn keepers(relation: pg_sys::Oid) -> Vec<i32> {
    const KEEPS: i32 = 1 << pg_sys::AccessExclusiveLock as i32;
    let context = super::memory::Scratch::new();
    context.run(|| {
        // SAFETY: a snapshot of the lock tables, allocated in the current memory context; the array has
        // the length it says.  The database's number is set once when the session starts.
        let (locks, database) = unsafe {
            let data = pg_sys::GetLockStatusData();
            let locks =
                std::slice::from_raw_parts((*data).locks, (*data).nelements.max(0) as usize);
            (locks, pg_sys::MyDatabaseId)
        };
        locks
            .iter()
            .filter(|lock| {
                lock.locktag.locktag_type == pg_sys::LockTagType::LOCKTAG_RELATION as u8
                    && lock.locktag.locktag_field1 == database.to_u32()
                    && lock.locktag.locktag_field2 == relation.to_u32()
                    && lock.holdMask & KEEPS != 0
            })
            .map(|lock| lock.pid)
            .collect()
    })
}

/// The extension of that name, or `None`.
pub fn extension(name: &core::ffi::CStr) -> Option<pg_sys::Oid> {
    // SAFETY: as in catalog_relation(); no error for a missing one.
    let oid = unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Its owner.
pub fn extension_owner(name: &core::ffi::CStr) -> Option<pg_sys::Oid> {
    let rows = small_table::rows(pg_sys::ExtensionRelationId, &[c"extname", c"extowner"]);
    let row = rows.into_iter().find(|row| row[0].as_deref() == name.to_str().ok())?;
    row[1].as_ref()?.parse::<u32>().ok().map(pg_sys::Oid::from)
}

const PG_CATALOG_NAMESPACE: u32 = 11;
