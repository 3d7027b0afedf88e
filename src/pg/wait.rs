//! How a backend waits: one `WaitEventSet` over its latch, the postmaster and the sockets asked for.
//!
//! This is the server's side of the seam in [`remote::wait`].  Interrupts are served at every
//! wake-up, so a cancel or a termination ends any wait at once: it leaves this frame as an unwind, and
//! the guards on the way (the set here, the connections in `remote`) let go of what they own.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

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
}

impl<S: FnMut() -> bool> BackendWaiter<S> {
    /// A waiter that ends its waits when `stop` says so.
    pub fn new(stop: S) -> Self {
        Self { stop }
    }
}

/// A waiter that only interrupts can end: for calls that serve their own session.
pub fn interruptible() -> BackendWaiter<impl FnMut() -> bool> {
    BackendWaiter::new(|| false)
}

impl<S: FnMut() -> bool> Waiter for BackendWaiter<S> {
    fn now(&self) -> Duration {
        monotonic_now()
    }

    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        pgrx::check_for_interrupts!();
        if (self.stop)() {
            return WaitEnd::Stopped;
        }
        let set = EventSet::new(interests);
        let (ready, latch) = set.wait(interests.len(), timeout);
        if latch {
            reset_latch();
        }
        pgrx::check_for_interrupts!();
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
            pg_sys::PG_WAIT_EXTENSION,
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
    fn new(interests: &[Interest]) -> Self {
        let capacity = interests.len() + 2;
        // SAFETY: the set is made in the current memory context and freed by Drop before that context
        // can go away, as an EventSet never outlives the wait that made it.
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

    /// The sockets that are ready, and whether the latch was set.
    fn wait(&self, sockets: usize, timeout: Duration) -> (Vec<Readiness>, bool) {
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
                pg_sys::PG_WAIT_EXTENSION,
            )
        };
        let mut ready = Vec::with_capacity(sockets.min(count.max(0) as usize));
        let mut latch = false;
        for event in &events[..count.max(0) as usize] {
            if event.events & pg_sys::WL_LATCH_SET != 0 {
                latch = true;
            } else if event.events & (pg_sys::WL_SOCKET_READABLE | pg_sys::WL_SOCKET_WRITEABLE) != 0
            {
                ready.push(Readiness {
                    index: event.user_data.addr(),
                    read: event.events & pg_sys::WL_SOCKET_READABLE != 0,
                    write: event.events & pg_sys::WL_SOCKET_WRITEABLE != 0,
                });
            }
        }
        (ready, latch)
    }
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
    // SAFETY: the current memory context is always valid in a backend.
    unsafe { pg_sys::CreateWaitEventSet(pg_sys::CurrentMemoryContext, capacity) }
}

/// The owner argument changed its type in PostgreSQL 17 (a resource owner, or none).
#[cfg(any(feature = "pg17", feature = "pg18"))]
unsafe fn create_event_set(capacity: i32) -> *mut pg_sys::WaitEventSet {
    // SAFETY: no owner is allowed; Drop frees the set.
    unsafe { pg_sys::CreateWaitEventSet(std::ptr::null_mut(), capacity) }
}
