//! Who writes: commits over two nodes, writes to one shard, and commands that commit on their way.

use super::nodes::Party;
use super::rules::Rules;
use super::world::{Size, World};
use crate::fence::steps::Barrier::{self, ClientGate, InternalGate};

/// What a writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client's two-phase commit.
    TwoPhase,
    /// A client's write to one shard, on another node than its own.
    OneShard,
    /// A two-phase commit of a client that says of itself that it is a session between nodes.
    Pretender,
}

/// One writer: the node that it begins on, and the other one that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub home: u8,
    pub away: u8,
    pub kind: Kind,
}

impl Route {
    /// A client's two-phase commit.
    pub const fn two_phase(home: u8, away: u8) -> Self {
        Self { home, away, kind: Kind::TwoPhase }
    }

    /// Whether it prepares.
    pub fn is_two_phase(self) -> bool {
        self.kind != Kind::OneShard
    }

    /// The gate that it passes on its own node.
    fn gate(self) -> Barrier {
        match self.kind {
            Kind::TwoPhase | Kind::OneShard => ClientGate,
            Kind::Pretender => InternalGate,
        }
    }
}

/// What the other node has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Away {
    Nothing,
    /// An open transaction, which has passed the internal gate.
    Open,
    /// This one keeps the gate.
    Prepared,
    Committed,
    RolledBack,
}

/// One step of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Pass the own node's gate.
    Pass,
    /// Write on the other node, past the internal gate there; the commit record's lock, if there is one.
    WriteAway,
    Prepare,
    Commit,
    CommitPrepared,
    /// Commit on the other node in one phase.
    CommitAway,
}

/// One writer, with one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its next step.
    at: u8,
    pub alive: bool,
    /// Its own node has the commit, and with it the commit record.
    pub committed: bool,
    pub away: Away,
    /// A switch ended it in the middle.
    pub ended: bool,
}

impl Writer {
    pub const NEW: Self =
        Self { at: 0, alive: true, committed: false, away: Away::Nothing, ended: false };

    /// What a crash has left in doubt.
    pub const fn left(committed: bool) -> Self {
        let at = if committed { 4 } else { 3 };
        Self { at, alive: false, committed, away: Away::Prepared, ended: false }
    }

    fn next(&self, kind: Kind) -> Option<Step> {
        use Step::*;
        let steps: &[Step] = match kind {
            Kind::TwoPhase | Kind::Pretender => &[Pass, WriteAway, Prepare, Commit, CommitPrepared],
            Kind::OneShard => &[Pass, WriteAway, CommitAway],
        };
        steps.get(usize::from(self.at)).copied()
    }

    /// Whether it is in the middle.
    pub fn is_under_way(&self, kind: Kind) -> bool {
        self.alive && self.at > 0 && self.next(kind).is_some()
    }
}

/// A command that commits on its way, alone on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    NotYet,
    /// In its first transaction, past the clients' gate.
    First,
    /// Between two transactions: it holds no gate.
    Between,
    /// In its last one.
    Last,
    Done,
    /// Gone with its node.
    Crashed,
    /// Refused or ended by a switch, half done.
    Cut,
}

impl World {
    /// Who is past the barrier on the node, by index; a command has the index after all writers'.
    pub fn who_passed(
        &self,
        size: &Size,
        node: u8,
        barrier: Barrier,
    ) -> impl Iterator<Item = usize> {
        let is_past = move |(index, route): (usize, &Route)| {
            let writer = &self.writers[index];
            let is_here = route.gate() == barrier && route.home == node;
            let is_there = barrier == InternalGate && route.away == node;
            (is_here && writer.is_under_way(route.kind)
                || is_there && matches!(writer.away, Away::Open | Away::Prepared))
            .then_some(index)
        };
        let commands = size.command_on == Some(node)
            && barrier == ClientGate
            && matches!(self.command, Command::First | Command::Last);
        let writers = size.writers.iter().enumerate().filter_map(is_past);
        writers.chain(commands.then_some(size.writers.len()))
    }

    /// Whether a command on the node is in the middle of its steps.
    pub fn is_in_steps(&self, size: &Size, node: u8) -> bool {
        size.command_on == Some(node)
            && matches!(self.command, Command::First | Command::Between | Command::Last)
    }

    /// Whether anything is prepared on the node.
    pub fn has_prepared(&self, size: &Size, node: u8) -> bool {
        self.routes(size).any(|(writer, route)| route.away == node && writer.away == Away::Prepared)
    }

    pub fn routes<'a>(&'a self, size: &'a Size) -> impl Iterator<Item = (&'a Writer, &'a Route)> {
        self.writers.iter().zip(size.writers)
    }

    /// Whether an attempt waits for a writer who waits for that attempt.
    pub fn waits_in_a_circle(&self, size: &Size, rules: Rules) -> bool {
        self.routes(size).any(|(writer, route)| {
            let waits = matches!(writer.next(route.kind), Some(Step::WriteAway));
            let is_stopped = |party: usize| {
                let session = &self.parties[party].sessions[usize::from(route.away)];
                session.closed.has(InternalGate)
            };
            writer.is_under_way(route.kind)
                && waits
                && (0..self.parties.len())
                    .any(|party| is_stopped(party) && self.is_waited_for(rules, party, route))
        })
    }

    /// Whether the attempt waits for the writer to leave the gate of its own node.
    fn is_waited_for(&self, rules: Rules, party: usize, route: &Route) -> bool {
        let session = &self.parties[party].sessions[usize::from(route.home)];
        session.is_waiting() && session.next_gate(rules) == Some(route.gate())
    }

    /// Whether an attempt waits for what is prepared and nobody is going to finish by himself.
    pub fn waits_for_what_is_left(&self, size: &Size, rules: Rules) -> bool {
        self.routes(size).any(|(writer, route)| {
            let waits = |party: &Party| {
                let session = &party.sessions[usize::from(route.away)];
                session.is_waiting() && session.next_gate(rules) == Some(InternalGate)
            };
            !writer.alive && writer.away == Away::Prepared && self.parties.iter().any(waits)
        })
    }

    /// The writer's next step.
    pub fn write(&mut self, size: &Size, index: u8) -> bool {
        let route = size.writers[usize::from(index)];
        if !self.listed.has(route.home) || !self.listed.has(route.away) {
            return false;
        }
        let is_let_in = self.lets_in(route.home, route.gate());
        let is_let_in_away = self.lets_in(route.away, InternalGate);
        let away_refuses = self.refuses(route.away);
        let is_away_read_only = self.read_only.has(route.away);
        let writer = &mut self.writers[usize::from(index)];
        let Some(step) = writer.next(route.kind).filter(|_| writer.alive) else { return false };
        match step {
            Step::Pass if !is_let_in => return false,
            Step::Pass => {}
            // Refused: it aborts, before anything is prepared anywhere.
            Step::WriteAway if away_refuses => writer.alive = false,
            Step::WriteAway if !is_let_in_away => return false,
            Step::WriteAway => writer.away = Away::Open,
            Step::Prepare => writer.away = Away::Prepared,
            Step::Commit => writer.committed = true,
            // Refused; it stays as it is.
            Step::CommitPrepared if is_away_read_only => writer.alive = false,
            Step::CommitPrepared | Step::CommitAway => writer.away = Away::Committed,
        }
        writer.at += 1;
        true
    }

    /// What a writer had sent before it ended arrives only now, or its session on the other node ends.
    pub fn late(&mut self, size: &Size, index: u8, arrives: bool) -> bool {
        let route = size.writers[usize::from(index)];
        let is_read_only = self.read_only.has(route.away);
        let writer = &mut self.writers[usize::from(index)];
        if writer.alive {
            return false;
        }
        writer.away = match (writer.next(route.kind), writer.away) {
            (_, Away::Open) if !arrives => Away::Nothing,
            (Some(Step::Prepare), Away::Open) if arrives => Away::Prepared,
            (Some(Step::CommitAway), Away::Open) if arrives => Away::Committed,
            (Some(Step::CommitPrepared), Away::Prepared) if arrives && !is_read_only => {
                Away::Committed
            }
            _ => return false,
        };
        writer.at += u8::from(arrives);
        true
    }

    /// A writer's session ends.
    pub fn writer_ends(&mut self, size: &Size, index: u8) -> bool {
        let kind = size.writers[usize::from(index)].kind;
        let writer = &mut self.writers[usize::from(index)];
        let is_under_way = writer.is_under_way(kind);
        if is_under_way {
            writer.alive = false;
        }
        is_under_way
    }

    /// The recovery of a node: of all that it began and nobody is going to finish.  It is itself a write, from
    /// a session between nodes, and waits for those whose commit is under way.
    pub fn recover(&mut self, size: &Size, home: u8) {
        let is_own = |route: &Route| route.home == home && route.is_two_phase();
        let is_busy = self.routes(size).any(|(writer, route)| {
            is_own(route) && writer.at > 1 && writer.is_under_way(route.kind)
        });
        if is_busy || !self.lets_in(home, InternalGate) {
            return;
        }
        for (writer, route) in self.writers.iter_mut().zip(size.writers) {
            if is_own(route) && writer.away == Away::Prepared && !self.read_only.has(route.away) {
                writer.away = if writer.committed { Away::Committed } else { Away::RolledBack };
            }
        }
    }

    /// A node that is being switched ends all that is past a gate of it, and all that commits on its way.
    pub fn end_writers(&mut self, size: &Size, node: u8) {
        for (writer, route) in self.writers.iter_mut().zip(size.writers) {
            let is_here = route.home == node && writer.is_under_way(route.kind);
            let is_there = route.away == node && writer.away == Away::Open;
            if is_there {
                writer.away = Away::Nothing;
            }
            if is_here || is_there {
                writer.alive = false;
                writer.ended = true;
            }
        }
        if self.is_in_steps(size, node) {
            self.command = Command::Cut;
        }
    }

    /// The next step of the command in steps.
    pub fn command(&mut self, size: &Size) -> bool {
        let Some(node) = size.command_on else { return false };
        let is_let_in = self.lets_in(node, ClientGate);
        self.command = match self.command {
            Command::NotYet if is_let_in => Command::First,
            Command::First => Command::Between,
            Command::Between if self.refuses(node) => Command::Cut,
            Command::Between if is_let_in => Command::Last,
            Command::Last => Command::Done,
            _ => return false,
        };
        true
    }

    /// A node's own sessions end with it; what it has prepared stays.
    pub fn writers_crash(&mut self, size: &Size, node: u8) {
        for (writer, route) in self.writers.iter_mut().zip(size.writers) {
            let is_here = route.home == node && writer.is_under_way(route.kind);
            let is_there = route.away == node && writer.away == Away::Open;
            if is_there {
                writer.away = Away::Nothing;
            }
            if is_here || is_there {
                writer.alive = false;
            }
        }
        if self.is_in_steps(size, node) {
            self.command = Command::Crashed;
        }
    }
}
