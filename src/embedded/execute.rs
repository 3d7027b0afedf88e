//! Commands on shards.

use std::collections::HashSet;

use pgrx::pg_sys::Oid;

use super::catalog::{Relation, Row, local_group, oid_text, relation};
use super::error::EmbeddedError;
use super::shard_lock;
use super::transaction::{Peer, Writes, run};
use crate::citus::CatalogError;
use crate::pg::distribution::{ColumnType, hash_text};
use crate::pg::quote::qualified;
use crate::pg::{lock, small_table, text_sql, xact_callbacks};
use remote::{Command, NodeLabel};

/// Stands for the shard's name in a command.
const SHARD: &str = "%s";

/// A shard and where it is.
struct Placement {
    shard: String,
    peer: Peer,
}

/// Runs a command on the shard that a key belongs to.
pub fn on_key(rel: Oid, key: &str, command: &str) -> Result<u64, EmbeddedError> {
    // As Citus' plans do; what calls this is a mere SELECT.
    crate::gate::pass_gate();
    let table = relation(rel)?;
    let column = distribution_column(rel, &table)?;
    let hash = hash_text(column, key)
        .ok_or_else(|| EmbeddedError::NotDistributed { table: table.shown.clone() })?;
    let mut found = placements(rel, &table, Some(hash))?;
    match found.pop() {
        Some(placement) => on_placement(&placement, local_group()?, command),
        None => {
            Err(EmbeddedError::NoPlacement { table: table.shown, what: format!("key \"{key}\"") })
        }
    }
}

/// Runs a command on every shard: at all nodes at once, on each shard of a node in turn.
pub fn on_all(rel: Oid, command: &str) -> Result<u64, EmbeddedError> {
    crate::gate::pass_gate();
    let table = relation(rel)?;
    distribution_column(rel, &table)?;
    let own_group = local_group()?;
    let mut affected = 0;
    let (mut here, mut elsewhere): (Vec<_>, Vec<_>) = placements(rel, &table, None)?
        .into_iter()
        .partition(|placement| placement.peer.group == own_group);
    while !elsewhere.is_empty() {
        let mut round: Vec<Placement> = Vec::new();
        let mut later = Vec::new();
        for placement in elsewhere {
            if round.iter().any(|other| other.peer == placement.peer) {
                later.push(placement);
            } else {
                round.push(placement);
            }
        }
        elsewhere = later;
        let peers: Vec<Peer> = round.iter().map(|placement| placement.peer.clone()).collect();
        let replies =
            run(&peers, Writes::Ask, |position| shard_command(&round[position].shard, command))?;
        for reply in &replies {
            affected += last_affected(reply);
        }
    }
    for placement in here.drain(..) {
        affected += on_placement(&placement, own_group, command)?;
    }
    Ok(affected)
}

/// Runs a command on one placement: here, or over there.
fn on_placement(
    placement: &Placement,
    own_group: i32,
    command: &str,
) -> Result<u64, EmbeddedError> {
    if placement.peer.group == own_group {
        return Ok(text_sql::execute(&command.replace(SHARD, &placement.shard), &[])?);
    }
    let peers = [placement.peer.clone()];
    let replies = run(&peers, Writes::Ask, |_| shard_command(&placement.shard, command))?;
    Ok(replies.iter().map(last_affected).sum())
}

fn shard_command(shard: &str, command: &str) -> Command<'static> {
    Command::new("command on a shard", command.replace(SHARD, shard))
}

/// Rows of the last statement that was one.
fn last_affected(reply: &remote::Reply) -> u64 {
    reply.sets.iter().rev().find(|set| !set.command_tag.is_empty()).map_or(0, |set| set.affected)
}

/// The type of the column that a table is distributed by.
fn distribution_column(rel: Oid, table: &Relation) -> Result<ColumnType, EmbeddedError> {
    let rows = text_sql::query(
        "SELECT a.atttypid::oid, a.atttypmod, a.attcollation::oid
           FROM pg_catalog.pg_dist_partition p
           JOIN pg_catalog.pg_attribute a
             ON a.attrelid OPERATOR(pg_catalog.=) p.logicalrelid
            AND a.attname::text OPERATOR(pg_catalog.=)
                pg_catalog.column_to_column_name(p.logicalrelid, p.partkey)
          WHERE p.logicalrelid OPERATOR(pg_catalog.=) $1::oid
            AND p.partmethod OPERATOR(pg_catalog.=) 'h'",
        &[&oid_text(rel)],
    )?;
    let Some(row) = rows.first() else {
        return Err(EmbeddedError::NotDistributed { table: table.shown.clone() });
    };
    let mut row = Row::new(row, "pg_dist_partition");
    Ok(ColumnType { oid: row.oid()?, typmod: row.number()?, collation: row.oid()? })
}

/// The active placements of a table's shards, or of the shard that holds a hash, as they are once the shards'
/// locks are shared: a shard that moves meanwhile is waited for, and found where it then is.
fn placements(
    rel: Oid,
    table: &Relation,
    hash: Option<i32>,
) -> Result<Vec<Placement>, EmbeddedError> {
    let hash = hash.map_or_else(String::new, |hash| hash.to_string());
    let shards = text_sql::query(
        "SELECT s.shardid
           FROM pg_catalog.pg_dist_shard s
          WHERE s.logicalrelid OPERATOR(pg_catalog.=) $1::oid
            AND ($2 OPERATOR(pg_catalog.=) ''
                 OR NULLIF($2, '')::int4 BETWEEN s.shardminvalue::int4 AND s.shardmaxvalue::int4)
          ORDER BY s.shardid",
        &[&oid_text(rel), &hash],
    )?;
    let shards: Vec<i64> = shards
        .iter()
        .map(|row| Row::new(row, "pg_dist_shard").number())
        .collect::<Result<_, EmbeddedError>>()?;
    // Whoever only reads need not wait: the place before a move has all that was written.
    if !xact_callbacks::read_only() {
        shard_lock::share(&shards);
    }
    let numbers: Vec<String> = shards.iter().map(i64::to_string).collect();
    let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let rows = text_sql::query(
        "SELECT p.shardid, p.groupid, n.nodeid, n.nodename, n.nodeport
           FROM pg_catalog.pg_dist_placement p
           JOIN pg_catalog.pg_dist_node n ON n.groupid OPERATOR(pg_catalog.=) p.groupid
          WHERE p.shardid OPERATOR(pg_catalog.=) ANY ($1::int8[])
            AND p.shardstate OPERATOR(pg_catalog.=) 1
            AND n.noderole OPERATOR(pg_catalog.=) 'primary' AND n.isactive AND NOT n.nodeisclone
          ORDER BY p.shardid",
        &[&text_sql::array(&numbers)],
    )?;
    let found = rows
        .iter()
        .map(|row| {
            let mut row = Row::new(row, "pg_dist_placement");
            let shardid: i64 = row.number()?;
            let group = row.number()?;
            let nodeid = row.number()?;
            let host = row.text()?;
            let placement = Placement {
                shard: qualified(&table.schema, &format!("{}_{shardid}", table.name)),
                peer: Peer { label: NodeLabel::new(nodeid, host, row.number()?), group },
            };
            Ok((shardid, placement))
        })
        .collect::<Result<Vec<_>, EmbeddedError>>()?;
    if xact_callbacks::keeps_snapshot() {
        require_current(table, &found)?;
    }
    Ok(found.into_iter().map(|(_, placement)| placement).collect())
}

/// A transaction that keeps its snapshot may have read where shards were before it waited for them.
fn require_current(table: &Relation, found: &[(i64, Placement)]) -> Result<(), EmbeddedError> {
    let relation = lock::catalog_relation(c"pg_dist_placement").ok_or(CatalogError::Missing)?;
    let now: HashSet<(i64, i32)> = small_table::rows(relation, &[c"shardid", c"groupid"])
        .iter()
        .filter_map(|row| Some((row[0].as_ref()?.parse().ok()?, row[1].as_ref()?.parse().ok()?)))
        .collect();
    if found.iter().all(|(shardid, placement)| now.contains(&(*shardid, placement.peer.group))) {
        return Ok(());
    }
    Err(EmbeddedError::Moved { table: table.shown.clone() })
}
