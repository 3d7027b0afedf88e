//! The waiter on the virtual clock.

use std::time::Duration;

use super::{ms, world};
use crate::*;

/// A waiter whose clock only moves while it waits.
#[derive(Default)]
pub struct ScriptWaiter {
    /// When it says that it was told to stop.
    pub stops_at: Option<Duration>,
    /// When it unwinds, as a backend's does for an ERROR.
    pub unwinds_at: Option<Duration>,
    /// How often it was asked to wait.
    pub waits: usize,
}

impl ScriptWaiter {
    /// A waiter that says so after a while.
    pub fn stopping_at(at: u64) -> Self {
        Self { stops_at: Some(ms(at)), ..Self::default() }
    }
}

impl Waiter for ScriptWaiter {
    fn now(&self) -> Duration {
        world(|world| world.now)
    }

    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        self.waits += 1;
        let now = self.now();
        let times: Vec<(Option<Duration>, Option<Duration>)> = world(|world| {
            let times = |interest: &Interest| {
                let conn = world.conns.get(&interest.socket).expect("a socket that is open");
                let conn = conn.borrow();
                (
                    conn.readable_at().filter(|_| interest.read),
                    conn.writable_at(now).filter(|_| interest.write),
                )
            };
            interests.iter().map(times).collect()
        });
        let next = times.iter().flat_map(|(read, write)| [*read, *write]).flatten().min();
        let end = now.saturating_add(timeout);
        let until = next.unwrap_or(Duration::MAX).max(now).min(end);
        let interrupted = |at: Option<Duration>| at.is_some_and(|at| at <= until);
        if interrupted(self.unwinds_at) {
            std::panic::resume_unwind(Box::new("an ERROR of the backend"));
        }
        if interrupted(self.stops_at) {
            world(|world| world.now = now.max(self.stops_at.unwrap_or_default()));
            return WaitEnd::Stopped;
        }
        assert!(until < Duration::from_secs(1_000_000), "this would wait for ever");
        world(|world| world.now = until);
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= until);
        let ready: Vec<Readiness> = times
            .iter()
            .enumerate()
            .map(|(index, (read, write))| Readiness {
                index,
                read: is_due(*read),
                write: is_due(*write),
            })
            .filter(|found| found.read || found.write)
            .collect();
        if ready.is_empty() { WaitEnd::TimedOut } else { WaitEnd::Ready(ready) }
    }
}
