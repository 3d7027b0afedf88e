//! A table that is restored by itself into a cluster where others of its colocation group are still joins them there: joins
//! and foreign keys between them need that.

use std::collections::HashMap;

use super::choice::Choice;
use super::distribute::named;
use crate::dump::{Dump, Kind, Name, NodeSession, Table};
use crate::failure::Failure;
use crate::rows::rows;

/// Distributed tables that are there, with what has to be the same for a table to join them. Those of tenants nobody joins.
const THERE: &str = "
SELECT n.nspname, c.relname, k.shardcount, k.replicationfactor,
       CASE WHEN k.distributioncolumntype <> 0 THEN format_type(k.distributioncolumntype, NULL) END AS type
  FROM pg_dist_partition p JOIN pg_dist_colocation k ON k.colocationid = p.colocationid
  JOIN pg_class c ON c.oid = p.logicalrelid::oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (p.partmethod = 'h' OR p.partmethod = 'n' AND p.repmodel <> 't')";

/// What restored tables join.
#[derive(Default)]
pub struct Neighbours {
    /// A table that is there, by the number of its group in the dump.
    pub of_group: HashMap<i64, Name>,
    /// Groups that can be joined no more, a sentence each.
    pub findings: Vec<String>,
}

/// Whether a table is one of a group that others join.
fn is_member(table: &Table) -> bool {
    matches!(table.kind, Kind::Hash | Kind::SingleShard)
}

/// Finds them.
pub fn find(
    choice: &Choice,
    dump: &Dump,
    session: &mut NodeSession,
) -> Result<Neighbours, Failure> {
    let mut found = Neighbours::default();
    let comes = |table: &Table| {
        dump.tables.iter().any(|one| (&one.schema, &one.name) == (&table.schema, &table.name))
    };
    let others: Vec<&Table> =
        choice.all.iter().filter(|table| is_member(table) && !comes(table)).collect();
    if others.is_empty() {
        return Ok(found);
    }
    // What is in the schema of a tenant, here or there, is in a group of its own.
    let tenants = "SELECT to_regclass('pg_catalog.pg_dist_schema') IS NOT NULL";
    let sql = match session.ask("look for tenants", tenants)?.single_value()? {
        "t" => format!(
            "{THERE} AND NOT EXISTS (SELECT FROM pg_dist_schema s WHERE s.schemaid::oid = n.oid)"
        ),
        _ => THERE.to_owned(),
    };
    let reply = session.ask("list distributed tables", &sql)?;
    let mut there: HashMap<(String, String), (i32, i32, Option<String>)> = HashMap::new();
    for row in rows(&reply)? {
        let is = (row.get("shardcount")?, row.get("replicationfactor")?, row.maybe("type")?);
        there.insert((row.get("nspname")?, row.get("relname")?), is);
    }
    for group in &dump.colocation {
        let is_of = |table: &&&Table| table.colocation == Some(group.id);
        let restored = dump.tables.iter().find(|table| is_member(table) && is_of(&table));
        let Some(restored) = restored else { continue };
        let was = (group.shard_count, group.replication_factor, group.column_type.clone());
        let mut other = None;
        for table in others.iter().filter(is_of) {
            let is = there.get(&(table.schema.clone(), table.name.clone()));
            if is.is_some_and(|is| *is == was) {
                let name = Name { schema: table.schema.clone(), name: table.name.clone() };
                found.of_group.entry(group.id).or_insert(name);
            } else if is.is_some() {
                other.get_or_insert(table);
            }
        }
        if let (Some(other), false) = (other, found.of_group.contains_key(&group.id)) {
            found.findings.push(format!(
                "{} is not colocated with {}, as it was: that has other shards now, or a key of another type",
                named(&restored.schema, &restored.name),
                named(&other.schema, &other.name)
            ));
        }
    }
    Ok(found)
}
