//! Getting a node's files to their place, and finding out that they may be started there.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{At, Fault};
use super::plan::{Address, Place, Plan};
use super::programs::{Control, Programs};
use super::running;
use super::stage::{self, Progress, Stage};
use crate::durable;
use crate::failure::Failure;
use crate::lsn;
use crate::signals::Stop;

/// How long an address may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What ALTER SYSTEM has set in production.
pub const AUTO_CONF: &str = "postgresql.auto.conf";
/// Where that is kept: nothing of it may count before this program says so.
pub const FORMER_AUTO_CONF: &str = "postgresql.auto.conf.before-restore";

/// What a copy does not bring along: who runs on the source, and what an earlier restore of it has left.
const LEFT_BEHIND: [&str; 4] = ["postmaster.pid", "postmaster.opts", stage::FILE, FORMER_AUTO_CONF];

/// Refuses an address at which anything answers: a copy would believe it to be its node.
pub fn nothing_answers(address: &Address) -> Result<(), Fault> {
    let Address { group, host, port } = address;
    let (group, port) = (*group, *port);
    let refused = |what: String, todo: &str| Fault::Refused { group, what, todo: todo.to_owned() };
    let answers = if host.starts_with('/') {
        UnixStream::connect(Path::new(host).join(format!(".s.PGSQL.{port}"))).is_ok()
    } else {
        let addresses = (host.as_str(), port).to_socket_addrs().map_err(|error| {
            refused(
                format!("the address {host} cannot be looked up: {error}"),
                "Give each node a name or address that all nodes know it by.",
            )
        })?;
        let mut addresses = addresses;
        addresses.any(|address| TcpStream::connect_timeout(&address, ANSWER).is_ok())
    };
    match answers {
        false => Ok(()),
        true => Err(refused(
            format!("something answers at {host}:{port} already"),
            "Stop it, or give the restored node another address: whatever answers there would be taken for it.",
        )),
    }
}

/// Puts a copy's label back where its recovery was interrupted.  The server puts it aside when it begins, and without it,
/// and without an archive, a second start does not know the end of the backup when it comes, and dies there ("WAL ends
/// before end of online backup", PostgreSQL 15.20).  With it recovery begins anew at the backup's checkpoint, as it did
/// the first time.
///
/// The control file names the backup's start until that recovery has ended, so that no label of another backup counts,
/// and none once anything new has been written.
pub fn give_label_back(data: &Path, control: &Control) -> Result<(), Fault> {
    let start = control.get("Backup start location")?;
    let (label, aside) = (data.join("backup_label"), data.join("backup_label.old"));
    if start == "0/0" || label.exists() {
        return Ok(());
    }
    let text = match fs::read_to_string(&aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.at("read", &aside)?,
    };
    if start_of(&text) == Some(start) {
        fs::rename(&aside, &label).at("rename", &aside)?;
        durable::sync_directory(data).at("sync", data)?;
    }
    Ok(())
}

/// Brings the files there, unless they are there.
pub fn settle(plan: &Plan, place: &Place, stop: &Stop) -> Result<Progress, Failure> {
    let data = &place.to.data;
    let progress = match fs::symlink_metadata(data) {
        Ok(_) => Progress::read(data)?,
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).at("look at", data).map_err(Failure::from),
    };
    let fresh = |tablespaces| Progress {
        restore_id: plan.restore_id.clone(),
        group: place.group(),
        stage: Stage::Copying,
        private: None,
        tablespaces,
        found: Vec::new(),
    };
    let mut progress = match (progress, &place.node.data) {
        (Some(former), _)
            if former.restore_id != plan.restore_id || former.group != place.group() =>
        {
            let what = format!(
                "{} belongs to another restore (node {}, other addresses, another point or another backup)",
                data.display(),
                former.group
            );
            let todo = format!(
                "Empty it first, or name an empty directory; in a copy of a cluster that had been restored itself, \
                 remove {}.",
                data.join(stage::FILE).display()
            );
            return Err(place.refused(what, todo).into());
        }
        (Some(former), _) if former.stage > Stage::Copying => return Ok(former),
        (Some(former), Some(_)) => {
            running::refuse_running(place, None, stop)?;
            for directory in former.tablespaces.iter().chain([data]) {
                clear(directory)?;
            }
            former
        }
        (None, Some(_)) => {
            refuse_occupied(place, data)?;
            fresh(Vec::new())
        }
        (_, None) => {
            let progress = Progress { stage: Stage::Copied, ..fresh(Vec::new()) };
            adopt(place, data, stop)?;
            progress.write(data)?;
            return Ok(progress);
        }
    };
    let Some(copy) = &place.node.data else { return Ok(progress) };
    let tablespaces = tablespaces(plan, place)?;
    for (_, _, new) in &tablespaces {
        if !progress.tablespaces.contains(new) {
            refuse_occupied(place, new)?;
        }
    }
    make_private(data)?;
    progress.tablespaces = tablespaces.iter().map(|(_, _, new)| new.clone()).collect();
    progress.write(data)?;
    for (_, from, new) in &tablespaces {
        make_private(new)?;
        copy_tree(place, from, new, stop)?;
    }
    copy_tree(place, &plan.dir.join(copy), data, stop)?;
    for (oid, _, new) in &tablespaces {
        let link = data.join("pg_tblspc").join(oid.to_string());
        symlink(new, &link).at("make", &link)?;
    }
    for directory in progress.tablespaces.iter().chain([data]) {
        // One call for all files of the file system: a crash of the machine must not undo what the stage says.
        let file = fs::File::open(directory).at("open", directory)?;
        nix::unistd::syncfs(file).at("sync", directory)?;
    }
    set_former_settings_aside(data)?;
    progress.stage = Stage::Copied;
    progress.write(data)?;
    Ok(progress)
}

/// The tablespaces of a node: number, where the copy is, where it goes.
fn tablespaces(plan: &Plan, place: &Place) -> Result<Vec<(u32, PathBuf, PathBuf)>, Fault> {
    let one = |tablespace: &crate::manifest::Tablespace| {
        let location = &tablespace.location;
        let Some(copy) = &tablespace.copy else {
            return Err(place.refused(
                format!("the backup has no copy of its tablespace {}", location.display()),
                "Bring the tablespace there by the tool that made the backup.",
            ));
        };
        let mapping = place.mappings.iter().find(|mapping| mapping.old == *location);
        let Some(mapping) = mapping else {
            return Err(unmapped(place, location, &format!("tablespace {}", tablespace.oid)));
        };
        Ok((tablespace.oid, plan.dir.join(copy), mapping.new.clone()))
    };
    place.node.tablespaces.iter().map(one).collect()
}

fn unmapped(place: &Place, target: &Path, what: &str) -> Fault {
    let (group, target) = (place.group(), target.display());
    place.refused(
        format!("{what} leads to {target}, which may be production's"),
        format!("Say where it is to be: --tablespace {group}:{target}=/new/place"),
    )
}

/// A directory that may be missing, and has nothing in it if not.
fn refuse_occupied(place: &Place, directory: &Path) -> Result<(), Fault> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).at("read", directory),
    };
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(place.refused(
            format!("{} is not empty", directory.display()),
            "Name a directory that is empty or does not exist: nothing is overwritten.",
        )),
    }
}

/// A copy that a tool has brought to its place.
fn adopt(place: &Place, data: &Path, stop: &Stop) -> Result<(), Failure> {
    if !data.join("global/pg_control").is_file() {
        return Err(place
            .refused(
                format!("{} is no data directory", data.display()),
                format!(
                    "The copy was made by another tool ({}): bring it there with that one first.",
                    place.node.tool
                ),
            )
            .into());
    }
    running::refuse_running(place, None, stop)?;
    check_links(place, data)?;
    for name in [LEFT_BEHIND[0], LEFT_BEHIND[1]] {
        remove_if_there(&data.join(name))?;
    }
    set_former_settings_aside(data)?;
    Ok(())
}

/// Takes production's ALTER SYSTEM out of force. Once: what is there at a second time is this program's.
fn set_former_settings_aside(data: &Path) -> Result<(), Fault> {
    let path = data.join(AUTO_CONF);
    match fs::rename(&path, data.join(FORMER_AUTO_CONF)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).at("rename", &path),
        _ => durable::sync_directory(data).at("sync", data),
    }
}

/// Refuses links that lead out, and turns those to their new place that have one.
pub fn check_links(place: &Place, data: &Path) -> Result<(), Fault> {
    let mut pending = vec![data.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).at("read", &directory)? {
            let path = entry.at("read", &directory)?.path();
            let kind = fs::symlink_metadata(&path).at("look at", &path)?.file_type();
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).at("read", &path)?;
                if place.mappings.iter().any(|mapping| mapping.new == target) {
                    continue;
                }
                match place.mappings.iter().find(|mapping| mapping.old == target) {
                    Some(mapping) if mapping.new.is_dir() => {
                        // By way of a rename, so that there is a link at any time.
                        let draft = path.with_extension("draft");
                        remove_if_there(&draft)?;
                        symlink(&mapping.new, &draft).at("make", &draft)?;
                        fs::rename(&draft, &path).at("replace", &path)?;
                    }
                    Some(mapping) => {
                        return Err(place.refused(
                            format!("{} does not exist", mapping.new.display()),
                            format!("Bring the copy of {} there first.", target.display()),
                        ));
                    }
                    None => {
                        return Err(unmapped(place, &target, &path.display().to_string()));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Refuses what is no copy of the node that the manifest names.
pub fn check_identity(place: &Place, programs: &Programs, stop: &Stop) -> Result<(), Failure> {
    let (node, data) = (&place.node, &place.to.data);
    let owner = fs::metadata(data).at("look at", data)?.uid();
    if owner != nix::unistd::geteuid().as_raw() {
        return Err(place
            .refused(
                format!("{} belongs to another user", data.display()),
                "Run it as the user who owns the data directories.",
            )
            .into());
    }
    programs.check_version(place.group(), data, stop)?;
    let control = programs.control(place.group(), data, stop)?;
    let identifier = control.get("Database system identifier")?;
    if identifier != node.system_identifier {
        let what = format!(
            "{} is a copy of another server: its system identifier is {identifier}, and that of {}:{} is {}",
            data.display(),
            node.name,
            node.port,
            node.system_identifier
        );
        return Err(place.refused(what, "Name the directory of the right copy.").into());
    }
    let timeline = control.number("Latest checkpoint's TimeLineID")?;
    if timeline > u64::try_from(node.timeline).unwrap_or_default() {
        let what = format!(
            "{} is on timeline {timeline}, and the backup was taken on {}",
            data.display(),
            node.timeline
        );
        return Err(place
            .refused(what, "It has gone on since; take the copy as it was made.")
            .into());
    }
    Ok(())
}

/// Refuses a copy that was begun after the point: recovery goes forward only.
pub fn check_begun_before(place: &Place, data: &Path, point: &str) -> Result<(), Fault> {
    let path = data.join("backup_label");
    let text = match fs::read_to_string(&path) {
        // Of a volume snapshot, or of one that has been recovered.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.at("read", &path)?,
    };
    let start = start_of(&text);
    let number = |lsn: Option<&str>| lsn.and_then(lsn::number);
    match (number(start), number(Some(&place.node.wal_lsn))) {
        (Some(begun), Some(at)) if begun > at => Err(place.refused(
            format!(
                "{} is a copy that was begun at WAL {}, after the restore point \"{point}\" at {}",
                data.display(),
                start.unwrap_or_default(),
                place.node.wal_lsn
            ),
            "Bring a copy there that had ended before the point was made.",
        )),
        _ => Ok(()),
    }
}

/// Where a backup was begun, as its label says.
fn start_of(label: &str) -> Option<&str> {
    let line = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "));
    line.and_then(|place| place.split_whitespace().next())
}

/// A directory of its own, closed to others, or an empty one that is there.
fn make_private(directory: &Path) -> Result<(), Fault> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).at("make", directory),
        _ => Ok(()),
    }
}

/// Throws away what an interrupted copying has left, without following a link.
fn clear(directory: &Path) -> Result<(), Fault> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).at("read", directory),
    };
    for entry in entries {
        let path = entry.at("read", directory)?.path();
        // The stage goes last, and by being written anew.
        if path.file_name().is_some_and(|name| name == stage::FILE) {
            continue;
        }
        let kind = fs::symlink_metadata(&path).at("look at", &path)?.file_type();
        match kind.is_dir() {
            true => fs::remove_dir_all(&path).at("remove", &path)?,
            false => fs::remove_file(&path).at("remove", &path)?,
        }
    }
    Ok(())
}

fn copy_tree(place: &Place, from: &Path, to: &Path, stop: &Stop) -> Result<(), Failure> {
    let mode = fs::metadata(from).at("look at", from)?.permissions().mode();
    // Their links are made anew; one that the manifest does not know would be lost.
    let is_known = |name: &std::ffi::OsStr| {
        place.node.tablespaces.iter().any(|tablespace| name == tablespace.oid.to_string().as_str())
    };
    let mut pending = vec![(from.to_owned(), to.to_owned())];
    while let Some((from_directory, to_directory)) = pending.pop() {
        let is_tablespaces = from_directory == from.join("pg_tblspc");
        for entry in fs::read_dir(&from_directory).at("read", &from_directory)? {
            if let Some(signal) = stop.signal() {
                return Err(Failure::ToldToStop { signal });
            }
            let entry = entry.at("read", &from_directory)?;
            let (path, target) = (entry.path(), to_directory.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&path).at("look at", &path)?;
            let left_behind = || LEFT_BEHIND.iter().any(|name| entry.file_name() == *name);
            if metadata.is_dir() {
                DirBuilder::new()
                    .mode(metadata.mode() & 0o777)
                    .create(&target)
                    .at("make", &target)?;
                pending.push((path, target));
            } else if metadata.is_symlink() && !(is_tablespaces && is_known(&entry.file_name())) {
                let leads_to = fs::read_link(&path).at("read", &path)?;
                return Err(unmapped(place, &leads_to, &path.display().to_string()).into());
            } else if metadata.is_file() && !(from_directory == from && left_behind()) {
                fs::copy(&path, &target).at("copy", &path)?;
            }
        }
    }
    // Last: it may be narrower than copying needs.
    fs::set_permissions(to, fs::Permissions::from_mode(mode & 0o750)).at("close", to)?;
    Ok(())
}

/// Removes a file that may not be there.
pub fn remove_if_there(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}
