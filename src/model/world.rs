//! The state of the modelled cluster, and what can happen to it.

use super::nodes::{Nodes, Party, Session};
use super::people::{Ended, Life, Operator};
use super::rules::{Rule, Rules};
use super::slot::{Slot, ticks};
use super::worker::{Phase, Worker};
use super::writers::Writer;
use crate::block::state::State;
use crate::fence::steps::Barrier;

/// Most of everything, in any size.
pub const NODES: u8 = 3;
pub const LIVES: usize = 3;
pub const PARTIES: usize = 2;
pub const WRITERS: usize = 2;

/// How large a cluster, and how much may happen to it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes in the list at the beginning, the coordinator among them.
    pub nodes: u8,
    /// Whether one more may join.
    pub joiner: bool,
    /// A node whose metadata is not kept in step.
    pub without_metadata: Option<u8>,
    /// Two-phase commits: the node that each begins on, and the other one that takes part.
    pub writers: &'static [(u8, u8)],
    /// Blocks that may be begun, one after the other.
    pub blocks: u8,
    /// Attempts at locking, over all blocks.
    pub attempts: u8,
    /// Releases that somebody else than the operator asks for.
    pub strangers: u8,
    /// Extensions that may be asked for.
    pub extensions: u8,
    /// Whether nodes finish what is left in doubt.
    pub recovery: bool,
    /// Whether callers may leave before they are told.
    pub leavers: bool,
    /// How many faults may happen, and of which kinds.
    pub faults: u8,
    pub kinds: &'static [Fault],
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The fence's worker is told to terminate while it holds.
    Terminate,
    /// The fence's worker ends by FATAL: its exit callback runs.
    WorkerEnds,
    /// The fence's worker is gone without a word.
    WorkerVanishes,
    /// The coordinator crashes: its shared memory is made anew, its processes are gone.
    CoordinatorCrash,
    /// Another node crashes and restarts.
    NodeCrash,
    /// A link between the fence and a node goes silent for good.
    Silence,
    /// A writer's session ends in the middle of its commit.
    WriterEnds,
}

/// One thing that happens.  Numbers are indices of blocks, attempts, nodes and writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    // Whoever calls functions.
    Begin,
    CallerLooks(u8),
    CallerLeaves(u8),
    Copy(u8),
    Unblock,
    UnblockLooks,
    StrangerUnblocks,
    AnyoneLooks,
    AskExtension,
    // The fence's worker.
    Adopt(u8),
    Connect(u8),
    LockNodeList(u8),
    LockHere(u8),
    NextStep(u8),
    FlushHere(u8),
    Activate(u8),
    GiveUp(u8),
    TryAgain(u8),
    BeginExtension(u8),
    EndExtension(u8),
    EndHold(u8),
    LetGo(u8),
    Say(u8),
    Exit(u8),
    // Nodes.
    Grant(u8, u8),
    Flush(u8, u8),
    Extend(u8, u8),
    Deliver(u8, u8),
    NodeEndsHold(u8, u8),
    Join,
    // Writers.
    Write(u8),
    WriteUnflushed(u8),
    WalWriter(u8),
    LateMessage(u8),
    Recover(u8),
    // Faults.
    Terminate(u8),
    WorkerEnds(u8),
    WorkerVanishes(u8),
    Crash(u8),
    Silence(u8, u8),
    WriterEnds(u8),
    // Time.
    Tick,
}

/// Everything that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub slot: Slot,
    pub lives: [Life; LIVES],
    /// How many of `lives` have been begun.
    pub begun: u8,
    pub parties: [Party; PARTIES],
    /// How many of `parties` have been gathered.
    pub gathered: u8,
    /// The coordinator's `pg_dist_node`.
    pub listed: Nodes,
    pub writers: [Writer; WRITERS],
    pub operator: Operator,
    /// Calls that are left to strangers.
    pub strangers: u8,
    /// Extensions that may still be asked for.
    pub extensions: u8,
    /// Faults that may still happen.
    pub faults: u8,
}

impl World {
    /// Nothing has happened yet.
    pub fn new(size: &Size) -> Self {
        Self {
            slot: Slot::UNUSED,
            lives: [Life::NONE; LIVES],
            begun: 0,
            parties: [Party::NONE; PARTIES],
            gathered: 0,
            listed: Nodes::first(size.nodes),
            writers: [Writer::NEW; WRITERS],
            operator: Operator::NEW,
            strangers: size.strangers,
            extensions: size.extensions,
            faults: size.faults,
        }
    }

    /// What comes of an action; `None` where it cannot happen.
    pub fn after(&self, size: &Size, rules: Rules, action: Action) -> Option<Self> {
        let mut next = *self;
        let happened = match action {
            Action::Begin => next.begin(size, rules),
            Action::CallerLooks(life) => next.caller_looks(size, rules, life),
            Action::CallerLeaves(life) => next.caller_leaves(rules, life),
            Action::Copy(node) => next.copy(size, node),
            Action::Unblock => next.unblock(rules),
            Action::UnblockLooks => next.unblock_looks(rules),
            Action::StrangerUnblocks => next.stranger_unblocks(rules),
            Action::AnyoneLooks => next.reap(rules),
            Action::AskExtension => next.ask_extension(),
            Action::Adopt(life) => next.adopt(life),
            Action::Connect(life) => next.connect(size, rules, life),
            Action::LockNodeList(life) => next.lock_node_list(rules, life),
            Action::LockHere(life) => next.lock_here(size, rules, life),
            Action::NextStep(life) => next.next_step(rules, life),
            Action::FlushHere(life) => next.flush_here(size, rules, life),
            Action::Activate(life) => next.activate(rules, life),
            Action::GiveUp(life) => next.give_up(rules, life),
            Action::TryAgain(life) => next.try_again(size, rules, life),
            Action::BeginExtension(life) => next.begin_extension(life),
            Action::EndExtension(life) => next.end_extension(rules, life),
            Action::EndHold(life) => next.end_hold(rules, life),
            Action::LetGo(life) => next.let_go(life),
            Action::Say(life) => next.say(rules, life),
            Action::Exit(life) => next.exit(rules, life),
            Action::Grant(party, node) => next.grant(size, rules, party, node),
            Action::Flush(party, node) => next.flush(size, rules, party, node),
            Action::Extend(party, node) => next.extend(rules, party, node),
            Action::Deliver(party, node) => next.deliver(party, node),
            Action::NodeEndsHold(party, node) => next.node_ends_hold(rules, party, node),
            Action::Join => next.join(size),
            Action::Write(writer) => next.write(size, rules, writer, true),
            Action::WriteUnflushed(writer) => next.write(size, rules, writer, false),
            Action::WalWriter(writer) => next.wal_writer(writer),
            Action::LateMessage(writer) => next.late_message(size, rules, writer),
            Action::Recover(writer) => next.recover(size, writer),
            Action::Terminate(life) => next.spend_fault() && next.terminate(rules, life),
            Action::WorkerEnds(life) => next.spend_fault() && next.worker_ends(life),
            Action::WorkerVanishes(life) => next.spend_fault() && next.worker_vanishes(life),
            Action::Crash(0) => next.spend_fault() && next.coordinator_crash(size),
            Action::Crash(node) => next.spend_fault() && next.node_crash(size, node),
            Action::Silence(party, node) => next.spend_fault() && next.silence(party, node),
            Action::WriterEnds(writer) => next.spend_fault() && next.writer_ends(rules, writer),
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
        let mut all = vec![Action::Begin, Action::Unblock, Action::UnblockLooks];
        all.extend([Action::AnyoneLooks, Action::Tick]);
        if !size.writers.is_empty() {
            all.extend(nodes().map(Action::Copy));
        }
        if size.strangers > 0 {
            all.push(Action::StrangerUnblocks);
        }
        if size.extensions > 0 {
            all.push(Action::AskExtension);
        }
        if size.joiner {
            all.push(Action::Join);
        }
        for life in 0..size.blocks {
            all.extend([
                Action::CallerLooks(life),
                Action::Adopt(life),
                Action::Connect(life),
                Action::LockNodeList(life),
                Action::LockHere(life),
                Action::NextStep(life),
                Action::FlushHere(life),
                Action::Activate(life),
                Action::GiveUp(life),
                Action::TryAgain(life),
                Action::EndHold(life),
                Action::LetGo(life),
                Action::Say(life),
                Action::Exit(life),
            ]);
            if size.extensions > 0 {
                all.extend([Action::BeginExtension(life), Action::EndExtension(life)]);
            }
            all.extend(size.leavers.then_some(Action::CallerLeaves(life)));
            all.extend(has(Fault::Terminate).then_some(Action::Terminate(life)));
            all.extend(has(Fault::WorkerEnds).then_some(Action::WorkerEnds(life)));
            all.extend(has(Fault::WorkerVanishes).then_some(Action::WorkerVanishes(life)));
        }
        for party in 0..size.attempts {
            for node in nodes().skip(1) {
                all.extend([
                    Action::Grant(party, node),
                    Action::Flush(party, node),
                    Action::Deliver(party, node),
                    Action::NodeEndsHold(party, node),
                ]);
                all.extend((size.extensions > 0).then_some(Action::Extend(party, node)));
                all.extend(has(Fault::Silence).then_some(Action::Silence(party, node)));
            }
        }
        for writer in 0..size.writers.len() as u8 {
            all.extend([
                Action::Write(writer),
                Action::WriteUnflushed(writer),
                Action::WalWriter(writer),
            ]);
            if has(Fault::WriterEnds) || has(Fault::CoordinatorCrash) || has(Fault::NodeCrash) {
                all.push(Action::LateMessage(writer));
            }
            all.extend(size.recovery.then_some(Action::Recover(writer)));
            all.extend(has(Fault::WriterEnds).then_some(Action::WriterEnds(writer)));
        }
        all.extend(has(Fault::CoordinatorCrash).then_some(Action::Crash(0)));
        if has(Fault::NodeCrash) {
            all.extend(nodes().skip(1).map(Action::Crash));
        }
        all
    }

    /// The block that has this generation now or had it last.
    pub fn life_of(&self, generation: u8) -> Option<usize> {
        (0..usize::from(self.begun)).rev().find(|life| self.lives[*life].generation == generation)
    }

    /// Whether the barrier is closed on the node, by whichever block.
    pub fn is_closed(&self, node: u8, barrier: Barrier) -> bool {
        if node == 0 {
            self.lives.iter().any(|life| life.worker.closed.has(barrier))
        } else {
            let session = |party: &Party| party.sessions[usize::from(node)];
            self.parties.iter().any(|party| session(party).closed.has(barrier))
        }
    }

    fn spend_fault(&mut self) -> bool {
        let left = self.faults > 0;
        self.faults = self.faults.saturating_sub(1);
        left
    }

    /// A tick passes, unless something is due first: bounds are kept, by whoever has to keep them, as
    /// long as that process lives.
    fn tick(&mut self, rules: Rules) -> bool {
        let mut is_timed = false;
        for life in &self.lives {
            let worker = &life.worker;
            let is_due = match worker.phase {
                Phase::Gone | Phase::Registered => continue,
                Phase::Adopted
                | Phase::Connected
                | Phase::ListLocked
                | Phase::Locking
                | Phase::Flushing
                | Phase::Through => worker.acquire_in <= 0,
                Phase::Holding => self.slot.state != State::Active || self.slot.expires_in == 0,
                Phase::Extending | Phase::LettingGo(_) => worker.overdue,
                Phase::Free(_) | Phase::Said | Phase::Exiting => true,
            };
            if is_due {
                return false;
            }
            is_timed = true;
        }
        for session in self.parties.iter().flat_map(|party| &party.sessions) {
            if session.is_timed() {
                if session.ends_in == 0 && rules.has(Rule::NodesEndHoldsThemselves) {
                    return false;
                }
                is_timed = true;
            }
        }
        if !is_timed {
            return false;
        }
        self.slot.expires_in = self.slot.expires_in.saturating_sub(1);
        for life in &mut self.lives {
            // One more than is allowed tells enough.
            life.due = (life.due - 1).max(-(ticks::BOUND as i8) - 1);
            if life.worker.is_acquiring() {
                life.worker.acquire_in = (life.worker.acquire_in - 1).max(-1);
            }
            life.worker.overdue =
                matches!(life.worker.phase, Phase::Extending | Phase::LettingGo(_));
        }
        for session in self.parties.iter_mut().flat_map(|party| &mut party.sessions) {
            session.ends_in = session.ends_in.saturating_sub(1);
        }
        true
    }

    /// Puts what can make no difference any more into one form, so that it makes no states.
    fn forget_what_is_over(&mut self) {
        for (index, party) in (0..).zip(&mut self.parties) {
            let worker = &self.lives[usize::from(party.life)].worker;
            let is_current = worker.is_using_party() && worker.party == index;
            if !is_current && !party.sessions.iter().any(Session::is_there) {
                *party = Party::NONE;
            }
        }
        for (index, life) in (0..).zip(&mut self.lives) {
            if !life.worker.is_using_party() {
                let Worker { phase, acquire_in, .. } = life.worker;
                life.worker = Worker { phase, acquire_in, ..Worker::GONE };
            }
            if !life.worker.is_acquiring() {
                life.worker.acquire_in = 0;
            }
            let has_sessions = self
                .parties
                .iter()
                .any(|party| party.life == index && party.sessions.iter().any(Session::is_there));
            if !has_sessions && !life.worker.is_acquiring() && !life.worker.is_using_party() {
                life.due = 0;
            }
            let is_over = life.ended.is_some() && life.worker.phase == Phase::Gone;
            if is_over && !has_sessions {
                *life = Life { generation: life.generation, ended: life.ended, ..Life::NONE };
                life.ended = Some(Ended::Told);
            }
        }
    }
}
