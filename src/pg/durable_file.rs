//! A small file that is there whole or not at all, after a crash at any moment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

use pgrx::pg_sys;

/// A file in the data directory, in which every process of the server works.
#[derive(Clone, Copy, Debug)]
pub struct DurableFile {
    /// Its name.
    pub name: &'static str,
    /// What it is called while it is written.
    pub temporary: &'static str,
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

    fn write_temporary(self, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.temporary)?;
        file.write_all(text.as_bytes())?;
        sync(&file)
    }
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
