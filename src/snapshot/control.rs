//! The exports of all databases, in shared memory, under one lightweight lock.
//!
//! Each function takes the lock once, decides and acts through [`Export`]'s own steps, copies out what its caller
//! needs and lets go: nothing between may raise an error or wait.

use super::error::SnapshotError;
use super::state::{Export, Release, State, Terms};
use crate::fence::failure::Failure;
use crate::fence::mode::Mode;
use crate::fence::text::Text;
use crate::guc;
use crate::pg::clock::now;
use crate::pg::elog;
use crate::pg::process;
use crate::pg::shmem::{Guard, Listening, Slots, shareable};
use crate::report::Report;

/// A node's part.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NodeRow {
    /// `nodeid`; 0 for a coordinator that is not in `pg_dist_node`.
    pub nodeid: i32,
    /// `groupid`.
    pub groupid: i32,
    /// `nodename`.
    pub host: Text<256>,
    /// `nodeport`.
    pub port: i32,
    /// What SET TRANSACTION SNAPSHOT takes there.
    pub snapshot_id: Text<64>,
    /// Whatever the snapshot shows is in the WAL before this position.
    pub wal_lsn: u64,
}

impl NodeRow {
    const UNUSED: Self = Self {
        nodeid: 0,
        groupid: 0,
        host: Text::EMPTY,
        port: 0,
        snapshot_id: Text::EMPTY,
        wal_lsn: 0,
    };
}

/// The exports themselves.
pub static EXPORTS: Slots<Export, NodeRow> =
    Slots::new(c"citus_fence cluster snapshots", sizes, (Export::UNUSED, NodeRow::UNUSED));

shareable! { Export, NodeRow }

fn sizes() -> (usize, usize) {
    (guc::MAX_CLUSTER_SNAPSHOTS.get().max(1) as usize, guc::MAX_NODES.get().max(1) as usize)
}

/// Where an export is found.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// Its slot.
    pub slot: usize,
    /// Its number.
    pub id: i64,
}

fn lock() -> Guard<'static, Export, NodeRow> {
    EXPORTS.lock().unwrap_or_else(|| elog::raise(&Report::from(&SnapshotError::NotPreloaded)))
}

/// Ends those whose keepers are gone without a word.
fn reap(exports: &mut Guard<'_, Export, NodeRow>) {
    // Made of constants: making it cannot fail.
    let reason = Failure {
        sqlstate: pgrx::PgSqlErrorCode::ERRCODE_SYSTEM_ERROR as i32,
        message: Text::new("its background worker is gone"),
        ..Failure::NONE
    };
    for slot in 0..exports.len() {
        exports.slot(slot).reap(process::is_alive, reason);
    }
}

/// Begins an export of this database.
pub fn begin(database: u32, terms: Terms) -> Result<Token, SnapshotError> {
    let (me, now) = (process::me(), now());
    let mut exports = lock();
    reap(&mut exports);
    // The microsecond makes a number that a server does not give twice, over restarts too, and that no other
    // server is likely to have given.
    let mut id = now;
    let mut best: Option<(i64, usize)> = None;
    for slot in 0..exports.len() {
        let export = exports.slot(slot);
        id = id.max(export.id + 1);
        // The one that has been over for longest tells its end the least to anybody.
        if !export.is_live() && best.is_none_or(|(oldest, _)| export.id < oldest) {
            best = Some((export.id, slot));
        }
    }
    if let Some((_, slot)) = best {
        *exports.slot(slot) = Export::begin(id, database, me, terms, now);
    }
    drop(exports);
    let (_, slot) =
        best.ok_or(SnapshotError::TooMany { max: guc::MAX_CLUSTER_SNAPSHOTS.get() as usize })?;
    Ok(Token { slot, id })
}

/// Copies of the exports of a database that have a slot, in the order of their numbers.
pub fn all(database: u32) -> Vec<Export> {
    let mut exports = lock();
    let count = exports.len();
    drop(exports);
    let mut found = Vec::with_capacity(count);
    exports = lock();
    reap(&mut exports);
    for slot in 0..count {
        let export = *exports.slot(slot);
        if export.database == database && export.state != State::Unused {
            found.push(export);
        }
    }
    drop(exports);
    found.sort_by_key(|export| export.id);
    found
}

/// The export of that number of a database.
pub fn find(database: u32, id: i64) -> Option<(Token, Export)> {
    let mut exports = lock();
    reap(&mut exports);
    (0..exports.len()).find_map(|slot| {
        let export = *exports.slot(slot);
        (export.id == id && export.database == database && export.state != State::Unused)
            .then_some((Token { slot, id }, export))
    })
}

/// A copy of the export, if its slot is not another's by now.
pub fn read(token: Token) -> Option<Export> {
    let mut exports = lock();
    reap(&mut exports);
    let export = *exports.slot(token.slot);
    (export.id == token.id).then_some(export)
}

/// The nodes' parts of one that is held.
pub fn rows(token: Token) -> Vec<NodeRow> {
    let Some(known) = read(token) else { return Vec::new() };
    let mut rows = Vec::with_capacity(known.count as usize);
    let mut exports = lock();
    let export = *exports.slot(token.slot);
    if export.id == token.id && export.state == State::Held {
        let count = (export.count as usize).min(rows.capacity());
        rows.extend_from_slice(&exports.rows(token.slot)[..count]);
    }
    drop(exports);
    rows
}

/// Listens for the next change of the slot.
pub fn listen(token: Token) -> Listening {
    EXPORTS.listen(token.slot)
}

/// One step under the lock; afterwards whoever waits is woken, the worker too.
fn step<R>(token: Token, act: impl FnOnce(&mut Export) -> R) -> Option<R> {
    let mut exports = lock();
    let export = exports.slot(token.slot);
    let is_it = export.id == token.id;
    let worker = export.worker;
    let result = is_it.then(|| act(export));
    drop(exports);
    EXPORTS.notify(token.slot);
    if let Some(worker) = worker {
        process::wake(worker);
    }
    result
}

/// No worker could be started for it.
pub fn forget(token: Token) {
    step(token, |export| *export = Export::UNUSED);
}

/// The requestor leaves before it was told of the snapshots.
pub fn abandon(token: Token) {
    ask_release(token);
}

/// Asks for the end.
pub fn ask_release(token: Token) -> Release {
    let now = now();
    let asked = step(token, |export| (export.ask_release(now), export.state, export.worker));
    match asked {
        Some((release, State::Starting, Some(worker))) => {
            // It may be in a wait for a lock here.
            process::interrupt(worker);
            release
        }
        Some((release, ..)) => release,
        None => Release::Over,
    }
}

/// What came of asking for a new life.
#[derive(Clone, Copy, Debug)]
pub enum Extension {
    /// It is asked for; so many have been answered before.
    Asked(u64),
    /// Another's wish is being seen to.
    Later,
    /// It is over.
    Over,
}

/// Asks for a new life.
pub fn ask_extension(token: Token, timeout_ms: i32) -> Extension {
    let asked = step(token, |export| match export.state {
        State::Held => export.ask_extension(timeout_ms).map_or(Extension::Later, Extension::Asked),
        State::Unused | State::Starting | State::Over => Extension::Over,
    });
    asked.unwrap_or(Extension::Over)
}

/// The worker's side.
#[derive(Clone, Copy, Debug)]
pub struct Owner(Token);

impl Owner {
    /// Takes the export over. None where nobody waits for it any more.
    pub fn adopt(token: Token) -> Option<(Self, Export)> {
        let me = process::me();
        step(token, |export| export.adopt(token.id, me).then_some(*export))
            .flatten()
            .map(|export| (Self(token), export))
    }

    /// A copy; none when it is over, or another's.
    pub fn read(&self) -> Option<Export> {
        let mut exports = lock();
        let export = *exports.slot(self.0.slot);
        (export.id == self.0.id && export.is_live()).then_some(export)
    }

    /// Whether somebody wants it to end.
    pub fn release_asked(&self) -> bool {
        self.read().is_none_or(|export| export.release_asked)
    }

    /// starting → held, with what there is to tell. False where somebody has given it up meanwhile.
    pub fn keep(&self, mode: Mode, rows: &[NodeRow], warning: &str) -> bool {
        let warning = Text::new(warning);
        let now = now();
        let mut exports = lock();
        let count = rows.len().min(exports.rows_per_slot());
        let held = exports.slot(self.0.slot).keep(self.0.id, mode, count as u32, now);
        if held {
            exports.slot(self.0.slot).warning = warning;
            exports.rows(self.0.slot)[..count].copy_from_slice(&rows[..count]);
        }
        drop(exports);
        EXPORTS.notify(self.0.slot);
        held
    }

    /// The nodes know of the new life.
    pub fn extend(&self) {
        let now = now();
        step(self.0, |export| export.extend(export.id, now));
    }

    /// Nothing is held any more.
    pub fn finish(&self, failure: Failure) {
        step(self.0, |export| export.finish(export.id, failure));
    }
}
