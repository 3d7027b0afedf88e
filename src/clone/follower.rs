//! What the caller of a split hears of it: the worker's journal, line by line, until its last word.

use std::time::{Duration, Instant};

use pgrx::PgLogLevel;
use remote::{Session, Waiter};

use super::error::CloneError;
use super::links::{SHORT, ask};
use super::registry::Kind;
use super::statements::query;
use super::worker;
use crate::pg::elog;
use crate::pg::wait::wait_latch_or_client_gone;
use crate::pg::worker::{Handle, Status};
use crate::report::{Report, parse_sqlstate};

/// How often a waiting caller looks, if nothing wakes it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often is looked whether a worker that has said its last word is at its end, and for how long.
const LOOK_FOR_END: Duration = Duration::from_millis(5);
const END_OF_WORKER: Duration = Duration::from_secs(5);
/// How long a split that only goes forward may stand still before its caller is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// The last word is written before the worker's lock is free: who is told of the end can begin the next split.
fn await_end_of_worker() {
    let begun = Instant::now();
    while worker::is_driven() && begun.elapsed() < END_OF_WORKER {
        if wait_latch_or_client_gone(LOOK_FOR_END) {
            return;
        }
    }
}

/// Reads the journal as it grows.
pub struct Follower {
    nodeid: i32,
    last: i64,
}

impl Follower {
    /// Begins after what is there.
    pub fn begin<W: Waiter>(
        waiter: &mut W,
        home: &mut Session,
        nodeid: i32,
    ) -> Result<Self, CloneError> {
        let sql = query("SELECT coalesce(max(entry), 0) FROM citus_fence.clone_journal");
        let last = ask(waiter, home, "look at the journal", &sql, SHORT)?.parse_single()?;
        Ok(Self { nodeid, last })
    }

    /// Says what is in the journal until that has its end.
    pub fn follow<W: Waiter>(
        &mut self,
        waiter: &mut W,
        home: &mut Session,
        handle: Option<Handle>,
    ) -> Result<(), CloneError> {
        let mut moved_at = Instant::now();
        let mut trouble = None;
        loop {
            // Before the journal: a worker that has stopped by now has written its last word there.
            let is_over = match &handle {
                Some(handle) => matches!(handle.status(), Status::Stopped | Status::PostmasterDied),
                None => !worker::is_driven(),
            };
            for (kind, report) in self.read(waiter, home)? {
                match kind {
                    Kind::Notice => elog::emit(PgLogLevel::NOTICE, &report),
                    Kind::Warning => elog::emit(PgLogLevel::WARNING, &report),
                    Kind::Trouble => {
                        trouble = Some(report);
                        continue;
                    }
                    Kind::Error => {
                        await_end_of_worker();
                        return Err(report.into());
                    }
                    Kind::Done => {
                        await_end_of_worker();
                        elog::emit(PgLogLevel::NOTICE, &report);
                        return Ok(());
                    }
                }
                moved_at = Instant::now();
            }
            if is_over {
                return Err(CloneError::WorkerVanished);
            }
            if let Some(report) = &trouble
                && moved_at.elapsed() > PATIENCE
            {
                return Err(CloneError::GoesOn {
                    nodeid: self.nodeid,
                    why: report.message.clone(),
                });
            }
            if wait_latch_or_client_gone(LOOK_AGAIN) {
                return Err(CloneError::ClientGone);
            }
        }
    }

    fn read<W: Waiter>(
        &mut self,
        waiter: &mut W,
        home: &mut Session,
    ) -> Result<Vec<(Kind, Report)>, CloneError> {
        let sql = query(&format!(
            "SELECT entry, kind, sqlstate, message, detail, hint FROM citus_fence.clone_journal \
              WHERE clone_nodeid = {} AND entry > {} ORDER BY entry",
            self.nodeid, self.last
        ));
        let reply = ask(waiter, home, "read the journal", &sql, SHORT)?;
        let set = reply.last_set()?;
        let mut lines = Vec::new();
        for row in 0..set.rows.len() {
            let text = |column| set.value(row, column).map(str::to_owned);
            let entry = text("entry").and_then(|text| text.parse().ok());
            let kind = set.value(row, "kind").and_then(Kind::parse);
            let sqlstate = set.value(row, "sqlstate").and_then(parse_sqlstate);
            let (Some(entry), Some(kind), Some(sqlstate)) = (entry, kind, sqlstate) else {
                return Err(reply.unexpected("an unknown line").into());
            };
            self.last = entry;
            lines.push((
                kind,
                Report {
                    sqlstate,
                    message: text("message").unwrap_or_default(),
                    detail: text("detail"),
                    hint: text("hint"),
                },
            ));
        }
        Ok(lines)
    }
}
