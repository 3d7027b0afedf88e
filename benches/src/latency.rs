//! How long block and unblock take on an idle cluster.

use std::time::{Duration, Instant};

use test_cluster::postgres::Client;
use test_cluster::{Cluster, Engine, Result};

use crate::figures::Table;
use crate::floor::Floor;

/// Pairs of a floor and a block, in turns, so that what else the machine does hits both alike.
pub fn measure(cluster: &Cluster, rounds: usize, table: &mut Table) -> Result<()> {
    let floor = Floor::new(cluster);
    let mut idle = Idle::new(cluster)?;
    let (mut floors, mut blocks, mut unblocks) = (Vec::new(), Vec::new(), Vec::new());
    let mut lockings = Vec::new();
    // The first of each fills caches and is not counted.
    for round in 0..=rounds {
        idle.quiet();
        let floor = floor.once();
        idle.quiet();
        let times = idle.once();
        if round > 0 {
            floors.push(floor);
            blocks.push(times.block);
            unblocks.push(times.unblock);
            lockings.push(times.locking);
        }
    }
    table.times("floor: connect to all and lock all", &floors, "");
    table.times("block", &blocks, "");
    let ratio = |(block, floor): (&Duration, &Duration)| block.as_secs_f64() / floor.as_secs_f64();
    let ratios = blocks.iter().zip(&floors).map(ratio).collect();
    let target = match cluster.engine() {
        Engine::Citus => "p50 <= 1.25",
        // Without Citus' own start of each session the same work is a larger share.
        Engine::Embedded => "p50 <= 1.35",
    };
    table.ratios("block / floor, pair by pair", ratios, target);
    table.times("unblock", &unblocks, "p50 <= 1 ms");
    table.times("first lock asked for to last lock held", &lockings, "p50 <= 1 ms");
    Ok(())
}

/// A block after the other on a cluster that has nothing else to do.
pub struct Idle<'a> {
    cluster: &'a Cluster,
    client: Client,
    quiet: Quiet,
}

/// How long one block took.
pub struct Times {
    /// Until it held.
    pub block: Duration,
    /// Until it was gone.
    pub unblock: Duration,
    /// First lock asked for to last lock held.
    pub locking: Duration,
}

impl<'a> Idle<'a> {
    /// Connects.
    pub fn new(cluster: &'a Cluster) -> Result<Self> {
        // The watcher itself, and on the coordinator the session that is measured.
        let own = |node| if node == 0 { 2 } else { 1 };
        Ok(Self { cluster, client: cluster.connect(0)?, quiet: Quiet::new(cluster, own)? })
    }

    /// Waits until the server processes of what was measured before are gone.
    pub fn quiet(&mut self) {
        self.quiet.wait();
    }

    /// Blocks and unblocks.
    pub fn once(&mut self) -> Times {
        let block = timed(&mut self.client, "SELECT citus_block_writes_for_backup()");
        let unblock = timed(&mut self.client, "SELECT citus_unblock_writes_for_backup()");
        let locking = last_locking_time(&self.cluster.coordinator().log());
        Times { block, unblock, locking: locking.expect("the time of the locks in the log") }
    }
}

/// Knows when the server processes of what was measured before are all gone: their ends are to be nobody's
/// time.
struct Quiet {
    watchers: Vec<(Client, i64)>,
}

impl Quiet {
    /// With so many sessions of its own on a node, one of them the watcher.
    fn new(cluster: &Cluster, own: impl Fn(usize) -> i64) -> Result<Self> {
        let watch = |node| Ok((cluster.connect(node)?, own(node)));
        let watchers = (0..cluster.nodes().len()).map(watch).collect::<Result<_>>()?;
        Ok(Self { watchers })
    }

    /// Waits for that.
    fn wait(&mut self) {
        for (watcher, own) in &mut self.watchers {
            let sessions = "SELECT count(*) FROM pg_stat_activity \
                 WHERE (backend_type = 'client backend' AND application_name NOT LIKE 'citus_internal%') \
                    OR backend_type LIKE 'citus_fence%'";
            while watcher.query_one(sessions, &[]).expect("a look").get::<_, i64>(0) > *own {
                std::thread::yield_now();
            }
        }
    }
}

fn timed(client: &mut Client, sql: &str) -> Duration {
    let begun = Instant::now();
    let done: bool = client.query_one(sql, &[]).expect("a call that works").get(0);
    assert!(done, "{sql}");
    begun.elapsed()
}

/// What the fence itself says in the server's log of the last block.
fn last_locking_time(log: &str) -> Option<Duration> {
    let (before, _) = log.rsplit_once(" ms from first to last lock")?;
    let ms: f64 = before.rsplit(' ').next()?.parse().ok()?;
    Some(Duration::from_secs_f64(ms / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_last_time_in_the_log() {
        let log = "beginning 9.1 ms, 0.80 ms from first to last lock, flushing\n\
                   beginning 9.1 ms, 0.70 ms from first to last lock, flushing\n";
        assert_eq!(last_locking_time(log), Some(Duration::from_secs_f64(0.7e-3)));
        assert_eq!(last_locking_time(""), None);
    }
}
