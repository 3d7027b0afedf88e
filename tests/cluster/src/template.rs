//! Fresh data directories. `initdb` takes most of a second and its result is the same every time,
//! so it runs once per PostgreSQL version and user, and servers get copies. Copies would share one
//! system identifier, which hides mistakes (a standby that follows the wrong node, a backup taken
//! for another's), so each gets its own.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::geteuid;

use crate::binaries::{Installation, run};
use crate::control_file;
use crate::error::{Error, IoContext, Result};
use crate::files::copy_tree;
use crate::os_user::{give_to_server_user, give_tree_to_server_user};

/// Bumped when what goes into the template changes.
const LAYOUT: u32 = 1;

/// The role that every cluster is set up with.
pub const SUPERUSER: &str = "postgres";

/// Makes a data directory with a system identifier of its own at `data`, which must not exist. initdb gives none above
/// `i64::MAX` before 2038; here half of them are, unless only those `of_today` are wanted.
pub(crate) fn make_data_directory(server: &str, data: &Path, of_today: bool) -> Result<()> {
    let installation = Installation::current()?;
    copy_tree(template()?, data)?;
    let highest = if of_today { i64::MAX.cast_unsigned() } else { u64::MAX };
    control_file::set_system_identifier(data, fastrand::u64(1..highest))?;
    give_tree_to_server_user(data)?;
    run(server, None, installation.command("pg_resetwal")?.arg("-f").arg("-D").arg(data))?;
    Ok(())
}

/// The template, made by the first process that needs it.
fn template() -> Result<&'static Path> {
    static TEMPLATE: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    match TEMPLATE.get_or_init(|| find_or_make().map_err(|error| error.to_string())) {
        Ok(path) => Ok(path),
        Err(message) => Err(Error::Environment(message.clone())),
    }
}

fn find_or_make() -> Result<PathBuf> {
    let installation = Installation::current()?;
    let user = geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("citus-fence-initdb-{user}"));
    match fs::DirBuilder::new().mode(0o711).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).at("cannot create", &folder);
        }
        _ => {}
    }
    // The name can be guessed, and what is in there is started as a server.
    let metadata = fs::symlink_metadata(&folder).at("cannot look at", &folder)?;
    if !metadata.is_dir() || metadata.uid() != user {
        return Err(Error::Environment(format!(
            "{} is somebody else's; remove it",
            folder.display()
        )));
    }

    let template = folder.join(format!("{}-{LAYOUT}", fingerprint(installation)));
    let lock_path = template.with_extension("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .at("cannot open", &lock_path)?;
    lock.lock().at("cannot lock", &lock_path)?;
    if template.is_dir() {
        return Ok(template);
    }

    // Made under another name, so that a template is either whole or not there.
    let draft = template.with_extension("draft");
    if draft.exists() {
        fs::remove_dir_all(&draft).at("cannot remove", &draft)?;
    }
    fs::create_dir(&draft).at("cannot create", &draft)?;
    give_to_server_user(&draft)?;
    run(
        "initdb template",
        None,
        installation
            .command("initdb")?
            .arg("-D")
            .arg(&draft)
            .args(["-U", SUPERUSER])
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C"])
            // Torn and mixed-up copies are to be noticed, not served.
            .args(["--data-checksums", "--no-sync", "--no-instructions"]),
    )?;
    // Every copy gets its WAL from pg_resetwal; the template's would only be copied to be removed.
    let wal = draft.join("pg_wal");
    for entry in fs::read_dir(&wal).at("cannot list", &wal)? {
        let path = entry.at("cannot list", &wal)?.path();
        if path.is_file() {
            fs::remove_file(&path).at("cannot remove", &path)?;
        }
    }
    fs::rename(&draft, &template).at("cannot rename", &draft)?;
    Ok(template)
}

/// A name for one installed PostgreSQL: a minor update or another build gets another template.
fn fingerprint(installation: &Installation) -> String {
    let plain: String = installation
        .version()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let place = crc32c::crc32c(installation.bindir().as_os_str().as_encoded_bytes());
    format!("{plain}-{place:08x}")
}
