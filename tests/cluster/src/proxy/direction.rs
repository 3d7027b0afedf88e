//! One direction of a connection through a link.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

/// How much one direction may hold back before it stops reading.
pub(super) const BUFFER: usize = 1 << 20;

/// The most that is read at once.
const CHUNK: usize = 64 << 10;

/// One direction of a connection: what was read and not yet written.
#[derive(Default)]
pub(super) struct Direction {
    queue: VecDeque<(Instant, Vec<u8>)>,
    queued: usize,
    /// How much of the first chunk is already written.
    written: usize,
    /// The sender has ended its direction, at this time as the receiver is to see it.
    ended: Option<Instant>,
    told: bool,
}

impl Direction {
    pub(super) fn receive(&mut self, from: &TcpStream, delay: Duration) -> io::Result<()> {
        if self.ended.is_some() || self.queued >= BUFFER {
            return Ok(());
        }
        let mut chunk = vec![0u8; CHUNK];
        match (&mut &*from).read(&mut chunk) {
            Ok(0) => self.ended = Some(Instant::now() + delay),
            Ok(read) => {
                chunk.truncate(read);
                self.queued += read;
                self.queue.push_back((Instant::now() + delay, chunk));
            }
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes what is due, and the end after it. Returns how much was written.
    pub(super) fn send_due(&mut self, to: &TcpStream) -> io::Result<usize> {
        let mut moved = 0;
        while let Some((due, chunk)) = self.queue.front() {
            if *due > Instant::now() {
                return Ok(moved);
            }
            match (&mut &*to).write(&chunk[self.written..]) {
                Ok(written) => {
                    moved += written;
                    self.queued -= written;
                    self.written += written;
                    if self.written == chunk.len() {
                        self.queue.pop_front();
                        self.written = 0;
                    }
                }
                Err(error) if is_temporary(&error) => return Ok(moved),
                Err(error) => return Err(error),
            }
        }
        if let (Some(due), false) = (self.ended, self.told)
            && due <= Instant::now()
        {
            to.shutdown(Shutdown::Write)?;
            self.told = true;
        }
        Ok(moved)
    }

    /// When there is something to do that no socket will announce.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let now = Instant::now();
        match (self.queue.front(), self.ended, self.told) {
            (Some((due, _)), _, _) if *due > now => Some(*due - now),
            (None, Some(due), false) => Some(due.saturating_duration_since(now)),
            _ => None,
        }
    }

    pub(super) fn interest_of_sender(&self) -> PollFlags {
        if self.ended.is_none() && self.queued < BUFFER {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        }
    }

    pub(super) fn interest_of_receiver(&self) -> PollFlags {
        match self.queue.front() {
            Some((due, _)) if *due <= Instant::now() => PollFlags::POLLOUT,
            _ => PollFlags::empty(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.told
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
