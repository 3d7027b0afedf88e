//! What a test process that is killed leaves behind: nothing.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use test_cluster::{PATIENCE, Result, Server, wait_until};

/// Set in the process that is to be killed.
const VICTIM: &str = "TEST_CLUSTER_VICTIM";

const MARK: &str = "postmaster ";

/// Not a test of its own: the part of the process that is killed.
#[test]
fn victim() -> Result<()> {
    if std::env::var_os(VICTIM).is_none() {
        return Ok(());
    }
    // Started by a thread that ends at once, as a cluster's servers are.
    let server = thread::spawn(|| Server::builder("orphan").start()).join().unwrap()?;
    println!("{MARK}{} {}", server.pid()?, server.data_dir().display());
    loop {
        thread::park();
    }
}

#[test]
fn servers_and_folders_do_not_outlive_a_killed_owner() -> Result<()> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(std::result::Result::ok)
        .find_map(|line| line.split_once(MARK).map(|(_, rest)| rest.to_owned()))
        .unwrap();
    let (pid, data) = line.split_once(' ').unwrap();
    let process = std::path::PathBuf::from(format!("/proc/{pid}"));
    assert!(process.exists());

    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("the end of the orphaned postmaster", PATIENCE, || {
        // Whoever adopts it may be slow to collect it.
        let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    })?;

    // The folder is cleared away by the next process that starts servers.
    let sweeper = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sweeper"])
        .status()
        .unwrap();
    assert!(sweeper.success());
    assert!(!std::path::Path::new(data).exists());
    Ok(())
}

/// Starts a server, and with that sweeps.
#[test]
fn sweeper() -> Result<()> {
    Server::builder("sweeper").start().map(drop)
}
