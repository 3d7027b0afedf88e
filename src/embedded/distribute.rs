//! `create_distributed_table`.

use pgrx::pg_sys::Oid;

use super::catalog::{self, Relation, Row, oid_text, relation};
use super::error::EmbeddedError;
use super::nodes::{coordinator_only, export_to};
use super::ranges;
use super::transaction::{Peer, Writes, run};
use crate::pg::distribution::can_hash;
use crate::pg::quote::{identifier, qualified};
use crate::pg::text_sql;
use remote::Command;

/// The most shards a table can have.  Citus allows more; nothing here needs them.
pub const MAX_SHARDS: i32 = 1024;

/// Longest name, in bytes.
const MAX_NAME: usize = 63;

/// The column that a table is to be distributed by.
struct Column {
    attnum: i16,
    type_oid: Oid,
    collation: Oid,
}

/// A shard that is to be made, or that a colocated table has.
struct ShardPlan {
    range: ranges::Range,
    group: i32,
}

/// Makes shards of an empty table and writes them down on all nodes.
pub fn create_distributed_table(
    rel: Oid,
    column_name: &str,
    shard_count: i32,
    colocate_with: &str,
) -> Result<(), EmbeddedError> {
    coordinator_only("create_distributed_table()")?;
    let shard_count = u32::try_from(shard_count)
        .ok()
        .filter(|count| (1..=MAX_SHARDS.unsigned_abs()).contains(count))
        .ok_or(EmbeddedError::ShardCountOutOfRange { given: shard_count })?;
    // Excludes changes of nodes until this is committed, and waits for a fence.
    text_sql::execute("LOCK TABLE pg_catalog.pg_dist_node IN ROW SHARE MODE", &[])?;
    let table = relation(rel)?;
    check_table(rel, &table)?;
    let column = column(rel, &table, column_name)?;

    let nodes = catalog::nodes()?;
    let (colocation, plan) = plan_shards(rel, &table, &column, shard_count, colocate_with, &nodes)?;
    text_sql::execute(
        "INSERT INTO pg_catalog.pg_dist_partition
                (logicalrelid, partmethod, partkey, colocationid, repmodel)
         VALUES ($1::oid, 'h', pg_catalog.column_name_to_column($1::oid, $2), $3::int4, 's')",
        &[&oid_text(rel), column_name, &colocation],
    )?;
    let mut shards: Vec<(i32, String)> = Vec::new();
    for shard in &plan {
        let rows = text_sql::query(
            "WITH s AS (
                INSERT INTO pg_catalog.pg_dist_shard
                       (logicalrelid, shardid, shardstorage, shardminvalue, shardmaxvalue)
                VALUES ($1::oid, pg_catalog.nextval('pg_catalog.pg_dist_shardid_seq'), 't', $2, $3)
                RETURNING shardid)
             INSERT INTO pg_catalog.pg_dist_placement (shardid, shardstate, shardlength, groupid)
             SELECT shardid, 1, 0, $4::int4 FROM s
             RETURNING shardid",
            &[
                &oid_text(rel),
                &shard.range.0.to_string(),
                &shard.range.1.to_string(),
                &shard.group.to_string(),
            ],
        )?;
        let shardid: i64 = Row::only(&rows, "pg_dist_shard")?.number()?;
        let name = format!("{}_{shardid}", table.name);
        if name.len() > MAX_NAME {
            return Err(EmbeddedError::NameTooLong { table: table.shown });
        }
        shards.push((shard.group, shard_ddl(&table, &name)));
    }

    let own_group = catalog::local_group()?;
    let peers = catalog::others(&nodes, own_group);
    let ddl = |group: i32| -> String {
        shards.iter().filter(|(at, _)| *at == group).map(|(_, ddl)| ddl.as_str()).collect()
    };
    text_sql::execute(&ddl(own_group), &[])?;
    let with_shards: Vec<Peer> =
        peers.iter().filter(|peer| !ddl(peer.group).is_empty()).cloned().collect();
    run(&with_shards, Writes::Yes, |position| {
        Command::new("create shards", ddl(with_shards[position].group))
    })?;
    export_to(&peers, Some(rel), None)
}

fn shard_ddl(table: &Relation, name: &str) -> String {
    let shard = qualified(&table.schema, name);
    format!(
        "CREATE TABLE {shard} (LIKE {} INCLUDING ALL);\nALTER TABLE {shard} OWNER TO {};\n",
        table.qualified,
        identifier(&table.owner)
    )
}

/// An empty, ordinary table that is not distributed yet.
fn check_table(rel: Oid, table: &Relation) -> Result<(), EmbeddedError> {
    const ORDINARY_PERMANENT: &str = "rp";
    let name = || table.shown.clone();
    if table.kind != ORDINARY_PERMANENT {
        return Err(EmbeddedError::NotATable { table: name() });
    }
    let distributed = text_sql::query(
        "SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid OPERATOR(pg_catalog.=) $1::oid",
        &[&oid_text(rel)],
    )?;
    if !distributed.is_empty() {
        return Err(EmbeddedError::AlreadyDistributed { table: name() });
    }
    // Nobody writes to it meanwhile.
    text_sql::execute(&format!("LOCK TABLE {} IN EXCLUSIVE MODE", table.qualified), &[])?;
    if !text_sql::query(&format!("SELECT FROM {} LIMIT 1", table.qualified), &[])?.is_empty() {
        return Err(EmbeddedError::HasRows { table: name() });
    }
    Ok(())
}

fn column(rel: Oid, table: &Relation, name: &str) -> Result<Column, EmbeddedError> {
    let rows = text_sql::query(
        "SELECT attnum, atttypid::oid, attcollation::oid, pg_catalog.format_type(atttypid, NULL)
           FROM pg_catalog.pg_attribute
          WHERE attrelid OPERATOR(pg_catalog.=) $1::oid
            AND attname::text OPERATOR(pg_catalog.=) $2
            AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped",
        &[&oid_text(rel), name],
    )?;
    let Some(row) = rows.first() else {
        return Err(EmbeddedError::NoColumn {
            table: table.shown.clone(),
            column: name.to_owned(),
        });
    };
    let mut row = Row::new(row, "pg_attribute");
    let column = Column { attnum: row.number()?, type_oid: row.oid()?, collation: row.oid()? };
    if column.attnum < 1 || !can_hash(column.type_oid) {
        return Err(EmbeddedError::NoHash { column: name.to_owned(), type_name: row.text()? });
    }
    Ok(column)
}

/// The colocation group, made if need be, and its shards: those that a table of the group already
/// has, or ranges shared out over the nodes in turn.
fn plan_shards(
    rel: Oid,
    table: &Relation,
    column: &Column,
    shard_count: u32,
    colocate_with: &str,
    nodes: &[catalog::Node],
) -> Result<(String, Vec<ShardPlan>), EmbeddedError> {
    let configuration =
        [oid_text(column.type_oid), oid_text(column.collation), shard_count.to_string()];
    let [type_oid, collation, count] = configuration.each_ref().map(String::as_str);
    const MATCHING: &str = "c.distributioncolumntype OPERATOR(pg_catalog.=) $1::oid
        AND c.distributioncolumncollation OPERATOR(pg_catalog.=) $2::oid
        AND c.shardcount OPERATOR(pg_catalog.=) $3::int4
        AND c.replicationfactor OPERATOR(pg_catalog.=) 1";
    let found = match colocate_with {
        "none" => Vec::new(),
        "default" => text_sql::query(
            &format!(
                "SELECT c.colocationid FROM pg_catalog.pg_dist_colocation c
                  WHERE {MATCHING} ORDER BY c.colocationid LIMIT 1"
            ),
            &[type_oid, collation, count],
        )?,
        other => {
            let found = text_sql::query(
                &format!(
                    "SELECT c.colocationid FROM pg_catalog.pg_dist_colocation c
                       JOIN pg_catalog.pg_dist_partition p
                         ON p.colocationid OPERATOR(pg_catalog.=) c.colocationid
                      WHERE {MATCHING}
                        AND p.logicalrelid OPERATOR(pg_catalog.=) $4::regclass"
                ),
                &[type_oid, collation, count, other],
            )?;
            if found.is_empty() {
                let (table, other) = (table.shown.clone(), other.to_owned());
                return Err(EmbeddedError::CannotColocate { table, other });
            }
            found
        }
    };
    if let Some(row) = found.first() {
        let colocation = Row::new(row, "pg_dist_colocation").text()?;
        let plan = colocated_shards(rel, &colocation)?;
        if !plan.is_empty() {
            return Ok((colocation, plan));
        }
        return Ok((colocation, round_robin(shard_count, nodes)?));
    }
    let rows = text_sql::query(
        "INSERT INTO pg_catalog.pg_dist_colocation (colocationid, distributioncolumntype,
                distributioncolumncollation, shardcount, replicationfactor)
         VALUES (pg_catalog.nextval('pg_catalog.pg_dist_colocationid_seq'),
                $1::oid, $2::oid, $3::int4, 1)
         RETURNING colocationid",
        &[type_oid, collation, count],
    )?;
    let colocation = Row::only(&rows, "pg_dist_colocation")?.text()?;
    Ok((colocation, round_robin(shard_count, nodes)?))
}

/// The shards of one of the other tables of a colocation group.
fn colocated_shards(rel: Oid, colocation: &str) -> Result<Vec<ShardPlan>, EmbeddedError> {
    let rows = text_sql::query(
        "SELECT s.shardminvalue, s.shardmaxvalue, p.groupid
           FROM pg_catalog.pg_dist_shard s
           JOIN pg_catalog.pg_dist_placement p ON p.shardid OPERATOR(pg_catalog.=) s.shardid
          WHERE s.logicalrelid OPERATOR(pg_catalog.=) (
                SELECT logicalrelid FROM pg_catalog.pg_dist_partition
                 WHERE colocationid OPERATOR(pg_catalog.=) $1::int4
                   AND logicalrelid OPERATOR(pg_catalog.<>) $2::oid
                 ORDER BY logicalrelid LIMIT 1)
          ORDER BY s.shardminvalue::int4",
        &[colocation, &oid_text(rel)],
    )?;
    rows.iter()
        .map(|row| {
            let mut row = Row::new(row, "pg_dist_shard");
            Ok(ShardPlan { range: (row.number()?, row.number()?), group: row.number()? })
        })
        .collect()
}

fn round_robin(shard_count: u32, nodes: &[catalog::Node]) -> Result<Vec<ShardPlan>, EmbeddedError> {
    let mut groups: Vec<i32> = nodes
        .iter()
        .filter(|node| node.active && node.should_have_shards)
        .map(|node| node.peer.group)
        .collect();
    groups.sort_unstable();
    if groups.is_empty() {
        return Err(EmbeddedError::NoShardNodes);
    }
    Ok(ranges::split(shard_count)
        .into_iter()
        .zip(groups.into_iter().cycle())
        .map(|(range, group)| ShardPlan { range, group })
        .collect())
}

/// `column_name_to_column`: a column as `pg_dist_partition` has it.
pub fn column_name_to_column(rel: Oid, name: &str) -> Result<String, EmbeddedError> {
    let rows = text_sql::query(
        "SELECT attnum, atttypid::oid, atttypmod, attcollation::oid
           FROM pg_catalog.pg_attribute
          WHERE attrelid OPERATOR(pg_catalog.=) $1::oid
            AND attname::text OPERATOR(pg_catalog.=) $2
            AND attnum OPERATOR(pg_catalog.>) 0 AND NOT attisdropped",
        &[&oid_text(rel), name],
    )?;
    let Some(row) = rows.first() else {
        let table = relation(rel)?.shown;
        return Err(EmbeddedError::NoColumn { table, column: name.to_owned() });
    };
    let mut row = Row::new(row, "pg_attribute");
    let attnum = row.number()?;
    let column = crate::pg::distribution::ColumnType {
        oid: row.oid()?,
        typmod: row.number()?,
        collation: row.oid()?,
    };
    Ok(crate::pg::distribution::column_reference(attnum, column))
}
