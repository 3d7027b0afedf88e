//! Which user of the operating system the servers run as. PostgreSQL refuses to run as root, so
//! root's servers run as the user `postgres`; everyone else's run as themselves.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::unistd::{User, geteuid};

use crate::error::{Error, IoContext, Result};

/// The user that takes root's place.
const SERVER_USER: &str = "postgres";

/// The ids to change to before a server program is executed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OsUser {
    uid: u32,
    gid: u32,
}

impl OsUser {
    /// The user to change to, or `None` when the servers run as the current one.
    pub(crate) fn to_become() -> Result<Option<OsUser>> {
        static LOOKED_UP: OnceLock<std::result::Result<Option<OsUser>, String>> = OnceLock::new();
        LOOKED_UP
            .get_or_init(|| {
                if !geteuid().is_root() {
                    return Ok(None);
                }
                match User::from_name(SERVER_USER) {
                    Ok(Some(user)) => Ok(Some(OsUser {
                        uid: user.uid.as_raw(),
                        gid: user.gid.as_raw(),
                    })),
                    Ok(None) => Err(format!(
                        "PostgreSQL does not run as root, and there is no user {SERVER_USER} to run it as"
                    )),
                    Err(errno) => Err(format!("cannot look up the user {SERVER_USER}: {errno}")),
                }
            })
            .clone()
            .map_err(Error::Environment)
    }
}

/// Makes `command` run as the servers' user.
pub fn run_as_server_user(command: &mut Command) -> Result<()> {
    if let Some(user) = OsUser::to_become()? {
        command.uid(user.uid).gid(user.gid);
    }
    Ok(())
}

/// Gives one file or folder to the servers' user.
pub(crate) fn give_to_server_user(path: &Path) -> Result<()> {
    match OsUser::to_become()? {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)).at("cannot give away", path),
        None => Ok(()),
    }
}

/// Gives a whole tree to the servers' user.
pub fn give_tree_to_server_user(root: &Path) -> Result<()> {
    let Some(user) = OsUser::to_become()? else {
        return Ok(());
    };
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path).at("cannot look at", &path)?;
        if metadata.uid() != user.uid && !metadata.is_symlink() {
            give_to_server_user(&path)?;
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).at("cannot list", &path)? {
                pending.push(entry.at("cannot list", &path)?.path());
            }
        }
    }
    Ok(())
}
