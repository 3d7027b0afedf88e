//! What keeps a copy from being started by anybody but this program before nothing in it leads to production any more.
//!
//! A copy as it was made has production's settings, libraries and `pg_dist_node`: whoever starts it, a service of the
//! system say, has it finish two-phase commits on production and call production's nodes. So, from the first moment to the
//! last: its `postgresql.conf` has another name, and its `postgresql.auto.conf`, which every server of the directory reads
//! whatever configuration it is given, is one that no server starts with. That one has to go for as long as this program's
//! own server runs, and then nobody else's starts there.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::fault::{At, Fault};
use crate::durable;

/// What ALTER SYSTEM has set in production.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// Where that is kept: nothing of it may count before this program says so.
pub const FORMER_AUTO_CONF: &str = "postgresql.auto.conf.before-restore";
/// Production's configuration, where it is in the data directory.
const CONF: &str = "postgresql.conf";
/// The same, until the copy may be started.
const KEPT_CONF: &str = "postgresql.conf.during-restore";

/// A file that the server refuses, at the line that is no setting.
const CLOSED: &str = "# This copy still knows production's addresses and would act there. Do not start it.\n\
    # Run the same citus-fence restore again: it goes on, and puts the right file here.\n\
    this_copy_is_not_restored_yet\n";

/// The name under which a file of a copy is kept.
pub fn kept_as(name: &OsStr) -> OsString {
    match name.to_str() {
        Some(AUTO_CONF) => FORMER_AUTO_CONF.into(),
        Some(CONF) => KEPT_CONF.into(),
        _ => name.to_owned(),
    }
}

/// The same of files that are there. Once: what is there at a second time is this program's.
pub fn set_former_aside(data: &Path) -> Result<(), Fault> {
    for name in [AUTO_CONF, CONF] {
        let path = data.join(name);
        if fs::read_to_string(&path).is_ok_and(|text| text == CLOSED) {
            continue;
        }
        match fs::rename(&path, data.join(kept_as(OsStr::new(name)))) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).at("rename", &path);
            }
            _ => {}
        }
    }
    durable::sync_directory(data).at("sync", data)
}

/// Has no server start here.
pub fn close(data: &Path) -> Result<(), Fault> {
    let path = data.join(AUTO_CONF);
    durable::write_as_server(&path, CLOSED.as_bytes()).at("write", &path)
}

/// Lets this program's own server start. When it is dropped, nobody's does any more.
pub struct Open<'a>(&'a Path);

/// Opens it.
pub fn open(data: &Path) -> Result<Open<'_>, Fault> {
    let path = data.join(AUTO_CONF);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("remove", &path),
        _ => Ok(Open(data)),
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Err(error) = close(self.0) {
            // Its postgresql.conf is still away.
            tracing::error!("{error}");
        }
    }
}

/// Gives the copy its configuration back, unless somebody has put another one there.
pub fn give_conf_back(data: &Path) -> Result<(), Fault> {
    let (kept, path) = (data.join(KEPT_CONF), data.join(CONF));
    if !kept.exists() || path.exists() {
        return Ok(());
    }
    fs::rename(&kept, &path).at("rename", &kept)?;
    durable::sync_directory(data).at("sync", data)
}
