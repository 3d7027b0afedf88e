//! The SQL functions of the backup fence.  Glue only: arguments are checked, the control block is
//! asked, answers are waited for.

use std::cell::Cell;
use std::time::Duration;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{default, name, pg_extern, pg_sys, search_path};

use super::control::{self, CONTROL};
use super::error::FenceError;
use super::handover::{Handover, Offer};
use super::state::{Block, Errand, Failure, Mode, Moment, Release, State, Terms, Token};
use super::text::Text;
use super::{MAX_TIMEOUT_MS, waiters, worker};
use crate::catalog::{self, CatalogError};
use crate::errors::Report;
use crate::guc;
use crate::pg::elog;
use crate::pg::ident;
use crate::pg::lock;
use crate::pg::types::Lsn;
use crate::pg::wait::{interruptible, wait_latch_or_client_gone};
use crate::pg::wal;
use crate::pg::worker::{Status, before_exit};
use remote::Deadline;

/// How often a waiting caller looks for a worker that died without a word.  Everything else wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_block_writes_for_backup(timeout_ms: default!(Option<i32>, "300000")) -> bool {
    or_raise(block(timeout_ms))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_unblock_writes_for_backup() -> bool {
    or_raise(unblock(None))
}

/// The block that began then, and no other.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_unblock_backup_block(block_start_time: Option<TimestampWithTimeZone>) -> bool {
    const ARGUMENT: &str = "block_start_time";
    let start = or_raise(block_start_time.ok_or(FenceError::NullArgument { argument: ARGUMENT }));
    or_raise(unblock(Some(start)))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_extend_backup_block(timeout_ms: Option<i32>) -> TimestampWithTimeZone {
    or_raise(extend(timeout_ms))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_backup_block_status() -> TableIterator<
    'static,
    (
        name!(state, String),
        name!(worker_pid, Option<i32>),
        name!(requestor_pid, Option<i32>),
        name!(block_start_time, Option<TimestampWithTimeZone>),
        name!(timeout_ms, Option<i32>),
        name!(node_count, Option<i32>),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(error, Option<String>),
    ),
> {
    or_raise(require_preload());
    notice_unless_coordinator();
    let block = control::look(database()).map_or(Block::UNUSED, |(_, block)| block);
    let started = if block.state == State::Error { 0 } else { block.started() };
    TableIterator::once((
        block.state.name().to_owned(),
        block.worker.map(|process| process.pid),
        block.requestor.map(|process| process.pid),
        moment(started),
        block.is_live().then_some(block.terms.timeout_ms),
        (block.active_at != 0).then_some(block.node_count as i32),
        moment(block.expires_at),
        error_text(&block.failure),
    ))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_backup_block_nodes() -> TableIterator<
    'static,
    (
        name!(nodeid, Option<i32>),
        name!(groupid, i32),
        name!(nodename, String),
        name!(nodeport, i32),
        name!(backend_pid, i32),
        name!(locked_at, Option<TimestampWithTimeZone>),
        name!(system_identifier, i64),
        name!(timeline_id, i32),
        name!(wal_lsn, Lsn),
    ),
> {
    or_raise(require_preload());
    let rows: Vec<_> = control::manifest(database())
        .into_iter()
        .map(|row| {
            (
                (row.nodeid != 0).then_some(row.nodeid),
                row.groupid,
                row.host.as_str().to_owned(),
                row.port,
                row.backend_pid,
                moment(row.locked_at),
                row.system_identifier as i64,
                row.timeline as i32,
                Lsn(row.wal_lsn),
            )
        })
        .collect();
    TableIterator::new(rows)
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_backup_block_waiters() -> TableIterator<
    'static,
    (
        name!(nodeid, Option<i32>),
        name!(nodename, String),
        name!(nodeport, i32),
        name!(pid, i32),
        name!(usename, Option<String>),
        name!(waiting_since, Option<TimestampWithTimeZone>),
        name!(query, Option<String>),
    ),
> {
    or_raise(require_preload());
    let manifest = control::manifest(database());
    let rows: Vec<_> = if manifest.is_empty() {
        Vec::new()
    } else {
        or_raise(waiters::find(&manifest, owner()))
            .into_iter()
            .map(|waiter| {
                (
                    (waiter.nodeid != 0).then_some(waiter.nodeid),
                    waiter.host,
                    waiter.port,
                    waiter.pid,
                    waiter.user,
                    waiter.since.and_then(moment),
                    waiter.query,
                )
            })
            .collect()
    };
    TableIterator::new(rows)
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_backup_restore_point(
    name: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(nodeid, Option<i32>),
        name!(groupid, i32),
        name!(nodename, String),
        name!(nodeport, i32),
        name!(restore_lsn, Lsn),
    ),
> {
    let one_at_a_time = or_raise(restore_point(name));
    let rows: Vec<_> = control::manifest(database())
        .into_iter()
        .map(|row| {
            (
                (row.nodeid != 0).then_some(row.nodeid),
                row.groupid,
                row.host.as_str().to_owned(),
                row.port,
                Lsn(row.restore_lsn),
            )
        })
        .collect();
    drop(one_at_a_time);
    if rows.is_empty() {
        // It was written, and then the block ended before anyone could read where.
        or_raise(Err::<(), _>(FenceError::NoBlock));
    }
    TableIterator::new(rows)
}

/// Helpers that the extension calls on other nodes; users need none of them.
#[pgrx::pg_schema]
mod citus_fence {
    use super::{Lsn, TableIterator, ident, name, or_raise, wal};
    use crate::fence::error::FenceError;
    use crate::pg::libpq;
    use pgrx::{pg_extern, search_path};

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn flush_wal() -> Lsn {
        libpq::require();
        if ident::in_recovery() {
            or_raise(Err::<(), _>(FenceError::InRecovery));
        }
        Lsn(wal::flush())
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn flush_and_identify() -> TableIterator<
        'static,
        (name!(lsn, Lsn), name!(system_identifier, i64), name!(timeline, i64)),
    > {
        libpq::require();
        if ident::in_recovery() {
            or_raise(Err::<(), _>(FenceError::InRecovery));
        }
        crate::readonly::stay_closed();
        // SQL has no unsigned numbers: the upper half of the identifiers shows as negative.
        TableIterator::once((
            Lsn(wal::flush()),
            ident::system_identifier() as i64,
            i64::from(wal::timeline()),
        ))
    }
}

fn or_raise<T>(result: Result<T, FenceError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}

fn database() -> u32 {
    ident::database().to_u32()
}

fn moment(moment: Moment) -> Option<TimestampWithTimeZone> {
    if moment == 0 { None } else { TimestampWithTimeZone::try_from(moment).ok() }
}

/// Everybody may know that and why a block failed; the detail may quote other sessions' queries, and is
/// for those who may read them anyway.
fn error_text(failure: &Failure) -> Option<String> {
    failure.is_some().then(|| match failure.detail.non_empty() {
        Some(detail) if ident::may_read_all_stats() => {
            format!("{}: {detail}", failure.message.as_str())
        }
        Some(_) | None => failure.message.as_str().to_owned(),
    })
}

fn require_preload() -> Result<(), FenceError> {
    if CONTROL.is_ready() { Ok(()) } else { Err(FenceError::NotPreloaded) }
}

/// What every function that changes something asks for first.
fn require_usable() -> Result<(), FenceError> {
    require_preload()?;
    if ident::in_recovery() {
        return Err(FenceError::InRecovery);
    }
    catalog::require_coordinator().map_err(FenceError::from)
}

/// Who looks at another node's status must not take it for the cluster's.
fn notice_unless_coordinator() {
    let detail = if ident::in_recovery() {
        "This server is a standby.".to_owned()
    } else {
        match catalog::require_coordinator() {
            Err(CatalogError::NotCoordinator { coordinator: Some(place) }) => {
                format!("This node is a worker; the coordinator is {place}.")
            }
            Err(CatalogError::NotCoordinator { coordinator: None }) => {
                "This node is a worker.".to_owned()
            }
            // Without a catalog there is no block on any node.
            Err(
                CatalogError::Missing
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
fn timeout(timeout_ms: Option<i32>) -> Result<i32, FenceError> {
    let given = timeout_ms.ok_or(FenceError::NullArgument { argument: "timeout_ms" })?;
    if (1..=MAX_TIMEOUT_MS).contains(&given) {
        Ok(given)
    } else {
        Err(FenceError::TimeoutOutOfRange { given })
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

/// Whether there is a block in this database.
pub fn is_held() -> bool {
    control::look(database()).is_some_and(|(_, block)| block.is_live())
}

/// The role that the extension's own sessions act as.
pub fn owner() -> pg_sys::Oid {
    lock::extension_owner(c"citus_fence").unwrap_or_else(ident::current_role)
}

/// How much later than the worker itself its requestor gives up: a worker may be at the last of its
/// bounded steps (connecting, letting go) when its time runs out.
const START_GRACE: Duration = Duration::from_secs(15);

thread_local! {
    /// The block that this session has begun and not yet been told of.
    static PENDING: Cell<Option<Token>> = const { Cell::new(None) };
    /// Whether the exit callback has been registered.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, every way out of this session gives the block up: an error drops it, and the end of
/// the process (termination, FATAL) runs the callback.
struct Pending(Token);

impl Pending {
    fn new(token: Token) -> Self {
        PENDING.set(Some(token));
        if !WATCHED.replace(true) {
            before_exit(on_exit);
        }
        Self(token)
    }

    /// The caller is about to be told; the block lives on without it.
    fn told(self) {
        PENDING.set(None);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if PENDING.take().is_some() {
            control::abandon(self.0);
        }
    }
}

fn on_exit() {
    if let Some(token) = PENDING.take() {
        control::abandon(token);
    }
}

fn block(timeout_ms: Option<i32>) -> Result<bool, FenceError> {
    let timeout_ms = timeout(timeout_ms)?;
    require_usable()?;
    let terms = Terms {
        mode: match guc::BLOCK_MODE.get() {
            guc::BlockMode::TwoPhase => Mode::TwoPhase,
            guc::BlockMode::All => Mode::All,
        },
        timeout_ms,
        acquire_timeout_ms: guc::ACQUIRE_TIMEOUT.get(),
        lock_timeout_ms: guc::LOCK_TIMEOUT.get(),
        connect_timeout_ms: guc::CONNECT_TIMEOUT.get(),
        owner: owner().to_u32(),
    };
    let token = control::begin(database(), terms)?;
    let pending = Pending::new(token);
    // Whatever keeps it from being read, the worker meets it too: it waits for as long as it may, and tells.
    let known = if catalog::can_be_read() { Handover::read(&terms).ok() } else { None };
    let _offer = known.map(|known| Offer::put(token, &known));
    let handle = worker::start(token).ok_or(FenceError::NoWorkerSlot)?;
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
            pending.told();
            if failure.message.as_str()
                == (FenceError::WorkerNotConnected { why: None }).to_string()
            {
                return Err(FenceError::WorkerNotConnected { why: why_not_connected() });
            }
            if failure.is_some() {
                elog::raise(&Report::from(&failure));
            }
            return Err(FenceError::ReleasedWhileStarting);
        }
        if block.state == State::Active {
            pending.told();
            if let Some(warning) = block.warning.non_empty() {
                elog::emit(
                    pgrx::PgLogLevel::WARNING,
                    &Report::new(pgrx::PgSqlErrorCode::ERRCODE_WARNING, warning),
                );
            }
            return Ok(true);
        }
        match status {
            Status::Stopped => return Err(FenceError::WorkerVanished),
            Status::NotYetStarted | Status::Started | Status::PostmasterDied => {}
        }
        // The worker keeps its own time; this is for one that never came up, or stands still.
        if start_by.expired(&interruptible()) {
            return Err(FenceError::WorkerSilent);
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            return Err(FenceError::ClientGone);
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

/// Releases the block of this database, or only the one that began at `start`.
fn unblock(start: Option<TimestampWithTimeZone>) -> Result<bool, FenceError> {
    require_usable()?;
    let asked = control::ask_release(database(), start.map(Moment::from));
    warn_of_end("a backup block before this one ended by itself", &asked.earlier);
    match (asked.release, asked.token) {
        (Release::Over, _) => {
            warn_of_over(&asked);
            Ok(false)
        }
        (Release::Nothing, _) | (_, None) => {
            warn_of_end("the last backup block ended by itself", &asked.failure);
            Ok(false)
        }
        (Release::Cleared, _) => {
            warn_of_end("the backup block had been lost", &asked.failure);
            Ok(true)
        }
        (Release::Asked(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            // What became of a start is its requestor's to know, but for nodes that have yet to let go.
            if !asked.was_starting
                || failure.sqlstate == pgrx::PgSqlErrorCode::ERRCODE_WARNING as i32
            {
                warn_of_end("the backup block did not end in order", &failure);
            }
            Ok(true)
        }
        (Release::Joined(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            warn("another session had already asked for the release of the backup block", None);
            warn_of_end("the backup block did not end in order", &failure);
            Ok(true)
        }
        (Release::GivenUp(generation), Some(token)) => {
            let failure = wait_for_end(token, generation)?;
            let left =
                "the caller of the backup block had given it up before it heard that it was active";
            warn(left, None);
            warn_of_end("the backup block did not end in order", &failure);
            Ok(true)
        }
    }
}

fn wait_for_end(token: Token, generation: u64) -> Result<Failure, FenceError> {
    loop {
        let _listening = control::listen(token);
        // look() also clears a block whose worker is gone.
        control::look(database());
        if let Some(failure) = control::read(token).outcome(generation) {
            return Ok(failure);
        }
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            // The release has been asked for and takes its way without this session.
            return Err(FenceError::ClientGone);
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
fn warn_of_over(asked: &control::Asked) {
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
    warn("the backup block with this block_start_time is over", detail);
}

fn warn(message: &str, detail: Option<String>) {
    let mut report = Report::new(pgrx::PgSqlErrorCode::ERRCODE_WARNING, message)
        .hint("Do not rely on copies that were being taken under it.");
    report.detail = detail;
    elog::emit(pgrx::PgLogLevel::WARNING, &report);
}

fn extend(timeout_ms: Option<i32>) -> Result<TimestampWithTimeZone, FenceError> {
    let timeout_ms = timeout(timeout_ms)?;
    require_usable()?;
    let _one_at_a_time = lock::ErrandLock::acquire();
    let block = run_errand(Errand::Extend(timeout_ms))?;
    moment(block.expires_at).ok_or(FenceError::NoBlock)
}

/// Writes a restore point.  The lock keeps others' errands off until the caller has read the answer.
fn restore_point(name: Option<&str>) -> Result<lock::ErrandLock, FenceError> {
    let name = name.ok_or(FenceError::NullArgument { argument: "name" })?;
    if name.is_empty() || name.len() > LONGEST_RESTORE_POINT_NAME {
        return Err(FenceError::RestorePointName);
    }
    require_usable()?;
    if !wal::is_enough_for_recovery() {
        return Err(FenceError::WalLevel);
    }
    let one_at_a_time = lock::ErrandLock::acquire();
    run_errand(Errand::RestorePoint(Text::new(name))).map(|_| one_at_a_time)
}

/// The server's own bound, without the byte that ends the text.
const LONGEST_RESTORE_POINT_NAME: usize = pg_sys::MAXFNAMELEN as usize - 1;

/// Has the worker of this database's block do something, and waits until it is done.
fn run_errand(errand: Errand) -> Result<Block, FenceError> {
    let (token, _) = control::look(database()).ok_or(FenceError::NoBlock)?;
    let mut number = None;
    loop {
        let _listening = control::listen(token);
        if number.is_none() {
            number = control::post(token, errand)?;
        }
        let block = control::read(token);
        if let Some(failure) = block.outcome(token.generation) {
            if failure.is_some() {
                elog::raise(&Report::from(&failure));
            }
            return Err(FenceError::NoBlock);
        }
        if number.is_some_and(|number| block.errands.done >= number) {
            if block.errands.done == number.unwrap_or_default() && block.errands.answer.is_some() {
                elog::raise(&Report::from(&block.errands.answer));
            }
            return Ok(block);
        }
        control::look(database());
        if wait_latch_or_client_gone(LOOK_AGAIN) {
            return Err(FenceError::ClientGone);
        }
    }
}
