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

/// A manifest that tells whether it is what was written, by SHA-256 over all of it but that. Fields are written in the
/// order in which they are declared, so that equal ones give equal texts.
pub trait Sealed: Clone + Serialize {
    /// Its checksum; none in one that was written by hand.
    fn checksum(&mut self) -> &mut Option<String>;

    /// With its checksum.
    fn sealed(mut self) -> Self {
        *self.checksum() = None;
        let text = serde_json::to_vec(&self).unwrap_or_default();
        let sum = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        *self.checksum() = Some(sum);
        self
    }

    /// Whether it is what was written.
    fn is_as_written(&self) -> bool {
        let mut own = self.clone();
        let mut again = self.clone().sealed();
        own.checksum().is_none() || own.checksum() == again.checksum()
    }
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
