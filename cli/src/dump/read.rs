//! A dump that is there: what is in it, and whether it is whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use super::error::DumpError;
use super::file::{at, measure_unless};
use super::manifest::{DUMP, Dump, VERSION};
use crate::side_by_side::side_by_side;

/// The manifest of a dump. An error where there is none, or one of another format or version.
pub fn list(dir: &Path) -> Result<Dump, DumpError> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        version: u32,
    }
    let no_dump = |why: String| DumpError::NoDump { dir: dir.to_owned(), why };
    let path = dir.join(crate::manifest::FILE);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => no_dump(
            "no dump is here, or one that was never completed: it has no manifest.json".to_owned(),
        ),
        _ => at(&path)(error),
    })?;
    let head: Head = serde_json::from_str(&text)
        .map_err(|error| no_dump(format!("its manifest.json cannot be read: {error}")))?;
    if head.format != DUMP || head.version != VERSION {
        return Err(no_dump(format!(
            "it is a \"{}\" of version {}, and this program reads a \"{DUMP}\" of version {VERSION}",
            head.format, head.version
        )));
    }
    let dump: Dump = serde_json::from_str(&text)
        .map_err(|error| no_dump(format!("its manifest.json cannot be read: {error}")))?;
    if !crate::manifest::is_as_written(text.as_bytes(), dump.checksum.as_deref()) {
        return Err(no_dump(
            "its manifest.json is not what was written: its checksum is another".to_owned(),
        ));
    }
    if !dump.stays_below() {
        return Err(no_dump("a path in its manifest.json leads out of the directory".to_owned()));
    }
    Ok(dump)
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// How many files were read, and how large they are.
    pub files: usize,
    pub bytes: u64,
    /// A sentence for each file that is missing or not what was written.
    pub damaged: Vec<String>,
}

/// Reads every file of a dump, and compares size and hash with the manifest's.
pub fn verify(dir: &Path) -> Result<Verified, DumpError> {
    verify_unless(dir, &|| false)
}

/// The same, given up as soon as somebody is told to; then what was not read is told as damaged. As many files are
/// read at a time as there are processors.
pub fn verify_unless(dir: &Path, told: &(dyn Fn() -> bool + Sync)) -> Result<Verified, DumpError> {
    let dump = list(dir)?;
    let schema = dump.schema.iter().map(|file| (&file.path, file.bytes, &file.sha256));
    let data = dump.files.iter().map(|file| (&file.path, file.stored_bytes, &file.sha256));
    let files: Vec<_> = schema.chain(data).collect();
    let readers = thread::available_parallelism().map_or(1, usize::from);
    let ends = side_by_side(
        readers,
        &files,
        || (),
        |file, ()| Ok::<_, DumpError>(verify_file(dir, *file, told)),
    )?;
    let mut found = Verified { files: 0, bytes: 0, damaged: Vec::new() };
    for end in ends {
        match end {
            Ok(size) => {
                found.files += 1;
                found.bytes += size;
            }
            Err(why) => found.damaged.push(why),
        }
    }
    Ok(found)
}

/// Reads a file; its size, or what is wrong with it.
fn verify_file(
    dir: &Path,
    (path, bytes, sha256): (&PathBuf, u64, &String),
    told: &dyn Fn() -> bool,
) -> Result<u64, String> {
    let name = path.display();
    let path = dir.join(path);
    // A link may lead anywhere.
    let is_file = fs::symlink_metadata(&path).is_ok_and(|data| data.is_file());
    if !is_file {
        return Err(format!("{name} is missing, or no plain file"));
    }
    match measure_unless(&path, told) {
        Ok((size, _)) if size != bytes => {
            Err(format!("{name} has {size} bytes, and {bytes} were written"))
        }
        Ok((_, hash)) if hash != *sha256 => {
            Err(format!("{name} has its size, and another content than was written"))
        }
        Ok((size, _)) => Ok(size),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
