//! The way to a block: attempt after attempt, until one holds or the time is over; and this node's own
//! part in it.  The plan itself is in [`super::attempt`].

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::attempt::{Barrier, Bounds, Failed, Home, Story, attempt};
use super::control::{NodeRow, Owner};
use super::error::FenceError;
use super::handover::{self, Handover, remote_nodes};
use super::let_go::let_go;
use super::party::{Party, describe_blocker, is_passing};
use super::reason::{BestReason, Reason};
use super::recovery::{Stopped, finish_in_doubt};
use super::state::{Block, Terms, Token};
use super::text::Text;
use super::{HELPER_NAME, statements};
use crate::citus::{self, Access, Dialer, Node};
use crate::gate::{Gate, close_gate, stay_closed};
use crate::pg::clock::now;
use crate::pg::elog;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::ident;
use crate::pg::interrupts;
use crate::pg::lock;
use crate::pg::wait::BackendWaiter;
use crate::pg::wal;
use crate::pg::worker::{self, Transaction};
use crate::report::Report;
use remote::{Connecting, Deadline, Pause, RemoteError, Waiter, pause};

/// This node's part of a fence that is held, and what there is to tell of the whole.  The other nodes'
/// part is in the [`Party`].  Dropping it aborts the local transaction.
pub struct HeldFence {
    /// Holds the local locks.
    pub local: Transaction,
    /// The manifest: this node first, then the party's members in their order.
    pub rows: Vec<NodeRow>,
    /// What the requestor should know, or nothing.
    pub warning: String,
    /// Attempts it took.
    pub attempts: u32,
    /// How the last of them went.
    pub story: Story,
    _descriptors: Vec<ReservedDescriptors>,
}

/// Shortest and longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// With less time left than this no attempt is begun: it would only time out.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

/// Below this, running out of time says nothing of the nodes.
const LITTLE_TIME_MS: i32 = 1000;

/// Takes the fence, in as many attempts as fit into the block's terms.  After an error the caller lets
/// go of what the party still holds.  Nodes that did not confirm the end of an attempt are added to
/// `unconfirmed`.
pub fn acquire(
    owner: &Owner,
    party: &mut Party,
    block: &Block,
    mut lead: Option<Lead>,
    unconfirmed: &mut Vec<RemoteError>,
) -> Result<HeldFence, FenceError> {
    let mut waiter = BackendWaiter::new(|| owner.release_asked() || interrupts::terminated());
    let limit_ms = start_limit_ms(&block.terms);
    let deadline = start_by(&waiter, &block.terms);
    let mut backoff = BACKOFF.0;
    let mut attempts = 0;
    let mut in_the_way = BestReason::default();
    loop {
        // Half of it: a wait that ends a moment late is no reason to give up.
        if in_the_way.is_some() && deadline.remaining(&waiter) < SHORTEST_ATTEMPT / 2 {
            let Reason { what: last, blockers } = in_the_way.into_reason();
            return Err(FenceError::LocksNotHeld { after_ms: limit_ms, last, blockers });
        }
        attempts += 1;
        match try_once(&mut waiter, party, block, lead.take(), deadline) {
            Ok(held) => return Ok(HeldFence { attempts, ..held }),
            Err(Failed::Stopped) => return Err(stopped()),
            Err(Failed::ForNow { what, blockers }) => {
                let who = match blockers.as_slice() {
                    [] => String::new(),
                    blockers => format!("; in the way: {}", blockers.join("; ")),
                };
                elog::log(&format!(
                    "citus_fence: attempt {attempts} at a backup block failed: {what}{who}"
                ));
                in_the_way.note(Reason { what, blockers });
            }
            // With no time left everything times out; what stood in the way before is the reason.
            Err(Failed::ForGood(_)) if in_the_way.is_some() && deadline.expired(&waiter) => {}
            Err(Failed::ForGood(FenceError::Remote(error)))
                if limit_ms < LITTLE_TIME_MS
                    && is_time_out(&error)
                    && deadline.expired(&waiter) =>
            {
                return Err(FenceError::TooLittleTime { limit_ms, last: error.to_string() });
            }
            Err(Failed::ForGood(error)) => return Err(error),
        }
        for error in let_go(&mut BackendWaiter::new(|| false), party) {
            elog::log(&format!(
                "citus_fence: a node did not confirm the end of an attempt: {error}"
            ));
            unconfirmed.push(error);
        }
        *party = Party::default();
        let left = deadline.remaining(&waiter);
        recover_in_doubt(&mut waiter, block, deadline)?;
        if pause(&mut waiter, backoff.min(left.saturating_sub(SHORTEST_ATTEMPT))) == Pause::Stopped
        {
            return Err(stopped());
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Longest time that a start may take.
fn start_limit_ms(terms: &Terms) -> i32 {
    terms.acquire_timeout_ms.min(terms.timeout_ms)
}

fn start_by(waiter: &impl Waiter, terms: &Terms) -> Deadline {
    Deadline::after(waiter, Duration::from_millis(start_limit_ms(terms) as u64))
}

/// The nodes of an attempt, and its connections, which have been asked for.
pub struct Lead {
    nodes: Vec<Node>,
    connecting: Connecting,
    descriptors: ReservedDescriptors,
}

impl Lead {
    /// Asks for them.
    pub fn start(
        waiter: &impl Waiter,
        known: Handover,
        deadline: Deadline,
    ) -> Result<Self, FenceError> {
        let Handover { nodes, targets } = known;
        let count = targets.len();
        let descriptors =
            ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
        let connecting = Connecting::start(waiter, &targets, deadline);
        Ok(Self { nodes, connecting, descriptors })
    }

    /// The first attempt's, of what the requestor knows, before the worker has a session of its own.
    pub fn first(token: Token, terms: &Terms) -> Option<Self> {
        let waiter = BackendWaiter::new(|| false);
        let known = handover::take(token)?;
        Self::start(&waiter, known, start_by(&waiter, terms)).ok()
    }
}

/// After which a node that hears nothing more has ended its part of a failed start by itself.
pub fn longest_leftover_ms(block: &Block, party: &Party) -> i64 {
    let terms = &block.terms;
    let limit_ms = if party.hold_begun() { terms.timeout_ms } else { start_limit_ms(terms) };
    i64::from(limit_ms) + statements::IDLE_GRACE_MS
}

fn is_time_out(error: &RemoteError) -> bool {
    matches!(error, RemoteError::ConnectTimeout { .. } | RemoteError::Timeout { .. })
}

/// Why the waiter stopped.
fn stopped() -> FenceError {
    if interrupts::terminated() {
        FenceError::Terminated
    } else {
        FenceError::ReleasedWhileStarting
    }
}

/// Makes one attempt, on the nodes of the lead, or else reads which there are.
fn try_once<W: Waiter>(
    waiter: &mut W,
    party: &mut Party,
    block: &Block,
    lead: Option<Lead>,
    deadline: Deadline,
) -> Result<HeldFence, Failed> {
    let connect_timeout = Duration::from_millis(block.terms.connect_timeout_ms as u64);
    let Lead { nodes, connecting, descriptors } = match lead {
        Some(lead) => lead,
        None => {
            let reading = Transaction::begin();
            let known = Handover::read(&block.terms)?;
            drop(reading);
            Lead::start(waiter, known, deadline)?
        }
    };
    let bounds = Bounds {
        mode: block.terms.mode,
        deadline,
        connect_timeout,
        lock_timeout: Duration::from_millis(block.terms.lock_timeout_ms as u64),
        idle_timeout_ms: i64::from(block.terms.timeout_ms) + statements::IDLE_GRACE_MS,
    };
    let others: Vec<Node> = remote_nodes(&nodes).cloned().collect();
    let mut home =
        ThisNode { nodes, descriptors: vec![descriptors], local: None, locked_at: 0, wal_lsn: 0 };
    let story = attempt(waiter, &mut home, party, &others, connecting, &bounds)?;

    let mut rows = vec![home.row()];
    rows.extend(party.rows(home.locked_at));
    let local = home.local.ok_or(FenceError::WorkerVanished)?;
    let warning = party.warning();
    Ok(HeldFence { local, rows, warning, attempts: 1, story, _descriptors: home.descriptors })
}

/// This node, in one attempt.  Dropping it lets go.
struct ThisNode {
    nodes: Vec<Node>,
    descriptors: Vec<ReservedDescriptors>,
    local: Option<Transaction>,
    locked_at: i64,
    wal_lsn: u64,
}

impl Home for ThisNode {
    fn reserve(&mut self, connections: usize) -> Result<(), Failed> {
        let reserved = ReservedDescriptors::acquire(connections)
            .ok_or(FenceError::NoDescriptors { count: connections })?;
        self.descriptors.push(reserved);
        Ok(())
    }

    fn begin(&mut self) {
        let local = Transaction::begin();
        local.set_local(c"deadlock_timeout", &local_deadlock_timeout());
        self.local = Some(local);
    }

    fn lock(&mut self, barrier: Barrier, bound: Duration) -> Result<(), Failed> {
        let Some(local) = &self.local else { return Err(FenceError::WorkerVanished.into()) };
        if let Err(error) = lock_here(local, barrier, bound) {
            self.local = None;
            return Err(blocked_here(error));
        }
        self.locked_at = now();
        Ok(())
    }

    fn let_go(&mut self) {
        self.local = None;
    }

    fn nodes_are_the_same(&mut self) -> Result<bool, Failed> {
        Ok(citus::nodes()? == self.nodes)
    }

    fn flush(&mut self) {
        stay_closed();
        self.wal_lsn = wal::flush();
    }
}

impl ThisNode {
    /// Its row of the manifest.
    fn row(&self) -> NodeRow {
        let node = citus::this_node(&self.nodes);
        NodeRow {
            nodeid: node.nodeid,
            groupid: node.groupid,
            host: Text::new(&node.host),
            port: node.port,
            backend_pid: crate::pg::process::me().pid,
            locked_at: self.locked_at,
            system_identifier: ident::system_identifier(),
            timeline: wal::timeline(),
            wal_lsn: self.wal_lsn,
            restore_lsn: 0,
        }
    }
}

/// The local locks, in the order that Citus' own operations take them; before them, a lock that keeps
/// the extension, and so the way to unblock, from being dropped.
fn lock_here(local: &Transaction, barrier: Barrier, bound: Duration) -> Result<(), Report> {
    let began = Instant::now();
    let set_bound = || {
        let left_ms = bound.saturating_sub(began.elapsed()).as_millis().max(1);
        local.set_local(c"lock_timeout", &left_ms.to_string());
    };
    let lock = |relation| {
        set_bound();
        lock::lock_relation_exclusive(relation);
    };
    // Who is in the way is looked for afterwards, on all barriers in one way.
    let close = |gate| close_gate(gate, Vec::new).map_err(|error| Report::from(&error));
    worker::catch(|| {
        interrupts::cancellable(|| {
            set_bound();
            match barrier {
                Barrier::ClientGate => close(Gate::Client)?,
                Barrier::InternalGate => close(Gate::Internal)?,
                Barrier::Tables => {
                    if let Some(extension) = lock::extension(c"citus_fence") {
                        lock::keep_extension(extension);
                    }
                    let relations =
                        citus::fence_relations().map_err(|error| Report::from(&error))?;
                    lock(relations.node);
                    lock(relations.partition);
                    lock(relations.transaction);
                }
            }
            Ok(())
        })
    })
    .flatten()
}

/// Just below the server's own, as a text with its unit; see [`statements::settle`].
fn local_deadlock_timeout() -> String {
    let server = crate::pg::guc::read_number("deadlock_timeout").unwrap_or(1000.0);
    format!("{}ms", statements::below(server as i64))
}

/// What a local lock that was not granted means.
fn blocked_here(error: Report) -> Failed {
    if interrupts::terminated() {
        return Failed::Stopped;
    }
    if is_passing(error.sqlstate) {
        let look = Transaction::begin();
        let blockers =
            worker::catch(|| look.with_latest_snapshot(|| local_blockers().unwrap_or_default()))
                .unwrap_or_default();
        let blockers = match error.detail {
            Some(detail) if blockers.is_empty() => {
                vec![format!("on this node: {}", detail.trim_end_matches('.'))]
            }
            _ => blockers,
        };
        return Failed::ForNow { what: error.message, blockers };
    }
    FenceError::from(error).into()
}

fn local_blockers() -> Result<Vec<String>, pgrx::spi::Error> {
    pgrx::Spi::connect(|client| {
        let mut blockers = Vec::new();
        for row in client.select(statements::local_blockers(), None, &[])? {
            blockers.push(describe_blocker(
                "this node",
                row.get::<i32>(1)?.unwrap_or_default(),
                &row.get::<String>(2)?.unwrap_or_default(),
                row.get::<i64>(3)?.unwrap_or_default(),
                &row.get::<String>(4)?.unwrap_or_default(),
            ));
        }
        Ok(blockers)
    })
}

/// Has all nodes, this one among them, finish what they left in doubt.
fn recover_in_doubt<W: Waiter>(
    waiter: &mut W,
    block: &Block,
    deadline: Deadline,
) -> Result<(), FenceError> {
    let connect_timeout = Duration::from_millis(block.terms.connect_timeout_ms as u64);
    let dialer = Dialer {
        role: pg_sys::Oid::from(block.terms.owner),
        application_name: HELPER_NAME.to_owned(),
        connect_timeout,
    };
    let reading = Transaction::begin();
    let nodes = citus::nodes()?;
    let access = Access::read(dialer);
    let mut targets = vec![access.loopback()?];
    for node in remote_nodes(&nodes) {
        targets.push(access.target(node.label())?);
    }
    drop(reading);
    let Some(_descriptors) = ReservedDescriptors::acquire(targets.len()) else {
        return Ok(());
    };
    let deadline = Deadline::after(waiter, connect_timeout).earlier(deadline);
    finish_in_doubt(waiter, &targets, deadline).map_err(|Stopped| stopped())
}
