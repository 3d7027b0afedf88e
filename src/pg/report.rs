//! Other words in a report that is on its way to the client and to the log.
//!
//! This runs inside the server's error reporting, so it raises nothing: where memory is short, the report
//! stays as it is.

use std::ffi::{CStr, c_char};

use pgrx::{PgSqlErrorCode, pg_sys};

/// A report on its way.
pub struct Outgoing<'a>(&'a mut pg_sys::ErrorData);

impl<'a> Outgoing<'a> {
    /// The report in hand.
    pub(super) fn new(report: &'a mut pg_sys::ErrorData) -> Self {
        Self(report)
    }

    /// Whether it ends the process, with that code.
    pub fn is_fatal(&self, code: PgSqlErrorCode) -> bool {
        self.0.elevel == pg_sys::FATAL as i32 && self.0.sqlerrcode == code as i32
    }

    /// Whether it ends the statement, with that code.
    pub fn is_error(&self, code: PgSqlErrorCode) -> bool {
        self.0.elevel == pg_sys::PGERROR as i32 && self.0.sqlerrcode == code as i32
    }

    /// Makes it say this, with that code.
    pub fn replace(&mut self, code: PgSqlErrorCode, message: &CStr, hint: &CStr) {
        if let (Some(message), Some(hint)) =
            (copy(self.0, &[message.to_bytes()]), copy(self.0, &[hint.to_bytes()]))
        {
            self.0.sqlerrcode = code as i32;
            self.0.message = message;
            self.0.hint = hint;
        }
    }

    /// Where its message ends with `theirs`, and it has no hint, puts `ours` in that place, and the hint.
    pub fn replace_end(&mut self, theirs: &str, ours: &str, hint: &str) {
        if self.0.message.is_null() || !self.0.hint.is_null() {
            return;
        }
        // SAFETY: a C string that belongs to the report.
        let message = unsafe { CStr::from_ptr(self.0.message) };
        let Some(what) = message.to_bytes().strip_suffix(theirs.as_bytes()) else {
            return;
        };
        if let (Some(message), Some(hint)) =
            (copy(self.0, &[what, ours.as_bytes()]), copy(self.0, &[hint.as_bytes()]))
        {
            self.0.message = message;
            self.0.hint = hint;
        }
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
