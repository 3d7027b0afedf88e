//! Files that are whole and on disk when the call returns: a crash of the machine leaves the former one, or the new one.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What the names of files begin with that are not whole yet: a program that is killed leaves one behind.
const DRAFT: &str = ".citus_fence.draft.";

/// Whether that is the name of one.
pub fn is_draft(name: &OsStr) -> bool {
    name.as_bytes().starts_with(DRAFT.as_bytes())
}

/// Removes those that were left behind in a directory, where nobody else writes to it.
pub fn remove_drafts(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_draft(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Puts a file in place of a former one, readable by its owner alone. On an error the former one stays.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    write_with(path, contents, 0o600)
}

/// The same in a server's data directory: readable by the group as well where the directory is, as the server's own are.
pub fn write_as_server(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().map(fs::metadata).transpose()?;
    let is_for_group = folder.is_some_and(|folder| folder.permissions().mode() & 0o040 != 0);
    write_with(path, contents, if is_for_group { 0o640 } else { 0o600 })
}

fn write_with(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder)?;
    draft.as_file().set_permissions(Permissions::from_mode(mode))?;
    draft.write_all(contents)?;
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    sync_directory(folder)
}

/// Brings the names in a directory to disk.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|directory| directory.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_of_a_file_is_known_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(folder.path());
        let (_, left) = draft.expect("a draft").keep().expect("left");
        assert!(is_draft(left.file_name().expect("a name")));
        write(&folder.path().join("whole"), b"x").expect("written");
        remove_drafts(folder.path()).expect("removed");
        let names = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("one"));
        assert_eq!(names.map(|entry| entry.file_name()).collect::<Vec<_>>(), ["whole"]);
    }

    #[test]
    fn a_former_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        for contents in ["a long former one", "new"] {
            write(&path, contents.as_bytes()).expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), contents);
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        assert!(write(&folder.path().join("missing/f"), b"").is_err());
        // A directory is in the way: the draft goes again.
        fs::create_dir(folder.path().join("d")).expect("a directory");
        assert!(write(&folder.path().join("d"), b"").is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
        for (of_folder, of_file) in [(0o700, 0o600), (0o750, 0o640)] {
            let mode = Permissions::from_mode(of_folder);
            fs::set_permissions(folder.path(), mode).expect("its mode");
            write_as_server(&path, b"x").expect("written");
            let mode = fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, of_file);
        }
    }
}
