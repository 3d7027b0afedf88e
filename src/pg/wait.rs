//! How a backend waits: one `WaitEventSet` over its latch, the postmaster and the sockets asked for, unless one of
//! those is ready anyway.
//!
//! This is the server's side of the seam in [`remote::wait`].  Interrupts are served at every
//! wake-up, so a cancel or a termination ends any wait at once: it leaves this frame as an unwind, and
//! the guards on the way (the set here, the connections in `remote`) let go of what they own.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pgrx::{PgSqlErrorCode, pg_sys};

use super::wait_event::WaitEvent;
use super::{elog, interrupts};
use crate::report::Report;
use remote::{Interest, Readiness, WaitEnd, Waiter};

/// Time since this process first asked: all waiters of a process share it, so a deadline may pass
/// from one to another.
pub fn monotonic_now() -> Duration {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed()
}

/// Waits in a backend or background worker.
///
/// `stop` is asked before each wait and after each wake-up by the latch; once it says true, the wait
/// ends with [`WaitEnd::Stopped`].  It must not raise an error.
pub struct BackendWaiter<S: FnMut() -> bool> {
    stop: S,
    client: Client,
    kept: Option<Kept>,
}

/// What it means to a wait that the client of this session is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// Nothing.
    Ignored,
    /// The wait ends with [`WaitEnd::Stopped`].
    Stops,
    /// The wait ends with an error, as a cancel would have it.
    Raises,
}

impl Client {
    /// The socket to watch, where there is one.
    fn socket(self) -> Option<pg_sys::pgsocket> {
        match self {
            Self::Ignored => None,
            Self::Stops | Self::Raises => socket_to_watch(),
        }
    }
}

impl<S: FnMut() -> bool> BackendWaiter<S> {
    /// A waiter that ends its waits when `stop` says so.  Whether the client is there is nothing to it: it is for
    /// processes that have none, and for putting back what was begun.
    pub fn new(stop: S) -> Self {
        Self { stop, client: Client::Ignored, kept: None }
    }

    /// For many waits on the same sockets: what the system is told of them is kept from one to the next.
    ///
    /// A socket's number says nothing: it may be another socket's by now.  So whoever waits says with a
    /// `version` whether they are still the same, and gives another one whenever any of them was closed or
    /// opened.
    pub fn registered(&mut self, version: u64) -> Registered<'_, S> {
        Registered { waiter: self, version }
    }

    /// A wait on this set, which is for so many sockets.
    fn wait_on(&mut self, set: &EventSet, sockets: usize, timeout: Duration) -> WaitEnd {
        interrupts::serve();
        if (self.stop)() {
            return WaitEnd::Stopped;
        }
        let Stirred { ready, latch, gone } = set.wait(sockets, timeout);
        if latch {
            reset_latch();
        }
        interrupts::serve();
        match self.client {
            Client::Raises if gone => raise_client_gone(),
            Client::Stops if gone => return WaitEnd::Stopped,
            Client::Raises | Client::Stops | Client::Ignored => {}
        }
        if latch && (self.stop)() {
            return WaitEnd::Stopped;
        }
        if ready.is_empty() && !latch {
            WaitEnd::TimedOut
        } else {
            // A latch alone is an empty answer: the caller looks at its deadline and waits again.
            WaitEnd::Ready(ready)
        }
    }
}

/// What the last wait on registered sockets was told.
struct Kept {
    version: u64,
    interests: Vec<Interest>,
    set: EventSet,
}

/// See [`BackendWaiter::registered`].
pub struct Registered<'a, S: FnMut() -> bool> {
    waiter: &'a mut BackendWaiter<S>,
    version: u64,
}

impl<S: FnMut() -> bool> Waiter for Registered<'_, S> {
    fn now(&self) -> Duration {
        monotonic_now()
    }

    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        let version = self.version;
        let is_same = |kept: &Kept| kept.version == version && kept.interests == interests;
        let kept = self.waiter.kept.take().filter(is_same).unwrap_or_else(|| Kept {
            version,
            interests: interests.to_vec(),
            set: EventSet::new(interests, self.waiter.client.socket()),
        });
        let end = self.waiter.wait_on(&kept.set, interests.len(), timeout);
        self.waiter.kept = Some(kept);
        end
    }
}

/// A waiter that only interrupts can end, and the end of the client: for calls that serve their own session.
///
/// A caller that is gone is one more interrupt, and raises its error out of the wait: so nothing that is written
/// for cancels has to know of it.  The server itself would find out when the call is over.
pub fn interruptible() -> BackendWaiter<impl FnMut() -> bool> {
    BackendWaiter { client: Client::Raises, ..BackendWaiter::new(|| false) }
}

/// The same, but the end of the client ends a wait with [`WaitEnd::Stopped`], and so do interrupts that are put off: for
/// who has to put something back.
pub fn until_broken_off() -> BackendWaiter<impl FnMut() -> bool> {
    BackendWaiter { client: Client::Stops, ..BackendWaiter::new(interrupts::are_waiting) }
}

/// An error where the client of this session is gone: before what cannot be taken back, and after waits of the
/// server's own, for locks, which do not watch for it.
pub fn require_client() {
    if is_client_gone() {
        raise_client_gone();
    }
}

/// Whether the client of this session is gone, as far as the system knows it by now.
pub fn is_client_gone() -> bool {
    let Some(socket) = socket_to_watch() else { return false };
    // SAFETY: the session's own socket; no latch is asked for, so none is given.
    let events = unsafe {
        pg_sys::WaitLatchOrSocket(
            std::ptr::null_mut(),
            (pg_sys::WL_SOCKET_CLOSED | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            socket,
            0,
            WaitEvent::Worker.number(),
        )
    };
    events as u32 & pg_sys::WL_SOCKET_CLOSED != 0
}

fn raise_client_gone() -> ! {
    let report = Report::new(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, CLIENT_GONE);
    elog::raise(&report)
}

/// The server's own words.
pub const CLIENT_GONE: &str = "connection to client lost";

/// The socket of this session's client, where there is one and its end would mean something: not where a cancel
/// comes too late, either.
fn socket_to_watch() -> Option<pg_sys::pgsocket> {
    // SAFETY: MyProcPort is null or points to this session's port, whose socket stays open as long as the session;
    // the other asks what the system can do.
    unsafe {
        let port = pg_sys::MyProcPort;
        if port.is_null()
            || interrupts::are_cancels_held()
            || !pg_sys::WaitEventSetCanReportClosed()
        {
            return None;
        }
        Some(client_socket(port)).filter(|socket| *socket >= 0)
    }
}

impl<S: FnMut() -> bool> Waiter for BackendWaiter<S> {
    fn now(&self) -> Duration {
        monotonic_now()
    }

    /// A set is made only where there is something to wait for: many nodes answer at about the same time, and a set
    /// costs some calls of the system for each of them, at each turn.  The latch and the postmaster can wait for
    /// one turn; what the latch is set for is asked for here.
    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        interrupts::serve();
        if (self.stop)() {
            return WaitEnd::Stopped;
        }
        if let Some(ready) = remote::ready_now(interests) {
            return WaitEnd::Ready(ready);
        }
        let set = EventSet::new(interests, self.client.socket());
        self.wait_on(&set, interests.len(), timeout)
    }
}

/// Clears this process' latch; whoever set it must have written what it means before.
pub fn reset_latch() {
    // SAFETY: MyLatch is valid for the life of every process that runs SQL or is a background worker.
    unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) }
}

/// Sleeps until the latch is set, `timeout` has passed, or the client of this session has gone away.
/// Serves interrupts.  True says that the client's connection is closed.
///
/// The server looks for a vanished client only while it reads or when
/// `client_connection_check_interval` is set; a call that waits for minutes must look for itself.
pub fn wait_latch_or_client_gone(timeout: Duration) -> bool {
    // SAFETY: MyProcPort is null or points to this session's port, whose socket stays open as long as
    // the session; MyLatch is valid, see reset_latch.
    let events = unsafe {
        let port = pg_sys::MyProcPort;
        let base = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        let (mask, socket) = if port.is_null() {
            (base, -1)
        } else {
            (base | pg_sys::WL_SOCKET_CLOSED, client_socket(port))
        };
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            mask as i32,
            socket,
            milliseconds(timeout),
            WaitEvent::Worker.number(),
        )
    };
    if events as u32 & pg_sys::WL_LATCH_SET != 0 {
        reset_latch();
    }
    pgrx::check_for_interrupts!();
    events as u32 & pg_sys::WL_SOCKET_CLOSED != 0
}

/// The socket of a client's connection.
///
/// # Safety
/// `port` must point to the session's port.
unsafe fn client_socket(port: *const pg_sys::Port) -> pg_sys::pgsocket {
    // SAFETY: the bindings do not tell the struct's fields; the socket has been its first since long
    // before PostgreSQL 15 and is in 18.
    unsafe { *port.cast::<pg_sys::pgsocket>() }
}

/// Whole milliseconds, rounded up so that a wait never ends just before its deadline and spins.
fn milliseconds(timeout: Duration) -> core::ffi::c_long {
    timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as core::ffi::c_long
}

/// An owned `WaitEventSet`; freed (with its epoll descriptor) when dropped, also by an unwind.
struct EventSet {
    set: *mut pg_sys::WaitEventSet,
    capacity: usize,
}

impl EventSet {
    /// Over the latch, the postmaster and those sockets; the client's is watched for its end alone.
    fn new(interests: &[Interest], client: Option<pg_sys::pgsocket>) -> Self {
        let capacity = interests.len() + 3;
        // SAFETY: the set is made in a memory context that lives as long as the process, and freed by Drop.
        let set = unsafe { create_event_set(capacity as i32) };
        let this = Self { set, capacity };
        this.add(pg_sys::WL_EXIT_ON_PM_DEATH, -1, std::ptr::null_mut());
        // SAFETY: reading a pointer that is set once at process start.
        this.add(pg_sys::WL_LATCH_SET, -1, unsafe { pg_sys::MyLatch });
        for (index, interest) in interests.iter().enumerate() {
            let mut events = 0;
            if interest.read {
                events |= pg_sys::WL_SOCKET_READABLE;
            }
            if interest.write {
                events |= pg_sys::WL_SOCKET_WRITEABLE;
            }
            this.add_socket(events, interest.socket, index);
        }
        if let Some(client) = client {
            this.add_socket(pg_sys::WL_SOCKET_CLOSED, client, interests.len());
        }
        this
    }

    fn add(&self, events: u32, socket: i32, latch: *mut pg_sys::Latch) {
        // SAFETY: the set has room for every event added by new().
        unsafe {
            pg_sys::AddWaitEventToSet(self.set, events, socket, latch, std::ptr::null_mut());
        }
    }

    fn add_socket(&self, events: u32, socket: i32, index: usize) {
        // SAFETY: as in add(); the user data is a number in a pointer's clothes and never followed.
        unsafe {
            pg_sys::AddWaitEventToSet(
                self.set,
                events,
                socket,
                std::ptr::null_mut(),
                std::ptr::without_provenance_mut(index),
            );
        }
    }

    fn wait(&self, sockets: usize, timeout: Duration) -> Stirred {
        // SAFETY: a WaitEvent is plain data for which all zeroes is a value; the server fills as many
        // as it says it has.
        let mut events: Vec<pg_sys::WaitEvent> = vec![unsafe { std::mem::zeroed() }; self.capacity];
        // SAFETY: the buffer has `capacity` entries, which is what the call is told.
        let count = unsafe {
            pg_sys::WaitEventSetWait(
                self.set,
                milliseconds(timeout),
                events.as_mut_ptr(),
                self.capacity as i32,
                WaitEvent::Nodes.number(),
            )
        };
        let mut ready = Vec::with_capacity(sockets.min(count.max(0) as usize));
        let (mut latch, mut gone) = (false, false);
        for event in &events[..count.max(0) as usize] {
            if event.events & pg_sys::WL_LATCH_SET != 0 {
                latch = true;
            } else if event.events & pg_sys::WL_SOCKET_CLOSED != 0 {
                gone = true;
            } else if event.events & (pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE) != 0
            {
                ready.push(Readiness {
                    index: event.user_data.addr(),
                    read: event.events & pg_sys::WL_SOCKET_READABLE != 0,
                    write: event.events & pg_sys::WL_SOCKET_WRITEABLE != 0,
                });
            }
        }
        Stirred { ready, latch, gone }
    }
}

/// What a wait on a set found.
struct Stirred {
    /// The sockets that are ready.
    ready: Vec<Readiness>,
    /// The latch was set.
    latch: bool,
    /// The client is gone.
    gone: bool,
}

impl Drop for EventSet {
    fn drop(&mut self) {
        // SAFETY: made by create_event_set and freed nowhere else.
        unsafe { pg_sys::FreeWaitEventSet(self.set) }
    }
}

/// The owner argument changed its type in PostgreSQL 17 (a resource owner, or none).
#[cfg(any(feature = "pg15", feature = "pg16"))]
unsafe fn create_event_set(capacity: i32) -> *mut pg_sys::WaitEventSet {
    // SAFETY: that memory context lives as long as the process.
    unsafe { pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, capacity) }
}

/// The owner argument changed its type in PostgreSQL 17 (a resource owner, or none).
#[cfg(any(feature = "pg17", feature = "pg18"))]
unsafe fn create_event_set(capacity: i32) -> *mut pg_sys::WaitEventSet {
    // SAFETY: no owner is allowed; Drop frees the set.
    unsafe { pg_sys::CreateWaitEventSet(std::ptr::null_mut(), capacity) }
}
