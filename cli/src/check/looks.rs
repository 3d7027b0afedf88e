//! What is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use remote::RemoteError;

use super::members::{Cluster, ask};
use super::{Finding, Report, sequences};
use crate::failure::Failure;
use crate::rows::rows;

/// Which prepared transactions count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Only those that no commit is about to finish by itself: a cluster in use has others all the time.
    Settled,
    /// All: nobody else writes.
    Any,
}

/// Names of shards, on a node or in the catalog: as `schema.name_shardid` with quotes where SQL needs them.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) AS name,
       substring(c.relname FROM '_([0-9]+)$') AS shardid
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f') AND c.relname ~ '_[0-9]{5,18}$'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// How often it is looked again where something was found.
const LOOKS: usize = 3;
/// How long after the look before.
const BETWEEN: Duration = Duration::from_millis(500);

/// Looks at everything, and raises sequences if that is wanted.
pub fn look(
    cluster: &mut Cluster<'_>,
    age: Age,
    fix: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    prepared(cluster, age, report)?;
    for between_nodes in [connections, placements, catalogs, indexes] {
        lasting(cluster, age, between_nodes, report)?;
    }
    sequences::look(cluster, fix, &|_| true, report)?;
    unfinished(cluster, report)
}

/// Whether the server says that this user may not do what was asked.
pub fn is_forbidden(error: &RemoteError) -> bool {
    error.sqlstate() == Some("42501")
}

/// What one look at nodes finds, one after the other, may be DDL that was under way in between: what counts is found
/// each time.
fn lasting(
    cluster: &mut Cluster<'_>,
    age: Age,
    look: fn(&mut Cluster<'_>, &mut Report) -> Result<(), Failure>,
    report: &mut Report,
) -> Result<(), Failure> {
    // Where nobody else is let in, nothing is under way.
    let looks = if age == Age::Any { 0 } else { LOOKS };
    let mut found: Option<Vec<Finding>> = None;
    for left in (0..=looks).rev() {
        let mut this = Report::default();
        match look(cluster, &mut this) {
            Ok(()) => {
                let lasts = |finding: &Finding| {
                    found.as_ref().is_none_or(|before| before.contains(finding))
                };
                this.findings.retain(lasts);
                found = Some(this.findings);
            }
            // A name of something that was dropped meanwhile.
            Err(Failure::Remote(RemoteError::Query { .. })) if left > 0 => {}
            Err(failure) => return Err(failure),
        }
        if found.as_ref().is_some_and(Vec::is_empty) {
            break;
        }
        if left > 0 {
            std::thread::sleep(BETWEEN);
        }
    }
    report.findings.extend(found.unwrap_or_default());
    Ok(())
}

/// Two-phase commits that nobody has finished.
fn prepared(cluster: &mut Cluster<'_>, age: Age, report: &mut Report) -> Result<(), Failure> {
    let age = match age {
        Age::Settled => "AND prepared < now() - interval '1 minute'",
        Age::Any => "",
    };
    let sql = format!(
        "SELECT gid, prepared::text, substring(gid FROM '^citus_([0-9]+)_') AS began_by FROM pg_prepared_xacts
          WHERE database = current_database() {age} ORDER BY gid"
    );
    for member in &mut cluster.members {
        let reply = ask(&mut member.talk, "prepared transactions", &sql)?;
        for row in rows(&reply)? {
            let gid: String = row.get("gid")?;
            let began_by: Option<i32> = row.maybe("began_by")?;
            let what = match began_by {
                Some(group) if cluster.absent.contains(&group) => format!(
                    "{gid} was begun by node {group}, which is not there, and only that one knows whether it was \
                     committed: COMMIT PREPARED or ROLLBACK PREPARED it yourself"
                ),
                Some(group) => format!(
                    "{gid} is still prepared: SELECT recover_prepared_transactions(); on node {group} finishes it"
                ),
                None => format!(
                    "{gid} is prepared, by somebody else than Citus: whoever began it has to finish it"
                ),
            };
            push(report, "prepared transactions", &member.talk, what);
        }
    }
    Ok(())
}

/// Every node gets an answer from every other, as Citus itself connects them; and from itself.
fn connections(cluster: &mut Cluster<'_>, report: &mut Report) -> Result<(), Failure> {
    if !cluster.citus {
        return Ok(());
    }
    let Some(coordinator) = cluster.members.iter_mut().find(|member| member.group == 0) else {
        return Ok(());
    };
    // Unknown is what a node says that the coordinator itself does not reach: there is a line for that pair, too.
    let sql = "SELECT format('%s:%s', from_nodename, from_nodeport) AS source, current_user AS who,
                      format('%s:%s', to_nodename, to_nodeport) AS target
                 FROM citus_check_cluster_node_health() WHERE NOT result
                ORDER BY from_nodename, from_nodeport, to_nodename, to_nodeport";
    let reply = ask(&mut coordinator.talk, "connections between nodes", sql)?;
    for row in rows(&reply)? {
        let (source, target): (String, String) = (row.get("source")?, row.get("target")?);
        let what = format!(
            "it does not get an answer from {target} as role \"{}\": pg_hba.conf there, pg_dist_authinfo and \
             citus.node_conninfo here, the name and the network between",
            row.get::<String>("who")?
        );
        report.findings.push(Finding { check: "connections", node: source, what });
    }
    Ok(())
}

/// Every placement exists on its node, and no other.
fn placements(cluster: &mut Cluster<'_>, report: &mut Report) -> Result<(), Failure> {
    let name = match cluster.citus {
        // Which shortens names that would be too long, and leaves out this one schema.
        true => {
            "CASE n.nspname WHEN 'public' THEN 'public.' ELSE '' END || shard_name(s.logicalrelid, s.shardid)"
        }
        false => "format('%I.%I', n.nspname, c.relname || '_' || s.shardid)",
    };
    let Some(coordinator) = cluster.members.iter_mut().find(|member| member.group == 0) else {
        return Ok(());
    };
    let sql = format!(
        "SELECT {name} AS name, s.shardid::text AS shardid, p.groupid
           FROM pg_dist_shard s JOIN pg_dist_placement p ON p.shardid = s.shardid
                JOIN pg_class c ON c.oid = s.logicalrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    );
    let reply = ask(&mut coordinator.talk, "placements", &sql)?;
    let mut wanted: BTreeMap<i32, BTreeSet<String>> = BTreeMap::new();
    let mut shards = BTreeSet::new();
    for row in rows(&reply)? {
        wanted.entry(row.get("groupid")?).or_default().insert(row.get("name")?);
        shards.insert(row.get::<String>("shardid")?);
    }
    for group in &cluster.absent {
        if let Some(lost) = wanted.get(group) {
            report.findings.push(Finding {
                check: "placements",
                node: format!("node {group}"),
                what: format!("{} placements are on a node that is not there", lost.len()),
            });
        }
    }
    for member in &mut cluster.members {
        let reply = ask(&mut member.talk, "tables", TABLES)?;
        let mut there = BTreeMap::new();
        for row in rows(&reply)? {
            there.insert(row.get::<String>("name")?, row.get::<String>("shardid")?);
        }
        let own = wanted.remove(&member.group).unwrap_or_default();
        for name in own.iter().filter(|name| !there.contains_key(*name)) {
            push(report, "placements", &member.talk, format!("{name} is missing"));
        }
        for (name, shard) in there.iter().filter(|(name, _)| !own.contains(*name)) {
            if shards.contains(shard) {
                push(
                    report,
                    "placements",
                    &member.talk,
                    format!("{name} is a shard that has no placement here"),
                );
            }
        }
    }
    Ok(())
}

/// All nodes with metadata give the same answers.
fn catalogs(cluster: &mut Cluster<'_>, report: &mut Report) -> Result<(), Failure> {
    let sum = format!(
        "SELECT md5(coalesce(string_agg(entry, ',' ORDER BY entry), '')) FROM ({ENTRIES}) e"
    );
    let mut members = cluster.members.iter_mut().filter(|member| member.has_metadata);
    let Some(coordinator) = members.next() else { return Ok(()) };
    let wanted = ask(&mut coordinator.talk, "catalog", &sum)?.single_value()?.to_owned();
    for member in members {
        if ask(&mut member.talk, "catalog", &sum)?.single_value()? == wanted {
            continue;
        }
        let own = entries(&mut coordinator.talk)?;
        let theirs = entries(&mut member.talk)?;
        // Named, so that a look again tells whether it is still the same.
        if let Some(first) = own.symmetric_difference(&theirs).next() {
            let who = if own.contains(first) { "the coordinator" } else { "it" };
            let what = format!(
                "its placements or nodes are not the coordinator's (only {who} has {first}): \
                 SELECT start_metadata_sync_to_all_nodes();"
            );
            push(report, "catalogs", &member.talk, what);
        }
    }
    Ok(())
}

/// What all nodes have to know alike.
const ENTRIES: &str = "SELECT format('a placement of shard %s on node %s', shardid, groupid) AS entry FROM pg_dist_placement
     UNION ALL SELECT format('node %s at %s:%s', groupid, nodename, nodeport) FROM pg_dist_node";

fn entries(talk: &mut crate::talk::Talk<'_>) -> Result<BTreeSet<String>, Failure> {
    let reply = ask(talk, "catalog", ENTRIES)?;
    let entries = rows(&reply)?.map(|row| row.get("entry"));
    Ok(entries.collect::<Result<_, _>>()?)
}

/// What a CREATE INDEX CONCURRENTLY has left.
fn indexes(cluster: &mut Cluster<'_>, report: &mut Report) -> Result<(), Failure> {
    let sql = "SELECT i.indexrelid::regclass::text AS name FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1";
    for member in &mut cluster.members {
        let reply = ask(&mut member.talk, "indexes", sql)?;
        for row in rows(&reply)? {
            let name: String = row.get("name")?;
            let what = format!("{name} is invalid: DROP INDEX or REINDEX it");
            push(report, "indexes", &member.talk, what);
        }
    }
    Ok(())
}

/// Tasks that wait, and moves that were under way.
fn unfinished(cluster: &mut Cluster<'_>, report: &mut Report) -> Result<(), Failure> {
    for member in &mut cluster.members {
        let reply = ask(
            &mut member.talk,
            "subscriptions of moves",
            "SELECT subname AS name FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
              WHERE d.datname = current_database() AND subname ~ '^citus_shard_(move|split)_'
             UNION ALL SELECT pubname FROM pg_publication WHERE pubname ~ '^citus_shard_(move|split)_'",
        )?;
        for row in rows(&reply)? {
            let name: String = row.get("name")?;
            push(
                report,
                "moves",
                &member.talk,
                format!("{name} is left of a move that was under way"),
            );
        }
        if member.group != 0 {
            continue;
        }
        for (table, sql) in [
            (
                "pg_dist_background_task",
                "SELECT format('task %s (%s): %s', task_id, status, left(command, 80)) AS what
                   FROM pg_dist_background_task WHERE status::text IN ('blocked', 'runnable', 'running') ORDER BY 1",
            ),
            (
                "pg_dist_cleanup",
                "SELECT format('%s on node %s waits to be cleaned up', object_name, node_group_id) AS what
                   FROM pg_dist_cleanup ORDER BY 1",
            ),
        ] {
            let has = format!("SELECT to_regclass('{table}') IS NOT NULL");
            if ask(&mut member.talk, "look for a table", &has)?.single_value()? == "t" {
                let reply = ask(&mut member.talk, "unfinished work", sql)?;
                for row in rows(&reply)? {
                    push(report, "unfinished work", &member.talk, row.get("what")?);
                }
            }
        }
    }
    Ok(())
}

/// Adds a finding.
pub fn push(report: &mut Report, check: &'static str, talk: &crate::talk::Talk<'_>, what: String) {
    report.findings.push(Finding { check, node: talk.place().to_string(), what });
}
