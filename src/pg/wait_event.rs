//! What `pg_stat_activity` says a process waits for.
//!
//! Since PostgreSQL 17 libraries can name their waits; before, each of them is an `Extension`.  The names are told
//! to the server at its start, once: an error, which there is when all places for names are taken, must not come
//! out of a wait.

use std::ffi::CStr;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEvent {
    /// What other nodes answer, or an errand meanwhile.
    Nodes,
    /// What another process of this server does: a session's background worker, most often.
    Worker,
    /// Another state of this node.
    State,
}

const ALL: [WaitEvent; 3] = [WaitEvent::Nodes, WaitEvent::Worker, WaitEvent::State];

/// The server's numbers of them, by place; those that a postmaster has got its children inherit.
static NUMBERS: [AtomicU32; ALL.len()] =
    [const { AtomicU32::new(pg_sys::PG_WAIT_EXTENSION) }; ALL.len()];

impl WaitEvent {
    /// The name in `pg_stat_activity`.
    const fn name(self) -> &'static CStr {
        match self {
            Self::Nodes => c"CitusFenceNodes",
            Self::Worker => c"CitusFenceWorker",
            Self::State => c"CitusFenceState",
        }
    }

    /// What the server's waits are to be told.
    pub fn number(self) -> u32 {
        NUMBERS[self as usize].load(Ordering::Relaxed)
    }
}

/// Tells the server the names.  Call at the start of a preloaded library's shared memory, after each crash, too.
pub fn register() {
    for event in ALL {
        NUMBERS[event as usize].store(new_number(event.name()), Ordering::Relaxed);
    }
}

/// Names have a place of their own since PostgreSQL 17.
#[cfg(any(feature = "pg17", feature = "pg18"))]
fn new_number(name: &CStr) -> u32 {
    // SAFETY: a C string, which the server copies; its table of names was made before the start-up hook is called.
    unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) }
}

/// Names have a place of their own since PostgreSQL 17.
#[cfg(any(feature = "pg15", feature = "pg16"))]
fn new_number(_name: &CStr) -> u32 {
    pg_sys::PG_WAIT_EXTENSION
}
