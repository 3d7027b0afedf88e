//! The server's side: all of the extension's `unsafe` calls into PostgreSQL, each wrapped so that the
//! rest of the code needs none.  Differences between PostgreSQL's versions are settled here.

pub mod clock;
pub mod distribution;
pub mod elog;
pub mod fd;
pub mod guc;
pub mod ident;
pub mod interrupts;
pub mod lock;
pub mod process;
pub mod shmem;
pub mod stoppable;
pub mod superuser;
pub mod text_sql;
pub mod types;
pub mod wait;
pub mod wal;
pub mod worker;
pub mod xact_callbacks;

#[cfg(any(test, feature = "pg_test"))]
mod tests;
