//! The server's side: all of the extension's `unsafe` calls into PostgreSQL, each wrapped so that the
//! rest of the code needs none.  Differences between PostgreSQL's versions are settled here.

pub mod clock;
pub mod control_file;
pub mod distribution;
pub mod elog;
pub mod fd;
pub mod gate_area;
pub mod gate_lock;
pub mod guc;
pub mod hooks;
pub mod ident;
pub mod interrupts;
pub mod libpq;
pub mod lock;
pub mod memory;
pub mod process;
pub mod report;
pub mod session;
pub mod shmem;
pub mod small_table;
pub mod statement;
pub mod stoppable;
pub mod superuser;
pub mod text_sql;
pub mod types;
pub mod victim;
pub mod wait;
pub mod wal;
pub mod worker;
pub mod xact_callbacks;

#[cfg(any(test, feature = "pg_test"))]
mod tests;
