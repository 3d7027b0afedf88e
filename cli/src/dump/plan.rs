//! The plan: what there is, from the catalogs as the snapshot shows them, and a job for each piece of it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use remote::{RemoteError, Reply};
use tracing::debug;

use super::args::{Compress, DumpArgs};
use super::error::DumpError;
use super::export::{Keeper, Snapshots};
use super::job::Job;
use super::manifest::{Colocation, DataFile, Function, Kind, Sequence, Table, Tenant};
use super::session::NodeSession;
use crate::failure::Failure;
use crate::rows::{Row, rows};

/// The size of a block, by which a table is split. Where it is another, the parts are larger, and nothing is
/// missing: the last part has no end.
const BLOCK: u64 = 8192;

/// A part of a table is never smaller.
const SMALLEST_PART: u64 = 64 << 20;

/// Extensions whose tables are this program's, or Citus', own business.
const OWN_EXTENSIONS: &str = "('citus', 'citus_columnar', 'pg_dist', 'citus_fence')";

/// User tables that no extension owns.
const USERS_TABLE: &str = "c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype = 'e')";

/// What there is.
pub struct Plan {
    pub jobs: Vec<Job>,
    pub colocation: Vec<Colocation>,
    pub tables: Vec<Table>,
    pub tenants: Vec<Tenant>,
    pub functions: Vec<Function>,
    pub sequences: Vec<Sequence>,
    pub not_dumped: Vec<String>,
    /// Tables that pg_dump must not take for the coordinator's own, quoted: only where Citus does not hide them.
    pub hidden: Vec<String>,
}

/// A table of one node.
struct Relation {
    oid: u32,
    schema: String,
    name: String,
    kind: String,
    access_method: Option<String>,
    size: u64,
}

/// All values of a column's kind.
fn collect<T>(
    reply: &Reply,
    make: impl Fn(Row<'_>) -> Result<T, RemoteError>,
) -> Result<Vec<T>, RemoteError> {
    rows(reply)?.map(make).collect()
}

/// Makes it.
pub fn make(
    args: &DumpArgs,
    snapshots: &mut Snapshots,
    is_citus: bool,
    present: &mut dyn FnMut(&Keeper) -> Result<NodeSession, Failure>,
) -> Result<Plan, Failure> {
    let keepers = &mut snapshots.keepers;
    let mut plan = Plan {
        jobs: Vec::new(),
        colocation: Vec::new(),
        tables: Vec::new(),
        tenants: Vec::new(),
        functions: Vec::new(),
        sequences: Vec::new(),
        not_dumped: Vec::new(),
        hidden: Vec::new(),
    };
    let coordinator = keepers.first_mut().ok_or(DumpError::ExportEnded)?;
    let mut by_oid = tables(coordinator, &mut plan)?;
    metadata(coordinator, is_citus, &mut plan)?;
    let shards = shards(coordinator, is_citus)?;
    let configuration = configuration(coordinator)?;
    let leavings = leavings(coordinator)?;

    let mut relations = Vec::new();
    for keeper in keepers.iter_mut() {
        relations.push(relations_of(keeper, present)?);
        plan.sequences.extend(sequences_of(keeper)?);
        large_objects(keeper, &mut plan.not_dumped)?;
    }
    let nodes: HashMap<i32, usize> = keepers
        .iter()
        .enumerate()
        .map(|(position, keeper)| (keeper.node.groupid, position))
        .collect();

    // Every shard, of the first of its nodes.
    let mut shard_names: HashSet<(usize, String)> = HashSet::new();
    let mut done: HashSet<i64> = HashSet::new();
    let mut unplaced: Vec<(i64, u32)> = Vec::new();
    for shard in &shards {
        let Some(index) = by_oid.get(&shard.relation).copied() else {
            continue;
        };
        let node = shard.group.and_then(|group| nodes.get(&group)).copied();
        let Some(node) = node else {
            unplaced.push((shard.id, shard.relation));
            continue;
        };
        shard_names.insert((node, shard.name.clone()));
        if !done.insert(shard.id) {
            continue;
        }
        let table = &mut plan.tables[index];
        table.shards += 1;
        if table.partitioned {
            continue;
        }
        let Some(relation) = relations[node].get(&shard.name).filter(|found| found.kind == "r")
        else {
            let table = format!("{}.{}", table.schema, table.name);
            return Err(DumpError::NoPlacement { table, shard: shard.id }.into());
        };
        plan.jobs.push(job(args, node, &keepers[node], relation, table, Some(shard), None));
    }
    if let Some((shard, relation)) = unplaced.iter().find(|(shard, _)| !done.contains(shard)) {
        let table = by_oid.get(relation).map(|index| &plan.tables[*index]);
        let table =
            table.map_or_else(String::new, |table| format!("{}.{}", table.schema, table.name));
        return Err(DumpError::NoPlacement { table, shard: *shard }.into());
    }

    // The coordinator's own, and those of extensions that say so.
    let is_shard = |table: &Table| {
        let name = key(&table.schema, &table.name);
        leavings.contains(&loose(&name)) || shard_names.contains(&(0, name))
    };
    let mut own: Vec<usize> = by_oid.drain().map(|(_, index)| index).collect();
    own.sort_unstable();
    for index in own {
        let table = plan.tables[index].clone();
        if table.kind != Kind::Local {
            continue;
        }
        let key = key(&table.schema, &table.name);
        let is_shard = is_shard(&table);
        match relations[0].get(&key) {
            Some(_) if is_shard => {}
            Some(relation) if !table.partitioned => {
                plan.jobs.push(job(args, 0, &keepers[0], relation, &table, None, None));
            }
            _ => {}
        }
        if is_shard && !is_citus {
            plan.hidden.push(format!(
                "{}.{}",
                super::job::quote(&table.schema),
                super::job::quote(&table.name)
            ));
        }
    }
    plan.tables.retain(|table| table.kind != Kind::Local || !is_shard(table));
    for (table, condition) in configuration {
        let entry = Table {
            schema: table.schema.clone(),
            name: table.name.clone(),
            kind: Kind::Local,
            column: None,
            colocation: None,
            shards: 0,
            autoconverted: false,
            partitioned: false,
            is_partition: false,
            access_method: table.access_method.clone(),
        };
        plan.jobs.push(job(args, 0, &keepers[0], &table, &entry, None, Some(condition)));
        plan.tables.push(entry);
    }
    workers_own(keepers, &relations, &shard_names, &leavings, &mut plan);
    split(args, &mut plan.jobs, &relations);
    name_files(args, &mut plan.jobs);
    debug!("{} tables, {} jobs", plan.tables.len(), plan.jobs.len());
    Ok(plan)
}

/// The tables that Citus knows, and the coordinator's own; their positions by oid.
fn tables(coordinator: &mut Keeper, plan: &mut Plan) -> Result<HashMap<u32, usize>, Failure> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, a.amname, p.partmethod, p.repmodel,
                p.colocationid, p.autoconverted,
                CASE WHEN p.partkey IS NOT NULL THEN column_to_column_name(p.logicalrelid, p.partkey) END AS col
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_am a ON a.oid = c.relam
           LEFT JOIN pg_dist_partition p ON p.logicalrelid::oid = c.oid
          WHERE p.logicalrelid IS NOT NULL OR c.relkind IN ('r', 'p') AND {USERS_TABLE}
          ORDER BY n.nspname, c.relname"
    );
    let reply = coordinator.ask("list tables", &sql)?;
    let mut by_oid = HashMap::new();
    for row in rows(&reply)? {
        let (schema, name): (String, String) = (row.get("nspname")?, row.get("relname")?);
        let method: Option<String> = row.maybe("partmethod")?;
        let model: Option<String> = row.maybe("repmodel")?;
        let group: i64 = row.maybe("colocationid")?.unwrap_or(0);
        let kind = match (method.as_deref(), model.as_deref()) {
            (None, _) => Kind::Local,
            (Some("h"), _) => Kind::Hash,
            (Some("n"), Some("t")) => Kind::Reference,
            (Some("n"), _) if group != 0 => Kind::SingleShard,
            (Some("n"), _) => Kind::CitusLocal,
            (Some(method), _) => {
                let (table, method) = (format!("{schema}.{name}"), method.to_owned());
                return Err(DumpError::Method { table, method }.into());
            }
        };
        let relkind: String = row.get("relkind")?;
        if relkind == "f" {
            plan.not_dumped.push(format!("rows of the foreign table {schema}.{name}"));
            continue;
        }
        by_oid.insert(row.get("oid")?, plan.tables.len());
        plan.tables.push(Table {
            schema,
            name,
            kind,
            column: row.maybe("col")?,
            colocation: Some(group).filter(|group| *group != 0),
            shards: 0,
            autoconverted: row.is_true("autoconverted")?,
            partitioned: relkind == "p",
            is_partition: row.is_true("relispartition")?,
            access_method: row.maybe("amname")?,
        });
    }
    Ok(by_oid)
}

/// Colocation groups, tenants and functions.
fn metadata(coordinator: &mut Keeper, is_citus: bool, plan: &mut Plan) -> Result<(), Failure> {
    let reply = coordinator.ask(
        "list colocation groups",
        "SELECT colocationid, shardcount, replicationfactor,
                CASE WHEN distributioncolumntype <> 0 THEN format_type(distributioncolumntype, NULL) END AS type
           FROM pg_dist_colocation ORDER BY 1",
    )?;
    plan.colocation = collect(&reply, |row| {
        Ok(Colocation {
            id: row.get("colocationid")?,
            shard_count: row.get("shardcount")?,
            replication_factor: row.get("replicationfactor")?,
            column_type: row.maybe("type")?,
        })
    })?;
    if !is_citus {
        return Ok(());
    }
    let reply = coordinator
        .ask("look for tenants", "SELECT to_regclass('pg_catalog.pg_dist_schema') IS NOT NULL")?;
    if reply.single_value()? == "t" {
        let reply = coordinator.ask(
            "list tenants",
            "SELECT n.nspname, s.colocationid FROM pg_dist_schema s
               JOIN pg_namespace n ON n.oid = s.schemaid::oid ORDER BY 1",
        )?;
        plan.tenants = collect(&reply, |row| {
            Ok(Tenant { schema: row.get("nspname")?, colocation: row.get("colocationid")? })
        })?;
    }
    let reply = coordinator.ask(
        "list distributed functions",
        "SELECT o.objid::regprocedure::text AS signature, o.distribution_argument_index, o.colocationid
           FROM pg_dist_object o JOIN pg_proc p ON p.oid = o.objid
          WHERE o.classid = 'pg_proc'::regclass
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                               AND d.objid = p.oid AND d.deptype = 'e')
          ORDER BY 1",
    )?;
    plan.functions = collect(&reply, |row| {
        Ok(Function {
            signature: row.get("signature")?,
            argument: row.maybe("distribution_argument_index")?,
            colocation: row.maybe("colocationid")?,
        })
    })?;
    Ok(())
}

/// A placement of a shard.
struct Shard {
    id: i64,
    relation: u32,
    /// Its name on the node, as [`key`] writes it.
    name: String,
    min: Option<String>,
    max: Option<String>,
    group: Option<i32>,
}

/// All placements of all shards, the lowest group first.
fn shards(coordinator: &mut Keeper, is_citus: bool) -> Result<Vec<Shard>, Failure> {
    // How Citus shortens a long name is its own business. It leaves out the schema public, as search_path says
    // nothing of it.
    let name = match is_citus {
        true => "shard_name(s.logicalrelid, s.shardid)",
        false => {
            "CASE n.nspname WHEN 'public' THEN '' ELSE quote_ident(n.nspname) || '.' END
             || quote_ident(c.relname || '_' || s.shardid)"
        }
    };
    let sql = format!(
        "SELECT s.shardid, s.logicalrelid::oid AS relation, {name} AS name, s.shardminvalue, s.shardmaxvalue,
                p.groupid
           FROM pg_dist_shard s JOIN pg_class c ON c.oid = s.logicalrelid::oid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_dist_placement p ON p.shardid = s.shardid AND p.shardstate = 1
          ORDER BY s.shardid, p.groupid"
    );
    let reply = coordinator.ask("list shards", &sql)?;
    Ok(collect(&reply, |row| {
        Ok(Shard {
            id: row.get("shardid")?,
            relation: row.get("relation")?,
            name: row.get("name")?,
            min: row.maybe("shardminvalue")?,
            max: row.maybe("shardmaxvalue")?,
            group: row.maybe("groupid")?,
        })
    })?)
}

/// How a table is found by name: as `shard_name` writes it, quoted as SQL does.
fn key(schema: &str, name: &str) -> String {
    let plain = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let ident = |text: &str| match plain(text) {
        true => text.to_owned(),
        false => super::job::quote(text),
    };
    match schema {
        "public" => ident(name),
        _ => format!("{}.{}", ident(schema), ident(name)),
    }
}

/// `quote_ident` quotes reserved words too, which this program does not know: such a name is quoted in both.
fn loose(key: &str) -> String {
    key.replace('"', "")
}

/// The tables of a node, by name.
fn relations_of(
    keeper: &mut Keeper,
    present: &mut dyn FnMut(&Keeper) -> Result<NodeSession, Failure>,
) -> Result<Relations, Failure> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, c.relkind, a.amname, greatest(c.relpages, 0)::bigint AS pages
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
          WHERE c.relkind IN ('r', 'p') AND {USERS_TABLE}"
    );
    let reply = keeper.ask("list a node's tables", &sql)?;
    let mut found = collect(&reply, |row| {
        Ok(Relation {
            oid: row.get("oid")?,
            schema: row.get("nspname")?,
            name: row.get("relname")?,
            kind: row.get("relkind")?,
            access_method: row.maybe("amname")?,
            size: row.get::<u64>("pages")?.saturating_mul(BLOCK),
        })
    })?;
    // How large they are now. Asking takes a lock for a moment, which somebody else may have: then an estimate
    // is good enough, as it only decides what comes first, and where a table is split.
    let mut now = present(keeper)?;
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '1s';
         SELECT c.oid, pg_relation_size(c.oid) AS size FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND {USERS_TABLE}"
    );
    match now.ask("ask how large the tables are", &sql) {
        Ok(reply) => {
            let mut sizes = HashMap::new();
            for row in rows(&reply)? {
                sizes.insert(row.get::<u32>("oid")?, row.maybe::<u64>("size")?.unwrap_or(0));
            }
            for relation in &mut found {
                relation.size = sizes.get(&relation.oid).copied().unwrap_or(relation.size);
            }
        }
        Err(error @ RemoteError::Query { .. }) => debug!("{error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(Relations::new(found))
}

/// The tables of a node, by name.
struct Relations(HashMap<String, Vec<Relation>>);

impl Relations {
    fn new(found: Vec<Relation>) -> Relations {
        let mut by_name: HashMap<String, Vec<Relation>> = HashMap::new();
        for relation in found {
            by_name
                .entry(loose(&key(&relation.schema, &relation.name)))
                .or_default()
                .push(relation);
        }
        Relations(by_name)
    }

    /// The one of a name that SQL has quoted, or [`key`].
    fn get(&self, name: &str) -> Option<&Relation> {
        let candidates = self.0.get(&loose(name))?;
        let exact = candidates.iter().find(|found| key(&found.schema, &found.name) == name);
        match (exact, candidates.as_slice()) {
            (Some(found), _) => Some(found),
            (None, [only]) => Some(only),
            // Names that differ in quotes alone, of which none is this one.
            (None, _) => None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Relation> {
        self.0.values().flatten()
    }
}

/// Tables of extensions that have rows of users, each with its condition.
fn configuration(coordinator: &mut Keeper) -> Result<Vec<(Relation, String)>, Failure> {
    let sql = format!(
        "SELECT c.oid, n.nspname, c.relname, x.condition FROM pg_extension e
          CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS x(oid, condition)
           JOIN pg_class c ON c.oid = x.oid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND e.extname NOT IN {OWN_EXTENSIONS} ORDER BY 2, 3"
    );
    let reply = coordinator.ask("list tables of extensions", &sql)?;
    Ok(collect(&reply, |row| {
        let relation = Relation {
            oid: row.get("oid")?,
            schema: row.get("nspname")?,
            name: row.get("relname")?,
            kind: "r".to_owned(),
            access_method: Some("heap".to_owned()),
            size: 0,
        };
        Ok((relation, row.maybe("condition")?.unwrap_or_default()))
    })?)
}

/// The values of a node's sequences. A snapshot has none of them: they are read after it was taken, so no row in
/// the dump has a higher one.
fn sequences_of(keeper: &mut Keeper) -> Result<Vec<Sequence>, Failure> {
    let group = keeper.node.groupid;
    let reply = keeper.ask(
        "list sequences",
        "SELECT schemaname, sequencename, data_type::text AS type, last_value FROM pg_sequences
          WHERE schemaname !~ '^pg_' ORDER BY 1, 2",
    )?;
    Ok(collect(&reply, |row| {
        Ok(Sequence {
            groupid: group,
            schema: row.get("schemaname")?,
            name: row.get("sequencename")?,
            data_type: row.get("type")?,
            last_value: row.maybe("last_value")?,
        })
    })?)
}

fn large_objects(keeper: &mut Keeper, not_dumped: &mut Vec<String>) -> Result<(), Failure> {
    let sql = "SELECT count(*) FROM pg_largeobject_metadata";
    let count: i64 = keeper.ask("count large objects", sql)?.parse_single()?;
    if count > 0 {
        let node = keeper.session.node();
        not_dumped.push(format!("{count} large objects on {node}"));
    }
    Ok(())
}

/// Tables of the workers that Citus knows nothing of are not dumped, and told.
fn workers_own(
    keepers: &[Keeper],
    relations: &[Relations],
    shard_names: &HashSet<(usize, String)>,
    leavings: &HashSet<String>,
    plan: &mut Plan,
) {
    let known: HashSet<String> =
        plan.tables.iter().map(|table| loose(&key(&table.schema, &table.name))).collect();
    let shards: HashSet<(usize, String)> =
        shard_names.iter().map(|(node, name)| (*node, loose(name))).collect();
    for (node, found) in relations.iter().enumerate().skip(1) {
        let mut names: Vec<String> = found
            .all()
            .filter(|relation| {
                let name = loose(&key(&relation.schema, &relation.name));
                !known.contains(&name)
                    && !leavings.contains(&name)
                    && !shards.contains(&(node, name))
            })
            .map(|relation| format!("{}.{}", relation.schema, relation.name))
            .collect();
        names.sort();
        let node = &keepers[node].reach.target.node;
        plan.not_dumped.extend(
            names.into_iter().map(|name| format!("table {name} of {node}, which is no shard")),
        );
    }
}

/// What moves and splits have left behind for Citus to drop.
fn leavings(coordinator: &mut Keeper) -> Result<HashSet<String>, Failure> {
    let sql = "SELECT object_name FROM pg_dist_cleanup";
    let reply = coordinator.ask("list what is to be cleaned up", sql)?;
    let mut leavings = HashSet::new();
    for row in rows(&reply)? {
        let name: String = row.get("object_name")?;
        leavings.insert(loose(name.strip_prefix("public.").unwrap_or(&name)));
    }
    Ok(leavings)
}

fn job(
    args: &DumpArgs,
    node: usize,
    keeper: &Keeper,
    relation: &Relation,
    table: &Table,
    shard: Option<&Shard>,
    condition: Option<String>,
) -> Job {
    Job {
        node,
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        condition,
        size: relation.size,
        file: DataFile {
            path: PathBuf::new(),
            schema: table.schema.clone(),
            table: table.name.clone(),
            shard: shard.map(|shard| shard.id),
            min_value: shard.and_then(|shard| shard.min.clone()),
            max_value: shard.and_then(|shard| shard.max.clone()),
            groupid: keeper.node.groupid,
            blocks: None,
            columns: Vec::new(),
            format: args.format,
            rows: 0,
            bytes: 0,
            stored_bytes: 0,
            sha256: String::new(),
        },
    }
}

/// Tables that are larger than their share become several jobs; then the largest comes first.
fn split(args: &DumpArgs, jobs: &mut Vec<Job>, relations: &[Relations]) {
    let total: u64 = jobs.iter().map(|job| job.size).sum();
    let share = total / (args.jobs.get() as u64 * 4).max(1);
    let part =
        args.part_blocks.map_or_else(|| share.max(SMALLEST_PART) / BLOCK, |blocks| blocks.max(1));
    let mut all = Vec::with_capacity(jobs.len());
    for job in jobs.drain(..) {
        let is_heap = relations[job.node]
            .get(&key(&job.schema, &job.name))
            .is_some_and(|relation| relation.access_method.as_deref() == Some("heap"));
        let blocks = job.size / BLOCK;
        // One job cannot be quicker for being two.
        let splits = is_heap
            && job.condition.is_none()
            && blocks > part + part / 2
            && (args.jobs.get() > 1 || args.part_blocks.is_some());
        if !splits {
            all.push(job);
            continue;
        }
        let mut first = 0;
        while first < blocks {
            let end = first + part;
            let last = end + part / 2 >= blocks;
            let mut piece = job.clone();
            // Rows may stand beyond what the table measured when it was planned: the last part has no end.
            piece.file.blocks = Some((first, (!last).then_some(end)));
            piece.size = part.saturating_mul(BLOCK);
            all.push(piece);
            if last {
                break;
            }
            first = end;
        }
    }
    all.sort_by_key(|job| std::cmp::Reverse(job.size));
    *jobs = all;
}

/// Names the files: readable, the same for the same cluster, and no two alike.
fn name_files(args: &DumpArgs, jobs: &mut [Job]) {
    let compressed = matches!(args.compress, Compress::Zstd(_));
    let ending = if compressed { ".copy.zst" } else { ".copy" };
    let mut taken: HashSet<String> = HashSet::new();
    for job in jobs {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
        let mut name: String = job.file.schema.chars().map(plain).take(63).collect();
        name.push('.');
        name.extend(job.file.table.chars().map(plain).take(63));
        if let Some(shard) = job.file.shard {
            name.push_str(&format!(".{shard}"));
        }
        if let Some((first, _)) = job.file.blocks {
            name.push_str(&format!(".block{first}"));
        }
        let mut unique = name.clone();
        let mut number = 2;
        while !taken.insert(unique.clone()) {
            unique = format!("{name}~{number}");
            number += 1;
        }
        job.file.path = PathBuf::from("data").join(format!("{unique}{ending}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_however_they_are_quoted() {
        let relation = |schema: &str, name: &str| Relation {
            oid: 1,
            schema: schema.into(),
            name: name.into(),
            kind: "r".into(),
            access_method: None,
            size: 0,
        };
        let found = Relations::new(vec![
            relation("public", "t_1"),
            relation("public", "Ö x_2"),
            relation("order", "t_3"),
            relation("s", "a"),
            relation("s", "\"a\""),
        ]);
        for (text, name) in [
            ("t_1", "t_1"),
            ("\"Ö x_2\"", "Ö x_2"),
            // A reserved word.
            ("\"order\".t_3", "t_3"),
            ("s.a", "a"),
            ("s.\"\"\"a\"\"\"", "\"a\""),
        ] {
            assert_eq!(found.get(text).map(|found| found.name.as_str()), Some(name), "{text}");
        }
        assert!(found.get("t_4").is_none());
    }
}
