//! Getting a node's files to their place, and finding out that they may be started there.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::args::escaped;
use super::fault::{At, Fault};
use super::plan::{Address, Place, Plan};
use super::programs::Programs;
use super::stage::{self, Progress, Stage};
use super::{bounds, first, guard, running};
use crate::durable;
use crate::failure::Failure;
use crate::programs::shell_word;
use crate::signals::Stop;

/// How long an address may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What a copy does not bring along: who runs on the source, and what an earlier restore of it has left.
const LEFT_BEHIND: [&str; 5] =
    ["postmaster.pid", "postmaster.opts", stage::FILE, first::LOG, guard::FORMER_AUTO_CONF];

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
            "Stop it, or give the restored node another address: whatever answers there would be taken for it. If it is this \
             node, restored already, go on with: citus-fence restore finish",
        )),
    }
}

/// One restore at a time on a data directory. Made by it, and left empty, the directory goes again.
pub struct Lock {
    _held: Flock<fs::File>,
    made: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            // Not if anything is in it.
            let _ = fs::remove_dir(made);
        }
    }
}

/// Takes it.
pub fn lock(place: &Place) -> Result<Lock, Fault> {
    let data = &place.to.data;
    let made = match DirBuilder::new().mode(0o700).create(data) {
        Ok(()) => Some(data.clone()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(place.refused(
                format!("{} cannot be made: the directory above it does not exist", data.display()),
                "Make that one first, as the servers' user.",
            ));
        }
        Err(error) => return Err(error).at("make", data),
    };
    match try_lock(data)? {
        Some(held) => Ok(Lock { _held: held, made }),
        None => Err(place.refused(
            format!("another restore is at work on {}", data.display()),
            "Wait until it has ended.",
        )),
    }
}

/// Locks a directory as long as the lock lives; none where another run has it.
pub fn try_lock(directory: &Path) -> Result<Option<Flock<fs::File>>, Fault> {
    let opened = fs::File::open(directory).at("open", directory)?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Some(held)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).at("lock", directory),
    }
}

/// How far a node has come, if anything has been done. Refuses what cannot be gone on with, and changes nothing: that
/// it is so of all nodes is known before any of them is touched.
pub fn look(
    plan: &Plan,
    place: &Place,
    programs: &Programs,
    stop: &Stop,
) -> Result<Option<Progress>, Failure> {
    let data = &place.to.data;
    let former = Progress::read(data)?;
    match (&former, &place.node.data) {
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
        (Some(former), _) if former.stage > Stage::Copying => {}
        (Some(_), Some(_)) => running::refuse_running(place, None, stop)?,
        (None, Some(_)) => refuse_occupied(place, data)?,
        (_, None) => adoptable(plan, place, programs, stop)?,
    }
    if former.as_ref().is_none_or(|former| former.stage == Stage::Copying)
        && place.node.data.is_some()
    {
        let known = former.as_ref().map(|former| former.tablespaces.clone()).unwrap_or_default();
        for (_, _, new) in tablespaces(plan, place)? {
            if !known.contains(&new) {
                refuse_occupied(place, &new)?;
            }
        }
    }
    Ok(former)
}

/// Brings the files there, unless they are there.
pub fn settle(
    plan: &Plan,
    place: &Place,
    former: Option<Progress>,
    stop: &Stop,
) -> Result<Progress, Failure> {
    let data = &place.to.data;
    let fresh = |stage| Progress {
        restore_id: plan.restore_id.clone(),
        group: place.group(),
        stage,
        private: None,
        started: false,
        in_time: false,
        superuser: None,
        closed: Vec::new(),
        tablespaces: Vec::new(),
        found: Vec::new(),
        of_configuration: Vec::new(),
    };
    let Some(copy) = &place.node.data else {
        return match former {
            Some(former) => Ok(former),
            None => {
                adopt(data)?;
                let progress = fresh(Stage::Copied);
                progress.write(data)?;
                Ok(progress)
            }
        };
    };
    let mut progress = match former {
        Some(former) if former.stage > Stage::Copying => return Ok(former),
        Some(former) => {
            for directory in former.tablespaces.iter().chain([data]) {
                clear(directory)?;
            }
            former
        }
        None => fresh(Stage::Copying),
    };
    let tablespaces = tablespaces(plan, place)?;
    make_private(data)?;
    progress.tablespaces = tablespaces.iter().map(|(_, _, new)| new.clone()).collect();
    progress.write(data)?;
    guard::close(data)?;
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
    let group = place.group();
    place.refused(
        format!("{what} leads to {}, which may be production's", target.display()),
        format!(
            "Say where it is to be: --tablespace {}",
            shell_word(&format!("{group}:{}=/new/place", escaped(target)))
        ),
    )
}

/// A directory that may be missing, and has nothing in it if not.
fn refuse_occupied(place: &Place, directory: &Path) -> Result<(), Fault> {
    match is_free(directory).at("read", directory)? {
        true => Ok(()),
        false => Err(place.refused(
            format!("{} is not empty", directory.display()),
            "Name a directory that is empty or does not exist: nothing is overwritten.",
        )),
    }
}

/// What a restore leaves that is killed at its very first file does not count: it is to be gone on with.
fn is_free(directory: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        if !durable::is_draft(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses what is no copy that a tool has brought to its place, or not the one that is meant.
fn adoptable(plan: &Plan, place: &Place, programs: &Programs, stop: &Stop) -> Result<(), Failure> {
    let data = &place.to.data;
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
    check_identity(place, false, programs, stop)?;
    bounds::begun_in_time(plan, place, &programs.control(place.group(), data, stop)?)?;
    Ok(())
}

/// Takes production's settings in it out of force.
fn adopt(data: &Path) -> Result<(), Fault> {
    for name in [LEFT_BEHIND[0], LEFT_BEHIND[1]] {
        remove_if_there(&data.join(name))?;
    }
    guard::set_former_aside(data)?;
    guard::close(data)
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

/// Refuses what is no copy of the node that the manifest names. A copy that this program has started may have been promoted
/// by it, and is on a timeline of its own then.
pub fn check_identity(
    place: &Place,
    is_started: bool,
    programs: &Programs,
    stop: &Stop,
) -> Result<(), Failure> {
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
    if !is_started && timeline > u64::try_from(node.timeline).unwrap_or_default() {
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
            let name = match from_directory == from {
                true => guard::kept_as(&entry.file_name()),
                false => entry.file_name(),
            };
            let (path, target) = (entry.path(), to_directory.join(name));
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
                fs::copy(&path, &target).map_err(|source| Fault::Copy {
                    from: path,
                    to: target,
                    source,
                })?;
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

#[cfg(test)]
mod tests {
    use super::is_free;
    use std::fs;

    #[test]
    fn a_directory_in_which_a_restore_had_only_begun_is_free() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(is_free(&folder.path().join("missing")).expect("a look"));
        fs::write(folder.path().join(".citus_fence.draft.x1"), "{").expect("a file");
        assert!(is_free(folder.path()).expect("a look"));
        fs::write(folder.path().join("somebody's"), "").expect("a file");
        assert!(!is_free(folder.path()).expect("a look"));
    }
}
