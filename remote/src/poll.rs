//! The waiter of a process of its own: poll(2) and the system's monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::ffi;
use crate::wait::{Interest, Readiness, WaitEnd, Waiter};

/// How long one poll lasts at most where a stop flag is to be seen: a signal that arrives just
/// before the poll does not interrupt it.
const LONGEST_SLICE_WITH_STOP: Duration = Duration::from_millis(200);

/// Waits with poll(2). For the command-line tool and tests, not for a backend.
#[derive(Debug)]
pub struct PollWaiter {
    started: Instant,
    stop: Option<Arc<AtomicBool>>,
}

impl PollWaiter {
    /// A waiter that nothing stops.
    pub fn new() -> Self {
        Self { started: Instant::now(), stop: None }
    }

    /// A waiter that stops when the flag becomes true, as a signal handler would set it.
    pub fn with_stop(stop: Arc<AtomicBool>) -> Self {
        Self { started: Instant::now(), stop: Some(stop) }
    }

    /// Whether somebody asked to stop.
    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

impl Default for PollWaiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Waiter for PollWaiter {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// An error of poll(2) itself (no memory, more sockets than the process may have) ends the
    /// wait as if it was stopped: there is nothing that could be waited for.
    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        let end = self.now().saturating_add(timeout);
        let mut sockets = ffi::PollSet::new(interests);
        loop {
            if self.stopped() {
                return WaitEnd::Stopped;
            }
            let left = end.saturating_sub(self.now());
            let slice = match self.stop {
                Some(_) => left.min(LONGEST_SLICE_WITH_STOP),
                None => left,
            };
            match sockets.poll(slice) {
                Ok(0) if end <= self.now() => return WaitEnd::TimedOut,
                Ok(0) => {}
                Ok(_) => return WaitEnd::Ready(ready(interests, &sockets)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return WaitEnd::Stopped,
            }
        }
    }
}

/// Those that are ready at this moment, if any is; without waiting.
pub fn ready_now(interests: &[Interest]) -> Option<Vec<Readiness>> {
    if interests.is_empty() {
        return None;
    }
    let mut sockets = ffi::PollSet::new(interests);
    // An error of poll(2) is for the wait that follows to meet.
    sockets.poll(Duration::ZERO).ok().filter(|count| *count > 0)?;
    Some(ready(interests, &sockets)).filter(|ready| !ready.is_empty())
}

/// What poll found. A hang-up or error counts as whatever was asked for, so that libpq goes and
/// finds the reason.
fn ready(interests: &[Interest], sockets: &ffi::PollSet) -> Vec<Readiness> {
    interests
        .iter()
        .enumerate()
        .filter_map(|(index, interest)| {
            let found = sockets.found(index)?;
            let read = interest.read && (found.read || found.broken);
            let write = interest.write && (found.write || found.broken);
            (read || write).then_some(Readiness { index, read, write })
        })
        .collect()
}
