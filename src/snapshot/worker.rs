//! The background worker that keeps one export, from its start to its end.
//!
//! Every way out ends the keepers' transactions before it says so in shared memory; a process that dies without a
//! word takes its sessions with it, and the nodes end the transactions when they notice that.

use std::time::Duration;

use remote::{Command, Deadline, WatchEnd, run_all, watch};

use super::control::{Owner, Token};
use super::error::SnapshotError;
use super::export::{self, Keepers, sessions};
use super::state::Export;
use crate::fence::FenceError;
use crate::fence::failure::Failure;
use crate::fence::statements::{IDLE_GRACE_MS, STATEMENT_GRACE_MS, set_idle_timeout};
use crate::pg::clock::now;
use crate::pg::elog;
use crate::pg::exit::Undo;
use crate::pg::interrupts;
use crate::pg::wait::BackendWaiter;
use crate::pg::worker::{self, Handle, Spec, Worker};
use crate::report::Report;

/// The worker that keeps an export.
pub static WORKER: Worker = Worker { kind: c"citus_fence cluster snapshot", run };

/// The export that this process keeps, for its end.
static OWNER: Undo<Owner> =
    Undo::new(|owner| owner.finish(failure(&SnapshotError::WorkerVanished)));

/// How often a keeper says something, for links that forget whoever is silent.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// Registers the worker of an export that has been begun.
pub fn start(token: Token) -> Option<Handle> {
    worker::register(&Spec {
        worker: &WORKER,
        name: &format!("citus_fence cluster snapshot {}", crate::pg::ident::database_name()),
        argument: token.slot as i32,
        extra: token.id as u64,
        // The snapshots went with it.
        returns: false,
    })
}

fn failure(error: &SnapshotError) -> Failure {
    Failure::from(Report::from(error))
}

fn run(slot: i32, id: u64) {
    interrupts::install_worker_handlers();
    let Some((owner, asked)) = Owner::adopt(Token { slot: slot as usize, id: id as i64 }) else {
        return;
    };
    // Before the session connects, so that it runs after the session's locks are gone.
    OWNER.at_exit(owner);
    interrupts::cancellable(|| false, || worker::connect(asked.database, asked.terms.owner));
    worker::report_activity("citus_fence cluster snapshot");
    // Out here, so that an ERROR that unwinds through `serve` leaves the sessions to be ended in order.
    let mut keepers = Keepers::new();
    let ended = worker::catch(|| serve(&owner, &asked, &mut keepers));
    // Whatever an error left open on this node.
    drop(worker::Transaction::adopt_open());
    let mut error = match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(report) => Some(FenceError::from(report).into()),
    };
    let silent = worker::catch(|| export::end(&mut keepers)).unwrap_or_default();
    drop(worker::Transaction::adopt_open());
    for silent in silent {
        elog::log(&format!(
            "citus_fence: a node did not confirm the end of a cluster snapshot: {silent}"
        ));
        // Whoever does not end it now may have lost it before: nobody can say that it lasted until the release.
        error = error.or(Some(silent.into()));
    }
    let how = error.as_ref().map_or_else(|| "released".to_owned(), SnapshotError::to_string);
    elog::log(&format!("citus_fence: cluster snapshot {} ended: {how}", asked.id));
    owner.finish(error.as_ref().map_or(Failure::NONE, failure));
    OWNER.forget();
}

/// Until somebody asks for its end, which is no error.
fn serve(owner: &Owner, asked: &Export, keepers: &mut Keepers) -> Result<(), SnapshotError> {
    // With it goes what is reserved for its sessions.
    let kept = export::export(owner, keepers, &asked.terms)?;
    let warning = if kept.absent.is_empty() {
        String::new()
    } else {
        let absent = kept.absent.join("; ");
        format!("inactive nodes that do not answer have no snapshot: {absent}")
    };
    if !owner.keep(kept.mode, &kept.rows, &warning) {
        return Err(SnapshotError::GivenUp);
    }
    hold(owner, keepers)
}

fn hold(owner: &Owner, keepers: &mut Keepers) -> Result<(), SnapshotError> {
    let stirred = || {
        interrupts::terminated()
            || owner.read().is_none_or(|export| export.release_asked || export.extend_ms != 0)
    };
    let mut waiter = BackendWaiter::new(stirred);
    let mut silent_until = Deadline::after(&waiter, SIGN_OF_LIFE);
    loop {
        worker::reload_settings();
        // This process' own view would hold vacuum back like the snapshots do, and for nothing.
        worker::forget_snapshot();
        if interrupts::terminated() {
            return Err(SnapshotError::Terminated);
        }
        let Some(export) = owner.read() else { return Err(SnapshotError::WorkerVanished) };
        // First: whoever was the first to ask, in time, has been promised that it lasted until then.
        if export.release_asked {
            return Ok(());
        }
        let now = now();
        if export.expired(now) {
            return Err(SnapshotError::Expired { timeout_ms: export.terms.timeout_ms });
        }
        if export.extend_ms != 0 {
            tell(keepers, &set_idle_timeout(i64::from(export.extend_ms) + IDLE_GRACE_MS))?;
            owner.extend();
            continue;
        }
        if silent_until.expired(&waiter) {
            // With what is left of its life: a node that hears nothing more ends it in time.
            let left_ms = (export.expires_at - now).max(0) / 1000;
            tell(keepers, &set_idle_timeout(left_ms + IDLE_GRACE_MS))?;
            silent_until = Deadline::after(&waiter, SIGN_OF_LIFE);
        }
        let left = Duration::from_micros((export.expires_at - now).max(0) as u64);
        let timeout = left.min(silent_until.remaining(&waiter));
        match watch(&mut waiter, &mut sessions(keepers), timeout) {
            WatchEnd::Quiet | WatchEnd::Stopped | WatchEnd::Answered { .. } => {}
            WatchEnd::Lost { error, .. } => return Err(error.into()),
        }
    }
}

/// Says something to all of them. A plain statement does not fail on a node that is well.
fn tell(keepers: &mut Keepers, sql: &str) -> Result<(), SnapshotError> {
    let mut waiter = BackendWaiter::new(interrupts::terminated);
    let by = Deadline::after(&waiter, Duration::from_millis(STATEMENT_GRACE_MS as u64));
    let say = |_| Command::new("sign of life of the snapshot", sql);
    for reply in run_all(&mut waiter, &mut sessions(keepers), say, by) {
        reply?;
    }
    Ok(())
}
