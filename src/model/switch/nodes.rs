//! The nodes: the switch's sessions there, what they do, and crashes.

use super::caller::Phase;
use super::rules::{Rule, Rules};
use super::world::{NODES, Size, World, ticks};
use crate::fence::steps::Barrier::{self, ClientGate};
use crate::fence::steps::Step;
use crate::model::nodes::{Closed, Nodes, Word};

/// What there is of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Nothing, or nothing that anybody cares for.
    None,
    /// A transaction.
    Open,
    /// It ended without having been told to.
    Lost,
}

/// What a session was told to do, and has not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    Nothing,
    /// It closes the next gate, or is about to.
    Gate,
    /// It is about to switch the node.
    Shut,
    /// It switches the node, and waits for what is prepared there.
    Drain,
}

/// One session of the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    pub side: Side,
    pub doing: Doing,
    /// The gates that it keeps closed.
    pub closed: Closed,
    pub word: Word,
    /// The caller hears nothing any more; what it sent may still arrive.
    pub silent: bool,
    /// Ticks until the node ends it by itself; negative once that is past.
    pub ends_in: i8,
}

impl Session {
    pub const NONE: Self = Self {
        side: Side::None,
        doing: Doing::Nothing,
        closed: Closed::NONE,
        word: Word::Nothing,
        silent: false,
        ends_in: 0,
    };

    /// As it begins.
    pub const OPEN: Self = Self { side: Side::Open, ends_in: ticks::SILENCE, ..Self::NONE };

    /// Whether the node has it.
    pub fn is_open(&self) -> bool {
        self.side == Side::Open
    }

    /// Whether it keeps a gate closed.
    pub fn holds(&self) -> bool {
        self.closed != Closed::NONE
    }

    /// Whether it waits for those who are past its next gate.
    pub fn is_waiting(&self) -> bool {
        self.doing == Doing::Gate
    }

    /// The next gate that it is to close.
    pub fn next_gate(&self, rules: Rules) -> Option<Barrier> {
        rules.barriers().find(|barrier| !self.closed.has(*barrier))
    }

    /// Whether the caller can know that it is lost.
    pub fn is_seen_lost(&self) -> bool {
        self.side == Side::Lost && !self.silent
    }

    /// A command is sent.  The node's own bound begins when it hears of it.
    pub fn tell(&mut self, doing: Doing) {
        if self.is_open() {
            self.doing = doing;
            self.ends_in = ticks::SILENCE;
        }
    }

    /// The caller closes it.  Where the node has nothing to give up, that is its end.
    pub fn close(&mut self) {
        if self.is_open() && (self.holds() || self.doing != Doing::Nothing) {
            self.word = Word::Closed;
        } else {
            *self = Self::NONE;
        }
    }

    /// It ends at the node, untold.
    fn lose(&mut self) {
        let Self { word, silent, .. } = *self;
        *self = Self::NONE;
        if word != Word::Closed {
            self.side = Side::Lost;
            self.silent = silent;
        }
    }
}

/// All sessions of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party {
    /// The node list that it was made from.
    pub list: Nodes,
    /// The call that made it is gone without a word.
    pub is_orphan: bool,
    pub sessions: [Session; NODES as usize],
}

impl Party {
    pub const NONE: Self =
        Self { list: Nodes::NONE, is_orphan: false, sessions: [Session::NONE; NODES as usize] };
}

impl World {
    pub fn session(&mut self, party: u8, node: u8) -> &mut Session {
        &mut self.parties[usize::from(party)].sessions[usize::from(node)]
    }

    /// Whether a gate is closed on the node, by whichever attempt.
    pub fn is_closed(&self, node: u8, barrier: Barrier) -> bool {
        self.parties.iter().any(|party| party.sessions[usize::from(node)].closed.has(barrier))
    }

    /// Whether the node refuses writers.
    pub fn refuses(&self, node: u8) -> bool {
        self.read_only.has(node) || self.is_draining(node)
    }

    pub fn is_draining(&self, node: u8) -> bool {
        let doing = |party: &Party| party.sessions[usize::from(node)].doing;
        self.parties.iter().any(|party| doing(party) == Doing::Drain)
    }

    /// Whether somebody who asks now gets past the gate of the node.
    pub fn lets_in(&self, node: u8, barrier: Barrier) -> bool {
        !self.is_closed(node, barrier) && !self.refuses(node)
    }

    /// The caller hears an answer, if one gets through and is still waited for.
    fn answer(&mut self, party: u8, node: u8) {
        let session = *self.session(party, node);
        let waits = matches!(self.caller.phase, Phase::Stepping | Phase::Others | Phase::Own);
        if waits && self.caller.party == party && !session.silent && session.word == Word::Nothing {
            self.caller.heard = self.caller.heard.with(node);
        }
    }

    /// The node closes the gate that it was told to close, which may be long after anybody wants it.
    pub fn grant(&mut self, size: &Size, rules: Rules, party: u8, node: u8) -> bool {
        let session = *self.session(party, node);
        let next = session.next_gate(rules).filter(|_| session.is_waiting());
        let Some(barrier) = next else { return false };
        if self.who_passed(size, node, barrier).next().is_some() || self.is_closed(node, barrier) {
            return false;
        }
        let session = self.session(party, node);
        session.closed = session.closed.with(barrier);
        session.doing = Doing::Nothing;
        session.ends_in = ticks::SILENCE;
        self.answer(party, node);
        true
    }

    /// The node says that nobody is in the middle of a command in steps.  Where somebody is, the attempt fails.
    pub fn look(&mut self, size: &Size, rules: Rules, node: u8) -> bool {
        let party = self.caller.party;
        let session = *self.session(party, node);
        let is_asked = self.step(rules) == Some(Step::NobodyInSteps)
            && !self.caller.heard.has(node)
            && session.is_open()
            && !session.silent;
        if !is_asked || self.is_in_steps(size, node) {
            return false;
        }
        self.session(party, node).ends_in = ticks::SILENCE;
        self.answer(party, node);
        true
    }

    /// The node finishes what it has left in doubt, over a session of its own, or says that it could not.
    pub fn finish_in_doubt(&mut self, size: &Size, rules: Rules, node: u8) -> bool {
        let is_asked = self.step(rules) == Some(Step::FinishInDoubt)
            && !self.caller.heard.has(node)
            && self.party_of_caller().list.has(node);
        if !is_asked {
            return false;
        }
        self.recover(size, node);
        self.caller.heard = self.caller.heard.with(node);
        true
    }

    /// The node switches itself: whoever has passed a gate is ended, what is prepared is waited for.
    pub fn shut(&mut self, size: &Size, party: u8, node: u8) -> bool {
        let session = *self.session(party, node);
        if !matches!(session.doing, Doing::Shut | Doing::Drain) {
            return false;
        }
        let has_prepared = self.has_prepared(size, node);
        if session.doing == Doing::Drain && has_prepared {
            return false;
        }
        if !self.read_only.has(node) {
            self.end_writers(size, node);
            if has_prepared {
                self.session(party, node).doing = Doing::Drain;
                return true;
            }
        }
        self.read_only = self.read_only.with(node);
        let session = self.session(party, node);
        session.doing = Doing::Nothing;
        session.ends_in = ticks::SILENCE;
        self.answer(party, node);
        true
    }

    /// The node gives its own switch up: what is prepared does not end.  `at_once`: it cannot write it down.
    pub fn shut_fails(&mut self, party: u8, node: u8, at_once: bool) -> bool {
        let session = self.session(party, node);
        let fails = session.doing == if at_once { Doing::Shut } else { Doing::Drain };
        if fails {
            session.lose();
        }
        fails
    }

    /// The node takes in what the caller has said.
    pub fn deliver(&mut self, party: u8, node: u8) -> bool {
        let session = self.session(party, node);
        if session.silent || !session.is_open() || session.word == Word::Nothing {
            return false;
        }
        *session = Session::NONE;
        true
    }

    /// The node ends a session that it hears nothing more from, or a command that takes too long.
    pub fn node_ends(&mut self, rules: Rules, party: u8, node: u8) -> bool {
        let session = self.session(party, node);
        let is_due = rules.has(Rule::SilenceBound) && session.is_open() && session.ends_in <= 0;
        if is_due {
            session.lose();
        }
        is_due
    }

    /// The node lets itself be switched back.  One that is being switched is done with that first.
    pub fn open(&mut self, node: u8) -> bool {
        let caller = &self.caller;
        let is_asked = caller.phase == Phase::Undoing
            && self.party_of_caller().list.has(node)
            && !caller.heard.has(node)
            && !caller.left.has(node);
        if !is_asked || self.is_draining(node) {
            return false;
        }
        self.read_only = self.read_only.without(node);
        self.caller.heard = self.caller.heard.with(node);
        true
    }

    /// A row for one more node: a client's write on the coordinator.
    pub fn join(&mut self, size: &Size) -> bool {
        if self.listed.has(size.nodes) || !self.lets_in(0, ClientGate) {
            return false;
        }
        self.listed = self.listed.with(size.nodes);
        true
    }

    /// A link goes silent.
    pub fn silence(&mut self, party: u8, node: u8) -> bool {
        let session = self.session(party, node);
        if session.side == Side::None || session.silent {
            return false;
        }
        session.silent = true;
        true
    }

    /// A node crashes and is up again: its sessions and writers are gone; what is prepared stays, and so does
    /// its being read-only.
    pub fn crash(&mut self, size: &Size, node: u8) -> bool {
        if !self.listed.has(node) {
            return false;
        }
        if node == 0 {
            self.die();
        }
        for party in &mut self.parties {
            let session = &mut party.sessions[usize::from(node)];
            if session.is_open() {
                session.lose();
            }
        }
        self.writers_crash(size, node);
        true
    }
}
