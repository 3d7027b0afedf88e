//! The first start of a copy: without Citus, on a private socket, with a configuration of this program's own.
//!
//! The server is a child in a process group of its own. It is shut down when it has done its work; on every other way
//! out it is told to quit at once, and reaped. Killed outright itself, this program leaves it behind: nobody but its
//! own user reaches it, it knows of no other server, and the next run finds it by its private directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remote::{NodeLabel, RemoteError, base_params};
use tracing::debug;

use super::fault::{At, Fault};
use super::log;
use super::plan::Place;
use super::programs::{LOOK, Programs};
use crate::durable;
use crate::failure::Failure;
use crate::signals::Stop;
use crate::talk::Talk;

/// How long a shutdown may take. Its checkpoint writes all that recovery has changed.
const SHUTDOWN: Duration = Duration::from_secs(1800);
/// How long a server may take to quit.
const QUIT: Duration = Duration::from_secs(10);
/// How long a connection on the private socket may take.
const CONNECT: Duration = Duration::from_secs(30);
/// How long one statement may take. What it writes is catalogs only.
const ANSWER: Duration = Duration::from_secs(600);
/// The longest path of a socket that every system takes.
const LONGEST_SOCKET: usize = 103;
/// Where the log of a first start is kept that has failed, in the data directory.
pub const LOG: &str = "citus_fence.restore.log";

/// What beats the settings of roles and databases, which beat those of the server.
const OPTIONS: &str = "-c session_replication_role=replica -c default_transaction_read_only=off \
    -c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c session_preload_libraries= -c local_preload_libraries= \
    -c row_security=off -c standard_conforming_strings=on -c log_statement=none";

/// How the name of a private directory begins.
const PREFIX: &str = "citus-fence-";

/// Makes a private directory for the first start, below another one: that of TMPDIR, as a rule.
pub fn private_directory(parent: &Path) -> Result<PathBuf, Fault> {
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent);
    let path = made.map(tempfile::TempDir::keep).map_err(|error| not_made(parent, error.kind()))?;
    if let Err(fault) = fits(parent, &path) {
        // It is empty.
        let _ = fs::remove_dir(&path);
        return Err(fault);
    }
    Ok(path)
}

/// Where one of that name would be, for who has to write it down before it is there.
pub fn private_path(parent: &Path, name: &str) -> Result<PathBuf, Fault> {
    let path = parent.join(format!("{PREFIX}{name}"));
    fits(parent, &path).map(|()| path)
}

/// Makes it.
pub fn make_private_path(parent: &Path, path: &Path) -> Result<(), Fault> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| not_made(parent, error.kind()))
}

fn fits(parent: &Path, path: &Path) -> Result<(), Fault> {
    match path.as_os_str().len() + "/.s.PGSQL.5432".len() > LONGEST_SOCKET {
        false => Ok(()),
        true => Err(Fault::WrongUse {
            what: format!("TMPDIR ({}) is too long for a socket in it", parent.display()),
        }),
    }
}

fn not_made(parent: &Path, kind: std::io::ErrorKind) -> Fault {
    Fault::WrongUse {
        what: format!(
            "no directory for the first starts can be made in {} ({kind}): TMPDIR names another place",
            parent.display()
        ),
    }
}

/// Whether a directory is there that [`private_directory`] has made for this user.
pub fn is_private(path: &Path) -> bool {
    let is_named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    let own = nix::unistd::geteuid().as_raw();
    is_named
        && fs::symlink_metadata(path)
            .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own)
}

/// Finds out that one can be made, before anything is done that takes long.
pub fn require_private_directory() -> Result<(), Fault> {
    let path = private_directory(&std::env::temp_dir())?;
    fs::remove_dir(&path).at("remove", &path)
}

/// A server that runs, or is on its way to.
pub struct FirstStart<'a> {
    place: &'a Place,
    private: &'a Path,
    child: Option<Child>,
    stop: &'a Stop,
    /// What messages call it.
    name: &'static str,
}

impl<'a> FirstStart<'a> {
    /// Starts it.
    pub fn begin(
        place: &'a Place,
        programs: &Programs,
        private: &'a Path,
        configuration: &str,
        stop: &'a Stop,
    ) -> Result<FirstStart<'a>, Failure> {
        let write = |name: &str, text: &str| {
            let path = private.join(name);
            let mut options = fs::OpenOptions::new();
            let file = options.create(true).truncate(true).write(true).mode(0o600).open(&path);
            file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
                .at("write", &path)
        };
        write("hba", "local all all trust\n")?;
        write("ident", "")?;
        write("postgresql.conf", configuration)?;
        write("log", "")?;
        let log_path = private.join("log");
        let log = fs::OpenOptions::new().append(true).open(&log_path).at("open", &log_path)?;
        let also_log = log.try_clone().at("open", &log_path)?;
        let config_file = format!("config_file={}", private.join("postgresql.conf").display());
        let mut command = programs.command("postgres");
        command
            .arg("-D")
            .arg(&place.to.data)
            .args(["-c", &config_file])
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(also_log))
            .process_group(0);
        let child = command.spawn().map_err(|error| Fault::Program {
            group: place.group(),
            program: programs.path("postgres").display().to_string(),
            outcome: error.to_string(),
            output: String::new(),
        })?;
        debug!("node {}: first start, process {}", place.group(), child.id());
        let name = "the server of its first start";
        Ok(FirstStart { place, private, child: Some(child), stop, name })
    }

    /// The same, of a later one.
    pub fn called(self, name: &'static str) -> FirstStart<'a> {
        // What has a Drop of its own is changed in place.
        let mut this = self;
        this.name = name;
        this
    }

    /// Waits until it takes connections, however long its recovery lasts.
    pub fn await_ready(&mut self) -> Result<(), Failure> {
        let path = self.place.to.data.join("postmaster.pid");
        loop {
            let Some(child) = &mut self.child else { return Err(self.ended(None)) };
            let pid = child.id().to_string();
            if let Some(status) = child.try_wait().at("wait for", &path)? {
                self.child = None;
                return Err(self.ended(Some(status)));
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let mut lines = text.lines();
            // The eighth line is the state; with hot_standby off it is "ready" once recovery is over.
            if lines.next() == Some(&pid) && lines.nth(6).map(str::trim) == Some("ready") {
                return Ok(());
            }
            self.look_again()?;
        }
    }

    /// Waits until it has ended by itself.
    pub fn await_end(&mut self) -> Result<(), Failure> {
        loop {
            let Some(child) = &mut self.child else { return Ok(()) };
            if child.try_wait().at("wait for", self.private)?.is_some() {
                self.child = None;
                return Ok(());
            }
            self.look_again()?;
        }
    }

    /// The last record that it has replayed, if it has replayed any.
    pub fn last_record(&self) -> Result<Option<String>, Fault> {
        let path = self.private.join("log");
        let text = String::from_utf8_lossy(&fs::read(&path).at("read", &path)?).into_owned();
        let last = text.rsplit_once("redo done at ");
        Ok(last.and_then(|(_, rest)| rest.split_whitespace().next()).map(str::to_owned))
    }

    /// A session with one of its databases.
    pub fn connect(&self, user: &str, database: &str) -> Result<Talk<'a>, Failure> {
        let host = self.private.display().to_string();
        let mut params = base_params(&host, 5432, database, user, "citus-fence restore", CONNECT);
        params.set("options", OPTIONS).set("sslmode", "disable");
        let label =
            NodeLabel::unregistered(format!("node {}, private socket", self.place.group()), 5432);
        Talk::open(label, params, CONNECT, ANSWER, self.stop)
    }

    /// The first of these users who may log in as a superuser, and a session as him.
    pub fn connect_as_superuser(
        &self,
        users: &[String],
        database: &str,
    ) -> Result<(Talk<'a>, String), Failure> {
        let mut wrong = Vec::new();
        for user in users {
            match self.connect(user, database) {
                Ok(mut talk) => {
                    let answer = talk.ask("superuser", "SELECT current_setting('is_superuser')")?;
                    if answer.single_value()? == "on" {
                        return Ok((talk, user.clone()));
                    }
                    wrong.push(format!("\"{user}\" is no superuser"));
                }
                // The role does not exist, or may not log in.
                Err(Failure::Remote(RemoteError::Refused { message, .. })) => wrong.push(message),
                Err(Failure::Remote(RemoteError::Connect {
                    message, sqlstate: Some(_), ..
                })) => {
                    return Err(self
                        .place
                        .refused(
                            format!(
                                "database \"{database}\" of the copy, of which the backup was made, cannot be connected \
                                 to: {message}"
                            ),
                            "Is this the right backup, and the right restore point?",
                        )
                        .into());
                }
                Err(other) => return Err(other),
            }
        }
        Err(self
            .place
            .refused(
                format!("no superuser of the copy is known: {}", wrong.join("; ")),
                "Name one with --superuser.",
            )
            .into())
    }

    /// Shuts it down.
    pub fn shut_down(mut self) -> Result<(), Failure> {
        let began = Instant::now();
        self.signal(Signal::SIGINT);
        loop {
            let Some(child) = &mut self.child else { return Ok(()) };
            match child.try_wait().at("wait for", self.private)? {
                Some(status) => {
                    self.child = None;
                    return match status.success() {
                        true => Ok(()),
                        false => Err(self.ended(Some(status))),
                    };
                }
                None if began.elapsed() > SHUTDOWN => {
                    return Err(self
                        .place
                        .refused(
                            "its first start does not shut down",
                            "Run the same command again.",
                        )
                        .into());
                }
                None => self.look_again()?,
            }
        }
    }

    fn look_again(&self) -> Result<(), Failure> {
        match self.stop.signal() {
            Some(signal) => Err(Failure::ToldToStop { signal }),
            None => {
                thread::sleep(LOOK);
                Ok(())
            }
        }
    }

    /// The error of a server that has ended before its time. Its log is kept in the data directory.
    pub fn ended(&self, status: Option<ExitStatus>) -> Failure {
        let bytes = fs::read(self.private.join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let kept = self.place.to.data.join(LOG);
        // Where there is no room for it, what is told of it has to do.
        let is_kept = durable::write_as_server(&kept, &bytes).is_ok();
        let how = status.map_or(String::new(), |status| format!(" ({status})"));
        Fault::Ended {
            group: self.place.group(),
            what: format!("{} has ended before its time{how}", self.name),
            lines: log::complaints(&text),
            log: is_kept.then_some(kept),
            todo: log::what_to_do(&text).into(),
        }
        .into()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid {
            // It is a child that has not been waited for, so the number is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for FirstStart<'_> {
    fn drop(&mut self) {
        let began = Instant::now();
        self.signal(Signal::SIGQUIT);
        while let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) if began.elapsed() < QUIT => thread::sleep(LOOK),
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    self.child = None;
                }
                Ok(Some(_)) | Err(_) => self.child = None,
            }
        }
    }
}
