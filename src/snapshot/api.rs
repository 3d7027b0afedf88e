//! The SQL functions of the cluster snapshot. Glue only; what they do is in [`super::calls`].

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{default, name, pg_extern, search_path};

use super::calls;
use super::error::SnapshotError;
use super::state::{Moment, State};
use crate::pg::elog;
use crate::pg::types::{Lsn, Words};
use crate::report::Report;

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_export_cluster_snapshot(
    timeout_ms: default!(Option<i32>, "60000"),
    mode: default!(Option<Words>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(export_id, i64),
        name!(nodeid, Option<i32>),
        name!(groupid, i32),
        name!(nodename, String),
        name!(nodeport, i32),
        name!(snapshot_id, String),
        name!(wal_lsn, Lsn),
        name!(held_mode, String),
    ),
> {
    let (export_id, held, rows) = or_raise(calls::export(timeout_ms, mode.as_deref()));
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            (
                export_id,
                (row.nodeid != 0).then_some(row.nodeid),
                row.groupid,
                row.host.as_str().to_owned(),
                row.port,
                row.snapshot_id.as_str().to_owned(),
                Lsn(row.wal_lsn),
                held.name().to_owned(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_release_cluster_snapshot(export_id: Option<i64>) -> bool {
    or_raise(calls::release(export_id))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_extend_cluster_snapshot(
    export_id: Option<i64>,
    timeout_ms: Option<i32>,
) -> Option<TimestampWithTimeZone> {
    moment(or_raise(calls::extend(export_id, timeout_ms)))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_cluster_snapshot_status() -> TableIterator<
    'static,
    (
        name!(export_id, i64),
        name!(state, String),
        name!(mode, String),
        name!(worker_pid, Option<i32>),
        name!(requestor_pid, Option<i32>),
        name!(start_time, Option<TimestampWithTimeZone>),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(node_count, Option<i32>),
        name!(error, Option<String>),
    ),
> {
    let rows: Vec<_> = or_raise(calls::status())
        .into_iter()
        .map(|export| {
            (
                export.id,
                export.state.name().to_owned(),
                export.terms.mode.name().to_owned(),
                export.worker.map(|process| process.pid),
                export.requestor.map(|process| process.pid),
                moment(export.started_at),
                moment(export.expires_at),
                (export.state == State::Held).then_some(export.count as i32),
                export.failure.is_some().then(|| export.failure.message.as_str().to_owned()),
            )
        })
        .collect();
    TableIterator::new(rows)
}

pgrx::extension_sql_file!(
    "../../sql/snapshot.sql",
    name = "snapshot",
    requires = [
        citus_export_cluster_snapshot,
        citus_release_cluster_snapshot,
        citus_extend_cluster_snapshot,
        citus_cluster_snapshot_status
    ],
);

fn moment(moment: Moment) -> Option<TimestampWithTimeZone> {
    if moment == 0 { None } else { TimestampWithTimeZone::try_from(moment).ok() }
}

fn or_raise<T>(result: Result<T, SnapshotError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}
