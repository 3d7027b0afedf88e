//! What happens to a cluster in the middle of a split.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{
    Cluster, Link, PATIENCE, Replica, Result, Server, StopMode, Stopped, wait_until,
};

use crate::bed::{OTHER, SOURCE};

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The coordinator.
    Coordinator,
    /// The node that is split.
    Source,
    /// Its replica.
    Clone,
    /// A worker that has no part in it but its metadata.
    Other,
}

impl Victim {
    /// All of them.
    pub const ALL: [Victim; 4] =
        [Victim::Coordinator, Victim::Source, Victim::Clone, Victim::Other];

    fn server<'a>(self, cluster: &'a Cluster, replica: &'a Replica) -> &'a Server {
        match self {
            Victim::Coordinator => cluster.coordinator(),
            Victim::Source => cluster.node(SOURCE),
            Victim::Clone => replica.server(),
            Victim::Other => cluster.node(OTHER),
        }
    }

    fn link<'a>(self, cluster: &'a Cluster, replica: &'a Replica) -> &'a Link {
        match self {
            Victim::Coordinator => cluster.link(0),
            Victim::Source => cluster.link(SOURCE),
            Victim::Clone => replica.link().expect("a cluster with links"),
            Victim::Other => cluster.link(OTHER),
        }
    }
}

/// What happens to him.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All processes of a server die at once, and it is started again.
    Crash(Victim),
    /// Its immediate shutdown, and a start.
    Immediate(Victim),
    /// Its ordinary shutdown, and a start.
    Restart(Victim),
    /// It stands still for a while.
    Freeze(Victim),
    /// The link to it is cut for a while.
    Cut(Victim),
    /// The link to it swallows everything for a while.
    Silence(Victim),
    /// SIGKILL for the process that drives the split: its server starts all others anew.
    KillDriver,
    /// It stands still for a while.
    FreezeDriver,
    /// pg_terminate_backend for it.
    EndDriver,
    /// The session that made the call is terminated.
    EndCaller,
    /// Its call is cancelled.
    CancelCaller,
}

/// A fault that lasts until it is healed.
pub struct Lasting<'a> {
    fault: Fault,
    cluster: &'a Cluster,
    replica: &'a Replica,
    stopped: Option<Stopped>,
}

/// How the driver's process calls itself: what it is part of, and what it does.
const DRIVER: &str = "backend_type LIKE 'citus_fence%' AND backend_type LIKE '%clone%'";
/// How to find the caller.
const CALLER: &str =
    "backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()
    AND query LIKE '%citus_promote_clone_and_rebalance(%'";

impl Fault {
    /// All of them, for everyone.
    pub fn all() -> Vec<Fault> {
        let of_servers = [
            Fault::Crash,
            Fault::Immediate,
            Fault::Restart,
            Fault::Freeze,
            Fault::Cut,
            Fault::Silence,
        ];
        let mut all: Vec<Fault> =
            of_servers.iter().flat_map(|fault| Victim::ALL.map(fault)).collect();
        all.extend([
            Fault::KillDriver,
            Fault::FreezeDriver,
            Fault::EndDriver,
            Fault::EndCaller,
            Fault::CancelCaller,
        ]);
        all
    }

    /// Whether it is one of a link, which a cluster has to be built with.
    pub fn needs_links(self) -> bool {
        matches!(self, Fault::Cut(_) | Fault::Silence(_))
    }

    /// Strikes. What dies is there again when this returns; what lasts, lasts as long as the value.
    pub fn strike<'a>(self, cluster: &'a Cluster, replica: &'a Replica) -> Result<Lasting<'a>> {
        let mut lasting = Lasting { fault: self, cluster, replica, stopped: None };
        match self {
            Fault::Crash(victim) => {
                let server = victim.server(cluster, replica);
                server.crash()?;
                server.start()?;
            }
            Fault::Immediate(victim) => {
                let server = victim.server(cluster, replica);
                server.stop(StopMode::Immediate)?;
                server.start()?;
            }
            Fault::Restart(victim) => victim.server(cluster, replica).restart()?,
            Fault::Freeze(victim) => victim.server(cluster, replica).freeze()?,
            Fault::Cut(victim) => victim.link(cluster, replica).cut()?,
            Fault::Silence(victim) => victim.link(cluster, replica).freeze()?,
            Fault::KillDriver => kill_driver(cluster)?,
            Fault::FreezeDriver => {
                lasting.stopped = Some(Stopped::process(pid_of(cluster, DRIVER)?)?)
            }
            Fault::EndDriver => signal(cluster, "pg_terminate_backend", DRIVER)?,
            Fault::EndCaller => signal(cluster, "pg_terminate_backend", CALLER)?,
            Fault::CancelCaller => signal(cluster, "pg_cancel_backend", CALLER)?,
        }
        Ok(lasting)
    }
}

impl Lasting<'_> {
    /// Whether it is one that lasts.
    pub fn lasts(&self) -> bool {
        match self.fault {
            Fault::Freeze(_) | Fault::Cut(_) | Fault::Silence(_) | Fault::FreezeDriver => true,
            Fault::Crash(_)
            | Fault::Immediate(_)
            | Fault::Restart(_)
            | Fault::KillDriver
            | Fault::EndDriver
            | Fault::EndCaller
            | Fault::CancelCaller => false,
        }
    }

    /// Ends it.
    pub fn heal(self) -> Result<()> {
        let Lasting { fault, cluster, replica, stopped } = self;
        drop(stopped);
        match fault {
            Fault::Freeze(victim) => victim.server(cluster, replica).thaw(),
            Fault::Cut(victim) | Fault::Silence(victim) => victim.link(cluster, replica).heal(),
            Fault::Crash(_)
            | Fault::Immediate(_)
            | Fault::Restart(_)
            | Fault::KillDriver
            | Fault::FreezeDriver
            | Fault::EndDriver
            | Fault::EndCaller
            | Fault::CancelCaller => Ok(()),
        }
    }
}

fn pid_of(cluster: &Cluster, whom: &str) -> Result<i32> {
    let pid = cluster
        .coordinator()
        .query_value(&format!("SELECT pid FROM pg_stat_activity WHERE {whom} LIMIT 1"))?;
    Ok(pid.parse().expect("a process"))
}

/// Whether a process drives a split.
pub fn is_driven(cluster: &Cluster) -> Result<bool> {
    let look = format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {DRIVER})");
    Ok(cluster.coordinator().query_value(&look)? == "t")
}

/// Kills the driver, and returns once its server has started anew.
fn kill_driver(cluster: &Cluster) -> Result<()> {
    const READY: &str = "database system is ready to accept connections";
    let coordinator = cluster.coordinator();
    let pid = pid_of(cluster, DRIVER)?;
    let before = coordinator.log().matches(READY).count();
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
    wait_until("the coordinator to start anew", PATIENCE, || {
        (coordinator.log().matches(READY).count() > before && coordinator.connect().is_ok())
            .then_some(())
    })
}

/// Signals a process of the coordinator, and waits until that has come to its attention: it is gone, or its
/// statement is another one.
fn signal(cluster: &Cluster, function: &str, whom: &str) -> Result<()> {
    const NOTICED: Duration = Duration::from_secs(10);
    let coordinator = cluster.coordinator();
    let pid = pid_of(cluster, whom)?;
    coordinator.execute(&format!("SELECT {function}({pid})"))?;
    // One that has to finish what it is at is left to it.
    let _ = wait_until("the end of a process", NOTICED, || {
        let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND {whom}");
        (coordinator.query_value(&there).ok()? == "0").then_some(())
    });
    Ok(())
}
