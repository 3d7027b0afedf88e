//! Every node says the same: of the catalog, and in answer to the same query.

use std::collections::BTreeMap;

use test_cluster::{Cluster, Engine, Result, TextRows};

use super::Audit;
use crate::kind::Table;
use crate::tables::Tables;

/// What the nodes have to agree on.
const CATALOG: [(&str, &str); 5] = [
    (
        "pg_dist_node",
        "SELECT nodeid, groupid, nodename, nodeport, isactive, hasmetadata, metadatasynced,
                noderole, nodecluster, shouldhaveshards
           FROM pg_catalog.pg_dist_node ORDER BY nodeid",
    ),
    (
        "pg_dist_placement",
        "SELECT placementid, shardid, shardstate, groupid FROM pg_catalog.pg_dist_placement
          ORDER BY placementid",
    ),
    (
        "pg_dist_shard",
        "SELECT logicalrelid::regclass::text, shardid, shardstorage, shardminvalue, shardmaxvalue
           FROM pg_catalog.pg_dist_shard ORDER BY shardid",
    ),
    (
        "pg_dist_partition",
        "SELECT logicalrelid::regclass::text, partmethod, colocationid, repmodel
           FROM pg_catalog.pg_dist_partition ORDER BY 1",
    ),
    (
        "pg_dist_colocation",
        "SELECT colocationid, shardcount, replicationfactor FROM pg_catalog.pg_dist_colocation
          ORDER BY colocationid",
    ),
];

pub(super) fn check(cluster: &Cluster, tables: &Tables, audit: &mut Audit) -> Result<()> {
    for (what, query) in CATALOG {
        compare(cluster, what, query, audit)?;
    }
    check_groups(cluster, audit)?;
    for table in tables.all() {
        for name in table.names() {
            if table != Table::Entries {
                let copies = if table == Table::Copied { 2 } else { 1 };
                check_owners(cluster, &name, copies, audit)?;
            }
            let query = match tables.engine() {
                Engine::Citus if table == Table::Counters => {
                    format!("SELECT count(*), sum(n) FROM {name}")
                }
                Engine::Citus => format!("SELECT count(*), sum(op) FROM {name}"),
                Engine::Embedded => {
                    format!("SELECT pg_dist_execute_all('{name}', 'SELECT FROM %s')")
                }
            };
            compare(cluster, &name, &query, audit)?;
        }
    }
    Ok(())
}

/// Whether all nodes give the coordinator's answer.
fn compare(cluster: &Cluster, what: &str, query: &str, audit: &mut Audit) -> Result<()> {
    let right = cluster.coordinator().query(query)?;
    for (node, server) in cluster.nodes().iter().enumerate().skip(1) {
        // A query that fails is an answer as well, and a wrong one.
        match server.query(query) {
            Ok(rows) if rows == right => {}
            Ok(rows) => audit.wrong.push(format!(
                "{what}: node {node} says otherwise than the coordinator: {}",
                first_difference(&right, &rows)
            )),
            Err(error) => audit.wrong.push(format!("{what}: node {node} cannot tell: {error}")),
        }
    }
    Ok(())
}

fn first_difference(right: &TextRows, rows: &TextRows) -> String {
    let pairs = right.iter().zip(rows).enumerate();
    match pairs.into_iter().find(|(_, (right, row))| right != row) {
        Some((number, (right, row))) => format!("row {number} is {row:?} instead of {right:?}"),
        None => format!("{} rows instead of {}", rows.len(), right.len()),
    }
}

/// Every node is in the group that the coordinator has it in, and no two are in one.
fn check_groups(cluster: &Cluster, audit: &mut Audit) -> Result<()> {
    for (node, server) in cluster.nodes().iter().enumerate() {
        let own = server.query_value("SELECT groupid FROM pg_catalog.pg_dist_local_group")?;
        let query = format!(
            "SELECT groupid FROM pg_catalog.pg_dist_node WHERE nodeport = {}",
            cluster.catalog_port(node)
        );
        let rows = cluster.coordinator().query(&query)?;
        let known: Vec<&str> = rows.iter().flatten().flatten().map(String::as_str).collect();
        if known != [own.as_str()] {
            audit.wrong.push(format!("node {node} is in group {own}, the catalog says {known:?}"));
        }
    }
    Ok(())
}

/// Every shard has its owner, or as many as it has copies.
fn check_owners(cluster: &Cluster, table: &str, copies: usize, audit: &mut Audit) -> Result<()> {
    let mut owners: BTreeMap<i64, usize> = BTreeMap::new();
    for placement in cluster.placements(table)? {
        *owners.entry(placement.shardid).or_default() += 1;
    }
    let shared = owners.iter().filter(|(_, count)| **count != copies);
    audit.wrong.extend(shared.map(|(shard, count)| format!("shard {shard} has {count} owners")));
    Ok(())
}
