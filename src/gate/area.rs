//! The gate's shared memory: the node's state, counters, and a mark per process.  All of it is atomics,
//! so nobody takes a lock to read the state.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::reserved_file::Token;
use super::state_file::Stay;
use crate::pg::exit::Undo;
use crate::pg::shmem::{PerProcess, SharedArea, shareable};
use crate::pg::{ident, interrupts, process, wal};

/// What the node does with writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NodeState {
    /// They pass.
    ReadWrite = 0,
    /// They are refused, and those that had passed before are still being waited for.
    Closing = 1,
    /// They are refused, and none is left.
    ReadOnly = 2,
    /// They are refused but for the clone split for which the node is reserved.
    Reserved = 3,
}

/// In place of a state: read-only, unless the node turns out to have replayed WAL of another server.
const STAYING: u32 = 4;

impl NodeState {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadWrite => "read-write",
            Self::Closing => "closing",
            Self::ReadOnly => "read-only",
            Self::Reserved => "reserved",
        }
    }
}

/// What a process does that the gate's lock does not cover; see [`GateArea::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Activity {
    /// A statement that writes and may commit several times on its way.
    Statement = 1,
    /// COMMIT PREPARED or ROLLBACK PREPARED.
    EndingPrepared = 2,
    /// A process that writes without statements, for all of its life.
    Process = 4,
    /// A statement that would leave something broken behind if it were ended in its middle.
    MustFinish = 8,
    /// An apply worker, likewise; it may have to end what is prepared.
    Apply = 32,
    /// A statement that commits on its way and, half done, leaves nodes that do not agree.
    InSteps = 16,
}

/// The node's part.  On lines of the processor's cache that only switches and refusals write to, as every
/// statement reads the state.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Node {
    state: AtomicU32,
    lsn: AtomicU64,
    since: AtomicI64,
    with_cluster: AtomicU32,
    counters: Counters,
    stay: SharedStay,
    reservation: Reservation,
}

/// Set by the postmaster alone; timeline 0: there is none.
#[repr(C)]
#[derive(Default)]
struct SharedStay {
    timeline: AtomicU32,
    own_end: AtomicU64,
}

/// For what the node is reserved.  Changed by the one process whose pid is the owner, and before the state.
#[repr(C)]
#[derive(Default)]
struct Reservation {
    owner: AtomicI32,
    /// Counted up with each, so that no session of an earlier one is taken for one of this.
    number: AtomicU32,
    clone: AtomicI32,
    token: [AtomicU64; Token::WORDS],
}

/// Counted since the server's start.
#[repr(C, align(128))]
#[derive(Default)]
pub struct Counters {
    /// Writes refused because the node was read-only or reserved.
    pub refused: AtomicU64,
    /// Transactions that found a gate closed and waited.
    pub waited: AtomicU64,
    /// Sessions ended by switches to read-only.
    pub terminated: AtomicU64,
    /// Commits with a transaction number that had not passed a gate: must stay 0.
    pub ungated: AtomicU64,
}

/// A process' part.
#[repr(C)]
#[derive(Default)]
struct Slot {
    /// Bits of [`Activity`].
    activities: AtomicU32,
    pid: AtomicI32,
    /// The pid of the process that a switch to read-only has told to end.
    victim: AtomicI32,
    /// The last transaction that has passed a gate: the process' pid, and the number among its own.
    passed: AtomicU64,
    /// The pid of the process if it is a background worker of another extension.
    worker: AtomicI32,
}

/// A process and a number among its transactions in one word.
fn transaction(pid: i32, local_xid: u32) -> u64 {
    u64::from(pid.cast_unsigned()) << 32 | u64::from(local_xid)
}

shareable! { Node, Slot }

/// Node and processes.
pub struct GateArea(PerProcess<Node, Slot>);

/// The one.
pub static AREA: GateArea = GateArea(PerProcess::new(c"citus_fence gate"));

/// When this process has ended its transaction, and before its place in the array is given up.
static LEFT: Undo<()> = Undo::at_the_very_end(|()| AREA.forget_me());

impl SharedArea for GateArea {
    fn request(&self) {
        self.0.request();
    }

    fn startup(&self) {
        // An upgrade of the server must be able to write, whatever the copied directory says.
        if !process::is_binary_upgrade() {
            self.0.startup();
        }
    }
}

impl GateArea {
    /// The node's part; `None` where the library was not preloaded, or must not interfere.
    pub fn node(&self) -> Option<&'static Node> {
        self.0.server()
    }

    fn slot(&self, place: i32) -> Option<&'static Slot> {
        self.0.process(place)
    }

    fn my_slot(&self) -> Option<&'static Slot> {
        self.slot(process::me().place)
    }

    fn forget_me(&self) {
        if let Some(slot) = self.my_slot() {
            slot.activities.store(0, Ordering::SeqCst);
            slot.victim.store(0, Ordering::SeqCst);
        }
    }

    /// Lets writers pass again, and wakes the processes that wait for it.
    pub fn reopen(&self) {
        if let Some(node) = self.node() {
            node.set_state(NodeState::ReadWrite);
            self.0.wake();
        }
    }

    /// The node is not reserved any more: lets writers pass, and wakes who waits for it.  Where somebody is
    /// already switching the node, his state stays.
    pub fn end_reservation(&self) {
        if let Some(node) = self.node() {
            let (from, to) = (NodeState::Reserved as u32, NodeState::ReadWrite as u32);
            let _ = node.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
            self.0.wake();
        }
    }

    /// Sleeps until the node lets writers pass.  Serves interrupts, and a termination whatever the process has made
    /// of that signal; when the server stops, the process ends.
    pub fn wait_for_reopening(&self, node: &Node) {
        let _served = interrupts::TerminationServed::begin();
        self.0.sleep_until(|| node.state() == NodeState::ReadWrite, interrupts::end_with_server);
    }

    /// Processes that are marked: pid and place.
    pub fn marked(&self) -> Vec<MarkedProcess> {
        (0..self.0.places())
            .filter_map(|place| {
                let slot = self.slot(place)?;
                let marked = slot.activities.load(Ordering::SeqCst) != 0;
                marked.then(|| MarkedProcess { place, pid: slot.pid.load(Ordering::SeqCst) })
            })
            .collect()
    }

    /// Processes that are in the middle of a statement that commits on its way.
    pub fn in_steps(&self) -> Vec<MarkedProcess> {
        let is_in_steps = |process: &MarkedProcess| {
            self.slot(process.place).is_some_and(|slot| {
                slot.activities.load(Ordering::SeqCst) & Activity::InSteps as u32 != 0
            })
        };
        self.marked().into_iter().filter(is_in_steps).collect()
    }

    /// Whether that process is in a statement that must not be ended.
    pub fn must_finish(&self, place: i32, pid: i32) -> bool {
        self.slot(place).is_some_and(|slot| {
            slot.activities.load(Ordering::SeqCst) & Activity::MustFinish as u32 != 0
                && slot.pid.load(Ordering::SeqCst) == pid
        })
    }

    /// Whether all that process is marked for is ending a prepared transaction.
    pub fn only_ends_prepared(&self, process: MarkedProcess) -> bool {
        self.slot(process.place).is_some_and(|slot| {
            slot.activities.load(Ordering::SeqCst) == Activity::EndingPrepared as u32
        })
    }

    /// Whether that very process is still marked.
    pub fn is_marked(&self, process: MarkedProcess) -> bool {
        self.slot(process.place).is_some_and(|slot| {
            slot.activities.load(Ordering::SeqCst) != 0
                && slot.pid.load(Ordering::SeqCst) == process.pid
        })
    }

    /// Notes that the process at that place is about to be told to end because of the switch.
    pub fn note_victim(&self, place: i32, pid: i32) {
        if let Some(slot) = self.slot(place) {
            slot.victim.store(pid, Ordering::SeqCst);
        }
    }

    /// Notes that this process' transaction has passed a gate, and not only taken its lock.
    pub fn note_passed(&self, local_xid: u32) {
        if let Some(slot) = self.my_slot() {
            slot.passed.store(transaction(process::me().pid, local_xid), Ordering::SeqCst);
        }
    }

    /// Notes that this process is a background worker of another extension.
    pub fn note_worker(&self) {
        if let Some(slot) = self.my_slot() {
            slot.worker.store(process::me().pid, Ordering::SeqCst);
        }
    }

    /// Whether that process is one.
    pub fn is_worker(&self, process: process::ProcessId) -> bool {
        self.slot(process.place)
            .is_some_and(|slot| slot.worker.load(Ordering::SeqCst) == process.pid)
    }

    /// Whether that transaction has.
    pub fn has_passed(&self, process: process::ProcessId, local_xid: u32) -> bool {
        self.slot(process.place).is_some_and(|slot| {
            slot.passed.load(Ordering::SeqCst) == transaction(process.pid, local_xid)
        })
    }

    /// Whether this process was told to end because of a switch to read-only.
    pub fn am_victim(&self) -> bool {
        let me = process::me();
        self.slot(me.place).is_some_and(|slot| slot.victim.load(Ordering::SeqCst) == me.pid)
    }

    /// Whether this process runs a statement that is marked.
    pub fn am_in_statement(&self) -> bool {
        self.my_slot().is_some_and(|slot| {
            slot.activities.load(Ordering::Relaxed) & Activity::Statement as u32 != 0
                && slot.pid.load(Ordering::Relaxed) == process::me().pid
        })
    }

    /// Marks this process: it does something that whoever closes the node has to wait for although no lock
    /// shows it.
    ///
    /// The node's state is to be read *after* that, as it is after the gate's lock is taken; the closer
    /// writes the state before it looks for marks.  All in one total order, so at least one of the two sees
    /// the other.
    pub fn mark(&self, activity: Activity) {
        if let Some(slot) = self.my_slot() {
            set(slot, activity);
        }
    }

    /// Whether that process is an apply worker.
    pub fn applies(&self, process: MarkedProcess) -> bool {
        self.slot(process.place).is_some_and(|slot| {
            slot.activities.load(Ordering::SeqCst) & Activity::Apply as u32 != 0
        })
    }

    /// Takes back the mark of a process.
    pub fn unmark_process(&self) {
        self.unmark(Activity::Process as u32 | Activity::Apply as u32);
    }

    /// Takes back the marks of statements.
    pub fn unmark_statement(&self) {
        self.unmark(
            Activity::Statement as u32
                | Activity::EndingPrepared as u32
                | Activity::MustFinish as u32
                | Activity::InSteps as u32,
        );
    }

    fn unmark(&self, activities: u32) {
        if let Some(slot) = self.my_slot()
            && slot.activities.load(Ordering::Relaxed) & activities != 0
        {
            slot.activities.fetch_and(!activities, Ordering::SeqCst);
        }
    }
}

/// A process that is marked, at the time of the look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkedProcess {
    /// Its place in the server's array.
    pub place: i32,
    /// Its process id.
    pub pid: i32,
}

/// Adds a bit to the slot of this process.  What a process left there that ended without a word does not
/// count.
fn set(slot: &Slot, activity: Activity) {
    let me = process::me().pid;
    if slot.pid.load(Ordering::SeqCst) != me {
        slot.activities.store(0, Ordering::SeqCst);
        slot.pid.store(me, Ordering::SeqCst);
    }
    LEFT.at_exit(());
    slot.activities.fetch_or(activity as u32, Ordering::SeqCst);
}

impl Node {
    /// What it does with writers.
    pub fn state(&self) -> NodeState {
        match self.state.load(Ordering::SeqCst) {
            0 => NodeState::ReadWrite,
            1 => NodeState::Closing,
            3 => NodeState::Reserved,
            STAYING => self.staying(),
            _ => NodeState::ReadOnly,
        }
    }

    /// The state of a node that started as a standby and was read-only before.  All processes find the same, so
    /// whoever looks first after the promotion writes it down.
    #[cold]
    fn staying(&self) -> NodeState {
        // In this order: when recovery is over, nothing is replayed any more.
        let is_promoted = !ident::in_recovery();
        let found = match self.is_stay_over() {
            Some(true) => NodeState::ReadWrite,
            _ if is_promoted => NodeState::ReadOnly,
            _ => return NodeState::ReadOnly,
        };
        let to = found as u32;
        match self.state.compare_exchange(STAYING, to, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => found,
            Err(_) => self.state(),
        }
    }

    /// Whether a node that started as a standby and was read-only before has replayed WAL of another server since;
    /// `None` for any other node.
    pub fn is_stay_over(&self) -> Option<bool> {
        let timeline = self.stay.timeline.load(Ordering::SeqCst);
        let stay = Stay { timeline, own_end: self.stay.own_end.load(Ordering::SeqCst) };
        let (timeline, end) = wal::replayed();
        (stay.timeline != 0).then(|| stay.is_over(timeline, end))
    }

    /// It starts as a standby, and is read-only for so long.  In the postmaster.
    pub fn set_staying(&self, stay: Stay, lsn: u64, since: i64) {
        self.stay.own_end.store(stay.own_end, Ordering::SeqCst);
        self.stay.timeline.store(stay.timeline, Ordering::SeqCst);
        self.set_closed(lsn, since);
        self.state.store(STAYING, Ordering::SeqCst);
    }

    /// Changes that, with a full barrier.
    pub fn set_state(&self, state: NodeState) {
        self.state.store(state as u32, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Notes since when the node is read-only, and the position that no commit is behind (0: unknown).
    pub fn set_closed(&self, lsn: u64, since: i64) {
        self.lsn.store(lsn, Ordering::SeqCst);
        self.since.store(since, Ordering::SeqCst);
        self.set_state(NodeState::ReadOnly);
    }

    /// Reserves a node that lets writers pass, with a full barrier; false where its state is another.  The
    /// caller is the owner, or the postmaster.
    pub fn begin_reservation(&self, clone: i32, token: Token) -> bool {
        let reservation = &self.reservation;
        reservation.clone.store(clone, Ordering::SeqCst);
        for (to, word) in reservation.token.iter().zip(token.words()) {
            to.store(word, Ordering::SeqCst);
        }
        reservation.number.fetch_add(1, Ordering::SeqCst);
        let (from, to) = (NodeState::ReadWrite as u32, NodeState::Reserved as u32);
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The number of the reservation, since the server's start.
    pub fn reservation(&self) -> u32 {
        self.reservation.number.load(Ordering::SeqCst)
    }

    /// The clone for which the node is reserved.  Means something in that state alone.
    pub fn clone_id(&self) -> i32 {
        self.reservation.clone.load(Ordering::SeqCst)
    }

    /// The secret.  Only for the owner.
    pub fn token(&self) -> Token {
        let words = &self.reservation.token;
        Token::of_words(std::array::from_fn(|at| words[at].load(Ordering::SeqCst)))
    }

    /// Makes the process of that pid the owner, if there is none.
    pub fn try_take(&self, pid: i32) -> bool {
        let owner = &self.reservation.owner;
        owner.compare_exchange(0, pid, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// If that is the owner, there is none any more.
    pub fn give_back(&self, pid: i32) {
        let owner = &self.reservation.owner;
        let _ = owner.compare_exchange(pid, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The position noted, 0 where it is unknown.
    pub fn lsn(&self) -> u64 {
        self.lsn.load(Ordering::SeqCst)
    }

    /// Notes whether it is, or is about to be, read-only with its whole cluster.
    pub fn set_with_cluster(&self, with_cluster: bool) {
        self.with_cluster.store(u32::from(with_cluster), Ordering::SeqCst);
    }

    /// Whether it is read-only with its whole cluster.
    pub fn is_with_cluster(&self) -> bool {
        self.with_cluster.load(Ordering::SeqCst) != 0
    }

    /// Since when the node is read-only.
    pub fn since(&self) -> i64 {
        self.since.load(Ordering::SeqCst)
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
