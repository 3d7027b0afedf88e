//! What comes when the rows are there: sequences, distributed functions, materialized views, statistics.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use remote::RemoteError;
use tracing::debug;

use super::distribute::{named, quoted};
use super::error::RestoreDumpError;
use super::progress;
use super::target::{LONG, Target, ask_all, ask_as_written};
use crate::dump::{Dump, Name, NodeSession, literal};
use crate::failure::Failure;
use crate::rows::{only_row, rows};

/// Sets the sequences of every node to what the node of the same group had used, within its own range. What rows
/// have used is beyond that in a cluster of another shape: the caller raises them by what is stored.
///
/// Sequences of `int` and `smallint` have no ranges, and stand at their end on workers on purpose.
pub fn sequences(
    dump: &Dump,
    target: &Target,
    sessions: &mut [NodeSession],
) -> Result<(), Failure> {
    for (node, session) in target.nodes.iter().zip(sessions) {
        let used = dump.sequences.iter().filter(|one| one.groupid == node.group);
        for sequence in used {
            let Some(value) = sequence.last_value else {
                continue;
            };
            let sql = format!(
                "SELECT setval(c.oid::regclass, {value}, {})
                   FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = {} AND c.relname = {} AND {value} BETWEEN s.seqmin AND s.seqmax
                    AND ({group} = 0 OR s.seqtypid = 'int8'::regtype)",
                sequence.is_called,
                literal(&sequence.schema),
                literal(&sequence.name),
                group = node.group
            );
            session.ask("set a sequence", &sql)?;
        }
    }
    Ok(())
}

/// Bigint columns of distributed tables that numbers are drawn for.
const NUMBERED: &str = "
SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS tab, quote_ident(a.attname) AS col
  FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid::oid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'int8'::regtype
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE NOT c.relispartition AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) ~ 'nextval')
 ORDER BY 1, 2";

/// No cluster has had more nodes: a number beyond that was not drawn, but written by somebody.
const MOST_GROUPS: i64 = 1024;

/// A node that is added later gets a group whose numbers nobody has used: above all groups of the dump's nodes, and
/// those that rows of these tables have numbers of, whose nodes may have been gone long before. Gives a finding where that
/// cannot be seen to.
pub fn groups(
    dump: &Dump,
    target: &Target,
    is_meant: &dyn Fn(&str) -> bool,
    session: &mut NodeSession,
) -> Result<Option<String>, Failure> {
    let used = dump.sequences.iter().map(|sequence| sequence.groupid);
    let known = dump.nodes.iter().map(|node| node.groupid).chain(used).max().unwrap_or(0);
    let mut largest = i64::from(known);
    if target.citus {
        let reply = session.ask("list columns with numbers", NUMBERED)?;
        let mut columns: Vec<(String, String)> = Vec::new();
        for row in rows(&reply)? {
            let table: String = row.get("tab")?;
            if is_meant(&table) {
                columns.push((table, row.get("col")?));
            }
        }
        for (table, column) in columns {
            let most = (MOST_GROUPS + 1) << 48;
            let sql = format!(
                "SELECT max({column}) AS largest FROM {table} WHERE {column} BETWEEN 1 AND {most}"
            );
            let reply = ask_all(session, "BEGIN READ ONLY", "look for the largest number", &sql)?;
            let number: Option<i64> = only_row(&reply)?.maybe("largest")?;
            largest = largest.max(number.map_or(0, |number| (number - 1) >> 48));
        }
    }
    let sql = format!(
        "SELECT setval('pg_catalog.pg_dist_groupid_seq', {largest}, true) FROM pg_catalog.pg_dist_groupid_seq
          WHERE {largest} > 0 AND (last_value < {largest} OR last_value = {largest} AND NOT is_called)"
    );
    match session.ask("raise the numbers of groups", &sql) {
        Ok(_) => Ok(None),
        Err(error @ RemoteError::Query { .. }) => Ok(Some(format!(
            "the next node's group is not raised above {largest}, whose numbers are in use: before you add one, see \
             to pg_dist_groupid_seq ({error})"
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Distributes functions as they were. Gives findings: a cluster works without.
pub fn functions(
    dump: &Dump,
    session: &mut NodeSession,
    done: &HashSet<String>,
) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    for function in &dump.functions {
        let signature = literal(&function.signature);
        let what = format!("function {}", function.signature);
        if done.contains(&what) {
            continue;
        }
        let there = session.ask(
            "look for a distributed function",
            &format!(
                "SELECT EXISTS (SELECT FROM pg_dist_object o WHERE o.classid = 'pg_proc'::regclass
                     AND o.objid = to_regprocedure({signature})::oid
                     AND o.distribution_argument_index IS NOT DISTINCT FROM {})",
                function.argument.map_or("NULL".to_owned(), |argument| argument.to_string())
            ),
        )?;
        if there.single_value()? == "t" {
            continue;
        }
        let with = dump
            .tables
            .iter()
            .find(|table| table.colocation.is_some() && table.colocation == function.colocation)
            .map_or("default".to_owned(), |table| quoted(&table.schema, &table.name));
        let sql = match function.argument {
            None => format!("SELECT create_distributed_function({signature}::regprocedure)"),
            Some(argument) => format!(
                "SELECT create_distributed_function({signature}::regprocedure, '${}', colocate_with => {}{})",
                argument + 1,
                literal(&with),
                match function.force_delegation {
                    Some(true) => ", force_delegation => true",
                    Some(false) | None => "",
                }
            ),
        };
        let begin = format!("BEGIN; {}", progress::mark(&what));
        match ask_as_written(session, &begin, "distribute a function", &sql) {
            Ok(_) => {}
            Err(error @ RemoteError::Query { .. }) => {
                session.ask("give up", "ROLLBACK")?;
                findings
                    .push(format!("function {} is not distributed: {error}", function.signature));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(findings)
}

/// object_not_in_prerequisite_state: a materialized view is read that has no rows yet.
const NOT_YET_FILLED: &str = "55000";

/// Fills the materialized views that had rows. One that reads another through a function comes before it as often as not,
/// since the server knows nothing of what a function reads: it comes again after the others.
pub fn materialized_views(
    dump: &Dump,
    session: &mut NodeSession,
    done: &HashSet<String>,
) -> Result<(), Failure> {
    let mark = |view: &Name| format!("view {}", quoted(&view.schema, &view.name));
    let is_left = |view: &&Name| !done.contains(&mark(view));
    let mut left: Vec<&Name> = dump.materialized_views.iter().filter(is_left).collect();
    loop {
        let before = left.len();
        let (mut later, mut why) = (Vec::new(), None);
        for view in left {
            let begin = format!("BEGIN; {}", progress::mark(&mark(view)));
            let name = quoted(&view.schema, &view.name);
            let sql = format!("REFRESH MATERIALIZED VIEW {name}");
            let table = || named(&view.schema, &view.name);
            match ask_all(session, &begin, "fill a materialized view", &sql) {
                Ok(_) => {}
                Err(error @ RemoteError::Stopped { .. }) => return Err(error.into()),
                Err(error) if error.sqlstate() == Some(NOT_YET_FILLED) => {
                    debug!("{name}: {error}: later");
                    session.ask("give up", "ROLLBACK")?;
                    why.get_or_insert(RestoreDumpError::Table { table: table(), error });
                    later.push(view);
                }
                Err(error) => {
                    return Err(RestoreDumpError::Table { table: table(), error }.into());
                }
            }
        }
        match why {
            None => return Ok(()),
            Some(why) if later.len() == before => return Err(why.into()),
            Some(_) => left = later,
        }
    }
}

/// What a node has that can be analyzed, with its size and whether it is large. A tree of partitions is analyzed
/// by its root, and Citus passes on what is said of its own tables, which have no rows of their own there.
const ANALYZED: &str = "
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS tab, c.relkind = 'p' OR size.bytes > 8000000 AS large, size.bytes
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
       LATERAL (SELECT coalesce(sum(pg_relation_size(relid)), pg_relation_size(c.oid), 0)::bigint AS bytes
                  FROM pg_partition_tree(c.oid)) size
 WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
   AND NOT EXISTS (SELECT FROM pg_dist_partition p WHERE p.logicalrelid::oid = c.oid)";

/// The same of tables that were chosen, and of their shards there.
fn analyzed(dump: &Dump, is_part: bool) -> String {
    if !is_part {
        return ANALYZED.to_owned();
    }
    let tables = dump.tables.iter().map(|table| (&table.schema, &table.name));
    let views = dump.materialized_views.iter().map(|view| (&view.schema, &view.name));
    let names: Vec<String> = tables
        .chain(views)
        .map(|(schema, name)| format!("({}, {})", literal(schema), literal(name)))
        .collect();
    if names.is_empty() {
        return format!("{ANALYZED} AND false");
    }
    let names = names.join(", ");
    format!(
        "{ANALYZED} AND ((n.nspname, c.relname) IN ({names})
         OR substring(c.relname FROM '_([0-9]+)$') IN (SELECT s.shardid::text FROM pg_dist_shard s
              JOIN pg_class t ON t.oid = s.logicalrelid::oid JOIN pg_namespace m ON m.oid = t.relnamespace
             WHERE m.nspname = n.nspname AND (m.nspname, t.relname) IN ({names})))"
    )
}

/// How many small tables are analyzed by one statement.
const AT_ONCE: usize = 100;

/// Statistics, on every node of its own tables and shards, so many at a time over all nodes, the largest first. Where that
/// fails, it is a finding: the rows are what they were, and the server gathers statistics by itself.
pub fn analyze(
    dump: &Dump,
    is_part: bool,
    target: &Target,
    jobs: usize,
    halt: &Arc<AtomicBool>,
) -> Result<Vec<String>, Failure> {
    let analyzed = analyzed(dump, is_part);
    let found = target.on_every_node(halt, |position, session| {
        let reply = session.ask("list tables", &analyzed)?;
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for row in rows(&reply)? {
            let (name, bytes): (String, u64) = (row.get("tab")?, row.get("bytes")?);
            match row.is_true("large")? {
                true => large.push((bytes, position, name)),
                false => small.push(name),
            }
        }
        large.extend(small.chunks(AT_ONCE).map(|some| (0, position, some.join(", "))));
        Ok(large)
    })?;
    let mut lists = found.concat();
    lists.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
    let found = target.share_out(jobs, halt, &lists, |(_, position, list), sessions| {
        let session = sessions.with(*position)?;
        target.nodes[*position].widen(session)?;
        match session.ask_within("analyze", &format!("ANALYZE {list}"), LONG) {
            Ok(_) => Ok(None),
            Err(error @ RemoteError::Query { .. }) => {
                Ok(Some(format!("there are no new statistics: {error}")))
            }
            Err(error) => Err(error.into()),
        }
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// Triggers that have fired on rows which were loaded into a table that had them already.
pub fn triggers(dump: &Dump, session: &mut NodeSession) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    for table in &dump.tables {
        let name = literal(&quoted(&table.schema, &table.name));
        let reply = session.ask(
            "look for triggers",
            &format!(
                "SELECT coalesce(string_agg(quote_ident(tgname), ', ' ORDER BY tgname), '') AS names FROM pg_trigger
                  WHERE tgrelid = to_regclass({name}) AND NOT tgisinternal AND tgenabled IN ('O', 'A')
                    AND tgtype & 4 = 4"
            ),
        )?;
        let names: String = only_row(&reply)?.get("names")?;
        if !names.is_empty() {
            let table = named(&table.schema, &table.name);
            findings.push(format!(
                "{table}: its triggers have fired on the rows that were loaded: {names}"
            ));
        }
    }
    Ok(findings)
}

/// Constraints of the dump's tables that hold for new rows only, by the coordinator's catalog.
pub fn unvalidated(dump: &Dump, session: &mut NodeSession) -> Result<Vec<String>, Failure> {
    let reply = session.ask(
        "look for constraints that are not valid",
        "SELECT n.nspname, c.relname, k.conname FROM pg_constraint k
           JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE NOT k.convalidated ORDER BY 3",
    )?;
    let mut names = Vec::new();
    for row in rows(&reply)? {
        let (schema, table): (String, String) = (row.get("nspname")?, row.get("relname")?);
        if dump.tables.iter().any(|one| one.schema == schema && one.name == table) {
            names.push(row.get("conname")?);
        }
    }
    Ok(names)
}
