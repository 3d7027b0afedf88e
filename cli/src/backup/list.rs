//! `citus-fence list` and `citus-fence verify`: what is in a backup, and whether all of it is there and undamaged.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::args::{ListArgs, VerifyArgs};
use super::folder::failed;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::manifest::{self, Backup, Node};
use crate::nodes;
use crate::output::Output;
use crate::signals::Stop;
use crate::units::spell;

/// What every manifest has.
#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u32,
}

/// Prints what is in one.
pub fn run(args: &ListArgs, output: &Output) -> Result<Exit, Failure> {
    let backup = read(&args.dir)?;
    output.result(&backup, lines)?;
    Ok(Exit::Done)
}

/// Checks one.
pub fn verify(args: &VerifyArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let backup = read(&args.dir)?;
    if backup.nodes.is_empty() {
        return Err(unfit(&args.dir, "its manifest names no node".to_owned()));
    }
    let mut copies = Vec::new();
    for node in &backup.nodes {
        let called = nodes::called(&node.name, node.port, node.groupid);
        let Some(data) = &node.data else {
            return Err(Failure::Node {
                node: called,
                what: format!("its copy is kept by {}, which has to check it", node.tool),
                todo: None,
            });
        };
        let others = node.tablespaces.iter().filter_map(|tablespace| tablespace.copy.as_ref());
        for path in others.chain(&node.config).chain([data]) {
            let path = args.dir.join(path);
            if !path.is_dir() {
                return Err(Failure::Node {
                    node: called,
                    what: format!("{} is missing", path.display()),
                    todo: Some("This backup cannot be restored as it is.".to_owned()),
                });
            }
        }
        copies.push((called, args.dir.join(data)));
    }
    super::verify(args.bindir.as_deref(), copies, stop)?;
    output
        .result(&backup, |backup| format!("{} nodes, all of them whole\n", backup.nodes.len()))?;
    Ok(Exit::Done)
}

/// Reads the manifest of a backup that this program knows.
pub fn read(dir: &Path) -> Result<Backup, Failure> {
    let path = dir.join(manifest::FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(unfit(
                dir,
                format!("it has no {}, so it holds no whole backup", manifest::FILE),
            ));
        }
        Err(error) => return Err(failed("read", &path, error)),
    };
    let broken = |error: serde_json::Error| {
        unfit(dir, format!("its {} cannot be read: {error}", manifest::FILE))
    };
    let kind: Kind = serde_json::from_str(&text).map_err(broken)?;
    if kind.format != manifest::BACKUP || kind.version > manifest::VERSION {
        let what = format!(
            "its format is \"{}\", version {}, which this program does not know",
            kind.format, kind.version
        );
        return Err(unfit(dir, what));
    }
    serde_json::from_str(&text).map_err(broken)
}

fn unfit(dir: &Path, what: String) -> Failure {
    Failure::Directory {
        dir: dir.display().to_string(),
        what,
        todo: "Name the directory that citus-fence backup was given.",
        wrong_use: false,
    }
}

/// A backup in lines.
pub fn lines(backup: &Backup) -> String {
    let block = &backup.block;
    let mut text = format!(
        "backup of database \"{}\", {}, under block {} (mode {}); writers were held for {}\n",
        backup.database,
        block.ended_at.format("%F %T UTC"),
        block.id,
        block.mode,
        spell(std::time::Duration::from_millis(block.held_ms))
    );
    for node in &backup.nodes {
        text.push_str(&format!("{}\n", line(node)));
    }
    for node in &backup.missing {
        text.push_str(&format!(
            "{}: not in it: {}\n",
            nodes::called(&node.name, node.port, node.groupid),
            node.why
        ));
    }
    text
}

fn line(node: &Node) -> String {
    format!(
        "{}: {} MB by {}, PostgreSQL {}, WAL {} on timeline {}",
        nodes::called(&node.name, node.port, node.groupid),
        node.bytes >> 20,
        node.tool,
        node.postgresql,
        node.wal_lsn,
        node.timeline
    )
}
