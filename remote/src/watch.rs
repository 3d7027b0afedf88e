//! Standing guard over sessions that are held.

use std::time::Duration;

use crate::connection::{Session, SessionState};
use crate::deadline::Deadline;
use crate::error::RemoteError;
use crate::pq::Pq;
use crate::reply::Reply;
use crate::wait::{Interest, Readiness, WaitEnd, Waiter};

/// What stands in the place of a command where a session is lost that was running none.
pub const IDLE_HOLD: &str = "idle hold";

/// How a watch ended.
#[derive(Debug)]
pub enum WatchEnd {
    /// The timeout has passed and nothing happened.
    Quiet,
    /// The waiter was told to stop.
    Stopped,
    /// A session is gone, or was already when the watch began. The error has the server's own
    /// words, if it sent any.
    Lost {
        /// Its position in the slice.
        index: usize,
        /// How it was lost.
        error: RemoteError,
    },
    /// The answer to a command that was under way ([`Session::send`]) has come.
    Answered {
        /// The session's position in the slice.
        index: usize,
        /// The answer, or the server's error; the session is Idle.
        result: Result<Reply, RemoteError>,
    },
}

/// Watches sessions, and returns as soon as one is lost or one that is Busy has its answer.
///
/// Idle sessions are what it is for: a server that closes one (shutdown, a time-out of its own, an
/// administrator) is noticed at once. A Busy one may be among them, so that something can be run
/// without taking the eye off the others.
pub fn watch<C: Pq, W: Waiter + ?Sized>(
    waiter: &mut W,
    sessions: &mut [&mut Session<C>],
    timeout: Duration,
) -> WatchEnd {
    let deadline = Deadline::after(waiter, timeout);
    loop {
        let mut interests: Vec<Interest> = Vec::with_capacity(sessions.len());
        for (index, session) in sessions.iter_mut().enumerate() {
            match session.interest() {
                Some(interest) => interests.push(interest),
                // Closed, or broken while its command was sent: nothing to wait with.
                None => return without_socket(index, session),
            }
        }
        let last_look = deadline.expired(waiter);
        match waiter.wait(&interests, deadline.remaining(waiter)) {
            WaitEnd::Ready(ready) => {
                let end = ready.into_iter().find_map(|Readiness { index, read, .. }| {
                    look_at(index, sessions[index], read)
                });
                if let Some(end) = end {
                    return end;
                }
            }
            WaitEnd::TimedOut => {}
            WaitEnd::Stopped => return WatchEnd::Stopped,
        }
        if last_look {
            return WatchEnd::Quiet;
        }
    }
}

/// What has happened on one session, if it is worth ending the watch for.
fn look_at<C: Pq>(index: usize, session: &mut Session<C>, read: bool) -> Option<WatchEnd> {
    match session.state() {
        SessionState::Idle => {
            session.check_idle().err().map(|error| WatchEnd::Lost { index, error })
        }
        SessionState::Busy => session.advance(read).map(|result| match (session.state(), result) {
            (SessionState::Broken, Err(error)) => WatchEnd::Lost { index, error },
            (_, result) => WatchEnd::Answered { index, result },
        }),
        SessionState::Broken => {
            Some(WatchEnd::Lost { index, error: session.closed_error(IDLE_HOLD) })
        }
    }
}

/// The end of a watch that finds a session without a socket.
fn without_socket<C: Pq>(index: usize, session: &mut Session<C>) -> WatchEnd {
    look_at(index, session, false)
        .unwrap_or_else(|| WatchEnd::Lost { index, error: session.closed_error(IDLE_HOLD) })
}
