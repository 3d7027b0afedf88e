//! What there is to know of a function, by its number.

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pgrx::pg_sys;

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// One of the server's own, by whatever name (LANGUAGE internal): the number that it has there.
    Internal(u32),
    /// Another in `pg_catalog`, where only the server's and its extensions' functions are: its name.
    InCatalog(String),
    /// Any other, or none.
    Other,
}

/// The first number that is not the server's own.
pub const FIRST_OF_OTHERS: u32 = pg_sys::FirstNormalObjectId;

/// Looks a function up.
pub fn look_at(number: u32) -> Function {
    const PROCOID: i32 = pg_sys::SysCacheIdentifier::PROCOID as i32;
    // SAFETY: look-ups in the system cache, inside a transaction; texts are copied and freed, the entry is
    // given back, and after an error by the abort.
    unsafe {
        let number = pg_sys::Datum::from(pg_sys::Oid::from(number));
        let entry = pg_sys::SearchSysCache1(PROCOID, number);
        if entry.is_null() {
            return Function::Other;
        }
        let column = |number: u32| {
            let mut is_null = false;
            let value = pg_sys::SysCacheGetAttr(PROCOID, entry, number as i16, &mut is_null);
            (!is_null).then_some(value)
        };
        let language = column(pg_sys::Anum_pg_proc_prolang).map_or(0, |value| value.value() as u32);
        let schema =
            column(pg_sys::Anum_pg_proc_pronamespace).map_or(0, |value| value.value() as u32);
        let function = if language == INTERNAL_LANGUAGE {
            column(pg_sys::Anum_pg_proc_prosrc).map(|source| {
                let name = pg_sys::text_to_cstring(source.cast_mut_ptr());
                let number = pg_sys::fmgr_internal_function(name);
                pg_sys::pfree(name.cast());
                Function::Internal(number.to_u32())
            })
        } else if schema == PG_CATALOG {
            column(pg_sys::Anum_pg_proc_proname).and_then(|name| {
                let name = CStr::from_ptr(name.cast_mut_ptr::<pg_sys::NameData>().cast());
                name.to_str().ok().map(|name| Function::InCatalog(name.to_owned()))
            })
        } else {
            None
        };
        pg_sys::ReleaseSysCache(entry);
        function.unwrap_or(Function::Other)
    }
}

/// `pg_language` of the server's own functions.
const INTERNAL_LANGUAGE: u32 = 12;
const PG_CATALOG: u32 = 11;

static CHANGES: AtomicU32 = AtomicU32::new(0);

/// Counts changes of functions, from the first call on: a function may become another one and keep its number,
/// and what was remembered of it before a change does not count.
pub fn changes() -> u32 {
    static LISTENS: AtomicBool = AtomicBool::new(false);
    if !LISTENS.swap(true, Ordering::Relaxed) {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        // SAFETY: the callback lives as long as the library.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(on_change), pg_sys::Datum::null());
        }
    }
    CHANGES.load(Ordering::Relaxed)
}

/// May come at any moment at which the server reads its catalogs, also while one is looked at.
unsafe extern "C-unwind" fn on_change(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    CHANGES.fetch_add(1, Ordering::Relaxed);
}
