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

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::error::GateError;
use super::gate;
use super::state_file::Record;
use super::store;
use crate::errors::Report;
use crate::pg::gate_area::{AREA, MarkedProcess, Node, NodeState};
use crate::pg::gate_lock::{self, Holder, SwitchLock};
use crate::pg::wait::interruptible;
use crate::pg::xact_callbacks as xact;
use crate::pg::{clock, elog, ident, process, session, text_sql, victim, wal, worker};
use crate::remote::Waiter;

/// Whether the node refuses writers; recovery counts.
pub fn is_read_only() -> bool {
    ident::in_recovery() || AREA.node().is_some_and(|node| node.state() == NodeState::ReadOnly)
}

/// What every switch asks for first.
pub fn require_switchable(function: &'static str) -> Result<&'static Node, GateError> {
    if !session::is_superuser() {
        return Err(GateError::NotSuperuser { function });
    }
    let node = AREA.node().ok_or(GateError::NotPreloaded)?;
    if ident::in_recovery() {
        return Err(GateError::InRecovery { function });
    }
    if gate::has_passed() || xact::has_written() {
        return Err(GateError::HasWritten { function });
    }
    Ok(node)
}

/// Makes the node read-only; the position that no commit is behind.
pub fn read_only(terminate_writers: bool) -> Result<u64, GateError> {
    let node = require_switchable("alter_system_read_only()")?;
    let _one_at_a_time = SwitchLock::acquire();
    if node.state() == NodeState::ReadOnly && node.lsn() != 0 {
        notice("system is already read only", None);
        return Ok(node.lsn());
    }
    let started = Instant::now();
    let closing = Closing::begin(node);
    let terminated = drain(terminate_writers)?;
    let lsn = wal::flush();
    let record = Record {
        system_identifier: ident::system_identifier(),
        timeline: wal::timeline(),
        lsn,
        since: clock::now(),
    };
    if let Err(error) = store::write(record) {
        // It may have got there all the same.
        let _ = store::remove();
        return Err(error);
    }
    closing.done(record);
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
    name_prepared();
    Ok(lsn)
}

/// Lets the node write.
pub fn read_write() -> Result<(), GateError> {
    let node = require_switchable("alter_system_read_write()")?;
    let _one_at_a_time = SwitchLock::acquire();
    if node.state() == NodeState::ReadWrite {
        notice("system is not read only", None);
        return Ok(());
    }
    store::remove()?;
    node.reopen();
    elog::log(&format!(
        "system is now read-write: switched by role \"{}\" (process {})",
        ident::role_name(ident::current_role()),
        process::me().pid,
    ));
    Ok(())
}

thread_local! {
    /// The state to go back to if this process ends in the middle of a switch.
    static BEFORE: Cell<Option<NodeState>> = const { Cell::new(None) };
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, writers are refused, and every way out but [`Closing::done`] takes that back: an error
/// drops it, and the end of the process runs the callback.
struct Closing(&'static Node);

impl Closing {
    fn begin(node: &'static Node) -> Self {
        if !WATCHED.replace(true) {
            worker::before_exit(take_back);
        }
        BEFORE.set(Some(node.state()));
        node.set_state(NodeState::Closing);
        Self(node)
    }

    fn done(self, record: Record) {
        BEFORE.set(None);
        self.0.set_closed(record.lsn, record.since);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        take_back();
    }
}

fn take_back() {
    if let (Some(before), Some(node)) = (BEFORE.take(), AREA.node()) {
        match before {
            NodeState::ReadWrite => node.reopen(),
            NodeState::Closing | NodeState::ReadOnly => node.set_state(before),
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

    fn end(self) -> bool {
        match self {
            Self::Holder(holder) => victim::end_holder(holder),
            Self::Marked(process) => victim::end_marked(process),
        }
    }
}

/// Prepared transactions (pid 0) keep their locks; nobody can end them while the node is read-only, so
/// they are in nobody's way.
fn writers() -> Vec<Writer> {
    let me = process::me().pid;
    gate_lock::holders()
        .into_iter()
        .map(Writer::Holder)
        .chain(AREA.marked().into_iter().map(Writer::Marked))
        .filter(|writer| writer.pid() != 0 && writer.pid() != me)
        .collect()
}

/// How long to wait between two looks at who is left, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How often to say who is being waited for.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);

/// Returns when none of those who had passed before is left; how many sessions it has ended.
fn drain(terminate: bool) -> Result<u64, GateError> {
    let mut ended: Vec<Writer> = Vec::new();
    let mut pause = FIRST_PAUSE;
    let mut noticed = Instant::now();
    loop {
        let left = writers();
        if left.is_empty() {
            let mut pids: Vec<i32> = ended.into_iter().map(Writer::pid).collect();
            pids.sort_unstable();
            pids.dedup();
            return Ok(pids.len() as u64);
        }
        if terminate {
            for writer in &left {
                if !ended.contains(writer) && writer.end() {
                    ended.push(*writer);
                }
            }
        }
        if noticed.elapsed() >= NOTICE_INTERVAL {
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

fn tell(left: &[Writer]) {
    let mut pids: Vec<i32> = left.iter().map(|writer| writer.pid()).collect();
    pids.sort_unstable();
    pids.dedup();
    let names: Vec<String> = pids.iter().map(i32::to_string).collect();
    notice(
        &format!("waiting for {} sessions that are writing", names.len()),
        Some(format!("Processes: {}.", names.join(", "))),
    );
}

/// Prepared transactions are in nobody's way, but they stay, with their locks.
fn name_prepared() {
    let rows = text_sql::query(
        "SELECT pg_catalog.quote_literal(gid) FROM pg_catalog.pg_prepared_xacts ORDER BY prepared",
        &[],
    );
    // Whatever keeps them from being read: the node is read-only, and that is what counts.
    let names: Vec<String> = rows.unwrap_or_default().into_iter().flatten().flatten().collect();
    if names.is_empty() {
        return;
    }
    let shown = names.iter().take(MOST_NAMES).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > MOST_NAMES { ", …" } else { "" };
    let mut report = Report::new(
        PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        "prepared transactions can be committed or rolled back only when the system is read-write again",
    )
    .detail(format!("There are {}: {shown}{more}.", names.len()));
    report.hint = Some("Until then they keep their locks.".to_owned());
    elog::emit(PgLogLevel::NOTICE, &report);
}

/// How many prepared transactions a notice names.
const MOST_NAMES: usize = 20;

/// The wait is none that the server's detector knows, so a writer that waits for this transaction, which
/// waits for him, is looked for here.
fn look_for_deadlock(left: &[Writer]) -> Result<(), GateError> {
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
            return Err(GateError::Deadlock { pid });
        }
    }
    Ok(())
}

fn notice(message: &str, detail: Option<String>) {
    let mut report = Report::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message);
    report.detail = detail;
    elog::emit(PgLogLevel::NOTICE, &report);
}
