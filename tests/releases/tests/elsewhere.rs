//! Since PostgreSQL 18 an extension may lie outside the server's own folders, where `extension_control_path` and
//! `dynamic_library_path` lead: this one does its work from there, too.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use releases_tests::{major, there};
use test_cluster::{Installation, Result, Server, say};

const OURS: &str = "citus_fence";

fn names(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// Links to all in a folder whose name is wanted.
fn link_all(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    fs::create_dir_all(to).expect("a folder");
    for (name, path) in names(from).into_iter().filter(|(name, _)| wanted(name)) {
        symlink(path, to.join(name)).expect("a link");
    }
}

/// A server of the same files that has everything but this extension, which is in a folder of its own.
fn parted(root: &Path) -> Result<(Installation, PathBuf)> {
    let real = Installation::current()?;
    let other = real.below(&root.join("server"));
    let extension = |installation: &Installation| installation.sharedir().join("extension");
    let is_ours = |name: &str| name.starts_with(OURS);
    fs::create_dir_all(other.bindir()).expect("a folder");
    fs::copy(real.program("postgres"), other.program("postgres")).expect("a copy");
    link_all(real.pkglibdir(), other.pkglibdir(), |name| !is_ours(name));
    link_all(real.sharedir(), other.sharedir(), |name| name != "extension");
    link_all(&extension(real), &extension(&other), |name| !is_ours(name));
    let own = root.join("own");
    link_all(real.pkglibdir(), &own.join("lib"), is_ours);
    link_all(&extension(real), &own.join("share/extension"), is_ours);
    Ok((other, own))
}

#[test]
fn an_extension_in_a_folder_of_its_own_works() -> Result<()> {
    if major(&there("--version")).is_none_or(|release| release < 18) {
        say(
            "skipped: an extension in a folder of its own: before PostgreSQL 18 there is no such thing",
        );
        return Ok(());
    }
    let root = tempfile::tempdir().expect("a folder");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let (other, own) = parted(root.path())?;
    let server = |name: &str| Server::builder(name).installation(&other);
    // The control: it is not among the server's own files.
    let without = server("without").start()?;
    let error = without.execute("CREATE EXTENSION citus_fence").expect_err("no such extension");
    assert_eq!(error.sqlstate(), Some("0A000"), "{error}");

    let control = format!("{}:$system", own.join("share").display());
    let libraries = format!("{}:$libdir", own.join("lib").display());
    for preload in [true, false] {
        let mut builder = server("elsewhere")
            .setting("extension_control_path", &control)
            .setting("dynamic_library_path", &libraries);
        if preload {
            builder = builder.preload(OURS);
        }
        let node = builder.start()?;
        node.execute("CREATE EXTENSION citus_fence VERSION '0.1.0'")?;
        node.execute("ALTER EXTENSION citus_fence UPDATE; DROP EXTENSION citus_fence")?;
        node.execute("CREATE EXTENSION citus_fence; CREATE TABLE t (n int)")?;
        if preload {
            node.execute("SELECT alter_system_read_only()")?;
            let refused = node.execute("INSERT INTO t VALUES (1)").expect_err("it is read-only");
            assert_eq!(refused.sqlstate(), Some("25006"), "{refused}");
            node.execute("SELECT alter_system_read_write()")?;
        }
        node.execute("INSERT INTO t VALUES (1)")?;
    }
    Ok(())
}
