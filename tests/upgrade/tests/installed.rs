//! Installing over what is there: what servers have mapped stays as it is.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

fn put(directory: &Path, file: &Path) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/put");
    let run = Command::new(script).arg("755").arg(directory).arg(file).output();
    run.expect("the script runs").status.success()
}

fn two_directories() -> (TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().expect("a directory");
    let (from, to) = (root.path().join("from"), root.path().join("to"));
    fs::create_dir(&from).expect("a directory");
    fs::create_dir(&to).expect("a directory");
    fs::write(from.join("library.so"), "new").expect("a file");
    fs::write(to.join("library.so"), "old").expect("a file");
    (root, from.join("library.so"), to)
}

#[test]
fn who_has_the_old_file_open_keeps_it_and_the_next_gets_the_new_one() {
    let (_root, file, to) = two_directories();
    let place = to.join("library.so");
    let mut open = File::open(&place).expect("the old file");
    let old = open.metadata().expect("an inode").ino();
    assert!(put(&to, &file));
    let mut seen = String::new();
    open.read_to_string(&mut seen).expect("its bytes");
    assert_eq!(seen, "old");
    assert_eq!(fs::read_to_string(&place).expect("the new file"), "new");
    let new = fs::metadata(&place).expect("an inode");
    assert_ne!(new.ino(), old);
    assert_eq!(new.permissions().mode() & 0o777, 0o755);
    // The control: a plain copy writes over what is mapped.
    let mut open = File::open(&place).expect("the file");
    fs::write(&file, "newer").expect("a file");
    fs::copy(&file, &place).expect("a copy");
    let mut seen = String::new();
    open.read_to_string(&mut seen).expect("its bytes");
    assert_eq!(seen, "newer");
}

#[test]
fn what_cannot_be_put_leaves_what_was_there_and_nothing_else() {
    let (_root, file, to) = two_directories();
    assert!(!put(&to, &file.with_file_name("missing.so")));
    assert!(!put(&file, &file));
    assert_eq!(fs::read_to_string(to.join("library.so")).expect("the old file"), "old");
    assert_eq!(fs::read_dir(&to).expect("a directory").count(), 1);
}
