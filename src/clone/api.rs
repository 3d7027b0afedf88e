//! The SQL functions.  Glue only.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::{default, name, pg_extern, search_path};

use super::CloneError;
use super::calls::{self, Named};
use crate::pg::elog;
use crate::pg::types::{Lsn, Name, Words};
use crate::report::Report;

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_add_clone_node(
    replica_hostname: Option<Words>,
    replica_port: Option<i32>,
    primary_hostname: Option<Words>,
    primary_port: Option<i32>,
) -> i32 {
    let host = given(replica_hostname, "replica_hostname");
    let port = given(replica_port, "replica_port");
    let primary = given(primary_hostname, "primary_hostname");
    let source = Named::At(&primary, given(primary_port, "primary_port"));
    or_raise(calls::add(&host, port, source))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_add_clone_node_with_nodeid(
    replica_hostname: Option<Words>,
    replica_port: Option<i32>,
    primary_nodeid: Option<i32>,
) -> i32 {
    let host = given(replica_hostname, "replica_hostname");
    let port = given(replica_port, "replica_port");
    let source = Named::Numbered(given(primary_nodeid, "primary_nodeid"));
    or_raise(calls::add(&host, port, source))
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_remove_clone_node(nodename: Option<Words>, nodeport: Option<i32>) {
    let host = given(nodename, "nodename");
    let named = Named::At(&host, given(nodeport, "nodeport"));
    or_raise(calls::remove(named));
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_remove_clone_node_with_nodeid(nodeid: Option<i32>) {
    or_raise(calls::remove(Named::Numbered(given(nodeid, "nodeid"))));
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_promote_clone_and_rebalance(
    clone_nodeid: Option<i32>,
    rebalance_strategy: default!(Option<Name>, "NULL"),
    catchup_timeout_seconds: default!(Option<i32>, "300"),
) {
    let strategy = rebalance_strategy.map(|Name(name)| name);
    let timeout = given(catchup_timeout_seconds, "catchup_timeout_seconds");
    or_raise(calls::promote(given(clone_nodeid, "clone_nodeid"), strategy.as_deref(), timeout));
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_clone_status() -> TableIterator<
    'static,
    (
        name!(clone_nodeid, i32),
        name!(nodename, String),
        name!(nodeport, i32),
        name!(source_nodeid, i32),
        name!(step, String),
        name!(step_since, Option<TimestampWithTimeZone>),
        name!(lag_bytes, Option<i64>),
        name!(last_error, Option<String>),
        name!(fork_timeline, Option<i32>),
        name!(fork_lsn, Option<Lsn>),
    ),
> {
    let rows = or_raise(calls::status()).into_iter().map(|row| {
        let (timeline, lsn) = (row.fork_timeline, row.fork_lsn);
        (
            row.nodeid,
            row.host,
            row.port,
            row.source,
            row.step,
            row.since,
            row.lag,
            row.last_error,
            timeline,
            lsn,
        )
    });
    TableIterator::new(rows)
}

/// Helpers that the extension calls on other nodes; users need none of them.
#[pgrx::pg_schema]
mod citus_fence {
    use super::{given, or_raise};
    use crate::clone::calls;
    use crate::pg::advisory_lock::{self, ALONE};
    use pgrx::{pg_extern, search_path};

    /// The class with which Citus keeps moves of colocated shards apart.
    const PLACEMENT_COLOCATION: u16 = 13;

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn lock_placement_colocation(ids: pgrx::Array<'_, i64>) {
        // In order, as Citus takes them.
        let mut ids: Vec<i64> = ids.iter().flatten().collect();
        ids.sort_unstable();
        for id in ids {
            advisory_lock::acquire(PLACEMENT_COLOCATION, id, ALONE);
        }
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn give_up_clone_by_force(clone_nodeid: Option<i32>) {
        or_raise(calls::give_up(given(clone_nodeid, "clone_nodeid")));
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn leave_out_node_by_force(clone_nodeid: Option<i32>, nodeid: Option<i32>) {
        let clone = given(clone_nodeid, "clone_nodeid");
        or_raise(calls::leave_out(clone, given(nodeid, "nodeid")));
    }

    #[pg_extern(stable, parallel_safe)]
    #[search_path(pg_catalog, pg_temp)]
    fn library_version() -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

pgrx::extension_sql_file!(
    "../../sql/clone.sql",
    name = "clone",
    requires = [
        citus_add_clone_node,
        citus_add_clone_node_with_nodeid,
        citus_remove_clone_node,
        citus_remove_clone_node_with_nodeid,
        citus_promote_clone_and_rebalance,
        citus_clone_status,
        citus_fence::give_up_clone_by_force,
        citus_fence::leave_out_node_by_force,
        citus_fence::lock_placement_colocation,
        citus_fence::library_version
    ],
);

fn given<T>(argument: Option<T>, name: &'static str) -> T {
    or_raise(argument.ok_or(CloneError::NullArgument { argument: name }))
}

fn or_raise<T>(result: Result<T, CloneError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}
