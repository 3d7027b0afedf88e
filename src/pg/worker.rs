//! Background workers: registering, starting up, transactions, caught errors.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgTryBuilder, pg_guard};

use super::{interrupts, small_table};
use crate::report::Report;

/// A worker that was registered.
pub struct Handle(*mut pg_sys::BackgroundWorkerHandle);

/// What the postmaster says of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Registered, not yet started.
    NotYetStarted,
    /// Running.
    Started,
    /// Gone, or never came up.
    Stopped,
    /// The postmaster itself is gone.
    PostmasterDied,
}

impl Handle {
    /// Asks without waiting.  The requestor's latch is set whenever the answer changes.
    pub fn status(&self) -> Status {
        let mut pid = 0;
        // SAFETY: the handle came from register() and lives as long as this value's context.
        match unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) } {
            pg_sys::BgwHandleStatus::BGWH_STARTED => Status::Started,
            pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED => Status::NotYetStarted,
            pg_sys::BgwHandleStatus::BGWH_STOPPED => Status::Stopped,
            _ => Status::PostmasterDied,
        }
    }
}

/// A kind of worker.
#[derive(Debug)]
pub struct Worker {
    /// `backend_type` in `pg_stat_activity`, and what tells the kinds apart.
    pub kind: &'static CStr,
    /// What the new process does, with what it is given.
    pub run: fn(argument: i32, extra: u64),
}

static WORKERS: OnceLock<&'static [&'static Worker]> = OnceLock::new();

/// Makes the kinds known to the processes that are to be one of them.  Call from `_PG_init`, always: the
/// process of a worker calls that too, where the library is not preloaded.
pub fn install(workers: &'static [&'static Worker]) {
    let _ = WORKERS.set(workers);
}

/// What a worker is called and given.
pub struct Spec<'a> {
    /// Which kind; it must be among those that are installed.
    pub worker: &'static Worker,
    /// Its name in the log and in the process list.
    pub name: &'a str,
    /// Handed to it.
    pub argument: i32,
    /// Handed over as `bgw_extra`, as it lies in memory.
    pub extra: u64,
    /// Whether it is started again, at once after a crash of the server, and a minute after an error that has ended the
    /// process, until it ends by itself.
    pub returns: bool,
}

/// Registers a worker that runs once.  `None` where `max_worker_processes` are in use.
pub fn register(spec: &Spec<'_>) -> Option<Handle> {
    let mut entry = entry(spec.worker, spec.name);
    entry.bgw_restart_time = if spec.returns { RETURN_S } else { pg_sys::BGW_NEVER_RESTART };
    entry.bgw_main_arg = pg_sys::Datum::from(spec.argument);
    for (to, from) in entry.bgw_extra.iter_mut().zip(spec.extra.to_ne_bytes()) {
        *to = from as core::ffi::c_char;
    }
    // SAFETY: the server copies the struct.  The handle is allocated in the current memory context, that of the
    // statement that waits for the worker.
    unsafe {
        entry.bgw_notify_pid = pg_sys::MyProcPid;
        let mut handle = std::ptr::null_mut();
        pg_sys::RegisterDynamicBackgroundWorker(&mut entry, &mut handle).then_some(Handle(handle))
    }
}

/// Has the postmaster start a worker when the server takes writes: at this start, or when it is promoted.  It runs
/// once.  Call from `_PG_init` while the library is being preloaded.
pub fn register_static(worker: &'static Worker) {
    let mut entry = entry(worker, &worker.kind.to_string_lossy());
    // SAFETY: the server copies the struct.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut entry) }
}

/// What both say of a worker: it starts when the server takes writes, runs once and is given nothing.
fn entry(worker: &'static Worker, name: &str) -> pg_sys::BackgroundWorker {
    // SAFETY: plain data, for which zeros are valid.
    let mut entry: pg_sys::BackgroundWorker = unsafe { std::mem::zeroed() };
    copy_text(&mut entry.bgw_name, name.as_bytes());
    copy_text(&mut entry.bgw_type, worker.kind.to_bytes());
    copy_text(&mut entry.bgw_library_name, LIBRARY.as_bytes());
    copy_text(&mut entry.bgw_function_name, ENTRY_POINT.as_bytes());
    entry.bgw_flags =
        (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32;
    entry.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    entry.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
    entry
}

/// Connects this worker to no database in particular: it sees what the whole server shares.
pub fn connect_to_none() {
    // SAFETY: called once, first thing in a worker; null stands for no database and the bootstrap superuser.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    }
    no_transaction_timeout();
}

/// The databases that take connections and are no templates, inside a transaction.  Needs no database.
pub fn databases() -> Vec<u32> {
    let look = |_, row| {
        // SAFETY: a row of that relation is laid out as the struct says, up to the fields that are read here.
        let database = unsafe { &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_database>() };
        (database.datallowconn && !database.datistemplate).then(|| database.oid.to_u32())
    };
    // By their place and not by their names, which only a database has.
    small_table::each_row(pg_sys::DatabaseRelationId, look).into_iter().flatten().collect()
}

/// After how many seconds a worker that returns is started again.  What it dies of may last: a database that is gone.
const RETURN_S: i32 = 60;

fn copy_text(to: &mut [core::ffi::c_char], text: &[u8]) {
    let room = to.len() - 1;
    for (to, from) in to[..room].iter_mut().zip(text) {
        *to = *from as core::ffi::c_char;
    }
}

/// This library, as its package is called.
const LIBRARY: &str = env!("CARGO_PKG_NAME");
const ENTRY_POINT: &str = concat!(env!("CARGO_PKG_NAME"), "_worker");

/// The entry point of all workers: the server finds it by this name.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn citus_fence_worker(argument: pg_sys::Datum) {
    let mut extra = [0u8; 8];
    // SAFETY: MyBgworkerEntry is set in every background worker; its texts are C strings.
    let worker = unsafe {
        let entry = &*pg_sys::MyBgworkerEntry;
        for (to, from) in extra.iter_mut().zip(entry.bgw_extra) {
            *to = from as u8;
        }
        let kind = CStr::from_ptr(entry.bgw_type.as_ptr());
        WORKERS.get().and_then(|workers| workers.iter().find(|worker| worker.kind == kind))
    };
    if let Some(worker) = worker {
        (worker.run)(argument.value() as i32, u64::from_ne_bytes(extra));
    }
}

/// Connects this worker to a database as a role; role 0 is the bootstrap superuser.  Ends the process where either is
/// gone.
pub fn connect(database: u32, role: u32) {
    // SAFETY: called once, first thing in a worker.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database),
            pg_sys::Oid::from(role),
            0,
        );
    }
    no_transaction_timeout();
}

/// A worker's transaction lasts as long as the worker wants, whatever the server's default is.
#[cfg(any(feature = "pg17", feature = "pg18"))]
fn no_transaction_timeout() {
    // SAFETY: the setting exists since PostgreSQL 17; both texts are C strings.
    unsafe {
        pg_sys::SetConfigOption(
            c"transaction_timeout".as_ptr(),
            c"0".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// There is no such setting before PostgreSQL 17.
#[cfg(any(feature = "pg15", feature = "pg16"))]
fn no_transaction_timeout() {}

/// Runs `body` and catches whatever error it raises.  The transaction it ran in must be aborted
/// afterwards: only that lets go of what the error left behind, lightweight locks included.
pub fn catch<R>(body: impl FnOnce() -> R) -> Result<R, Report> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(body())))
        .catch_others(|error| Err(caught(&error)))
        .catch_rust_panic(|error| Err(caught(&error)))
        .execute()
}

fn caught(error: &CaughtError) -> Report {
    let report = match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report,
    };
    Report {
        sqlstate: report.sql_error_code(),
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
    }
}

/// A transaction of this worker.  It is aborted when dropped, in any state, and its locks go with it.
/// There is at most one at a time.
pub struct Transaction(());

impl Transaction {
    /// Begins one.
    pub fn begin() -> Self {
        // SAFETY: a worker between transactions; the counterpart is in Drop.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            // Whatever the default is: a snapshot kept for the whole transaction would hold up vacuum
            // for as long as that lasts.
            pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
        }
        let this = Self(());
        this.set_local(c"search_path", "pg_catalog");
        this
    }

    /// Whatever transaction an error left open, to be aborted by dropping it.
    pub fn adopt_open() -> Self {
        Self(())
    }

    /// Sets a setting until the transaction ends.
    pub fn set_local(&self, name: &CStr, value: &str) {
        let Ok(value) = std::ffi::CString::new(value) else { return };
        // SAFETY: both are C strings, copied by the server.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_LOCAL,
                true,
                0,
                false,
            );
        }
    }

    /// Bounds the waits for locks that come next.
    pub fn set_lock_timeout(&self, bound: Duration) {
        let ms = bound.as_millis().clamp(1, i32::MAX as u128);
        self.set_local(c"lock_timeout", &ms.to_string());
    }

    /// Runs `body` in it: no wait for a lock lasts longer than `bound`, and a cancel or a termination of the worker
    /// ends it, and so does the SIGINT of somebody who has made `stop` true.  After an error only dropping the
    /// transaction is left to do.
    pub fn bounded<R>(
        &self,
        bound: Duration,
        stop: impl FnOnce() -> bool,
        body: impl FnOnce() -> R,
    ) -> Result<R, Report> {
        self.set_lock_timeout(bound);
        catch(|| interrupts::cancellable(stop, body))
    }

    /// Runs `body` in it, under a snapshot taken now, so that its queries see everything committed so far,
    /// whichever isolation level is the default.
    pub fn with_latest_snapshot<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: inside this transaction.  If the body raises an error the abort pops the snapshot.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) }
        let result = body();
        // SAFETY: pushed above; the body leaves the stack as it was.
        unsafe { pg_sys::PopActiveSnapshot() }
        result
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // SAFETY: aborts whatever is open, or does nothing.
        unsafe { pg_sys::AbortOutOfAnyTransaction() }
    }
}

/// Forgets the snapshot that catalogs were last read with.  It would be taken anew by itself; kept, it holds back
/// what vacuum may remove.
pub fn forget_snapshot() {
    // SAFETY: only drops what this process holds, and nothing is being read.
    unsafe { pg_sys::InvalidateCatalogSnapshot() }
}

/// Tells `pg_stat_activity` what this worker does.
pub fn report_activity(what: &str) {
    let Ok(what) = std::ffi::CString::new(what) else { return };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, what.as_ptr()) }
}

/// Reads the settings files again if the server was told to.
pub fn reload_settings() {
    // SAFETY: as every worker does; the flag is set by the SIGHUP handler.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
