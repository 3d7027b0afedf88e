//! Copying data directories file by file.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::control_file;
use crate::error::{Error, IoContext, Result};
use crate::os_user::give_tree_to_server_user;
use crate::wait::{PATIENCE, wait_until};

/// How often a copy of a running server is made again.
const COPY_TRIES: usize = 5;

/// Copies a folder that nobody writes to.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_folder(from, to, &mut |_| true, Vanished::IsAnError)
}

/// Copies the data directory of a *running* server without telling it, in an order that makes the
/// copy recoverable, as the snapshot of a disk is:
///
/// 1. `pg_control` first. Recovery begins at the checkpoint it names, so every page that was changed
///    after that checkpoint is repaired from the WAL, however torn it was copied. Were it copied
///    later, a checkpoint in between would promise pages that had been copied before they were
///    written.
/// 2. Everything else, in any order. Files may vanish and grow meanwhile.
/// 3. `pg_wal` last, so that it covers all that the files show.
///
/// A disk snapshot takes no time; this does, and the server may remove WAL meanwhile that the copy
/// needs. It is then made again, as it is noticed: WAL files go in order, so if the oldest one that
/// is needed is still there in the end, none was missed.
pub(crate) fn copy_running(data: &Path, to: &Path) -> Result<()> {
    let tablespaces = data.join("pg_tblspc");
    let has_tablespaces =
        fs::read_dir(&tablespaces).at("cannot list", &tablespaces)?.next().is_some();
    let wal = data.join("pg_wal");
    if has_tablespaces || fs::symlink_metadata(&wal).is_ok_and(|wal| wal.is_symlink()) {
        return Err(Error::Environment(format!(
            "{} reaches outside of itself (a tablespace, or pg_wal elsewhere); its files alone are no copy",
            data.display()
        )));
    }
    if to.exists() {
        return Err(Error::Environment(format!("{} exists already", to.display())));
    }
    for _ in 0..COPY_TRIES {
        if copy_running_once(data, to)? {
            return give_tree_to_server_user(to);
        }
        fs::remove_dir_all(to).at("cannot remove", to)?;
    }
    Err(Error::Environment(format!(
        "WAL that a copy of {} needs was removed while it was made, {COPY_TRIES} times",
        data.display()
    )))
}

/// Returns whether the copy has all the WAL it needs.
fn copy_running_once(data: &Path, to: &Path) -> Result<bool> {
    let wal = data.join("pg_wal");
    let control = control_file::path_in(data);
    let control_bytes = wait_until("a whole pg_control", PATIENCE, || {
        let bytes = fs::read(&control).ok()?;
        control_file::is_whole(&bytes).then_some(bytes)
    })?;
    copy_folder(data, to, &mut |path| path != wal && path != control, Vanished::IsFine)?;
    copy_folder(&wal, &to.join("pg_wal"), &mut |_| true, Vanished::IsFine)?;
    let copied_control = control_file::path_in(to);
    fs::write(&copied_control, &control_bytes).at("cannot write", &copied_control)?;
    Ok(control_file::oldest_needed_wal(&control_bytes)
        .is_some_and(|oldest| wal.join(oldest).exists()))
}

/// What a file that is gone before it could be opened means.
#[derive(Clone, Copy, PartialEq)]
enum Vanished {
    IsFine,
    IsAnError,
}

fn copy_folder(
    from: &Path,
    to: &Path,
    wanted: &mut impl FnMut(&Path) -> bool,
    vanished: Vanished,
) -> Result<()> {
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = pending.pop() {
        let gone =
            |error: &io::Error| vanished == Vanished::IsFine && error.kind() == ErrorKind::NotFound;
        let entries = match fs::read_dir(&from) {
            Err(error) if gone(&error) => continue,
            entries => entries.at("cannot list", &from)?,
        };
        make_folder(&from, &to, gone)?;
        for entry in entries {
            let entry = entry.at("cannot list", &from)?;
            let source = entry.path();
            if !wanted(&source) {
                continue;
            }
            let target = to.join(entry.file_name());
            let kind = match entry.file_type() {
                Err(error) if gone(&error) => continue,
                kind => kind.at("cannot look at", &source)?,
            };
            if kind.is_dir() {
                pending.push((source, target));
            } else if kind.is_file() {
                match copy_file(&source, &target) {
                    Err(error) if gone(&error) => {}
                    outcome => outcome.at("cannot copy", &source)?,
                }
            }
        }
    }
    Ok(())
}

fn make_folder(like: &Path, path: &Path, gone: impl Fn(&io::Error) -> bool) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).at("cannot create", path);
        }
        _ => {}
    }
    // PostgreSQL refuses a data directory that others can read.
    match fs::metadata(like) {
        Err(error) if gone(&error) => Ok(()),
        metadata => {
            let permissions = metadata.at("cannot look at", like)?.permissions();
            fs::set_permissions(path, permissions).at("cannot set the mode of", path)
        }
    }
}

/// Opens the source before it makes the target, so that a vanished file leaves no empty one behind.
fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    let permissions = from.metadata()?.permissions();
    let mut to = File::create(target)?;
    to.set_permissions(permissions)?;
    io::copy(&mut from, &mut to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory whose last checkpoint needs the WAL file 000000010000000000000002.
    fn data_directory(folder: &Path) -> Result<PathBuf> {
        let data = folder.join("data");
        for inner in ["global", "pg_tblspc", "pg_wal", "base"] {
            let path = data.join(inner);
            fs::create_dir_all(&path).at("cannot create", &path)?;
        }
        let mut control = vec![0u8; 8192];
        control[40..48].copy_from_slice(&(2u64 << 24).to_ne_bytes());
        control[48..52].copy_from_slice(&1u32.to_ne_bytes());
        let checksum = crc32c::crc32c(&control[..296]);
        control[296..300].copy_from_slice(&checksum.to_ne_bytes());
        let path = control_file::path_in(&data);
        fs::write(&path, control).at("cannot write", &path)?;
        Ok(data)
    }

    #[test]
    fn a_copy_without_the_wal_it_needs_is_refused() -> Result<()> {
        let folder = tempfile::tempdir().at("cannot make", "a temporary folder")?;
        let data = data_directory(folder.path())?;
        let copy = folder.path().join("copy");
        let refused = copy_running(&data, &copy).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.contains("WAL that a copy")));
        assert!(!copy.exists());

        let wal = data.join("pg_wal").join("000000010000000000000002");
        fs::write(&wal, "wal").at("cannot write", &wal)?;
        copy_running(&data, &copy)?;
        assert!(copy.join("pg_wal").join("000000010000000000000002").exists());
        assert!(control_file::path_in(&copy).exists());
        assert!(copy_running(&data, &copy).is_err());
        Ok(())
    }
}
