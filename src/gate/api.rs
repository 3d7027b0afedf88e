//! The SQL functions of the gate.  Glue only; the views are in `sql/gate.sql`.

use std::sync::atomic::Ordering;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::name;

use super::area::{AREA, NodeState};
use super::error::GateError;
use crate::pg::elog;
use crate::pg::types::{Lsn, Words};
use crate::report::Report;

/// What users need less often.
#[pgrx::pg_schema]
mod citus_fence {
    use super::{
        AREA, GateError, Lsn, NodeState, Ordering, TableIterator, TimestampWithTimeZone, Words,
        name, or_raise,
    };
    use crate::gate::{Gate, closing, reservation};
    use crate::pg::{ident, libpq, text_sql};
    use pgrx::{pg_extern, search_path};

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn lock_gate(gate: Option<Words>) {
        let name = or_raise(gate.ok_or(GateError::NullArgument { argument: "gate" }));
        let gate =
            or_raise(Gate::parse(&name).ok_or(GateError::UnknownGate { given: name.to_string() }));
        or_raise(closing::close(gate, || {
            // Only for a better error: whatever keeps it from being read leaves it out.
            let rows = text_sql::query(PREPARED_HOLDERS, &[]).unwrap_or_default();
            rows.into_iter().flatten().flatten().collect()
        }));
    }

    /// Prepared transactions of this database that have passed a gate.
    const PREPARED_HOLDERS: &str = "SELECT DISTINCT pg_catalog.quote_literal(gid) \
         FROM citus_fence.gate_blockers \
         WHERE gid IS NOT NULL AND database = pg_catalog.current_database()";

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn commands_in_steps() -> TableIterator<'static, (name!(pid, i32),)> {
        libpq::require();
        let processes = AREA.in_steps().into_iter().map(|process| (process.pid,));
        TableIterator::new(processes.collect::<Vec<_>>())
    }

    /// What was given, or the error that nothing was.
    fn given<T>(value: Option<T>, argument: &'static str) -> T {
        or_raise(value.ok_or(GateError::NullArgument { argument }))
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn reserve_node(clone_id: Option<i32>, token: Option<Words>) {
        let clone = given(clone_id, "clone_id");
        or_raise(reservation::reserve(clone, &given(token, "token")));
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn enter_reserved_node(token: Option<Words>) {
        or_raise(reservation::enter(&given(token, "token")));
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn release_node(token: Option<Words>) {
        or_raise(reservation::release(&given(token, "token")));
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn release_node_by_force(clone_id: Option<i32>) {
        or_raise(reservation::release_by_force(given(clone_id, "clone_id")));
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn reserved_for() -> Option<i32> {
        let node = or_raise(AREA.node().ok_or(GateError::NotPreloaded));
        (node.state() == NodeState::Reserved).then(|| node.clone_id())
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    #[allow(clippy::type_complexity)]
    fn node_gate() -> TableIterator<
        'static,
        (
            name!(state, String),
            name!(read_only_since, Option<TimestampWithTimeZone>),
            name!(read_only_lsn, Option<Lsn>),
            name!(refused, i64),
            name!(waited, i64),
            name!(terminated, i64),
            name!(ungated_commits, i64),
        ),
    > {
        let node = or_raise(AREA.node().ok_or(GateError::NotPreloaded));
        let state = node.state();
        let is_closed = state == NodeState::ReadOnly;
        let name = match state {
            NodeState::ReadWrite if ident::in_recovery() => "standby",
            other => other.name(),
        };
        let counters = node.counters();
        let count = |counter: &std::sync::atomic::AtomicU64| {
            i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        TableIterator::once((
            name.to_owned(),
            is_closed.then(|| TimestampWithTimeZone::try_from(node.since()).ok()).flatten(),
            (is_closed && node.lsn() != 0).then(|| Lsn(node.lsn())),
            count(&counters.refused),
            count(&counters.waited),
            count(&counters.terminated),
            count(&counters.ungated),
        ))
    }
}

pgrx::extension_sql_file!(
    "../../sql/gate.sql",
    name = "gate",
    requires = [
        citus_fence::commands_in_steps,
        citus_fence::enter_reserved_node,
        citus_fence::lock_gate,
        citus_fence::node_gate,
        citus_fence::release_node,
        citus_fence::release_node_by_force,
        citus_fence::reserve_node,
        citus_fence::reserved_for
    ],
);

fn or_raise<T>(result: Result<T, GateError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}
