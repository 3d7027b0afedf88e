//! Other words in a report that is on its way to the client and to the log.
//!
//! This runs inside the server's error reporting, so it raises nothing: where memory is short, the report
//! stays as it is.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

/// Makes it say this, with the code for read-only.
pub fn replace(report: &mut pg_sys::ErrorData, message: &CStr, hint: &CStr) {
    if let (Some(message), Some(hint)) =
        (copy(report, &[message.to_bytes()]), copy(report, &[hint.to_bytes()]))
    {
        report.sqlerrcode = pgrx::PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION as i32;
        report.message = message;
        report.hint = hint;
    }
}

/// Puts the server's words for a read-only transaction into ours, for on a read-only node every transaction
/// is one.
pub fn same_words(report: &mut pg_sys::ErrorData, hint: &CStr) {
    const THEIRS: &[u8] = b" in a read-only transaction";
    const OURS: &[u8] = b": system is now read only";
    if report.message.is_null() || !report.hint.is_null() {
        return;
    }
    // SAFETY: a C string that belongs to the report.
    let message = unsafe { CStr::from_ptr(report.message) };
    let Some(what) = message.to_bytes().strip_suffix(THEIRS) else {
        return;
    };
    if let (Some(message), Some(hint)) =
        (copy(report, &[what, OURS]), copy(report, &[hint.to_bytes()]))
    {
        report.message = message;
        report.hint = hint;
    }
}

/// The parts as one C string, in the context that the report's own texts are in.
fn copy(report: &pg_sys::ErrorData, parts: &[&[u8]]) -> Option<*mut c_char> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // SAFETY: as many bytes are written as are allocated, the last of them 0.
    unsafe {
        let start = pg_sys::MemoryContextAllocExtended(
            report.assoc_context,
            length + 1,
            pg_sys::MCXT_ALLOC_NO_OOM as i32,
        )
        .cast::<u8>();
        if start.is_null() {
            return None;
        }
        let mut next = start;
        for part in parts {
            std::ptr::copy_nonoverlapping(part.as_ptr(), next, part.len());
            next = next.add(part.len());
        }
        *next = 0;
        Some(start.cast())
    }
}
