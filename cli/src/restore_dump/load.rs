//! Loads the files: N workers, one queue, the largest file first.
//!
//! ```text
//! BEGIN ─> its row of progress ─> COPY ─> as many rows as the manifest says? ─> COMMIT
//!             │ there already: done          │ no, or an error: all of it is rolled back
//! ```
//! A partition that does not take a row, as it belongs to another one here, has its file loaded by its root; a row of
//! progress says so, for the counts of these partitions are others then.
//!
//! Where tables have their keys already, a file whose rows point to rows that are not there yet comes again later.
//!
//! A file that is all of a table which this restore has made is copied with FREEZE (see `freeze`).
//!
//! A session that is lost is replaced, and its file begun again: if the COMMIT had come through, its row is there. See
//! `progress` for why no file is loaded twice, whatever is killed.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use remote::{CopyError, RemoteError};
use tracing::debug;

use super::distribute::named;
use super::error::RestoreDumpError;
use super::freeze;
use super::progress;
use super::route::Load;
use super::target::{LONG, Target, as_written, begin_all};
use crate::dump::{DataFile, Dump, NodeSession};
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::signals::Stop;

/// How often a file is begun whose session is lost each time.
const TRIES: u32 = 4;

/// Between two tries to connect again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one look at the workers lasts, and so a signal may go unseen.
const LOOK: Duration = Duration::from_millis(100);

/// How much is given at once.
const PIECE: u64 = 128 * 1024;

/// What progress calls a load.
pub fn name_of(file: &DataFile, load: &Load) -> String {
    format!("data {} into {}", file.path.display(), load.table)
}

/// What progress says of a file whose rows were not those of one partition.
pub const BY_ROOT: &str = "by root ";

/// What all workers share.
struct Pool<'a> {
    dir: &'a Path,
    dump: &'a Dump,
    target: &'a Target,
    halt: Arc<AtomicBool>,
    /// The bytes that were sent, of loads that go on or have ended.
    sent: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: VecDeque<Load>,
    /// Whose rows point to rows that are not there yet: tables that had their keys before the data came.
    deferred: VecDeque<Load>,
    /// Why the last of them was.
    why: Option<Failure>,
    /// How many are being loaded, and whether any was since the deferred ones were begun.
    at_work: usize,
    has_moved: bool,
    left: usize,
    /// Roots that find the partition of a row themselves.
    by_root: HashSet<String>,
    failure: Option<Failure>,
}

/// Loads all of them.
pub fn load(
    dir: &Path,
    dump: &Dump,
    target: &Target,
    loads: Vec<Load>,
    jobs: usize,
    stop: &Stop,
    output: &Output,
) -> Result<(), Failure> {
    let total = loads.iter().map(|load| dump.files[load.file].bytes).sum();
    let mut shown = Progress::begin(output, "loading tables", Some(total));
    let halt = Arc::new(AtomicBool::new(false));
    let workers = jobs.min(loads.len());
    let state = State {
        left: loads.len(),
        queue: loads.into(),
        deferred: VecDeque::new(),
        why: None,
        at_work: 0,
        has_moved: false,
        by_root: HashSet::new(),
        failure: None,
    };
    let (state, changed) = (Mutex::new(state), Condvar::new());
    let sent = AtomicU64::new(0);
    let pool = Pool { dir, dump, target, halt: Arc::clone(&halt), sent, state, changed };
    std::thread::scope(|scope| {
        // Whatever ends this closure, a panic too, ends the workers, for which the scope waits.
        let _halt = HaltOnDrop(halt);
        for _ in 0..workers {
            scope.spawn(|| pool.work());
        }
        let mut state = pool.state.lock();
        while state.left > 0 && state.failure.is_none() {
            pool.changed.wait_for(&mut state, LOOK);
            shown.at(pool.sent.load(Ordering::Relaxed), state.left);
            if let Some(signal) = stop.signal() {
                state.failure.get_or_insert(Failure::ToldToStop { signal });
            }
        }
    });
    pool.state.into_inner().failure.map_or(Ok(()), Err)
}

/// Ends all waits when it goes.
struct HaltOnDrop(Arc<AtomicBool>);

impl Drop for HaltOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Pool<'_> {
    fn work(&self) {
        let mut own: Option<(usize, NodeSession)> = None;
        while let Some(load) = self.next(own.as_ref().map(|(node, _)| *node)) {
            let end = self.perform(&load, &mut own);
            let mut state = self.state.lock();
            state.at_work -= 1;
            match end {
                Ok(()) => {
                    state.left -= 1;
                    state.has_moved = true;
                    debug!("{} parts are left", state.left);
                }
                Err(failure) if self.points_nowhere(&load, &failure) => {
                    debug!("{failure}: later");
                    state.deferred.push_back(load);
                    state.why = Some(failure);
                }
                // What is interrupted because of another's failure says nothing.
                Err(Failure::Remote(RemoteError::Stopped { .. })) if self.is_told() => {}
                Err(failure) => {
                    state.failure.get_or_insert(failure);
                    self.halt.store(true, Ordering::Relaxed);
                }
            }
            self.changed.notify_all();
        }
    }

    /// Whether rows point to others that are not there. Tables that the dump's schema has made have no keys yet.
    fn points_nowhere(&self, load: &Load, failure: &Failure) -> bool {
        let Failure::RestoreDump(error) = failure else {
            return false;
        };
        match error.remote().and_then(RemoteError::sqlstate) {
            // foreign_key_violation
            Some("23503") => true,
            Some(OF_ANOTHER_NODE) => !load.direct && self.dump.schema.is_empty(),
            _ => false,
        }
    }

    fn is_told(&self) -> bool {
        self.halt.load(Ordering::Relaxed)
    }

    /// The next one: of this worker's node while there is one, else the largest. Those that were deferred come again
    /// when all others have been tried, for as long as that gets any further.
    fn next(&self, node: Option<usize>) -> Option<Load> {
        let mut state = self.state.lock();
        loop {
            if state.failure.is_some() || self.is_told() {
                return None;
            }
            let position = state.queue.iter().position(|load| Some(load.node) == node).unwrap_or(0);
            if let Some(load) = state.queue.remove(position) {
                state.at_work += 1;
                return Some(load);
            }
            if state.at_work == 0 {
                if state.deferred.is_empty() {
                    return None;
                }
                if !state.has_moved {
                    state.failure = state.why.take();
                    self.halt.store(true, Ordering::Relaxed);
                    self.changed.notify_all();
                    return None;
                }
                state.has_moved = false;
                state.queue = std::mem::take(&mut state.deferred);
                continue;
            }
            self.changed.wait_for(&mut state, LOOK);
        }
    }

    fn perform(&self, load: &Load, own: &mut Option<(usize, NodeSession)>) -> Result<(), Failure> {
        let node = &self.target.nodes[load.node];
        let mut tries = 0;
        loop {
            tries += 1;
            let kept = own.take().filter(|(at, session)| *at == load.node && session.is_alive());
            let session = match kept {
                Some((_, session)) => Ok(session),
                None => node.session(&self.halt).and_then(|mut session| {
                    node.widen(&mut session)?;
                    Ok(session)
                }),
            };
            let error = match session {
                Ok(mut session) => {
                    let end = self.by_either_way(load, &mut session);
                    *own = Some((load.node, session));
                    match end {
                        Err(Failure::Remote(
                            error @ (RemoteError::Lost { .. }
                            | RemoteError::Closed { .. }
                            | RemoteError::Timeout { .. }),
                        )) => error,
                        other => return other.map_err(|failure| self.explained(load, failure)),
                    }
                }
                Err(Failure::Remote(error)) if !matches!(error, RemoteError::Stopped { .. }) => {
                    error
                }
                Err(failure) => return Err(failure),
            };
            if tries >= TRIES || self.is_told() {
                return Err(self.explained(load, error.into()));
            }
            debug!("{}: {error}; again, with a new session", load.table);
            let mut state = self.state.lock();
            self.changed.wait_for(&mut state, PAUSE);
        }
    }

    /// A session's error, with the table that it is of.
    fn explained(&self, load: &Load, failure: Failure) -> Failure {
        match failure {
            Failure::Remote(error) if !matches!(error, RemoteError::Stopped { .. }) => {
                let file = &self.dump.files[load.file];
                RestoreDumpError::Table { table: named(&file.schema, &file.table), error }.into()
            }
            other => other,
        }
    }

    /// Into its own table; where that is a partition, and has no place for a row, into the root of it.
    fn by_either_way(&self, load: &Load, session: &mut NodeSession) -> Result<(), Failure> {
        let Some(root) = &load.root else {
            return self.once(load, session, None);
        };
        if !self.state.lock().by_root.contains(root) {
            match self.once(load, session, None) {
                Err(Failure::Remote(error)) if is_refused(load, &error) && session.is_alive() => {
                    debug!("{error}: by {root}");
                    self.state.lock().by_root.insert(root.clone());
                }
                end => return end,
            }
        }
        self.once(load, session, Some(root))
    }

    /// Tables that were there before may be looked at by others.
    fn may_freeze(&self, load: &Load) -> bool {
        let is_made = !self.dump.schema.is_empty();
        is_made && load.alone && self.dump.files[load.file].bytes >= freeze::WORTH_IT
    }

    fn once(
        &self,
        load: &Load,
        session: &mut NodeSession,
        root: Option<&str>,
    ) -> Result<(), Failure> {
        let file = &self.dump.files[load.file];
        let mark = progress::mark(&name_of(file, load));
        let mut begin = format!("BEGIN; {mark}");
        if root.is_some() {
            let by_root = progress::mark(&format!("{BY_ROOT}{}", file.path.display()));
            begin.push_str(&format!("; {by_root}"));
        }
        // It waits for what a killed run has left at work on the same file.
        let begun = match load.direct {
            true => session.ask_within("begin", &begin, LONG).map(drop),
            false => begin_all(session, &begin).and_then(|()| as_written(session)),
        };
        match begun {
            Ok(()) => {}
            Err(error) if progress::is_done(&error) => {
                session.ask("end", "ROLLBACK")?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let path = self.dir.join(&file.path);
        let at =
            |error: io::Error| Failure::from(RestoreDumpError::File { path: path.clone(), error });
        let mut reader = reader(&path, &self.dump.compression).map_err(at)?;
        let frozen =
            root.is_none() && self.may_freeze(load) && freeze::prepare(session, &load.table)?;
        let table = root.unwrap_or(&load.table);
        let mut sql = copy_sql(table, file, &self.dump.encoding, frozen);
        if self.target.citus && !load.direct && self.target.encoding != "UTF8" {
            // Citus passes rows on in its client's encoding, and the others take that for their own.
            let own =
                "SELECT set_config('client_encoding', current_setting('server_encoding'), true)";
            session.ask("take the database's encoding", own)?;
            sql = in_ascii(&sql);
        }
        let mut sent = 0;
        let end = session.copy_from(&sql, &mut |piece| {
            let length = reader.by_ref().take(PIECE).read_to_end(piece)? as u64;
            sent += length;
            self.sent.fetch_add(length, Ordering::Relaxed);
            Ok(())
        });
        if end.is_err() {
            // It comes again.
            self.sent.fetch_sub(sent, Ordering::Relaxed);
        }
        let end = match end {
            Ok(end) => end,
            Err(CopyError::Sink(error)) => return Err(at(error)),
            Err(CopyError::Remote(error)) => {
                if session.is_alive() {
                    session.ask("give up", "ROLLBACK")?;
                }
                return Err(error.into());
            }
        };
        if end.rows != file.rows {
            session.ask("give up", "ROLLBACK")?;
            let table = named(&file.schema, &file.table);
            let (loaded, written) = (end.rows, file.rows);
            return Err(RestoreDumpError::Rows { table, path, loaded, written }.into());
        }
        session.ask_within("commit", "COMMIT", LONG)?;
        Ok(())
    }
}

/// What Citus says of any error that another node has had with a row: an internal one.
const OF_ANOTHER_NODE: &str = "XX000";

/// Whether a table has refused a row: as a partition, or by a check of its own, which its root does not pass over either.
fn is_refused(load: &Load, error: &RemoteError) -> bool {
    match error.sqlstate() {
        // check_violation
        Some("23514") => true,
        Some(OF_ANOTHER_NODE) => !load.direct,
        _ => false,
    }
}

/// The bytes that COPY has written.
fn reader(path: &Path, compression: &str) -> io::Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(1 << 17, File::open(path)?);
    Ok(match compression {
        "none" => Box::new(file),
        _ => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
    })
}

/// The COPY of a file into a table.
fn copy_sql(table: &str, file: &DataFile, encoding: &str, frozen: bool) -> String {
    let columns = match file.columns.is_empty() {
        true => String::new(),
        false => format!(" ({})", file.columns.join(", ")),
    };
    let format = match file.is_binary() {
        true => "FORMAT binary".to_owned(),
        false => format!("ENCODING '{encoding}'"),
    };
    let freeze = if frozen { ", FREEZE" } else { "" };
    format!("COPY {table}{columns} FROM STDIN WITH ({format}{freeze})")
}

/// The same statement without a letter that an encoding may write in another way. Such letters are in names, which are
/// in double quotes then.
fn in_ascii(sql: &str) -> String {
    let mut parts = sql.split('"').enumerate();
    let mut plain = String::with_capacity(sql.len());
    // Two double quotes within a name are an empty part between two, and it goes on behind them.
    while let Some((number, part)) = parts.next() {
        if number % 2 == 0 {
            plain.push_str(part);
            continue;
        }
        let mut name = part.to_owned();
        let mut rest = parts.clone();
        while let Some((_, "")) = rest.next()
            && let Some((_, more)) = rest.next()
        {
            name.push_str("\"\"");
            name.push_str(more);
            parts = rest.clone();
        }
        if name.is_ascii() {
            plain.push_str(&format!("\"{name}\""));
            continue;
        }
        plain.push_str("U&\"");
        for letter in name.chars() {
            match letter {
                '\\' => plain.push_str("\\\\"),
                letter if letter.is_ascii() => plain.push(letter),
                letter => plain.push_str(&format!("\\+{:06X}", u32::from(letter))),
            }
        }
        plain.push('"');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_without_letters_of_any_encoding() {
        for (sql, plain) in [
            ("COPY t FROM STDIN", "COPY t FROM STDIN"),
            (r#"COPY "a"."b ""c""" (d) X"#, r#"COPY "a"."b ""c""" (d) X"#),
            (
                r#"COPY "ö"."x" ("ä""\€", "e") X"#,
                r#"COPY U&"\+0000F6"."x" (U&"\+0000E4""\\\+0020AC", "e") X"#,
            ),
        ] {
            assert_eq!(in_ascii(sql), plain);
        }
    }
}
