//! With `synchronous_commit = off` a commit gives up its locks before its WAL is on disk.  Plain copies
//! of the files, as a disk snapshot sees them, taken the moment the block is active, hold whole
//! transactions all the same.  The control holds the same locks and does not flush.
//!
//! Nor does the server's WAL writer, which stands still: with `wal_writer_flush_after = 0` it is woken by every
//! such commit since PostgreSQL 17, and nothing was left to lose.

use fence_tests::{
    BLOCK, Bank, Client, Cluster, Engine, PATIENCE, Result, UNBLOCK, call, on_each_engine,
};
use test_cluster::{Audit, Stopped, Writers};

const ROUNDS: usize = 8;
const CONTROL_ROUNDS: usize = 8;

/// What the fence does, less the flush.
const BARE_LOCKS: &str = "BEGIN; LOCK TABLE pg_catalog.pg_dist_node, pg_catalog.pg_dist_partition, \
     pg_catalog.pg_dist_transaction IN EXCLUSIVE MODE";

/// As long as the values live, WAL reaches the disk only by who waits for it, or needs the room.
fn stop_wal_writers(cluster: &Cluster) -> Result<Vec<Stopped>> {
    let pid = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
    cluster
        .nodes()
        .iter()
        .map(|node| Stopped::process(node.query_value(pid)?.parse().expect("a process id")))
        .collect()
}

fn copy_files(cluster: &Cluster, round: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut copies = Vec::new();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let copy = cluster.copy_target(round, number)?;
        node.copy_files(&copy)?;
        copies.push(copy);
    }
    Ok(copies)
}

fn audit(cluster: &Cluster, bank: &Bank, copies: &[std::path::PathBuf]) -> Result<Audit> {
    bank.audit(&cluster.restore(copies)?, std::iter::empty())
}

fn control_round(cluster: &Cluster, bank: &Bank, writers: &Writers, round: usize) -> Result<Audit> {
    writers.wait_for_more(50, PATIENCE)?;
    // One after the other, like the fence: the coordinator first.
    let mut holders = Vec::new();
    for node in 0..cluster.nodes().len() {
        let mut holder: Client = cluster.connect(node)?;
        holder.batch_execute(BARE_LOCKS).expect("the locks");
        holders.push(holder);
    }
    let copies = copy_files(cluster, &format!("bare{round}"))?;
    for mut holder in holders {
        holder.batch_execute("ROLLBACK").expect("a rollback");
    }
    audit(cluster, bank, &copies)
}

#[test]
fn a_disk_snapshot_under_the_block_holds_whole_transactions() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("synchronous_commit", "off")
            .setting("wal_writer_delay", "10s")
            .setting("autovacuum", "off")
            .setting("checkpoint_timeout", "1h")
            .setting("max_wal_size", "8GB")
            .build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let still = stop_wal_writers(&cluster)?;
        let writers = bank.start_writers(&cluster, 2)?;
        let mut client = cluster.connect(0)?;
        for round in 0..ROUNDS {
            writers.wait_for_more(50, PATIENCE)?;
            assert!(call(&mut client, BLOCK));
            let copies = copy_files(&cluster, &format!("blocked{round}"))?;
            assert!(call(&mut client, UNBLOCK));
            let audit = audit(&cluster, &bank, &copies)?;
            assert!(audit.is_clean(), "round {round}: {audit}");
        }
        let damaged = (0..CONTROL_ROUNDS).any(|round| {
            let audit = control_round(&cluster, &bank, &writers, round).expect("the control runs");
            !audit.is_clean()
        });
        assert!(damaged, "locks without a flush show no damage: this test shows nothing");
        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        drop(still);
        Ok(())
    });
}
