//! The only unsafe code of this crate: libpq through `libpq-sys`, and poll(2).
//!
//! What every block relies on:
//! * A [`LibPq`] owns its `PGconn`, which is never null and freed only by its Drop; `&mut self`
//!   keeps two calls from meeting, and the raw pointer keeps it on one thread.
//! * A [`OwnedResult`] owns its `PGresult` in the same way. Everything that is returned is copied
//!   out of libpq's memory before that memory can change.
//! * Strings from libpq are zero-terminated or null.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::time::Duration;

use libpq_sys as pq;

use crate::conninfo::ConnParams;
use crate::pq::{
    ConnStatus, CopyStep, Flush, Peer, PollStep, Pq, PqFailure, PqResult, ServerError, Severity,
    SqlState, StartError, TransactionStatus,
};
use crate::reply::ResultSet;
use crate::wait::Interest;

/// The same functions as in `libpq_sys`, but with their enums as plain integers: a libpq that is
/// newer than the headers of the build may return values the generated enums do not have, and such
/// a value in a Rust enum is undefined behaviour.
mod raw {
    use super::{c_int, pq};

    // SAFETY: libpq's prototypes, but for the enums, which are C ints for every ABI in question.
    unsafe extern "C" {
        pub(super) fn PQstatus(conn: *const pq::PGconn) -> c_int;
        pub(super) fn PQconnectPoll(conn: *mut pq::PGconn) -> c_int;
        pub(super) fn PQtransactionStatus(conn: *const pq::PGconn) -> c_int;
        pub(super) fn PQresultStatus(result: *const pq::PGresult) -> c_int;
    }
}

/// `ConnStatusType`, whose members keep their numbers from version to version.
const CONNECTION_OK: c_int = 0;
const CONNECTION_BAD: c_int = 1;
const CONNECTION_STARTED: c_int = 2;
const CONNECTION_AWAITING_RESPONSE: c_int = 4;
const CONNECTION_AUTH_OK: c_int = 5;
const CONNECTION_NEEDED: c_int = 8;

/// `PostgresPollingStatusType`.
const POLLING_READING: c_int = 1;
const POLLING_WRITING: c_int = 2;
const POLLING_OK: c_int = 3;

/// `PGTransactionStatusType`.
const TRANSACTION_IDLE: c_int = 0;
const TRANSACTION_ACTIVE: c_int = 1;
const TRANSACTION_INTRANS: c_int = 2;
const TRANSACTION_INERROR: c_int = 3;

/// `ExecStatusType`.
const RESULT_EMPTY_QUERY: c_int = 0;
const RESULT_COMMAND_OK: c_int = 1;
const RESULT_TUPLES_OK: c_int = 2;
const RESULT_COPY_OUT: c_int = 3;
const RESULT_COPY_IN: c_int = 4;
const RESULT_BAD_RESPONSE: c_int = 5;
const RESULT_FATAL_ERROR: c_int = 7;
const RESULT_COPY_BOTH: c_int = 8;

/// What a server said before it closed a session, put there by [`keep_last_words`].
type LastWords = RefCell<Option<ServerError>>;

/// A connection of libpq. Dropping it is `PQfinish`.
pub struct LibPq {
    conn: NonNull<pq::PGconn>,
    /// From a Box; libpq's notice receiver has the same pointer.
    last_words: NonNull<LastWords>,
    /// libpq is not to see the environment's `PG*`.
    without_environment: bool,
}

// SAFETY: libpq lets any thread use a connection, one at a time, which owning it makes sure of. What its notice receiver
// writes to is this connection's alone, and is written by whoever calls libpq with it.
unsafe impl Send for LibPq {}

impl Drop for LibPq {
    fn drop(&mut self) {
        // SAFETY: owned and not used again. The box outlives the connection that points to it.
        unsafe {
            pq::PQfinish(self.conn.as_ptr());
            drop(Box::from_raw(self.last_words.as_ptr()));
        }
    }
}

impl Pq for LibPq {
    fn start(params: &ConnParams) -> Result<Self, StartError> {
        let pairs = params.to_c().map_err(StartError::ConnInfo)?;
        let end = std::iter::once(ptr::null());
        let keywords: Vec<*const c_char> =
            pairs.iter().map(|(keyword, _)| keyword.as_ptr()).chain(end.clone()).collect();
        let values: Vec<*const c_char> =
            pairs.iter().map(|(_, value)| value.as_ptr()).chain(end).collect();
        // SAFETY: both arrays end with null and outlive the call, as do the strings. Zero: the
        // database name is a name, never a connection string that would change the rest.
        let start = || unsafe { pq::PQconnectStartParams(keywords.as_ptr(), values.as_ptr(), 0) };
        let without_environment = params.without_environment();
        let conn = if without_environment { environment::hidden_from(start) } else { start() };
        let conn = NonNull::new(conn).ok_or(StartError::NoMemory)?;
        let last_words = NonNull::from(Box::leak(Box::new(LastWords::default())));
        let this = Self { conn, last_words, without_environment };
        // SAFETY: the receiver's argument lives until after PQfinish. Verbose messages hold the
        // SQLSTATE, which libpq gives in no other way for a connection that was refused.
        unsafe {
            let argument = this.last_words.as_ptr().cast::<c_void>();
            pq::PQsetNoticeReceiver(conn.as_ptr(), Some(keep_last_words), argument);
            pq::PQsetErrorVerbosity(conn.as_ptr(), pq::PGVerbosity::PQERRORS_VERBOSE);
        }
        Ok(this)
    }

    fn connect_poll(&mut self) -> PollStep {
        // SAFETY: see the head of the file.
        let poll = || unsafe { raw::PQconnectPoll(self.conn.as_ptr()) };
        // The start-up packet has settings in it that are read from the environment only now.
        match if self.without_environment { environment::hidden_from(poll) } else { poll() } {
            POLLING_READING => PollStep::Read,
            POLLING_WRITING => PollStep::Write,
            POLLING_OK => PollStep::Ready,
            _ => PollStep::Failed,
        }
    }

    fn socket(&self) -> Option<RawFd> {
        // SAFETY: see the head of the file.
        let socket = unsafe { pq::PQsocket(self.conn.as_ptr()) };
        (socket >= 0).then_some(socket)
    }

    fn status(&self) -> ConnStatus {
        // SAFETY: see the head of the file.
        match unsafe { raw::PQstatus(self.conn.as_ptr()) } {
            CONNECTION_OK => ConnStatus::Ok,
            CONNECTION_BAD => ConnStatus::Bad,
            CONNECTION_STARTED | CONNECTION_NEEDED => ConnStatus::Reaching,
            CONNECTION_AWAITING_RESPONSE | CONNECTION_AUTH_OK => ConnStatus::Introduced,
            _ => ConnStatus::Answering,
        }
    }

    fn peer(&self) -> Option<Peer> {
        let conn = self.conn.as_ptr();
        // SAFETY: see the head of the file; the strings are copied.
        let (host, address, port) =
            unsafe { (text(pq::PQhost(conn)), text(pq::PQhostaddr(conn)), text(pq::PQport(conn))) };
        Some(Peer {
            host: host.filter(|host| !host.is_empty())?,
            address: address.filter(|address| !address.is_empty()),
            port: port?.parse().ok()?,
        })
    }

    fn error_message(&self) -> String {
        // SAFETY: see the head of the file; the string is copied.
        unsafe { text(pq::PQerrorMessage(self.conn.as_ptr())) }.unwrap_or_default()
    }

    fn needs_password(&self) -> bool {
        // SAFETY: see the head of the file.
        unsafe { pq::PQconnectionNeedsPassword(self.conn.as_ptr()) != 0 }
    }

    fn transaction_status(&self) -> TransactionStatus {
        // SAFETY: see the head of the file.
        match unsafe { raw::PQtransactionStatus(self.conn.as_ptr()) } {
            TRANSACTION_IDLE => TransactionStatus::Idle,
            TRANSACTION_ACTIVE => TransactionStatus::Active,
            TRANSACTION_INTRANS => TransactionStatus::InTransaction,
            TRANSACTION_INERROR => TransactionStatus::InError,
            _ => TransactionStatus::Unknown,
        }
    }

    fn backend_pid(&self) -> i32 {
        // SAFETY: see the head of the file.
        unsafe { pq::PQbackendPID(self.conn.as_ptr()) }
    }

    fn set_nonblocking(&mut self) -> Result<(), PqFailure> {
        // SAFETY: see the head of the file.
        match unsafe { pq::PQsetnonblocking(self.conn.as_ptr(), 1) } {
            0 => Ok(()),
            _ => Err(PqFailure),
        }
    }

    fn send_query(&mut self, sql: &CStr) -> Result<(), PqFailure> {
        // SAFETY: see the head of the file; libpq copies the text.
        success(unsafe { pq::PQsendQuery(self.conn.as_ptr(), sql.as_ptr()) })
    }

    fn send_query_params(
        &mut self,
        sql: &CStr,
        params: &[Option<CString>],
    ) -> Result<(), PqFailure> {
        let values: Vec<*const c_char> = params
            .iter()
            .map(|value| value.as_ref().map_or(ptr::null(), |value| value.as_ptr()))
            .collect();
        // More than an int can count: the server would refuse far fewer.
        let count = c_int::try_from(values.len()).map_err(|_| PqFailure)?;
        // SAFETY: see the head of the file; `values` has `count` elements, null ones are NULL. No
        // types: the server infers them. No lengths and formats: everything is text.
        let code = unsafe {
            pq::PQsendQueryParams(
                self.conn.as_ptr(),
                sql.as_ptr(),
                count,
                ptr::null(),
                values.as_ptr(),
                ptr::null(),
                ptr::null(),
                0,
            )
        };
        success(code)
    }

    fn flush(&mut self) -> Result<Flush, PqFailure> {
        // SAFETY: see the head of the file.
        match unsafe { pq::PQflush(self.conn.as_ptr()) } {
            0 => Ok(Flush::Done),
            1 => Ok(Flush::Pending),
            _ => Err(PqFailure),
        }
    }

    fn consume_input(&mut self) -> Result<(), PqFailure> {
        // SAFETY: see the head of the file.
        success(unsafe { pq::PQconsumeInput(self.conn.as_ptr()) })
    }

    fn is_busy(&mut self) -> bool {
        // SAFETY: see the head of the file.
        unsafe { pq::PQisBusy(self.conn.as_ptr()) != 0 }
    }

    fn get_result(&mut self) -> Option<PqResult> {
        // SAFETY: see the head of the file; what is returned is ours to free.
        let result = unsafe { pq::PQgetResult(self.conn.as_ptr()) };
        NonNull::new(result).map(|result| OwnedResult(result).to_plain())
    }

    fn get_copy_data(&mut self, sink: &mut dyn FnMut(&[u8])) -> CopyStep {
        /// A row of libpq's, freed when dropped, also where the sink unwinds.
        struct Row(NonNull<c_char>);
        impl Drop for Row {
            fn drop(&mut self) {
                // SAFETY: from PQgetCopyData, and not used again.
                unsafe { pq::PQfreemem(self.0.as_ptr().cast()) };
            }
        }
        let mut buffer: *mut c_char = ptr::null_mut();
        // SAFETY: see the head of the file; a place for the row, which is ours to free.
        let length = unsafe { pq::PQgetCopyData(self.conn.as_ptr(), &raw mut buffer, 1) };
        let row = NonNull::new(buffer).map(Row);
        match (usize::try_from(length), row) {
            (Ok(0), _) => CopyStep::Pending,
            (Ok(length), Some(row)) => {
                // SAFETY: libpq's memory of that length, alive until `row` is dropped.
                sink(unsafe { std::slice::from_raw_parts(row.0.as_ptr().cast::<u8>(), length) });
                CopyStep::Row
            }
            // -1 is the end, -2 an error: either way the result that follows tells.
            _ => CopyStep::End,
        }
    }

    fn put_copy_data(&mut self, data: &[u8]) -> Result<(), PqFailure> {
        let length = c_int::try_from(data.len()).map_err(|_| PqFailure)?;
        // SAFETY: see the head of the file; libpq copies that many bytes and keeps no pointer to them.
        success(unsafe { pq::PQputCopyData(self.conn.as_ptr(), data.as_ptr().cast(), length) })
    }

    fn put_copy_end(&mut self) -> Result<(), PqFailure> {
        // SAFETY: see the head of the file; no message says that the COPY is to succeed.
        success(unsafe { pq::PQputCopyEnd(self.conn.as_ptr(), ptr::null()) })
    }

    fn take_last_words(&mut self) -> Option<ServerError> {
        // SAFETY: the box lives as long as `self`, and libpq only uses it during a call.
        unsafe { self.last_words.as_ref() }.take()
    }
}

/// The environment, without what libpq would take from it.
///
/// Setting a keyword is not enough: libpq takes an empty value for none, has variables that no keyword stands
/// for (`PGSERVICE`, `PGTZ`, `PGDATESTYLE`), and each of its releases has more of them.
mod environment {
    use std::ffi::{CStr, c_char};
    use std::sync::{Mutex, PoisonError};

    // SAFETY: as POSIX has it.
    unsafe extern "C" {
        static mut environ: *mut *mut c_char;
    }

    /// Lists that have stood in for the environment, as addresses; they stay for ever, so that whoever reads the
    /// environment beside this reads one that there is.
    static STAND_INS: Mutex<Vec<&'static [usize]>> = Mutex::new(Vec::new());

    /// Puts the environment back when dropped.
    struct PutBack(*mut *mut c_char);

    impl Drop for PutBack {
        fn drop(&mut self) {
            // SAFETY: what was there before; the lock of the list is still held.
            unsafe { environ = self.0 }
        }
    }

    /// Calls libpq, which sees no `PG*` meanwhile. A server process has one thread; where there are more, these
    /// calls are one at a time.
    pub(super) fn hidden_from<R>(call: impl FnOnce() -> R) -> R {
        let mut stand_ins = STAND_INS.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a pointer to a list of strings that ends with null, or null.
        let whole = unsafe { environ };
        let mut kept: Vec<usize> = Vec::new();
        let mut next = whole;
        // SAFETY: no step goes beyond the null at the end of the list.
        unsafe {
            while !next.is_null() && !(*next).is_null() {
                if !is_hidden(CStr::from_ptr(*next).to_bytes()) {
                    kept.push((*next).expose_provenance());
                }
                next = next.add(1);
            }
        }
        kept.push(0);
        let known = stand_ins.iter().find(|list| **list == kept.as_slice()).copied();
        let stand_in = known.unwrap_or_else(|| {
            let list: &'static [usize] = kept.leak();
            stand_ins.push(list);
            list
        });
        let put_back = PutBack(whole);
        // SAFETY: a list of such strings, or of one with null at its end. Nobody writes to it: whoever sets a
        // variable meanwhile makes a list of his own first.
        unsafe { environ = stand_in.as_ptr().cast_mut().cast::<*mut c_char>() }
        let result = call();
        drop(put_back);
        drop(stand_ins);
        result
    }

    fn is_hidden(entry: &[u8]) -> bool {
        entry.starts_with(b"PG") && !entry.starts_with(b"PGPASSFILE=")
    }
}

/// The variables of the environment that keywords stand for, in the libpq that is loaded.
#[cfg(test)]
pub(super) fn environment_variables() -> Vec<String> {
    // SAFETY: an array that ends with an option whose keyword is null, freed at the end; the strings are copied.
    unsafe {
        let options = pq::PQconndefaults();
        let mut variables = Vec::new();
        let mut option = options;
        while !(*option).keyword.is_null() {
            variables.extend(text((*option).envvar));
            option = option.add(1);
        }
        pq::PQconninfoFree(options);
        variables
    }
}

/// What a connection goes by, each with its keyword.
#[cfg(test)]
pub(super) fn goes_by(conn: &LibPq) -> Vec<(String, String)> {
    // SAFETY: as above.
    unsafe {
        let options = pq::PQconninfo(conn.conn.as_ptr());
        let mut pairs = Vec::new();
        let mut option = options;
        while !(*option).keyword.is_null() {
            if let (Some(keyword), Some(value)) = (text((*option).keyword), text((*option).val)) {
                pairs.push((keyword, value));
            }
            option = option.add(1);
        }
        pq::PQconninfoFree(options);
        pairs
    }
}

/// A return code of libpq that is 1 for success and 0 for failure.
fn success(code: c_int) -> Result<(), PqFailure> {
    if code == 1 { Ok(()) } else { Err(PqFailure) }
}

/// The notice receiver: keeps an error that ends the session, drops everything else, prints
/// nothing. libpq delivers an error as a notice when no command is running; and a server process
/// that has to leave in a hurry (crash of another one, immediate shutdown) says so in a WARNING.
///
/// # Safety
/// `argument` points to a living [`LastWords`], `result` to a result that libpq owns.
unsafe extern "C" fn keep_last_words(argument: *mut c_void, result: *const pq::PGresult) {
    // SAFETY: as the function's own contract; the receiver is set with such an argument only. A
    // panic cannot happen: nobody holds a borrow of the cell during a libpq call.
    unsafe {
        let Some(mut error) = server_error(result) else {
            return;
        };
        if error.sqlstate.is_some_and(SqlState::is_shutdown) {
            error.severity = Severity::Fatal;
        }
        if error.severity != Severity::Error
            && let Ok(mut kept) = (*argument.cast::<LastWords>()).try_borrow_mut()
        {
            kept.get_or_insert(error);
        }
    }
}

/// A result of libpq, freed when dropped.
struct OwnedResult(NonNull<pq::PGresult>);

impl Drop for OwnedResult {
    fn drop(&mut self) {
        // SAFETY: owned and not used again.
        unsafe { pq::PQclear(self.0.as_ptr()) };
    }
}

impl OwnedResult {
    /// A copy as plain values.
    fn to_plain(&self) -> PqResult {
        // SAFETY: see the head of the file.
        match unsafe { raw::PQresultStatus(self.0.as_ptr()) } {
            RESULT_EMPTY_QUERY | RESULT_COMMAND_OK | RESULT_TUPLES_OK => {
                PqResult::Set(self.to_set())
            }
            RESULT_COPY_OUT => PqResult::CopyOut,
            RESULT_COPY_IN => PqResult::CopyIn,
            RESULT_COPY_BOTH => PqResult::Copy,
            RESULT_FATAL_ERROR | RESULT_BAD_RESPONSE => PqResult::Error(self.to_error()),
            _ => PqResult::Unexpected,
        }
    }

    /// The error this result is. libpq's own errors have a message and nothing else.
    fn to_error(&self) -> ServerError {
        let result = self.0.as_ptr();
        // SAFETY: see the head of the file; strings are copied.
        unsafe {
            server_error(result).unwrap_or_else(|| ServerError {
                severity: Severity::Error,
                sqlstate: None,
                message: text(pq::PQresultErrorMessage(result)).unwrap_or_default(),
                detail: None,
                hint: None,
                context: None,
            })
        }
    }

    /// The rows and the tag of a statement that was executed.
    fn to_set(&self) -> ResultSet {
        let result = self.0.as_ptr();
        // SAFETY: see the head of the file; row and column numbers are below the counts that libpq
        // gives for this result, strings are copied. The functions that want a mutable pointer
        // only read.
        unsafe {
            let columns = pq::PQnfields(result);
            let value = |row, column| match pq::PQgetisnull(result, row, column) {
                0 => text(pq::PQgetvalue(result, row, column)),
                _ => None,
            };
            ResultSet {
                columns: (0..columns)
                    .map(|column| text(pq::PQfname(result, column)).unwrap_or_default())
                    .collect(),
                rows: (0..pq::PQntuples(result))
                    .map(|row| (0..columns).map(|column| value(row, column)).collect())
                    .collect(),
                command_tag: text(pq::PQcmdStatus(result)).unwrap_or_default(),
                affected: text(pq::PQcmdTuples(result))
                    .and_then(|count| count.parse().ok())
                    .unwrap_or(0),
            }
        }
    }
}

/// The error or notice in a result; none if it has no fields of a server.
///
/// # Safety
/// `result` points to a living result.
unsafe fn server_error(result: *const pq::PGresult) -> Option<ServerError> {
    // SAFETY: the caller's; the strings are copied.
    let field = |code: u8| unsafe { text(pq::PQresultErrorField(result, c_int::from(code))) };
    Some(ServerError {
        message: field(pq::PG_DIAG_MESSAGE_PRIMARY)?,
        // The severity that is not translated; every server since 9.6 sends it.
        severity: match field(pq::PG_DIAG_SEVERITY_NONLOCALIZED).as_deref() {
            Some("FATAL") => Severity::Fatal,
            Some("PANIC") => Severity::Panic,
            _ => Severity::Error,
        },
        sqlstate: field(pq::PG_DIAG_SQLSTATE).as_deref().and_then(SqlState::parse),
        detail: field(pq::PG_DIAG_MESSAGE_DETAIL),
        hint: field(pq::PG_DIAG_MESSAGE_HINT),
        context: field(pq::PG_DIAG_CONTEXT),
    })
}

/// A copy of a C string; none if it is null. Sessions speak UTF-8; what is not (a server's message
/// before the encoding is settled) is replaced, not refused.
///
/// # Safety
/// `string` is null or points to a zero-terminated string.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: the caller's.
    Some(unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

/// The keywords and values of a connection string; none if libpq cannot parse it. libpq's message
/// is thrown away unread, as it repeats parts of the string.
pub(super) fn parse_conninfo(conninfo: &CStr) -> Option<Vec<(String, String)>> {
    /// libpq's array of options, freed when dropped.
    struct Options(NonNull<pq::PQconninfoOption>);
    impl Drop for Options {
        fn drop(&mut self) {
            // SAFETY: from PQconninfoParse, and not used again.
            unsafe { pq::PQconninfoFree(self.0.as_ptr()) };
        }
    }

    let mut message: *mut c_char = ptr::null_mut();
    // SAFETY: a zero-terminated string, and a place for the message.
    let options = unsafe { pq::PQconninfoParse(conninfo.as_ptr(), &raw mut message) };
    // SAFETY: libpq's memory or null, both of which it takes back.
    unsafe { pq::PQfreemem(message.cast()) };
    let options = Options(NonNull::new(options)?);
    let mut pairs = Vec::new();
    let mut option = options.0.as_ptr();
    // SAFETY: the array ends with an option whose keyword is null, and no step goes beyond it. The
    // strings are copied.
    unsafe {
        while let Some(keyword) = text((*option).keyword) {
            if let Some(value) = text((*option).val) {
                pairs.push((keyword, value));
            }
            option = option.add(1);
        }
    }
    Some(pairs)
}

/// The libpq that this process has loaded, which need not be the one it was linked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedLibPq {
    /// The PostgreSQL release it comes with.
    pub major: u32,
    /// The file it is in, where the loader knows.
    pub file: Option<PathBuf>,
}

/// Which libpq the calls of this crate go to.
#[must_use]
pub fn loaded_libpq() -> LoadedLibPq {
    // SAFETY: reads a constant.
    let version = unsafe { pq::PQlibVersion() };
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let symbol = pq::PQlibVersion as unsafe extern "C" fn() -> c_int;
    // SAFETY: any address may be asked for. What is filled in is the loader's own text, which lives as
    // long as the library, and it is copied.
    let file = unsafe {
        let found = libc::dladdr(symbol as *const c_void, info.as_mut_ptr());
        let name = info.assume_init().dli_fname;
        (found != 0 && !name.is_null())
            .then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())))
    };
    LoadedLibPq { major: u32::try_from(version / 10_000).unwrap_or(0), file }
}

/// Sockets for poll(2), kept from call to call.
pub(super) struct PollSet(Vec<libc::pollfd>);

/// What poll found of one socket.
pub(super) struct Found {
    /// It can be read.
    pub(super) read: bool,
    /// It can be written.
    pub(super) write: bool,
    /// It has an error, is hung up, or is no socket at all.
    pub(super) broken: bool,
}

impl PollSet {
    /// The sockets of these interests, in their order.
    pub(super) fn new(interests: &[Interest]) -> Self {
        let events = |interest: &Interest| {
            (if interest.read { libc::POLLIN } else { 0 })
                | (if interest.write { libc::POLLOUT } else { 0 })
        };
        Self(
            interests
                .iter()
                .map(|interest| libc::pollfd {
                    fd: interest.socket,
                    events: events(interest),
                    revents: 0,
                })
                .collect(),
        )
    }

    /// Waits once, at most so long, rounded up to whole milliseconds: how many sockets have
    /// something.
    pub(super) fn poll(&mut self, timeout: Duration) -> std::io::Result<usize> {
        let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
        let milliseconds = c_int::try_from(milliseconds).unwrap_or(c_int::MAX);
        let count = libc::nfds_t::try_from(self.0.len()).unwrap_or(libc::nfds_t::MAX);
        // SAFETY: the array has that many elements and is only used during the call.
        let found = unsafe { libc::poll(self.0.as_mut_ptr(), count, milliseconds) };
        usize::try_from(found).map_err(|_| std::io::Error::last_os_error())
    }

    /// What the last poll found of the socket at this position.
    pub(super) fn found(&self, index: usize) -> Option<Found> {
        let events = self.0.get(index)?.revents;
        let has = |mask: libc::c_short| events & mask != 0;
        Some(Found {
            read: has(libc::POLLIN),
            write: has(libc::POLLOUT),
            broken: has(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL),
        })
    }
}
