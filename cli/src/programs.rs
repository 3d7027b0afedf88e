//! PostgreSQL's own programs: in the directory that was named, else in PATH, else where `pg_config` says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The path of one of them.
pub fn find(name: &str, bindir: Option<&Path>) -> PathBuf {
    if let Some(bindir) = bindir {
        return bindir.join(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    in_path.or_else(|| by_pg_config(name)).unwrap_or_else(|| name.into())
}

fn by_pg_config(name: &str) -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(folder.trim()).join(name)).filter(|path| path.is_file())
}
