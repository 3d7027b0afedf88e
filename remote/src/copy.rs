//! `COPY … TO STDOUT` and `COPY … FROM STDIN`: rows as they come, and the certainty that none is missing.
//!
//! ```text
//! COPY ──> CopyOut ──rows──> sink … ──> CopyDone ──> CommandComplete ──> ReadyForQuery: whole
//!                      │ the server's error, end of file, silence, stop, the sink's own error: not whole
//! ```
//! A connection that is cut ends the rows as their end does, so what has been given to the sink means
//! nothing until this has returned a [`CopyEnd`].
//!
//! ```text
//! COPY ──> CopyIn ──rows from source, each piece sent before the next── … ──end──> CommandComplete ──> whole
//!                │ the source's error, silence, stop: the session is closed, which the server takes as a failure
//! ```
//! The end of the rows is said by a message of its own, so that no loss of the connection looks like it.

use std::io;
use std::time::Duration;

use crate::connection::{Session, SessionState};
use crate::deadline::Deadline;
use crate::error::RemoteError;
use crate::pq::Pq;
use crate::reply::Command;
use crate::wait::{WaitEnd, Waiter};

/// A COPY that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyEnd {
    /// How many rows the server says it has sent.
    pub rows: u64,
}

/// A COPY that is not.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The session, or the server in it. After [`RemoteError::Timeout`] and [`RemoteError::Stopped`] the session
    /// is Busy, and [`crate::cancel_and_drain`] brings it back.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// Whoever takes or gives the rows; the session is closed.
    #[error("{0}")]
    Sink(io::Error),
}

impl<C: Pq> Session<C> {
    /// Runs one `COPY … TO STDOUT` and gives every row to `sink`, none of which is kept here. It may take any
    /// time, but no more than `silence` without a byte.
    pub fn copy_out<W: Waiter + ?Sized>(
        &mut self,
        waiter: &mut W,
        command: &Command<'_>,
        silence: Duration,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<CopyEnd, CopyError> {
        self.send(command)?;
        self.expect_rows();
        let name = command.name;
        let mut failed: Option<io::Error> = None;
        let mut deadline = Deadline::after(waiter, silence);
        let mut read = false;
        loop {
            let end = self.advance_into(read, &mut |row| {
                if failed.is_none() {
                    failed = sink(row).err();
                }
            });
            if let Some(error) = failed {
                if self.state() != SessionState::Broken {
                    self.break_off(format!("the rows of {name} could not be kept: {error}"));
                }
                return Err(CopyError::Sink(error));
            }
            if let Some(end) = end {
                let reply = end?;
                let set = reply.last_set()?;
                if reply.sets.len() != 1 || !set.command_tag.starts_with("COPY ") {
                    return Err(reply.unexpected("it was no COPY").into());
                }
                return Ok(CopyEnd { rows: set.affected });
            }
            let Some(interest) = self.interest() else {
                return Err(self.closed_error(name).into());
            };
            match waiter.wait(&[interest], deadline.remaining(waiter)) {
                WaitEnd::Ready(ready) => {
                    read = ready.iter().any(|found| found.read);
                    if read {
                        deadline = Deadline::after(waiter, silence);
                    }
                }
                WaitEnd::TimedOut => {
                    let node = self.node().clone();
                    return Err(RemoteError::Timeout { node, command: name, after: silence }.into());
                }
                WaitEnd::Stopped => {
                    let node = self.node().clone();
                    return Err(RemoteError::Stopped { node, command: name }.into());
                }
            }
        }
    }

    /// Runs one `COPY … FROM STDIN` whose rows come from `source`, piece by piece: it fills an empty buffer, and
    /// leaves it empty where there is no more. It may take any time, but no more than `silence` without the server
    /// taking a byte or saying one. After any error but the server's own the session is closed.
    pub fn copy_in<W: Waiter + ?Sized>(
        &mut self,
        waiter: &mut W,
        command: &Command<'_>,
        silence: Duration,
        source: &mut dyn FnMut(&mut Vec<u8>) -> io::Result<()>,
    ) -> Result<CopyEnd, CopyError> {
        self.send(command)?;
        self.will_feed();
        let name = command.name;
        let mut deadline = Deadline::after(waiter, silence);
        let (mut read, mut piece) = (false, Vec::new());
        loop {
            if let Some(end) = self.advance(read) {
                let reply = end?;
                let set = reply.last_set()?;
                if reply.sets.len() != 1 || !set.command_tag.starts_with("COPY ") {
                    return Err(reply.unexpected("it was no COPY").into());
                }
                return Ok(CopyEnd { rows: set.affected });
            }
            read = false;
            if self.wants_rows() {
                piece.clear();
                if let Err(error) = source(&mut piece) {
                    self.break_off(format!("the rows of {name} could not be read: {error}"));
                    return Err(CopyError::Sink(error));
                }
                self.feed(&piece);
                deadline = Deadline::after(waiter, silence);
                continue;
            }
            let Some(interest) = self.interest() else {
                return Err(self.closed_error(name).into());
            };
            match waiter.wait(&[interest], deadline.remaining(waiter)) {
                WaitEnd::Ready(ready) => {
                    read = ready.iter().any(|found| found.read);
                    deadline = Deadline::after(waiter, silence);
                }
                WaitEnd::TimedOut => {
                    let node = self.node().clone();
                    self.break_off(format!("{name} was given up"));
                    return Err(RemoteError::Timeout { node, command: name, after: silence }.into());
                }
                WaitEnd::Stopped => {
                    let node = self.node().clone();
                    self.break_off(format!("{name} was given up"));
                    return Err(RemoteError::Stopped { node, command: name }.into());
                }
            }
        }
    }
}
