//! Whether a server runs on a data directory, and ending one that an interrupted first start has left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fault::Fault;
use super::plan::Place;
use super::programs::LOOK;
use crate::failure::Failure;
use crate::signals::Stop;

/// How long a server may take to shut down before it is made to.
const PATIENCE: Duration = Duration::from_secs(60);

/// Refuses a directory on which a server runs. One that an interrupted run of this restore has left there, in its
/// private directory, is stopped.
pub fn refuse_running(place: &Place, private: Option<&Path>, stop: &Stop) -> Result<(), Failure> {
    let data = &place.to.data;
    let file = PidFile::read(data);
    if let Some(private) = private {
        // It may not have come to write its postmaster.pid, nor to its directory: then its command line tells.
        let written = file.as_ref().filter(|file| file.socket_directory == private);
        let in_directory = processes_in(data);
        let own = written.map(|file| file.pid).filter(|pid| in_directory.contains(pid));
        let ours: BTreeSet<i32> = started_with(private).into_iter().chain(own).collect();
        for pid in ours {
            end(data, private, pid, stop)?;
        }
    }
    let running = processes_in(data);
    let is_alive = |pid: i32| kill(Pid::from_raw(pid), None).is_ok();
    // Where the system does not show what its processes work in, a living process counts as a server.
    let unseen = !Path::new("/proc/self/cwd").exists()
        && file.as_ref().is_some_and(|file| is_alive(file.pid));
    if running.is_empty() && !unseen {
        return Ok(());
    }
    Err(Fault::Refused {
        group: place.group(),
        what: format!("a server runs on {} (processes {running:?})", data.display()),
        todo:
            "Stop it first, if it is a copy; production is never to be restored over while it runs."
                .into(),
    }
    .into())
}

/// Ends the servers of a directory that nobody needs any more, whose configuration is in one of these.
pub fn end_left(data: &Path, privates: &[PathBuf], stop: &Stop) -> Result<(), Failure> {
    for private in privates {
        for pid in started_with(private) {
            end(data, private, pid, stop)?;
        }
    }
    Ok(())
}

/// The processes that were started with the configuration in that directory, wherever they work by now.
fn started_with(private: &Path) -> Vec<i32> {
    let config_file = format!("config_file={}", private.join("postgresql.conf").display());
    let is_one = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == config_file.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_one).collect()
}

/// What a postmaster writes of itself.
struct PidFile {
    pid: i32,
    socket_directory: PathBuf,
}

impl PidFile {
    fn read(data: &Path) -> Option<PidFile> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some(PidFile { pid, socket_directory: lines.nth(3)?.into() })
    }
}

/// The processes that work in a directory, as all of a server do once it has read its configuration.
fn processes_in(data: &Path) -> Vec<i32> {
    let (Ok(data), Ok(entries)) = (fs::canonicalize(data), fs::read_dir("/proc")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
        // A shell may stand there.
        .filter(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            name.starts_with("postgres") || name.starts_with("postmaster")
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Shuts it down, and makes it end where that takes too long: its WAL brings the next start to the same state.
fn end(data: &Path, private: &Path, pid: i32, stop: &Stop) -> Result<(), Failure> {
    let gone = |patience: Duration| {
        let began = Instant::now();
        while began.elapsed() < patience && stop.signal().is_none() {
            if processes_in(data).is_empty() && started_with(private).is_empty() {
                return true;
            }
            thread::sleep(LOOK);
        }
        false
    };
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), signal);
        if gone(PATIENCE) {
            return Ok(());
        }
        if let Some(signal) = stop.signal() {
            return Err(Failure::ToldToStop { signal });
        }
    }
    Ok(())
}
