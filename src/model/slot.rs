//! The slot of the control block: the real [`Block`], packed into the few bytes in which two states of
//! the model can differ.  Every step unpacks it, calls the very function that the server calls, and
//! packs the result.

use crate::block::state::{Block, Errand, Errands, Failure, Mode, Moment, ProcessId, State, Terms};

/// Lengths of time, in ticks.  A tick stands for the few seconds of a bound on one exchange.
pub mod ticks {
    /// Longest time to become active.
    pub const ACQUIRE: u8 = 1;
    /// Longest life of an active block.
    pub const TIMEOUT: u8 = 1;
    /// How long after the deadline a node ends a hold by itself.
    pub const GRACE: u8 = 1;
    /// How long after the deadline the last lock is promised to be gone.
    pub const BOUND: u8 = 2;
}

const DATABASE: u32 = 5;
const NOW: Moment = 1_000_000;
/// Microseconds in a tick, which is the millisecond of [`Terms`].
const TICK: Moment = 1_000;

/// When the block with this index began, which is its number too: no two at the same moment, and all within
/// one tick, so that time is no part of a state.
pub fn start_of(index: u8) -> Moment {
    NOW + Moment::from(index)
}

/// The caller of the block with this index.
pub fn caller(index: u8) -> ProcessId {
    ProcessId { place: 10 + i32::from(index), pid: 100 + i32::from(index) }
}

/// The worker of the block with this index.
pub fn worker(index: u8) -> ProcessId {
    ProcessId { place: 20 + i32::from(index), pid: 200 + i32::from(index) }
}

/// A failure; the model does not tell one from another.
pub fn lost() -> Failure {
    Failure { sqlstate: 1, ..Failure::NONE }
}

/// What of a [`Block`] differs between states of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub state: State,
    pub release_asked: bool,
    pub abandoned: bool,
    pub generation: u8,
    /// Blocks that were begun before shared memory was made anew.
    pub forgotten: u8,
    pub requestor: Option<u8>,
    pub worker: Option<u8>,
    /// Ticks until an active block expires.
    pub expires_in: u8,
    pub failed: bool,
    pub told: bool,
    pub previous_failed: bool,
    pub previous_told: bool,
    /// An extension is asked for and not yet answered.
    pub errand: bool,
}

impl Slot {
    pub const UNUSED: Self = Self {
        state: State::Inactive,
        release_asked: false,
        abandoned: false,
        generation: 0,
        forgotten: 0,
        requestor: None,
        worker: None,
        expires_in: 0,
        failed: false,
        told: false,
        previous_failed: false,
        previous_told: true,
        errand: false,
    };

    /// Takes one step of the real block.
    pub fn act<R>(&mut self, step: impl FnOnce(&mut Block) -> R) -> R {
        let mut block = self.unpack();
        let result = step(&mut block);
        *self = self.pack(&block);
        result
    }

    /// inactive → starting, on behalf of the caller with this index; its generation.
    pub fn begin(&mut self, index: u8) -> Option<u8> {
        self.forgotten = index - self.generation;
        let now = start_of(index);
        let begun = self.act(|block| block.begin(DATABASE, now, caller(index), TERMS, now));
        begun.ok().map(small)
    }

    /// starting → active, by the worker with this index.
    pub fn activate(&mut self, generation: u8, index: u8) -> bool {
        let now = start_of(index);
        self.act(|block| block.activate(generation.into(), worker(index), 1, now)).is_ok()
    }

    /// Asks the worker for an extension; false where it cannot be asked now.
    pub fn post_extension(&mut self) -> bool {
        let posted = self.act(|block| block.post(Errand::Extend(TERMS.timeout_ms)));
        matches!(posted, Ok(Some(_)))
    }

    /// The extension is done, from now on.
    pub fn answer_extension(&mut self, generation: u8, index: u8) {
        let until = NOW + Moment::from(ticks::TIMEOUT) * TICK;
        self.act(|block| {
            let number = block.errands.posted;
            // Refused where the block is not its own any more.
            let _ =
                block.answer(generation.into(), worker(index), number, Some(until), Failure::NONE);
        });
    }

    /// What the wait for a block's end finds.
    pub fn outcome(&self, generation: u8) -> Option<Failure> {
        self.unpack().outcome(generation.into())
    }

    /// Whether a block is being started, active or released.
    pub fn is_live(&self) -> bool {
        match self.state {
            State::Starting | State::Active | State::Releasing => true,
            State::Inactive | State::Error => false,
        }
    }

    fn unpack(self) -> Block {
        let failure = |failed| if failed { lost() } else { Failure::NONE };
        // When the block that many generations back began; 0 where memory does not reach.
        let start_of_one = |back: u8| match self.generation.checked_sub(back) {
            None | Some(0) => 0,
            Some(generation) => start_of(self.forgotten + generation - 1),
        };
        let (start, start_before) = (start_of_one(0), start_of_one(1));
        let is_active = matches!(self.state, State::Active | State::Releasing);
        Block {
            state: self.state,
            release_asked: self.release_asked,
            abandoned: self.abandoned,
            generation: self.generation.into(),
            database: DATABASE,
            requestor: self.requestor.map(caller),
            worker: self.worker.map(worker),
            expires_at: NOW + Moment::from(self.expires_in) * TICK,
            terms: TERMS,
            begun_at: if self.is_live() { start } else { 0 },
            active_at: if is_active { start } else { 0 },
            number: if self.is_live() { start } else { 0 },
            last_start: if self.is_live() { start_before } else { start },
            last_number: if self.is_live() { start_before } else { start },
            previous_start: start_before,
            previous_number: start_before,
            failure: failure(self.failed),
            told: self.told,
            previous: failure(self.previous_failed),
            previous_told: self.previous_told,
            errands: Errands {
                posted: self.errand.into(),
                errand: self.errand.then_some(Errand::Extend(TERMS.timeout_ms)),
                ..Block::UNUSED.errands
            },
            ..Block::UNUSED
        }
    }

    fn pack(self, block: &Block) -> Self {
        let index = |process: ProcessId| (process.place % 10) as u8;
        let expires_in = match block.state {
            State::Active | State::Releasing => (block.expires_at - NOW) / TICK,
            State::Inactive | State::Starting | State::Error => 0,
        };
        Self {
            state: block.state,
            release_asked: block.release_asked,
            abandoned: block.abandoned,
            generation: small(block.generation),
            forgotten: self.forgotten,
            requestor: block.requestor.map(index),
            worker: block.worker.map(index),
            expires_in: expires_in as u8,
            failed: block.failure.is_some(),
            told: block.told,
            previous_failed: block.previous.is_some(),
            previous_told: block.previous_told,
            errand: block.pending_errand().is_some(),
        }
    }
}

const TERMS: Terms = Terms {
    mode: Mode::TwoPhase,
    timeout_ms: ticks::TIMEOUT as i32,
    acquire_timeout_ms: ticks::ACQUIRE as i32,
    lock_timeout_ms: ticks::ACQUIRE as i32,
    connect_timeout_ms: ticks::ACQUIRE as i32,
    owner: 10,
};

/// The model begins a handful of blocks.
fn small(generation: u64) -> u8 {
    u8::try_from(generation).expect("a handful of blocks")
}
