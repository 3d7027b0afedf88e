//! The folder that a cluster, or a lone server, keeps everything in. It goes away with its owner,
//! also when the test panics. A test process that is killed leaves its folder behind; the next one
//! finds it by its lock, which died with the owner, and clears it away.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::error::{IoContext, Result};
use crate::os_user::give_to_server_user;
use crate::process::{processes_in, signal};

/// Short, because the path of a Unix socket may only have 107 bytes.
const PREFIX: &str = "cf-";

/// The longest path of a temporary folder that leaves room for the sockets' names.
const LONGEST_TEMP_DIR: usize = 40;

/// A file that its owner holds a lock on while it lives.
const OWNER_FILE: &str = "owner";

/// Keep the folders and say where they are.
const KEEP_VARIABLE: &str = "CITUS_FENCE_KEEP";

/// A temporary folder that the servers' user can use.
#[derive(Debug)]
pub(crate) struct RootDir {
    path: PathBuf,
    /// `None` once it was given up, to be kept.
    directory: Option<TempDir>,
    _owner: File,
}

impl RootDir {
    pub(crate) fn create() -> Result<RootDir> {
        static SWEPT: Once = Once::new();
        let parent = parent();
        SWEPT.call_once(|| sweep(&parent));

        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .at("cannot make a temporary folder in", &parent)?;
        let path = directory.path().to_owned();
        // Set on its own, as a mode given at creation is subject to the caller's umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .at("cannot open up", &path)?;
        give_to_server_user(&path)?;
        // Locked under another name first: no other process may ever see it without its lock.
        let draft = path.join("owner.draft");
        let owner = File::create(&draft).at("cannot create", &draft)?;
        owner.lock().at("cannot lock", &draft)?;
        fs::rename(&draft, path.join(OWNER_FILE)).at("cannot rename", &draft)?;
        Ok(RootDir { path, directory: Some(directory), _owner: owner })
    }

    /// Makes a folder in it that belongs to the servers' user and is closed to others, as a data
    /// directory has to be.
    pub(crate) fn private_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).at("cannot create", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).at("cannot close", &path)?;
        give_to_server_user(&path)?;
        Ok(path)
    }
}

impl Drop for RootDir {
    fn drop(&mut self) {
        if std::env::var_os(KEEP_VARIABLE).is_some_and(|value| value == "1")
            && let Some(directory) = self.directory.take()
        {
            let kept = directory.keep();
            // Without this file no later process takes it for a leftover.
            let _ = fs::remove_file(kept.join(OWNER_FILE));
            say(&format!("kept for a look: {}", kept.display()));
        }
    }
}

/// A line for whoever runs the tests. Written straight to the stream, since the test runner hides
/// what `eprintln!` prints in tests that pass.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn parent() -> PathBuf {
    let usual = std::env::temp_dir();
    if usual.as_os_str().len() <= LONGEST_TEMP_DIR { usual } else { PathBuf::from("/tmp") }
}

/// Clears away what killed test processes left. Whatever cannot be read or removed belongs to
/// someone else and is left alone.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let root = entry.path();
        let Ok(owner) = File::open(root.join(OWNER_FILE)) else {
            continue;
        };
        match owner.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
        }
        for server in fs::read_dir(&root).into_iter().flatten().flatten() {
            // Their postmaster is gone or going; a server that was frozen needs the push.
            for process in processes_in(&server.path().join("data")) {
                let _ = signal(process.pid, Signal::SIGKILL);
            }
        }
        let _ = fs::remove_dir_all(&root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_away_with_its_owner() -> Result<()> {
        let root = RootDir::create()?;
        let path = root.path.clone();
        root.private_folder("inner")?;
        assert!(path.join("inner").is_dir());
        drop(root);
        assert!(!path.exists() || std::env::var_os(KEEP_VARIABLE).is_some());
        Ok(())
    }

    #[test]
    fn a_sweep_takes_only_what_has_no_owner() -> Result<()> {
        let parent = tempfile::tempdir().at("cannot make", "a temporary folder")?;
        let owned = parent.path().join("cf-owned");
        let orphaned = parent.path().join("cf-orphaned");
        let unmarked = parent.path().join("cf-unmarked");
        for path in [&owned, &orphaned, &unmarked] {
            fs::create_dir(path).at("cannot create", path)?;
        }
        let lock = File::create(owned.join(OWNER_FILE)).at("cannot create", &owned)?;
        lock.lock().at("cannot lock", &owned)?;
        File::create(orphaned.join(OWNER_FILE)).at("cannot create", &orphaned)?;

        sweep(parent.path());

        assert!(owned.exists());
        assert!(!orphaned.exists());
        assert!(unmarked.exists());
        Ok(())
    }
}
