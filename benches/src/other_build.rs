//! The extension as it was at another commit, built and installed beside the one under test: a work tree, a
//! target folder and an installation of PostgreSQL of its own, all below `target/against/`.
//!
//! That installation is made of links to the real one's files.  Only the server program is a copy, since it
//! looks for its libraries and extensions by the way from itself to them, with its own links resolved.  The build
//! under test gets such a tree as well, so that nothing but the builds differs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_cluster::{Error, Installation, Result};

/// What the extension and its embedded catalog install: of these the installation has only its own.
const OURS: [&str; 2] = ["citus_fence", "pg_dist"];

/// This build and another, each in an installation of its own.
pub struct Builds {
    /// What is installed.
    pub new: Installation,
    /// The other commit's.
    pub old: Installation,
}

/// Builds that commit, and makes both installations.
pub fn build(commit: &str) -> Result<Builds> {
    Ok(Builds { old: build_other(commit)?, new: copy_of_this()? })
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder below `target/against/`.
fn place(name: &str) -> Result<PathBuf> {
    let place = project().join("target/against").join(name);
    fs::create_dir_all(&place).map_err(|error| failed("cannot create", &place, &error))?;
    place.canonicalize().map_err(|error| failed("cannot find", &place, &error))
}

fn copy_of_this() -> Result<Installation> {
    let real = Installation::current()?;
    let this = real.below(&place("this")?.join("root"));
    for (from, to) in folders(real, &this) {
        for (name, path) in files(&from)? {
            if is_ours(&name) {
                copy(&path, &to.join(name))?;
            }
        }
    }
    complete(real, &this)?;
    Ok(this)
}

fn build_other(commit: &str) -> Result<Installation> {
    let project = project();
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&project).args(arguments);
        run(&mut git)
    };
    let hash =
        git(&["rev-parse", "--verify", "--end-of-options", &format!("{commit}^{{commit}}")])?;
    let place = place(&hash[..12])?;
    let (tree, root) = (place.join("tree"), place.join("root"));
    if !tree.is_dir() {
        // Forced, for one that `cargo clean` took away is still in git's list.
        let shown = tree.display().to_string();
        git(&["worktree", "add", "--quiet", "--force", "--detach", &shown, &hash])?;
    }

    let real = Installation::current()?;
    println!("building citus_fence as of {} in {}", &hash[..12], tree.display());
    package(real, &tree, &place.join("build"), &root)?;
    let other = real.below(&root);
    for (name, path) in files(&tree.join("sql/pg_dist"))? {
        copy(&path, &extensions(&other).join(name))?;
    }
    complete(real, &other)?;
    Ok(other)
}

/// Has its own cargo build it and lay what it installs below `root`.
fn package(real: &Installation, tree: &Path, build: &Path, root: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    // What the cargo that runs this bench tells its children is meant for this tree.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if (name.starts_with("CARGO_") && name != "CARGO_HOME") || name == "RUSTUP_TOOLCHAIN" {
            cargo.env_remove(variable);
        }
    }
    let major: String = real
        .version()
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    cargo
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", build)
        .args(["pgrx", "package", "--no-default-features", "--features", &format!("pg{major}")])
        .arg("--pg-config")
        .arg(real.program("pg_config"))
        .arg("--out-dir")
        .arg(root);
    run(&mut cargo).map(drop)
}

fn extensions(installation: &Installation) -> PathBuf {
    installation.sharedir().join("extension")
}

/// The folders that a server looks into, and which they are in another installation.
fn folders(real: &Installation, other: &Installation) -> [(PathBuf, PathBuf); 3] {
    [
        (real.pkglibdir().to_owned(), other.pkglibdir().to_owned()),
        (extensions(real), extensions(other)),
        (real.sharedir().to_owned(), other.sharedir().to_owned()),
    ]
}

fn is_ours(name: &str) -> bool {
    OURS.iter().any(|ours| name.starts_with(ours))
}

/// Adds to what is ours all that a server needs besides.
fn complete(real: &Installation, other: &Installation) -> Result<()> {
    for (from, to) in folders(real, other) {
        fs::create_dir_all(&to).map_err(|error| failed("cannot create", &to, &error))?;
        for (name, path) in files(&from)? {
            let link = to.join(&name);
            if is_ours(&name) || link.exists() {
                continue;
            }
            // One whose file has gone meanwhile is still there as a link.
            let _ = fs::remove_file(&link);
            symlink(&path, &link).map_err(|error| failed("cannot link", &link, &error))?;
        }
    }
    copy(&real.program("postgres"), &other.program("postgres"))
}

/// Copies a file into a folder that may have to be made.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).map_err(|error| failed("cannot create", parent, &error))?;
    fs::copy(from, to).map_err(|error| failed("cannot copy to", to, &error)).map(drop)
}

/// What is in a folder.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let list = fs::read_dir(folder).map_err(|error| failed("cannot list", folder, &error))?;
    Ok(list
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect())
}

/// Runs a program to its end; the last line that it prints.
fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .map_err(|error| Error::Environment(format!("cannot run {shown}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Environment(format!("{shown} failed ({}): {said}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned())
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Environment(format!("{what} {}: {error}", path.display()))
}
