//! The SQL functions.  Glue only.

use pgrx::iter::TableIterator;
use pgrx::{name, pg_extern, search_path};

use super::error::quoted;
use super::nodes::{Nodes, require_coordinator};
use super::{ClusterError, elsewhere, switch};
use crate::gate::error::GateError;
use crate::pg::types::Lsn;
use crate::pg::wait::interruptible;
use crate::pg::{elog, ident, libpq, names};
use crate::readonly::error::SwitchError;
use crate::report::Report;

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_set_cluster_read_only() {
    or_raise(switch::read_only());
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn citus_set_cluster_read_write() {
    or_raise(switch::read_write());
}

#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity)]
fn citus_cluster_read_only_status() -> TableIterator<
    'static,
    (
        name!(nodeid, Option<i32>),
        name!(groupid, i32),
        name!(nodename, String),
        name!(nodeport, i32),
        name!(state, Option<String>),
        name!(read_only_lsn, Option<Lsn>),
        name!(error, Option<String>),
    ),
> {
    libpq::require();
    // It has the coordinator's catalog, and is another server than the one that is named there.
    if ident::in_recovery() {
        let function = "citus_cluster_read_only_status()";
        or_raise::<()>(Err(SwitchError::from(GateError::InRecovery { function }).into()));
    }
    let mut waiter = interruptible();
    or_raise(require_coordinator(&mut waiter).map_err(ClusterError::from));
    let nodes = or_raise(Nodes::read(&mut waiter));
    or_raise(switch::must_not_be_a_copy(&mut waiter, &nodes));
    // Where that cannot be found out, the row of this node says why.
    let is_to_be_read_only = switch::is_to_be_read_only(&mut waiter).unwrap_or(false);
    let by = switch::answer_by(&waiter);
    let replies = switch::ask_all(
        &mut waiter,
        &nodes.roster,
        &switch::Question {
            name: "look at the node's state",
            sql: "SELECT state, read_only_lsn FROM citus_fence.node_gate()",
            changes: false,
        },
        by,
    );
    let state = |reply: &remote::Reply| {
        reply.sets.iter().find_map(|set| set.value(0, "state")).map(str::to_owned)
    };
    let is_read_only = |reply: &Result<remote::Reply, ClusterError>| {
        reply.as_ref().is_ok_and(|reply| state(reply).as_deref() == Some("read-only"))
    };
    // It is not noted here, so that it may be in another database.
    let noted_elsewhere = if !is_to_be_read_only && replies.iter().any(is_read_only) {
        elsewhere::noted(&mut waiter, &nodes.roster)
    } else {
        Vec::new()
    };
    let rows: Vec<_> = nodes
        .roster
        .nodes()
        .iter()
        .zip(replies)
        .map(|(node, reply)| {
            let (state, lsn, error) = match reply {
                Ok(reply) => {
                    let value = |column| {
                        reply.sets.iter().find_map(|set| set.value(0, column)).map(str::to_owned)
                    };
                    let state = state(&reply);
                    let told = match state.as_deref() {
                        Some("read-write") if is_to_be_read_only => Some(LEFT_OUT.to_owned()),
                        Some("read-only") if !noted_elsewhere.is_empty() => Some(format!(
                            "the cluster in database {} of the same servers is noted as read only; {OPEN_IT}",
                            quoted(&noted_elsewhere)
                        )),
                        _ => None,
                    };
                    (
                        state,
                        value("read_only_lsn"),
                        told.map(|text| names::as_reached(&text).into_owned()),
                    )
                }
                Err(error) => (None, None, Some(error.to_string())),
            };
            (
                (node.nodeid != 0).then_some(node.nodeid),
                node.groupid,
                node.host.clone(),
                node.port,
                state,
                lsn.as_deref().and_then(Lsn::parse),
                error,
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// What there is to say of a node that takes writes in a cluster that is read-only.
const LEFT_OUT: &str = "it takes writes although the cluster is noted as read only: a call that closes or opens the cluster was broken \
     off, it was opened by itself or from another database, or another server has taken its place; to let all nodes write: \
     SELECT citus_set_cluster_read_write(); to make all of them read only: SELECT citus_set_cluster_read_only();";

/// What there is to say of a node that another database's call has closed.
const OPEN_IT: &str = "to let its nodes write, in that database, on its coordinator: SELECT citus_set_cluster_read_write();";

/// Helpers that the extension calls on other nodes; users need none of them.
#[pgrx::pg_schema]
mod citus_fence {
    use super::Lsn;
    use crate::readonly::api::or_raise;
    use crate::readonly::switch::{self, Scope};
    use pgrx::{pg_extern, search_path};

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn node_read_only() -> Lsn {
        Lsn(or_raise(switch::read_only(Scope::Cluster, true)))
    }

    #[pg_extern(volatile, parallel_unsafe)]
    #[search_path(pg_catalog, pg_temp)]
    fn node_read_write() {
        or_raise(switch::read_write(Scope::Cluster));
    }
}

pgrx::extension_sql_file!(
    "../../../sql/cluster_read_only.sql",
    name = "cluster_read_only",
    requires = [
        citus_set_cluster_read_only,
        citus_set_cluster_read_write,
        citus_cluster_read_only_status,
        citus_fence::node_read_only,
        citus_fence::node_read_write
    ],
);

fn or_raise<T>(result: Result<T, ClusterError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => elog::raise(&Report::from(&error)),
    }
}
