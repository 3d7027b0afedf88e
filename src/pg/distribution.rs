//! How a value is hashed by its type's own support, and how the server writes a column down.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// A column of a table, as far as its values' type goes.
#[derive(Clone, Copy, Debug)]
pub struct ColumnType {
    /// `atttypid`.
    pub oid: pg_sys::Oid,
    /// `atttypmod`.
    pub typmod: i32,
    /// `attcollation`.
    pub collation: pg_sys::Oid,
}

/// The hash by the type's own hash support function, of the value that the text stands for.  `None` if the type has none; an error is raised if the text is no such value.
pub fn hash_text(column: ColumnType, text: &str) -> Option<i32> {
    let function = hash_function(column.oid)?;
    let text = CString::new(text).ok()?;
    // SAFETY: the input function is the type's own, and the hash function takes what that gives and
    // returns an int4.
    unsafe {
        let mut input = pg_sys::InvalidOid;
        let mut parameter = pg_sys::InvalidOid;
        pg_sys::getTypeInputInfo(column.oid, &mut input, &mut parameter);
        let value =
            pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), parameter, column.typmod);
        let hash = pg_sys::FunctionCall1Coll(function, column.collation, value);
        Some(hash.value() as u32 as i32)
    }
}

/// Whether values of a type can be hashed at all.
pub fn can_hash(type_oid: pg_sys::Oid) -> bool {
    hash_function(type_oid).is_some()
}

fn hash_function(type_oid: pg_sys::Oid) -> Option<*mut pg_sys::FmgrInfo> {
    // SAFETY: raises an error for a type that does not exist; entries of the cache live as long as
    // the process.
    unsafe {
        let entry = pg_sys::lookup_type_cache(
            type_oid,
            pg_sys::TYPECACHE_HASH_PROC_FINFO as core::ffi::c_int,
        );
        let function = &raw mut (*entry).hash_proc_finfo;
        ((*function).fn_oid != pg_sys::InvalidOid).then_some(function)
    }
}

/// The text of a reference to a column.  The server writes it, as the form differs between its versions.
pub fn column_reference(attnum: i16, column: ColumnType) -> String {
    // SAFETY: makes a node in the current memory context and writes it as a C string there.
    unsafe {
        let var = pg_sys::makeVar(1, attnum, column.oid, column.typmod, column.collation, 0);
        CStr::from_ptr(pg_sys::nodeToString(var.cast())).to_string_lossy().into_owned()
    }
}
