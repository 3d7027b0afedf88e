//! A command in a process group of its own: it and all that it starts end together, on every way out.
//!
//! ```text
//!   this program ──pipe──> guard: reads until the pipe ends, then TERM, then KILL to the group
//!        └──────────────── the command's group
//! ```
//! The guard is for the one way out on which nothing of ours runs any more: SIGKILL, of us or of the whole machine's
//! memory. The kernel then closes the pipe. On all other ways the guard is ended first.
//!
//! The group's number is not given to others while anything of the group is there, the command's own entry included,
//! which is collected only by [`Group::end`] and [`Group::ended`]; after that, signals go to a number that still has
//! members or, for the moment of one system call, to nobody.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tracing::debug;

/// How long a command may take to end once it was told to.
pub const GRACE: Duration = Duration::from_secs(10);
/// How long processes may take to go that were killed: they do at once, unless the kernel keeps them.
const AFTER_KILL: Duration = Duration::from_secs(2);
/// How long what a command has started may outlive it, as the members of a shell's pipe do for a moment.
const MOMENT: Duration = Duration::from_secs(1);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The guard. It heeds none of the signals that this program heeds, or it would be gone before.
const GUARD: &str = "trap '' HUP INT QUIT TERM; while read -r _; do :; done; \
    kill -s TERM -- \"-$1\" && kill -s CONT -- \"-$1\" || exit 0; \
    i=0; while [ $i -lt 100 ]; do sleep 0.1; kill -s 0 -- \"-$1\" || exit 0; i=$((i+1)); done; \
    kill -s KILL -- \"-$1\"";

/// A command that runs.
pub struct Group {
    leader: Child,
    pid: Pid,
    status: Option<ExitStatus>,
    guard: Child,
    _pipe: Option<ChildStdin>,
}

impl Group {
    /// Starts it.
    pub fn start(command: &mut Command) -> io::Result<Group> {
        let mut leader = command.process_group(0).spawn()?;
        let pid = Pid::from_raw(i32::try_from(leader.id()).map_err(io::Error::other)?);
        let guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "citus-fence-guard", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match guard {
            Ok(mut guard) => {
                let pipe = guard.stdin.take();
                Ok(Group { leader, pid, status: None, guard, _pipe: pipe })
            }
            Err(error) => {
                signal(pid, Signal::SIGKILL);
                let _ = leader.wait();
                Err(error)
            }
        }
    }

    /// Its outputs, where they were piped.
    pub fn leader(&mut self) -> &mut Child {
        &mut self.leader
    }

    /// How the command ended, once it has. What it has started may still run.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.leader.try_wait()?;
        }
        Ok(self.status)
    }

    /// Tells all of it to end, and does not wait.
    pub fn tell(&self) {
        // Not collected yet, or with members: the number is the group's.
        if self.status.is_none() {
            signal(self.pid, Signal::SIGTERM);
        }
    }

    /// Whether what the command has started has ended too, by itself, within a moment. The command has.
    pub fn left_nothing(&mut self) -> bool {
        self.is_gone_within(MOMENT)
    }

    /// Ends all that is left of it, and tells how the command ended.
    pub fn end(mut self, grace: Duration) -> Option<ExitStatus> {
        self.finish(grace);
        self.status
    }

    /// Ends all that is left of it.
    pub fn finish(&mut self, grace: Duration) {
        // First, or it would signal a number that is not ours any more.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        if self.is_gone() {
            return;
        }
        debug!("ending process group {}", self.pid);
        signal(self.pid, Signal::SIGTERM);
        // One that is stopped would not see it.
        signal(self.pid, Signal::SIGCONT);
        if self.is_gone_within(grace) {
            return;
        }
        debug!("killing process group {}", self.pid);
        signal(self.pid, Signal::SIGKILL);
        if !self.is_gone_within(AFTER_KILL) {
            debug!("process group {} is still there", self.pid);
        }
    }

    fn is_gone_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            if self.is_gone() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether nothing is left. The command itself is collected by this.
    fn is_gone(&mut self) -> bool {
        let collected = !matches!(self.ended(), Ok(None));
        collected && (killpg(self.pid, None) == Err(Errno::ESRCH) || !is_alive(self.pid))
    }
}

/// Whether any process of a group still runs. One that has ended and that nobody collects, as in a container whose first
/// process is none that does, is still in its group, and does nothing any more.
fn is_alive(group: Pid) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return true };
    let stats = entries.flatten().filter_map(|entry| {
        let is_process = entry.file_name().to_str()?.starts_with(|c: char| c.is_ascii_digit());
        is_process.then(|| std::fs::read_to_string(entry.path().join("stat")).ok()).flatten()
    });
    let mut seen = false;
    for stat in stats {
        seen = true;
        // After the name, which may have anything in it: state, parent, group.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, of) = (fields.next(), fields.nth(1));
        let is_member = of.and_then(|of| of.parse().ok()) == Some(group.as_raw());
        if is_member && !matches!(state, Some("Z" | "X")) {
            return true;
        }
    }
    // Where processes are not shown, nothing is known.
    !seen
}

impl Drop for Group {
    fn drop(&mut self) {
        self.finish(GRACE);
    }
}

/// Signals a group, which may be gone.
fn signal(group: Pid, signal: Signal) {
    if let Err(error) = killpg(group, signal) {
        debug!("{signal} to group {group}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn first_line(group: &mut Group) -> String {
        use std::io::{BufRead, BufReader};
        let out = group.leader().stdout.take().expect("its output");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn runs(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    }

    #[test]
    fn what_a_command_has_started_ends_with_it() {
        let mut group = Group::start(&mut shell("sleep 600 & echo $!; wait")).expect("a group");
        let grandchild = first_line(&mut group);
        assert!(runs(&grandchild));
        let status = group.end(GRACE).expect("a status");
        assert!(!status.success());
        assert!(!runs(&grandchild));
    }

    #[test]
    fn one_that_does_not_listen_is_killed() {
        use std::os::unix::process::ExitStatusExt;
        let mut group =
            Group::start(&mut shell("trap '' TERM; echo ready; while :; do sleep 600; done"))
                .expect("a group");
        assert_eq!(first_line(&mut group), "ready");
        let status = group.end(Duration::from_millis(50)).expect("a status");
        assert_eq!(status.signal(), Some(9));
    }

    #[test]
    fn a_command_that_ends_by_itself_keeps_its_code() {
        let mut group = Group::start(&mut shell("exit 7")).expect("a group");
        let end = Instant::now() + Duration::from_secs(30);
        while group.ended().expect("a wait").is_none() {
            assert!(Instant::now() < end, "it does not end");
            std::thread::yield_now();
        }
        assert_eq!(group.end(GRACE).and_then(|status| status.code()), Some(7));
    }
}
