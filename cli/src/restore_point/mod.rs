//! `citus-fence restore-point`: a moment that all nodes can be restored to, and that is in every archive.
//!
//! ```text
//!  every node archives? ──> block ──> point on all nodes ──> released ──> WAL switched everywhere ──> all archived
//! ```
//! The switch comes after the release: it only has to follow the point, and writers need not wait for it.
//!
//! **What a failure leaves.** Before the verdict of the block the point may be on some of the nodes, and must not be used.
//! After it the point is good, whatever comes: what `--dir` keeps is written at once, so that a wait for an archive that is
//! given up loses nothing.

pub mod args;

use std::time::{Duration, Instant};

use chrono::Utc;
use remote::Command;
use serde::Serialize;

use self::args::RestorePointArgs;
use crate::backup::describe::{self, About};
use crate::backup::source::{self, Source};
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::lease::{self, HeldNode, Terms};
use crate::manifest::{self, Backup};
use crate::nodes::{self, Node};
use crate::output::Output;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::{Talk, quoted};
use crate::units::spell;

/// The longest name of a restore point that PostgreSQL takes.
const LONGEST_NAME: usize = 63;
/// The block lasts for milliseconds; this bounds what becomes of it if this program is killed.
const LEASE: Duration = Duration::from_secs(30);
const MAX: Duration = Duration::from_secs(120);
/// How often the archivers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A segment's name: timeline and number, in hexadecimal.
const SEGMENT_NAME: usize = 24;

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    name: String,
    block_id: i64,
    held_ms: u64,
    nodes: Vec<Point>,
    /// Inactive nodes that have no such point.
    missing: Vec<manifest::Missing>,
}

/// On one node.
#[derive(Debug, Serialize)]
struct Point {
    groupid: i32,
    name: String,
    port: i32,
    lsn: String,
    segment: String,
}

/// Makes one.
pub fn run(args: &RestorePointArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let name = whole_name(args)?;
    let destination = Destination::new(&args.connection)?;
    let kept = args.dir.as_deref().map(Folder::claim).transpose()?;
    lease::require(&destination, stop)?;
    let nodes = nodes::find(&destination, &args.nodes, stop)?;
    let (mut sessions, mut missing) = nodes::each(&nodes, |node| {
        let mut talk = node.talk(stop)?;
        let identity = nodes::identify(node, &mut talk)?;
        require_archiving(node, &mut talk)?;
        Ok((node.clone(), talk, identity))
    })?;
    let kept = match kept {
        None => None,
        Some(folder) => {
            let answering: Vec<Node> = sessions.iter().map(|(node, _, _)| node.clone()).collect();
            Some(Kept::begin(folder, &answering, stop, output)?)
        }
    };

    let only_this_database = args.only_this_database;
    if !only_this_database {
        let answering: Vec<Node> = sessions.iter().map(|(node, _, _)| node.clone()).collect();
        describe::require_no_other_coordinator(&answering, stop, output)?;
        let own = sessions.iter().map(|(_, _, identity)| identity.system_identifier.clone());
        describe::require_no_other_nodes(&answering, &own.collect::<Vec<_>>(), stop)?;
    }
    let terms = Terms { mode: None, lease: LEASE, max: MAX, only_this_database };
    let held = lease::begin(&destination, &terms, stop, output)?;
    let left_out = sessions.extract_if(.., |(node, _, _)| node.is_left_out(&held.nodes));
    missing.extend(left_out.map(|(node, _, _)| node.missing(&crate::backup::NOT_HELD)));
    for (node, _, identity) in &sessions {
        node.is_held(&held.nodes, &identity.system_identifier)?;
    }
    let about = describe::about(&held, stop)?;
    let held_nodes = held.nodes.clone();
    let unusable = |why| Failure::PointUnusable { name: name.clone(), why: Box::new(why) };
    let sql = format!(
        "SELECT groupid, restore_lsn FROM {{home}}.citus_backup_restore_point({})",
        quoted(&name)
    );
    let positions = held.ask("restore point", &sql, stop).and_then(|points| {
        let nodes = sessions.iter().map(|(node, _, _)| lsn_of(node, &points));
        nodes.collect::<Result<Vec<_>, _>>()
    });
    let positions = match positions {
        Ok(positions) => positions,
        Err(failure) => return Err(unusable(describe::give_up(held, failure))),
    };
    let block = describe::end(held, stop).map_err(unusable)?;

    let mut made =
        Made { name, block_id: block.id, held_ms: block.held_ms, nodes: Vec::new(), missing };
    for ((node, _, _), lsn) in sessions.iter().zip(positions) {
        let (groupid, name, port) = (node.groupid, node.name.clone(), node.port);
        made.nodes.push(Point { groupid, name, port, lsn, segment: String::new() });
    }
    let held_for = Duration::from_millis(block.held_ms);
    // Whatever comes of the archives, also a signal: the point is there.
    let kept = kept.map(|kept| kept.finish(about, block, &held_nodes, &made, &Stop::default()));
    let archived = switch_wal(&mut sessions, &mut made)
        .and_then(|()| wait_for_archives(&mut sessions, &made, args.archived_within, stop));
    if let Some(Err(why)) = kept {
        return Err(Failure::PointNotKept { name: made.name, why: Box::new(why) });
    }
    archived.map_err(|why| Failure::NotArchived {
        name: made.name.clone(),
        why: why.to_string(),
        dir: args.dir.clone(),
    })?;
    let told = |made: &Made| {
        let mut text = format!(
            "{}\non {} nodes, archived by all; writers were held for {}\n",
            made.name,
            made.nodes.len(),
            spell(held_for)
        );
        for node in &made.missing {
            let called = nodes::called(&node.name, node.port, node.groupid);
            text.push_str(&format!("look: not on {called}: {}\n", node.why));
        }
        text
    };
    let end = if made.missing.is_empty() { Exit::Done } else { Exit::Findings };
    Ok(output.outcome(&made, told, end))
}

/// What `--dir` keeps.
struct Kept {
    folder: Folder,
    sources: Vec<Source>,
    citus_databases: Vec<String>,
}

impl Kept {
    fn begin(
        folder: Folder,
        nodes: &[Node],
        stop: &Stop,
        output: &Output,
    ) -> Result<Kept, Failure> {
        let (sources, _) = source::look_at_all(nodes, stop)?;
        for source in &sources {
            for remark in &source.remarks {
                output.progress(&format!("{}: {remark}", source.node.called()));
            }
            source.keep_config(&folder)?;
        }
        let citus_databases = describe::citus_databases(nodes, stop, output)?;
        Ok(Kept { folder, sources, citus_databases })
    }

    fn finish(
        self,
        about: About,
        block: manifest::Block,
        held: &[HeldNode],
        made: &Made,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let mut nodes = Vec::new();
        for source in &self.sources {
            let group = source.node.groupid;
            let held = held.iter().find(|held| held.groupid == group);
            let point = made.nodes.iter().find(|point| point.groupid == group);
            // Both have been found for every node by now.
            let (Some(held), Some(point)) = (held, point) else { continue };
            let held = HeldNode { wal_lsn: point.lsn.clone(), ..held.clone() };
            nodes.push(describe::elsewhere(source, &held, None, "another tool", stop)?);
        }
        let point = Some(made.name.clone());
        let backup = Backup {
            missing: made.missing.clone(),
            ..describe::backup(about, self.citus_databases, block, point, nodes)
        };
        describe::finish(self.folder, &backup, stop)
    }
}

/// The name with its time.
fn whole_name(args: &RestorePointArgs) -> Result<String, Failure> {
    let name = match args.exact_name {
        true => args.name.clone(),
        false => format!("{}-{}", args.name, Utc::now().format("%Y%m%dT%H%M%SZ")),
    };
    match (1..=LONGEST_NAME).contains(&name.len()) && !args.name.is_empty() {
        true => Ok(name),
        false => Err(Failure::WrongName { name, longest: LONGEST_NAME }),
    }
}

/// Refuses a node that would never archive the point.
fn require_archiving(node: &Node, talk: &mut Talk<'_>) -> Result<(), Failure> {
    let reply = talk.ask(
        "look at archiving",
        "SELECT pg_catalog.current_setting('archive_mode') AS mode, \
                pg_catalog.concat(pg_catalog.current_setting('archive_command'), \
                                  pg_catalog.current_setting('archive_library', true)) = '' AS is_paused, \
                pg_catalog.has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE') AS may_switch",
    )?;
    let row = only_row(&reply)?;
    if row.get::<String>("mode")? == "off" {
        return Err(node.unfit(
            "it does not archive its WAL: archive_mode is off",
            "Nothing was done. A point can only be restored to from an archive: set archive_mode and archive_command \
             there and restart it.",
        ));
    }
    if row.is_true("is_paused")? {
        return Err(node.unfit(
            "it archives nothing for now: archive_command is empty",
            "Nothing was done. A point can only be restored to from an archive: set archive_command there (or \
             archive_library), and SELECT pg_reload_conf().",
        ));
    }
    if !row.is_true("may_switch")? {
        return Err(node.unfit(
            "this user may not switch WAL there",
            "Nothing was done. Run there: GRANT EXECUTE ON FUNCTION pg_switch_wal() TO …",
        ));
    }
    Ok(())
}

fn lsn_of(node: &Node, points: &remote::Reply) -> Result<String, Failure> {
    for row in rows(points)? {
        if row.get::<i32>("groupid")? == node.groupid {
            return Ok(row.get("restore_lsn")?);
        }
    }
    Err(points.unexpected("no restore point on a node of the cluster").into())
}

/// Has every node begin a new WAL file, so that the one with the point is archived.
fn switch_wal(
    sessions: &mut [(Node, Talk<'_>, nodes::Identity)],
    made: &mut Made,
) -> Result<(), Failure> {
    let mut failed = None;
    for ((_, talk, _), point) in sessions.iter_mut().zip(&mut made.nodes) {
        let sql = format!(
            "SELECT pg_catalog.pg_walfile_name('{}') AS segment, pg_catalog.pg_switch_wal()",
            point.lsn
        );
        let switched = talk.ask("switch of WAL", &sql).and_then(|reply| {
            point.segment = only_row(&reply)?.get("segment")?;
            Ok(())
        });
        // The others do it all the same: the sooner the point is in their archives, the better.
        failed = failed.or(switched.err());
    }
    failed.map_or(Ok(()), Err)
}

/// Waits until each node has archived its segment, or names those that have not.
fn wait_for_archives(
    sessions: &mut [(Node, Talk<'_>, nodes::Identity)],
    made: &Made,
    limit: Duration,
    stop: &Stop,
) -> Result<(), Failure> {
    let end = Instant::now() + limit;
    let mut done = vec![false; sessions.len()];
    loop {
        let mut late = Vec::new();
        for (index, (node, talk, _)) in sessions.iter_mut().enumerate() {
            if done[index] {
                continue;
            }
            let Some(point) = made.nodes.iter().find(|point| point.groupid == node.groupid) else {
                continue;
            };
            let reply = talk.run(Command::new(
                "look at the archiver",
                "SELECT last_archived_wal, last_failed_wal, last_failed_time > coalesce(last_archived_time, '-infinity') \
                 AS failing FROM pg_catalog.pg_stat_archiver",
            ))?;
            let row = only_row(&reply)?;
            let archived: Option<String> = row.maybe("last_archived_wal")?;
            if archived.as_deref().is_some_and(|archived| reaches(archived, &point.segment)) {
                done[index] = true;
                continue;
            }
            let why = match (row.is_true("failing")?, row.maybe::<String>("last_failed_wal")?) {
                (true, Some(failed)) => format!("it fails to archive {failed}"),
                _ => {
                    format!("the last it archived is {}", archived.as_deref().unwrap_or("nothing"))
                }
            };
            late.push(format!("{}: {why}", node.called()));
        }
        if late.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Failure::Late { limit: spell(limit), late: late.join("; ") });
        }
        if let Some(signal) = stop.signal() {
            return Err(Failure::ToldToStop { signal });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether an archiver that has archived this file has archived that segment: it takes them in the order of their
/// names. A backup's label is named after its segment and comes after it; a timeline's history says nothing.
fn reaches(archived: &str, segment: &str) -> bool {
    match (archived.get(..SEGMENT_NAME), segment.get(..SEGMENT_NAME)) {
        (Some(archived), Some(segment)) => archived >= segment,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_compared_by_name() {
        let segment = "000000010000000000000005";
        for (archived, reached) in [
            ("000000010000000000000005", true),
            ("000000010000000000000006", true),
            ("000000020000000000000001", true),
            ("000000010000000000000005.00000028.backup", true),
            ("000000010000000000000004", false),
            ("00000002.history", false),
            ("", false),
        ] {
            assert_eq!(reaches(archived, segment), reached, "{archived}");
        }
    }
}
