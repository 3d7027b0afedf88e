//! The cluster while a split goes on, and every step that anybody in it can take.

pub use super::parts::{Driver, Hold, Kind, Place, Role, TwoPhase, Writer};
use super::rules::{Rule, Rules};
use crate::clone::state::{Step, Way};

/// Most nodes that have the catalog: the coordinator, the source, another worker.
const MOST_NODES: usize = 3;
const COORDINATOR: usize = 0;
/// The node that the shard is on.
pub const SOURCE: usize = 1;

/// How large a cluster is explored, and what may happen in it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes that have the catalog.
    pub nodes: usize,
    /// Who writes: once each.
    pub writers: &'static [Kind],
    /// Whether the source coordinates a two-phase commit.
    pub two_phase: bool,
    /// How often the driver lets go and tries again.
    pub retries: u8,
    /// How much goes wrong.
    pub faults: u8,
    /// Whether a standby of the coordinator that takes over may not know of its last steps.
    pub lags: bool,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Who drives.
    pub driver: Driver,
    /// What the registry says.
    pub step: Step,
    /// What the split holds on each node.
    pub holds: [Hold; MOST_NODES],
    /// And of the shard's table at the source.
    pub seal: Hold,
    /// What is in the old table, by writer.
    pub at_source: u8,
    /// And in the clone's.
    pub at_clone: u8,
    /// Up to where the clone has to replay.
    target: Option<u8>,
    /// What the clone is.
    pub clone: Role,
    /// Whether it takes clients.
    gate_open: bool,
    /// Whether its daemon recovers.
    pub harmless: bool,
    /// Those who write.
    pub writers: Vec<Writer>,
    /// A two-phase commit of the source.
    pub two_phase: TwoPhase,
    /// Whether its record is at the source, and so whether it is decided.
    pub decided: bool,
    /// Whether the clone has it, too.
    pub record_at_clone: bool,
    /// Whether the old table is gone.
    dropped: bool,
    retries: u8,
    /// What may still go wrong.
    pub faults: u8,
    /// Whether a driver came back.
    pub resumed: bool,
}

/// A step of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A writer goes on.
    Write(usize),
    /// The two-phase commit goes on.
    TwoPhase,
    /// The clone replays what its source has written.
    Replay,
    /// The clone's daemon recovers.
    Recover,
    /// The driver goes on: with a node, if it has to do with one.
    Drive(usize),
    /// The driver lets go, and tries again.
    LetGo,
    /// The call is given up.
    GiveUp,
    /// A node crashes, and is there again.
    Crash(usize),
    /// The same of the clone.
    CloneCrash,
    /// The driver is gone.
    DriverDies,
    /// It comes back.
    Resume,
    /// A standby of the coordinator takes over that has not heard of the last steps.
    Forget,
}

impl World {
    /// Before anything.
    pub fn new(size: &Size) -> Self {
        Self {
            driver: Driver::Drives,
            step: Step::Registered,
            holds: [Hold::None; MOST_NODES],
            seal: Hold::None,
            at_source: 0,
            at_clone: 0,
            target: None,
            clone: Role::Standby,
            gate_open: true,
            harmless: false,
            writers: vec![Writer::Idle; size.writers.len()],
            two_phase: TwoPhase::Idle,
            decided: false,
            record_at_clone: false,
            dropped: false,
            retries: size.retries,
            faults: size.faults,
            resumed: false,
        }
    }

    /// What can happen next.
    pub fn actions(&self, size: &Size, rules: Rules) -> Vec<Action> {
        let mut all: Vec<Action> = (0..size.writers.len()).map(Action::Write).collect();
        all.extend((0..size.nodes).flat_map(|node| [Action::Drive(node), Action::Crash(node)]));
        all.extend([
            Action::TwoPhase,
            Action::Replay,
            Action::Recover,
            Action::LetGo,
            Action::GiveUp,
            Action::CloneCrash,
            Action::DriverDies,
            Action::Resume,
            Action::Forget,
        ]);
        all.retain(|action| self.after(size, rules, *action).is_some());
        all
    }

    /// What comes of it; none where it cannot be.
    pub fn after(&self, size: &Size, rules: Rules, action: Action) -> Option<Self> {
        let mut next = self.clone();
        let done = match action {
            Action::Write(writer) => next.write(rules, size.writers[writer], writer),
            Action::TwoPhase => size.two_phase && next.go_on_in_two_phases(),
            Action::Replay => next.replay(),
            Action::Recover => next.recover(),
            Action::Drive(node) => next.drive(size, rules, node),
            Action::LetGo => next.let_go_and_retry(),
            Action::GiveUp => next.give_up(),
            Action::Crash(node) => next.spend_fault() && next.crash(size, node),
            Action::CloneCrash => next.spend_fault() && next.crash_clone(size),
            Action::DriverDies => next.spend_fault() && next.lose_driver(),
            Action::Resume => next.resume(),
            Action::Forget => size.lags && next.spend_fault() && next.forget(),
        };
        (done && next != *self).then_some(next)
    }

    fn spend_fault(&mut self) -> bool {
        let left = self.faults > 0;
        self.faults = self.faults.saturating_sub(1);
        left
    }

    // Writers.

    fn write(&mut self, rules: Rules, kind: Kind, writer: usize) -> bool {
        let bit = 1 << writer;
        let next = match (self.writers[writer], kind) {
            (Writer::Idle, Kind::At(node) | Kind::Kept(node) | Kind::InDoubt(node))
                if self.holds[node].is_locked() =>
            {
                return false;
            }
            (Writer::Idle, Kind::Ddl)
                if rules.has(Rule::NodesLocked) && self.holds[COORDINATOR].is_locked() =>
            {
                return false;
            }
            // It has its connection from before, and finds it again.
            (Writer::Idle, Kind::Kept(_)) if !rules.has(Rule::NewPlacementIds) => {
                Writer::Planned(Place::Source)
            }
            (
                Writer::Idle,
                Kind::At(node) | Kind::Lockless(node) | Kind::Kept(node) | Kind::InDoubt(node),
            ) => Writer::Planned(self.place_seen_at(node)),
            (Writer::Idle, Kind::Ddl) => Writer::Planned(self.place_seen_at(COORDINATOR)),
            // What it is told is its word for it: it is the source, and the shard is here.
            (Writer::Idle, Kind::AtClone) => {
                if self.clone == Role::Standby || !self.gate_open {
                    return false;
                }
                Writer::Planned(Place::Clone)
            }
            // It is not for the shard's table.
            (Writer::Planned(Place::Source), Kind::Ddl) => Writer::Written(Place::Source),
            (Writer::Planned(Place::Source), _) if self.seal.is_locked() => return false,
            (Writer::Planned(Place::Source), _) if self.seal == Hold::Committed || self.dropped => {
                Writer::Failed
            }
            (Writer::Planned(Place::Clone), _) if !self.gate_open => return false,
            (Writer::Planned(place), _) => Writer::Written(place),
            // Prepared there, and decided: that it is not committed yet, nobody waits for.
            (Writer::Written(Place::Source), Kind::InDoubt(_)) => {
                Writer::Acknowledged(Place::Source)
            }
            (Writer::Acknowledged(Place::Source), Kind::InDoubt(_))
                if self.at_source & bit == 0 =>
            {
                self.at_source |= bit;
                return true;
            }
            (Writer::Written(place), _) => {
                match place {
                    // What all nodes get the new one gets as soon as it is one of them.
                    Place::Clone if kind == Kind::Ddl => {
                        self.at_source |= bit;
                        self.at_clone |= bit;
                    }
                    Place::Source => self.at_source |= bit,
                    Place::Clone => self.at_clone |= bit,
                }
                Writer::Acknowledged(place)
            }
            (Writer::Acknowledged(_) | Writer::Failed, _) => return false,
        };
        self.writers[writer] = next;
        true
    }

    /// Where a node's catalog says that the shard is.
    pub fn place_seen_at(&self, node: usize) -> Place {
        if self.holds[node] == Hold::Committed { Place::Clone } else { Place::Source }
    }

    /// Whether somebody at a node is between planning and the end under its lock.
    fn is_used(&self, size: &Size, rules: Rules, node: usize) -> bool {
        self.writers.iter().zip(size.writers).any(|(writer, kind)| {
            let is_under_it = match *kind {
                Kind::At(own) | Kind::Kept(own) | Kind::InDoubt(own) => own == node,
                Kind::Ddl => node == COORDINATOR && rules.has(Rule::NodesLocked),
                Kind::Lockless(_) | Kind::AtClone => false,
            };
            is_under_it && matches!(writer, Writer::Planned(_) | Writer::Written(_))
        })
    }

    /// Whether something holds the table at the source: in flight, or prepared.
    fn table_is_used(&self, size: &Size, rules: Rules) -> bool {
        self.writers.iter().zip(size.writers).enumerate().any(|(index, (writer, kind))| {
            let is_prepared = matches!(kind, Kind::InDoubt(_))
                && *writer == Writer::Acknowledged(Place::Source)
                && self.at_source & (1 << index) == 0;
            let is_for_it = *kind != Kind::Ddl && *writer == Writer::Written(Place::Source);
            is_for_it || is_prepared && rules.has(Rule::PreparedDrained)
        })
    }

    fn go_on_in_two_phases(&mut self) -> bool {
        match (self.two_phase, self.decided) {
            (TwoPhase::Idle, _) => self.two_phase = TwoPhase::Prepared,
            (TwoPhase::Prepared, false) => self.decided = true,
            (TwoPhase::Prepared, true) => self.two_phase = TwoPhase::Committed,
            (TwoPhase::Committed | TwoPhase::RolledBack, _) => return false,
        }
        true
    }

    /// What is prepared under the source's name and decided nowhere that the daemon sees, it rolls back.
    fn recover(&mut self) -> bool {
        let does = self.clone == Role::Promoted && !self.harmless;
        let undecided = self.two_phase == TwoPhase::Prepared && !self.record_at_clone;
        if does && undecided {
            self.two_phase = TwoPhase::RolledBack;
        }
        does && undecided
    }

    fn replay(&mut self) -> bool {
        if self.clone != Role::Standby {
            return false;
        }
        self.at_clone |= self.at_source;
        self.record_at_clone |= self.decided;
        true
    }

    // The driver.

    fn drive(&mut self, size: &Size, rules: Rules, node: usize) -> bool {
        match self.driver {
            Driver::Gone => false,
            Driver::Drives if self.step < Step::Promoting => self.start(size, rules, node),
            Driver::Settles if self.step.way() == Way::Start => self.rest(),
            Driver::Settles if self.step.way() == Way::Back => self.back(size, rules, node),
            Driver::Drives | Driver::Settles => self.forward(size, rules, node),
        }
    }

    /// Up to the promotion.
    fn start(&mut self, size: &Size, rules: Rules, node: usize) -> bool {
        // Whoever wants to go on with something that has no node says so with the first.
        let first = node == COORDINATOR;
        let on = |node: usize| rules.has(Rule::EveryNode) || node == COORDINATOR;
        let wanted = if rules.has(Rule::PreparedFirst) { Hold::Prepared } else { Hold::Open };
        let held = |world: &Self, as_what: Hold| {
            (0..size.nodes).filter(|node| on(*node)).all(|node| world.holds[node] == as_what)
        };
        match self.step {
            Step::Registered if first => self.step = Step::Checked,
            Step::Checked if first => self.step = Step::Near,
            Step::Near if first && (self.gate_open || !self.harmless) => {
                self.gate_open = !rules.has(Rule::GateClosed);
                self.harmless = rules.has(Rule::Harmless);
                if !rules.has(Rule::TargetUnderLocks) {
                    self.target = Some(self.at_source);
                }
                if self.gate_open || !self.harmless {
                    self.step = Step::Prepared;
                }
            }
            Step::Near if first => self.step = Step::Prepared,
            Step::Prepared if on(node) && self.holds[node] == Hold::None => {
                if self.is_used(size, rules, node) {
                    return false;
                }
                self.holds[node] = Hold::Open;
            }
            // Behind what is in flight there.
            Step::Prepared if first && rules.has(Rule::Seal) && self.seal == Hold::None => {
                let in_flight = self.table_is_used(size, rules);
                let all = (0..size.nodes).all(|node| !on(node) || self.holds[node].is_locked());
                if in_flight || !all {
                    return false;
                }
                self.seal = Hold::Open;
            }
            Step::Prepared if !self.is_sealed(rules) => return false,
            Step::Prepared if on(node) && self.holds[node] != wanted => self.holds[node] = wanted,
            Step::Prepared if first && held(self, wanted) => {
                if rules.has(Rule::Seal) {
                    self.seal = wanted;
                }
                self.step = Step::CaughtUp;
            }
            Step::CaughtUp if first => match self.target {
                None => self.target = Some(self.at_source),
                Some(target) if self.at_clone & target != target => return false,
                Some(_) if rules.has(Rule::WrittenFirst) => self.step = Step::Promoting,
                Some(_) if self.clone == Role::Standby => self.clone = Role::Promoted,
                Some(_) => self.step = Step::Promoting,
            },
            _ => return false,
        }
        true
    }

    fn is_sealed(&self, rules: Rules) -> bool {
        !rules.has(Rule::Seal) || self.seal.is_locked()
    }

    /// From the promotion on.
    fn forward(&mut self, size: &Size, rules: Rules, node: usize) -> bool {
        let first = node == COORDINATOR;
        match self.step {
            Step::Promoting if first => {
                self.clone = self.clone.max(Role::Promoted);
                self.step = Step::Promoted;
            }
            Step::Promoted
                if first && rules.has(Rule::IdentityFirst) && self.clone == Role::Promoted =>
            {
                self.clone = Role::Itself;
            }
            Step::Promoted if first => self.step = Step::Committing,
            Step::Committing if self.holds[node] != Hold::Committed => {
                self.gate_open = true;
                self.holds[node] = Hold::Committed;
            }
            Step::Committing if first && self.clone == Role::Promoted => self.clone = Role::Itself,
            Step::Committing if first => {
                if (0..size.nodes).any(|node| self.holds[node] != Hold::Committed) {
                    return false;
                }
                self.harmless = false;
                self.seal = match self.seal {
                    Hold::Open | Hold::Prepared if rules.has(Rule::SealStays) => Hold::Committed,
                    Hold::Open | Hold::Prepared => Hold::None,
                    other => other,
                };
                self.step = Step::Released;
            }
            Step::Released if first => {
                self.dropped = true;
                self.step = Step::Cleaned;
            }
            _ => return false,
        }
        true
    }

    /// What was done is undone.
    fn back(&mut self, size: &Size, rules: Rules, node: usize) -> bool {
        let committed = (0..size.nodes).any(|node| self.holds[node] == Hold::Committed);
        if committed && rules.has(Rule::LooksAhead) {
            // Its gate is opened when there is nothing left to do there.
            self.step = if self.gate_open { Step::Committing } else { Step::Promoting };
            return true;
        }
        if self.holds[node] != Hold::None {
            self.holds[node] = Hold::None;
            return true;
        }
        if node != COORDINATOR || (0..size.nodes).any(|node| self.holds[node] != Hold::None) {
            return false;
        }
        self.seal = Hold::None;
        if self.clone == Role::Standby || !rules.has(Rule::PromotedStaysClosed) {
            self.gate_open = true;
            self.harmless = false;
        }
        self.rest()
    }

    fn rest(&mut self) -> bool {
        self.target = None;
        let moved = self.step != Step::Registered;
        self.step = Step::Registered;
        moved
    }

    fn let_go_and_retry(&mut self) -> bool {
        let holds = self.driver == Driver::Drives && self.step == Step::Prepared;
        if !holds || self.retries == 0 {
            return false;
        }
        self.retries -= 1;
        self.holds = [Hold::None; MOST_NODES];
        self.seal = Hold::None;
        true
    }

    fn give_up(&mut self) -> bool {
        let can = self.driver == Driver::Drives
            && self.step > Step::Registered
            && self.step < Step::Promoting;
        if can {
            self.driver = Driver::Settles;
        }
        can
    }

    // What goes wrong.

    /// Open transactions are gone there; whoever has lost one of the driver's knows, and gives up or settles.
    fn crash(&mut self, size: &Size, node: usize) -> bool {
        for (writer, kind) in self.writers.iter_mut().zip(size.writers) {
            let is_here = match *kind {
                Kind::At(own) | Kind::Lockless(own) | Kind::Kept(own) | Kind::InDoubt(own) => {
                    own == node
                }
                Kind::Ddl => node == COORDINATOR,
                Kind::AtClone => false,
            };
            let is_open = matches!(writer, Writer::Planned(_) | Writer::Written(_));
            let wrote_here = node == SOURCE && *writer == Writer::Written(Place::Source);
            if is_here && is_open || wrote_here {
                *writer = Writer::Failed;
            }
        }
        if self.holds[node] == Hold::Open {
            self.holds[node] = Hold::None;
        }
        if node == SOURCE && self.seal == Hold::Open {
            self.seal = Hold::None;
        }
        // The driver is a process of the coordinator; elsewhere it has lost a session.
        if node == COORDINATOR {
            self.lose_driver();
        } else if self.driver == Driver::Drives {
            self.driver = Driver::Settles;
        }
        true
    }

    fn crash_clone(&mut self, size: &Size) -> bool {
        for (writer, kind) in self.writers.iter_mut().zip(size.writers) {
            let is_here = *kind == Kind::AtClone && matches!(writer, Writer::Planned(_));
            if *writer == Writer::Written(Place::Clone) || is_here {
                *writer = Writer::Failed;
            }
        }
        if self.driver == Driver::Drives && self.step > Step::Checked {
            self.driver = Driver::Settles;
        }
        true
    }

    /// With it go the transactions that it has open.
    fn lose_driver(&mut self) -> bool {
        if self.driver == Driver::Gone {
            return false;
        }
        self.driver = Driver::Gone;
        for hold in self.holds.iter_mut().chain(std::iter::once(&mut self.seal)) {
            if *hold == Hold::Open {
                *hold = Hold::None;
            }
        }
        true
    }

    fn resume(&mut self) -> bool {
        let gone = self.driver == Driver::Gone;
        if gone {
            self.driver = Driver::Settles;
            self.resumed = true;
        }
        gone
    }

    /// What it has forgotten is what was written down last; it knows of what is prepared.
    fn forget(&mut self) -> bool {
        if !matches!(self.step, Step::Promoting | Step::Promoted | Step::Committing) {
            return false;
        }
        // What it has committed itself it would have to have forgotten, too.
        if self.holds[COORDINATOR] == Hold::Committed {
            return false;
        }
        self.step = Step::CaughtUp;
        self.lose_driver();
        true
    }

    /// Whether nothing of a split is left anywhere but what it was for.
    pub fn rests(&self, size: &Size) -> bool {
        let all = |hold: Hold| (0..size.nodes).all(|node| self.holds[node] == hold);
        match self.step {
            Step::Registered => {
                // A clone that was promoted, and of which the registry has forgotten it, stays closed.
                (self.clone == Role::Standby || size.lags)
                    && self.gate_open == (self.clone == Role::Standby)
                    && all(Hold::None)
                    && self.seal == Hold::None
            }
            Step::Cleaned => {
                self.clone == Role::Itself && all(Hold::Committed) && !self.seal.is_locked()
            }
            _ => false,
        }
    }
}
