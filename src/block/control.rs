//! The control block: every database's block, in shared memory, under one lightweight lock.
//!
//! Each function takes the lock once, decides and acts through [`Block`]'s own steps, copies out what
//! its caller needs and lets go.  Nothing between may raise an error or wait: the steps are plain
//! code, waking a process sets a latch.

use super::error::BlockError;
use super::state::{
    Block, Errand, Failure, Moment, Named, ProcessId, Refusal, Release, State, Terms, Token,
};
use crate::fence::text::Text;
use crate::guc;
use crate::pg::clock::now;
use crate::pg::elog;
use crate::pg::process;
use crate::pg::shmem::{Guard, Listening, Slots, shareable};
use crate::report::Report;

/// A row of the manifest: one node under the block.
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
    /// Process on that node that holds the locks.
    pub backend_pid: i32,
    /// When it had them, by the coordinator's clock.
    pub locked_at: Moment,
    /// Of that node's data directory.
    pub system_identifier: u64,
    /// That the node writes.
    pub timeline: u32,
    /// Flushed up to here once all locks were held.
    pub wal_lsn: u64,
    /// Of the last restore point written under this block; 0 for none.
    pub restore_lsn: u64,
}

impl NodeRow {
    /// An unused row.
    pub const UNUSED: Self = Self {
        nodeid: 0,
        groupid: 0,
        host: Text::EMPTY,
        port: 0,
        backend_pid: 0,
        locked_at: 0,
        system_identifier: 0,
        timeline: 0,
        wal_lsn: 0,
        restore_lsn: 0,
    };
}

/// The control block itself.
pub static CONTROL: Slots<Block, NodeRow> =
    Slots::new(c"citus_fence", sizes, (Block::UNUSED, NodeRow::UNUSED));

shareable! { Block, NodeRow }

/// The lock.  Nobody comes here where the library was not preloaded; if somebody did, that is an error.
fn lock() -> Guard<'static, Block, NodeRow> {
    CONTROL.lock().unwrap_or_else(|| elog::raise(&Report::from(&BlockError::NotPreloaded)))
}

fn sizes() -> (usize, usize) {
    (guc::MAX_BLOCKS.get().max(1) as usize, guc::MAX_NODES.get().max(1) as usize)
}

impl From<&BlockError> for Failure {
    fn from(error: &BlockError) -> Self {
        Report::from(error).into()
    }
}

/// The number of a block that begins now.
///
/// A number must never come again, also not after a crash that has everything forgotten: whoever still has one
/// of before must not end somebody else's block by it.  So it is the time, made to go forward only.
fn next_number(control: &mut Guard<'_, Block, NodeRow>, now: Moment) -> i64 {
    let mut number = now;
    for slot in 0..control.len() {
        number = number.max(control.slot(slot).latest_number() + 1);
    }
    number
}

/// Begins a block of this database, and registers the requestor; its number.
pub fn begin(database: u32, terms: Terms) -> Result<(Token, i64), BlockError> {
    let mut refused = None;
    // Twice at most: a full table is looked through for databases that are gone, which takes a look
    // at the catalog and so cannot be done under the lock.
    for round in 0..2 {
        let mut control = lock();
        reap(&mut control, database);
        let Some(slot) = choose(&mut control, database) else {
            drop(control);
            if round == 0 && clear_dropped_databases() {
                continue;
            }
            break;
        };
        let now = now();
        let number = next_number(&mut control, now);
        let token = control
            .slot(slot)
            .begin(database, number, process::me(), terms, now)
            .map(|generation| (Token { slot: slot as u32, generation }, number));
        let failure = control.slot(slot).failure;
        drop(control);
        match token {
            Ok(token) => return Ok(token),
            Err(refusal) => {
                refused = Some(refusal_error(refusal, &failure));
                break;
            }
        }
    }
    Err(refused.unwrap_or(BlockError::TooManyBlocks { max: guc::MAX_BLOCKS.get() as usize }))
}

fn refusal_error(refusal: Refusal, failure: &Failure) -> BlockError {
    match refusal {
        Refusal::Starting => BlockError::Starting,
        Refusal::Active => BlockError::Active,
        Refusal::Releasing => BlockError::Releasing,
        Refusal::Failed => BlockError::PreviousFailed { what: failure.message.as_str().to_owned() },
        Refusal::ReleaseAsked => BlockError::ReleasedWhileStarting,
        Refusal::NoBlock => BlockError::NoBlock,
        Refusal::Stale => BlockError::WorkerVanished,
    }
}

/// The slot of a database: the one it has, else one nobody uses, preferring its own last one and one
/// that tells no other database why its last block ended.
fn choose(control: &mut Guard<'_, Block, NodeRow>, database: u32) -> Option<usize> {
    let mut best: Option<(u8, usize)> = None;
    for slot in 0..control.len() {
        let block = control.slot(slot);
        let rank = match (block.state, block.database == database) {
            (State::Inactive, true) => 1,
            (State::Inactive, false) if !block.failure.is_some() => 2,
            (State::Inactive, false) => 3,
            (_, true) => 0,
            (_, false) => continue,
        };
        if best.is_none_or(|(known, _)| rank < known) {
            best = Some((rank, slot));
        }
    }
    best.map(|(_, slot)| slot)
}

/// The slot that holds or last held a block of the database.
fn find(control: &mut Guard<'_, Block, NodeRow>, database: u32) -> Option<usize> {
    let mut last = None;
    for slot in 0..control.len() {
        let block = control.slot(slot);
        if block.database == database && block.generation > 0 {
            if block.state != State::Inactive {
                return Some(slot);
            }
            last = Some(slot);
        }
    }
    last
}

fn reap(control: &mut Guard<'_, Block, NodeRow>, database: u32) {
    if let Some(slot) = find(control, database) {
        // The reason is made of constants: making it cannot fail.
        let reason = Failure {
            sqlstate: pgrx::PgSqlErrorCode::ERRCODE_SYSTEM_ERROR as i32,
            message: Text::new("the backup block was lost: its background worker is gone"),
            ..Failure::NONE
        };
        control.slot(slot).reap(process::is_alive, reason);
    }
}

/// Clears errors that no session can clear any more.  True when a slot became free.
fn clear_dropped_databases() -> bool {
    let mut failed = Vec::new();
    let mut control = lock();
    let slots = control.len();
    drop(control);
    failed.reserve(slots);
    control = lock();
    for slot in 0..slots {
        let block = control.slot(slot);
        if block.state == State::Error {
            failed.push((slot, block.generation, block.database));
        }
    }
    drop(control);
    failed.retain(|(_, _, database)| !crate::pg::ident::database_exists(*database));
    let mut control = lock();
    for (slot, generation, _) in &failed {
        let block = control.slot(*slot);
        if block.generation == *generation && block.state == State::Error {
            block.ask_release();
        }
    }
    drop(control);
    !failed.is_empty()
}

/// A copy of the block of this database, if it has or had one, cleared of a worker that is gone.
pub fn look(database: u32) -> Option<(Token, Block)> {
    let mut control = lock();
    reap(&mut control, database);
    let slot = find(&mut control, database)?;
    let block = *control.slot(slot);
    Some((Token { slot: slot as u32, generation: block.generation }, block))
}

/// A copy of the active block of this database and of its manifest; no rows unless it is active.
pub fn manifest(database: u32) -> (Block, Vec<NodeRow>) {
    let Some((token, block)) = look(database) else {
        return (Block::UNUSED, Vec::new());
    };
    let mut rows = Vec::with_capacity(block.node_count as usize);
    let mut control = lock();
    let slot = token.slot as usize;
    let current = *control.slot(slot);
    if current.generation == token.generation && current.state == State::Active {
        let count = (current.node_count as usize).min(rows.capacity());
        rows.extend_from_slice(&control.rows(slot)[..count]);
    }
    drop(control);
    (current, rows)
}

/// A copy of the token's slot, whoever's block it holds now.
pub fn read(token: Token) -> Block {
    let mut control = lock();
    *control.slot(token.slot as usize)
}

/// Listens for the next change of the token's slot.
pub fn listen(token: Token) -> Listening {
    CONTROL.listen(token.slot as usize)
}

/// One step of a block under the lock; afterwards whoever waits for the slot is woken.
fn step<R>(token: Token, act: impl FnOnce(&mut Block) -> R) -> R {
    let mut control = lock();
    let result = act(control.slot(token.slot as usize));
    drop(control);
    CONTROL.notify(token.slot as usize);
    result
}

/// The requestor leaves before it was told that the block is active.
pub fn abandon(token: Token) {
    let worker =
        step(token, |block| if block.abandon(token.generation) { block.worker } else { None });
    if let Some(worker) = worker {
        process::wake(worker);
        process::interrupt(worker);
    }
}

/// What asking for the release found.
pub struct Asked {
    /// What comes of it.
    pub release: Release,
    /// Which block it was asked of; none where this database has never had one.
    pub token: Option<Token>,
    /// Why the last block ended, where nobody has been told yet.
    pub failure: Failure,
    /// Why the block before this one ended, where nobody has been told yet.
    pub earlier: Failure,
    /// What was found.
    pub state: State,
}

/// Asks for the release of the block of this database that is meant.
pub fn ask_release(database: u32, named: Named) -> Asked {
    let mut control = lock();
    reap(&mut control, database);
    let Some(slot) = find(&mut control, database) else {
        return Asked {
            release: if named == Named::Any { Release::Nothing } else { Release::Over },
            token: None,
            failure: Failure::NONE,
            earlier: Failure::NONE,
            state: State::Inactive,
        };
    };
    let block = control.slot(slot);
    let state = block.state;
    let worker = block.worker;
    let token = Token { slot: slot as u32, generation: block.generation };
    let (failure, earlier) = match (named, state) {
        (Named::Any, State::Inactive) => (block.take_end_reason(), Failure::NONE),
        (Named::Any, _) => (block.failure, block.take_previous_reason()),
        // Whoever names a block means no other, so how others ended is not for this session to hear.
        (Named::Start(_) | Named::Number(_), _) => (block.take_reason_of(named), Failure::NONE),
    };
    let release = block.ask_release_of(named);
    drop(control);
    CONTROL.notify(slot);
    if let (Release::Asked(_) | Release::Unstarted(_), Some(worker)) = (release, worker) {
        process::wake(worker);
        if matches!(release, Release::Unstarted(_)) {
            process::interrupt(worker);
        }
    }
    Asked { release, token: Some(token), failure, earlier, state }
}

/// Posts an errand to the worker of the active block; `None` while another is under way.
pub fn post(token: Token, errand: Errand) -> Result<Option<u64>, BlockError> {
    let mut control = lock();
    let block = control.slot(token.slot as usize);
    let posted = if block.generation == token.generation {
        block.post(errand)
    } else {
        Err(Refusal::NoBlock)
    };
    let worker = block.worker;
    drop(control);
    if let (Ok(Some(_)), Some(worker)) = (posted, worker) {
        process::wake(worker);
    }
    posted.map_err(|refusal| refusal_error(refusal, &Failure::NONE))
}

/// Takes an errand back that nobody waits for any more.
pub fn withdraw((token, number): (Token, u64)) {
    step(token, |block| {
        if block.generation == token.generation {
            block.withdraw(number);
        }
    });
}

/// The worker's side: the steps it takes on its own block.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    token: Token,
    me: ProcessId,
}

impl Owner {
    /// Takes the block over from its requestor.  `None` when there is nothing to take: the requestor
    /// has gone and somebody has cleared up, or a crash has reset everything.
    pub fn adopt(token: Token) -> Option<(Self, Block)> {
        let me = process::me();
        let block = step(token, |block| block.adopt(token.generation, me).map(|()| *block));
        block.ok().map(|block| (Self { token, me }, block))
    }

    /// A copy of the own block; `None` when it is not this worker's any more.
    pub fn read(&self) -> Option<Block> {
        let block = read(self.token);
        (block.generation == self.token.generation && block.worker == Some(self.me))
            .then_some(block)
    }

    /// Whether somebody wants the block to end, or the block is not this worker's any more.
    pub fn release_asked(&self) -> bool {
        self.read().is_none_or(|block| block.release_asked)
    }

    /// starting → active, with the manifest.
    pub fn activate(&self, rows: &[NodeRow], warning: &str) -> Result<(), BlockError> {
        let mut control = lock();
        let slot = self.token.slot as usize;
        let count = rows.len().min(control.rows_per_slot());
        let block = control.slot(slot);
        let result = block.activate(self.token.generation, self.me, count as u32, now());
        if result.is_ok() {
            block.warning = Text::new(warning);
            control.rows(slot)[..count].copy_from_slice(&rows[..count]);
        }
        drop(control);
        CONTROL.notify(slot);
        result.map_err(|refusal| refusal_error(refusal, &Failure::NONE))
    }

    /// active → releasing.
    pub fn begin_release(&self) {
        let _ = step(self.token, |block| block.begin_release(self.token.generation, self.me));
    }

    /// → inactive, all locks gone.
    pub fn finish(&self, reason: Failure) {
        let _ = step(self.token, |block| block.finish(self.token.generation, self.me, reason));
    }

    /// → error (or inactive where somebody waits for the answer), all locks gone.
    pub fn fail(&self, failure: Failure) {
        let _ = step(self.token, |block| block.fail(self.token.generation, self.me, failure));
    }

    /// Begins with the errand that waits, if there is one.
    pub fn take_errand(&self) -> Option<(u64, Errand)> {
        step(self.token, |block| block.take_errand(self.token.generation, self.me)).ok().flatten()
    }

    /// Answers an errand.
    pub fn answer(&self, number: u64, expires_at: Option<Moment>, answer: Failure) {
        let _ = step(self.token, |block| {
            block.answer(self.token.generation, self.me, number, expires_at, answer)
        });
    }

    /// Notes the positions of a restore point in the manifest.
    pub fn note_restore_point(&self, positions: &[u64]) {
        let mut control = lock();
        for (row, position) in control.rows(self.token.slot as usize).iter_mut().zip(positions) {
            row.restore_lsn = *position;
        }
    }
}
