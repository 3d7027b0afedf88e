//! Whether what is there is what was dumped: as many rows in every table, and every row in the shard where it is
//! looked for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tracing::debug;

use super::distribute::{named, quoted};
use super::route::{self, Hashed, HashedTables, Roots, Shard};
use super::target::{LONG, Sessions, Target, ask_all};
use crate::dump::{Dump, Kind, NodeSession, Table, literal};
use crate::failure::Failure;

/// What is different, a sentence each. Tables of `by_root` are partitions whose rows were given to the root of them.
/// So many tables are counted at a time.
pub fn compare(
    dump: &Dump,
    target: &Target,
    hashed: &HashedTables,
    by_root: &HashSet<(String, String)>,
    jobs: usize,
    halt: &Arc<AtomicBool>,
) -> Result<Vec<String>, Failure> {
    let mut expected: HashMap<(&str, &str), u64> = HashMap::new();
    for file in &dump.files {
        *expected.entry((&file.schema, &file.table)).or_default() += file.rows;
    }
    let mut differences = Vec::new();
    let all = match by_root.is_empty() {
        true => Roots::new(),
        false => route::roots(target.sessions(halt).with(0)?)?,
    };
    let roots: HashSet<_> = by_root.iter().filter_map(|table| all.get(table)).collect();
    let mut written_below: HashMap<&(String, String), u64> = HashMap::new();
    let mut counted = Vec::new();
    for table in dump.tables.iter().filter(|table| !table.partitioned) {
        let written =
            expected.get(&(table.schema.as_str(), table.name.as_str())).copied().unwrap_or(0);
        let root = all.get(&(table.schema.clone(), table.name.clone()));
        if let Some(root) = root.filter(|root| roots.contains(root)) {
            *written_below.entry(root).or_default() += written;
            continue;
        }
        counted.push((table, written));
    }
    // The largest first, so that no thread is left with it.
    counted.sort_by_key(|(_, written)| std::cmp::Reverse(*written));
    let found = target.share_out(jobs, halt, &counted, |(table, written), sessions| {
        let name = named(&table.schema, &table.name);
        let found = rows_of(table, target, hashed, sessions)?;
        debug!("{name}: {found} rows, {written} in the dump");
        // An extension has put its own rows into its tables.
        let extensions = found > *written
            && is_filled_by_extension(sessions.with(0)?, &table.schema, &table.name)?;
        let differs = found != *written && !extensions;
        Ok(differs.then(|| format!("{name} has {found} rows, and {written} were dumped")))
    })?;
    differences.extend(found.into_iter().flatten());
    // New ones: some links forget a session that says nothing while large tables are counted.
    let mut sessions = target.sessions(halt);
    for ((schema, name), written) in written_below {
        // Which of its partitions a row is in is another question than in the dump, and the server has seen to it.
        let found = count(sessions.with(0)?, &quoted(schema, name))?;
        let name = named(schema, name);
        debug!("{name}: {found} rows in all partitions, {written} in the dump");
        if found != written {
            differences.push(format!(
                "{name} has {found} rows in all of its partitions, and {written} were dumped"
            ));
        }
    }
    Ok(differences)
}

/// How many rows a table has: its own, without those of tables below it.
pub fn rows_of(
    table: &Table,
    target: &Target,
    hashed: &HashedTables,
    sessions: &mut Sessions<'_>,
) -> Result<u64, Failure> {
    let key = (table.schema.clone(), table.name.clone());
    let Some(hashed) = hashed.get(&key).filter(|_| !target.citus) else {
        let only = if table.kind == Kind::Local { "ONLY " } else { "" };
        return count(sessions.with(0)?, &format!("{only}{}", quoted(&table.schema, &table.name)));
    };
    let mut found = 0;
    for shard in &hashed.shards {
        let at = shard.groups.first().and_then(|group| target.position(*group));
        if let Some(at) = at {
            found += count(sessions.with(at)?, &shard.name)?;
        }
    }
    Ok(found)
}

fn count(session: &mut NodeSession, table: &str) -> Result<u64, Failure> {
    let sql = format!("SELECT count(*) FROM {table}");
    Ok(ask_all(session, "BEGIN READ ONLY", "count rows", &sql)?.parse_single()?)
}

fn is_filled_by_extension(
    session: &mut NodeSession,
    schema: &str,
    name: &str,
) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE {}::regclass = ANY (extconfig))",
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
    halt: &Arc<AtomicBool>,
) -> Result<Vec<String>, Failure> {
    let mut looks: Vec<Look<'_>> = Vec::new();
    for table in dump.tables.iter().filter(|table| table.kind == Kind::Hash && !table.partitioned) {
        let found = hashed.get(&(table.schema.clone(), table.name.clone()));
        let found = found.filter(|hashed| hashed.is_stable && !hashed.hash.is_empty());
        if let Some(hashed) = found {
            looks.extend(hashed.shards.iter().map(|shard| Look { table, hashed, shard }));
        }
    }
    let found = target.on_every_node(halt, |position, session| {
        let group = target.nodes[position].group;
        let mut differences = Vec::new();
        for look in looks.iter().filter(|look| look.shard.groups.contains(&group)) {
            differences.extend(look.misplaced(session)?);
        }
        Ok(differences)
    })?;
    Ok(found.concat())
}

/// A shard that is looked through.
struct Look<'a> {
    table: &'a Table,
    hashed: &'a Hashed,
    shard: &'a Shard,
}

impl Look<'_> {
    fn misplaced(&self, session: &mut NodeSession) -> Result<Option<String>, Failure> {
        let (Shard { name, min, max, .. }, column) = (self.shard, &self.hashed.column);
        let sql = format!(
            "SELECT count(*) FROM {name} WHERE {column} IS NOT NULL AND {}({column}) NOT BETWEEN {min} AND {max}",
            self.hashed.hash
        );
        let misplaced: u64 =
            session.ask_within("look for misplaced rows", &sql, LONG)?.parse_single()?;
        Ok((misplaced > 0).then(|| {
            format!(
                "{} has {misplaced} rows in shard {name} of {} that belong to another shard",
                named(&self.table.schema, &self.table.name),
                session.node()
            )
        }))
    }
}
