//! The server's side: all of the extension's `unsafe` calls into PostgreSQL, each wrapped so that the
//! rest of the code needs none.  Differences between PostgreSQL's versions are settled here.
//!
//! Nothing here knows who uses it.  Where the server calls (hooks, the ends of transactions and processes,
//! workers, shared memory), plain facts go to functions that `lib.rs` has handed over.

/// A C string that begins with the name of this library, which is that of its package.
macro_rules! own {
    ($rest:literal) => {
        const {
            let text = concat!(env!("CARGO_PKG_NAME"), $rest, "\0");
            match core::ffi::CStr::from_bytes_with_nul(text.as_bytes()) {
                Ok(text) => text,
                Err(_) => c"",
            }
        }
    };
}

pub mod advisory_lock;
pub mod clock;
pub mod control_file;
pub mod distribution;
pub mod durable_file;
pub mod elog;
pub mod exit;
pub mod fd;
pub mod function;
pub mod guc;
pub mod hooks;
pub mod ident;
pub mod interrupts;
pub mod libpq;
pub mod library;
pub mod lock;
pub mod memory;
pub mod names;
pub mod numbered_lock;
pub mod process;
pub mod quote;
pub mod report;
pub mod session;
pub mod shmem;
pub mod small_table;
pub mod statement;
pub mod stoppable;
pub mod superuser;
pub mod text_sql;
pub mod types;
pub mod wait;
pub mod wait_event;
pub mod wal;
pub mod worker;
pub mod xact_callbacks;

#[cfg(any(test, feature = "pg_test"))]
mod tests;
