//! The fence's worker, step by step as `acquire.rs`, `hold.rs` and `worker.rs` have it.

use super::nodes::{Closed, Nodes, Party, Session, Side, Word};
use super::people::Ended;
use super::rules::{Rule, Rules};
use super::slot::{self, ticks};
use super::world::{NODES, Size, World};
use crate::block::state::{Block, Failure, State};
use crate::fence::steps::{Barrier, Step};

/// Where a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No process any more, or none yet.
    Gone,
    /// The postmaster will start it some time.
    Registered,
    /// It has taken its block, and holds nothing.
    Adopted,
    /// It has read the node list and has a session on each node, or has done a step; the next one closes a
    /// barrier, on the coordinator first.
    Connected,
    /// It holds the coordinator's `pg_dist_node`.
    ListLocked,
    /// It has closed the barrier on the coordinator; that is under way everywhere else.
    Locking,
    /// The flush is under way.
    Flushing,
    /// It has done all steps, of which the last was one of the coordinator's alone.
    Through,
    /// Its block is active.
    Holding,
    /// An extension is under way everywhere.
    Extending,
    /// ROLLBACK is under way everywhere.
    LettingGo(Why),
    /// It holds nothing, and will say so.
    Free(Why),
    /// It has said so, and ends.
    Said,
    /// It ends by FATAL: its transaction is aborted, its exit callback is still to come.
    Exiting,
}

/// Why it lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// To try again.
    Again,
    /// It was asked to.
    Asked,
    /// It was asked to, and a node did not confirm.
    Unconfirmed,
    /// The deadline.
    Expired,
    /// An error.
    Lost,
    /// The release was asked for before it was active.
    GivenUp,
}

/// A worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub phase: Phase,
    /// The step that it is at.
    pub at: u8,
    /// It holds the coordinator's `pg_dist_node`.
    pub has_list: bool,
    /// What it keeps closed on the coordinator.
    pub closed: Closed,
    /// Its current attempt.
    pub party: u8,
    /// Nodes whose answer to the command under way it has.
    pub heard: Nodes,
    /// Ticks until it has to be active; negative once that is past.
    pub acquire_in: i8,
    /// Has been at what it does, which is bounded, for a tick.
    pub overdue: bool,
}

impl Worker {
    pub const GONE: Self = Self {
        phase: Phase::Gone,
        at: 0,
        has_list: false,
        closed: Closed::NONE,
        party: 0,
        heard: Nodes::NONE,
        acquire_in: 0,
        overdue: false,
    };

    /// Whether it has yet to become active, or to give that up.
    pub fn is_acquiring(&self) -> bool {
        self.is_attempting() || matches!(self.phase, Phase::Adopted | Phase::LettingGo(Why::Again))
    }

    /// Whether its attempt is still under way, or held.
    pub fn is_using_party(&self) -> bool {
        match self.phase {
            Phase::Gone
            | Phase::Registered
            | Phase::Adopted
            | Phase::Free(_)
            | Phase::Said
            | Phase::Exiting => false,
            Phase::Connected
            | Phase::ListLocked
            | Phase::Locking
            | Phase::Flushing
            | Phase::Through
            | Phase::Holding
            | Phase::Extending
            | Phase::LettingGo(_) => true,
        }
    }

    /// Whether it is acquiring, with sessions on the nodes.
    fn is_attempting(&self) -> bool {
        matches!(
            self.phase,
            Phase::Connected
                | Phase::ListLocked
                | Phase::Locking
                | Phase::Flushing
                | Phase::Through
        )
    }
}

impl World {
    fn worker(&self, life: u8) -> &Worker {
        &self.lives[usize::from(life)].worker
    }

    fn worker_mut(&mut self, life: u8) -> &mut Worker {
        &mut self.lives[usize::from(life)].worker
    }

    fn party_of(&self, life: u8) -> &Party {
        &self.parties[usize::from(self.worker(life).party)]
    }

    fn party_mut(&mut self, life: u8) -> &mut Party {
        let party = usize::from(self.worker(life).party);
        &mut self.parties[party]
    }

    fn is_in(&self, life: u8, phase: Phase) -> bool {
        self.worker(life).phase == phase
    }

    /// `Owner::adopt`.
    pub fn adopt(&mut self, life: u8) -> bool {
        if !self.is_in(life, Phase::Registered) {
            return false;
        }
        let generation = self.lives[usize::from(life)].generation.into();
        let adopted = self.slot.act(|block| block.adopt(generation, slot::worker(life)));
        if adopted.is_ok() {
            self.worker_mut(life).phase = Phase::Adopted;
            self.worker_mut(life).acquire_in = ticks::ACQUIRE as i8;
            self.lives[usize::from(life)].due = (ticks::ACQUIRE + ticks::TIMEOUT) as i8;
        } else {
            self.worker_mut(life).phase = Phase::Gone;
        }
        true
    }

    /// Reads the node list; a session on each, warmed up.
    pub fn connect(&mut self, size: &Size, rules: Rules, life: u8) -> bool {
        if !self.is_in(life, Phase::Adopted) || self.gathered == size.attempts {
            return false;
        }
        let mut list = self.listed;
        if let (Some(node), false) = (size.without_metadata, rules.has(Rule::LockEveryPrimary)) {
            list = list.without(node);
        }
        let mut party = Party { life, list, ..Party::NONE };
        for node in list.remote() {
            party.sessions[usize::from(node)].side = Side::Open;
        }
        self.parties[usize::from(self.gathered)] = party;
        self.worker_mut(life).party = self.gathered;
        self.gathered += 1;
        self.begin_step(rules, life, 0)
    }

    /// Begins the step with this number, and first does those before it that are the coordinator's alone.
    /// False where one of these fails.
    fn begin_step(&mut self, rules: Rules, life: u8, mut at: u8) -> bool {
        let phase = loop {
            match rules.steps.get(usize::from(at)) {
                None => break Phase::Through,
                Some(Step::Close(_)) => break Phase::Connected,
                Some(Step::Flush) => break Phase::Flushing,
                // The other nodes know nothing of it.
                Some(Step::SameNodes) if self.nodes_are_the_same(rules, life) => at += 1,
                // Another list is a failed attempt: what is left is to give up or to try again.
                Some(Step::SameNodes) => return false,
                Some(step @ (Step::NobodyInSteps | Step::FinishInDoubt)) => {
                    panic!("{step:?}: the block has no such step, and so its model has none")
                }
            }
        };
        let worker = self.worker_mut(life);
        worker.at = at;
        worker.heard = Nodes::NONE;
        worker.phase = phase;
        true
    }

    fn nodes_are_the_same(&self, rules: Rules, life: u8) -> bool {
        // Some nodes are missing in the first list, as they are in the second.
        self.party_of(life).list == self.listed || !rules.has(Rule::LockEveryPrimary)
    }

    /// The barrier that the worker is closing.
    fn barrier(&self, rules: Rules, life: u8) -> Option<Barrier> {
        match rules.steps.get(usize::from(self.worker(life).at)) {
            Some(Step::Close(barrier)) => Some(*barrier),
            Some(Step::NobodyInSteps | Step::FinishInDoubt | Step::SameNodes | Step::Flush)
            | None => None,
        }
    }

    /// The coordinator's `pg_dist_node`, so that the list stays as it is: before the other tables.
    pub fn lock_node_list(&mut self, rules: Rules, life: u8) -> bool {
        let is_free = self.lives.iter().all(|other| !other.worker.has_list);
        if !self.is_in(life, Phase::Connected)
            || !is_free
            || self.barrier(rules, life) != Some(Barrier::Tables)
        {
            return false;
        }
        self.worker_mut(life).has_list = true;
        self.worker_mut(life).phase = Phase::ListLocked;
        true
    }

    /// Closes a barrier on the coordinator; then the command goes to all others at once.
    pub fn lock_here(&mut self, size: &Size, rules: Rules, life: u8) -> bool {
        if !matches!(self.worker(life).phase, Phase::Connected | Phase::ListLocked) {
            return false;
        }
        let Some(barrier) = self.barrier(rules, life) else { return false };
        let from = if barrier.is_gate() { Phase::Connected } else { Phase::ListLocked };
        if !self.is_in(life, from)
            || self.is_passed(size, rules, 0, barrier)
            || self.is_closed(0, barrier)
        {
            return false;
        }
        let within = self.worker(life).acquire_in.max(0) as u8;
        for session in &mut self.party_mut(life).sessions {
            if matches!(session.side, Side::Open | Side::Held) {
                session.side = Side::Waiting;
                session.ends_in = within;
            }
        }
        let worker = self.worker_mut(life);
        worker.closed = worker.closed.with(barrier);
        worker.heard = Nodes::NONE;
        worker.phase = Phase::Locking;
        true
    }

    /// What the block is about to close, or waits for, and where.
    pub fn wanted(&self, rules: Rules, life: u8) -> impl Iterator<Item = (u8, Barrier)> {
        let phase = self.worker(life).phase;
        let is_here = matches!(phase, Phase::Connected | Phase::ListLocked);
        let is_there = phase == Phase::Locking;
        let sessions = &self.party_of(life).sessions;
        let is_wanted = move |node: &u8| match node {
            0 => is_here,
            _ => is_there && sessions[usize::from(*node)].side == Side::Waiting,
        };
        let barrier = self.barrier(rules, life);
        (0..NODES).filter(is_wanted).filter_map(move |node| Some((node, barrier?)))
    }

    /// Whether the block's present attempt keeps the barrier closed on the node.
    pub fn is_closed_by(&self, life: u8, node: u8, barrier: Barrier) -> bool {
        let session = self.party_of(life).sessions[usize::from(node)];
        let closed = if node == 0 { self.worker(life).closed } else { session.closed };
        closed.has(barrier)
    }

    /// Whether every node has done the step under way.
    fn is_step_done(&self, rules: Rules, life: u8) -> bool {
        let worker = self.worker(life);
        let list = self.party_of(life).list;
        match worker.phase {
            Phase::Locking => worker.heard.has_all(list.without(0)),
            Phase::Flushing if rules.flush_with_the_lock => worker.heard.has(0),
            Phase::Flushing => worker.heard.has_all(list),
            Phase::Through => true,
            Phase::Gone
            | Phase::Registered
            | Phase::Adopted
            | Phase::Connected
            | Phase::ListLocked
            | Phase::Holding
            | Phase::Extending
            | Phase::LettingGo(_)
            | Phase::Free(_)
            | Phase::Said
            | Phase::Exiting => false,
        }
    }

    /// Whether no step is left.
    fn is_at_last_step(&self, rules: Rules, life: u8) -> bool {
        usize::from(self.worker(life).at) + 1 >= rules.steps.len()
    }

    /// The next step, once this one is done on the last of the nodes.
    pub fn next_step(&mut self, rules: Rules, life: u8) -> bool {
        if !self.is_step_done(rules, life) || self.is_at_last_step(rules, life) {
            return false;
        }
        self.begin_step(rules, life, self.worker(life).at + 1)
    }

    /// The coordinator's own flush, after all others.
    pub fn flush_here(&mut self, size: &Size, rules: Rules, life: u8) -> bool {
        let worker = self.worker(life);
        if !self.is_in(life, Phase::Flushing) || worker.heard.has(0) {
            return false;
        }
        let others = self.party_of(life).list.without(0);
        if !rules.flush_with_the_lock && !worker.heard.has_all(others) {
            return false;
        }
        self.make_durable(size, 0);
        let worker = self.worker_mut(life);
        worker.heard = worker.heard.with(0);
        true
    }

    /// `Owner::activate`.
    pub fn activate(&mut self, rules: Rules, life: u8) -> bool {
        if !self.is_step_done(rules, life) || !self.is_at_last_step(rules, life) {
            return false;
        }
        let generation = self.lives[usize::from(life)].generation;
        let asked = self.slot.release_asked;
        if !rules.has(Rule::NoneActiveAfterRelease) {
            self.slot.release_asked = false;
        }
        if self.slot.activate(generation, life) {
            self.slot.release_asked |= asked;
            self.worker_mut(life).phase = Phase::Holding;
            self.worker_mut(life).heard = Nodes::NONE;
            self.lives[usize::from(life)].due = ticks::TIMEOUT as i8;
        } else {
            self.slot.release_asked = asked;
            self.begin_letting_go(rules, Rule::ReleaseAwaitsAnswers, life, Why::GivenUp);
        }
        true
    }

    /// An attempt fails for good: a node that does not answer, the time, the release.
    pub fn give_up(&mut self, rules: Rules, life: u8) -> bool {
        let why = if self.slot.release_asked { Why::GivenUp } else { Why::Lost };
        if self.is_in(life, Phase::Adopted) {
            self.worker_mut(life).phase = Phase::Free(why);
        } else if self.worker(life).is_attempting() {
            self.begin_letting_go(rules, Rule::FailureAwaitsAnswers, life, why);
        } else {
            return false;
        }
        true
    }

    /// An attempt fails, and another will follow.
    pub fn try_again(&mut self, size: &Size, rules: Rules, life: u8) -> bool {
        if !self.worker(life).is_attempting() || self.gathered == size.attempts {
            return false;
        }
        self.begin_letting_go(rules, Rule::FailureAwaitsAnswers, life, Why::Again);
        true
    }

    /// The errand in the letter box, unless there is something more urgent.
    pub fn begin_extension(&mut self, life: u8) -> bool {
        let generation = self.lives[usize::from(life)].generation;
        let is_own = self.slot.generation == generation && self.slot.worker == Some(life);
        let is_over = self.slot.release_asked || self.slot.expires_in == 0;
        if !self.is_in(life, Phase::Holding) || !self.slot.errand || !is_own || is_over {
            return false;
        }
        self.worker_mut(life).phase = Phase::Extending;
        true
    }

    /// Every node has its new time-out: so has the block.
    pub fn end_extension(&mut self, rules: Rules, life: u8) -> bool {
        let others = self.party_of(life).list.without(0);
        if !self.is_in(life, Phase::Extending)
            || (rules.has(Rule::NodesLearnOfExtensions) && !self.worker(life).heard.has_all(others))
        {
            return false;
        }
        let generation = self.lives[usize::from(life)].generation;
        self.slot.answer_extension(generation, life);
        self.lives[usize::from(life)].due = ticks::TIMEOUT as i8;
        let worker = self.worker_mut(life);
        worker.phase = Phase::Holding;
        worker.heard = Nodes::NONE;
        worker.overdue = false;
        true
    }

    /// What ends `hold`, in the order in which it looks.
    pub fn end_hold(&mut self, rules: Rules, life: u8) -> bool {
        if self.is_in(life, Phase::Extending) {
            // Deaf to everything but the nodes: one is lost, or does not answer in time.
            let party = self.party_of(life);
            let fails = party.sessions.iter().any(|s| s.side == Side::Lost || s.silent);
            if fails {
                self.begin_letting_go(rules, Rule::ReleaseAwaitsAnswers, life, Why::Lost);
            }
            return fails;
        }
        if !self.is_in(life, Phase::Holding) {
            return false;
        }
        let generation = self.lives[usize::from(life)].generation;
        let is_own = self.slot.generation == generation && self.slot.worker == Some(life);
        let why = if !is_own {
            Why::Lost
        } else if self.slot.release_asked {
            Why::Asked
        } else if self.slot.state == State::Active && self.slot.expires_in == 0 {
            Why::Expired
        } else if self.party_of(life).sessions.iter().any(Session::is_seen_lost) {
            Why::Lost
        } else {
            return false;
        };
        self.begin_letting_go(rules, Rule::ReleaseAwaitsAnswers, life, why);
        true
    }

    /// SIGTERM, while it holds.
    pub fn terminate(&mut self, rules: Rules, life: u8) -> bool {
        let holds = self.is_in(life, Phase::Holding) || self.is_in(life, Phase::Extending);
        if holds {
            self.begin_letting_go(rules, Rule::ReleaseAwaitsAnswers, life, Why::Lost);
        }
        holds
    }

    /// `begin_release`, and ROLLBACK to everywhere.  `awaits` is the rule by which the answers are
    /// awaited.
    fn begin_letting_go(&mut self, rules: Rules, awaits: Rule, life: u8, why: Why) {
        let Worker { phase, heard, .. } = *self.worker(life);
        self.worker_mut(life).at = 0;
        let is_busy = |node| phase == Phase::Extending && !heard.has(node);
        if why != Why::Again {
            let generation = self.lives[usize::from(life)].generation.into();
            // Not its own any more: it lets go all the same.
            let _ = self.slot.act(|block| block.begin_release(generation, slot::worker(life)));
        }
        if rules.has(awaits) {
            for (node, session) in (0..).zip(&mut self.party_mut(life).sessions) {
                if !session.is_open() {
                    continue;
                }
                if is_busy(node) && !rules.has(Rule::BusyIsDrainedFirst) {
                    session.close();
                } else {
                    session.word = Word::Rollback;
                }
            }
            self.worker_mut(life).phase = Phase::LettingGo(why);
            self.worker_mut(life).overdue = false;
        } else {
            self.end_letting_go(life, why);
        }
    }

    /// Every node has answered, or is silent and its time is over.
    pub fn let_go(&mut self, life: u8) -> bool {
        let Phase::LettingGo(why) = self.worker(life).phase else { return false };
        let party = self.party_of(life);
        let sessions = || party.list.remote().map(|node| &party.sessions[usize::from(node)]);
        if !sessions().all(|s| s.silent || !s.is_open() || s.word == Word::Closed) {
            return false;
        }
        let confirmed = sessions().all(|s| !s.silent && s.side == Side::RolledBack);
        let why = if why == Why::Asked && !confirmed { Why::Unconfirmed } else { why };
        self.end_letting_go(life, why);
        true
    }

    fn end_letting_go(&mut self, life: u8, why: Why) {
        self.party_mut(life).close();
        let worker = self.worker_mut(life);
        worker.has_list = false;
        worker.closed = Closed::NONE;
        worker.heard = Nodes::NONE;
        worker.overdue = false;
        let tries_again = why == Why::Again && worker.acquire_in >= 0;
        worker.phase = if tries_again { Phase::Adopted } else { Phase::Free(why) };
    }

    /// `Owner::finish` or `Owner::fail`.
    pub fn say(&mut self, rules: Rules, life: u8) -> bool {
        let Phase::Free(why) = self.worker(life).phase else { return false };
        let (fails, reason) = match why {
            Why::Asked | Why::GivenUp => (false, Failure::NONE),
            Why::Unconfirmed | Why::Expired => (false, slot::lost()),
            Why::Again | Why::Lost => (true, slot::lost()),
        };
        self.end_block(rules, life, |block, generation, worker| {
            // Refused where the block is not its own any more.
            let _ = if fails {
                block.fail(generation, worker, reason)
            } else {
                block.finish(generation, worker, reason)
            };
        });
        self.note_end(rules, Ended::Told);
        self.worker_mut(life).phase = Phase::Said;
        true
    }

    /// The end of the process.  The exit callback runs where the process has not come to forget its
    /// block, which it does only after it has said how that ended.
    pub fn exit(&mut self, rules: Rules, life: u8) -> bool {
        if !matches!(self.worker(life).phase, Phase::Said | Phase::Exiting) {
            return false;
        }
        self.end_block(rules, life, |block, generation, worker| {
            let _ = block.fail(generation, worker, slot::lost());
        });
        self.note_end(rules, Ended::Died);
        self.worker_is_gone(life);
        true
    }

    /// Ends a block with the token and under the lock, or, with the rule out, whatever block is there.
    fn end_block(
        &mut self,
        rules: Rules,
        life: u8,
        end: impl FnOnce(&mut Block, u64, crate::block::state::ProcessId),
    ) {
        let generation = self.lives[usize::from(life)].generation.into();
        let has_rule = rules.has(Rule::OwnerUnderTheSameLock);
        self.slot.act(|block| {
            if has_rule {
                end(block, generation, slot::worker(life));
            } else if block.state != State::Inactive {
                let owner = *block.worker.get_or_insert(slot::worker(life));
                end(block, block.generation, owner);
            }
        });
    }

    /// FATAL, wherever it is.
    pub fn worker_ends(&mut self, life: u8) -> bool {
        match self.worker(life).phase {
            Phase::Gone | Phase::Registered | Phase::Said | Phase::Exiting => return false,
            Phase::Adopted
            | Phase::Connected
            | Phase::ListLocked
            | Phase::Locking
            | Phase::Flushing
            | Phase::Through
            | Phase::Holding
            | Phase::Extending
            | Phase::LettingGo(_)
            | Phase::Free(_) => {}
        }
        let Worker { acquire_in, .. } = *self.worker(life);
        *self.worker_mut(life) = Worker { phase: Phase::Exiting, acquire_in, ..Worker::GONE };
        true
    }

    /// Gone without a word, or never started.
    pub fn worker_vanishes(&mut self, life: u8) -> bool {
        let is_there = self.worker(life).phase != Phase::Gone;
        if is_there {
            self.worker_is_gone(life);
        }
        is_there
    }

    /// What the kernel does at a process' end.
    pub fn worker_is_gone(&mut self, life: u8) {
        for party in self.parties.iter_mut().filter(|party| party.life == life) {
            party.close();
        }
        *self.worker_mut(life) = Worker::GONE;
    }
}
