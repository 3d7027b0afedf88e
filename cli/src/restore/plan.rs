//! From options and manifest to what is to be where.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::args::{Mapping, Target, To, WhatArgs};
use super::fault::{At, Fault};
use crate::manifest::{self, Backup, Node};

/// All of it.
#[derive(Debug)]
pub struct Plan {
    pub dir: PathBuf,
    pub backup: Backup,
    /// The same for everybody who restores this backup to these addresses and this point.
    pub restore_id: String,
    /// The nodes of this host, which may be all.
    pub places: Vec<Place>,
    /// Every node's address.
    pub addresses: Vec<Address>,
    /// The groups that nobody restores.
    pub lost: BTreeSet<i32>,
    pub point: Option<Point>,
}

/// Where the others reach a node.
#[derive(Clone, Debug, Serialize)]
pub struct Address {
    pub group: i32,
    pub host: String,
    pub port: u16,
}

/// Where a node is to be.
#[derive(Clone, Debug)]
pub struct Place {
    pub to: To,
    pub node: Node,
    /// The `--tablespace`s that are for this node.
    pub mappings: Vec<Mapping>,
    /// Its `restore_command`, if one was given.
    pub restore_command: Option<String>,
}

/// Up to where.
#[derive(Clone, Debug)]
pub struct Point {
    pub name: String,
    /// It is the manifest's, which says where it is in each node's WAL.
    pub is_known: bool,
}

impl Place {
    /// Its group.
    pub fn group(&self) -> i32 {
        self.to.group
    }

    /// A refusal of this node.
    pub fn refused(&self, what: impl Into<String>, todo: impl Into<String>) -> Fault {
        Fault::Refused { group: self.group(), what: what.into(), todo: todo.into() }
    }
}

/// Reads the manifest and brings both together. `here` are the groups of this host; without it, it is all of them.
pub fn make(args: &WhatArgs, here: Option<&[i32]>) -> Result<Plan, Fault> {
    // What is compared with it are absolute paths.
    let dir = fs::canonicalize(&args.dir).at("find", &args.dir)?;
    let (backup, bytes) = read(&dir)?;
    let wrong = |what: String| Fault::WrongUse { what };
    let given: BTreeSet<i32> = args.to.iter().map(|to| to.group).collect();
    if given.len() < args.to.len() {
        return Err(wrong("a group has several --to".into()));
    }
    let addresses: BTreeSet<_> = args.to.iter().map(|to| (&to.host, to.port)).collect();
    if addresses.len() < args.to.len() {
        return Err(wrong("two nodes have the same address".into()));
    }
    if let Some(group) = here.unwrap_or_default().iter().find(|group| !given.contains(group)) {
        return Err(wrong(format!("--node {group} has no --to")));
    }
    let mut tos = Vec::new();
    for target in &args.to {
        if here.is_none_or(|here| here.contains(&target.group)) {
            tos.push(at_home(target)?);
        }
    }
    for one in &tos {
        if tos.iter().any(|to| to.group != one.group && to.data.starts_with(&one.data)) {
            return Err(wrong(format!("{} is for two nodes", one.data.display())));
        }
        if one.data.starts_with(&dir) || dir.starts_with(&one.data) {
            return Err(wrong(format!("{} is the backup itself", one.data.display())));
        }
    }
    let mut lost: BTreeSet<i32> = backup.missing.iter().map(|node| node.groupid).collect();
    let known: BTreeSet<i32> = backup.nodes.iter().map(|node| node.groupid).collect();
    lost.retain(|group| !known.contains(group));
    for node in &backup.nodes {
        let group = node.groupid;
        match (given.contains(&group), args.without.contains(&group)) {
            (true, true) => return Err(wrong(format!("node {group} has both --to and --without"))),
            (false, true) => drop(lost.insert(group)),
            (false, false) => {
                return Err(wrong(format!(
                    "node {group} ({}:{}) has no --to; what is on it alone would be lost: if it is to be, say \
                     --without {group}",
                    node.name, node.port
                )));
            }
            (true, false) => {}
        }
    }
    let node_of = |group: i32| {
        let node = backup.nodes.iter().find(|node| node.groupid == group);
        node.ok_or_else(|| wrong(format!("the backup has no copy of node {group}")))
    };
    let mut addresses = Vec::new();
    for target in &args.to {
        node_of(target.group)?;
        let (group, host, port) = (target.group, target.host.clone(), target.port);
        addresses.push(Address { group, host, port });
    }
    let mut places = Vec::new();
    for to in tos {
        let node = node_of(to.group)?;
        let is_its = |mapping: &&Mapping| mapping.group.is_none_or(|group| group == to.group);
        places.push(Place {
            mappings: args.tablespace.iter().filter(is_its).cloned().collect(),
            to,
            node: node.clone(),
            restore_command: args.restore_command.as_ref().map(|text| {
                text.replace("{groupid}", &node.groupid.to_string())
                    .replace("{name}", &node.name)
                    .replace("{port}", &node.port.to_string())
            }),
        });
    }
    places.sort_by_key(Place::group);
    apart(&places)?;
    let name = args.point.as_ref().or(backup.point.as_ref());
    let restore_id = restore_id(&bytes, &args.to, name.map(String::as_str));
    let point = name
        .map(|name| Point { name: name.clone(), is_known: backup.point.as_ref() == Some(name) });
    Ok(Plan { dir, backup, restore_id, places, addresses, lost, point })
}

/// Refuses a place that two tablespaces would share, or a tablespace and a data directory: their files have the same names,
/// and nodes have their tablespaces at the same places where each has a machine of its own.
fn apart(places: &[Place]) -> Result<(), Fault> {
    let mut taken: Vec<(&Path, String)> = Vec::new();
    for place in places {
        for tablespace in &place.node.tablespaces {
            let is_its = |mapping: &&Mapping| mapping.old == tablespace.location;
            let Some(mapping) = place.mappings.iter().find(is_its) else { continue };
            let new = mapping.new.as_path();
            let (group, old) = (place.group(), tablespace.location.display());
            let what = format!("the tablespace {old} of node {group}");
            let data = places.iter().find(|other| new.starts_with(&other.to.data));
            let other = data
                .map(|other| format!("the data directory of node {}", other.group()))
                .or_else(|| taken.iter().find(|(at, _)| *at == new).map(|(_, what)| what.clone()));
            if let Some(other) = other {
                let todo = "--tablespace GROUP:OLD=NEW says it for one node alone";
                let what = format!("{} is for {what} and for {other}: {todo}", new.display());
                return Err(Fault::WrongUse { what });
            }
            taken.push((new, what));
        }
    }
    Ok(())
}

/// A target whose files are to be on this host.
fn at_home(target: &Target) -> Result<To, Fault> {
    let group = target.group;
    let data = target.data.clone().ok_or_else(|| Fault::WrongUse {
        what: format!(
            "--to {group}={}:{} lacks the data directory after a comma",
            target.host, target.port
        ),
    })?;
    let (host, port, config) = (target.host.clone(), target.port, target.config.clone());
    Ok(To { group, host, port, data, config })
}

/// The manifest, and its bytes.
pub fn read(dir: &Path) -> Result<(Backup, Vec<u8>), Fault> {
    let path = dir.join(manifest::FILE);
    let no = |what: String| Fault::Manifest { path: path.clone(), what };
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(no("it has no manifest, so that no backup was finished there".into()));
        }
        other => other.at("read", &path)?,
    };
    // The format first: what is of another one has other fields.
    #[derive(serde::Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let head: Head = serde_json::from_slice(&bytes).map_err(|error| no(error.to_string()))?;
    if head.format != manifest::BACKUP {
        return Err(no(format!("it is \"{}\" version {}", head.format, head.version)));
    }
    if head.version > manifest::VERSION {
        return Err(Fault::Newer { path, version: head.version });
    }
    let backup: Backup = serde_json::from_slice(&bytes).map_err(|error| no(error.to_string()))?;
    if !manifest::is_as_written(&bytes, backup.checksum.as_deref()) {
        return Err(no("it is not what was written: its checksum is another".into()));
    }
    // Paths lead below the directory, whoever has written them.
    let is_below = |path: &PathBuf| manifest::is_below(path);
    let tablespaces =
        |node: &Node| node.tablespaces.iter().filter_map(|one| one.copy.clone()).collect();
    for node in &backup.nodes {
        let paths: Vec<PathBuf> = tablespaces(node);
        if !paths.iter().chain(&node.data).chain(&node.config).all(is_below) {
            return Err(no("a path in it leads out of the backup".into()));
        }
    }
    Ok((backup, bytes))
}

/// What all hosts of a restore find out without talking to each other.
fn restore_id(manifest: &[u8], to: &[Target], point: Option<&str>) -> String {
    let mut addresses: Vec<String> =
        to.iter().map(|to| format!("{}={}:{}\n", to.group, to.host, to.port)).collect();
    addresses.sort();
    let mut hash = Sha256::new();
    hash.update(manifest);
    hash.update(addresses.concat());
    hash.update(point.unwrap_or_default());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_depends_on_the_backup_the_addresses_and_the_point() {
        let to = |group, port| Target { group, host: "h".into(), port, data: None, config: None };
        let id = restore_id(b"m", &[to(0, 1), to(1, 2)], None);
        assert_eq!(id, restore_id(b"m", &[to(1, 2), to(0, 1)], None));
        assert_ne!(id, restore_id(b"m", &[to(0, 2), to(1, 1)], None));
        assert_ne!(id, restore_id(b"n", &[to(0, 1), to(1, 2)], None));
        assert_ne!(id, restore_id(b"m", &[to(0, 1), to(1, 2)], Some("p")));
        assert_eq!(id.len(), 32);
    }

    #[test]
    fn no_two_tablespaces_and_no_data_directory_share_a_place() {
        let place = |group: i32, new: &str| {
            Place {
            to: To { group, host: "h".into(), port: 1, data: format!("/d{group}").into(), config: None },
            node: serde_json::from_value(serde_json::json!({
                "nodeid": group, "groupid": group, "name": "n", "port": 1, "system_identifier": "1", "timeline": 1,
                "forks": [], "wal_lsn": "0/1", "postgresql": "15", "bytes": 0, "data": null, "config": null,
                "tablespaces": [{"oid": 7, "location": "/ts", "copy": null}], "tool": "x"
            }))
            .expect("a node"),
            mappings: vec![Mapping { group: None, old: "/ts".into(), new: new.into() }],
            restore_command: None,
        }
        };
        assert!(apart(&[place(1, "/n/1"), place(2, "/n/2")]).is_ok());
        // One below the other is another place.
        assert!(apart(&[place(1, "/n"), place(2, "/n/2")]).is_ok());
        for (one, other, words) in [
            ("/n", "/n", "of node 2 and for the tablespace /ts of node 1"),
            ("/d1", "/n", "of node 1 and for the data directory of node 1"),
            ("/n", "/d1/below", "of node 2 and for the data directory of node 1"),
        ] {
            let refused = apart(&[place(1, one), place(2, other)]).expect_err("it is shared");
            assert!(refused.to_string().contains(words), "{refused}");
        }
    }
}
