//! The one loop that advances many sessions at once.

use std::time::Duration;

use crate::deadline::Deadline;
use crate::wait::{Interest, WaitEnd, Waiter};

/// Something that makes progress whenever its socket is ready, and never waits itself.
pub(super) trait Task {
    /// What it waits for; none once it is finished.
    fn interest(&self) -> Option<Interest>;

    /// Goes as far as it can without waiting; `now` is when its socket was found ready.
    fn advance(&mut self, read: bool, write: bool, now: Duration);
}

/// How a drive ended. Unless all are finished, some tasks are where they were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DriveEnd {
    /// No task waits for anything any more.
    Finished,
    /// The deadline has passed.
    TimedOut,
    /// The waiter was told to stop.
    Stopped,
}

/// Advances all tasks until all are finished, the deadline has passed, or the waiter stops.
///
/// Sockets are looked at once more after the deadline, so that an answer that is already here is
/// taken; but only once, so that a chatty server cannot hold its caller.
pub(super) fn drive<W, T>(waiter: &mut W, tasks: &mut [T], deadline: Deadline) -> DriveEnd
where
    W: Waiter + ?Sized,
    T: Task,
{
    let mut pending: Vec<usize> = (0..tasks.len()).collect();
    let mut interests: Vec<Interest> = Vec::with_capacity(tasks.len());
    loop {
        interests.clear();
        pending.retain(|&task| match tasks[task].interest() {
            Some(interest) => {
                interests.push(interest);
                true
            }
            None => false,
        });
        if pending.is_empty() {
            return DriveEnd::Finished;
        }
        let last_look = deadline.expired(waiter);
        match waiter.wait(&interests, deadline.remaining(waiter)) {
            WaitEnd::Ready(ready) => {
                let now = waiter.now();
                for found in ready {
                    tasks[pending[found.index]].advance(found.read, found.write, now);
                }
            }
            WaitEnd::TimedOut => {}
            WaitEnd::Stopped => return DriveEnd::Stopped,
        }
        if last_look {
            return match pending.iter().all(|&task| tasks[task].interest().is_none()) {
                true => DriveEnd::Finished,
                false => DriveEnd::TimedOut,
            };
        }
    }
}
