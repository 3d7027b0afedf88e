//! How far a node has come, in a file in its data directory, so that the same call goes on after any interruption.
//!
//! ```text
//! Copying ──> Copied ──> Reached ──> Promoting ──> Rewritten ──> Prepared
//!                 └────────(no point)────────────────^
//! ```
//! A stage is written before what it allows begins: who finds `Copying` may throw the directory's contents away, who
//! finds `Promoting` must not ask for recovery from the archive again unless the control file is still in recovery.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fault::{At, Fault};
use crate::durable;

/// Its name.
pub const FILE: &str = "citus_fence.restore";

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its files are being copied.
    Copying,
    /// They are there, and nothing has been started on them, or the first start was interrupted.
    Copied,
    /// It has reached the point, and is shut down in recovery.
    Reached,
    /// It may have been promoted.
    Promoting,
    /// Nothing in it leads to production any more.
    Rewritten,
    /// It is ready to be started.
    Prepared,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub restore_id: String,
    pub group: i32,
    pub stage: Stage,
    /// The private directory of the first start.
    pub private: Option<PathBuf>,
    /// A first start of it was begun.
    #[serde(default)]
    pub started: bool,
    /// It was found to end under the block, when its recovery had just ended: afterwards nobody can tell any more.
    #[serde(default)]
    pub in_time: bool,
    /// A superuser of it.
    #[serde(default)]
    pub superuser: Option<String>,
    /// Its databases that take no connections, and have been opened for the time of the rewriting.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Where its tablespaces are being copied to: nothing else is ever thrown away.
    #[serde(default)]
    pub tablespaces: Vec<PathBuf>,
    /// What was found and changed, for the report.
    pub found: Vec<String>,
    /// What was found of the configuration of the next start, which is not kept.
    #[serde(skip)]
    pub of_configuration: Vec<String>,
}

impl Progress {
    /// The file of a directory, if it has one.
    pub fn read(data: &Path) -> Result<Option<Progress>, Fault> {
        let path = data.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.at("read", &path)?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(std::io::Error::from).at("read", &path)
    }

    /// Writes it: whole and on disk, or the former one stays. What a restore that was killed has left of one goes: this
    /// one has the directory to itself.
    pub fn write(&self, data: &Path) -> Result<(), Fault> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::from).at("write", data)?;
        let path = data.join(FILE);
        durable::remove_drafts(data).at("clear", data)?;
        durable::write_as_server(&path, &text).at("write", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_and_stages_have_an_order() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Progress::read(directory.path()).expect("no file"), None);
        let progress = Progress {
            restore_id: "x".into(),
            group: 1,
            stage: Stage::Reached,
            private: None,
            started: false,
            in_time: false,
            superuser: None,
            closed: Vec::new(),
            tablespaces: Vec::new(),
            found: vec!["y".into()],
            of_configuration: Vec::new(),
        };
        progress.write(directory.path()).expect("written");
        assert_eq!(Progress::read(directory.path()).expect("read"), Some(progress));
        assert!(Stage::Copied < Stage::Reached && Stage::Promoting < Stage::Rewritten);
        fs::write(directory.path().join(FILE), "{").expect("a file");
        assert!(Progress::read(directory.path()).is_err());
    }
}
