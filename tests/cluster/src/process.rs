//! The processes of a server, as the operating system sees them: starting a postmaster so that it
//! does not outlive the test, and finding, stopping and killing what belongs to it. It reads
//! `/proc`, so it is for Linux only.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use crate::error::{Error, Result};
use crate::wait::wait_until;

/// A process of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// Its title, such as `postgres: worker1: checkpointer`.
    pub title: String,
}

/// A single process that stands still (SIGSTOP) as long as this value lives.
#[derive(Debug)]
pub struct Stopped(i32);

impl Stopped {
    /// Stops a process, and returns once it stands still.
    pub fn process(pid: i32) -> Result<Stopped> {
        let failed = |errno| Error::Environment(format!("cannot stop process {pid}: {errno}"));
        signal(pid, Signal::SIGSTOP).map_err(failed)?;
        await_state(pid, 'T');
        Ok(Stopped(pid))
    }

    /// Lets it go on.
    pub fn go_on(self) {}
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal(self.0, Signal::SIGCONT);
    }
}

/// A program that goes away with this value, and is not asked first.
#[derive(Debug)]
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        // What fails here has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The most memory that a process of this machine has had in use so far, in kB; none once it has ended.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A request to the starter thread, and where the answer goes.
type StartRequest = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a postmaster that is shut down when this process dies, however it dies.
///
/// The kernel sends that signal when the *thread* that started the child ends. Test threads come
/// and go, so all servers are started by one thread that lives as long as the process.
pub(crate) fn start_postmaster(mut command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<StartRequest>> = OnceLock::new();

    let owner = getpid();
    let die_with_owner = move || {
        // An immediate shutdown: the postmaster takes its children with it and removes its socket.
        prctl::set_pdeathsig(Signal::SIGQUIT)?;
        // The owner may have died before the line above.
        if getppid() == owner { Ok(()) } else { Err(io::Error::from(Errno::ESRCH)) }
    };
    // Ctrl-C in a terminal is for the test process, whose death then ends the servers.
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes two
    // plain system calls (prctl and getppid), allocates nothing and takes no lock. It runs after
    // the change of user, which would clear the setting.
    unsafe {
        command.pre_exec(die_with_owner);
    }

    let starter = STARTER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<StartRequest>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Whoever asked may have gone, and then nobody owns the child.
                if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        });
        requests
    });
    let (answer, result) = mpsc::channel();
    starter
        .send((command, answer))
        .map_err(|_| io::Error::other("the thread that starts servers is gone"))?;
    result.recv().map_err(|_| io::Error::other("the thread that starts servers is gone"))?
}

/// The direct children of a process. All processes of a server are children of its postmaster.
pub(crate) fn children_of(parent: i32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .map(|pid| Process { pid, title: title_of(pid) })
        .collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may itself contain any of them.
    let after_command = &stat[stat.rfind(')')? + 1..];
    after_command.split_whitespace().nth(1)?.parse().ok()
}

/// The state letter of a process: `R`, `S`, `T` (stopped), `Z` (dead, not collected) and so on.
fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

fn title_of(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Sends a signal; that the process is already gone is no failure.
pub(crate) fn signal(pid: i32, signal: Signal) -> nix::Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// Stops (`SIGSTOP`) a postmaster and everything below it, and returns once all of it stands still.
pub(crate) fn stop_tree(postmaster: i32) -> nix::Result<()> {
    // The postmaster first: from then on no new child appears.
    let mut stopped = HashSet::new();
    signal(postmaster, Signal::SIGSTOP)?;
    await_state(postmaster, 'T');
    loop {
        let fresh: Vec<i32> = children_of(postmaster)
            .into_iter()
            .map(|process| process.pid)
            .filter(|pid| stopped.insert(*pid))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for pid in &fresh {
            signal(*pid, Signal::SIGSTOP)?;
        }
        for pid in fresh {
            await_state(pid, 'T');
        }
    }
}

/// Lets a stopped postmaster and everything below it go on.
pub(crate) fn continue_tree(postmaster: i32) -> nix::Result<()> {
    for process in children_of(postmaster) {
        signal(process.pid, Signal::SIGCONT)?;
    }
    signal(postmaster, Signal::SIGCONT)
}

/// Kills a postmaster and everything below it, as a power failure does.
pub(crate) fn kill_tree(postmaster: i32) -> nix::Result<()> {
    // Stopped first, so that nobody cleans up after anybody: a postmaster that sees a child die
    // begins a restart, and a child that sees its postmaster die begins to exit.
    stop_tree(postmaster)?;
    let children = children_of(postmaster);
    signal(postmaster, Signal::SIGKILL)?;
    for process in children {
        signal(process.pid, Signal::SIGKILL)?;
    }
    Ok(())
}

fn await_state(pid: i32, wanted: char) {
    // A process that ends meanwhile is as good as a stopped one, and one that never stops (it hangs
    // in the kernel) is left to the caller's own time limits.
    let _ = wait_until("a process to stop", Duration::from_secs(5), || match state_of(pid) {
        None | Some('Z' | 'X') => Some(()),
        Some(state) => (state == wanted).then_some(()),
    });
}

/// All processes that work in a data directory. PostgreSQL's do from their first moment, and unlike
/// parenthood this is still so after the postmaster has died.
pub(crate) fn processes_in(data: &Path) -> Vec<Process> {
    let (Ok(data), Ok(entries)) = (fs::canonicalize(data), fs::read_dir("/proc")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| is_alive(*pid))
        .map(|pid| Process { pid, title: title_of(pid) })
        .collect()
}

/// Whether a process exists and has not ended.
pub(crate) fn is_alive(pid: i32) -> bool {
    !matches!(state_of(pid), None | Some('Z' | 'X'))
}
