//! A copy's links to its tablespaces, which lie beside it.
//!
//! pg_basebackup makes them whole paths. In a backup that was moved these lead nowhere; in one that was copied, to the
//! original, whose files would be checked in place of the copy's own. So the command makes them relative, and whoever
//! checks a copy looks first whether each link leads to what is in the manifest.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use crate::durable;
use crate::failure::Failure;
use crate::manifest::Node;
use crate::programs::shell_word;

/// Where a data directory has them.
const LINKS: &str = "pg_tblspc";

/// Makes the links of a copy that nobody uses yet relative.
pub fn make_relative(data: &Path, tablespaces: &[(u32, PathBuf)]) -> Result<(), Failure> {
    let links = data.join(LINKS);
    for (oid, place) in tablespaces {
        let link = links.join(oid.to_string());
        let made = fs::remove_file(&link).and_then(|()| symlink(way(&links, place), &link));
        made.map_err(|error| failed(&link, error))?;
    }
    match tablespaces.is_empty() {
        true => Ok(()),
        false => durable::sync_directory(&links).map_err(|error| failed(&links, error)),
    }
}

fn failed(path: &Path, error: io::Error) -> Failure {
    crate::folder::failed("make", path, error)
}

/// Refuses a node's copy, below a backup's directory, whose links lead elsewhere than to its own tablespaces.
pub fn require(dir: &Path, node: &Node) -> Result<(), Failure> {
    let Some(data) = &node.data else { return Ok(()) };
    let links = data.join(LINKS);
    let is_same = |one: &Path, other: &Path| {
        let real = |path: &Path| fs::canonicalize(dir.join(path)).ok();
        real(one).is_some_and(|one| real(other) == Some(one))
    };
    let mut astray = Vec::new();
    let mut mends = Vec::new();
    for tablespace in &node.tablespaces {
        // One that is missing is said to be missing by whoever reads it.
        let Some(copy) = tablespace.copy.as_ref().filter(|copy| dir.join(copy).is_dir()) else {
            continue;
        };
        let link = links.join(tablespace.oid.to_string());
        if is_same(&link, copy) {
            continue;
        }
        let link = dir.join(link);
        astray.push(match fs::read_link(&link) {
            Ok(target) => format!("{} leads to {}", link.display(), target.display()),
            Err(_) => format!("{} is no link", link.display()),
        });
        let word = |path: &Path| shell_word(&path.display().to_string());
        mends.push(format!("ln -sfn {} {}", word(&way(&links, copy)), word(&link)));
    }
    match astray.is_empty() {
        true => Ok(()),
        false => Err(Failure::Unfit {
            what: format!(
                "the backup was moved or copied since: {}, and not to the tablespace that is in it",
                astray.join("; ")
            ),
            todo: format!("Put that right, then run the same command again: {}", mends.join("; ")),
        }),
    }
}

/// The way from one directory to another, both below the same one.
fn way(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let up = std::iter::repeat_n(Component::ParentDir.as_os_str(), from.len() - common);
    let down = to[common..].iter().map(|component| component.as_os_str());
    up.chain(down).collect::<Vec<&OsStr>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_leads_from_any_directory_to_any_other() {
        let way = |from: &str, to: &str| way(Path::new(from), Path::new(to));
        assert_eq!(
            way("/b/nodes/1/data/pg_tblspc", "/b/nodes/1/tablespaces/7"),
            Path::new("../../tablespaces/7")
        );
        assert_eq!(way("nodes/1/data/pg_tblspc", "nodes/1/ts"), Path::new("../../ts"));
        assert_eq!(way("a", "b/c"), Path::new("../b/c"));
    }
}
