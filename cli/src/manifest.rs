//! The manifest of a physical backup: `manifest.json` in its directory, written last and put in place whole. A
//! directory without one holds no backup.
//!
//! ```text
//! DIR/manifest.json                     this, readable by its owner alone
//! DIR/nodes/GROUP/data/                 a node's data directory, as pg_basebackup wrote it (plain format)
//! DIR/nodes/GROUP/tablespaces/OID/      its tablespaces; the links in data/pg_tblspc lead here
//! DIR/nodes/GROUP/config/               its configuration files, which may lie outside of the data directory
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Its file's name.
pub const FILE: &str = "manifest.json";
/// What `format` says in a physical backup.
pub const BACKUP: &str = "citus-fence backup";
/// The field that has the sum of all others.
const CHECKSUM: &str = "checksum";
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

/// A manifest that tells whether it is what was written, by SHA-256 over all of it but that.
pub trait Sealed: Serialize + Sized {
    /// Its checksum; none in one that was written by hand.
    fn checksum(&mut self) -> &mut Option<String>;

    /// With its checksum.
    fn sealed(mut self) -> Self {
        let sum = serde_json::to_value(&self).map(sum).unwrap_or_default();
        *self.checksum() = Some(sum);
        self
    }
}

/// Whether a manifest is what was written. Its text says so, and not what this release reads of it: an older release had
/// fewer fields, a newer one may have more.
pub fn is_as_written(text: &[u8]) -> bool {
    let Ok(manifest) = serde_json::from_slice::<Value>(text) else { return false };
    match manifest.get(CHECKSUM) {
        None | Some(Value::Null) => true,
        Some(said) => *said == sum(manifest.clone()),
    }
}

/// Over the fields in order of their names, without white space.
fn sum(mut manifest: Value) -> String {
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove(CHECKSUM);
    }
    let text = sorted(manifest).to_string();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whatever the order in which a library keeps fields.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> =
                fields.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            fields.into_iter().collect()
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
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

    fn written() -> String {
        let nodes = vec![Inner { name: "a\u{e4}", identifier: u64::MAX }];
        let old = Old { version: 1, nodes, checksum: None };
        serde_json::to_string_pretty(&old.sealed()).expect("JSON")
    }

    #[test]
    fn a_manifest_tells_whether_it_is_what_was_written() {
        let text = written();
        assert!(is_as_written(text.as_bytes()));
        for (from, to) in [("1,", "2,"), ("a\u{e4}", "b"), ("name", "nam"), ("}", ", \"x\": 1}")] {
            assert!(text.contains(from));
            assert!(!is_as_written(text.replacen(from, to, 1).as_bytes()), "{from}");
        }
        let by_hand = text.replace("\"checksum\": ", "\"checksum\": null, \"its\": ");
        assert!(is_as_written(by_hand.as_bytes()) && !is_as_written(b"{"));
    }

    /// What a release has added has no part in the sum of what an older one wrote, nor has the order of fields.
    #[test]
    fn a_manifest_of_another_release_is_read_by_its_own_fields() {
        let text = written();
        let value: BTreeMap<String, Value> = serde_json::from_str(&text).expect("JSON");
        let turned: Vec<String> =
            value.iter().rev().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        assert!(is_as_written(format!("{{{}}}", turned.join(",")).as_bytes()));
        let sum = "594d8d3d208b7896857e2e85fff9560d5b4ebe901a74305ea770be04faf5424b";
        assert_eq!(value[CHECKSUM], sum, "another release would call this one's manifests damaged");
    }
}
