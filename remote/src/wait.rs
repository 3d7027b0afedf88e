//! The one seam through which everything here waits.

use std::os::fd::RawFd;
use std::time::Duration;

/// A socket and what to wait for on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// The socket. Its *number* says nothing about the next call: while libpq connects it closes
    /// sockets and opens others, which often get the same number. A waiter that keeps
    /// registrations between calls must not take an equal number for the same socket.
    pub socket: RawFd,
    /// Wait until it can be read.
    pub read: bool,
    /// Wait until it can be written.
    pub write: bool,
}

/// A socket that has become ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Its position in the slice of interests.
    pub index: usize,
    /// It can be read, or has an error or end of file to be found by reading.
    pub read: bool,
    /// It can be written, or has an error to be found by writing.
    pub write: bool,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// These sockets are ready; at least one, each at most once.
    Ready(Vec<Readiness>),
    /// The whole timeout has passed on the waiter's clock, and no socket was ready.
    TimedOut,
    /// Whoever owns the waiter wants the operation to end now.
    Stopped,
}

/// Something that can wait for sockets, and has a clock.
///
/// `wait` may also *unwind*: in a backend an interrupt becomes an ERROR, which passes through
/// these frames as a panic. Everything in this module is written for that.
pub trait Waiter {
    /// A monotonic clock, from any fixed start. Virtual in tests.
    fn now(&self) -> Duration;

    /// Waits until a socket is ready, the timeout has passed or it is told to stop. A timeout of
    /// zero looks without waiting. Without any interest it sleeps.
    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd;
}

impl<W: Waiter + ?Sized> Waiter for &mut W {
    fn now(&self) -> Duration {
        (**self).now()
    }

    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        (**self).wait(interests, timeout)
    }
}
