//! Servers that freeze under a block: the program ends in bounded time, names the server and says what to do.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{Running, command, start};
use fence_tests::on_each_engine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{Cluster, HOST, Installation, PATIENCE, Result, SUPERUSER, wait_for_sql};

/// What ending a group of processes and a block may take beside what is waited for.
const ENDING: Duration = Duration::from_secs(30);

fn backup(cluster: &Cluster, name: &str, lease: &str) -> Result<Running> {
    let port = cluster.coordinator().port().to_string();
    let bindir = Installation::current()?.bindir().display().to_string();
    let dir = cluster.copy_target(name, 0)?.with_file_name("backup");
    let mut backup: Command =
        command(&["backup", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
    backup.args(["--bindir", &bindir, "--max-rate", "32k", "--lease", lease]).arg(dir);
    // What an earlier one has left, on a node that was frozen, is not taken for this one.
    for node in 0..cluster.nodes().len() {
        let none = "SELECT count(*) = 0 FROM pg_stat_progress_basebackup";
        wait_for_sql(&mut cluster.connect(node)?, none, PATIENCE)?;
    }
    let running = start(&mut backup);
    for node in 0..cluster.nodes().len() {
        let copying = "SELECT count(*) > 0 FROM pg_stat_progress_basebackup";
        wait_for_sql(&mut cluster.connect(node)?, copying, PATIENCE)?;
    }
    Ok(running)
}

#[test]
fn a_frozen_worker_is_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let worker = format!("{HOST}:{}", cluster.catalog_port(1));
        // With the longer lease the coordinator says so; with the shorter one that comes after the lease.
        for lease in ["24s", "3s"] {
            let running = backup(&cluster, lease, lease)?;
            let began = Instant::now();
            cluster.worker(1).freeze()?;
            let ended = running.ended()?.expect(1);
            cluster.worker(1).thaw()?;
            ended.complains_of(&["did not last", &worker, "hint: See to the server that is named"]);
            assert!(began.elapsed() < Duration::from_secs(24) + ENDING, "{:?}", began.elapsed());
            let over = "SELECT state IN ('inactive', 'error') FROM citus_backup_block_status()";
            wait_for_sql(&mut cluster.connect(0)?, over, PATIENCE)?;
        }
        Ok(())
    });
}

#[test]
fn a_frozen_coordinator_is_waited_for_no_longer_than_the_lease_and_a_signal_ends_that() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let coordinator = cluster.coordinator();
        let place = format!("{HOST}:{}", coordinator.port());
        let running = backup(&cluster, "lease", "6s")?;
        let began = Instant::now();
        coordinator.freeze()?;
        let ended = running.ended()?.expect(1);
        assert!(began.elapsed() < Duration::from_secs(6) + ENDING, "{:?}", began.elapsed());
        coordinator.thaw()?;
        ended.complains_of(&["cannot be renewed", "is lost unless", "did not last", &place]);

        let over = "SELECT state IN ('inactive', 'error') FROM citus_backup_block_status()";
        wait_for_sql(&mut cluster.connect(0)?, over, PATIENCE)?;
        let mut running = backup(&cluster, "told", "30min")?;
        coordinator.freeze()?;
        let began = Instant::now();
        let pid = i32::try_from(running.child().id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a signal");
        let ended = running.ended()?.expect(1);
        assert!(began.elapsed() < ENDING, "{:?}", began.elapsed());
        coordinator.thaw()?;
        ended.complains_of(&["ended by SIGTERM"]);
        Ok(())
    });
}
