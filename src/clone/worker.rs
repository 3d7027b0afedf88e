//! The background worker that drives a split, and the one that goes on with an interrupted split after a start.
//!
//! | what happens                          | before the promotion           | after it                            |
//! | ------------------------------------- | ------------------------------ | ----------------------------------- |
//! | an error, a node is lost              | put back, until that is done   | tried again until it is done        |
//! | the caller is cancelled, or gone      | put back                       | nothing: it is finished             |
//! | SIGTERM, shutdown                     | put back, if that is quick     | ends; the next start, or call, goes on |
//! | SIGKILL, crash of its server          | it is started again, and puts it back | it is started again, and goes on |
//! | a new start of the server             | the launcher's worker puts it back | the launcher's worker goes on    |
//!
//! One split at a time in a database: its worker holds a lock for as long as it is at it, and its caller another
//! for as long as it waits.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use remote::{Deadline, Pause, Session, Target, Waiter, pause};

use super::driver::Drive;
use super::error::CloneError;
use super::ground::Ground;
use super::hint;
use super::links::{self, Links, Map};
use super::registry::{self, Kind, Replica};
use super::settle;
use super::state::Way;
use crate::citus::identity::IdentityError;
use crate::citus::{self, Access, Roster};
use crate::fence::FenceError;
use crate::gate::{self, lock::numbers};
use crate::guc;
use crate::pg::numbered_lock::{Mode, NumberedLock};
use crate::pg::process::{self, ProcessId};
use crate::pg::wait::BackendWaiter;
use crate::pg::worker::{self, Handle, Spec, Status, Transaction, Worker};
use crate::pg::{elog, ident, interrupts, lock};
use crate::report::Report;

/// The worker of a split.
pub static WORKER: Worker = Worker { kind: c"citus_fence clone split", run };

/// The worker that looks for interrupted splits when the server starts or is promoted.
pub static LAUNCHER: Worker = Worker { kind: c"citus_fence launcher", run: launch };

/// Stands for no role: the bootstrap superuser, who need not be allowed to log in.
const NOBODY: u32 = 0;

/// Held by the worker that drives a split.
const DRIVER: u32 = numbers!(split_driver);
/// Held by whoever waits for it.
const CALLER: u32 = numbers!(split_caller);

thread_local! {
    /// Where this server is reached, once that is known.
    static HOME: RefCell<Option<Target>> = const { RefCell::new(None) };
}

/// Registers the worker of a split.
pub fn start(nodeid: i32) -> Option<Handle> {
    start_in(ident::database().to_u32(), nodeid)
}

fn start_in(database: u32, nodeid: i32) -> Option<Handle> {
    worker::register(&Spec {
        worker: &WORKER,
        name: &format!("citus_fence clone split {nodeid}"),
        argument: nodeid,
        extra: u64::from(database),
        // What it has prepared outlives it.
        returns: true,
    })
}

/// Whether a split is driven in this database.
pub fn is_driven() -> bool {
    let driver = NumberedLock::of_database(DRIVER);
    let is_free = driver.try_acquire(Mode::Shared);
    if is_free {
        driver.release(Mode::Shared);
    }
    !is_free
}

/// Says, to the end of the transaction, that somebody waits for the split.
pub fn wait_for_split() -> bool {
    NumberedLock::of_database(CALLER).try_acquire(Mode::Shared)
}

/// Whether somebody does.
fn is_waited_for() -> bool {
    let caller = NumberedLock::of_database(CALLER);
    let is_free = caller.try_acquire(Mode::Alone);
    if is_free {
        caller.release(Mode::Alone);
    }
    !is_free
}

/// What the new process does: it is given the clone, or 0 to look for an interrupted split.
fn run(nodeid: i32, extra: u64) {
    interrupts::install_worker_handlers();
    // As nobody in particular, for all it does it does over sessions: a role that may not log in would have it die at
    // each start, for ever.
    interrupts::cancellable(|| false, || worker::connect(extra as u32, NOBODY));
    worker::report_activity("citus_fence clone split");
    let mut at = nodeid;
    let mut left = None;
    if let Err(report) = worker::catch(|| drive(&mut at, &mut left)) {
        drop(Transaction::adopt_open());
        elog::log(&format!("citus_fence: clone split failed: {}", report.message));
        if at != 0 && worker::catch(|| settle::note(at, Kind::Error, &report)).is_err() {
            drop(Transaction::adopt_open());
        }
    }
    // When another split can begin, and nobody waits for this one any more.
    if let Some((links, _map)) = left {
        let _ = worker::catch(|| links.close(&mut BackendWaiter::new(interrupts::terminated)));
    }
}

/// The sessions of a split that is done, and what has reserved their descriptors.
type Left = Option<(Links, Map)>;

/// Finds out what is to be done, and does it.
fn drive(nodeid: &mut i32, left: &mut Left) {
    // A clone has its source's registry, and must never act by it.
    if gate::reserved_for().is_some() {
        return;
    }
    // Open for as long as this lives: it holds the lock, and no snapshot.
    let transaction = Transaction::begin();
    let bound = Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64);
    let is_here =
        transaction.bounded(bound, || false, || lock::extension(c"citus_fence").is_some());
    if is_here.is_ok_and(|is_here| !is_here) && *nodeid == 0 {
        return;
    }
    if !NumberedLock::of_database(DRIVER).try_acquire(Mode::Alone) {
        if *nodeid != 0 {
            settle::note(*nodeid, Kind::Error, &Report::from(&CloneError::OtherSplit));
        }
        return;
    }
    if let Err(error) = drive_locked(nodeid, &transaction, bound, left)
        && *nodeid != 0
    {
        settle::note(*nodeid, Kind::Error, &Report::from(&error));
    }
}

fn drive_locked(
    nodeid: &mut i32,
    transaction: &Transaction,
    bound: Duration,
    left: &mut Left,
) -> Result<(), CloneError> {
    let is_called = *nodeid != 0;
    let mut waiter = BackendWaiter::new(interrupts::terminated);
    let home = transaction.bounded(
        bound,
        || false,
        || -> Result<_, CloneError> {
            citus::require_coordinator(&mut BackendWaiter::new(interrupts::terminated), bound)?;
            Ok(Access::read(links::dialer()).loopback()?)
        },
    );
    match home {
        Ok(Ok(home)) => HOME.set(Some(home)),
        // Where nobody has called, this is any database of the server's.
        Ok(Err(_)) | Err(_) if !is_called => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Err(report) => return Err(report.into()),
    }
    let found = if is_called {
        let mut session = connect_home(&mut waiter)?;
        registry::find(&mut waiter, &mut session, *nodeid)?
    } else {
        find_interrupted(&mut waiter)?
    };
    let Some(mut clone) = found else { return Ok(()) };
    *nodeid = clone.nodeid;
    // The registry may have come with a copy of the coordinator; where somebody has called, that has been looked at.
    if !is_called {
        let ground = transaction.bounded(bound, || false, || Ground::read(&clone))??;
        worker::forget_snapshot();
        prove(&mut waiter, &ground.roster)?;
    }

    let requestor = ProcessId { place: clone.terms.requestor.0, pid: clone.terms.requestor.1 };
    let mut tell = move || process::wake(requestor);
    if !is_called {
        elog::log(&format!(
            "citus_fence: clone split of node {} was interrupted at step {}, and goes on",
            clone.nodeid,
            clone.step.name()
        ));
    }
    let mut lasting = Lasting::new();
    match clone.step.way() {
        Way::Back => {
            settle::settle(&mut lasting, &mut clone, &mut tell)?;
            // The nodes were further than the registry.
            if clone.step.way() == Way::Done {
                return Ok(());
            }
        }
        Way::Forward => {
            settle::settle(&mut waiter, &mut clone, &mut tell)?;
            return finished(&clone);
        }
        // Started again by a crash of its server after its last word.
        Way::Done => return Ok(()),
        Way::Start => {}
    }
    if !is_called {
        return Ok(());
    }
    let map = transaction.bounded(bound, || false, || Map::read(&clone))??;
    worker::forget_snapshot();
    hint::note()?;
    let started = begin(&map, &mut clone, &mut tell);
    match started {
        Ok(mut links) => {
            let since = Instant::now();
            let waiter = &mut waiter;
            let ground = Ground::of(&map);
            let went = Drive { waiter, map: &ground, clone: &mut clone, tell: &mut tell, since }
                .forward(&mut links.ends());
            match went {
                Ok(()) => {
                    *left = Some((links, map));
                    Ok(())
                }
                Err(_) => {
                    drop(links);
                    settle::settle(waiter, &mut clone, &mut tell)?;
                    finished(&clone)
                }
            }
        }
        Err(error) => {
            settle::settle(&mut lasting, &mut clone, &mut tell)?;
            // The note of the promotion may have got there although no answer came: then it went forward.
            match clone.step.way() {
                Way::Done => Ok(()),
                // Whatever broke off because nobody waits any more.
                Way::Start | Way::Back | Way::Forward if !is_waited_for() => {
                    Err(CloneError::GivenUp)
                }
                Way::Start | Way::Back | Way::Forward => Err(error),
            }
        }
    }
}

/// A split that has settled is done, unless an operator has given it up meanwhile.
fn finished(clone: &Replica) -> Result<(), CloneError> {
    if clone.step.way() == Way::Done { Ok(()) } else { Err(CloneError::GivenUp) }
}

/// An error if this server is not the coordinator; as long as nobody can tell, right after a start, it is asked again.
fn prove<W: Waiter>(waiter: &mut W, roster: &Roster) -> Result<(), CloneError> {
    const AGAIN: Duration = Duration::from_secs(5);
    loop {
        match links::prove(waiter, roster) {
            Err(CloneError::Fence(
                error @ (FenceError::Remote(_)
                | FenceError::Identity(IdentityError::Unknown { .. })),
            )) => {
                let report = Report::from(&error);
                let detail = report.detail.map_or_else(String::new, |text| format!(": {text}"));
                elog::log(&format!(
                    "citus_fence: the interrupted clone split waits: {}{detail}",
                    report.message
                ));
            }
            result => return result,
        }
        if pause(waiter, AGAIN) == Pause::Stopped {
            return Err(CloneError::ClientGone);
        }
    }
}

/// Looks for an interrupted split until the registry answers: right after a start this server may be out of connections,
/// and writers wait for what is found.
fn find_interrupted<W: Waiter>(waiter: &mut W) -> Result<Option<Replica>, CloneError> {
    const AGAIN: Duration = Duration::from_secs(1);
    loop {
        let found = connect_home(waiter)
            .and_then(|mut session| registry::find_interrupted(waiter, &mut session));
        match found {
            Ok(found) => return Ok(found),
            Err(CloneError::GivenUp) => return Ok(None),
            Err(error) => elog::log(&format!(
                "citus_fence: cannot look for an interrupted clone split yet: {error}"
            )),
        }
        if pause(waiter, AGAIN) == Pause::Stopped {
            return Ok(None);
        }
    }
}

/// Does what looks at this server's own catalog, in the transaction that holds the lock.  Should it raise an error, that
/// transaction is over, and another begins; whoever came in between goes by the registry, as this one would have.
pub fn locally<R>(body: impl FnOnce() -> Result<R, CloneError>) -> Result<R, CloneError> {
    match worker::catch(body) {
        Ok(result) => {
            worker::forget_snapshot();
            result
        }
        Err(report) => {
            drop(Transaction::adopt_open());
            // Dropped with the first one, which is dropped whatever is open.
            std::mem::forget(Transaction::begin());
            if !NumberedLock::of_database(DRIVER).try_acquire(Mode::Alone) {
                return Err(CloneError::OtherSplit);
            }
            Err(report.into())
        }
    }
}

/// Everything up to the promotion, for as long as the caller wants it.
fn begin(map: &Map, clone: &mut Replica, tell: &mut dyn FnMut()) -> Result<Links, CloneError> {
    let mut waiter = Sliced(BackendWaiter::new(|| interrupts::terminated() || !is_waited_for()));
    let mut links = Links::connect(&mut waiter, map)?;
    let since = Instant::now();
    Drive { waiter: &mut waiter, map, clone, tell, since }.start(&mut links)?;
    Ok(links)
}

/// A session with this server.
pub fn connect_home<W: Waiter>(waiter: &mut W) -> Result<Session, CloneError> {
    match HOME.with_borrow(Clone::clone) {
        Some(target) => links::connect(waiter, &target),
        None => links::connect_home(waiter),
    }
}

/// A waiter that looks often whether it is to stop: nobody wakes it for that.
struct Sliced<W: Waiter>(W);

impl<W: Waiter> Waiter for Sliced<W> {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn wait(&mut self, interests: &[remote::Interest], timeout: Duration) -> remote::WaitEnd {
        const SLICE: Duration = Duration::from_millis(50);
        match self.0.wait(interests, timeout.min(SLICE)) {
            // An empty answer: whoever waits looks at its own deadline, and waits again.
            remote::WaitEnd::TimedOut if timeout > SLICE => remote::WaitEnd::Ready(Vec::new()),
            end => end,
        }
    }
}

/// A waiter for what has to be put back: after a SIGTERM it has some seconds for that.
struct Lasting {
    waiter: BackendWaiter<fn() -> bool>,
    until: Option<Deadline>,
}

impl Lasting {
    fn new() -> Self {
        Self { waiter: BackendWaiter::new(|| false), until: None }
    }
}

impl Waiter for Lasting {
    fn now(&self) -> Duration {
        self.waiter.now()
    }

    fn wait(&mut self, interests: &[remote::Interest], timeout: Duration) -> remote::WaitEnd {
        const GRACE: Duration = Duration::from_secs(10);
        if interrupts::terminated() {
            let until = *self.until.get_or_insert_with(|| Deadline::after(&self.waiter, GRACE));
            if until.expired(&self.waiter) {
                return remote::WaitEnd::Stopped;
            }
        }
        self.waiter.wait(interests, timeout)
    }
}

/// Starts a worker in each database, one after the other, that looks for an interrupted split there.
fn launch(_argument: i32, _extra: u64) {
    interrupts::install_worker_handlers();
    worker::connect_to_none();
    let transaction = Transaction::begin();
    let databases = worker::databases();
    drop(transaction);
    let mut waiter = BackendWaiter::new(interrupts::terminated);
    let mut found_nothing = true;
    for database in databases {
        let looked = worker::catch(|| look_into(&mut waiter, database));
        if looked.is_err() {
            drop(Transaction::adopt_open());
        }
        found_nothing &= looked.is_ok_and(|has_ended| has_ended);
        if interrupts::terminated() {
            return;
        }
    }
    if found_nothing {
        hint::forget();
    }
}

/// Starts one there, and waits a moment for it to end; whether it has.
fn look_into<W: Waiter>(waiter: &mut W, database: u32) -> bool {
    const TRIES: u32 = 60;
    const MOMENT: Duration = Duration::from_secs(2);
    for _ in 0..TRIES {
        let Some(handle) = start_in(database, 0) else {
            // All are in use: some of them may end.
            if pause(waiter, Duration::from_secs(1)) == Pause::Stopped {
                return false;
            }
            continue;
        };
        let by = Deadline::after(waiter, MOMENT);
        while !by.expired(waiter) {
            if matches!(handle.status(), Status::Stopped | Status::PostmasterDied) {
                return true;
            }
            if waiter.wait(&[], by.remaining(waiter)) == remote::WaitEnd::Stopped {
                return false;
            }
        }
        return false;
    }
    false
}
