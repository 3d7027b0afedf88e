//! One command under way on one connection: sending it, and collecting all of its results.

use crate::pq::{ConnStatus, CopyStep, Flush, Pq, PqFailure, PqResult, ServerError, Severity};
use crate::reply::ResultSet;
use crate::text;

/// A command that was given to libpq and whose last result has not been seen.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The command's label.
    pub(super) command: &'static str,
    /// Whether part of it still has to be sent.
    sending: bool,
    /// Whether it may be a COPY that sends rows.
    pub(super) copies: bool,
    /// Whether rows of a COPY are kept here.
    pub(super) keeps: bool,
    /// Whether it may be a COPY that takes rows.
    pub(super) feeds: bool,
    /// Whether rows of a COPY are coming.
    in_copy: bool,
    /// Whether the server waits for rows of a COPY.
    in_feed: bool,
    /// Rows that are kept, of a COPY whose end is not there yet.
    kept: Vec<Vec<Option<String>>>,
    /// Results of its statements so far.
    sets: Vec<ResultSet>,
    /// The first error among them.
    error: Option<Box<ServerError>>,
}

/// How a command ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All its statements were executed.
    Done(Vec<ResultSet>),
    /// The server reported an error and is ready for the next command.
    Failed(ServerError),
    /// The session is over; the server's last words if it sent any.
    Lost(Option<ServerError>),
    /// The session is in a state that nothing here can go on from.
    Unusable(&'static str),
}

impl Exchange {
    /// A command that libpq has just accepted.
    pub(super) fn new(command: &'static str) -> Self {
        Self {
            command,
            sending: true,
            copies: false,
            keeps: false,
            feeds: false,
            in_copy: false,
            in_feed: false,
            kept: Vec::new(),
            sets: Vec::new(),
            error: None,
        }
    }

    /// Whether part of the command still has to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    /// Sends what can be sent now. A failure is left for [`Exchange::advance`] to meet again, where
    /// the server's reason for it can be read.
    pub(super) fn push<C: Pq>(&mut self, conn: &mut C) {
        if conn.flush() == Ok(Flush::Done) {
            self.sending = false;
        }
    }

    /// Whether the server waits for rows.
    pub(super) fn wants_rows(&self) -> bool {
        self.in_feed
    }

    /// Gives rows, or their end where there are none. False if the connection does not take them, which
    /// [`Exchange::advance`] then tells.
    pub(super) fn feed<C: Pq>(&mut self, conn: &mut C, rows: &[u8]) -> bool {
        let put = match rows {
            [] => conn.put_copy_end(),
            rows => conn.put_copy_data(rows),
        };
        self.sending = true;
        if rows.is_empty() || put.is_err() {
            self.in_feed = false;
        }
        put.is_ok()
    }

    /// Sends and receives what can be sent and received without waiting. `read` says that there
    /// may be something to read; asking without reason is allowed.
    ///
    /// Rows of a COPY go to `sink` as they come, so that none is kept here.
    pub(super) fn advance<C: Pq>(
        &mut self,
        conn: &mut C,
        read: bool,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Option<Outcome> {
        // Read before writing: a server that is itself blocked writing to us takes no more.
        let mut lost = read && conn.consume_input() == Err(PqFailure);
        if self.sending && !lost {
            match conn.flush() {
                Ok(Flush::Done) => self.sending = false,
                Ok(Flush::Pending) => {}
                Err(PqFailure) => lost = true,
            }
        }
        // While it takes rows the server has nothing to say but that it fails, which the end of the rows brings out.
        if self.in_feed && !lost && conn.status() != ConnStatus::Bad {
            return None;
        }
        // Even on a lost connection: the server's reason may have been read before the end of file.
        loop {
            if self.in_copy {
                let step = match self.keeps {
                    true => conn.get_copy_data(&mut |row| self.kept.push(split_row(row))),
                    false => conn.get_copy_data(sink),
                };
                match step {
                    CopyStep::Row => continue,
                    CopyStep::Pending => break,
                    CopyStep::End => self.in_copy = false,
                }
            }
            if conn.is_busy() {
                break;
            }
            match conn.get_result() {
                Some(PqResult::CopyOut) if self.copies || self.keeps => self.in_copy = true,
                Some(PqResult::CopyIn) if self.feeds => {
                    self.in_feed = true;
                    return None;
                }
                Some(PqResult::Set(mut set)) => {
                    set.rows.append(&mut self.kept);
                    self.sets.push(set);
                }
                Some(PqResult::Error(error)) if error.severity != Severity::Error => {
                    return Some(Outcome::Lost(Some(error)));
                }
                Some(PqResult::Error(error)) => {
                    self.error.get_or_insert_with(|| Box::new(error));
                }
                Some(PqResult::CopyOut | PqResult::CopyIn | PqResult::Copy) => {
                    return Some(Outcome::Unusable("it began a COPY"));
                }
                Some(PqResult::Unexpected) => {
                    return Some(Outcome::Unusable("a result of a kind that was not asked for"));
                }
                None => return Some(self.finish(conn)),
            }
        }
        (lost || conn.status() == ConnStatus::Bad).then(|| Self::lost(conn))
    }

    /// What the collected results amount to, when there are no more. An answer that is followed
    /// by the loss of the connection counts as lost: whoever relies on the session must know.
    fn finish<C: Pq>(&mut self, conn: &mut C) -> Outcome {
        if conn.status() == ConnStatus::Bad {
            return Self::lost(conn);
        }
        if self.sending {
            return Outcome::Unusable("the server answered before it had the whole command");
        }
        match self.error.take() {
            Some(error) => {
                Outcome::Failed(ServerError { message: text::one_line(&error.message), ..*error })
            }
            None => Outcome::Done(std::mem::take(&mut self.sets)),
        }
    }

    /// The end of a lost connection, with what the server said after its last answer, if anything.
    fn lost<C: Pq>(conn: &mut C) -> Outcome {
        // Parses what was read with the end of file.
        conn.is_busy();
        Outcome::Lost(conn.take_last_words())
    }
}

/// The values of a row in COPY's text format, each as it is escaped there.
fn split_row(row: &[u8]) -> Vec<Option<String>> {
    let line = String::from_utf8_lossy(row.strip_suffix(b"\n").unwrap_or(row));
    line.split('\t').map(|value| (value != "\\N").then(|| value.to_owned())).collect()
}
