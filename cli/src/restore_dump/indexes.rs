//! Indexes and keys of the coordinator's own tables, several at a time, the largest table's first. Those of distributed
//! tables are left to Citus, which makes them on all shards at once.
//!
//! ```text
//! BEGIN ─> the entry's row of progress ─> the entry ─> COMMIT          any error: ROLLBACK, and left to psql
//! ```
//! This is quicker and nothing else: what is not done here, for whatever reason, psql does afterwards, one entry after
//! the other, and says what is wrong with it.
//!
//! No two of them wait for each other in a circle: a transaction locks one table. A key locks it against all others, so
//! nothing else is begun on a table meanwhile: it would wait in place of doing something.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use remote::RemoteError;
use tracing::debug;

use super::entry::{self, Of};
use super::progress;
use super::schema::{Pieces, is_setting, kind, name_of, settings};
use super::target::{LONG, Node, as_written, begin_all};
use crate::dump::{Dump, Kind, NodeSession};
use crate::failure::Failure;

/// How long one look lasts whether something can be begun.
const LOOK: Duration = Duration::from_millis(100);

/// An index or a key.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Its number in the file.
    number: usize,
    /// The position of its table in the dump.
    table: usize,
    /// Whether it needs the table for itself.
    alone: bool,
    bytes: u64,
    /// What is set for it, and what makes it.
    sql: String,
}

/// Makes those that are not done.
pub fn make(
    dump: &Dump,
    node: &Node,
    pieces: &Pieces,
    done: &HashSet<String>,
    jobs: usize,
    halt: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    let mut left = entries(dump, pieces);
    left.retain(|entry| !done.contains(&name_of(entry.number)));
    let workers = jobs.min(left.len());
    if workers < 2 {
        return Ok(());
    }
    debug!("{} indexes and keys of local tables, {workers} at a time", left.len());
    let makers = Makers {
        node,
        head: &pieces.head,
        halt,
        state: Mutex::new(State { left, at: HashMap::new() }),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| makers.work())).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// What all threads share.
struct Makers<'a> {
    node: &'a Node,
    head: &'a str,
    halt: &'a Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    left: Vec<Entry>,
    /// How many are at work on a table, and whether one of them needs it for itself.
    at: HashMap<usize, (usize, bool)>,
}

impl State {
    /// The first that need not wait for another.
    fn take(&mut self) -> Option<Entry> {
        let is_free = |entry: &Entry| match self.at.get(&entry.table) {
            None => true,
            Some((_, alone)) => !alone && !entry.alone,
        };
        let entry = self.left.iter().position(is_free).map(|at| self.left.remove(at))?;
        let at = self.at.entry(entry.table).or_default();
        *at = (at.0 + 1, entry.alone);
        Some(entry)
    }

    fn give_back(&mut self, entry: &Entry) {
        if let Some(at) = self.at.get_mut(&entry.table) {
            *at = (at.0 - 1, false);
            if at.0 == 0 {
                self.at.remove(&entry.table);
            }
        }
    }
}

impl Makers<'_> {
    fn next(&self) -> Option<Entry> {
        let mut state = self.state.lock();
        loop {
            if state.left.is_empty() {
                return None;
            }
            if let Some(entry) = state.take() {
                return Some(entry);
            }
            self.changed.wait_for(&mut state, LOOK);
        }
    }

    /// One session's share. Only an end that was asked for is an error.
    fn work(&self) -> Result<(), Failure> {
        let stopped =
            |failure: &Failure| matches!(failure, Failure::Remote(RemoteError::Stopped { .. }));
        let mut session = match self.session() {
            Ok(session) => session,
            Err(failure) if stopped(&failure) => return Err(failure),
            Err(failure) => {
                debug!("{failure}: one fewer at work");
                return Ok(());
            }
        };
        while let Some(entry) = self.next() {
            let end = once(&mut session, &entry);
            self.state.lock().give_back(&entry);
            self.changed.notify_all();
            match end.map_err(Failure::from) {
                Ok(()) => {}
                Err(failure) if stopped(&failure) => return Err(failure),
                Err(failure) => {
                    debug!("{failure}: left to psql");
                    if !session.is_alive() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// A session that has what psql's has.
    fn session(&self) -> Result<NodeSession, Failure> {
        let mut session = NodeSession::open_with(&self.node.reach, &self.node.making, self.halt)?;
        progress::share_script(&mut session)?;
        session.ask("take the dump's settings", self.head)?;
        self.node.widen(&mut session)?;
        Ok(session)
    }
}

/// One of them; after an error that the session survives, nothing of it is left.
fn once(session: &mut NodeSession, entry: &Entry) -> Result<(), RemoteError> {
    let mut perform = || {
        begin_all(session, &format!("BEGIN; {}", progress::mark(&name_of(entry.number))))?;
        as_written(session)?;
        session.ask_within("make an index or a key", &entry.sql, LONG)?;
        session.ask_within("commit", "COMMIT", LONG).map(drop)
    };
    let end = perform();
    if end.is_err() && session.is_alive() {
        session.ask("give up", "ROLLBACK")?;
    }
    end
}

/// Which entries can be made side by side, the largest table's first: all that is made before them, an index or a key of
/// another one, none of them needs. A view or a function that pg_dump has put behind a key may be needed by those after
/// it.
fn entries(dump: &Dump, pieces: &Pieces) -> Vec<Entry> {
    if pieces.is_bytes {
        return Vec::new();
    }
    let mut tables = HashMap::new();
    for (position, table) in dump.tables.iter().enumerate() {
        if table.kind == Kind::Local && !table.partitioned {
            tables.insert((table.schema.as_str(), table.name.as_str()), (position, 0));
        }
    }
    for file in &dump.files {
        if let Some((_, bytes)) = tables.get_mut(&(file.schema.as_str(), file.table.as_str())) {
            *bytes += file.bytes;
        }
    }
    let mut found = Vec::new();
    let mut set = String::new();
    for (number, entry) in pieces.entries.iter().enumerate().take(pieces.last) {
        match kind(entry) {
            Some("INDEX" | "CONSTRAINT") => {
                if let Some(Of::Index { table, .. }) = entry::of(entry, pieces.is_bytes)
                    && let Some((table, bytes)) =
                        tables.get(&(table.schema.as_str(), table.name.as_str()))
                {
                    let alone = entry.lines().any(|line| line.starts_with("ALTER TABLE "));
                    let sql = format!("{set}{}", without_settings(entry));
                    found.push(Entry { number, table: *table, alone, bytes: *bytes, sql });
                }
            }
            Some("INDEX ATTACH" | "COMMENT" | "STATISTICS") => {}
            _ => break,
        }
        // For its transaction alone: the session's next one may be of an entry that comes before this one.
        set.push_str(&settings(entry).replace("SET default_", "SET LOCAL default_"));
    }
    found.sort_by_key(|entry| std::cmp::Reverse(entry.bytes));
    found
}

/// An entry without the settings at its end, which are for those after it.
fn without_settings(entry: &str) -> String {
    let mut lines: Vec<&str> = entry.lines().collect();
    while lines.pop_if(|line| line.is_empty() || is_setting(line)).is_some() {}
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_at_an_entrys_end_are_for_others() {
        let entry = "--\n-- Name: i\n--\n\nCREATE INDEX i ON s.t USING btree (a);\n\n\nSET default_tablespace = fast;\n\n";
        let alone = without_settings(entry);
        assert!(alone.ends_with("(a);") && alone.starts_with("--"), "{alone}");
        assert_eq!(settings(entry), "SET default_tablespace = fast;\n");
    }

    #[test]
    fn a_key_is_alone_at_its_table_and_indexes_are_not() {
        let entry =
            |number, table, alone| Entry { number, table, alone, bytes: 0, sql: String::new() };
        let left = vec![
            entry(0, 7, true),
            entry(1, 7, false),
            entry(2, 7, false),
            entry(3, 7, true),
            entry(4, 8, false),
        ];
        let mut state = State { left, at: HashMap::new() };
        let key = state.take().expect("the key");
        assert_eq!((key.number, state.take().map(|entry| entry.number)), (0, Some(4)));
        assert_eq!(state.take(), None);
        state.give_back(&key);
        let (first, second) = (state.take().expect("one"), state.take().expect("two"));
        assert_eq!((first.number, second.number, state.take()), (1, 2, None));
        state.give_back(&first);
        assert_eq!(state.take(), None);
        state.give_back(&second);
        assert_eq!(state.take().map(|entry| entry.number), Some(3));
    }
}
