//! The SQL functions of the backup block.  Glue only; what they do is in [`super::calls`].

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{default, name, pg_extern, search_path};

use super::calls::{
    block, database, extend, notice_unless_coordinator, require_preload, restore_point, unblock,
};
use super::control;
use super::error::BlockError;
use super::state::{Block, Failure, Moment, Named, State};
use super::waiters;
use crate::pg::types::{Lsn, Words};
use crate::pg::{elog, ident, wal};
use crate::report::Report;

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_backup_block_start(
    timeout_ms: default!(Option<i32>, "300000"),
    mode: default!(Option<Words>, "NULL"),
) -> i64 {
    or_raise(block("citus_backup_block_start()", timeout_ms, mode.as_deref()))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_backup_block_stop(block_id: Option<i64>) -> bool {
    or_raise(unblock(numbered(block_id)))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_backup_block_extend(
    block_id: Option<i64>,
    timeout_ms: Option<i32>,
) -> TimestampWithTimeZone {
    or_raise(extend(numbered(block_id), timeout_ms))
}

fn numbered(block_id: Option<i64>) -> Named {
    const ARGUMENT: &str = "block_id";
    Named::Number(or_raise(block_id.ok_or(BlockError::NullArgument { argument: ARGUMENT })))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_block_writes_for_backup(timeout_ms: default!(Option<i32>, "300000")) -> bool {
    or_raise(block("citus_block_writes_for_backup()", timeout_ms, None)) != 0
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_unblock_writes_for_backup() -> bool {
    or_raise(unblock(Named::Any))
}

/// The block that began then, and no other.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_unblock_backup_block(block_start_time: Option<TimestampWithTimeZone>) -> bool {
    const ARGUMENT: &str = "block_start_time";
    let start = or_raise(block_start_time.ok_or(BlockError::NullArgument { argument: ARGUMENT }));
    or_raise(unblock(Named::Start(Moment::from(start))))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_extend_backup_block(timeout_ms: Option<i32>) -> TimestampWithTimeZone {
    or_raise(extend(Named::Any, timeout_ms))
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
        name!(block_id, Option<i64>),
        name!(mode, Option<String>),
        name!(warning, Option<String>),
    ),
> {
    or_raise(require_preload());
    notice_unless_coordinator();
    let block = control::look(database()).map_or(Block::UNUSED, |(_, block)| block);
    let started = if block.state == State::Error { 0 } else { block.started() };
    // Where there is none, the one whose end the error tells of.
    let number = if block.is_live() || block.failure.is_some() { block.latest_number() } else { 0 };
    TableIterator::once((
        block.state.name().to_owned(),
        block.worker.map(|process| process.pid),
        block.requestor.map(|process| process.pid),
        moment(started),
        block.is_live().then_some(block.terms.timeout_ms),
        (block.active_at != 0).then_some(block.node_count as i32),
        moment(block.expires_at),
        error_text(&block.failure),
        (number != 0).then_some(number),
        block.is_live().then(|| block.terms.mode.name().to_owned()),
        block.warning.non_empty().map(str::to_owned),
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
        name!(block_id, i64),
        name!(mode, String),
    ),
> {
    or_raise(require_preload());
    let (block, rows) = control::manifest(database());
    let rows: Vec<_> = rows
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
                block.number,
                block.terms.mode.name().to_owned(),
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
    let (_, manifest) = control::manifest(database());
    let rows: Vec<_> = if manifest.is_empty() {
        Vec::new()
    } else {
        or_raise(waiters::find(&manifest))
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
    name: Option<Words>,
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
    let one_at_a_time = or_raise(restore_point(name.as_deref()));
    let (_, rows) = control::manifest(database());
    let rows: Vec<_> = rows
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
        or_raise(Err::<(), _>(BlockError::NoBlock));
    }
    TableIterator::new(rows)
}

/// Helpers that the extension calls on other nodes; users need none of them.
#[pgrx::pg_schema]
mod citus_fence {
    use super::{Lsn, TableIterator, ident, name, or_raise, wal};
    use crate::block::error::BlockError;
    use crate::pg::libpq;
    use pgrx::{pg_extern, search_path};

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn flush_wal() -> Lsn {
        libpq::require();
        if ident::in_recovery() {
            or_raise(Err::<(), _>(BlockError::InRecovery));
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
            or_raise(Err::<(), _>(BlockError::InRecovery));
        }
        crate::gate::stay_closed();
        // SQL has no unsigned numbers: the upper half of the identifiers shows as negative.
        TableIterator::once((
            Lsn(wal::flush()),
            ident::system_identifier() as i64,
            i64::from(wal::timeline()),
        ))
    }
}

fn or_raise<T>(result: Result<T, BlockError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
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
