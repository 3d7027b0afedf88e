//! Running a program: its time, and the most memory that it had in use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Error, HOST, Installation, Result, SUPERUSER, peak_memory};

/// Between two looks at a program's memory, whose peak only grows.
const LOOK: Duration = Duration::from_millis(20);

/// One way to dump.
pub struct Way {
    pub name: &'static str,
    pub program: &'static str,
    pub words: &'static [&'static str],
}

impl Way {
    /// Dumps into a directory that is not there yet; how long it took, and its memory in kB.
    pub fn dump(&self, cluster: &Cluster, dir: &Path) -> Result<(Duration, u64)> {
        let mut command = match self.program {
            "citus-fence" => fence("dump", cluster)?,
            other => theirs(other, cluster)?,
        };
        command.args(self.words);
        if self.program == "pg_dump" {
            command.arg("-f");
        }
        run(command.arg(dir))
    }
}

/// A program of PostgreSQL's, which is told where the coordinator is.
pub fn theirs(program: &str, cluster: &Cluster) -> Result<Command> {
    let mut command = Command::new(Installation::current()?.program(program));
    place(&mut command, cluster);
    Ok(command)
}

/// The command with a subcommand, which is told the same.
pub fn fence(subcommand: &str, cluster: &Cluster) -> Result<Command> {
    let installation = Installation::current()?;
    let mut command = Command::new(installation.program("citus-fence"));
    place(command.arg(subcommand), cluster);
    command.arg("--bindir").arg(installation.bindir());
    Ok(command)
}

fn place(command: &mut Command, cluster: &Cluster) {
    let port = cluster.coordinator().port().to_string();
    command.args(["-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", cluster.database()]);
}

/// Runs one to its end.
pub fn run(command: &mut Command) -> Result<(Duration, u64)> {
    let failed = |error: std::io::Error| Error::Environment(error.to_string());
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().map_err(failed)?;
    let (pid, over, peak) = (child.id(), AtomicBool::new(false), AtomicU64::new(0));
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(peak_memory(pid).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        let output = child.wait_with_output();
        over.store(true, Ordering::Relaxed);
        output
    });
    let (output, time) = (output.map_err(failed)?, began.elapsed());
    match output.status.success() {
        true => Ok((time, peak.into_inner())),
        false => Err(Error::Environment(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// Each of several ways once in each round.
pub fn times_in_turns<const WAYS: usize>(
    rounds: usize,
    mut once: impl FnMut(usize) -> Result<Duration>,
) -> Result<[Vec<Duration>; WAYS]> {
    let mut times = std::array::from_fn(|_| Vec::new());
    for _ in 0..rounds {
        for (index, times) in times.iter_mut().enumerate() {
            times.push(once(index)?);
        }
    }
    Ok(times)
}

/// A folder that goes with this value.
pub struct Room(PathBuf);

impl Room {
    pub fn new() -> Result<Room> {
        let folder = std::env::temp_dir().join(format!("dump-bench-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| Error::Environment(error.to_string()))?;
        Ok(Room(folder))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The bytes of all files below a folder.
pub fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
