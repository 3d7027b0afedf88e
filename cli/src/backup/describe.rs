//! What the manifest says: of the cluster, of the block, of each node.

use std::path::Path;

use super::copies::tablespace_folder;
use super::reached;
use super::source::Source;
use crate::databases;
use crate::failure::Failure;
use crate::folder::{self, Folder, write_json};
use crate::lease::{Held, HeldNode};
use crate::manifest::{self, Backup, Sealed};
use crate::nodes::{self, Node};
use crate::output::Output;
use crate::rows::{only_row, rows};
use crate::signals::Stop;

/// The whole cluster.
pub struct About {
    database: String,
    citus: Option<String>,
}

/// Asks the coordinator.
pub fn about(held: &Held, stop: &Stop) -> Result<About, Failure> {
    let reply = held.ask(
        "look at the database",
        "SELECT current_database() AS database, \
                (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus') AS citus",
        stop,
    )?;
    let row = only_row(&reply)?;
    Ok(About { database: row.get("database")?, citus: row.maybe("citus")? })
}

/// The databases of the coordinator that have Citus' catalog. One that cannot be looked into is told of.
pub fn citus_databases(
    nodes: &[Node],
    stop: &Stop,
    output: &Output,
) -> Result<Vec<String>, Failure> {
    let Some(coordinator) = nodes.iter().find(|node| node.groupid == 0) else {
        return Ok(Vec::new());
    };
    let connect = |name: &str| coordinator.in_database(name).talk(stop);
    let mut names = Vec::new();
    for (name, found) in databases::with_citus(&mut coordinator.talk(stop)?, connect)? {
        match found {
            Ok(_) => names.push(name),
            Err(error) => output.progress(&format!(
                "database \"{name}\": whether it has Citus is not known: {error}"
            )),
        }
    }
    Ok(names)
}

/// An error where another node's server is the coordinator of a cluster of its own, in a database that is copied with all
/// others: no block that is begun at this coordinator holds it.
pub fn require_no_other_coordinator(
    nodes: &[Node],
    stop: &Stop,
    output: &Output,
) -> Result<(), Failure> {
    for node in nodes.iter().filter(|node| node.groupid != 0 && node.is_active) {
        let connect = |name: &str| node.in_database(name).talk(stop);
        for (name, found) in databases::with_citus(&mut node.talk(stop)?, connect)? {
            match found {
                Ok(found) if found.is_coordinator && found.has_workers => {
                    return Err(Failure::Unfit {
                        what: format!(
                            "database \"{name}\" of {} is a Citus cluster of its own, whose coordinator that server is, \
                             and no block from here holds it",
                            node.called()
                        ),
                        todo: format!(
                            "Back both up under a block of that database: citus-fence block -h {} -p {} -d {name} -- \
                             and this command with --only-this-database; or with that alone, if its two-phase commits \
                             may be cut in half in what you copy.",
                            node.name, node.port
                        ),
                    });
                }
                Ok(_) => {}
                Err(error) => output.progress(&format!(
                    "{}: database \"{name}\": whether it is a cluster of its own is not known: {error}",
                    node.called()
                )),
            }
        }
    }
    Ok(())
}

/// An error where another database of the coordinator is a cluster with a node of which nothing would be copied. Servers are
/// told by their addresses, or by these system identifiers where a catalog has another name for one.
pub fn require_no_other_nodes(
    nodes: &[Node],
    identifiers: &[String],
    stop: &Stop,
) -> Result<(), Failure> {
    let Some(coordinator) = nodes.iter().find(|node| node.groupid == 0) else { return Ok(()) };
    let connect = |name: &str| coordinator.in_database(name).talk(stop);
    for (database, found) in databases::with_citus(&mut coordinator.talk(stop)?, connect)? {
        // What cannot be looked into is refused by whoever holds it.
        if !found.is_ok_and(|found| found.is_coordinator && found.has_workers) {
            continue;
        }
        let reply = coordinator.in_database(&database).talk(stop)?.ask(
            "nodes of another database",
            "SELECT nodename, nodeport, groupid FROM pg_catalog.pg_dist_node
              WHERE noderole::text = 'primary' AND isactive AND groupid <> 0 ORDER BY groupid",
        )?;
        for row in rows(&reply)? {
            let (name, port): (String, i32) = (row.get("nodename")?, row.get("nodeport")?);
            if nodes.iter().any(|node| node.name == name && node.port == port) {
                continue;
            }
            let mut there = coordinator.in_database(&database);
            there.destination.target.params.set("hostaddr", "").set("host", &name);
            there.destination.target.params.set("port", port.to_string());
            let sql = "SELECT system_identifier FROM pg_catalog.pg_control_system()";
            let identifier = there
                .talk(stop)
                .and_then(|mut talk| talk.ask("identify node", sql))
                .and_then(|reply| Ok(reply.parse_single::<i64>()?.cast_unsigned().to_string()));
            match identifier {
                Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
                Ok(identifier) if identifiers.contains(&identifier) => continue,
                Ok(_) | Err(_) => {}
            }
            return Err(Failure::Unfit {
                what: format!(
                    "database \"{database}\" is a Citus cluster too, and its {} is no node of this one: a backup would have \
                     nothing of what is there",
                    nodes::called(&name, port, row.get("groupid")?)
                ),
                todo:
                    "Leave that database alone with --only-this-database, and back it up by itself."
                        .into(),
            });
        }
    }
    Ok(())
}

/// Ends a block, and says of it what is to be kept; an error if it has not lasted.
pub fn end(held: Held, stop: &Stop) -> Result<manifest::Block, Failure> {
    let (id, mode, began_at) = (held.id, held.mode.clone(), held.began_at);
    let verdict = held.end(stop);
    if !verdict.lasted {
        let why = verdict.why.unwrap_or_default();
        return Err(Failure::NotHeld { id, why, is_over: false });
    }
    Ok(manifest::Block {
        id,
        mode,
        began_at,
        ended_at: verdict.ended_at,
        held_ms: u64::try_from(verdict.held.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Ends a block under which something has failed; what is told of it then. Why a block was lost the server may know better.
pub fn give_up(held: Held, failure: Failure) -> Failure {
    let verdict = held.give_up();
    match failure {
        Failure::NotHeld { id, why, is_over: false } => {
            Failure::NotHeld { id, why: verdict.why.unwrap_or(why), is_over: false }
        }
        other => other,
    }
}

/// A node's copy in the directory.
pub fn copy(
    folder: &Folder,
    source: &Source,
    held: &HeldNode,
    data: &Path,
) -> Result<manifest::Node, Failure> {
    let place = source.below();
    let tablespaces = source.tablespaces.iter().map(|tablespace| manifest::Tablespace {
        copy: Some(tablespace_folder(&place, tablespace.oid)),
        ..tablespace.clone()
    });
    let bytes = folder::size(&source.place(folder))?;
    Ok(manifest::Node {
        forks: reached::forks(data, held.timeline)?,
        bytes,
        data: Some(place.join("data")),
        tablespaces: tablespaces.collect(),
        ..node(source, held, "pg_basebackup")
    })
}

/// A node whose copy a tool keeps.
pub fn elsewhere(
    source: &Source,
    held: &HeldNode,
    held_until: Option<String>,
    tool: &str,
    stop: &Stop,
) -> Result<manifest::Node, Failure> {
    let forks = source.forks(held.timeline, stop)?;
    Ok(manifest::Node { forks, held_until, ..node(source, held, tool) })
}

fn node(source: &Source, held: &HeldNode, tool: &str) -> manifest::Node {
    manifest::Node {
        nodeid: source.node.nodeid,
        groupid: source.node.groupid,
        name: source.node.name.clone(),
        port: source.node.port,
        system_identifier: source.identity.system_identifier.clone(),
        timeline: held.timeline,
        forks: Vec::new(),
        wal_lsn: held.wal_lsn.clone(),
        held_until: None,
        postgresql: source.identity.postgresql.clone(),
        bytes: source.bytes.unwrap_or(0),
        data: None,
        config: source.config.as_ref().map(|_| source.below().join("config")),
        tablespaces: source.tablespaces.clone(),
        tool: tool.to_owned(),
    }
}

/// All of it.
pub fn backup(
    about: About,
    citus_databases: Vec<String>,
    block: manifest::Block,
    point: Option<String>,
    nodes: Vec<manifest::Node>,
) -> Backup {
    Backup {
        format: manifest::BACKUP.to_owned(),
        version: manifest::VERSION,
        citus_fence: env!("CARGO_PKG_VERSION").to_owned(),
        database: about.database,
        citus_databases,
        citus: about.citus,
        block,
        point,
        nodes,
        missing: Vec::new(),
        checksum: None,
    }
}

/// Writes the manifest, the last of all: from here on it is a backup.
pub fn finish(folder: Folder, backup: &Backup, stop: &Stop) -> Result<(), Failure> {
    folder::sync(&folder.path)?;
    if let Some(signal) = stop.signal() {
        return Err(Failure::ToldToStop { signal });
    }
    write_json(&folder.path.join(manifest::FILE), &backup.clone().sealed())?;
    folder.keep();
    Ok(())
}
