//! Sequences that are behind what is stored.
//!
//! A backup under a block of mode `2pc` lets single-node writes go on, so that a copy may have rows with numbers that
//! its sequence has still to give. Of a `bigint` column of a distributed table every node draws from a range of its
//! own, `(group << 48) + 1` to `(group + 1) << 48`; Citus' own upper end is one too high, and the coordinator's
//! sequences end where bigint does. So what counts for a node's sequence is the largest number *within its range*:
//! the largest of all would make two nodes draw the same numbers. `int` and `smallint` have no ranges, and on workers
//! stand at their end on purpose.

use std::collections::BTreeSet;

use remote::RemoteError;

use super::looks::{is_forbidden, push};
use super::members::{Cluster, ask, tell};
use super::{Finding, Report};
use crate::failure::Failure;
use crate::rows::{only_row, rows};
use crate::talk::quoted;

/// Sequences, and the columns that they feed.
const FED: &str = r#"
SELECT s.seqrelid::regclass::text AS sequence, s.seqtypid = 'int8'::regtype AS is_big, s.seqmin, s.seqmax,
       s.seqincrement > 0 AS ascends, format('%I.%I', n.nspname, c.relname) AS tab, quote_ident(a.attname) AS col,
       p.logicalrelid IS NOT NULL AS distributed,
       f.expression IS NULL OR f.expression ~ '^[(]?(worker_)?nextval[(]''.*''::regclass[)]([)]?::(integer|bigint|smallint))?$'
           AS plain
  FROM pg_sequence s
       JOIN (SELECT d.refobjid AS seq, ad.adrelid AS rel, ad.adnum AS num, pg_get_expr(ad.adbin, ad.adrelid) AS expression
               FROM pg_depend d JOIN pg_attrdef ad ON ad.oid = d.objid
              WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
             UNION
             SELECT objid, refobjid, refobjsubid, NULL FROM pg_depend
              WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'i'
            ) f ON f.seq = s.seqrelid
       JOIN pg_class c ON c.oid = f.rel AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
       JOIN pg_namespace n ON n.oid = c.relnamespace
            AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'citus', 'columnar', 'columnar_internal', 'cron')
       JOIN pg_attribute a ON a.attrelid = f.rel AND a.attnum = f.num AND NOT a.attisdropped
       LEFT JOIN pg_dist_partition p ON p.logicalrelid = c.oid
 ORDER BY 1, 6, 7"#;

/// One of them.
struct Fed {
    sequence: String,
    low: i64,
    high: i64,
    table: String,
    column: String,
    distributed: bool,
}

/// Looks at those of tables that are meant, on every node, and raises those that lag if that is wanted. A table's name is
/// as SQL takes it.
pub fn look(
    cluster: &mut Cluster<'_>,
    fix: bool,
    is_meant: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Failure> {
    for index in 0..cluster.members.len() {
        let member = &mut cluster.members[index];
        // Workers without metadata draw no numbers.
        if !member.has_metadata {
            continue;
        }
        let group = i64::from(member.group);
        let reply = ask(&mut member.talk, "sequences", FED)?;
        let mut fed = Vec::new();
        for row in rows(&reply)? {
            if !is_meant(&row.get::<String>("tab")?) {
                continue;
            }
            let distributed = row.is_true("distributed")?;
            let is_big = row.is_true("is_big")?;
            let sequence: String = row.get("sequence")?;
            if distributed && !is_big && group != 0 {
                continue;
            }
            if !row.is_true("plain")? || !row.is_true("ascends")? {
                let table: String = row.get("tab")?;
                let what = format!(
                    "{sequence} feeds {table}.{} by an expression, or descends: see to it yourself",
                    row.get::<String>("col")?
                );
                push(report, "sequences", &member.talk, what);
                continue;
            }
            let (mut low, mut high) = (row.get::<i64>("seqmin")?, row.get::<i64>("seqmax")?);
            if distributed && is_big {
                low = low.max((group << 48) + 1);
                high = high.min((group + 1) << 48);
            }
            let (table, column) = (row.get("tab")?, row.get("col")?);
            fed.push(Fed { sequence, low, high, table, column, distributed });
        }
        let mut forbidden = Forbidden::default();
        let mut at = 0;
        while at < fed.len() {
            // All columns of one sequence, which stand together.
            let next = fed[at..].iter().position(|other| other.sequence != fed[at].sequence);
            let end = next.map_or(fed.len(), |next| at + next);
            let mut largest = None;
            for one in &fed[at..end] {
                match largest_stored(cluster, index, one) {
                    Ok(stored) => largest = largest.max(stored),
                    Err(Failure::Remote(error)) if is_forbidden(&error) => {
                        forbidden.add(&one.sequence, &error);
                    }
                    // Where a node is lost, Citus reads nothing of its shards.
                    Err(Failure::Remote(error @ RemoteError::Query { .. })) => {
                        let what = format!(
                            "{} of {} could not be looked at: {error}",
                            one.sequence, one.table
                        );
                        push(report, "sequences", &cluster.members[index].talk, what);
                    }
                    Err(other) => return Err(other),
                }
            }
            if let Some(largest) = largest {
                match raise(cluster, index, &fed[at], largest, fix, report) {
                    Err(Failure::Remote(error)) if is_forbidden(&error) => {
                        forbidden.add(&fed[at].sequence, &error);
                    }
                    other => other?,
                }
            }
            at = end;
        }
        report.not_checked.extend(forbidden.finding(&cluster.members[index].talk));
    }
    Ok(())
}

/// The sequences of a node that this user may not look at, or not raise.
#[derive(Default)]
struct Forbidden {
    first: Option<(String, String)>,
    sequences: BTreeSet<String>,
}

impl Forbidden {
    fn add(&mut self, sequence: &str, error: &RemoteError) {
        self.sequences.insert(sequence.to_owned());
        let why = error.server_error().map_or(error.to_string(), |error| error.message.clone());
        self.first.get_or_insert_with(|| (sequence.to_owned(), why));
    }

    /// One for all of them: there may be thousands.
    fn finding(self, talk: &crate::talk::Talk<'_>) -> Option<Finding> {
        let (sequence, why) = self.first?;
        let others = match self.sequences.len() - 1 {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        Some(Finding {
            check: "sequences",
            node: talk.place().to_string(),
            what: format!(
                "{sequence}{others}: {why}: this needs SELECT on the sequences and on the tables that they feed, BYPASSRLS \
                 where these show a part of their rows, with --fix UPDATE on the sequences, on every node; or a superuser"
            ),
        })
    }
}

/// The largest number within the range.
fn largest_stored(
    cluster: &mut Cluster<'_>,
    index: usize,
    fed: &Fed,
) -> Result<Option<i64>, Failure> {
    let Fed { low, high, table, column, .. } = fed;
    let largest = |table: &str| {
        format!(
            "SELECT max({column})::bigint AS largest FROM {table} WHERE {column} BETWEEN {low} AND {high}"
        )
    };
    if cluster.citus || !fed.distributed {
        // Citus reads all shards by itself. The name is the whole one, and Citus knows it by that.
        let sql = largest(table);
        let reply = ask(&mut cluster.members[index].talk, "largest number", &sql)?;
        return Ok(only_row(&reply)?.maybe("largest")?);
    }
    let mut found = None;
    for member in &mut cluster.members {
        let sql = format!(
            "SELECT format('%I.%I', n.nspname, c.relname) AS shard FROM pg_dist_shard s
               JOIN pg_dist_placement p ON p.shardid = s.shardid AND p.groupid = {}
               JOIN pg_class t ON t.oid = s.logicalrelid
               JOIN pg_class c ON c.relnamespace = t.relnamespace AND c.relname = t.relname || '_' || s.shardid
               JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE s.logicalrelid = {}::regclass",
            member.group,
            quoted(table)
        );
        let reply = ask(&mut member.talk, "shards", &sql)?;
        let shards: Vec<String> =
            rows(&reply)?.map(|row| row.get("shard")).collect::<Result<_, _>>()?;
        for shard in shards {
            let reply = ask(&mut member.talk, "largest number", &largest(&shard))?;
            found = found.max(only_row(&reply)?.maybe("largest")?);
        }
    }
    Ok(found)
}

/// Raises a sequence that would give a number again, or says so. Never down.
fn raise(
    cluster: &mut Cluster<'_>,
    index: usize,
    fed: &Fed,
    largest: i64,
    fix: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    let member = &mut cluster.members[index];
    let sequence = &fed.sequence;
    let behind = format!("(last_value < {largest} OR last_value = {largest} AND NOT is_called)");
    let state = ask(
        &mut member.talk,
        "sequence",
        &format!("SELECT last_value, {behind} AS behind FROM {sequence}"),
    )?;
    let state = only_row(&state)?;
    if !state.is_true("behind")? {
        return Ok(());
    }
    let last: i64 = state.get("last_value")?;
    if !fix {
        let what = format!(
            "{sequence} stands at {last}, and {}.{} has {largest} within this node's range: --fix raises it",
            fed.table, fed.column
        );
        push(report, "sequences", &member.talk, what);
        return Ok(());
    }
    let raised = format!(
        "SELECT setval({}::regclass, {largest}, true) FROM {sequence} WHERE {behind}",
        quoted(sequence)
    );
    tell(&mut member.talk, "raise a sequence", &raised)?;
    report
        .mended
        .push(format!("{}: {sequence} raised from {last} to {largest}", member.talk.place()));
    Ok(())
}
