//! What kind of process this is, and where it stands.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use pgrx::{PgTryBuilder, pg_sys};

/// Kinds of processes that run transactions, as far as the gate tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody's session, or a background worker of another extension that runs somebody's statements.
    Session,
    /// A background worker of Citus, or of this extension.
    Citus,
    /// An autovacuum worker: writes without statements, and is started anew by itself.
    Autovacuum,
    /// An apply worker of logical replication: likewise.
    Apply,
    /// A parallel worker, whose leader answers for it; or a process that never writes.
    Exempt,
}

/// The kind of this process, which never changes.
pub fn kind() -> Kind {
    static KIND: OnceLock<Kind> = OnceLock::new();
    *KIND.get_or_init(find_kind)
}

fn find_kind() -> Kind {
    // SAFETY: variables of this process, set before it can run a transaction; the entry of a background
    // worker is valid for all of its life.
    unsafe {
        match pg_sys::MyBackendType {
            pg_sys::BackendType::B_AUTOVAC_WORKER => Kind::Autovacuum,
            pg_sys::BackendType::B_BG_WORKER if !pg_sys::MyBgworkerEntry.is_null() => {
                let entry = &*pg_sys::MyBgworkerEntry;
                let library = CStr::from_ptr(entry.bgw_library_name.as_ptr()).to_bytes();
                let function = CStr::from_ptr(entry.bgw_function_name.as_ptr()).to_bytes();
                kind_of_worker(library, function)
            }
            pg_sys::BackendType::B_AUTOVAC_LAUNCHER | pg_sys::BackendType::B_STARTUP => {
                Kind::Exempt
            }
            _ => Kind::Session,
        }
    }
}

fn kind_of_worker(library: &[u8], function: &[u8]) -> Kind {
    match (library, function) {
        (b"postgres", b"ParallelWorkerMain") => Kind::Exempt,
        (b"postgres", b"ApplyWorkerMain" | b"TablesyncWorkerMain" | b"ParallelApplyWorkerMain") => {
            Kind::Apply
        }
        (b"citus" | b"citus_fence", _) => Kind::Citus,
        _ => Kind::Session,
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
}

/// Makes this transaction read-only.
pub fn force_read_only() {
    // SAFETY: a variable of this process, put back by the server when the transaction ends.
    unsafe {
        if !pg_sys::XactReadOnly {
            FORCED.set(local_xid());
            pg_sys::XactReadOnly = true;
        }
    }
}

/// Whether this transaction, or one before that nobody looked at since, was made read-only here.
pub fn is_forced_read_only() -> bool {
    FORCED.get() != 0
}

/// The same transaction goes on on a node that writes again: a switch was given up, or is over.  That is not
/// forgotten before its end: where a savepoint ends, the server puts back what was there when it began.
pub fn take_back_read_only() {
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
}

/// Whether the session's role is a superuser.
pub fn is_superuser() -> bool {
    // SAFETY: a look-up in the system cache.
    unsafe { pg_sys::superuser() }
}

/// Forgets that this transaction has looked at temporary tables, so that the server does not empty those
/// made with ON COMMIT DELETE ROWS, which takes a transaction number.
///
/// Only for a transaction that has passed no gate and has no number: it cannot have put a row into one.
/// The server itself skips the work for transactions that have not touched temporary tables at all, for
/// the same reason.
pub fn forget_temporary_tables() {
    // SAFETY: a variable of this process, reset at the start of the next transaction.
    unsafe { pg_sys::MyXactFlags &= !(pg_sys::XACT_FLAGS_ACCESSEDTEMPNAMESPACE as i32) }
}

/// Whether Citus will write commit records when this transaction commits.  It takes a transaction number
/// for that later than anyone else.
///
/// `may_be_distributed`: the transaction has done something that Citus may have sent to other nodes.
pub fn citus_will_commit_in_two_phases(may_be_distributed: bool) -> bool {
    static FUNCTIONS: OnceLock<CitusFunctions> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(CitusFunctions::find);
    if let Some(function) = functions.plain {
        // SAFETY: it takes nothing and reads a variable.
        return unsafe { function() };
    }
    // The other one raises an error outside of distributed transactions, so it is not asked lightly.
    may_be_distributed
        && functions.for_sql.is_some_and(|function| {
            PgTryBuilder::new(|| {
                // SAFETY: the function does not look at its call information; errors of C code are turned
                // into unwinding by the boundary.
                unsafe {
                    pg_sys::ffi::pg_guard_ffi_boundary(|| {
                        function(std::ptr::null_mut()).value() != 0
                    })
                }
            })
            .catch_others(|_| false)
            .execute()
        })
}

/// Where Citus says whether it will write commit records.  Servers from PostgreSQL 16 on build libraries
/// so that only functions for SQL can be found from outside.
#[derive(Clone, Copy)]
struct CitusFunctions {
    plain: Option<unsafe extern "C-unwind" fn() -> bool>,
    for_sql: Option<unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum>,
}

impl CitusFunctions {
    fn find() -> Self {
        if !preloads("citus") {
            return Self { plain: None, for_sql: None };
        }
        let look_up = |name: &CStr| {
            // SAFETY: the library is loaded already, so this only looks the symbol up.
            let function = unsafe {
                pg_sys::load_external_function(
                    c"$libdir/citus".as_ptr(),
                    name.as_ptr(),
                    false,
                    std::ptr::null_mut(),
                )
            };
            (!function.is_null()).then_some(function)
        };
        // SAFETY: the functions' types in Citus 11.3 to 14.
        unsafe {
            Self {
                plain: look_up(c"GetCoordinatedTransactionShouldUse2PC").map(|function| {
                    std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn() -> bool>(
                        function.cast(),
                    )
                }),
                for_sql: look_up(c"coordinated_transaction_should_use_2PC").map(|function| {
                    std::mem::transmute::<
                        *mut c_void,
                        unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum,
                    >(function.cast())
                }),
            }
        }
    }
}

/// Libraries of `shared_preload_libraries`, in order.
pub fn preloaded() -> Vec<String> {
    // SAFETY: a C string of the settings' machinery, or null; copied at once.
    let list = unsafe {
        if pg_sys::shared_preload_libraries_string.is_null() {
            return Vec::new();
        }
        CStr::from_ptr(pg_sys::shared_preload_libraries_string).to_string_lossy().into_owned()
    };
    list.split(',').map(library_name).collect()
}

/// How often Citus' maintenance daemon does what writes.
const INTERVALS: [&CStr; 3] = [
    c"citus.background_task_queue_interval",
    c"citus.defer_shard_delete_interval",
    c"citus.recover_2pc_interval",
];

thread_local! {
    /// They are switched off here.
    static KEPT_OFF: Cell<bool> = const { Cell::new(false) };
}

/// On a read-only node this work would fail at its commit, and the daemon with it, every few seconds anew.
/// So the daemon, for which this is called whenever it commits something, the first time when it has
/// connected to its database, is told to leave it until the node writes again.
///
/// What the configuration files say goes on to be read underneath, so it is what they say by then that counts.
pub fn keep_citus_from_writing(keep: bool) {
    if !keep && !KEPT_OFF.get() {
        return;
    }
    KEPT_OFF.set(keep);
    for name in INTERVALS {
        // Not every release of Citus has all of them.
        if name.to_str().ok().and_then(super::guc::read).is_some() {
            set_in_this_process(name, keep.then_some(c"-1"));
        }
    }
}

/// Sets a setting that otherwise only the configuration files set, or takes that back.
fn set_in_this_process(name: &CStr, value: Option<&CStr>) {
    // SAFETY: a C string, and another or null, which stands for what the files say; copied by the server.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.map_or(std::ptr::null(), CStr::as_ptr),
            pg_sys::GucContext::PGC_SIGHUP,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Whether Citus is loaded into every process of this server.
pub fn has_citus() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| preloaded().iter().any(|library| library == "citus"))
}

/// The name in an entry of the list, without quotes, directory and ending.
fn library_name(entry: &str) -> String {
    let entry = entry.trim().trim_matches('"');
    let file = entry.rsplit('/').next().unwrap_or(entry);
    file.strip_suffix(".so").unwrap_or(file).to_owned()
}

fn preloads(library: &str) -> bool {
    preloaded().iter().any(|name| name == library)
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind_of_worker, library_name};

    #[test]
    fn workers_are_known_by_their_entry_point() {
        assert_eq!(kind_of_worker(b"postgres", b"ParallelWorkerMain"), Kind::Exempt);
        assert_eq!(kind_of_worker(b"postgres", b"ApplyWorkerMain"), Kind::Apply);
        assert_eq!(kind_of_worker(b"citus", b"CitusMaintenanceDaemonMain"), Kind::Citus);
        assert_eq!(kind_of_worker(b"pg_cron", b"CronBackgroundWorker"), Kind::Session);
    }

    #[test]
    fn libraries_are_known_however_they_are_written() {
        for entry in ["citus", " citus ", "\"citus\"", "$libdir/citus", "'$libdir/citus.so"] {
            assert_eq!(library_name(entry), "citus", "{entry}");
        }
    }
}
