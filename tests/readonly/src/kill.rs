//! Ways to die.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{PATIENCE, Result, Server, StopMode, wait_until};

/// How a node, or a part of it, is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// The process that serves the caller, or any client's: the server starts all others anew.
    Backend,
    /// The postmaster; the others leave by themselves.
    Postmaster,
    /// All processes at once, as a power failure does.
    Everything,
    /// The immediate shutdown.
    Immediate,
}

impl Kill {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Backend, Self::Postmaster, Self::Everything, Self::Immediate];

    /// Strikes, and returns once the node answers again. `call` is part of what the backend to be
    /// killed runs, or ran last; when there is none, a session of our own is struck.
    pub fn strike(self, node: &Server, call: &str) -> Result<()> {
        match self {
            Self::Backend => {
                // Held until the end, so that there is one.
                let mut own = node.connect()?;
                let own_pid = crate::value(&mut own, "SELECT pg_backend_pid()");
                let find = format!(
                    "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()
                       AND backend_type = 'client backend' AND position('{call}' IN query) > 0
                     ORDER BY pid = {own_pid} LIMIT 1"
                );
                let pid = node.query(&find)?.into_iter().flatten().flatten().next();
                let pid = pid.unwrap_or(own_pid);
                Self::kill_process(node, pid.parse().expect("a process"))
            }
            Self::Postmaster => {
                node.kill_postmaster(Signal::SIGKILL)?;
                node.start()
            }
            Self::Everything => {
                node.crash()?;
                node.start()
            }
            Self::Immediate => {
                node.stop(StopMode::Immediate)?;
                node.start()
            }
        }
    }

    /// Kills one process of a running server, and returns once the server has started anew.
    pub fn kill_process(node: &Server, pid: i32) -> Result<()> {
        let ready = "database system is ready to accept connections";
        let before = node.log().matches(ready).count();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
        wait_until("the server to start anew", PATIENCE, || {
            (node.log().matches(ready).count() > before && node.connect().is_ok()).then_some(())
        })
    }
}
