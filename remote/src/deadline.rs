//! A point in time after which nobody waits any more.

use std::time::Duration;

use crate::wait::{WaitEnd, Waiter};

/// A point on a waiter's clock. Only means something to the waiter (or clock) it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Duration);

impl Deadline {
    /// So long from now. A duration beyond the clock's range means "never".
    pub fn after(waiter: &(impl Waiter + ?Sized), duration: Duration) -> Self {
        Self(waiter.now().saturating_add(duration))
    }

    /// The time that is left; zero once it has passed.
    pub fn remaining(self, waiter: &(impl Waiter + ?Sized)) -> Duration {
        self.0.saturating_sub(waiter.now())
    }

    /// Whether no time is left.
    pub fn expired(self, waiter: &(impl Waiter + ?Sized)) -> bool {
        self.remaining(waiter).is_zero()
    }

    /// The one that passes first.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }
}

/// How a pause ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The time has passed.
    Over,
    /// The waiter was told to stop.
    Stopped,
}

/// Lets time pass, all of it, however often the waiter is woken meanwhile.
pub fn pause<W: Waiter + ?Sized>(waiter: &mut W, time: Duration) -> Pause {
    let end = Deadline::after(waiter, time);
    while !end.expired(waiter) {
        let left = end.remaining(waiter);
        if waiter.wait(&[], left) == WaitEnd::Stopped {
            return Pause::Stopped;
        }
    }
    Pause::Over
}
