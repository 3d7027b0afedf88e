//! The other nodes: the fence's sessions there, crashes, and a node that joins.

use super::people::{Call, Caller, Ended};
use super::rules::{Rule, Rules};
use super::slot::{Slot, ticks};
use super::worker::Phase;
use super::world::{NODES, Size, World};
use crate::fence::steps::Barrier;

/// A set of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nodes(u8);

impl Nodes {
    pub const NONE: Self = Self(0);

    pub fn first(count: u8) -> Self {
        Self((1 << count) - 1)
    }

    pub fn has(self, node: u8) -> bool {
        self.0 & (1 << node) != 0
    }

    pub fn has_all(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    pub fn with(self, node: u8) -> Self {
        Self(self.0 | 1 << node)
    }

    pub fn without(self, node: u8) -> Self {
        Self(self.0 & !(1 << node))
    }

    pub fn all(self) -> impl Iterator<Item = u8> {
        (0..NODES).filter(move |node| self.has(*node))
    }

    /// All but the coordinator.
    pub fn remote(self) -> impl Iterator<Item = u8> {
        (1..NODES).filter(move |node| self.has(*node))
    }
}

/// A set of barriers that are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Closed(u8);

impl Closed {
    pub const NONE: Self = Self(0);

    pub fn has(self, barrier: Barrier) -> bool {
        self.0 & Self::bit(barrier) != 0
    }

    pub fn with(self, barrier: Barrier) -> Self {
        Self(self.0 | Self::bit(barrier))
    }

    fn bit(barrier: Barrier) -> u8 {
        match barrier {
            Barrier::ClientGate => 1,
            Barrier::InternalGate => 2,
            Barrier::Tables => 4,
        }
    }
}

/// What a node makes of one of the fence's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// There is no session, or none that anybody cares for.
    None,
    /// In a transaction, without locks.
    Open,
    /// The command to close the next barrier is on its way or waits.
    Waiting,
    /// Keeps closed what it was told to close.
    Held,
    /// Has let go, and answered.
    RolledBack,
    /// Ended without having been told to.
    Lost,
}

/// What the fence has said to the session and the node has not yet taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    Nothing,
    Rollback,
    /// Closed at the fence's side.
    Closed,
}

/// One session of the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub side: Side,
    /// What it keeps closed.
    pub closed: Closed,
    pub word: Word,
    /// Nothing gets through any more, in either direction.
    pub silent: bool,
    /// Ticks until the node ends a wait or a hold by itself.
    pub ends_in: u8,
}

impl Session {
    pub const NONE: Self = Self {
        side: Side::None,
        closed: Closed::NONE,
        word: Word::Nothing,
        silent: false,
        ends_in: 0,
    };

    /// Whether it keeps anything closed.
    pub fn holds(&self) -> bool {
        self.closed != Closed::NONE
    }

    /// Whether the node has the session in its transaction.
    pub fn is_open(&self) -> bool {
        matches!(self.side, Side::Open | Side::Waiting | Side::Held)
    }

    /// Whether it is of interest to anybody.
    pub fn is_there(&self) -> bool {
        self.side != Side::None
    }

    /// Whether the node will end it in time.
    pub fn is_timed(&self) -> bool {
        matches!(self.side, Side::Waiting | Side::Held)
    }

    /// Whether the fence can know that it is lost.
    pub fn is_seen_lost(&self) -> bool {
        self.side == Side::Lost && !self.silent
    }

    /// The fence closes it.  Where it neither holds a lock nor waits for one, that is its end.
    pub fn close(&mut self) {
        if self.is_timed() {
            self.word = Word::Closed;
        } else {
            *self = Self::NONE;
        }
    }

    /// It ends at the node, untold.
    fn lose(&mut self) {
        let silent = self.silent;
        let is_closed = self.word == Word::Closed;
        *self = Self::NONE;
        if !is_closed {
            self.side = Side::Lost;
            self.silent = silent;
        }
    }
}

/// All sessions of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    /// The block it is made for.
    pub life: u8,
    /// The node list that it was made from.
    pub list: Nodes,
    /// By node; the coordinator's is never used.
    pub sessions: [Session; NODES as usize],
}

impl Party {
    pub const NONE: Self =
        Self { life: 0, list: Nodes::NONE, sessions: [Session::NONE; NODES as usize] };

    /// The fence closes all.
    pub fn close(&mut self) {
        self.sessions.iter_mut().for_each(Session::close);
    }
}

impl World {
    fn session(&mut self, party: u8, node: u8) -> &mut Session {
        &mut self.parties[usize::from(party)].sessions[usize::from(node)]
    }

    /// The worker of a party hears an answer, if one gets through and is still waited for.
    fn answer(&mut self, party: u8, node: u8, phase: Phase) {
        let session = *self.session(party, node);
        if session.silent || session.word != Word::Nothing {
            return;
        }
        let life = usize::from(self.parties[usize::from(party)].life);
        let worker = &mut self.lives[life].worker;
        if worker.phase == phase && worker.party == party {
            worker.heard = worker.heard.with(node);
        }
    }

    /// The node grants the lock of the next barrier, which may be long after anybody wants it.
    pub fn grant(&mut self, size: &Size, rules: Rules, party: u8, node: u8) -> bool {
        let session = *self.session(party, node);
        if session.side != Side::Waiting {
            return false;
        }
        let next = rules.barriers().find(|barrier| !session.closed.has(*barrier));
        let Some(barrier) = next else { return false };
        if self.is_passed(size, rules, node, barrier) || self.is_closed(node, barrier) {
            return false;
        }
        self.session(party, node).side = Side::Held;
        self.session(party, node).closed = session.closed.with(barrier);
        self.session(party, node).ends_in = ticks::TIMEOUT + ticks::GRACE;
        if rules.flush_with_the_lock {
            self.make_durable(size, node);
        }
        self.answer(party, node, Phase::Locking);
        true
    }

    /// The node flushes its WAL.
    pub fn flush(&mut self, size: &Size, rules: Rules, party: u8, node: u8) -> bool {
        let session = *self.session(party, node);
        let worker = &self.lives[usize::from(self.parties[usize::from(party)].life)].worker;
        let is_sent = worker.phase == Phase::Flushing
            && worker.party == party
            && !worker.heard.has(node)
            && !rules.flush_with_the_lock;
        let is_ready = matches!(session.side, Side::Open | Side::Held);
        if !is_sent || !is_ready || session.silent || session.word != Word::Nothing {
            return false;
        }
        if session.is_timed() {
            self.session(party, node).ends_in = ticks::TIMEOUT + ticks::GRACE;
        }
        self.make_durable(size, node);
        self.answer(party, node, Phase::Flushing);
        true
    }

    /// The node gets a new time-out for its end of the hold.
    pub fn extend(&mut self, rules: Rules, party: u8, node: u8) -> bool {
        let session = *self.session(party, node);
        let life = usize::from(self.parties[usize::from(party)].life);
        let worker = &self.lives[life].worker;
        let is_sent = worker.phase == Phase::Extending
            && worker.party == party
            && !worker.heard.has(node)
            && rules.has(Rule::NodesLearnOfExtensions);
        if !is_sent || !session.holds() || session.silent || session.word != Word::Nothing {
            return false;
        }
        self.session(party, node).ends_in = ticks::TIMEOUT + ticks::GRACE;
        // Should the extension fail elsewhere, this is the deadline that the node goes by.
        let life = &mut self.lives[life];
        life.due = life.due.max(ticks::TIMEOUT as i8);
        self.answer(party, node, Phase::Extending);
        true
    }

    /// The node takes in what the fence has said.
    pub fn deliver(&mut self, party: u8, node: u8) -> bool {
        let session = self.session(party, node);
        if session.silent || !session.is_open() {
            return false;
        }
        match session.word {
            Word::Nothing => return false,
            Word::Rollback => *session = Session { side: Side::RolledBack, ..Session::NONE },
            Word::Closed => *session = Session::NONE,
        }
        true
    }

    /// The node's own end: of a wait by `lock_timeout`, of a hold by the time-out of idle transactions.
    pub fn node_ends_hold(&mut self, rules: Rules, party: u8, node: u8) -> bool {
        let session = self.session(party, node);
        if !rules.has(Rule::NodesEndHoldsThemselves) || !session.is_timed() || session.ends_in > 0 {
            return false;
        }
        match (session.side, session.word) {
            // The statement fails; the session stays, without locks.
            (Side::Waiting, Word::Nothing | Word::Rollback) => {
                session.side = Side::Open;
                session.closed = Closed::NONE;
            }
            _ => session.lose(),
        }
        true
    }

    /// A row for one more node, under the lock that `pg_dist_node` asks for.
    pub fn join(&mut self, size: &Size) -> bool {
        let joiner = size.nodes;
        let is_locked = self.lives.iter().any(|life| life.worker.has_list);
        if is_locked || self.is_closed(0, Barrier::ClientGate) || self.listed.has(joiner) {
            return false;
        }
        self.listed = self.listed.with(joiner);
        true
    }

    /// A link goes silent.
    pub fn silence(&mut self, party: u8, node: u8) -> bool {
        let session = self.session(party, node);
        if !session.is_there() || session.silent {
            return false;
        }
        session.silent = true;
        true
    }

    /// A node crashes and is up again: its sessions and writers are gone.
    pub fn node_crash(&mut self, size: &Size, node: u8) -> bool {
        if !self.listed.has(node) {
            return false;
        }
        for party in &mut self.parties {
            let session = &mut party.sessions[usize::from(node)];
            if session.is_there() {
                session.lose();
            }
        }
        self.writers_crash(size, node);
        true
    }

    /// The coordinator crashes and is up again: its shared memory is new, its processes are gone.
    pub fn coordinator_crash(&mut self, size: &Size) -> bool {
        for life in 0..self.begun {
            self.worker_is_gone(life);
            let life = &mut self.lives[usize::from(life)];
            life.ended.get_or_insert(Ended::Died);
            if life.caller == Caller::Waits {
                life.caller = Caller::Answered;
            }
        }
        if let Call::Waits { .. } = self.operator.call {
            self.operator.hears(false);
        }
        self.slot = Slot::UNUSED;
        self.writers_crash(size, 0);
        true
    }
}
