//! Whether all is there, as it was written.

use std::path::Path;

use serde::Serialize;

use super::args::VerifyArgs;
use crate::backup::copies::{self, Job};
use crate::backup::links;
use crate::dump;
use crate::failure::Failure;
use crate::manifest::{Backup, Node};
use crate::nodes::called;
use crate::programs;
use crate::restore::Tried;
use crate::signals::Stop;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// `backup` or `dump`.
    pub kind: &'static str,
    /// What was compared: the data directories of a backup, the files of a dump.
    pub parts: usize,
    /// Parts of a backup that are kept elsewhere, by the tool that made them.
    pub elsewhere: usize,
    /// A sentence for each part that is missing or not what it was.
    pub damaged: Vec<String>,
    /// What its restore has shown, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<Tried>,
}

/// All files of a dump.
pub fn dump(dir: &Path, stop: &Stop) -> Result<Verified, Failure> {
    let found = dump::verify_unless(dir, &|| stop.signal().is_some())?;
    if let Some(signal) = stop.signal() {
        return Err(Failure::ToldToStop { signal });
    }
    Ok(Verified {
        kind: "dump",
        parts: found.files,
        elsewhere: 0,
        damaged: found.damaged,
        full: None,
    })
}

/// All nodes' copies of a backup, by the manifests that pg_basebackup has written into them; with the WAL that each
/// needs.
pub fn backup(args: &VerifyArgs, backup: &Backup, stop: &Stop) -> Result<Verified, Failure> {
    let program = programs::find("pg_verifybackup", args.bindir.as_deref());
    let mut verified =
        Verified { kind: "backup", parts: 0, elsewhere: 0, damaged: Vec::new(), full: None };
    for node in &backup.nodes {
        let Some(data) = &node.data else {
            verified.elsewhere += 1;
            continue;
        };
        links::require(&args.dir, node)?;
        let whole = copy(&program, node, &args.dir.join(data), stop)?;
        verified.parts += usize::from(whole.is_ok());
        let name = || called(&node.name, node.port, node.groupid);
        verified.damaged.extend(whole.err().map(|why| format!("{}: {why}", name())));
        for tablespace in node.tablespaces.iter().filter_map(|one| one.copy.as_ref()) {
            if !args.dir.join(tablespace).is_dir() {
                verified.damaged.push(format!("{}: {} is missing", name(), tablespace.display()));
            }
        }
        if let Some(config) = node.config.as_ref().filter(|config| !args.dir.join(config).is_dir())
        {
            verified.damaged.push(format!("{}: {} is missing", name(), config.display()));
        }
    }
    Ok(verified)
}

/// One node's copy; what is wrong with it.
fn copy(
    program: &Path,
    node: &Node,
    data: &Path,
    stop: &Stop,
) -> Result<Result<(), String>, Failure> {
    if !data.join("backup_manifest").is_file() {
        return Ok(Err(format!("{} has no backup_manifest", data.display())));
    }
    let called = called(&node.name, node.port, node.groupid);
    // One that cannot be run says nothing of the copy.
    let job = Job::start(called, "pg_verifybackup", &mut copies::verify(program, data))?;
    match copies::wait(vec![job], None, &mut || {}, stop) {
        Ok(()) => Ok(Ok(())),
        Err(Failure::Node { what, .. }) => Ok(Err(what)),
        Err(other) => Err(other),
    }
}
