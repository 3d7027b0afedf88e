//! What kind of process this is, and where it stands.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;

/// What kind of process runs transactions here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// A client's session, or whatever else is not among the others.
    Session,
    /// An autovacuum worker.
    AutovacuumWorker,
    /// The autovacuum launcher, or the startup process: they never write.
    Launcher,
    /// A parallel worker, which does part of its leader's work.
    ParallelWorker,
    /// An apply worker of logical replication.
    ApplyWorker,
    /// Any other background worker.
    Worker {
        /// The library that it comes from.
        library: &'static CStr,
        /// What it runs of that.
        function: &'static CStr,
    },
}

/// What this process is, which never changes.
pub fn process() -> Process {
    // SAFETY: variables of this process, set before it can run a transaction; the entry of a background
    // worker is valid for all of its life.
    unsafe {
        match pg_sys::MyBackendType {
            pg_sys::BackendType::B_AUTOVAC_WORKER => Process::AutovacuumWorker,
            pg_sys::BackendType::B_BG_WORKER if !pg_sys::MyBgworkerEntry.is_null() => {
                let entry = &*pg_sys::MyBgworkerEntry;
                let library = CStr::from_ptr(entry.bgw_library_name.as_ptr());
                let function = CStr::from_ptr(entry.bgw_function_name.as_ptr());
                worker(library, function)
            }
            pg_sys::BackendType::B_AUTOVAC_LAUNCHER | pg_sys::BackendType::B_STARTUP => {
                Process::Launcher
            }
            _ => Process::Session,
        }
    }
}

fn worker(library: &'static CStr, function: &'static CStr) -> Process {
    match (library.to_bytes(), function.to_bytes()) {
        (b"postgres", b"ParallelWorkerMain") => Process::ParallelWorker,
        (b"postgres", b"ApplyWorkerMain" | b"TablesyncWorkerMain" | b"ParallelApplyWorkerMain") => {
            Process::ApplyWorker
        }
        _ => Process::Worker { library, function },
    }
}

/// The session's `application_name` as it is now.
pub fn with_application_name<R>(body: impl FnOnce(&[u8]) -> R) -> R {
    // SAFETY: a C string of the settings' machinery, which cannot change during the call; null before the
    // settings are read.
    unsafe {
        if pg_sys::application_name.is_null() {
            body(b"")
        } else {
            body(CStr::from_ptr(pg_sys::application_name).to_bytes())
        }
    }
}

/// Whether this process is on its way out.
pub fn is_ending() -> bool {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::proc_exit_inprogress }
}

/// Ends this process from where it is, without a word; its transaction is rolled back on the way, as
/// after a FATAL error.
pub fn end_quietly() -> ! {
    // SAFETY: what the server itself does after reporting a FATAL error; callbacks that have already begun
    // do not run again.
    unsafe { pg_sys::proc_exit(0) };
    // The bindings of PostgreSQL 18 do not say that it never returns.
    #[allow(unreachable_code)]
    std::process::abort()
}

/// The number of this transaction among those of this process.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub fn local_xid() -> u32 {
    // SAFETY: MyProc is set in every process that can run a transaction.
    unsafe { (*pg_sys::MyProc).lxid }
}

/// The number of this transaction among those of this process.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub fn local_xid() -> u32 {
    // SAFETY: MyProc is set in every process that can run a transaction.
    unsafe { (*pg_sys::MyProc).vxid.lxid }
}

thread_local! {
    /// The transaction that was made read-only here and would not be otherwise.
    static FORCED: Cell<u32> = const { Cell::new(0) };
    /// The transaction of which the client itself has said what it may do.
    static CLAIMED: Cell<u32> = const { Cell::new(0) };
    /// See [`show_read_only`].
    static SHOWN: Cell<Shown> = const { Cell::new(Shown::NOTHING) };
}

/// What this session tells of itself because the node is read-only.
#[derive(Clone, Copy)]
struct Shown {
    /// `default_transaction_read_only` was switched on here, and would be off otherwise.
    is_on: bool,
    /// The transaction that has last changed it here: should it fail, the server puts back what was there.
    by: u32,
    /// The client itself has set it in this transaction.
    is_told: bool,
    /// The client itself had set it off, over an on that would be there otherwise.
    is_off_by_client: bool,
    /// What was there before is to be there again when this transaction is committed.
    is_leaving: bool,
    /// It is: if that is on, it is somebody else's.
    is_taken_back: bool,
}

impl Shown {
    const NOTHING: Self = Self {
        is_on: false,
        by: 0,
        is_told: false,
        is_off_by_client: false,
        is_leaving: false,
        is_taken_back: false,
    };
}

/// Has the session report that its transactions are read-only, or not any more: clients of libpq go by the
/// `default_transaction_read_only` that a server reports when it is connected to, and when that changes.  Before a commit, the first of which
/// is that of connecting.
///
/// It is set as the session's own SET would be, so it goes over what is set for the role and the database, and what
/// those say is there again afterwards.
pub fn show_read_only(on: bool) {
    let shown = SHOWN.get();
    // SAFETY: a variable of this process.
    let is_default = unsafe { pg_sys::DefaultXactReadOnly };
    let set = |value: Option<&CStr>| {
        super::guc::set_for_session(c"default_transaction_read_only", value);
    };
    let by = local_xid();
    if on && !is_default && is_of_client() {
        let is_off_by_client = super::guc::is_on_after_reset(c"default_transaction_read_only");
        set(Some(c"on"));
        SHOWN.set(Shown { is_on: true, by, is_off_by_client, ..Shown::NOTHING });
    } else if shown.is_told {
        // As the client has it, from here on.
    } else if !on && shown.is_on && is_default {
        set(None);
        // SAFETY: as above.  What an operator has set meanwhile for all sessions stays.
        if shown.is_off_by_client && unsafe { pg_sys::DefaultXactReadOnly } {
            set(Some(c"off"));
        }
        SHOWN.set(Shown { by, is_leaving: true, ..shown });
    } else if !on && shown.is_on && shown.by != by {
        SHOWN.set(Shown { is_on: false, ..shown });
    }
}

/// Whether it reports so, or did in the transaction before.
pub fn is_shown() -> bool {
    SHOWN.get().is_on
}

/// Whether this is a client's session that runs statements, and not one that serves another node or streams WAL.
fn is_of_client() -> bool {
    // SAFETY: variables of this process.
    unsafe { !pg_sys::MyProcPort.is_null() && !pg_sys::am_walsender }
}

/// The client itself says what its transactions may do.
pub fn leave_default_to_client() {
    SHOWN.set(Shown { is_told: true, ..SHOWN.get() });
}

/// A transaction is committed: if the client has set it there, it is the client's.
pub fn settle_default() {
    let shown = SHOWN.get();
    let is_on = shown.is_on && !shown.is_told;
    let is_taken_back = shown.is_taken_back || shown.is_leaving;
    SHOWN.set(Shown { is_on, is_told: false, is_leaving: false, is_taken_back, ..shown });
}

/// A transaction is aborted: what the client has set there is not.
pub fn forget_default() {
    SHOWN.set(Shown { is_told: false, is_leaving: false, ..SHOWN.get() });
}

/// Whether this transaction is read-only because it has begun while the session's transactions were to be.
fn is_shown_read_only() -> bool {
    let shown = SHOWN.get();
    let number = local_xid();
    // SAFETY: a variable of this process.
    shown.is_on
        && !shown.is_taken_back
        && shown.by != number
        && CLAIMED.get() != number
        && unsafe { pg_sys::XactReadOnly }
}

/// Makes this transaction read-only.
pub fn force_read_only() {
    // SAFETY: a variable of this process, put back by the server when the transaction ends.
    unsafe {
        if !pg_sys::XactReadOnly || is_shown_read_only() {
            FORCED.set(local_xid());
            pg_sys::XactReadOnly = true;
        }
    }
}

/// Whether this transaction, or one before that nobody looked at since, was made read-only here.
pub fn is_forced_read_only() -> bool {
    FORCED.get() != 0 || SHOWN.get().is_on
}

/// What [`force_read_only`] did is not to be any more.  That is not forgotten before the transaction's end:
/// where a savepoint ends, the server puts back what was there when it began.
pub fn take_back_read_only() {
    if is_shown_read_only() {
        FORCED.set(local_xid());
    }
    match FORCED.get() {
        0 => {}
        // SAFETY: as above; false is what it was.
        number if number == local_xid() => unsafe { pg_sys::XactReadOnly = false },
        _ => FORCED.set(0),
    }
}

/// The client itself says what this transaction may do.
pub fn leave_read_only_to_client() {
    FORCED.set(0);
    CLAIMED.set(local_xid());
}

/// Whether the statement is part of a transaction that goes on after it, or of a savepoint.
pub fn is_in_transaction_block() -> bool {
    // SAFETY: look at variables of this process.
    unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() }
}

/// Forgets that this transaction has looked at temporary tables, so that the server does not empty those
/// made with ON COMMIT DELETE ROWS, which takes a transaction number.
///
/// Only for a transaction that has written nothing and has no number: it cannot have put a row into one.
/// The server itself skips the work for transactions that have not touched temporary tables at all, for
/// the same reason.
pub fn forget_temporary_tables() {
    // SAFETY: a variable of this process, reset at the start of the next transaction.
    unsafe { pg_sys::MyXactFlags &= !(pg_sys::XACT_FLAGS_ACCESSEDTEMPNAMESPACE as i32) }
}

#[cfg(test)]
mod tests {
    use super::{Process, worker};

    #[test]
    fn workers_are_known_by_their_entry_point() {
        assert_eq!(worker(c"postgres", c"ParallelWorkerMain"), Process::ParallelWorker);
        assert_eq!(worker(c"postgres", c"ApplyWorkerMain"), Process::ApplyWorker);
        let other = Process::Worker { library: c"other", function: c"ApplyWorkerMain" };
        assert_eq!(worker(c"other", c"ApplyWorkerMain"), other);
    }
}
