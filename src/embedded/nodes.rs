//! Adding and removing nodes.  All of it takes ExclusiveLock on `pg_dist_node` first, as Citus does,
//! and changes the catalog on all active nodes in one distributed transaction.

use pgrx::pg_sys::Oid;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::catalog::{self, Node, Row, oid_text};
use super::error::EmbeddedError;
use super::transaction::{Peer, Writes, run};
use crate::citus::{COORDINATOR_GROUP, require_group_of_coordinator};
use crate::pg::{elog, ident, text_sql, wait, xact_callbacks};
use crate::report::Report;
use remote::{Command, NodeLabel, RemoteError};

/// Makes this node the coordinator, or changes how others reach it.
pub fn set_coordinator_host(host: &str, port: i32) -> Result<(), EmbeddedError> {
    let nodes = begin_change("citus_set_coordinator_host()")?;
    let label = address(host, port)?;
    let params = [label.host.clone(), label.port.to_string()];
    if find_group(&nodes, COORDINATOR_GROUP).is_some() {
        return everywhere(
            &catalog::others(&nodes, COORDINATOR_GROUP),
            "UPDATE pg_catalog.pg_dist_node SET nodename = $1, nodeport = $2::int4
              WHERE groupid = 0 AND noderole = 'primary'",
            &params,
        );
    }
    text_sql::execute(
        "UPDATE pg_catalog.pg_dist_local_group SET groupid = 0 WHERE groupid <> 0",
        &[],
    )?;
    text_sql::execute(
        "INSERT INTO pg_catalog.pg_dist_node
                (groupid, nodename, nodeport, hasmetadata, metadatasynced, shouldhaveshards)
         VALUES (0, $1, $2::int4, true, true, false)",
        &[&params[0], &params[1]],
    )?;
    Ok(())
}

/// Registers a worker; gives its id.
pub fn add_inactive_node(host: &str, port: i32) -> Result<i32, EmbeddedError> {
    let nodes = begin_change("citus_add_inactive_node()")?;
    Ok(register(&nodes, address(host, port)?)?.nodeid)
}

/// Registers a worker and activates it; gives its id.
pub fn add_node(host: &str, port: i32) -> Result<i32, EmbeddedError> {
    let mut nodes = begin_change("citus_add_node()")?;
    let node = register(&nodes, address(host, port)?)?;
    if !node.active {
        nodes.push(node.clone());
        activate(&nodes, &node)?;
    }
    Ok(node.nodeid)
}

/// Activates a registered worker; gives its id.
pub fn activate_node(host: &str, port: i32) -> Result<i32, EmbeddedError> {
    let nodes = begin_change("citus_activate_node()")?;
    let node = find(&nodes, address(host, port)?)?;
    require_worker(&node, "activate")?;
    activate(&nodes, &node)?;
    Ok(node.nodeid)
}

/// Stops using a worker.  It is told nothing, as it may be down.
pub fn disable_node(host: &str, port: i32) -> Result<(), EmbeddedError> {
    let nodes = begin_change("citus_disable_node()")?;
    let node = find(&nodes, address(host, port)?)?;
    require_worker(&node, "disable")?;
    everywhere(
        &others_but(&nodes, &node),
        "UPDATE pg_catalog.pg_dist_node SET isactive = false, metadatasynced = false
          WHERE nodeid = $1::int4",
        &[node.nodeid.to_string()],
    )
}

/// Removes a worker that holds no shards.
pub fn remove_node(host: &str, port: i32) -> Result<(), EmbeddedError> {
    let nodes = begin_change("citus_remove_node()")?;
    let node = find(&nodes, address(host, port)?)?;
    require_worker(&node, "remove")?;
    let rows = text_sql::query(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_dist_placement WHERE groupid = $1::int4",
        &[&node.peer.group.to_string()],
    )?;
    let placements: i64 = Row::only(&rows, "pg_dist_placement")?.number()?;
    if placements > 0 {
        return Err(EmbeddedError::HoldsShards { node: node.peer.label, placements });
    }
    everywhere(
        &others_but(&nodes, &node),
        "DELETE FROM pg_catalog.pg_dist_node WHERE nodeid = $1::int4",
        &[node.nodeid.to_string()],
    )?;
    if !node.active {
        return Ok(());
    }
    // So that it can be added again, here or elsewhere.  One that is gone for good is removed as well.
    match import(&node.peer, "{}", COORDINATOR_GROUP) {
        Err(EmbeddedError::Remote(
            error @ (RemoteError::Connect { .. }
            | RemoteError::Refused { .. }
            | RemoteError::ConnectTimeout { .. }),
        )) => {
            warn_not_cleaned(&error);
            Ok(())
        }
        result => result,
    }
}

fn warn_not_cleaned(error: &RemoteError) {
    elog::emit(
        PgLogLevel::WARNING,
        &Report::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("node is removed, but its own catalog is not cleared: {error}"),
        )
        .hint(format!(
            "Before it is used again, on {}: DROP EXTENSION pg_dist; CREATE EXTENSION pg_dist;",
            error.node()
        )),
    );
}

/// How long a function waits for whoever keeps the catalog to himself.
const CATALOG_BOUND: std::time::Duration = std::time::Duration::from_secs(60);

/// Checks that a function may run here and now.
pub fn coordinator_only(function: &'static str) -> Result<(), EmbeddedError> {
    if xact_callbacks::keeps_snapshot() {
        return Err(EmbeddedError::KeptSnapshot { function });
    }
    Ok(require_group_of_coordinator(&mut wait::interruptible(), CATALOG_BOUND)?)
}

/// The same, then takes the lock and gives the nodes as they are under it.
fn begin_change(function: &'static str) -> Result<Vec<Node>, EmbeddedError> {
    coordinator_only(function)?;
    text_sql::execute("LOCK TABLE pg_catalog.pg_dist_node IN EXCLUSIVE MODE", &[])?;
    catalog::nodes()
}

fn address(host: &str, port: i32) -> Result<NodeLabel, EmbeddedError> {
    let given = NodeLabel::unregistered(host, port);
    if host.trim().is_empty() || !(1..=65535).contains(&port) {
        return Err(EmbeddedError::InvalidAddress { given });
    }
    Ok(given)
}

fn find_group(nodes: &[Node], group: i32) -> Option<&Node> {
    nodes.iter().find(|node| node.peer.group == group)
}

fn at<'n>(nodes: &'n [Node], address: &NodeLabel) -> Option<&'n Node> {
    nodes
        .iter()
        .find(|node| node.peer.label.host == address.host && node.peer.label.port == address.port)
}

fn find(nodes: &[Node], address: NodeLabel) -> Result<Node, EmbeddedError> {
    at(nodes, &address).cloned().ok_or(EmbeddedError::UnknownNode { node: address })
}

fn require_worker(node: &Node, action: &'static str) -> Result<(), EmbeddedError> {
    match node.peer.group {
        COORDINATOR_GROUP => Err(EmbeddedError::IsCoordinator { action }),
        _ => Ok(()),
    }
}

fn others_but(nodes: &[Node], node: &Node) -> Vec<Peer> {
    let mut peers = catalog::others(nodes, COORDINATOR_GROUP);
    peers.retain(|peer| *peer != node.peer);
    peers
}

/// The node at an address, registered as an inactive one if it is new.
fn register(nodes: &[Node], address: NodeLabel) -> Result<Node, EmbeddedError> {
    if find_group(nodes, COORDINATOR_GROUP).is_none() {
        return Err(EmbeddedError::NoCoordinatorRow);
    }
    if let Some(node) = at(nodes, &address) {
        return Ok(node.clone());
    }
    let rows = text_sql::query(
        "SELECT pg_catalog.nextval('pg_catalog.pg_dist_node_nodeid_seq'),
                pg_catalog.nextval('pg_catalog.pg_dist_groupid_seq')",
        &[],
    )?;
    let mut row = Row::only(&rows, "pg_dist_node_nodeid_seq")?;
    let (nodeid, group): (i32, i32) = (row.number()?, row.number()?);
    everywhere(
        &catalog::others(nodes, COORDINATOR_GROUP),
        "INSERT INTO pg_catalog.pg_dist_node (nodeid, groupid, nodename, nodeport, isactive)
         VALUES ($1::int4, $2::int4, $3, $4::int4, false)",
        &[nodeid.to_string(), group.to_string(), address.host.clone(), address.port.to_string()],
    )?;
    Ok(Node {
        nodeid,
        peer: Peer { label: NodeLabel::new(nodeid, address.host, address.port), group },
        active: false,
        should_have_shards: true,
    })
}

/// Gives a node the whole catalog and lets it take part.
fn activate(nodes: &[Node], node: &Node) -> Result<(), EmbeddedError> {
    require_ours(&node.peer)?;
    everywhere(
        &others_but(nodes, node),
        "UPDATE pg_catalog.pg_dist_node SET isactive = true, hasmetadata = true, metadatasynced = true
          WHERE nodeid = $1::int4",
        &[node.nodeid.to_string()],
    )?;
    export_to(std::slice::from_ref(&node.peer), None, Some(node.peer.group))
}

/// An error if a node lacks the extension, or has somebody else's catalog.
fn require_ours(peer: &Peer) -> Result<(), EmbeddedError> {
    let peers = std::slice::from_ref(peer);
    let installed =
        ask(peers, "SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_dist'", &[])?;
    if installed.is_empty() {
        let (node, database) = (peer.label.clone(), ident::database_name());
        return Err(EmbeddedError::MissingExtension { node, database });
    }
    let own = text_sql::query(
        "SELECT metadata ->> 'server_id' FROM pg_catalog.pg_dist_node_metadata",
        &[],
    )?;
    let own = Row::only(&own, "pg_dist_node_metadata")?.text()?;
    let theirs = ask(
        peers,
        "SELECT groupid,
                NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node)
                OR groupid = $2::int4 AND EXISTS (
                    SELECT FROM pg_catalog.pg_dist_node_metadata
                     WHERE metadata ->> 'server_id' = $1)
           FROM pg_catalog.pg_dist_local_group",
        &[own, peer.group.to_string()],
    )?;
    let mut row = Row::only(&theirs, "pg_dist_local_group")?;
    let group = row.text()?;
    if row.flag()? {
        return Ok(());
    }
    Err(EmbeddedError::ForeignNode { node: peer.label.clone(), group })
}

/// Rows of a query on one peer.
fn ask(
    peers: &[Peer],
    sql: &'static str,
    params: &[String],
) -> Result<text_sql::Rows, EmbeddedError> {
    let replies = run(peers, Writes::Yes, |_| with_params("check node", sql, params))?;
    let mut rows = Vec::new();
    for reply in replies {
        rows.extend(reply.last_set()?.rows.iter().cloned());
    }
    Ok(rows)
}

fn with_params(name: &'static str, sql: &'static str, params: &[String]) -> Command<'static> {
    params.iter().fold(Command::new(name, sql), |command, param| command.with_param(param.as_str()))
}

/// Runs a statement here and on the peers.
fn everywhere(peers: &[Peer], sql: &'static str, params: &[String]) -> Result<(), EmbeddedError> {
    let borrowed: Vec<&str> = params.iter().map(String::as_str).collect();
    text_sql::execute(sql, &borrowed)?;
    run(peers, Writes::Yes, |_| with_params("change nodes", sql, params))?;
    Ok(())
}

/// Sends the catalog, or its rows about a table, to the peers.  With `own_group` it takes the place
/// of theirs.
pub fn export_to(
    peers: &[Peer],
    table: Option<Oid>,
    own_group: Option<i32>,
) -> Result<(), EmbeddedError> {
    let table = table.map_or_else(String::new, oid_text);
    let rows = text_sql::query(
        "SELECT pg_catalog.pg_dist_export(NULLIF($1, '')::oid::regclass)",
        &[&table],
    )?;
    let exported = Row::only(&rows, "pg_dist_partition")?.text()?;
    match own_group {
        None => run(peers, Writes::Yes, |_| {
            Command::new("add to catalog", "SELECT pg_catalog.pg_dist_import($1::jsonb)")
                .with_param(exported.as_str())
        })
        .map(drop),
        Some(group) => peers.iter().try_for_each(|peer| import(peer, &exported, group)),
    }
}

/// Replaces a peer's catalog.
fn import(peer: &Peer, exported: &str, own_group: i32) -> Result<(), EmbeddedError> {
    run(std::slice::from_ref(peer), Writes::Yes, |_| {
        Command::new("replace catalog", "SELECT pg_catalog.pg_dist_import($1::jsonb, $2::int4)")
            .with_param(exported)
            .with_param(own_group.to_string())
    })?;
    Ok(())
}
