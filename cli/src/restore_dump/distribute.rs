//! Makes tables what they were: distributed, reference, known to Citus; the schemas of tenants.
//!
//! What is done stands in Citus' own catalog, so nothing has to be remembered. Groups are made in the order of the
//! source's numbers: which group a later `create_distributed_table` joins by itself is decided by these. Any member
//! of a group may be its first. Partitions follow their parents.

use std::collections::{HashMap, HashSet};

use tracing::debug;

use super::error::RestoreDumpError;
use super::target::{LONG, Node, Target, ask_as_written};
use crate::dump::{Dump, Kind, Name, NodeSession, Table, literal, quote};
use crate::failure::Failure;
use crate::rows::rows;

/// From here on the number of a shard and what Citus and PostgreSQL add to names may not fit any more.
const LONG_NAME: usize = 45;

/// A table's name as SQL takes it.
pub fn quoted(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// A table's name as messages have it.
pub fn named(schema: &str, name: &str) -> String {
    format!("{schema}.{name}")
}

/// One step, and the table or schema that it is for.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    of: String,
    /// How its transaction begins.
    begin: String,
    sql: String,
}

/// Gives columnar tables their settings back, which later shards are made with.
pub fn columnar(dump: &Dump, session: &mut NodeSession) -> Result<(), Failure> {
    for table in &dump.tables {
        let Some(options) = &table.columnar else {
            continue;
        };
        let sql = format!(
            "ALTER TABLE {} SET (columnar.compression = {}, columnar.compression_level = {},
               columnar.stripe_row_limit = {}, columnar.chunk_group_row_limit = {})",
            quoted(&table.schema, &table.name),
            options.compression,
            options.compression_level,
            options.stripe_row_limit,
            options.chunk_group_row_limit
        );
        let (of, begin) = (named(&table.schema, &table.name), "BEGIN".to_owned());
        step(session, &Step { of, begin, sql })?;
    }
    Ok(())
}

/// Does what is left to do of it. Groups of these numbers are there, with a table that others join.
pub fn distribute(
    dump: &Dump,
    target: &Target,
    groups: &HashMap<i64, Name>,
    session: &mut NodeSession,
) -> Result<(), Failure> {
    let reply = session.ask(
        "list distributed tables",
        "SELECT n.nspname, c.relname FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid::oid
           JOIN pg_namespace n ON n.oid = c.relnamespace",
    )?;
    let mut there: HashSet<(String, String)> = HashSet::new();
    for row in rows(&reply)? {
        there.insert((row.get("nspname")?, row.get("relname")?));
    }
    let mut tenants: HashSet<String> = HashSet::new();
    if !dump.tenants.is_empty() {
        let reply = session.ask(
            "list tenants",
            "SELECT n.nspname FROM pg_dist_schema s JOIN pg_namespace n ON n.oid = s.schemaid::oid",
        )?;
        for row in rows(&reply)? {
            tenants.insert(row.get("nspname")?);
        }
    }
    for step_of in steps(dump, target.citus, groups, &there, &tenants) {
        debug!("{}", step_of.sql);
        step(session, &step_of)?;
    }
    Ok(())
}

fn step(session: &mut NodeSession, step: &Step) -> Result<(), Failure> {
    ask_as_written(session, &step.begin, "distribute", &step.sql).map_err(|error| match error {
        remote::RemoteError::Stopped { .. } => Failure::Remote(error),
        error => RestoreDumpError::Table { table: step.of.clone(), error }.into(),
    })?;
    Ok(())
}

/// What is left to do, in order.
fn steps(
    dump: &Dump,
    citus: bool,
    groups: &HashMap<i64, Name>,
    there: &HashSet<(String, String)>,
    tenants: &HashSet<String>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let is_tenant = |schema: &str| dump.tenants.iter().any(|tenant| tenant.schema == schema);
    let own = |table: &&Table| !table.is_partition && !is_tenant(&table.schema);
    for group in &dump.colocation {
        for tenant in dump.tenants.iter().filter(|tenant| tenant.colocation == group.id) {
            if !tenants.contains(&tenant.schema) {
                let name = literal(&quote(&tenant.schema));
                // Citus makes none where the session wants more copies than one.
                let begin = "BEGIN; SET LOCAL citus.shard_replication_factor = 1".to_owned();
                let sql = format!("SELECT citus_schema_distribute({name}::regnamespace)");
                let of = format!("(the schema {} as a whole)", tenant.schema);
                steps.push(Step { of, begin, sql });
            }
        }
        let members: Vec<&Table> = dump
            .tables
            .iter()
            .filter(own)
            .filter(|table| table.colocation == Some(group.id))
            .collect();
        // One that is there already: a former run has made it, and the others join it.
        let is_there =
            |table: &&&Table| there.contains(&(table.schema.clone(), table.name.clone()));
        let mut first: Option<(&str, &str)> = members
            .iter()
            .find(is_there)
            .map(|table| (table.schema.as_str(), table.name.as_str()))
            .or(groups.get(&group.id).map(|name| (name.schema.as_str(), name.name.as_str())));
        for table in members.iter().filter(|table| !is_there(table)) {
            let name = literal(&quoted(&table.schema, &table.name));
            let mut begin = "BEGIN".to_owned();
            let sql = match (table.kind, &table.column) {
                (Kind::Reference, _) => format!("SELECT create_reference_table({name}::regclass)"),
                (Kind::Hash | Kind::SingleShard, column) => {
                    let column = column.as_deref().map_or("NULL".to_owned(), literal);
                    let with =
                        first.map_or("none".to_owned(), |(schema, name)| quoted(schema, name));
                    // Citus takes one or the other, the embedded catalog wants the number in any case.
                    let count = match (table.kind, first) {
                        (Kind::Hash, None) => format!(", shard_count => {}", group.shard_count),
                        (Kind::Hash, Some(_)) if !citus => {
                            format!(", shard_count => {}", group.shard_count)
                        }
                        _ => String::new(),
                    };
                    begin.push_str(&format!(
                        "; SET LOCAL citus.shard_replication_factor = {}",
                        group.replication_factor.max(1)
                    ));
                    // Shards made side by side wait for each other where their types' names, cut short, are alike.
                    if table.name.len() > LONG_NAME {
                        begin.push_str("; SET LOCAL citus.multi_shard_modify_mode = 'sequential'");
                    }
                    let with = literal(&with);
                    format!(
                        "SELECT create_distributed_table({name}::regclass, {column}, colocate_with => {with}{count})"
                    )
                }
                (Kind::CitusLocal | Kind::Local, _) => continue,
            };
            if table.kind != Kind::Reference {
                first = first.or(Some((&table.schema, &table.name)));
            }
            steps.push(Step { of: named(&table.schema, &table.name), begin, sql });
        }
    }
    // Those that Citus takes in because of a foreign key come with that.
    let known = dump
        .tables
        .iter()
        .filter(own)
        .filter(|table| table.kind == Kind::CitusLocal && !table.autoconverted);
    for table in known.filter(|table| !there.contains(&(table.schema.clone(), table.name.clone())))
    {
        let name = literal(&quoted(&table.schema, &table.name));
        let sql = format!("SELECT citus_add_local_table_to_metadata({name}::regclass)");
        let (of, begin) = (named(&table.schema, &table.name), "BEGIN".to_owned());
        steps.push(Step { of, begin, sql });
    }
    steps
}

/// What the embedded catalog leaves to whoever uses it: each node draws numbers of its own for distributed tables.
pub fn number_ranges(node: &Node, session: &mut NodeSession) -> Result<(), Failure> {
    debug!("ranges of numbers on {}", node.called());
    session.ask(
        "give sequences their ranges",
        "SELECT worker_apply_sequence_command(format('CREATE SEQUENCE IF NOT EXISTS %s', s.seqrelid::regclass), 'bigint')
           FROM (SELECT DISTINCT q.seqrelid FROM pg_sequence q
                   JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = q.seqrelid
                    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
                   JOIN pg_dist_partition p ON p.logicalrelid::oid = d.refobjid
                  WHERE q.seqtypid = 'int8'::regtype
                    AND q.seqmin < ((SELECT groupid FROM pg_dist_local_group)::bigint << 48)) s",
    )?;
    Ok(())
}

/// The embedded catalog does not carry indexes and constraints to the shards either.
pub fn shards_as_their_tables(session: &mut NodeSession) -> Result<(), Failure> {
    let here = "SELECT t.oid AS parent, quote_ident(n.nspname) || '.' || quote_ident(t.relname || '_' || s.shardid) AS shard,
                s.shardid, to_regclass(quote_ident(n.nspname) || '.' || quote_ident(t.relname || '_' || s.shardid)) AS oid
           FROM pg_dist_shard s JOIN pg_dist_placement p ON p.shardid = s.shardid
            AND p.groupid = (SELECT groupid FROM pg_dist_local_group)
           JOIN pg_class t ON t.oid = s.logicalrelid::oid JOIN pg_namespace n ON n.oid = t.relnamespace";
    let short = |name: &str| format!("quote_ident(left({name}, 40) || '_' || h.shardid)");
    let sql = format!(
        "SELECT command FROM (
           SELECT 1 AS place, format('ALTER TABLE %s ADD CONSTRAINT %s %s', h.shard, {}, pg_get_constraintdef(k.oid)) AS command
             FROM ({here}) h JOIN pg_constraint k ON k.conrelid = h.parent AND k.contype IN ('p', 'u', 'x', 'c')
            WHERE NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conrelid = h.oid
                                 AND (o.conname = k.conname OR quote_ident(o.conname) = {}))
           UNION ALL
           SELECT 2, format('CREATE %sINDEX %s ON %s%s', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, {}, h.shard,
                  substr(pg_get_indexdef(i.indexrelid), strpos(pg_get_indexdef(i.indexrelid),
                    format(' ON %I.%I USING ', n.nspname, t.relname)) + length(format(' ON %I.%I', n.nspname, t.relname))))
             FROM ({here}) h JOIN pg_index i ON i.indrelid = h.parent JOIN pg_class x ON x.oid = i.indexrelid
             JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
            WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
              AND NOT EXISTS (SELECT FROM pg_index o JOIN pg_class y ON y.oid = o.indexrelid
                               WHERE o.indrelid = h.oid AND quote_ident(y.relname) = {})) c
          ORDER BY place, command",
        short("k.conname"), short("k.conname"), short("x.relname"), short("x.relname")
    );
    let reply = session.ask("list what the shards lack", &sql)?;
    let mut commands = Vec::new();
    for row in rows(&reply)? {
        commands.push(row.get::<String>("command")?);
    }
    for command in commands {
        session.ask_within("make a shard as its table", &command, LONG)?;
    }
    Ok(())
}
