//! The directory of a backup or a dump: empty before, whole or empty afterwards.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::durable;
use crate::failure::Failure;

/// A directory that is being filled. Dropped before [`Folder::keep`] it is emptied again.
pub struct Folder {
    pub path: PathBuf,
    /// It was not there before.
    made: bool,
    keep: bool,
}

impl Folder {
    /// Makes it, or takes an empty one.
    pub fn claim(dir: &Path) -> Result<Folder, Failure> {
        let made = match private(dir) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Failure::Directory {
                    dir: dir.display().to_string(),
                    what: "the directory above it does not exist".to_owned(),
                    todo: "Make that one first.",
                });
            }
            Err(error) => return Err(failed("make", dir, error)),
        };
        // The links to tablespaces need a whole path.
        let path = dir.canonicalize().map_err(|error| failed("find", dir, error))?;
        let mut folder = Folder { path, made, keep: !made };
        // Now, before hours of work: where this may not be done, nothing is lost by it.
        if let (true, Some(parent)) = (made, folder.path.parent()) {
            sync(parent)?;
        }
        let mut entries = fs::read_dir(&folder.path).map_err(|error| failed("read", dir, error))?;
        if entries.next().is_some() {
            return Err(Failure::Directory {
                dir: dir.display().to_string(),
                what: "it is not empty".to_owned(),
                todo: "Name a directory that does not exist, or is empty: nothing is ever overwritten. What a run that \
                       was killed has left there has no manifest.json, and can be removed.",
            });
        }
        folder.keep = false;
        Ok(folder)
    }

    /// Makes a directory in it.
    pub fn make(&self, path: &Path) -> Result<(), Failure> {
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .recursive(true)
            .create(path)
            .map_err(|error| failed("make", path, error))
    }

    /// It is whole: nothing of it goes away any more.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let emptied = match self.made {
            true => fs::remove_dir_all(&self.path),
            false => empty(&self.path),
        };
        if let Err(error) = emptied {
            // Without a manifest it is no backup, so nobody takes it for one.
            tracing::error!("could not empty {}: {error}", self.path.display());
        }
    }
}

fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The size of everything below; links are not followed.
pub fn size(path: &Path) -> Result<u64, Failure> {
    let look = |path: &Path| -> io::Result<(Vec<PathBuf>, u64)> {
        let (mut folders, mut bytes) = (Vec::new(), 0);
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let data = entry.metadata()?;
            match data.is_dir() {
                true => folders.push(entry.path()),
                false => bytes += data.len(),
            }
        }
        Ok((folders, bytes))
    };
    let (mut folders, mut bytes) = (vec![path.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        let (more, here) = look(&folder).map_err(|error| failed("read", &folder, error))?;
        folders.extend(more);
        bytes += here;
    }
    Ok(bytes)
}

/// Brings the names in a directory to disk.
pub fn sync(path: &Path) -> Result<(), Failure> {
    durable::sync_directory(path).map_err(|error| failed("sync", path, error))
}

/// What a file of JSON has.
pub fn json<T: Serialize>(value: &T) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Writes a file of JSON, whole or not at all.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    json(value)
        .map_err(io::Error::from)
        .and_then(|text| durable::write(path, text.as_bytes()))
        .map_err(|error| failed("write", path, error))
}

pub fn failed(what: &'static str, path: &Path, error: io::Error) -> Failure {
    Failure::File { what, path: path.display().to_string(), error }
}
