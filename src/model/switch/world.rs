//! The state of the modelled cluster, and what can happen to it.

use super::caller::Caller;
use super::nodes::{Party, Session, Side};
use super::rules::{Rule, Rules};
use super::writers::{Command, Route, Writer};
use crate::fence::steps::Barrier::ClientGate;
use crate::model::nodes::Nodes;

/// Most of everything, in any size.
pub const NODES: u8 = 3;
pub const PARTIES: usize = 3;
pub const WRITERS: usize = 2;

/// Lengths of time, in ticks of about the three seconds after which a node ends what it hears nothing more from.
pub mod ticks {
    /// All waits of an attempt together.
    pub const ATTEMPT: u8 = 1;
    /// The answers of the nodes that are told to switch themselves.
    pub const SWITCH: u8 = 2;
    /// Any other answer.
    pub const ANSWER: u8 = 1;
    /// A node that hears nothing more, and a command that takes too long.
    pub const SILENCE: i8 = 1;
    /// The coordinator, while the others are switched.
    pub const STAY: i8 = 3;
}

/// How large a cluster, and how much may happen to it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes in the list at the beginning, the coordinator among them.
    pub nodes: u8,
    /// Whether one more may join.
    pub joiner: bool,
    pub writers: &'static [Route],
    /// The first writer's node crashed before all this; with or without a commit record.
    pub left: Option<bool>,
    /// The node with a command that commits on its way.
    pub command_on: Option<u8>,
    /// Calls, one after the other.
    pub calls: u8,
    /// Attempts at closing the gates, over all calls.
    pub attempts: u8,
    /// How many faults may happen, and of which kinds.
    pub faults: u8,
    pub kinds: &'static [Fault],
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller is cancelled or dies, where it may.
    CallerDies,
    /// A node crashes and restarts; with the coordinator the caller is gone.
    NodeCrash,
    /// A link between the caller and a node goes silent for good.
    Silence,
    /// A node cannot be switched: its disk is full.
    NotSwitched,
    /// A node does not answer to being switched back.
    NotOpened,
    /// The note cannot be taken away.
    NoteStays,
    /// A writer's session ends in the middle.
    WriterEnds,
}

/// One thing that happens.  Numbers are indices of attempts, nodes and writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    // The caller.
    Call,
    Attempt,
    NextStep,
    TryAgain,
    GiveUp,
    FailSwitch,
    EndUndoing,
    LetGo,
    RemoveNote,
    NoteIsLeft,
    // Nodes.
    Grant(u8, u8),
    Look(u8),
    FinishInDoubt(u8),
    Shut(u8, u8),
    ShutFails(u8, u8),
    Deliver(u8, u8),
    NodeEnds(u8, u8),
    Open(u8),
    OpenTakesTooLong(u8),
    Join,
    // Writers.
    Write(u8),
    LateMessage(u8),
    LateEnd(u8),
    Command,
    // Faults.
    Die,
    Crash(u8),
    Silence(u8, u8),
    NotSwitched(u8, u8),
    NotOpened(u8),
    NoteStays,
    WriterEnds(u8),
    // Time.
    Tick,
}

/// Everything that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub caller: Caller,
    /// Calls that have been begun.
    pub calls: u8,
    pub parties: [Party; PARTIES],
    /// How many of `parties` have been gathered.
    pub attempts: u8,
    /// The coordinator's `pg_dist_node`.
    pub listed: Nodes,
    /// Nodes that refuse, by what is on their disks.
    pub read_only: Nodes,
    /// The coordinator's note of the switch.
    pub note: bool,
    pub writers: [Writer; WRITERS],
    pub command: Command,
    /// Faults that may still happen.
    pub faults: u8,
}

impl World {
    /// Nothing has happened yet, or only what has left something in doubt.
    pub fn new(size: &Size) -> Self {
        let mut writers = [Writer::NEW; WRITERS];
        if let Some(committed) = size.left {
            writers[0] = Writer::left(committed);
        }
        Self {
            caller: Caller::NEW,
            calls: 0,
            parties: [Party::NONE; PARTIES],
            attempts: 0,
            listed: Nodes::first(size.nodes),
            read_only: Nodes::NONE,
            note: false,
            writers,
            command: Command::NotYet,
            faults: size.faults,
        }
    }

    /// What comes of an action; `None` where it cannot happen.
    pub fn after(&self, size: &Size, rules: Rules, action: Action) -> Option<Self> {
        let mut next = *self;
        let happened = match action {
            Action::Call => next.call(size, rules),
            Action::Attempt => next.attempt(size, rules),
            Action::NextStep => next.next_step(rules),
            Action::TryAgain => next.fail(size, rules, true),
            Action::GiveUp => next.fail(size, rules, false),
            Action::FailSwitch => next.fail_switch(rules),
            Action::EndUndoing => next.end_undoing(rules),
            Action::LetGo => next.let_go(),
            Action::RemoveNote => next.remove_note(),
            // It waits there, and no longer than it may.
            Action::NoteIsLeft => !self.lets_in(0, ClientGate) && next.note_is_left(),
            Action::Grant(party, node) => next.grant(size, rules, party, node),
            Action::Look(node) => next.look(size, rules, node),
            Action::FinishInDoubt(node) => next.finish_in_doubt(size, rules, node),
            Action::Shut(party, node) => next.shut(size, party, node),
            Action::ShutFails(party, node) => next.shut_fails(party, node, false),
            Action::Deliver(party, node) => next.deliver(party, node),
            Action::NodeEnds(party, node) => next.node_ends(rules, party, node),
            Action::Open(node) => next.open(node),
            Action::OpenTakesTooLong(node) => self.is_draining(node) && next.not_opened(node),
            Action::Join => next.join(size),
            Action::Write(writer) => next.write(size, writer),
            Action::LateMessage(writer) => next.late(size, writer, true),
            Action::LateEnd(writer) => next.late(size, writer, false),
            Action::Command => next.command(size),
            Action::Die => next.spend_fault() && next.die(),
            Action::Crash(node) => next.spend_fault() && next.crash(size, node),
            Action::Silence(party, node) => next.spend_fault() && next.silence(party, node),
            Action::NotSwitched(party, node) => {
                next.spend_fault() && next.shut_fails(party, node, true)
            }
            Action::NotOpened(node) => next.spend_fault() && next.not_opened(node),
            Action::NoteStays => next.spend_fault() && next.note_is_left(),
            Action::WriterEnds(writer) => next.spend_fault() && next.writer_ends(size, writer),
            Action::Tick => next.tick(rules),
        };
        happened.then(|| {
            next.forget_what_is_over();
            next
        })
    }

    /// Every action that the size knows; most of them are impossible in most states.
    pub fn actions(size: &Size) -> Vec<Action> {
        let nodes = || 0..size.nodes + u8::from(size.joiner);
        let has = |kind| size.kinds.contains(&kind);
        let mut all = vec![
            Action::Call,
            Action::Attempt,
            Action::NextStep,
            Action::TryAgain,
            Action::GiveUp,
            Action::FailSwitch,
            Action::EndUndoing,
            Action::LetGo,
            Action::RemoveNote,
            Action::NoteIsLeft,
            Action::Tick,
        ];
        all.extend(size.joiner.then_some(Action::Join));
        all.extend(size.command_on.map(|_| Action::Command));
        for node in nodes() {
            all.extend([
                Action::Look(node),
                Action::FinishInDoubt(node),
                Action::Open(node),
                Action::OpenTakesTooLong(node),
            ]);
            all.extend(has(Fault::NotOpened).then_some(Action::NotOpened(node)));
            all.extend(has(Fault::NodeCrash).then_some(Action::Crash(node)));
            for party in 0..size.attempts {
                all.extend([
                    Action::Grant(party, node),
                    Action::Shut(party, node),
                    Action::ShutFails(party, node),
                    Action::Deliver(party, node),
                    Action::NodeEnds(party, node),
                ]);
                all.extend(has(Fault::Silence).then_some(Action::Silence(party, node)));
                all.extend(has(Fault::NotSwitched).then_some(Action::NotSwitched(party, node)));
            }
        }
        for writer in 0..size.writers.len() as u8 {
            let late = [Action::LateMessage(writer), Action::LateEnd(writer)];
            all.push(Action::Write(writer));
            all.extend(late);
            all.extend(has(Fault::WriterEnds).then_some(Action::WriterEnds(writer)));
        }
        all.extend(has(Fault::CallerDies).then_some(Action::Die));
        all.extend(has(Fault::NoteStays).then_some(Action::NoteStays));
        all
    }

    fn spend_fault(&mut self) -> bool {
        let left = self.faults > 0;
        self.faults = self.faults.saturating_sub(1);
        left
    }

    /// A tick passes, unless something is due first: bounds are kept, by whoever has to keep them, as long as
    /// that process lives.
    fn tick(&mut self, rules: Rules) -> bool {
        if self.caller.bound().is_some_and(|bound| self.caller.age >= bound) {
            return false;
        }
        let sessions = || self.parties.iter().flat_map(|party| &party.sessions);
        let mut open = sessions().filter(|session| session.is_open());
        let is_due = |session: &Session| session.ends_in <= 0;
        if rules.has(Rule::SilenceBound) && open.clone().any(is_due) {
            return false;
        }
        if open.next().is_none() && self.caller.bound().is_none() {
            return false;
        }
        self.caller.age += u8::from(self.caller.bound().is_some());
        for session in self.parties.iter_mut().flat_map(|party| &mut party.sessions) {
            if session.is_open() {
                // One more than is allowed tells enough.
                session.ends_in = (session.ends_in - 1).max(-1);
            }
        }
        true
    }

    /// Puts what can make no difference any more into one form, so that it makes no states.
    fn forget_what_is_over(&mut self) {
        for (index, party) in (0..).zip(&mut self.parties) {
            let is_current = self.caller.is_using_party() && self.caller.party == index;
            if !is_current {
                for session in party.sessions.iter_mut().filter(|s| s.side == Side::Lost) {
                    *session = Session::NONE;
                }
                if party.sessions.iter().all(|session| session.side == Side::None) {
                    *party = Party::NONE;
                }
            }
        }
        if !self.caller.is_using_party() {
            let Caller { phase, age, goes_on, .. } = self.caller;
            self.caller = Caller { phase, age, goes_on, ..Caller::NEW };
        }
    }
}
