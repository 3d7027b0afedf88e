//! `get_snapshot_based_node_split_plan`.  Glue only.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::Oid;
use pgrx::{name, pg_extern};
use remote::Waiter;

use super::plan_error::PlanError;
use super::shards::{Kind, Listing, Source, ask};
use crate::citus::{self, Dialer, Roster};
use crate::guc;
use crate::pg::wait::interruptible;
use crate::pg::{elog, libpq, text_sql};
use crate::report::Report;

/// A row of the plan: table, shard, bytes, and where the shard will be.
type Row = (Oid, i64, i64, String);

// Without a search path of its own, so that a strategy's functions find what they find in Citus' plans.  All
// SQL below it names what it uses.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = r#"
CREATE FUNCTION @extschema@."get_snapshot_based_node_split_plan"(
    "primary_node_name" text,
    "primary_node_port" int,
    "replica_node_name" text,
    "replica_node_port" int,
    "rebalance_strategy" name DEFAULT NULL)
    RETURNS TABLE ("table_name" regclass, "shardid" bigint, "shard_size" bigint, "placement_node" text)
    VOLATILE PARALLEL UNSAFE LANGUAGE c
    AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#
)]
#[allow(clippy::type_complexity)]
fn get_snapshot_based_node_split_plan(
    primary_node_name: Option<&str>,
    primary_node_port: Option<i32>,
    replica_node_name: Option<&str>,
    replica_node_port: Option<i32>,
    // A name is as many bytes, with a zero behind them.
    rebalance_strategy: Option<&CStr>,
) -> TableIterator<
    'static,
    (
        name!(table_name, Oid),
        name!(shardid, i64),
        name!(shard_size, i64),
        name!(placement_node, String),
    ),
> {
    libpq::require();
    let strategy = rebalance_strategy.map(CStr::to_string_lossy);
    let rows = address("primary_node", primary_node_name, primary_node_port).and_then(|primary| {
        let replica = address("replica_node", replica_node_name, replica_node_port)?;
        plan(&mut interruptible(), &primary, &replica, strategy.as_deref())
    });
    match rows {
        Ok(rows) => TableIterator::new(rows),
        Err(error) => elog::raise(&Report::from(&error)),
    }
}

pgrx::extension_sql_file!(
    "../../sql/clone_plan.sql",
    name = "clone_plan",
    requires = [get_snapshot_based_node_split_plan],
);

/// A node's name and port.
struct Address {
    host: String,
    port: i32,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

fn address(
    which: &'static str,
    host: Option<&str>,
    port: Option<i32>,
) -> Result<Address, PlanError> {
    let (no_host, no_port) = match which {
        "primary_node" => ("primary_node_name", "primary_node_port"),
        _ => ("replica_node_name", "replica_node_port"),
    };
    let host = host.ok_or(PlanError::NullArgument { argument: no_host })?.to_owned();
    Ok(Address { host, port: port.ok_or(PlanError::NullArgument { argument: no_port })? })
}

fn plan<W: Waiter>(
    waiter: &mut W,
    primary: &Address,
    replica: &Address,
    strategy: Option<&str>,
) -> Result<Vec<Row>, PlanError> {
    let catalog_bound = Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64);
    let connect_timeout = Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64);
    citus::require_coordinator(waiter, catalog_bound)?;
    let roster = citus::read_within(waiter, catalog_bound, citus::OF_NODES, || {
        Roster::read(Dialer::helper(connect_timeout))
    })??;
    let at = |address: &Address| {
        let mut nodes = roster.nodes().iter();
        nodes.position(|node| node.host == address.host && node.port == address.port)
    };
    let source = match at(primary) {
        Some(place) => Source {
            nodeid: roster.nodes()[place].nodeid,
            group: roster.nodes()[place].groupid,
            target: &roster.targets()[place],
        },
        None if registered(primary)?.is_some() => {
            return Err(PlanError::NotPrimary { node: primary.to_string() });
        }
        None => return Err(PlanError::UnknownNode { node: primary.to_string() }),
    };
    let is_active = |place: usize| roster.nodes()[place].active;
    if !at(primary).is_some_and(is_active) {
        let (host, port, node) = (primary.host.clone(), primary.port, primary.to_string());
        return Err(PlanError::Inactive { host, port, node });
    }
    if at(replica).is_some() {
        return Err(PlanError::ReplicaIsNode { node: replica.to_string() });
    }

    let listing = Listing::read(source.group)?;
    let clone = registered(replica)?;
    let asked = ask(waiter, &listing, &source, clone, strategy, connect_timeout)?;
    let moves = asked.plan(&listing);
    let mut rows = Vec::with_capacity(listing.shards.len());
    for (shard, moves) in listing.shards.iter().zip(moves) {
        let size = i64::try_from(asked.size(shard.shardid).unwrap_or(0)).unwrap_or(i64::MAX);
        let shardid = shard.shardid.cast_signed();
        let mut row = |node: &Address| rows.push((shard.table, shardid, size, node.to_string()));
        match shard.kind {
            Kind::Reference => {
                row(primary);
                row(replica);
            }
            Kind::Local | Kind::Distributed(_) => row(if moves { replica } else { primary }),
        }
    }
    Ok(rows)
}

/// The number of a node with that address, whatever it is.
fn registered(address: &Address) -> Result<Option<i32>, PlanError> {
    let rows = text_sql::query(
        "SELECT nodeid FROM pg_catalog.pg_dist_node
          WHERE nodename OPERATOR(pg_catalog.=) $1 AND nodeport OPERATOR(pg_catalog.=) $2::int4",
        &[&address.host, &address.port.to_string()],
    )?;
    Ok(rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()))
}
