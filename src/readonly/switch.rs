//! Switching the node.
//!
//! ```text
//!              set_state           all gone, WAL on disk, file on disk
//! read-write ────────────> closing ───────────────────────────────────> read-only
//!     ^                       │                                             │
//!     │  error, cancel, exit  │                                             │
//!     ├───────────────────────┘               file gone from the disk       │
//!     └─────────────────────────────────────────────────────────────────────┘
//! ```
//! A crash in *closing* leaves a node that writes, or, if the file was there already, one that does not;
//! the caller was told neither.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::error::SwitchError;
use crate::gate::area::{AREA, MarkedProcess, Node, NodeState};
use crate::gate::error::GateError;
use crate::gate::lock::{self, SwitchLock};
use crate::gate::{passing, store, victim};
use crate::guc;
use crate::pg::exit::{Armed, Undo};
use crate::pg::numbered_lock::Holder;
use crate::pg::wait::{interruptible, require_client};
use crate::pg::{clock, elog, ident, interrupts, process, text_sql, wal};
use crate::report::Report;
use remote::Waiter;

/// How the quoted names begin of what a clone split prepares on every node, and ends by itself.
const OF_SPLITS: &str = "'citus_fence_clone_";

/// What every switch asks for first.
pub fn require_switchable(function: &'static str) -> Result<&'static Node, SwitchError> {
    let node = AREA.node().ok_or(GateError::NotPreloaded)?;
    if ident::in_recovery() {
        return Err(GateError::InRecovery { function }.into());
    }
    // None becomes so any more: it is done in recovery alone.
    if node.state() == NodeState::Reserved {
        return Err(GateError::SwitchReserved { function, clone: node.clone_id() }.into());
    }
    if passing::is_writing() {
        return Err(GateError::HasWritten { function }.into());
    }
    Ok(node)
}

/// Whom a switch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This node.
    Node,
    /// The cluster, of which this is one node.
    Cluster,
}

/// Makes the node read-only; the position that no commit is behind.
pub fn read_only(scope: Scope, terminate_writers: bool) -> Result<u64, SwitchError> {
    let node = require_switchable("alter_system_read_only()")?;
    let _one_at_a_time = take_turn();
    if node.state() == NodeState::ReadOnly && node.lsn() != 0 {
        notice("system is already read only", None);
        // It was by itself, and is opened with all others from now on.
        if scope == Scope::Cluster && !node.is_with_cluster() {
            node.set_with_cluster(true);
            store::write(node, node.lsn(), node.since())?;
        }
        return Ok(node.lsn());
    }
    node.set_with_cluster(scope == Scope::Cluster);
    if let Some(gid) = prepared()?.into_iter().find(|gid| gid.starts_with(OF_SPLITS)) {
        return Err(SwitchError::Split { gid });
    }
    let started = Instant::now();
    let was_read_only = node.state() == NodeState::ReadOnly;
    let closing = Closing::begin(node);
    let terminated = drain(scope, terminate_writers)?;
    require_client();
    // The rest is short and waits for nobody.
    interrupts::ignore_cancels();
    let lsn = wal::flush();
    let since = clock::now();
    if let Err(error) = store::write(node, lsn, since) {
        // It may have got there all the same.  Where there was one before, be it damaged, it stays.
        if !was_read_only {
            let _ = store::remove(node);
        }
        return Err(error.into());
    }
    closing.done(lsn, since);
    node.counters().terminated.fetch_add(terminated, Ordering::Relaxed);
    elog::log(&format!(
        "system is now read only: switched by role \"{}\" (process {}) in {} ms, {terminated} sessions \
         terminated, no commit after {:X}/{:X}",
        ident::role_name(ident::current_role()),
        process::me().pid,
        started.elapsed().as_millis(),
        lsn >> 32,
        lsn & 0xffff_ffff,
    ));
    Ok(lsn)
}

/// Waits for other switches of this node.  The server does not look for a caller that goes meanwhile.
fn take_turn() -> SwitchLock {
    let turn = SwitchLock::acquire();
    require_client();
    turn
}

/// Lets the node write.
pub fn read_write(scope: Scope) -> Result<(), SwitchError> {
    let node = require_switchable("alter_system_read_write()")?;
    let _one_at_a_time = take_turn();
    if node.state() == NodeState::ReadWrite {
        notice("system is not read only", None);
        return Ok(());
    }
    if scope == Scope::Node && node.is_with_cluster() {
        let report = Report::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            "this lets this node alone write, and the rest of the cluster is still read only",
        )
        .hint("To let the whole cluster write, on its coordinator: SELECT citus_set_cluster_read_write();");
        elog::emit(PgLogLevel::WARNING, &report);
    }
    interrupts::ignore_cancels();
    store::remove(node)?;
    AREA.reopen();
    elog::log(&format!(
        "system is now read-write: switched by role \"{}\" (process {})",
        ident::role_name(ident::current_role()),
        process::me().pid,
    ));
    Ok(())
}

/// The state to go back to if this process ends in the middle of a switch.
static BEFORE: Undo<NodeState> = Undo::new(take_back);

/// While it lives, writers are refused, and every way out but [`Closing::done`] takes that back.
struct Closing {
    node: &'static Node,
    before: Armed<NodeState>,
}

impl Closing {
    fn begin(node: &'static Node) -> Self {
        let before = BEFORE.arm(node.state());
        node.set_state(NodeState::Closing);
        Self { node, before }
    }

    fn done(self, lsn: u64, since: i64) {
        self.before.done();
        self.node.set_closed(lsn, since);
    }
}

fn take_back(before: NodeState) {
    match before {
        // A reservation is seen here only where it came too late, and is being taken back as well.
        NodeState::ReadWrite | NodeState::Reserved => AREA.reopen(),
        NodeState::Closing | NodeState::ReadOnly => {
            if let Some(node) = AREA.node() {
                node.set_state(before);
            }
        }
    }
}

/// Who is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Holder(Holder),
    Marked(MarkedProcess),
}

impl Writer {
    fn pid(self) -> i32 {
        match self {
            Self::Holder(holder) => holder.pid,
            Self::Marked(process) => process.pid,
        }
    }

    /// Whether it applies what a subscription brings.
    fn applies(self) -> bool {
        match self {
            Self::Holder(_) => false,
            Self::Marked(process) => AREA.applies(process),
        }
    }

    /// Ends it, if it may be ended.  `is_early`: a background worker of another extension is given time to end its
    /// transaction: some take a termination for a wish of the operator's, and never come back (pg_cron 1.4).
    /// `lets_apply`: an apply worker may not yet.
    fn end(self, is_early: bool, lets_apply: bool) -> bool {
        match self {
            Self::Holder(holder) => victim::end_holder(holder, is_early),
            Self::Marked(_) if lets_apply && self.applies() => false,
            // It is on its way out, and what it ends would be in the way for longer.
            Self::Marked(process) if AREA.only_ends_prepared(process) => false,
            Self::Marked(process) => victim::end_marked(process),
        }
    }
}

/// Sessions in the way.  Prepared transactions, which have no process, are looked for by [`prepared`].
fn writers() -> Vec<Writer> {
    let me = process::me().pid;
    lock::holders()
        .into_iter()
        .map(Writer::Holder)
        .chain(AREA.marked().into_iter().map(Writer::Marked))
        .filter(|writer| writer.pid() != 0 && writer.pid() != me)
        .collect()
}

/// Names of the transactions that are prepared, in any database, whether they passed a gate or were there
/// before the library was.
fn prepared() -> Result<Vec<String>, GateError> {
    let rows = text_sql::query(
        "SELECT pg_catalog.quote_literal(gid) FROM pg_catalog.pg_prepared_xacts ORDER BY prepared",
        &[],
    )
    .map_err(|error| GateError::Look { why: error.to_string() })?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// How long to wait between two looks at who is left, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How often to say who is being waited for.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// What a node may take of a switch of the whole cluster to wait for those in the way: twice this, and the switch that
/// waits for it has not given the node up.
const OF_CLUSTER: Duration = Duration::from_millis(3_500);

/// Returns when none of those who had passed before is left, and nothing is prepared; how many sessions it
/// has ended.
///
/// Nobody prepares any more once the sessions are gone.  Whoever has prepared may still commit: two-phase
/// commits that other nodes are in the middle of end by themselves.  What is left after a while is nobody's,
/// and would keep its half of a transaction on a node that can do nothing about it.
fn drain(scope: Scope, terminate: bool) -> Result<u64, SwitchError> {
    let bound = Duration::from_millis(guc::LOCK_TIMEOUT.get() as u64);
    let (bound, given_up_after) = match scope {
        Scope::Node => (bound, None),
        Scope::Cluster => (bound.min(OF_CLUSTER), Some(2 * OF_CLUSTER)),
    };
    let began = Instant::now();
    let mut ended: Vec<Writer> = Vec::new();
    let mut pause = FIRST_PAUSE;
    let mut noticed = Instant::now();
    let mut alone_since = None;
    loop {
        // Sessions first: what one of them prepares or commits after this look is seen by the next.
        let left = writers();
        // What a subscription has prepared nobody else ends.  Its worker stops by itself as soon as nothing is.
        let is_early = began.elapsed() < bound;
        let lets_apply = terminate && is_early && passing::is_any_prepared();
        if left.iter().all(|writer| lets_apply && writer.applies()) {
            let gids = prepared()?;
            if left.is_empty() && gids.is_empty() {
                return Ok(pids(&ended).len() as u64);
            }
            if gids.is_empty() {
                alone_since = None;
            } else if alone_since.get_or_insert_with(Instant::now).elapsed() >= bound {
                return Err(SwitchError::Prepared { gids });
            }
        }
        if given_up_after.is_some_and(|longest| began.elapsed() >= longest) {
            return Err(SwitchError::Writers { pids: pids(&left) });
        }
        if terminate {
            for writer in &left {
                if !ended.contains(writer) && writer.end(is_early, lets_apply) {
                    ended.push(*writer);
                }
            }
        }
        if !left.is_empty() && noticed.elapsed() >= NOTICE_INTERVAL {
            noticed = Instant::now();
            tell(&left);
            if !terminate {
                look_for_deadlock(&left)?;
            }
        }
        interruptible().wait(&[], pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Their processes, each once.
fn pids(writers: &[Writer]) -> Vec<i32> {
    let mut pids: Vec<i32> = writers.iter().map(|writer| writer.pid()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn tell(left: &[Writer]) {
    let names: Vec<String> = pids(left).iter().map(i32::to_string).collect();
    notice(
        &format!("waiting for {} sessions that are writing", names.len()),
        Some(format!("Processes: {}.", names.join(", "))),
    );
}

/// The wait is none that the server's detector knows, so a writer that waits for this transaction, which
/// waits for him, is looked for here.
fn look_for_deadlock(left: &[Writer]) -> Result<(), SwitchError> {
    let me = process::me().pid.to_string();
    for writer in left {
        let pid = writer.pid();
        let rows = text_sql::query(
            "SELECT $1::int = ANY (pg_catalog.pg_blocking_pids($2::int))",
            &[&me, &pid.to_string()],
        );
        if let Ok(rows) = rows
            && rows
                .first()
                .and_then(|row| row.first())
                .is_some_and(|value| value.as_deref() == Some("t"))
        {
            return Err(SwitchError::Deadlock { pid });
        }
    }
    Ok(())
}

fn notice(message: &str, detail: Option<String>) {
    let mut report = Report::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message);
    report.detail = detail;
    elog::emit(PgLogLevel::NOTICE, &report);
}
