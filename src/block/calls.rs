//! What the calls of the sessions do: check, ask the control block, wait for the answer, say it.

use std::time::Duration;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use remote::Deadline;

use super::control::{self, CONTROL};
use super::error::BlockError;
use super::handover::{self, Offer};
use super::state::{Block, Errand, Failure, Mode, Named, Release, State, Terms, Token};
use super::{MAX_TIMEOUT_MS, other_databases, worker};
use crate::citus::{self, CatalogError, Roster, identity};
use crate::fence::FenceError;
use crate::fence::text::Text;
use crate::fence::under_way::{self, UnderWay};
use crate::gate;
use crate::guc;
use crate::pg::elog;
use crate::pg::exit::{Armed, Undo};
use crate::pg::ident;
use crate::pg::lock;
use crate::pg::wait::{interruptible, require_client, wait_latch_or_client_gone};
use crate::pg::wal;
use crate::pg::worker::{Handle, Status};
use crate::report::Report;

/// How often a waiting caller looks for a worker that died without a word.  Everything else wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The database of this session.
pub fn database() -> u32 {
    ident::database().to_u32()
}

/// An error where the library was not preloaded.
pub fn require_preload() -> Result<(), BlockError> {
    if CONTROL.is_ready() { Ok(()) } else { Err(BlockError::NotPreloaded) }
}

/// What every function that changes something asks for first.
fn require_usable() -> Result<(), BlockError> {
    require_preload()?;
    if ident::in_recovery() {
        return Err(BlockError::InRecovery);
    }
    let bound = Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64);
    citus::require_coordinator(&mut interruptible(), bound)?;
    Ok(())
}

/// The same for what acts on the block that there is.  Where there is one, this is the coordinator, and the
/// catalog is not asked: whoever keeps it to himself keeps nobody from ending a block.
fn require_usable_or_block() -> Result<(), BlockError> {
    require_preload()?;
    match control::look(database()) {
        Some((_, block)) if block.state != State::Inactive => Ok(()),
        Some(_) | None => require_usable(),
    }
}

/// Who looks at another node's status must not take it for the cluster's.
pub fn notice_unless_coordinator() {
    let detail = if ident::in_recovery() {
        "This server is a standby.".to_owned()
    } else {
        match citus::require_coordinator(&mut interruptible(), Duration::ZERO) {
            Err(CatalogError::NotCoordinator { coordinator: Some(place) }) => {
                format!("This node is a worker; the coordinator is {place}.")
            }
            Err(CatalogError::NotCoordinator { coordinator: None }) => {
                "This node is a worker.".to_owned()
            }
            Err(CatalogError::NoNodes { .. }) => {
                "This node knows no nodes, like a worker whose metadata was taken from it."
                    .to_owned()
            }
            // Without a catalog there is no block on any node.
            Err(
                CatalogError::Missing
                | CatalogError::Locked
                | CatalogError::BadConnInfo { .. }
                | CatalogError::Read { .. },
            )
            | Ok(()) => return,
        }
    };
    let report = Report::new(
        pgrx::PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
        "only the coordinator's primary knows of a backup block",
    )
    .detail(detail);
    elog::emit(pgrx::PgLogLevel::NOTICE, &report);
}

/// A timeout argument, checked.
fn timeout(timeout_ms: Option<i32>) -> Result<i32, BlockError> {
    let given = timeout_ms.ok_or(BlockError::NullArgument { argument: "timeout_ms" })?;
    if (1..=MAX_TIMEOUT_MS).contains(&given) {
        Ok(given)
    } else {
        Err(BlockError::TimeoutOutOfRange { given })
    }
}

/// The one value that a query gives.  Unlike [`pgrx::Spi::get_one`] it only reads, and so gives a transaction
/// that has written nothing no transaction id.
fn spi_one<T: pgrx::FromDatum + pgrx::IntoDatum>(query: &str) -> pgrx::spi::Result<Option<T>> {
    pgrx::Spi::connect(|client| {
        let rows = client.select(query, Some(1), &[])?;
        if rows.is_empty() { Ok(None) } else { rows.first().get::<T>(1) }
    })
}

/// What the block is called among the operations that exclude each other.
pub const OPERATION: &str = "block";

/// The block of this database as others see it who exclude it.
pub fn under_way() -> Option<UnderWay> {
    if !CONTROL.is_ready() {
        return None;
    }
    let is_live = control::look(database()).is_some_and(|(_, block)| block.is_live());
    is_live.then_some(UnderWay {
        what: "a backup block is held",
        hint: "See citus_backup_block_status(); to end the block: SELECT citus_unblock_writes_for_backup();",
    })
}

/// How much later than the worker itself its requestor gives up: a worker may be at the last of its
/// bounded steps (connecting, letting go) when its time runs out.
const START_GRACE: Duration = Duration::from_secs(15);

/// The block that this session has begun and not yet been told of: every way out gives it up.
static PENDING: Undo<Token> = Undo::new(control::abandon);

/// A block that has been begun.
struct Begun {
    token: Token,
    number: i64,
}

/// Begins a block and starts its worker.  All background workers may be in use for a moment, by parallel queries say:
/// so that is tried again for as long as the start may take.
fn begin_with_worker(
    mut terms: Terms,
    known: Option<&Roster>,
) -> Result<(Begun, Armed<Token>, Option<Offer>, Handle), BlockError> {
    const AGAIN: Duration = Duration::from_millis(50);
    let limit_ms = terms.acquire_timeout_ms.min(terms.timeout_ms);
    let limit = Deadline::after(&interruptible(), Duration::from_millis(limit_ms as u64));
    let mut has_been_told = false;
    loop {
        let (token, number) = control::begin(database(), terms)?;
        let pending = PENDING.arm(token);
        let offer = known.map(|known| Offer::put(token, known));
        if let Some(handle) = worker::start(token) {
            return Ok((Begun { token, number }, pending, offer, handle));
        }
        if !has_been_told {
            has_been_told = true;
            elog::log(
                "citus_fence: all of max_worker_processes are in use; a backup block waits for one",
            );
        }
        // Nobody else is kept from beginning meanwhile.
        drop(pending);
        let left = limit.remaining(&interruptible());
        if left < AGAIN {
            return Err(BlockError::NoWorkerSlot);
        }
        if wait_latch_or_client_gone(AGAIN) {
            return Err(BlockError::ClientGone);
        }
        terms.acquire_timeout_ms = (left - AGAIN).as_millis().max(1) as i32;
    }
}

/// The mode that is asked for, or that the setting says.
fn mode(given: Option<&str>) -> Result<Mode, BlockError> {
    match given {
        Some(name) => {
            Mode::parse(name).ok_or_else(|| BlockError::UnknownMode { given: name.to_owned() })
        }
        None => Ok(match guc::BLOCK_MODE.get() {
            guc::BlockMode::TwoPhase => Mode::TwoPhase,
            guc::BlockMode::All => Mode::All,
        }),
    }
}

/// Begins a block, and returns when it is active: its number.
pub fn block(
    function: &'static str,
    timeout_ms: Option<i32>,
    given_mode: Option<&str>,
) -> Result<i64, BlockError> {
    let timeout_ms = timeout(timeout_ms)?;
    let mode = mode(given_mode)?;
    require_usable()?;
    if gate::is_writing() {
        return Err(BlockError::HasWritten { function });
    }
    if let Some(table) = citus::own_lock() {
        return Err(BlockError::HasLocked { function, table });
    }
    if let Some(other) = under_way::look_but(OPERATION) {
        return Err(BlockError::UnderWay(other));
    }
    let terms = Terms {
        mode,
        timeout_ms,
        acquire_timeout_ms: guc::ACQUIRE_TIMEOUT.get(),
        lock_timeout_ms: guc::LOCK_TIMEOUT.get(),
        connect_timeout_ms: guc::CONNECT_TIMEOUT.get(),
        owner: citus::own_role().to_u32(),
    };
    identity::owner_must_be_superuser().map_err(FenceError::from)?;
    // Whatever keeps it from being read, the worker meets it too: it waits for as long as it may, and tells.
    let known = citus::read_now(citus::OF_NODES, || handover::read(&terms)).and_then(Result::ok);
    let (begun, pending, _offer, handle) = begin_with_worker(terms, known.as_ref())?;
    let Begun { token, number } = begun;
    // From here on others see this one; who has begun since that look is seen here.
    if let Some(other) = under_way::look_but(OPERATION) {
        return Err(BlockError::UnderWay(other));
    }
    // While the worker gets its fence.
    let elsewhere = known.and_then(|known| other_databases::look(&known));
    let start_by = Deadline::after(
        &interruptible(),
        Duration::from_millis(terms.acquire_timeout_ms.min(timeout_ms) as u64) + START_GRACE,
    );
    loop {
        let _listening = control::listen(token);
        // Before the state: a worker that has stopped by now has written its last word there.
        let status = handle.status();
        let block = control::read(token);
        if let Some(failure) = block.outcome(token.generation) {
            pending.done();
            if failure.message.as_str()
                == (BlockError::WorkerNotConnected { why: None }).to_string()
            {
                return Err(BlockError::WorkerNotConnected { why: why_not_connected() });
            }
            if failure.is_some() {
                elog::raise(&Report::from(&failure));
            }
            return Err(BlockError::ReleasedWhileStarting);
        }
        if block.state == State::Active {
            pending.done();
            if let Some(notice) = &elsewhere {
                elog::emit(pgrx::PgLogLevel::NOTICE, notice);
            }
            if let Some(warning) = block.warning.non_empty() {
                elog::emit(
                    pgrx::PgLogLevel::WARNING,
                    &Report::new(pgrx::PgSqlErrorCode::ERRCODE_WARNING, warning),
                );
            }
            return Ok(number);
        }
        match status {
            Status::Stopped => return Err(BlockError::WorkerVanished),
            Status::NotYetStarted | Status::Started | Status::PostmasterDied => {}
        }
        // The worker keeps its own time; this is for one that never came up, or stands still.
        if start_by.expired(&interruptible()) {
            return Err(BlockError::WorkerSilent);
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            return Err(BlockError::ClientGone);
        }
    }
}

/// What keeps a worker from connecting, although this session could.
fn why_not_connected() -> Option<&'static str> {
    let says_no = |query| matches!(spi_one::<bool>(query), Ok(Some(false)));
    if says_no(
        "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
    ) {
        return Some(
            "This database does not allow connections (pg_database.datallowconn is false).",
        );
    }
    let owner_logs_in = "SELECT r.rolcanlogin FROM pg_catalog.pg_extension e \
                           JOIN pg_catalog.pg_roles r ON r.oid = e.extowner \
                          WHERE e.extname = 'citus_fence'";
    says_no(owner_logs_in)
        .then_some("The owner of the extension citus_fence is not allowed to log in.")
}

/// Releases the block that is meant.  True only if that block lasted until this call and this call ended it: roles,
/// drivers and poolers drop a WARNING, so whatever a caller has to act on is in the result.
pub fn unblock(named: Named) -> Result<bool, BlockError> {
    require_usable_or_block()?;
    let asked = control::ask_release(database(), named);
    // Whoever says no name may mean that one.
    warn_of_end("a backup block before this one ended by itself", &asked.earlier);
    match (asked.release, asked.token) {
        (Release::Over, _) => {
            warn_of_over(named, &asked);
            Ok(false)
        }
        (Release::Nothing, _) | (_, None) => {
            warn_of_end("the last backup block ended by itself", &asked.failure);
            Ok(false)
        }
        (Release::Cleared, _) => {
            warn_of_end("the backup block had been lost", &asked.failure);
            Ok(false)
        }
        (Release::Unstarted(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            warn("the backup block had not become active, so that nothing was under it", None);
            // What became of a start is its requestor's to know, but for nodes that have yet to let go.
            if failure.sqlstate == pgrx::PgSqlErrorCode::ERRCODE_WARNING as i32 {
                warn_of_end("the backup block did not end in order", &failure);
            }
            Ok(false)
        }
        (Release::Asked(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            warn_of_end("the backup block did not end in order", &failure);
            Ok(!failure.is_some() && !asked.earlier.is_some())
        }
        (Release::Joined(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            warn("another session had already asked for the release of the backup block", None);
            warn_of_end("the backup block did not end in order", &failure);
            Ok(false)
        }
        (Release::GivenUp(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            warn_of_end("the backup block did not end in order", &failure);
            Ok(false)
        }
    }
}

fn wait_for_end(token: Token, generation: u64) -> Result<Failure, BlockError> {
    loop {
        let _listening = control::listen(token);
        // look() also clears a block whose worker is gone.
        control::look(database());
        if let Some(failure) = control::read(token).outcome(generation) {
            return Ok(failure);
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            // The release has been asked for and takes its way without this session.
            return Err(BlockError::ClientGone);
        }
    }
}

/// An operator who ends a backup must hear that it was not under the block all the time.
fn warn_of_end(what: &str, failure: &Failure) {
    if failure.is_some() {
        let detail = failure.detail.non_empty().map(str::to_owned);
        warn(&format!("{what}: {}", failure.message.as_str()), detail);
    }
}

/// The block that the caller named is over; what there is instead is somebody else's.
fn warn_of_over(named: Named, asked: &control::Asked) {
    let mut detail = Vec::new();
    if asked.failure.is_some() {
        detail.push(format!("It ended with: {}.", asked.failure.message.as_str()));
    }
    match asked.state {
        State::Inactive => {}
        State::Starting | State::Active | State::Releasing => detail.push(format!(
            "The state of this database's block is \"{}\": another one, which has been left as it is.",
            asked.state.name()
        )),
        State::Error => detail.push(
            "Another block has been lost since; that has been left to whoever began it.".to_owned(),
        ),
    }
    let detail = (!detail.is_empty()).then(|| detail.join(" "));
    match named {
        Named::Number(number) => warn(&format!("backup block {number} is over"), detail),
        Named::Any | Named::Start(_) => {
            warn("the backup block with this block_start_time is over", detail);
        }
    }
}

fn warn(message: &str, detail: Option<String>) {
    let mut report = Report::new(pgrx::PgSqlErrorCode::ERRCODE_WARNING, message)
        .hint("Do not rely on copies that were being taken under it.");
    report.detail = detail;
    elog::emit(pgrx::PgLogLevel::WARNING, &report);
}

/// Moves the deadline of the active block that is meant.
pub fn extend(named: Named, timeout_ms: Option<i32>) -> Result<TimestampWithTimeZone, BlockError> {
    let timeout_ms = timeout(timeout_ms)?;
    require_usable_or_block()?;
    let _one_at_a_time = errand_lock();
    let block = run_errand(named, Errand::Extend(timeout_ms))?;
    TimestampWithTimeZone::try_from(block.expires_at).map_err(|_| BlockError::NoBlock)
}

/// Writes a restore point.  The lock keeps others' errands off until the caller has read the answer.
pub fn restore_point(name: Option<&str>) -> Result<lock::ErrandLock, BlockError> {
    let name = name.ok_or(BlockError::NullArgument { argument: "name" })?;
    if name.is_empty() || name.len() > LONGEST_RESTORE_POINT_NAME {
        return Err(BlockError::RestorePointName);
    }
    require_usable_or_block()?;
    if !wal::is_enough_for_recovery() {
        return Err(BlockError::WalLevel);
    }
    let one_at_a_time = errand_lock();
    run_errand(Named::Any, Errand::RestorePoint(Text::new(name))).map(|_| one_at_a_time)
}

/// Waits for its turn.  A caller that is gone meanwhile asks for nothing any more.
fn errand_lock() -> lock::ErrandLock {
    let one_at_a_time = lock::ErrandLock::acquire();
    require_client();
    one_at_a_time
}

/// The server's own bound, without the byte that ends the text.
const LONGEST_RESTORE_POINT_NAME: usize = pg_sys::MAXFNAMELEN as usize - 1;

/// The errand that this session waits for: every way out before its answer takes it back.
static POSTED: Undo<(Token, u64)> = Undo::new(control::withdraw);

/// Has the worker of this database's block do something, and waits until it is done.
fn run_errand(named: Named, errand: Errand) -> Result<Block, BlockError> {
    let looked = control::look(database());
    if let Named::Number(number) = named
        && !looked.as_ref().is_some_and(|(_, block)| block.is_live() && block.is_called(named))
    {
        let why = looked.and_then(|(_, mut block)| {
            block.take_reason_of(named).message.non_empty().map(str::to_owned)
        });
        return Err(BlockError::Over { number, why });
    }
    let (token, _) = looked.ok_or(BlockError::NoBlock)?;
    let mut number = None;
    let mut posted = None;
    loop {
        let _listening = control::listen(token);
        if number.is_none() {
            number = control::post(token, errand)?;
            posted = number.map(|number| POSTED.arm((token, number)));
        }
        let block = control::read(token);
        if let Some(failure) = block.outcome(token.generation) {
            drop(posted);
            if failure.is_some() {
                elog::raise(&Report::from(&failure));
            }
            return Err(BlockError::NoBlock);
        }
        if number.is_some_and(|number| block.errands.done >= number) {
            if let Some(posted) = posted {
                posted.done();
            }
            if block.errands.done == number.unwrap_or_default() && block.errands.answer.is_some() {
                elog::raise(&Report::from(&block.errands.answer));
            }
            return Ok(block);
        }
        control::look(database());
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            return Err(BlockError::ClientGone);
        }
    }
}
