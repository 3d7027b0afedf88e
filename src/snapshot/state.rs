//! The states of an export, and every step between them.
//!
//! ```text
//!            begin             keep             release, deadline, a lost node
//!   unused ────────▶ starting ──────▶ held ─────────────────▶ over
//!      ▲                 │    failure, given up                │
//!      │                 └─────────────────────────────────────┤
//!      └────────────── the slot is needed for another ─────────┘
//! ```
//!
//! An export is *begun* by its requestor, *adopted* and *kept* by its worker, and only the worker ends it, or
//! whoever finds that the worker is gone, whose sessions went with it. What is over keeps the reason until its slot
//! is needed, so that whoever asks for the release is told.
//!
//! Everything here is plain data: no server, no lock, no clock.

use crate::fence::failure::Failure;
use crate::fence::mode::Mode;
use crate::fence::text::Text;
use crate::pg::process::ProcessId;

/// A moment, in microseconds as PostgreSQL's `timestamptz` counts them.
pub type Moment = i64;

/// Where an export is; see the picture above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The slot has never been used.
    Unused = 0,
    /// The worker takes the fence; the requestor waits.
    Starting,
    /// The snapshots can be imported.
    Held,
    /// They cannot any more.
    Over,
}

impl State {
    /// The word that SQL shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Starting => "starting",
            Self::Held => "held",
            Self::Over => "over",
        }
    }
}

/// What a requestor asks for.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Terms {
    /// Whose writes are held back while the snapshots are taken.
    pub mode: Mode,
    /// Whether a node without a gate has the other mode do.
    pub may_be_two_phase: bool,
    /// Life of the export, in milliseconds.
    pub timeout_ms: i32,
    /// Longest time to get there, in milliseconds.
    pub acquire_timeout_ms: i32,
    /// Longest time that one attempt waits for locks, in milliseconds.
    pub lock_timeout_ms: i32,
    /// Longest time to connect to the nodes, in milliseconds.
    pub connect_timeout_ms: i32,
    /// Role that the worker acts as: the extension's owner.
    pub owner: u32,
}

/// One export.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Export {
    /// Its number; never the same for two of this server.
    pub id: i64,
    /// Where it is.
    pub state: State,
    /// Of which database.
    pub database: u32,
    /// Who asked for it.
    pub requestor: Option<ProcessId>,
    /// Who keeps it.
    pub worker: Option<ProcessId>,
    /// What was asked for; the mode is the one that was used once it is held.
    pub terms: Terms,
    /// When it was asked for.
    pub started_at: Moment,
    /// When it ends by itself.
    pub expires_at: Moment,
    /// How many nodes.
    pub count: u32,
    /// What the requestor should know, or nothing.
    pub warning: Text<512>,
    /// Somebody wants it to end.
    pub release_asked: bool,
    /// A new life that somebody has asked for, in milliseconds; 0 for none.
    pub extend_ms: i32,
    /// How many of these have been answered.
    pub extended: u64,
    /// Why it ended, where that was not a release.
    pub failure: Failure,
}

/// What asking for the release found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It lasted until now, and its end is on its way.
    Asked,
    /// Another had already asked.
    Joined,
    /// It is over.
    Over,
}

impl Export {
    /// A slot that has never been used.
    pub const UNUSED: Self = Self {
        id: 0,
        state: State::Unused,
        database: 0,
        requestor: None,
        worker: None,
        terms: Terms {
            mode: Mode::TwoPhase,
            may_be_two_phase: false,
            timeout_ms: 0,
            acquire_timeout_ms: 0,
            lock_timeout_ms: 0,
            connect_timeout_ms: 0,
            owner: 0,
        },
        started_at: 0,
        expires_at: 0,
        count: 0,
        warning: Text::EMPTY,
        release_asked: false,
        extend_ms: 0,
        extended: 0,
        failure: Failure::NONE,
    };

    /// A new one, in a slot that nothing lives in.
    pub fn begin(id: i64, database: u32, requestor: ProcessId, terms: Terms, now: Moment) -> Self {
        Self {
            id,
            state: State::Starting,
            database,
            requestor: Some(requestor),
            terms,
            started_at: now,
            ..Self::UNUSED
        }
    }

    /// Whether something is, or may come to be, held.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Starting | State::Held)
    }

    /// The worker takes it over. False where nobody waits for it any more.
    pub fn adopt(&mut self, id: i64, worker: ProcessId) -> bool {
        let wanted = self.is(id) && self.state == State::Starting && self.worker.is_none();
        if wanted && !self.release_asked {
            self.worker = Some(worker);
            return true;
        }
        if wanted {
            self.end(Failure::NONE);
        }
        false
    }

    /// starting → held. False where somebody has given it up meanwhile.
    pub fn keep(&mut self, id: i64, mode: Mode, count: u32, now: Moment) -> bool {
        if !self.is(id) || self.state != State::Starting || self.release_asked {
            return false;
        }
        self.state = State::Held;
        self.terms.mode = mode;
        self.count = count;
        self.expires_at = now + i64::from(self.terms.timeout_ms) * 1000;
        true
    }

    /// Whether its time is over.
    pub fn expired(&self, now: Moment) -> bool {
        self.state == State::Held && now >= self.expires_at
    }

    /// Somebody wants it to end. Whoever is the first to say so of one that is held, and in its time, ends it.
    pub fn ask_release(&mut self, now: Moment) -> Release {
        if !self.is_live() {
            return Release::Over;
        }
        let is_first = !self.release_asked;
        // Also where its time is over: no extension that is under way may bring it back.
        self.release_asked = true;
        if self.expired(now) {
            return Release::Over;
        }
        if self.state == State::Starting && self.worker.is_none() {
            // Nobody is there to end it, and nobody will come.
            self.end(Failure::NONE);
        }
        if self.state == State::Held && is_first { Release::Asked } else { Release::Joined }
    }

    /// Somebody asks for a new life: how many have been answered before. None while another's wish is being seen to.
    pub fn ask_extension(&mut self, timeout_ms: i32) -> Option<u64> {
        if self.extend_ms != 0 {
            return None;
        }
        self.extend_ms = timeout_ms;
        Some(self.extended)
    }

    /// The nodes have been told of it.
    pub fn extend(&mut self, id: i64, now: Moment) {
        if self.is(id) && self.state == State::Held && self.extend_ms != 0 {
            self.terms.timeout_ms = self.extend_ms;
            self.expires_at = now + i64::from(self.extend_ms) * 1000;
            self.extend_ms = 0;
            self.extended += 1;
        }
    }

    /// Nothing is held any more.
    pub fn finish(&mut self, id: i64, failure: Failure) {
        if self.is(id) && self.is_live() {
            self.end(failure);
        }
    }

    /// Ends one whose worker, or, where none has come yet, whose requestor is gone.
    pub fn reap(&mut self, is_alive: impl Fn(ProcessId) -> bool, reason: Failure) {
        let keeper = self.worker.or(self.requestor);
        if self.is_live() && !keeper.is_some_and(is_alive) {
            self.end(reason);
        }
    }

    fn end(&mut self, failure: Failure) {
        self.state = State::Over;
        self.worker = None;
        self.expires_at = 0;
        self.extend_ms = 0;
        self.failure = failure;
    }

    fn is(&self, id: i64) -> bool {
        self.id == id
    }
}

#[cfg(test)]
mod tests {
    use super::{Export, Release, State, Terms};
    use crate::fence::failure::Failure;
    use crate::fence::mode::Mode;
    use crate::fence::text::Text;
    use crate::pg::process::ProcessId;

    const WORKER: ProcessId = ProcessId { place: 2, pid: 20 };
    const REASON: Failure = Failure { sqlstate: 1, ..Failure::NONE };

    fn starting() -> Export {
        let terms = Terms { timeout_ms: 10, ..Export::UNUSED.terms };
        Export::begin(7, 1, ProcessId { place: 1, pid: 10 }, terms, 1_000)
    }

    fn held() -> Export {
        let mut export = starting();
        assert!(export.adopt(7, WORKER) && export.keep(7, Mode::All, 3, 2_000));
        export
    }

    #[test]
    fn only_the_first_who_asks_in_time_ends_it() {
        let mut export = held();
        assert_eq!(export.expires_at, 12_000);
        assert_eq!(export.ask_release(11_999), Release::Asked);
        assert_eq!(export.ask_release(11_999), Release::Joined);
        export.finish(7, Failure::NONE);
        assert_eq!((export.state, export.ask_release(11_999)), (State::Over, Release::Over));
        // The deadline counts, and not whether the worker has seen to it.
        assert_eq!(held().ask_release(12_000), Release::Over);
    }

    #[test]
    fn what_was_given_up_while_it_started_is_never_held() {
        let mut export = starting();
        assert_eq!(export.ask_release(1_000), Release::Joined);
        assert!(!export.adopt(7, WORKER));
        assert_eq!(export.state, State::Over);
        let mut export = starting();
        assert!(export.adopt(7, WORKER));
        export.ask_release(1_000);
        assert!(!export.keep(7, Mode::All, 3, 2_000));
    }

    #[test]
    fn a_new_life_counts_from_when_the_nodes_know_of_it() {
        let mut export = held();
        assert_eq!((export.ask_extension(500), export.ask_extension(600)), (Some(0), None));
        export.extend(7, 3_000);
        assert_eq!((export.expires_at, export.extended, export.extend_ms), (503_000, 1, 0));
        assert_eq!(export.ask_extension(600), Some(1));
    }

    #[test]
    fn nobody_acts_for_another_export() {
        let mut export = held();
        export.finish(6, REASON);
        export.extend(6, 0);
        assert!(!export.keep(6, Mode::All, 1, 0) && !export.adopt(6, WORKER));
        assert_eq!((export.state, export.extended), (State::Held, 0));
    }

    #[test]
    fn one_whose_keeper_is_gone_is_over_and_tells_why() {
        for mut export in [starting(), held()] {
            export.reap(|_| true, REASON);
            assert!(export.is_live());
            export.reap(|_| false, Failure { message: Text::new("gone"), ..REASON });
            assert_eq!((export.state, export.failure.message.as_str()), (State::Over, "gone"));
        }
    }
}
