//! Where the rows of each file go: straight to a shard, or through the coordinator.
//!
//! Straight is twice as quick, and right only where the target's shard of the same range takes the same rows. So its
//! table has as many shards with the same ranges, and the hash of its column's type is the same in every cluster: an
//! enum's is of its OIDs, a text's under a collation that takes two texts for one is of that collation's version.
//! With another hash rows would be in shards where nobody looks for them, and every count would still be right.
//!
//! A partition takes no row that belongs to another one, and which one that is may be another here: by the hash of an
//! enum, by the order of a collation. So each file has a second way, through the root of its partitions.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::distribute::{named, quoted};
use super::error::RestoreDumpError;
use super::target::Target;
use crate::dump::{DataFile, Dump, Kind, NodeSession};
use crate::failure::Failure;
use crate::rows::rows;

/// Types whose hash is of their value alone, in every cluster and release.
const STABLE: &str = "('int2', 'int4', 'int8', 'text', 'varchar', 'bpchar', 'uuid', 'date', 'timestamp', \
 'timestamptz', 'numeric', 'bytea', 'bool')";

/// A shard of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub min: String,
    pub max: String,
    /// Its name on its nodes, as SQL takes it.
    pub name: String,
    pub groups: Vec<i32>,
}

/// A distributed table of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// Its column, as SQL takes it.
    pub column: String,
    /// What hashes the column's values on a node, and whether they are the same in every cluster.
    pub hash: String,
    pub is_stable: bool,
    pub shards: Vec<Shard>,
}

/// All distributed tables, by schema and name.
pub type HashedTables = HashMap<(String, String), Hashed>;

/// A file's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The number of its file.
    pub file: usize,
    /// The position of the node that takes it.
    pub node: usize,
    /// The table it is copied into there, as SQL takes it.
    pub table: String,
    pub direct: bool,
    /// The root of its partitions there, which finds the partition of each row, as SQL takes it.
    pub root: Option<String>,
    /// Whether its table is one of the node's own, and gets no other file.
    pub alone: bool,
}

/// The roots of all partitions of the target, by schema and name.
pub type Roots = HashMap<(String, String), (String, String)>;

/// Which partitions there are, and of what.
pub fn roots(coordinator: &mut NodeSession) -> Result<Roots, Failure> {
    let reply = coordinator.ask(
        "list partitions",
        "SELECT n.nspname, c.relname, rn.nspname AS root_schema, r.relname AS root
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace
          WHERE c.relispartition AND c.relkind = 'r'",
    )?;
    let mut roots = Roots::new();
    for row in rows(&reply)? {
        let leaf = (row.get("nspname")?, row.get("relname")?);
        roots.insert(leaf, (row.get("root_schema")?, row.get("root")?));
    }
    Ok(roots)
}

/// What is distributed by hash in the target.
pub fn hashed_tables(
    target: &Target,
    coordinator: &mut NodeSession,
) -> Result<HashedTables, Failure> {
    let name = match target.citus {
        true => {
            "CASE WHEN n.nspname = 'public' THEN 'public.' ELSE '' END || shard_name(s.logicalrelid, s.shardid)"
        }
        false => "quote_ident(n.nspname) || '.' || quote_ident(c.relname || '_' || s.shardid)",
    };
    // What a distributed table's rows are hashed by is the support function of its type's default operator class.
    let hash = match target.citus {
        true => "'worker_hash'",
        false => "(SELECT p.amproc::regproc::text FROM pg_amproc p JOIN pg_opfamily f ON f.oid = p.amprocfamily
                     JOIN pg_am m ON m.oid = f.opfmethod AND m.amname = 'hash'
                    WHERE p.amprocnum = 1 AND p.amproclefttype = a.atttypid AND p.amprocrighttype = a.atttypid LIMIT 1)",
    };
    let sql = format!(
        "SELECT n.nspname, c.relname, quote_ident(a.attname) AS col, {hash} AS hash, s.shardid, s.shardminvalue,
                s.shardmaxvalue, {name} AS shard, l.groupid,
                coalesce(tn.nspname = 'pg_catalog' AND t.typname IN {STABLE}
                         AND (a.attcollation = 0 OR co.collisdeterministic), false) AS stable
           FROM pg_dist_partition p
           JOIN pg_class c ON c.oid = p.logicalrelid::oid JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname::text = column_to_column_name(p.logicalrelid, p.partkey)
           JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
           LEFT JOIN pg_collation co ON co.oid = a.attcollation
           JOIN pg_dist_shard s ON s.logicalrelid = p.logicalrelid
           JOIN pg_dist_placement l ON l.shardid = s.shardid AND l.shardstate = 1
          WHERE p.partmethod = 'h' AND p.partkey IS NOT NULL
          ORDER BY s.shardid, l.groupid"
    );
    let reply = coordinator.ask("list shards", &sql)?;
    let mut tables = HashedTables::new();
    let mut last: Option<i64> = None;
    for row in rows(&reply)? {
        let table = tables.entry((row.get("nspname")?, row.get("relname")?)).or_default();
        table.column = row.get("col")?;
        table.hash = row.maybe("hash")?.unwrap_or_default();
        table.is_stable = row.is_true("stable")?;
        let (id, group): (i64, i32) = (row.get("shardid")?, row.get("groupid")?);
        match table.shards.last_mut() {
            Some(shard) if last == Some(id) => shard.groups.push(group),
            _ => table.shards.push(Shard {
                min: row.get("shardminvalue")?,
                max: row.get("shardmaxvalue")?,
                name: row.get("shard")?,
                groups: vec![group],
            }),
        }
        last = Some(id);
    }
    Ok(tables)
}

/// The way of every file, the largest first.
pub fn plan(
    dump: &Dump,
    target: &Target,
    hashed: &HashedTables,
    roots: &Roots,
) -> Result<Vec<Load>, Failure> {
    let kinds: HashMap<(&str, &str), (Kind, usize)> = dump
        .tables
        .iter()
        .map(|table| ((table.schema.as_str(), table.name.as_str()), (table.kind, table.shards)))
        .collect();
    let mut loads = Vec::new();
    for (number, file) in dump.files.iter().enumerate() {
        let kind = kinds.get(&(file.schema.as_str(), file.table.as_str()));
        let (kind, shards) = kind.copied().unwrap_or((Kind::Local, 0));
        let key = (file.schema.clone(), file.table.clone());
        let place = match (kind, hashed.get(&key)) {
            (Kind::Hash, Some(table)) => same_shard(file, shards, table),
            _ => Err("it is not distributed by hash in the target"),
        };
        let root = roots.get(&key);
        match place {
            Ok(shard) => {
                let root = root
                    .and_then(|root| hashed.get(root))
                    .and_then(|root| same_shard(file, shards, root).ok())
                    .map(|shard| shard.name.clone());
                for group in &shard.groups {
                    let node =
                        target.position(*group).ok_or_else(|| RestoreDumpError::NoTable {
                            table: shard.name.clone(),
                            node: format!("group {group}"),
                        })?;
                    let table = shard.name.clone();
                    let root = root.clone();
                    loads.push(Load { file: number, node, table, direct: true, root, alone: true });
                }
            }
            Err(why) if kind == Kind::Hash && !target.citus => {
                let table = named(&file.schema, &file.table);
                return Err(RestoreDumpError::NoRoute { table, why }.into());
            }
            Err(_) => {
                let table = quoted(&file.schema, &file.table);
                let root = root.map(|(schema, name)| quoted(schema, name));
                let alone = kind == Kind::Local;
                loads.push(Load { file: number, node: 0, table, direct: false, root, alone });
            }
        }
    }
    let mut files: HashMap<(usize, String), usize> = HashMap::new();
    for load in &loads {
        *files.entry((load.node, load.table.clone())).or_default() += 1;
    }
    for load in &mut loads {
        load.alone &= files.get(&(load.node, load.table.clone())) == Some(&1);
    }
    loads.sort_by_key(|load| std::cmp::Reverse(dump.files[load.file].bytes));
    Ok(loads)
}

/// Where all files go, in one word: after a shard was moved or split, or a node has gone, it is another one.
pub fn layout(dump: &Dump, target: &Target, loads: &[Load]) -> String {
    let mut lines: Vec<String> = loads
        .iter()
        .map(|load| {
            let path = dump.files[load.file].path.display();
            format!("{path} {} {}\n", target.nodes[load.node].group, load.table)
        })
        .collect();
    lines.sort();
    let hash = Sha256::digest(lines.concat());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The target's shard that takes exactly the rows of a file's; else why there is none.
fn same_shard<'a>(
    file: &DataFile,
    shards: usize,
    table: &'a Hashed,
) -> Result<&'a Shard, &'static str> {
    if !table.is_stable {
        return Err("the hash of its column's type is another one in every cluster");
    }
    let (Some(min), Some(max)) = (&file.min_value, &file.max_value) else {
        return Err("its file has no range");
    };
    let found = table.shards.iter().find(|shard| shard.min == *min && shard.max == *max);
    match found {
        Some(shard) if table.shards.len() == shards => Ok(shard),
        _ => Err("its shards have other ranges than the dump's"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(min: &str, max: &str) -> DataFile {
        serde_json::from_value(serde_json::json!({
            "path": "data/t", "schema": "public", "table": "t", "shard": 1, "min_value": min, "max_value": max,
            "groupid": 1, "blocks": null, "columns": [], "format": "text", "rows": 0, "bytes": 0, "stored_bytes": 0,
            "sha256": ""
        }))
        .expect("a file")
    }

    #[test]
    fn rows_go_straight_to_a_shard_of_the_same_range_and_hash_alone() {
        let shard = |min: &str, max: &str| Shard {
            min: min.into(),
            max: max.into(),
            name: format!("t{min}"),
            groups: vec![1],
        };
        let mut table = Hashed {
            column: "id".into(),
            hash: "worker_hash".into(),
            is_stable: true,
            shards: vec![shard("-10", "-1"), shard("0", "9")],
        };
        assert_eq!(
            same_shard(&file("0", "9"), 2, &table).map(|shard| shard.name.as_str()),
            Ok("t0")
        );
        // The same count with other ends, a range that two have, another count.
        assert!(same_shard(&file("0", "8"), 2, &table).is_err());
        assert!(same_shard(&file("-10", "9"), 2, &table).is_err());
        assert!(same_shard(&file("0", "9"), 3, &table).is_err());
        table.is_stable = false;
        assert!(same_shard(&file("0", "9"), 2, &table).is_err());
    }
}
