//! The copies: one program per node, all at once; and what is checked of each copy of pg_basebackup afterwards.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::source::Source;
use crate::failure::Failure;
use crate::folder;
use crate::group::{GRACE, Group};
use crate::lease::Held;
use crate::output::Output;
use crate::progress::Progress;
use crate::signals::Stop;

/// How often all of them are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often sizes are looked at, at most.
const LOOK_AT_SIZES: Duration = Duration::from_millis(500);
/// How much of what a program says is kept: the end of it, which has the error.
const KEPT: usize = 4096;

/// A program that works for a node.
pub struct Job {
    node: String,
    program: &'static str,
    group: Group,
    words: Words,
}

/// Where what it says goes.
enum Words {
    /// Read by a thread, which keeps the end of it.
    Read(Option<JoinHandle<String>>),
    /// All of it, into a file.
    Kept(PathBuf),
}

impl Words {
    /// The end of it.
    fn last(&mut self) -> String {
        let words = match self {
            Words::Read(reader) => reader.take().and_then(|reader| reader.join().ok()),
            Words::Kept(path) => File::open(path).ok().map(|mut file| last_words(&mut file)),
        };
        words.unwrap_or_default()
    }
}

impl Job {
    /// Starts it.
    pub fn start(
        node: String,
        program: &'static str,
        command: &mut Command,
    ) -> Result<Job, Failure> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C");
        let mut group = start(&node, command)?;
        let mut stderr = group.leader().stderr.take();
        let reader = std::thread::Builder::new().name(program.to_owned());
        let words = reader
            .spawn(move || stderr.as_mut().map(last_words).unwrap_or_default())
            .map_err(Failure::Thread)?;
        Ok(Job { node, program, group, words: Words::Read(Some(words)) })
    }

    /// Starts it, and keeps all that it says in a file of its own.
    pub fn start_kept(
        node: String,
        program: &'static str,
        command: &mut Command,
        path: PathBuf,
    ) -> Result<Job, Failure> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let both = made.and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = both.map_err(|error| folder::failed("write", &path, error))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let group = start(&node, command)?;
        Ok(Job { node, program, group, words: Words::Kept(path) })
    }

    /// Whether it has ended; an error if that was no success.
    fn is_done(&mut self) -> Result<bool, Failure> {
        let status = self.group.ended().map_err(|error| Failure::Node {
            node: self.node.clone(),
            what: format!("{}: {error}", self.program),
            todo: None,
        })?;
        match status {
            None => Ok(false),
            Some(status) if status.success() && self.group.left_nothing() => Ok(true),
            Some(status) if status.success() => Err(Failure::Node {
                node: self.node.clone(),
                what: format!(
                    "{} has ended, and left processes behind that still run: its copy may not be whole",
                    self.program
                ),
                todo: Some(
                    "Let it end when its copy has: without & and nohup, and with `wait`."
                        .to_owned(),
                ),
            }),
            Some(status) => Err(self.failed(status)),
        }
    }

    fn failed(&mut self, status: ExitStatus) -> Failure {
        // A process that it has left behind would keep its standard error open.
        self.group.finish(GRACE);
        let words = self.words.last();
        let words = words.trim().replace('\n', "; ");
        Failure::Node {
            node: self.node.clone(),
            what: format!("{} failed ({status}): {words}", self.program),
            todo: None,
        }
    }
}

fn start(node: &str, command: &mut Command) -> Result<Group, Failure> {
    Group::start(command).map_err(|error| Failure::Node {
        node: node.to_owned(),
        what: format!("could not run {}: {error}", command.get_program().to_string_lossy()),
        todo: Some("--bindir says where PostgreSQL's programs are.".to_owned()),
    })
}

/// Waits for all of them, and calls `look` in between. The first that fails, a signal, or a block that is lost ends all
/// others.
pub fn wait(
    mut jobs: Vec<Job>,
    held: Option<&Held>,
    look: &mut dyn FnMut(),
    stop: &Stop,
) -> Result<(), Failure> {
    let outcome = wait_for(&mut jobs, held, look, stop);
    if outcome.is_err() {
        // All are told before the first is waited for.
        for job in &jobs {
            job.group.tell();
        }
    }
    for job in jobs {
        job.group.end(GRACE);
    }
    outcome
}

fn wait_for(
    jobs: &mut [Job],
    held: Option<&Held>,
    look: &mut dyn FnMut(),
    stop: &Stop,
) -> Result<(), Failure> {
    loop {
        if let Some(signal) = stop.signal() {
            return Err(Failure::ToldToStop { signal });
        }
        if let Some((held, trouble)) = held.and_then(|held| Some((held, held.trouble()?))) {
            return Err(Failure::of_trouble(held.id, trouble));
        }
        let mut done = true;
        for job in jobs.iter_mut() {
            done &= job.is_done()?;
        }
        if done {
            return Ok(());
        }
        look();
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How much has been copied, looked at so seldom that looking does not slow the copies down.
pub struct Watched {
    places: Vec<PathBuf>,
    progress: Progress,
    next: Instant,
}

impl Watched {
    /// Of copies that grow in these places, to so many bytes altogether.
    pub fn begin(output: &Output, places: Vec<PathBuf>, total: Option<u64>) -> Watched {
        let progress = Progress::begin(output, "copying", total);
        Watched { places, progress, next: Instant::now() + LOOK_AT_SIZES }
    }

    /// Looks, if it is time to.
    pub fn look(&mut self) {
        let began = Instant::now();
        if began < self.next {
            return;
        }
        // A file that is renamed meanwhile is no matter: this is for people.
        let bytes = self.places.iter().filter_map(|place| folder::size(place).ok()).sum();
        self.progress.at(bytes, None);
        self.next = Instant::now() + LOOK_AT_SIZES.max(20 * began.elapsed());
    }
}

/// Reads to the end, and keeps the last of it.
fn last_words(stream: &mut impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..count]);
        let superfluous = kept.len().saturating_sub(KEPT);
        kept.drain(..superfluous);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The copy of one node.
pub fn base_backup(
    program: &Path,
    source: &Source,
    folder: &Path,
    max_rate: Option<&str>,
) -> Command {
    let mut command = Command::new(program);
    let destination = &source.node.destination;
    let params = &destination.target.params;
    // It would wait for ever for a server that takes a connection and says nothing; libpq counts whole seconds.
    let mut shown = params.clone();
    shown.set("connect_timeout", destination.connect_timeout.as_secs().max(2).to_string());
    command
        .arg("-D")
        .arg(folder.join("data"))
        .args(["--format=plain", "--checkpoint=fast", "--wal-method=stream", "--no-password"])
        .args(["-d", &shown.without_secrets()]);
    if let Some(password) = params.get("password") {
        // Not on the command line, which everybody can see.
        command.env("PGPASSWORD", password);
    }
    if let Some(rate) = max_rate {
        command.args(["--max-rate", rate]);
    }
    for tablespace in &source.tablespaces {
        let to = tablespace_folder(folder, tablespace.oid);
        let escaped = |path: &Path| path.to_string_lossy().replace('\\', r"\\").replace('=', r"\=");
        command.arg("-T").arg(format!("{}={}", escaped(&tablespace.location), escaped(&to)));
    }
    command
}

/// Where a tablespace's copy goes.
pub fn tablespace_folder(folder: &Path, oid: u32) -> PathBuf {
    folder.join("tablespaces").join(oid.to_string())
}

/// The check of one copy.
pub fn verify(program: &Path, data: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--quiet", "--exit-on-error"]).arg(data);
    command
}
