//! The call of `citus_set_cluster_read_only()`, step by step as `hold_back.rs` and `switch.rs` have it.

use super::nodes::{Doing, Party, Session, Side};
use super::rules::{Rule, Rules};
use super::world::{Size, World, ticks};
use crate::fence::steps::Barrier::{ClientGate, Tables};
use crate::fence::steps::Step;
use crate::model::nodes::{Nodes, Word};

/// Where the call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    NotYet,
    /// The note is written; the next thing is an attempt.
    Ready,
    /// In the middle of one.
    Stepping,
    /// All other nodes are told to switch themselves.
    Others,
    /// So is this one.
    Own,
    /// All nodes are told to switch themselves back.
    Undoing,
    /// ROLLBACK is under way everywhere.
    LettingGo(Why),
    /// The note is to be taken away.
    RemovingNote,
    Returned(Outcome),
    /// Gone without a word, or by an interrupt.
    Dead,
}

/// Why it lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// To try again.
    Again,
    /// There will be no further attempt.
    GaveUp,
    /// All is switched.
    Done,
    /// All is switched back.
    Undone,
    /// Something could not be switched back.
    HalfWay,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    ReadOnly,
    /// An error, and nothing is changed.
    Failed,
    /// An error that says that some nodes are switched.
    HalfWay,
    /// An error that says that the note is left.
    NoteLeft,
}

/// One call after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub phase: Phase,
    /// The step that the attempt is at.
    pub at: u8,
    pub party: u8,
    /// Nodes whose answer to the command under way it has.
    pub heard: Nodes,
    /// Nodes that could not be switched back.
    pub left: Nodes,
    /// Ticks since it began what it does, as far as that is of interest.
    pub age: u8,
    /// It found an earlier switch's note.
    pub goes_on: bool,
}

impl Caller {
    pub const NEW: Self = Self {
        phase: Phase::NotYet,
        at: 0,
        party: 0,
        heard: Nodes::NONE,
        left: Nodes::NONE,
        age: 0,
        goes_on: false,
    };

    /// Whether a call is under way.
    pub fn is_at_it(&self) -> bool {
        !matches!(self.phase, Phase::NotYet | Phase::Returned(_) | Phase::Dead)
    }

    /// Whether its sessions are its own still.
    pub fn is_using_party(&self) -> bool {
        match self.phase {
            Phase::Stepping | Phase::Others | Phase::Own | Phase::Undoing | Phase::LettingGo(_) => {
                true
            }
            Phase::NotYet
            | Phase::Ready
            | Phase::RemovingNote
            | Phase::Returned(_)
            | Phase::Dead => false,
        }
    }

    /// Its bound on what it does, in ticks; `None` where it waits for nobody.
    pub fn bound(&self) -> Option<u8> {
        match self.phase {
            Phase::Stepping => Some(ticks::ATTEMPT),
            Phase::Others | Phase::Own => Some(ticks::SWITCH),
            Phase::Undoing | Phase::LettingGo(_) => Some(ticks::ANSWER),
            Phase::Ready | Phase::RemovingNote => Some(0),
            Phase::NotYet | Phase::Returned(_) | Phase::Dead => None,
        }
    }

    fn goes_to(&mut self, phase: Phase) {
        self.phase = phase;
        self.heard = Nodes::NONE;
        self.age = 0;
    }
}

impl World {
    pub fn party_of_caller(&self) -> &Party {
        &self.parties[usize::from(self.caller.party)]
    }

    fn sessions(&mut self) -> &mut [Session] {
        &mut self.parties[usize::from(self.caller.party)].sessions
    }

    /// The step under way.
    pub fn step(&self, rules: Rules) -> Option<Step> {
        let is_in_one = self.caller.phase == Phase::Stepping;
        rules.steps.get(usize::from(self.caller.at)).copied().filter(|_| is_in_one)
    }

    /// The call begins: it writes its note, unless an earlier one did.
    pub fn call(&mut self, size: &Size, rules: Rules) -> bool {
        let is_done = self.caller.phase == Phase::Returned(Outcome::ReadOnly);
        if self.calls == size.calls || self.caller.is_at_it() || is_done {
            return false;
        }
        let goes_on = self.note;
        if rules.has(Rule::NoteFirst) && !goes_on {
            if !self.lets_in(0, ClientGate) {
                return false;
            }
            self.note = true;
        }
        self.calls += 1;
        self.caller = Caller { phase: Phase::Ready, goes_on, ..Caller::NEW };
        true
    }

    /// Reads the node list; a session on each.
    pub fn attempt(&mut self, size: &Size, rules: Rules) -> bool {
        if self.caller.phase != Phase::Ready || self.attempts == size.attempts {
            return false;
        }
        let mut party = Party { list: self.listed, ..Party::NONE };
        for (node, session) in (0..).zip(&mut party.sessions) {
            if self.listed.has(node) {
                *session = Session::OPEN;
            }
        }
        self.parties[usize::from(self.attempts)] = party;
        self.caller.party = self.attempts;
        self.attempts += 1;
        self.caller.goes_to(Phase::Stepping);
        self.begin_step(rules, 0)
    }

    /// Begins the step with this number, and first does those before it that are this node's alone.  False
    /// where one of these fails.  After the last the others are told to switch themselves.
    fn begin_step(&mut self, rules: Rules, mut at: u8) -> bool {
        self.caller.heard = Nodes::NONE;
        loop {
            match rules.steps.get(usize::from(at)) {
                None => {
                    self.caller.at = 0;
                    return self.tell_others(rules);
                }
                Some(Step::SameNodes) if self.party_of_caller().list == self.listed => at += 1,
                // Another list is a failed attempt: what is left is to give up or to try again.
                Some(Step::SameNodes) => return false,
                Some(step @ (Step::Close(Tables) | Step::Flush)) => {
                    panic!("{step:?}: the switch has no such step, nor has its model")
                }
                Some(Step::Close(_)) => {
                    self.sessions().iter_mut().for_each(|session| session.tell(Doing::Gate));
                    break;
                }
                Some(Step::NobodyInSteps | Step::FinishInDoubt) => break,
            }
        }
        self.caller.at = at;
        true
    }

    fn tell_others(&mut self, rules: Rules) -> bool {
        self.caller.goes_to(Phase::Others);
        let with_this = !rules.has(Rule::ThisNodeLast);
        for (node, session) in (0..).zip(self.sessions()) {
            if node > 0 || with_this {
                session.tell(Doing::Shut);
            } else if session.is_open() {
                session.ends_in = ticks::STAY;
            }
        }
        true
    }

    /// The next step, once this one is done on the last of the nodes.
    pub fn next_step(&mut self, rules: Rules) -> bool {
        let list = self.party_of_caller().list;
        let heard = |nodes: Nodes| self.caller.heard.has_all(nodes);
        let with_this = !rules.has(Rule::ThisNodeLast);
        let awaits_switch = rules.has(Rule::SwitchAwaitsAnswers);
        match self.caller.phase {
            Phase::Stepping if heard(list) || !rules.has(Rule::StepsAwaitAnswers) => {
                self.begin_step(rules, self.caller.at + 1)
            }
            Phase::Others if heard(list.without(0)) || !awaits_switch => {
                if !with_this {
                    self.caller.goes_to(Phase::Own);
                    self.session(self.caller.party, 0).tell(Doing::Shut);
                } else if heard(list) {
                    self.begin_letting_go(rules, Why::Done);
                } else {
                    return false;
                }
                true
            }
            Phase::Own if heard(Nodes::first(1)) || !awaits_switch => {
                self.begin_letting_go(rules, Why::Done);
                true
            }
            _ => false,
        }
    }

    /// An attempt fails, at any point: the time, a node, somebody in the way.
    pub fn fail(&mut self, size: &Size, rules: Rules, tries_again: bool) -> bool {
        if tries_again && self.attempts == size.attempts {
            return false;
        }
        match self.caller.phase {
            Phase::Stepping if tries_again => self.begin_letting_go(rules, Why::Again),
            Phase::Stepping => self.begin_letting_go(rules, Why::GaveUp),
            Phase::Ready if !tries_again => self.give_up(),
            _ => return false,
        }
        true
    }

    /// A node could not be switched.  Nothing is taken back before all others have answered, or their time is
    /// over.
    pub fn fail_switch(&mut self, rules: Rules) -> bool {
        let phase = self.caller.phase;
        if !matches!(phase, Phase::Others | Phase::Own) {
            return false;
        }
        let is_late = self.caller.age >= ticks::SWITCH;
        let party = self.party_of_caller();
        let told = if phase == Phase::Own { Nodes::first(1) } else { party.list };
        let session = |node: u8| &party.sessions[usize::from(node)];
        let list = || party.list.all();
        let fails = list().any(|node| told.has(node) && session(node).is_seen_lost());
        let is_over = list().all(|node| {
            session(node).doing == Doing::Nothing && !session(node).silent
                || self.caller.heard.has(node)
        });
        if !is_late && !(fails && (is_over || !rules.has(Rule::SwitchAwaitsAnswers))) {
            return false;
        }
        if rules.has(Rule::UndoOnFailure) {
            self.caller.goes_to(Phase::Undoing);
        } else {
            self.begin_letting_go(rules, Why::Undone);
        }
        true
    }

    /// A node does not answer to being switched back.
    pub fn not_opened(&mut self, node: u8) -> bool {
        let caller = &self.caller;
        let is_asked = caller.phase == Phase::Undoing && self.party_of_caller().list.has(node);
        if !is_asked || caller.heard.has(node) || caller.left.has(node) {
            return false;
        }
        self.caller.left = caller.left.with(node);
        true
    }

    /// Every node is switched back, or did not answer.
    pub fn end_undoing(&mut self, rules: Rules) -> bool {
        let Caller { phase, heard, left, .. } = self.caller;
        let mut nodes = self.party_of_caller().list.all();
        if phase != Phase::Undoing || !nodes.all(|node| heard.has(node) || left.has(node)) {
            return false;
        }
        let why = if left == Nodes::NONE { Why::Undone } else { Why::HalfWay };
        self.begin_letting_go(rules, why);
        true
    }

    fn begin_letting_go(&mut self, rules: Rules, why: Why) {
        self.caller.goes_to(Phase::LettingGo(why));
        self.caller.at = 0;
        self.caller.left = Nodes::NONE;
        if rules.has(Rule::LettingGoAwaitsAnswers) {
            for session in self.sessions().iter_mut().filter(|session| session.is_open()) {
                session.word = Word::Rollback;
            }
        } else {
            self.end_letting_go(why);
        }
    }

    /// Every node has answered, or is silent and its time is over.
    pub fn let_go(&mut self) -> bool {
        let Phase::LettingGo(why) = self.caller.phase else { return false };
        let is_late = self.caller.age >= ticks::ANSWER;
        let is_over = |session: &Session| {
            if session.silent { is_late } else { matches!(session.side, Side::None | Side::Lost) }
        };
        let party = self.party_of_caller();
        let over = party.list.all().all(|node| is_over(&party.sessions[usize::from(node)]));
        if over {
            self.end_letting_go(why);
        }
        over
    }

    fn end_letting_go(&mut self, why: Why) {
        self.sessions().iter_mut().for_each(Session::close);
        match why {
            Why::Again => self.caller.goes_to(Phase::Ready),
            Why::Done => self.caller.goes_to(Phase::Returned(Outcome::ReadOnly)),
            Why::HalfWay => self.caller.goes_to(Phase::Returned(Outcome::HalfWay)),
            Why::GaveUp | Why::Undone => self.give_up(),
        }
    }

    /// Where an earlier switch was interrupted, its note stays.
    fn give_up(&mut self) {
        let phase = match self.caller.goes_on {
            true => Phase::Returned(Outcome::Failed),
            false => Phase::RemovingNote,
        };
        self.caller.goes_to(phase);
    }

    /// Takes the note away: a write on this node.
    pub fn remove_note(&mut self) -> bool {
        let is_next = self.caller.phase == Phase::RemovingNote && self.lets_in(0, ClientGate);
        if is_next {
            self.note = false;
            self.caller.goes_to(Phase::Returned(Outcome::Failed));
        }
        is_next
    }

    /// It cannot be taken away.
    pub fn note_is_left(&mut self) -> bool {
        let is_next = self.caller.phase == Phase::RemovingNote;
        if is_next {
            self.caller.goes_to(Phase::Returned(Outcome::NoteLeft));
        }
        is_next
    }

    /// The process is gone, and the kernel closes its sessions.
    pub fn die(&mut self) -> bool {
        let is_at_it = self.caller.is_at_it();
        if is_at_it {
            if self.caller.is_using_party() {
                self.sessions().iter_mut().for_each(Session::close);
                self.parties[usize::from(self.caller.party)].is_orphan = true;
            }
            self.caller.goes_to(Phase::Dead);
        }
        is_at_it
    }
}
