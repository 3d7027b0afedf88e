//! PostgreSQL's own programs: in the directory that was named, else in PATH, else where `pg_config` says.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a command of somebody's cannot be run, as far as that is known without running it.
///
/// The system itself says "permission denied" of a name that is nowhere, if a folder in PATH cannot be read.
pub fn runnable(name: &OsStr) -> io::Result<()> {
    let is_program = |path: &Path| match path.metadata() {
        Ok(data) if data.is_file() => Ok(data.permissions().mode() & 0o111 != 0),
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    };
    if name.as_bytes().contains(&b'/') {
        return match is_program(Path::new(name))? {
            true => Ok(()),
            false => Err(ErrorKind::PermissionDenied.into()),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .filter_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()))
        .filter_map(|path| is_program(&path).ok())
        .max();
    match found {
        Some(true) => Ok(()),
        Some(false) => Err(ErrorKind::PermissionDenied.into()),
        None => Err(ErrorKind::NotFound.into()),
    }
}

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

/// A word as a shell takes it for one.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:,+@%=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_told_from_what_is_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let plain = folder.path().join("plain");
        std::fs::write(&plain, "").expect("a file");
        let kind = |name: &Path| runnable(name.as_os_str()).map_err(|error| error.kind());
        assert_eq!(kind(Path::new("sh")), Ok(()));
        assert_eq!(kind(&plain), Err(ErrorKind::PermissionDenied));
        assert_eq!(kind(folder.path()), Err(ErrorKind::PermissionDenied));
        assert_eq!(kind(&folder.path().join("none")), Err(ErrorKind::NotFound));
        assert_eq!(kind(Path::new("no-such-command-anywhere")), Err(ErrorKind::NotFound));
    }

    #[test]
    fn what_is_told_to_be_run_can_be_pasted() {
        assert_eq!(shell_word("/data/a"), "/data/a");
        for odd in ["my shop", "it's", "$(x)", "", "a;b", "\"q\""] {
            let script = format!("printf %s {}", shell_word(odd));
            let output = std::process::Command::new("sh").args(["-c", &script]).output();
            assert_eq!(String::from_utf8_lossy(&output.expect("a shell").stdout), odd);
        }
    }
}
