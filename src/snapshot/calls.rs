//! What the calls of the sessions do: check, begin, wait for the answer, say it.

use std::time::Duration;

use pgrx::{PgLogLevel, PgSqlErrorCode};
use remote::Deadline;

use super::control::{self, EXPORTS, Extension, NodeRow, Token};
use super::error::SnapshotError;
use super::state::{Export, Moment, Release, State, Terms};
use super::{MAX_TIMEOUT_MS, worker};
use crate::citus::{self, identity};
use crate::fence::FenceError;
use crate::fence::mode::Mode;
use crate::fence::under_way::{self, UnderWay};
use crate::gate;
use crate::guc;
use crate::pg::exit::{Armed, Undo};
use crate::pg::wait::{interruptible, wait_latch_or_client_gone};
use crate::pg::worker::{Handle, Status};
use crate::pg::{elog, ident};
use crate::report::Report;

/// How often a waiting caller looks for a worker that died without a word. Everything else wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How much later than the worker itself its requestor gives up.
const START_GRACE: Duration = Duration::from_secs(15);

/// What this is called among the operations that exclude each other.
pub const OPERATION: &str = "cluster snapshot";

/// The export of this database that others exclude, or that excludes them.
pub fn under_way() -> Option<UnderWay> {
    if !EXPORTS.is_ready() {
        return None;
    }
    let live = control::all(database()).into_iter().any(|export| export.is_live());
    live.then_some(UnderWay {
        what: "a cluster snapshot is held",
        hint: "See citus_cluster_snapshot_status(); to end one: SELECT citus_release_cluster_snapshot(export_id);",
    })
}

/// The extension is about to be dropped: with it the way to end what is held.
pub fn before_drop() {
    if let Some(held) = under_way() {
        elog::raise(&Report::from(&SnapshotError::Dropped(held)));
    }
}

fn database() -> u32 {
    ident::database().to_u32()
}

/// An error where the library was not preloaded.
fn require_preload() -> Result<(), SnapshotError> {
    if EXPORTS.is_ready() { Ok(()) } else { Err(SnapshotError::NotPreloaded) }
}

/// A life, checked.
fn timeout(timeout_ms: Option<i32>) -> Result<i32, SnapshotError> {
    let given = timeout_ms.ok_or(SnapshotError::NullArgument { argument: "timeout_ms" })?;
    if (1..=MAX_TIMEOUT_MS).contains(&given) {
        Ok(given)
    } else {
        Err(SnapshotError::TimeoutOutOfRange { given })
    }
}

/// The number of an export, checked.
fn number(id: Option<i64>) -> Result<i64, SnapshotError> {
    id.ok_or(SnapshotError::NullArgument { argument: "export_id" })
}

/// The export that this session has begun and not yet been told of: every way out gives it up.
static PENDING: Undo<Token> = Undo::new(control::abandon);

/// Exports a snapshot on every node; its number, whose writes were held back meanwhile, and the nodes' parts.
pub fn export(
    timeout_ms: Option<i32>,
    mode: Option<&str>,
) -> Result<(i64, Mode, Vec<NodeRow>), SnapshotError> {
    let timeout_ms = timeout(timeout_ms)?;
    let wanted = mode
        .map(|name| {
            Mode::parse(name).ok_or_else(|| SnapshotError::BadMode { given: name.to_owned() })
        })
        .transpose()?;
    require_preload()?;
    if ident::in_recovery() {
        return Err(SnapshotError::InRecovery);
    }
    let bound = Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64);
    citus::require_coordinator(&mut interruptible(), bound)?;
    if gate::is_writing() {
        return Err(SnapshotError::HasWritten);
    }
    if let Some(table) = citus::own_lock() {
        return Err(SnapshotError::HasLocked { table });
    }
    if let Some(other) = under_way::look_but(OPERATION) {
        return Err(SnapshotError::UnderWay(other));
    }
    let terms = Terms {
        mode: wanted.unwrap_or(Mode::All),
        may_be_two_phase: wanted.is_none(),
        timeout_ms,
        acquire_timeout_ms: guc::ACQUIRE_TIMEOUT.get(),
        lock_timeout_ms: guc::LOCK_TIMEOUT.get(),
        connect_timeout_ms: guc::CONNECT_TIMEOUT.get(),
        owner: citus::own_role().to_u32(),
    };
    identity::owner_must_be_superuser().map_err(FenceError::from)?;
    let (token, pending, handle) = begin_with_worker(terms)?;
    let time = Duration::from_millis(terms.acquire_timeout_ms as u64) + START_GRACE;
    let start_by = Deadline::after(&interruptible(), time);
    loop {
        let _listening = control::listen(token);
        // Before the state: a worker that has stopped by now has written its last word there.
        let status = handle.status();
        let Some(export) = control::read(token) else {
            pending.done();
            return Err(SnapshotError::WorkerVanished);
        };
        match export.state {
            State::Held => {
                let rows = control::rows(token);
                if rows.is_empty() {
                    // It has ended since.
                    continue;
                }
                pending.done();
                tell(&export, &terms);
                return Ok((token.id, export.terms.mode, rows));
            }
            State::Over | State::Unused => {
                pending.done();
                if export.failure.is_some() {
                    elog::raise(&Report::from(&export.failure));
                }
                return Err(SnapshotError::GivenUp);
            }
            State::Starting => {}
        }
        match status {
            Status::Stopped => return Err(SnapshotError::WorkerVanished),
            Status::NotYetStarted | Status::Started | Status::PostmasterDied => {}
        }
        if start_by.expired(&interruptible()) {
            return Err(SnapshotError::WorkerSilent);
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            return Err(SnapshotError::ClientGone);
        }
    }
}

/// Begins an export and starts its worker. All background workers may be in use for a moment, so that is tried again
/// for as long as the start may take.
fn begin_with_worker(mut terms: Terms) -> Result<(Token, Armed<Token>, Handle), SnapshotError> {
    const AGAIN: Duration = Duration::from_millis(50);
    let time = Duration::from_millis(terms.acquire_timeout_ms as u64);
    let by = Deadline::after(&interruptible(), time);
    loop {
        let token = control::begin(database(), terms)?;
        let pending = PENDING.arm(token);
        // Whoever looks from here on sees this one; who has begun before is seen here.
        if let Some(other) = under_way::look_but(OPERATION) {
            return Err(SnapshotError::UnderWay(other));
        }
        if let Some(handle) = worker::start(token) {
            return Ok((token, pending, handle));
        }
        control::forget(token);
        pending.done();
        let left = by.remaining(&interruptible());
        if left < AGAIN {
            return Err(SnapshotError::NoWorkerSlot);
        }
        // What is left of the call's time is all that the worker has.
        terms.acquire_timeout_ms = (left - AGAIN).as_millis().max(1) as i32;
        if wait_latch_or_client_gone(AGAIN) {
            return Err(SnapshotError::ClientGone);
        }
    }
}

/// What the caller should know of a snapshot that is held.
fn tell(export: &Export, terms: &Terms) {
    if let Some(warning) = export.warning.non_empty() {
        let report = Report::new(PgSqlErrorCode::ERRCODE_WARNING, warning);
        elog::emit(PgLogLevel::WARNING, &report);
    }
    if terms.mode == Mode::All && export.terms.mode == Mode::TwoPhase {
        let report = Report::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "the cluster snapshot was exported in mode 2pc",
        )
        .detail("A node does not preload citus_fence: of writes that only one node took part in, a later one may be in the snapshot and an earlier one not.");
        elog::emit(PgLogLevel::NOTICE, &report);
    }
}

/// Ends an export; true if it lasted until this call.
pub fn release(id: Option<i64>) -> Result<bool, SnapshotError> {
    let id = number(id)?;
    require_preload()?;
    let Some((token, _)) = control::find(database(), id) else {
        warn_of_over(id, None);
        return Ok(false);
    };
    let release = control::ask_release(token);
    loop {
        let _listening = control::listen(token);
        let Some(export) = control::read(token) else {
            // Its slot has been needed already, and how it ended is not known any more.
            warn_of_over(id, None);
            return Ok(false);
        };
        if !export.is_live() {
            let lasted = release == Release::Asked && !export.failure.is_some();
            if !lasted {
                warn_of_over(id, Some(&export));
            }
            return Ok(lasted);
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            // The end has been asked for and takes its way without this session.
            return Err(SnapshotError::ClientGone);
        }
    }
}

fn warn_of_over(id: i64, export: Option<&Export>) {
    let mut report = Report::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("cluster snapshot {id} had not lasted until now"),
    )
    .hint("Do not rely on what has been read since the last look at it.");
    report.detail = match export {
        Some(export) if export.failure.is_some() => {
            Some(format!("It ended with: {}.", export.failure.message.as_str()))
        }
        Some(_) => Some("Another session has released it.".to_owned()),
        None => Some("It is not known any more, or has never been.".to_owned()),
    };
    elog::emit(PgLogLevel::WARNING, &report);
}

/// Gives an export a new life, from now on; when that ends.
pub fn extend(id: Option<i64>, timeout_ms: Option<i32>) -> Result<Moment, SnapshotError> {
    let id = number(id)?;
    let timeout_ms = timeout(timeout_ms)?;
    require_preload()?;
    let not_there = || SnapshotError::NotThere { id };
    let (token, _) = control::find(database(), id).ok_or_else(not_there)?;
    let mut asked_at = None;
    loop {
        let _listening = control::listen(token);
        let export = control::read(token).filter(|export| export.state == State::Held);
        let export = export.ok_or_else(not_there)?;
        match asked_at {
            None => match control::ask_extension(token, timeout_ms) {
                Extension::Asked(before) => {
                    asked_at = Some(before);
                    continue;
                }
                Extension::Later => {}
                Extension::Over => return Err(not_there()),
            },
            Some(before) if export.extended > before => return Ok(export.expires_at),
            Some(_) => {}
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            return Err(SnapshotError::ClientGone);
        }
    }
}

/// The exports of this database.
pub fn status() -> Result<Vec<Export>, SnapshotError> {
    require_preload()?;
    Ok(control::all(database()))
}
