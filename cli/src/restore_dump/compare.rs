//! Whether what is there is what was dumped: as many rows in every table, and every row in the shard where it is
//! looked for.

use std::collections::HashMap;

use tracing::debug;

use super::distribute::{named, quoted};
use super::route::HashedTables;
use super::target::{LONG, Target};
use crate::dump::{Dump, Kind, NodeSession, Table, literal};
use crate::failure::Failure;
use crate::rows::only_row;

/// What is different, a sentence each.
pub fn compare(
    dump: &Dump,
    target: &Target,
    hashed: &HashedTables,
    sessions: &mut [NodeSession],
) -> Result<Vec<String>, Failure> {
    let mut expected: HashMap<(&str, &str), u64> = HashMap::new();
    for file in &dump.files {
        *expected.entry((&file.schema, &file.table)).or_default() += file.rows;
    }
    let mut differences = Vec::new();
    for table in dump.tables.iter().filter(|table| !table.partitioned) {
        let written =
            expected.get(&(table.schema.as_str(), table.name.as_str())).copied().unwrap_or(0);
        let name = named(&table.schema, &table.name);
        let found = rows_of(table, target, hashed, sessions)?;
        debug!("{name}: {found} rows, {written} in the dump");
        // An extension has put its own rows into its tables.
        let extensions = found > written
            && table.kind == Kind::Local
            && is_of_extension(&mut sessions[0], &table.schema, &table.name)?;
        if found != written && !extensions {
            differences.push(format!("{name} has {found} rows, and {written} were dumped"));
        }
    }
    Ok(differences)
}

/// How many rows a table has: its own, without those of tables below it.
pub fn rows_of(
    table: &Table,
    target: &Target,
    hashed: &HashedTables,
    sessions: &mut [NodeSession],
) -> Result<u64, Failure> {
    let key = (table.schema.clone(), table.name.clone());
    let Some(hashed) = hashed.get(&key).filter(|_| !target.citus) else {
        let only = if table.kind == Kind::Local { "ONLY " } else { "" };
        return count(&mut sessions[0], &format!("{only}{}", quoted(&table.schema, &table.name)));
    };
    let mut found = 0;
    for shard in &hashed.shards {
        let at = shard.groups.first().and_then(|group| target.position(*group));
        if let Some(session) = at.and_then(|at| sessions.get_mut(at)) {
            found += count(session, &shard.name)?;
        }
    }
    Ok(found)
}

fn count(session: &mut NodeSession, table: &str) -> Result<u64, Failure> {
    let sql = format!("SELECT count(*) FROM {table}");
    Ok(session.ask_within("count rows", &sql, LONG)?.parse_single()?)
}

fn is_of_extension(session: &mut NodeSession, schema: &str, name: &str) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND deptype = 'e'
             AND objid = {}::regclass)",
        literal(&quoted(schema, name))
    );
    Ok(session.ask("ask whose table it is", &sql)?.single_value()? == "t")
}

/// Rows that are in another shard than the one where they are looked for. Where the hash is another one in every
/// database, as an enum's, a node's own hash says nothing; those rows went through the coordinator.
pub fn misplaced(
    dump: &Dump,
    target: &Target,
    hashed: &HashedTables,
    sessions: &mut [NodeSession],
) -> Result<Vec<String>, Failure> {
    let mut differences = Vec::new();
    for table in dump.tables.iter().filter(|table| table.kind == Kind::Hash && !table.partitioned) {
        let Some(hashed) = hashed.get(&(table.schema.clone(), table.name.clone())) else {
            continue;
        };
        if !hashed.is_stable || hashed.hash.is_empty() {
            continue;
        }
        for shard in &hashed.shards {
            for group in &shard.groups {
                let Some(at) = target.position(*group) else {
                    continue;
                };
                let sql = format!(
                    "SELECT count(*) AS misplaced FROM {} WHERE {} IS NOT NULL AND {}({}) NOT BETWEEN {} AND {}",
                    shard.name, hashed.column, hashed.hash, hashed.column, shard.min, shard.max
                );
                let reply = sessions[at].ask_within("look for misplaced rows", &sql, LONG)?;
                let misplaced: u64 = only_row(&reply)?.get("misplaced")?;
                if misplaced > 0 {
                    differences.push(format!(
                        "{} has {misplaced} rows in shard {} of {} that belong to another shard",
                        named(&table.schema, &table.name),
                        shard.name,
                        target.nodes[at].called()
                    ));
                }
            }
        }
    }
    Ok(differences)
}
