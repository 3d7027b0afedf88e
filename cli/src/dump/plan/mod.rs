//! The plan: what there is, from the catalogs as the snapshot shows them, and a job for each piece of it.

mod access;
mod catalog;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use tracing::debug;

use super::Facts;
use super::args::{Compress, DumpArgs};
use super::error::DumpError;
use super::export::{Keeper, Snapshots};
use super::job::{Job, quote};
use super::manifest::{
    Access, Colocation, DataFile, Function, Kind, Name, Sequence, Setting, Table, Tenant,
};
use super::session::NodeSession;
use crate::failure::Failure;
use catalog::{Relation, Shard};

/// The size of a block, by which a table is split. Where it is another, the parts are larger, and nothing is
/// missing: the last part has no end.
const BLOCK: u64 = 8192;

/// A part of a table is never smaller.
const SMALLEST_PART: u64 = 64 << 20;

/// What there is.
pub struct Plan {
    pub jobs: Vec<Job>,
    pub colocation: Vec<Colocation>,
    pub tables: Vec<Table>,
    pub tenants: Vec<Tenant>,
    pub functions: Vec<Function>,
    pub materialized_views: Vec<Name>,
    pub sequences: Vec<Sequence>,
    pub settings: Vec<Setting>,
    pub access: Vec<Access>,
    pub not_dumped: Vec<String>,
    /// Tables that pg_dump must not take for the coordinator's own, quoted: only where Citus does not hide them.
    pub hidden: Vec<String>,
}

/// Makes it.
pub fn make(
    args: &DumpArgs,
    snapshots: &mut Snapshots,
    facts: &Facts,
    present: &mut dyn FnMut(&Keeper) -> Result<NodeSession, Failure>,
) -> Result<Plan, Failure> {
    let keepers = &mut snapshots.keepers;
    let mut plan = Plan {
        jobs: Vec::new(),
        colocation: Vec::new(),
        tables: Vec::new(),
        tenants: Vec::new(),
        functions: Vec::new(),
        materialized_views: Vec::new(),
        sequences: Vec::new(),
        settings: Vec::new(),
        access: Vec::new(),
        not_dumped: Vec::new(),
        hidden: Vec::new(),
    };
    let coordinator = keepers.first_mut().ok_or(DumpError::ExportEnded)?;
    let is_citus = facts.citus.is_some();
    if facts.encoding == "SQL_ASCII" {
        catalog::names(coordinator)?;
    }
    let (by_oid, keys) = catalog::tables(coordinator, &mut plan)?;
    catalog::metadata(coordinator, is_citus, &mut plan)?;
    catalog::columnar(coordinator, &mut plan)?;
    plan.materialized_views = catalog::materialized_views(coordinator)?;
    let shards = catalog::shards(coordinator, is_citus)?;
    let configuration = catalog::configuration(coordinator)?;
    let leavings = catalog::leavings(coordinator)?;

    let mut relations = Vec::new();
    for keeper in keepers.iter_mut() {
        relations.push(catalog::relations_of(keeper, present)?);
        plan.sequences.extend(catalog::sequences_of(keeper)?);
        plan.settings.extend(catalog::settings_of(keeper)?);
        plan.access.push(access::of(keeper)?);
        catalog::large_objects(keeper, &mut plan.not_dumped)?;
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
    let mut kept = Vec::with_capacity(plan.tables.len());
    for (table, key) in std::mem::take(&mut plan.tables).into_iter().zip(&keys) {
        if table.kind != Kind::Local {
            kept.push(table);
            continue;
        }
        if leavings.contains(key) || shard_names.contains(&(0, key.clone())) {
            if !is_citus {
                plan.hidden.push(format!("{}.{}", quote(&table.schema), quote(&table.name)));
            }
            continue;
        }
        if !table.partitioned {
            let relation = relations[0].get(key).ok_or_else(|| DumpError::Changed {
                table: format!("{}.{}", table.schema, table.name),
                node: keepers[0].session.node().to_string(),
                what: "it is not among the node's tables",
            })?;
            plan.jobs.push(job(args, 0, &keepers[0], relation, &table, None, None));
        }
        kept.push(table);
    }
    plan.tables = kept;
    for (table, condition) in configuration {
        // One that was distributed is there already, as what it is; the extension makes its own rows again all the same.
        if plan.tables.iter().any(|one| one.schema == table.schema && one.name == table.name) {
            let jobs = plan.jobs.iter_mut();
            jobs.filter(|job| job.file.schema == table.schema && job.file.table == table.name)
                .for_each(|job| job.condition = Some(condition.clone()));
            continue;
        }
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
            columnar: None,
        };
        plan.jobs.push(job(args, 0, &keepers[0], &table, &entry, None, Some(condition)));
        plan.tables.push(entry);
    }
    for keeper in keepers.iter_mut().skip(1) {
        workers_rows(keeper, &mut plan)?;
    }
    let known = keys.iter().chain(&leavings).collect();
    workers_own(keepers, &relations, &shard_names, &known, &mut plan);
    select(args, &mut keepers[0], &mut plan)?;
    for keeper in keepers.iter() {
        let is_its = |sequence: &&mut Sequence| sequence.groupid == keeper.node.groupid;
        let mut own: Vec<&mut Sequence> = plan.sequences.iter_mut().filter(is_its).collect();
        if !own.is_empty() {
            catalog::read_sequences(&mut present(keeper)?, &mut own)?;
        }
    }
    split(args, &mut plan.jobs);
    name_files(args, &mut plan.jobs);
    debug!("{} tables, {} jobs", plan.tables.len(), plan.jobs.len());
    Ok(plan)
}

/// Leaves out what is not asked for. All of it was looked at before: what is not asked for is not unknown.
fn select(args: &DumpArgs, coordinator: &mut Keeper, plan: &mut Plan) -> Result<(), Failure> {
    let selection = &args.selection;
    if selection.is_all() {
        return Ok(());
    }
    if !selection.has_all_tables() {
        let chosen: HashSet<(String, String)> =
            selection.relations(coordinator)?.into_iter().collect();
        let schemas: HashSet<String> = selection.schemas(coordinator)?.into_iter().collect();
        let has = |schema: &str, name: &str| chosen.contains(&(schema.to_owned(), name.to_owned()));
        plan.jobs.retain(|job| has(&job.file.schema, &job.file.table));
        plan.tables.retain(|table| has(&table.schema, &table.name));
        plan.sequences.retain(|sequence| has(&sequence.schema, &sequence.name));
        plan.materialized_views.retain(|view| has(&view.schema, &view.name));
        plan.tenants.retain(|tenant| schemas.contains(&tenant.schema));
        plan.functions.retain(|function| schemas.contains(&function.schema));
        // As pg_dump: large objects and foreign rows are not asked for.
        plan.not_dumped.clear();
    }
    if selection.schema_only {
        plan.jobs.clear();
        plan.sequences.clear();
        plan.materialized_views.clear();
        plan.not_dumped.clear();
    }
    if selection.data_only {
        plan.tenants.clear();
        plan.functions.clear();
        plan.materialized_views.clear();
    }
    Ok(())
}

/// Tables of the workers that Citus knows nothing of are not dumped, and told.
fn workers_own(
    keepers: &[Keeper],
    relations: &[HashMap<String, Relation>],
    shard_names: &HashSet<(usize, String)>,
    known: &HashSet<&String>,
    plan: &mut Plan,
) {
    for (node, found) in relations.iter().enumerate().skip(1) {
        let own =
            |key: &String| !known.contains(key) && !shard_names.contains(&(node, key.clone()));
        let own = found.iter().filter(|(key, _)| own(key));
        let mut names: Vec<String> =
            own.map(|(_, relation)| format!("{}.{}", relation.schema, relation.name)).collect();
        names.sort();
        let node = &keepers[node].reach.target.node;
        plan.not_dumped.extend(
            names.into_iter().map(|name| format!("table {name} of {node}, which is no shard")),
        );
    }
}

/// Rows that somebody has put into an extension's table on a worker are not dumped, and told: no node knows whose they are.
fn workers_rows(keeper: &mut Keeper, plan: &mut Plan) -> Result<(), Failure> {
    let is_known = |one: &Table, table: &Relation| {
        one.kind != Kind::Local && one.schema == table.schema && one.name == table.name
    };
    for (table, condition) in catalog::configuration(keeper)? {
        if plan.tables.iter().any(|one| is_known(one, &table)) {
            continue;
        }
        let name = format!("{}.{}", quote(&table.schema), quote(&table.name));
        // Its lock is not kept for as long as the snapshot.
        let sql = format!("SAVEPOINT look; SELECT count(*) FROM ONLY {name} {condition}");
        let rows: u64 = keeper.ask("count an extension's rows", &sql)?.parse_single()?;
        keeper.ask("let go of its lock", "ROLLBACK TO look; RELEASE look")?;
        if rows > 0 {
            plan.not_dumped.push(format!(
                "{rows} rows of the extension's table {}.{} on {}",
                table.schema,
                table.name,
                keeper.session.node()
            ));
        }
    }
    Ok(())
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
        is_heap: relation.access_method.as_deref() == Some("heap"),
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
fn split(args: &DumpArgs, jobs: &mut Vec<Job>) {
    let total: u64 = jobs.iter().map(|job| job.size).sum();
    let share = total / (args.jobs.get() as u64 * 4).max(1);
    let part =
        args.part_blocks.map_or_else(|| share.max(SMALLEST_PART) / BLOCK, |blocks| blocks.max(1));
    let mut all = Vec::with_capacity(jobs.len());
    for job in jobs.drain(..) {
        let blocks = job.size / BLOCK;
        // One job cannot be quicker for being two.
        let splits = job.is_heap
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
