//! A small file that is there whole or not at all, after a crash at any moment.

use std::ffi::c_int;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use pgrx::pg_sys;

/// A file in the data directory, in which every process of the server works.
#[derive(Clone, Copy, Debug)]
pub struct DurableFile {
    /// Its name.
    pub name: &'static str,
    /// What it is called while it is written.
    pub temporary: &'static str,
}

/// Where a file lies: a copy of it lies elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of its file system, which the next boot may change.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

impl From<Metadata> for Place {
    fn from(file: Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }
}

/// A step that failed.
#[derive(Debug)]
pub struct Failed {
    /// The step: "could not … file".
    pub what: &'static str,
    /// The file.
    pub file: &'static str,
    /// The operating system's reason.
    pub why: io::Error,
}

impl DurableFile {
    /// Writes it anew, and has it on disk when this returns.
    pub fn write(self, text: &str) -> Result<(), Failed> {
        self.write_what(|_| text.to_owned())
    }

    /// The same for a text that says where the file lies.
    pub fn write_what(self, text: impl FnOnce(Place) -> String) -> Result<(), Failed> {
        step("write", self.temporary, self.write_temporary(text))?;
        step("rename", self.temporary, fs::rename(self.temporary, self.name))?;
        step("sync the directory of", self.name, sync_directory())
    }

    /// Removes it if it is there, and has that on disk when this returns.
    pub fn remove(self) -> Result<(), Failed> {
        step("remove", self.name, remove_if_there(self.name))?;
        step("sync the directory of", self.name, sync_directory())
    }

    /// Removes what a write has left that did not get far enough.
    pub fn forget_unfinished(self) {
        let _ = remove_if_there(self.temporary);
    }

    /// What is in it; `None` where it is not there.
    pub fn read(self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    /// Where it lies.
    pub fn place(self) -> io::Result<Place> {
        fs::metadata(self.name).map(Place::from)
    }

    fn write_temporary(self, text: impl FnOnce(Place) -> String) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(file_mode())
            .open(self.temporary)?;
        // Renaming leaves it where it is.
        let place = file.metadata()?.into();
        file.write_all(text(place).as_bytes())?;
        sync(&file)
    }
}

/// The data directory, by the one path to it that has no links in it.
pub fn directory() -> io::Result<String> {
    Ok(fs::canonicalize(".")?.to_string_lossy().into_owned())
}

/// That of all files in the data directory: its owner's group may be allowed to read them.
fn file_mode() -> u32 {
    unsafe extern "C" {
        static pg_file_create_mode: c_int;
    }
    // SAFETY: a variable of the server, settled before it makes shared memory.
    unsafe { pg_file_create_mode as u32 }
}

fn step(what: &'static str, file: &'static str, result: io::Result<()>) -> Result<(), Failed> {
    result.map_err(|why| Failed { what, file, why })
}

fn sync_directory() -> io::Result<()> {
    sync(&File::open(".")?)
}

/// Where the server itself does without, so does this.
fn sync(file: &File) -> io::Result<()> {
    // SAFETY: a setting, fixed while this runs.
    if unsafe { pg_sys::enableFsync } { file.sync_all() } else { Ok(()) }
}

fn remove_if_there(file: &str) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
