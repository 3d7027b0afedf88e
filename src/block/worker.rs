//! The background worker that holds one block, from its start to its end.
//!
//! Every way out lets go of all locks before it says so in shared memory:
//!
//! | way out                                | locks                                   | state afterwards |
//! | -------------------------------------- | --------------------------------------- | ---------------- |
//! | release asked for                      | rolled back everywhere, answers awaited | inactive         |
//! | deadline                               | the same                                | inactive, reason kept |
//! | SIGTERM, shutdown                      | the same                                | error            |
//! | a node is lost                         | the same on the others                  | error            |
//! | ERROR anywhere in the worker           | transaction aborted, then the same      | error            |
//! | FATAL, `proc_exit`                     | transaction aborted; the nodes let go when the end of the process has closed the sessions | error, by the exit callback |
//! | SIGKILL, crash                         | the same, by the kernel and the postmaster | shared memory is made anew |
//!
//! A node that does not answer the ROLLBACK keeps its locks until it notices that its session is closed:
//! the log names it, and unblock warns.  While the block is still being started, its failure is the
//! requestor's answer instead of a state.

use std::cell::Cell;

use remote::{RemoteError, Waiter};

use super::acquire::{self, HeldFence, Lead};
use super::control::Owner;
use super::deadlocks::DeadlockSearch;
use super::error::BlockError;
use super::hold::{self, End};
use super::state::{Block, Failure, State, Token};
use crate::fence::FenceError;
use crate::fence::let_go::let_go;
use crate::fence::party::Party;
use crate::pg::elog;
use crate::pg::exit::Undo;
use crate::pg::interrupts;
use crate::pg::wait::BackendWaiter;
use crate::pg::worker::{self, Handle, Spec, Worker};
use crate::report::Report;

/// The block this process holds, for its end.
static OWNER: Undo<Owner> = Undo::new(on_exit);

thread_local! {
    /// Whether it has connected to its database.
    static IS_CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// The worker that holds a block.
pub static WORKER: Worker = Worker { kind: c"citus_fence backup block", run: run_worker };

/// Registers the worker of a block that has been begun.
pub fn start(token: Token) -> Option<Handle> {
    worker::register(&Spec {
        worker: &WORKER,
        name: &format!("citus_fence backup block {}", crate::pg::ident::database_name()),
        argument: token.slot as i32,
        extra: token.generation,
        // Its locks went with it.
        returns: false,
    })
}

/// What the new process does: it is given the slot and the generation of its block.
fn run_worker(slot: i32, generation: u64) {
    interrupts::install_worker_handlers();
    let token = Token { slot: slot as u32, generation };
    let Some((owner, block)) = Owner::adopt(token) else {
        return;
    };
    // Before the session connects, so that it runs after the session's locks are gone.
    OWNER.at_exit(owner);
    // The nodes get their sessions ready while this process gets its own.
    let lead = Lead::first(&owner, token, &block.terms);
    // Whoever keeps a catalog of the server's to himself does not make this worker deaf to its end.
    interrupts::cancellable(|| false, || worker::connect(block.database, block.terms.owner));
    IS_CONNECTED.set(true);
    worker::report_activity("citus_fence backup block");
    // Out here, so that an ERROR that unwinds through `run` leaves the sessions to be let go in order.
    let mut party = Party::default();
    match worker::catch(|| run(&owner, &block, lead, &mut party)) {
        Ok(()) => {}
        Err(error) => {
            abort_all();
            // Should this fail too, closing the sessions has to do.
            let _ = worker::catch(|| let_go(&mut BackendWaiter::new(|| false), &mut party));
            abort_all();
            let error = BlockError::from(FenceError::from(error));
            log_end(&block, &format!("failed: {error}"));
            owner.fail(Failure::from(&error));
        }
    }
    OWNER.forget();
    // The sessions hold nothing any more; the ends of as many server processes would compete with the
    // caller that has just been woken.
    let _ = worker::catch(|| BackendWaiter::new(interrupts::terminated).wait(&[], hold::LINGER));
    drop(party);
}

/// Aborts what an error left open on this node.
fn abort_all() {
    drop(worker::Transaction::adopt_open());
}

/// The process ends with its block still marked as held: after a FATAL error.
fn on_exit(owner: Owner) {
    let error = if IS_CONNECTED.get() {
        BlockError::WorkerVanished
    } else {
        BlockError::WorkerNotConnected { why: None }
    };
    owner.fail(Failure::from(&error));
}

fn run(owner: &Owner, block: &Block, lead: Option<Lead>, party: &mut Party) {
    let requestor = block.requestor.map_or(0, |process| process.pid);
    elog::log(&format!(
        "citus_fence: process {requestor} asks for a backup block of {} ms, mode {}",
        block.terms.timeout_ms,
        block.terms.mode.name(),
    ));
    let started = std::time::Instant::now();
    let mut unconfirmed = Vec::new();
    let (held, attempts) = match acquire::acquire(owner, party, block, lead, &mut unconfirmed) {
        Ok(held) => held,
        Err(error) => return ended(owner, block, party, Err(error), &unconfirmed),
    };
    if let Err(error) = owner.activate(&held.rows, &held.warning) {
        drop(held);
        return ended(owner, block, party, Err(error), &unconfirmed);
    }
    log_active(&held, attempts, started.elapsed());
    // Closed last, when all is said: nobody waits for that.
    let mut search = DeadlockSearch::begin(&held.roster, party);
    let end = hold::hold(owner, party, &mut search);
    owner.begin_release();
    if party.is_busy() {
        // It takes another session each to cancel what they are at.
        search.close();
    }
    drop(held);
    // Whoever did not confirm the end of an attempt has given its locks to a later one.
    ended(owner, block, party, end, &[]);
}

fn log_active(held: &HeldFence, attempts: u32, took: std::time::Duration) {
    let slowest = match &held.story.slowest {
        Some((node, waited_ms)) => format!(", slowest node {node} with {waited_ms} ms"),
        None => String::new(),
    };
    let story = &held.story;
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    elog::log(&format!(
        "citus_fence: backup block is active on {} nodes after {:.1} ms ({} attempts; beginning \
         {:.1} ms, {:.2} ms from first to last lock, flushing {:.1} ms{slowest})",
        held.rows.len(),
        ms(took),
        attempts,
        ms(story.beginning),
        ms(story.locking),
        ms(story.finishing),
    ));
    if !held.warning.is_empty() {
        elog::log(&format!("citus_fence: {}", held.warning));
    }
}

/// Lets go, then says so.  The local transaction is over already.  `unconfirmed` are nodes that did not
/// confirm the end of earlier attempts.
fn ended(
    owner: &Owner,
    block: &Block,
    party: &mut Party,
    end: Result<End, BlockError>,
    unconfirmed: &[RemoteError],
) {
    let silent = let_go(&mut BackendWaiter::new(|| false), party);
    for error in &silent {
        elog::log(&format!("citus_fence: a node did not confirm the release: {error}"));
    }
    let confirmed = || match silent.first() {
        None => Failure::NONE,
        Some(error) => Failure::from(&BlockError::Unconfirmed { node: error.to_string() }),
    };
    match end {
        Ok(End::Asked) => {
            log_end(block, "released");
            owner.finish(confirmed());
        }
        Ok(End::Expired) => {
            let timeout_ms =
                owner.read().map_or(block.terms.timeout_ms, |now| now.terms.timeout_ms);
            log_end(block, "expired");
            owner.finish(Failure::from(&BlockError::Expired { timeout_ms }));
        }
        // Whoever asked knows, and the requestor is told by its own call.
        Err(BlockError::ReleasedWhileStarting) => {
            log_end(block, "given up while it was being started");
            owner.finish(confirmed());
        }
        Err(error) => {
            let mut report = Report::from(&error);
            let is_starting = owner.read().is_some_and(|block| block.state == State::Starting);
            if is_starting
                && let Some(left) = leftovers(block, party, unconfirmed.iter().chain(&silent))
            {
                let detail = report.detail.take().map_or(String::new(), |text| text + " ");
                report.detail = Some(detail + &left);
            }
            let detail =
                report.detail.as_deref().map_or(String::new(), |text| format!(" ({text})"));
            log_end(block, &format!("failed: {}{detail}", report.message));
            owner.fail(Failure::from(report));
        }
    }
}

/// The sentences that name nodes which may still hold locks of a failed start.
fn leftovers<'a>(
    block: &Block,
    party: &Party,
    unconfirmed: impl Iterator<Item = &'a RemoteError>,
) -> Option<String> {
    let mut nodes: Vec<String> = unconfirmed.map(|error| error.node().to_string()).collect();
    nodes.sort();
    nodes.dedup();
    (!nodes.is_empty()).then(|| {
        format!(
            "Not confirmed is the end of the attempt on: {}. Locks that it may have left there end by \
             themselves within {} ms.",
            nodes.join(", "),
            acquire::longest_leftover_ms(block, party)
        )
    })
}

fn log_end(block: &Block, how: &str) {
    let requestor = block.requestor.map_or(0, |process| process.pid);
    elog::log(&format!("citus_fence: backup block of process {requestor} {how}"));
}
