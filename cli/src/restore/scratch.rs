//! A directory for copies that nobody keeps, and what a run that was killed has left of one.
//!
//! ```text
//! TEMP/citus-fence-verify-XXXXXX/             locked for as long as its run lives
//!     citus_fence.verify                      where its sockets are
//!     nodes/GROUP/data, nodes/GROUP/tablespaces/OID
//! TMPDIR/citus-fence-XXXXXX/                  sockets, and the configuration of each server
//! ```
//! It goes on every way out. Where the run is killed outright it stays, with its servers, which nobody but their own user
//! reaches: the next run that names the same place ends them and takes it away.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::fault::{At, Fault};
use super::place::try_lock;
use super::stage::Progress;
use super::{first, running};
use crate::durable;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Stop;
use crate::units::size;

/// How its name begins.
const PREFIX: &str = "citus-fence-verify-";
/// How often another directory is made.
const TRIES: usize = 10;
/// What says that it is one.
const MARK: &str = "citus_fence.verify";

/// What stands there.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    sockets: PathBuf,
}

/// One that is in use. Dropped, it is gone.
#[derive(Debug)]
pub struct Scratch {
    root: TempDir,
    /// For sockets, whose paths have to be short.
    sockets: Sockets,
    _lock: Flock<fs::File>,
}

#[derive(Debug)]
struct Sockets(PathBuf);

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::error!("could not remove {}: {error}", self.0.display());
        }
    }
}

/// A new directory, locked; none where another run has taken it for one that was left, and away.
fn begin(temp: &Path) -> Result<Option<(TempDir, Flock<fs::File>)>, Failure> {
    let root = tempfile::Builder::new().prefix(PREFIX).tempdir_in(temp);
    let root = root.at("make a directory in", temp)?;
    match try_lock(root.path()) {
        Ok(Some(lock)) if root.path().exists() => Ok(Some((root, lock))),
        Ok(_) => Ok(None),
        Err(Fault::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other.into()),
    }
}

impl Scratch {
    /// Makes one below a directory.
    pub fn make(temp: &Path) -> Result<Scratch, Failure> {
        let mut made = None;
        for _ in 0..TRIES {
            made = begin(temp)?;
            if made.is_some() {
                break;
            }
        }
        let (root, lock) = made.ok_or_else(|| Failure::Unfit {
            what: format!("other runs take each new directory in {} away", temp.display()),
            todo: "Run the same command again.".into(),
        })?;
        // It is written down before it is there: a run that is killed must leave nothing that nobody knows.
        let name = root.path().file_name().unwrap_or_default().to_string_lossy();
        let parent = std::env::temp_dir();
        let sockets = first::private_path(&parent, name.trim_start_matches(PREFIX))?;
        let text = serde_json::to_vec(&Mark { sockets: sockets.clone() });
        let text = text.map_err(std::io::Error::from);
        let path = root.path().join(MARK);
        text.and_then(|text| durable::write(&path, &text)).at("write", &path)?;
        first::make_private_path(&parent, &sockets)?;
        Ok(Scratch { root, sockets: Sockets(sockets), _lock: lock })
    }

    /// Where the copies go.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where their sockets are.
    pub fn sockets(&self) -> &Path {
        &self.sockets.0
    }

    /// Takes it away, and says if that does not succeed.
    pub fn close(self) -> Result<(), Fault> {
        let path = self.root.path().to_owned();
        self.root.close().at("remove", &path)
    }
}

/// Finds out that a directory has so much room, and tells; what killed runs have left there goes first.
pub fn require_room(temp: &Path, bytes: u64, stop: &Stop, output: &Output) -> Result<(), Failure> {
    clear_left(temp, stop, output)?;
    let free = room(temp)?;
    if free < bytes {
        return Err(Failure::Unfit {
            what: format!(
                "{} has {} free, and a restore of this backup needs {}",
                temp.display(),
                size(free),
                size(bytes)
            ),
            todo: "Make room there, or name another directory with --temp-dir.".into(),
        });
    }
    output.progress(&format!(
        "the restore goes to {}: {} needed, {} free",
        temp.display(),
        size(bytes),
        size(free)
    ));
    Ok(())
}

/// How many bytes this user may still write there.
fn room(temp: &Path) -> Result<u64, Fault> {
    let vfs = statvfs(temp).at("look at", temp)?;
    Ok(vfs.blocks_available().saturating_mul(vfs.fragment_size()))
}

/// Takes away what runs of this user have left there that were killed.
fn clear_left(temp: &Path, stop: &Stop, output: &Output) -> Result<(), Failure> {
    for entry in fs::read_dir(temp).at("read", temp)? {
        let entry = entry.at("read", temp)?;
        let root = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            // Not through a link.
            && fs::symlink_metadata(&root).is_ok_and(|metadata| {
                metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw()
            });
        if !is_ours {
            continue;
        }
        // One that lives has it locked, but for its very first moment, and then makes another.
        let _lock = match try_lock(&root) {
            Ok(Some(lock)) => lock,
            Ok(None) => continue,
            Err(Fault::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
            Err(other) => return Err(other.into()),
        };
        let mark = fs::read(root.join(MARK)).ok();
        let Some(mark) = mark.and_then(|text| serde_json::from_slice::<Mark>(&text).ok()) else {
            // Killed before it had written it; whatever else is there is somebody else's, and stays.
            let _ = durable::remove_drafts(&root).and_then(|()| fs::remove_dir(&root));
            continue;
        };
        let mut privates = Vec::new();
        let nodes = root.join("nodes");
        for node in fs::read_dir(&nodes).into_iter().flatten() {
            let node = node.at("read", &nodes)?;
            let data = node.path().join("data");
            // One that is not whole names no server either: it is written before the start.
            let private =
                Progress::read(&data).ok().flatten().and_then(|progress| progress.private);
            let of_node: Vec<PathBuf> =
                private.into_iter().chain([mark.sockets.join(node.file_name())]).collect();
            running::end_left(&data, &of_node, stop)?;
            privates.extend(of_node);
        }
        privates.push(mark.sockets);
        for private in privates.iter().filter(|path| first::is_private(path)) {
            fs::remove_dir_all(private).at("remove", private)?;
        }
        fs::remove_dir_all(&root).at("remove", &root)?;
        output.progress(&format!(
            "removed {}, which a run that was killed had left, with its servers",
            root.display()
        ));
    }
    Ok(())
}
