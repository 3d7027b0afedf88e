//! How long block and unblock take on an idle cluster.

use std::time::{Duration, Instant};

use test_cluster::postgres::Client;
use test_cluster::{Cluster, Result};

use crate::figures::Table;
use crate::floor::Floor;

/// Pairs of a floor and a block, in turns, so that what else the machine does hits both alike.
pub fn measure(cluster: &Cluster, rounds: usize, table: &mut Table) -> Result<()> {
    let floor = Floor::new(cluster);
    let mut client = cluster.connect(0)?;
    let (mut floors, mut blocks, mut unblocks) = (Vec::new(), Vec::new(), Vec::new());
    let mut quiet = Quiet::new(cluster)?;
    // The first of each fills caches and is not counted.
    for round in 0..=rounds {
        quiet.wait();
        let floor = floor.once();
        quiet.wait();
        let block = timed(&mut client, "SELECT citus_block_writes_for_backup()");
        let unblock = timed(&mut client, "SELECT citus_unblock_writes_for_backup()");
        if round > 0 {
            floors.push(floor);
            blocks.push(block);
            unblocks.push(unblock);
        }
    }
    let locking = locking_times(&cluster.coordinator().log());
    table.times("floor: connect to all and lock all", &floors, "");
    table.times("block", &blocks, "");
    let ratio = |(block, floor): (&Duration, &Duration)| block.as_secs_f64() / floor.as_secs_f64();
    let ratios = blocks.iter().zip(&floors).map(ratio).collect();
    table.ratios("block / floor, pair by pair", ratios, "p50 <= 1.5");
    table.times("unblock", &unblocks, "p50 <= 5 ms");
    table.times("first lock asked for to last lock held", &locking, "p50 <= 3 ms");
    Ok(())
}

/// Knows when the server processes of what was measured before are all gone: their ends are to be nobody's
/// time.
struct Quiet {
    watchers: Vec<Client>,
}

impl Quiet {
    fn new(cluster: &Cluster) -> Result<Self> {
        let watchers =
            (0..cluster.nodes().len()).map(|node| cluster.connect(node)).collect::<Result<_>>()?;
        Ok(Self { watchers })
    }

    fn wait(&mut self) {
        for (number, watcher) in self.watchers.iter_mut().enumerate() {
            // The watcher itself, and on the coordinator the session that is measured.
            let own = if number == 0 { 2i64 } else { 1 };
            let sessions = "SELECT count(*) FROM pg_stat_activity \
                 WHERE (backend_type = 'client backend' AND application_name NOT LIKE 'citus_internal%') \
                    OR backend_type LIKE 'citus_fence%'";
            while watcher.query_one(sessions, &[]).expect("a look").get::<_, i64>(0) > own {
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

/// What the fence itself says in the server's log.
fn locking_times(log: &str) -> Vec<Duration> {
    log.lines()
        .filter_map(|line| line.split_once(" ms from first to last lock"))
        .filter_map(|(before, _)| before.rsplit(' ').next()?.parse::<f64>().ok())
        .skip(1)
        .map(|ms| Duration::from_secs_f64(ms / 1e3))
        .collect()
}
