//! The manifest of a physical backup: `manifest.json` in its directory, written last and put in place whole. A
//! directory without one holds no backup.
//!
//! ```text
//! DIR/manifest.json                     this, readable by its owner alone
//! DIR/nodes/GROUP/data/                 a node's data directory, as pg_basebackup wrote it (plain format)
//! DIR/nodes/GROUP/tablespaces/OID/      its tablespaces; the links in data/pg_tblspc lead here
//! DIR/nodes/GROUP/config/               its configuration files, which may lie outside of the data directory
//! ```

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::folder;

/// Its file's name.
pub const FILE: &str = "manifest.json";
/// What `format` says in a physical backup.
pub const BACKUP: &str = "citus-fence backup";
/// The newest version of that format, which is the only one so far.
pub const VERSION: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// [`BACKUP`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The version of this program.
    pub citus_fence: String,
    /// The database whose block it was.
    pub database: String,
    /// Every database that has Citus' catalog: each of them has to be brought to one mind after a restore.
    pub citus_databases: Vec<String>,
    /// The version of Citus; none on the embedded catalog.
    pub citus: Option<String>,
    /// The block that all copies ended under, or that the restore point was made under.
    pub block: Block,
    /// The restore point that all nodes are to be brought to, by whichever copies were begun before it and the archive;
    /// none where the copies themselves ended under the block.
    #[serde(default)]
    pub point: Option<String>,
    /// The nodes, by group.
    pub nodes: Vec<Node>,
    /// Nodes that the catalog knows and this backup has no copy of, with the reason.
    pub missing: Vec<Missing>,
    /// See [`Sealed`].
    #[serde(default)]
    pub checksum: Option<String>,
}

impl Sealed for Backup {
    fn checksum(&mut self) -> &mut Option<String> {
        &mut self.checksum
    }
}

/// A manifest that tells whether it is what was written, by SHA-256 over its file as it is with null in the place of that.
pub trait Sealed: Serialize + Sized {
    /// Its checksum; none in one that was written by hand.
    fn checksum(&mut self) -> &mut Option<String>;

    /// With its checksum.
    fn sealed(mut self) -> Self {
        *self.checksum() = None;
        let text = folder::json(&self).unwrap_or_default();
        *self.checksum() = Some(sum(&[&text]));
        self
    }
}

/// Whether a manifest's file is what was written, by the checksum that was read in it. Its bytes say so, and not what this
/// release reads of them: an older one had fewer fields, a newer one may have more.
pub fn is_as_written(file: &[u8], checksum: Option<&str>) -> bool {
    let Some(checksum) = checksum else { return true };
    let Ok(file) = std::str::from_utf8(file) else { return false };
    let field = |value: &str| format!("\"checksum\": {value}");
    let said = field(&format!("\"{checksum}\""));
    let Some(at) = file.rfind(&said) else { return false };
    sum(&[&file[..at], &field("null"), &file[at + said.len()..]]) == checksum
}

fn sum(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a path leads to something below the directory that it starts from.
pub fn is_below(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// The block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its number.
    pub id: i64,
    /// `2pc` or `all`.
    pub mode: String,
    /// When all nodes were held, and when they were let go.
    pub began_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    /// For how long writers were held, in milliseconds.
    pub held_ms: u64,
}

/// One node's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its row of `pg_dist_node`.
    pub nodeid: Option<i32>,
    pub groupid: i32,
    pub name: String,
    pub port: i32,
    /// As text: JSON's numbers are not that long everywhere.
    pub system_identifier: String,
    /// The timeline, and where each one before it was left. Number and identifier are the same for two promoted
    /// replicas of one source; the points are not.
    pub timeline: i32,
    pub forks: Vec<Fork>,
    /// What the copy has to reach.
    pub wal_lsn: String,
    /// Where its WAL was when its copy by another tool had ended, still under the block: a copy that goes further was made
    /// later, and does not fit the others.
    #[serde(default)]
    pub held_until: Option<String>,
    /// `server_version` of the node.
    pub postgresql: String,
    /// The size of the copy; where a tool keeps it elsewhere, that of the node's databases, or 0 if that is not known.
    pub bytes: u64,
    /// Where the copy is, below the manifest's directory; none where a tool keeps it elsewhere.
    pub data: Option<PathBuf>,
    /// Where its configuration files are, below the manifest's directory.
    pub config: Option<PathBuf>,
    /// Its tablespaces.
    pub tablespaces: Vec<Tablespace>,
    /// What made the copy: `pg_basebackup`, or the command that was given; `another tool` where a restore point is all
    /// that was made.
    pub tool: String,
}

/// Where a timeline was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub timeline: i32,
    pub lsn: String,
}

/// A tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    /// Where it is on the node.
    pub location: PathBuf,
    /// Where its copy is, below the manifest's directory.
    pub copy: Option<PathBuf>,
}

/// A node without a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    pub nodeid: Option<i32>,
    pub groupid: i32,
    pub name: String,
    pub port: i32,
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Old {
        version: u32,
        nodes: Vec<Inner>,
        checksum: Option<String>,
    }

    #[derive(Serialize)]
    struct Inner {
        name: &'static str,
        identifier: u64,
    }

    impl Sealed for Old {
        fn checksum(&mut self) -> &mut Option<String> {
            &mut self.checksum
        }
    }

    fn written() -> (String, Option<String>) {
        let nodes = vec![Inner { name: "a\u{e4}", identifier: u64::MAX }];
        let old = Old { version: 1, nodes, checksum: None }.sealed();
        (folder::json(&old).expect("JSON"), old.checksum)
    }

    #[test]
    fn a_manifest_tells_whether_it_is_what_was_written() {
        let (text, checksum) = written();
        let is_whole = |text: &str| is_as_written(text.as_bytes(), checksum.as_deref());
        assert!(is_whole(&text));
        for (from, to) in [("1,", "2,"), ("a\u{e4}", "b"), ("name", "nam"), ("}", ", \"x\": 1}")] {
            assert!(text.contains(from));
            assert!(!is_whole(&text.replacen(from, to, 1)), "{from}");
        }
        assert!(!is_whole(&text.replace(": ", ":")), "who writes it anew, has it written by hand");
        assert!(is_as_written(text.replace("1,", "2,").as_bytes(), None));
    }

    /// What a release adds has no part in the sum of what another one wrote: that one's file decides.
    #[test]
    fn the_checksum_is_that_of_the_file() {
        let (text, checksum) = written();
        let of_another = text.replace("  \"version\": 1,", "  \"version\": 1,\n  \"later\": [],");
        let unsealed = of_another.replace(&format!("\"{}\"", checksum.expect("a sum")), "null");
        let sum = super::sum(&[&unsealed]);
        let sealed = unsealed.replace("null", &format!("\"{sum}\""));
        assert!(is_as_written(sealed.as_bytes(), Some(&sum)), "{sealed}");
        // By sha256sum, of the same text written by hand.
        let by_hand = "fae6877e1b31ccacf2b6d1c3ddaecc47ae56676f82736e810d7cd6ccfb5e85b6";
        assert_eq!(written().1.as_deref(), Some(by_hand));
    }
}
