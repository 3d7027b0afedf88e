//! The states of a block, and every step between them.
//!
//! ```text
//!              begin            activate            release, deadline, abandon
//!   inactive ─────────▶ starting ─────────▶ active ─────────▶ releasing
//!      ▲                   │                   │                  │
//!      │   finish, told    │                   │                  │
//!      ├───────────────────┘                   │                  │
//!      │   finish                              │                  │
//!      ├──────────────────────────────────────────────────────────┤
//!      │   clear (unblock)                     ▼                  ▼
//!      └────────────────────────────────── error ◀── fail ────────┘
//! ```
//!
//! A block is *begun* by its requestor, *adopted* and *activated* by its worker, and only the worker
//! ends it, so that `inactive` and `error` always mean: no lock is held.  The exception is
//! [`Block::reap`], for a worker that is gone without a word, whose locks went with its process.
//!
//! Everything here is plain data and plain functions: no server, no lock, no clock of its own.  The
//! control block ([`super::control`]) calls it under its lightweight lock, so to check and to act are
//! one step.  Who acts for a block shows the [`Token`] that `begin` gave out; once the block has
//! ended and another has begun in its place, an old token opens nothing.

pub use crate::fence::failure::Failure;
pub use crate::fence::mode::Mode;
use crate::fence::text::Text;
pub use crate::pg::process::ProcessId;

/// A moment, in microseconds as PostgreSQL's `timestamptz` counts them.
pub type Moment = i64;

/// Shown to act for one particular block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Token {
    /// Which slot of the control block.
    pub slot: u32,
    /// Which of the blocks that this slot has held.
    pub generation: u64,
}

/// Where a block is; see the picture above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// No block.  Nothing is held.
    Inactive = 0,
    /// The worker connects and locks; the requestor waits.
    Starting,
    /// Every lock is held and every node's WAL is on disk.
    Active,
    /// The worker lets go.
    Releasing,
    /// The block was lost.  Nothing is held; the reason waits to be read.
    Error,
}

impl State {
    /// The word that SQL shows.
    pub fn name(self) -> &'static str {
        match self {
            State::Inactive => "inactive",
            State::Starting => "starting",
            State::Active => "active",
            State::Releasing => "releasing",
            State::Error => "error",
        }
    }
}

/// What a requestor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Terms {
    /// Whose writes are held back.
    pub mode: Mode,
    /// Longest life of the active block, in milliseconds.
    pub timeout_ms: i32,
    /// Longest time to get there, in milliseconds.
    pub acquire_timeout_ms: i32,
    /// Longest time that one attempt waits for a lock, in milliseconds.
    pub lock_timeout_ms: i32,
    /// Longest time to connect to the nodes, in milliseconds.
    pub connect_timeout_ms: i32,
    /// Role that the worker acts as: the extension's owner.
    pub owner: u32,
}

/// Which block a caller means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Whichever there is.
    Any,
    /// The one whose status showed this start.
    Start(Moment),
    /// The one with this number.
    Number(i64),
}

/// What a caller asks of the worker of an active block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub enum Errand {
    /// Live for so many milliseconds from now.
    Extend(i32),
    /// Write a restore point of this name on every node.
    RestorePoint(Text<64>),
}

/// The one errand under way, and the answer to the last.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Errands {
    /// Number of the last errand posted.
    pub posted: u64,
    /// Number of the last errand that the worker has begun to do: it can be withdrawn no more.
    pub taken: u64,
    /// Number of the last errand done; equal to `posted` when nothing is under way.
    pub done: u64,
    /// The errand numbered `posted`.
    pub errand: Option<Errand>,
    /// How the errand numbered `done` ended.
    pub answer: Failure,
}

/// Why a step was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A block is being started.
    Starting,
    /// A block is active.
    Active,
    /// A block is being released.
    Releasing,
    /// The last block ended in an error that nobody has cleared.
    Failed,
    /// There is no active block to act on.
    NoBlock,
    /// Somebody has asked for the release.
    ReleaseAsked,
    /// The token is of another block than the one here.
    Stale,
}

/// What asking for the release found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Nothing to release.
    Nothing,
    /// An error was cleared.
    Cleared,
    /// The worker has been asked, and will end the block that has this token's generation.  Of all answers only
    /// this one, with an end that has no failure, means that the block lasted until this call.
    Asked(u64),
    /// The same of a block that had not become active: nothing was ever under it.
    Unstarted(u64),
    /// The same, but somebody else had asked before: when the locks go is not this caller's doing.
    Joined(u64),
    /// The same, but the block's own requestor had left before it was told that the block is active.
    GivenUp(u64),
    /// The block that was meant is over.  Whatever is there now goes on.
    Over,
}

/// One block: a slot of the control block.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Block {
    /// Where it is.
    pub state: State,
    /// Somebody asked for its end.
    pub release_asked: bool,
    /// It was its own requestor, who left before it was told that the block is active.
    pub abandoned: bool,
    /// Counts the blocks of this slot; part of every token.
    pub generation: u64,
    /// What its users call it; 0 where there is none.
    pub number: i64,
    /// Database it belongs to.
    pub database: u32,
    /// Session that asked for it.
    pub requestor: Option<ProcessId>,
    /// Background worker that holds it.
    pub worker: Option<ProcessId>,
    /// When it was asked for.
    pub begun_at: Moment,
    /// When all locks were held; 0 before.
    pub active_at: Moment,
    /// When an active block ends by itself; 0 before.
    pub expires_at: Moment,
    /// What was asked for.
    pub terms: Terms,
    /// How many nodes it holds (rows of the manifest).
    pub node_count: u32,
    /// In `error`: what went wrong.  In `inactive`: why the last block ended, where its end was not
    /// asked for.
    pub failure: Failure,
    /// Whether whom the failure concerns has been told of it, or waits to be told by the call it made.
    pub told: bool,
    /// When the last block began that has ended in this slot, as its status showed it; 0 for none.
    pub last_start: Moment,
    /// The number of that block.
    pub last_number: i64,
    /// When the block began whose end `previous` tells of.
    pub previous_start: Moment,
    /// The number of that block.
    pub previous_number: i64,
    /// How the block before this one in the same slot ended, for a requestor that has yet to read it.
    pub previous: Failure,
    /// Whether somebody has been told of that, or nobody needs to be.
    pub previous_told: bool,
    /// Nobody has been told how a block ended that began before that one.
    pub earlier_untold: bool,
    /// What the requestor should be warned of, once active.
    pub warning: Text<1024>,
    /// The worker's letter box.
    pub errands: Errands,
}

impl Block {
    /// A slot that has never been used.
    pub const UNUSED: Self = Self {
        state: State::Inactive,
        release_asked: false,
        abandoned: false,
        generation: 0,
        number: 0,
        database: 0,
        requestor: None,
        worker: None,
        begun_at: 0,
        active_at: 0,
        expires_at: 0,
        terms: Terms {
            mode: Mode::TwoPhase,
            timeout_ms: 0,
            acquire_timeout_ms: 0,
            lock_timeout_ms: 0,
            connect_timeout_ms: 0,
            owner: 0,
        },
        node_count: 0,
        failure: Failure::NONE,
        told: false,
        last_start: 0,
        last_number: 0,
        previous_start: 0,
        previous_number: 0,
        previous: Failure::NONE,
        previous_told: true,
        earlier_untold: false,
        warning: Text::EMPTY,
        errands: Errands { posted: 0, taken: 0, done: 0, errand: None, answer: Failure::NONE },
    };

    /// inactive → starting.  Gives the generation for the token of the new block.
    pub fn begin(
        &mut self,
        database: u32,
        number: i64,
        requestor: ProcessId,
        terms: Terms,
        now: Moment,
    ) -> Result<u64, Refusal> {
        match self.state {
            State::Inactive => {
                // Of another database it is nothing to this one.
                let is_same = self.database == database;
                *self = Self {
                    state: State::Starting,
                    generation: self.generation + 1,
                    number,
                    database,
                    requestor: Some(requestor),
                    begun_at: now,
                    terms,
                    last_start: self.last_start,
                    last_number: self.last_number,
                    previous_start: self.last_start,
                    previous_number: self.last_number,
                    previous: self.failure,
                    previous_told: !is_same || self.told || !self.failure.is_some(),
                    earlier_untold: is_same && (!self.previous_told || self.earlier_untold),
                    ..Self::UNUSED
                };
                Ok(self.generation)
            }
            State::Starting => Err(Refusal::Starting),
            State::Active => Err(Refusal::Active),
            State::Releasing => Err(Refusal::Releasing),
            State::Error => Err(Refusal::Failed),
        }
    }

    /// The worker takes its block, once.
    pub fn adopt(&mut self, generation: u64, worker: ProcessId) -> Result<(), Refusal> {
        self.check(generation)?;
        if self.state != State::Starting || self.worker.is_some() {
            return Err(Refusal::Stale);
        }
        self.worker = Some(worker);
        Ok(())
    }

    /// starting → active: the worker holds every lock.  Refused when the release was asked for
    /// meanwhile: a block that its requestor has given up never becomes active.
    pub fn activate(
        &mut self,
        generation: u64,
        worker: ProcessId,
        node_count: u32,
        now: Moment,
    ) -> Result<(), Refusal> {
        self.check_worker(generation, worker)?;
        if self.state != State::Starting {
            return Err(Refusal::Stale);
        }
        if self.release_asked {
            return Err(Refusal::ReleaseAsked);
        }
        self.state = State::Active;
        self.node_count = node_count;
        self.active_at = now;
        self.expires_at = now + i64::from(self.terms.timeout_ms) * 1000;
        Ok(())
    }

    /// Anyone with the right to: let go.
    pub fn ask_release(&mut self) -> Release {
        match self.state {
            State::Inactive => Release::Nothing,
            State::Error => {
                // The status goes on to say it.
                self.end(self.failure);
                self.told = true;
                Release::Cleared
            }
            // No worker has taken it, so nothing is held; one that comes now finds nothing to take.
            State::Starting if self.worker.is_none() => {
                self.end(Failure::NONE);
                Release::Unstarted(self.generation)
            }
            State::Releasing if self.abandoned => Release::GivenUp(self.generation),
            State::Releasing if self.release_asked => Release::Joined(self.generation),
            State::Starting => {
                self.release_asked = true;
                Release::Unstarted(self.generation)
            }
            State::Active | State::Releasing => {
                self.release_asked = true;
                self.state = State::Releasing;
                Release::Asked(self.generation)
            }
        }
    }

    /// The same, of one block only.  Whoever held that block must not end another one that somebody has begun
    /// since.
    pub fn ask_release_of(&mut self, named: Named) -> Release {
        let is_it = match self.state {
            State::Inactive => false,
            State::Starting | State::Active | State::Releasing => self.is_called(named),
            State::Error => self.last_is_called(named),
        };
        if is_it || named == Named::Any { self.ask_release() } else { Release::Over }
    }

    /// Whether the live block is the one that is meant.
    pub fn is_called(&self, named: Named) -> bool {
        match named {
            Named::Any => true,
            // While it was being started, its status showed when it was asked for.
            Named::Start(start) => start == self.active_at || start == self.begun_at,
            Named::Number(number) => number == self.number,
        }
    }

    /// Whether the block that has ended last is.
    fn last_is_called(&self, named: Named) -> bool {
        match named {
            Named::Any => true,
            Named::Start(start) => start == self.last_start,
            Named::Number(number) => number == self.last_number,
        }
    }

    /// The number of the block that there is, or of the last that there was.
    pub fn latest_number(&self) -> i64 {
        if self.number == 0 { self.last_number } else { self.number }
    }

    /// When it began, as its status shows it; 0 where there is none.
    pub fn started(&self) -> Moment {
        match (self.state, self.active_at) {
            // Cleared: `end` has been here before.
            (State::Error, _) => self.last_start,
            (_, 0) => self.begun_at,
            (_, active_at) => active_at,
        }
    }

    /// The reason why that block ended, as far as it is known; it counts as told.
    pub fn take_reason_of(&mut self, named: Named) -> Failure {
        let has_ended = matches!(self.state, State::Inactive | State::Error);
        let is_previous = match named {
            Named::Any => false,
            Named::Start(start) => start == self.previous_start,
            Named::Number(number) => number == self.previous_number,
        };
        if has_ended && self.last_is_called(named) {
            self.told = true;
            self.failure
        } else if is_previous {
            self.previous_told = true;
            self.previous
        } else {
            Failure::NONE
        }
    }

    /// The requestor leaves before it was told that the block is active.  True when a worker has to
    /// be woken.
    pub fn abandon(&mut self, generation: u64) -> bool {
        if self.check(generation).is_err() {
            return false;
        }
        match self.state {
            State::Starting | State::Active => {
                let was_active = self.state == State::Active;
                let wake = matches!(self.ask_release(), Release::Asked(_) | Release::Unstarted(_));
                self.abandoned = was_active;
                wake
            }
            State::Inactive | State::Releasing | State::Error => false,
        }
    }

    /// active → releasing, by the worker's own decision (deadline, termination, lost node).
    pub fn begin_release(&mut self, generation: u64, worker: ProcessId) -> Result<(), Refusal> {
        self.check_worker(generation, worker)?;
        if self.state == State::Active {
            self.state = State::Releasing;
        }
        Ok(())
    }

    /// → inactive: the worker has let go of everything.  `reason` is kept for the status; where the end
    /// was asked for, the release itself tells it, and whoever comes later has nothing to hear of it.
    pub fn finish(
        &mut self,
        generation: u64,
        worker: ProcessId,
        reason: Failure,
    ) -> Result<(), Refusal> {
        self.check_worker(generation, worker)?;
        let told = self.release_asked;
        let given_up = self.abandoned && !reason.is_some();
        self.end(if given_up { Failure::given_up() } else { reason });
        self.told = told;
        Ok(())
    }

    /// → error: the worker has let go of everything because it had to.
    ///
    /// While starting, the requestor waits for the answer, so the failure is delivered to it and
    /// nothing is left to be cleared; it still shows in the status.
    pub fn fail(
        &mut self,
        generation: u64,
        worker: ProcessId,
        failure: Failure,
    ) -> Result<(), Refusal> {
        self.check_worker(generation, worker)?;
        match self.state {
            State::Starting => {
                self.end(failure);
                self.told = true;
            }
            State::Active | State::Releasing => {
                // Whoever asked for the release is told by the release itself.
                let state = if self.release_asked { State::Inactive } else { State::Error };
                let told = self.release_asked;
                self.end(failure);
                self.state = state;
                self.told = told;
            }
            State::Inactive | State::Error => return Err(Refusal::Stale),
        }
        Ok(())
    }

    /// Clears a block whose worker is gone without a word, or whose requestor went before there was
    /// a worker.  `alive` tells whether a process is there.  True when something was cleared.
    pub fn reap(&mut self, alive: impl Fn(ProcessId) -> bool, reason: Failure) -> bool {
        let gone = match self.state {
            State::Inactive | State::Error => false,
            State::Starting | State::Active | State::Releasing => match self.worker {
                Some(worker) => !alive(worker),
                None => self.requestor.is_none_or(|requestor| !alive(requestor)),
            },
        };
        if gone {
            self.end(reason);
        }
        gone
    }

    /// Puts an errand in the worker's letter box; its number, or `None` while another is under way.
    pub fn post(&mut self, errand: Errand) -> Result<Option<u64>, Refusal> {
        if self.state != State::Active {
            return Err(Refusal::NoBlock);
        }
        if self.errands.posted != self.errands.done {
            return Ok(None);
        }
        self.errands.posted += 1;
        self.errands.errand = Some(errand);
        Ok(Some(self.errands.posted))
    }

    /// The errand that waits to be done, for the worker.
    pub fn pending_errand(&self) -> Option<(u64, Errand)> {
        (self.errands.posted != self.errands.done)
            .then_some(self.errands.errand)
            .flatten()
            .map(|errand| (self.errands.posted, errand))
    }

    /// The worker begins with the errand that waits: what it is to do.
    pub fn take_errand(
        &mut self,
        generation: u64,
        worker: ProcessId,
    ) -> Result<Option<(u64, Errand)>, Refusal> {
        self.check_worker(generation, worker)?;
        let pending = self.pending_errand();
        if let Some((number, _)) = pending {
            self.errands.taken = number;
        }
        Ok(pending)
    }

    /// Whoever posted errand `number` is gone: it is not done any more, unless the worker is at it.
    pub fn withdraw(&mut self, number: u64) {
        let waits = self.errands.posted == number && self.errands.done != number;
        if waits && self.errands.taken != number {
            self.errands.done = number;
            self.errands.errand = None;
        }
    }

    /// The worker's answer to errand `number`; an extension that succeeded moves the deadline.
    pub fn answer(
        &mut self,
        generation: u64,
        worker: ProcessId,
        number: u64,
        expires_at: Option<Moment>,
        answer: Failure,
    ) -> Result<(), Refusal> {
        self.check_worker(generation, worker)?;
        self.errands.done = number;
        self.errands.errand = None;
        self.errands.answer = answer;
        if let Some(expires_at) = expires_at {
            self.terms.timeout_ms =
                ((expires_at - self.active_at) / 1000).clamp(0, i64::from(i32::MAX)) as i32;
            self.expires_at = expires_at;
        }
        Ok(())
    }

    /// Whether it holds locks, or is about to.
    pub fn is_live(&self) -> bool {
        match self.state {
            State::Starting | State::Active | State::Releasing => true,
            State::Inactive | State::Error => false,
        }
    }

    /// Whether an active block has reached its deadline.
    pub fn expired(&self, now: Moment) -> bool {
        self.state == State::Active && now >= self.expires_at
    }

    /// The reason why the last block ended though nobody asked, for the first who asks after it.
    pub fn take_end_reason(&mut self) -> Failure {
        if self.state == State::Inactive && !self.told {
            self.told = true;
            self.failure
        } else {
            Failure::NONE
        }
    }

    /// The reason why a block before this one ended though nobody asked, for the first who asks: whoever
    /// ends this block may take it for that one.
    pub fn take_previous_reason(&mut self) -> Failure {
        let earlier = std::mem::take(&mut self.earlier_untold);
        if !std::mem::replace(&mut self.previous_told, true) {
            self.previous
        } else if earlier {
            Failure::forgotten()
        } else {
            Failure::NONE
        }
    }

    /// What ended the block of this generation, if it has ended: `None` while it lives,
    /// [`Failure::NONE`] when it ended well.
    pub fn outcome(&self, generation: u64) -> Option<Failure> {
        if self.generation == generation {
            matches!(self.state, State::Inactive | State::Error).then_some(self.failure)
        } else if self.generation == generation + 1 {
            Some(self.previous)
        } else {
            Some(Failure::forgotten())
        }
    }

    fn end(&mut self, failure: Failure) {
        // The generation stays, so that old tokens stay void; the database stays, so that the status
        // finds the reason; the end before this one stays for whoever has yet to read it.
        *self = Self {
            state: State::Inactive,
            generation: self.generation,
            database: self.database,
            failure,
            last_start: self.started(),
            last_number: self.latest_number(),
            previous_start: self.previous_start,
            previous_number: self.previous_number,
            previous: self.previous,
            previous_told: self.previous_told,
            earlier_untold: self.earlier_untold,
            errands: Errands {
                posted: self.errands.posted,
                taken: self.errands.posted,
                done: self.errands.posted,
                ..Self::UNUSED.errands
            },
            ..Self::UNUSED
        };
    }

    fn check(&self, generation: u64) -> Result<(), Refusal> {
        if self.generation == generation && self.state != State::Inactive {
            Ok(())
        } else {
            Err(Refusal::Stale)
        }
    }

    fn check_worker(&self, generation: u64, worker: ProcessId) -> Result<(), Refusal> {
        self.check(generation)?;
        if self.worker == Some(worker) { Ok(()) } else { Err(Refusal::Stale) }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
