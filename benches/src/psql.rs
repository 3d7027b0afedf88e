//! A block as somebody sees it who types it into psql with `\timing` on: one every half second, each beside
//! a floor at the same pace.  By then the processor's caches have forgotten the one before.

use std::thread;
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Psql, Result};

use crate::figures::Table;
use crate::floor::Floor;
use crate::turns;

/// From the beginning of one to that of the next.
const PACE: Duration = Duration::from_millis(500);

/// A floor and a block in turns; which comes first changes from pair to pair.
pub fn measure(cluster: &Cluster, rounds: usize, table: &mut Table) -> Result<()> {
    let floor = Floor::new(cluster);
    let mut psql = (Paced::new(cluster)?, Beat::default());
    // The first of each fills caches and is not counted.
    psql.0.once(&mut psql.1)?;
    floor.once();
    let times = turns::pairs(
        &mut psql,
        rounds,
        |(psql, beat)| psql.once(beat),
        |(_, beat)| {
            beat.wait();
            Ok(floor.once())
        },
    )?;
    let (blocks, floors): (Vec<_>, Vec<_>) = times.iter().copied().unzip();
    table.times("floor, one each half second", &floors, "");
    table.times("block as psql times it, one each half second", &blocks, "");
    let ratios = turns::ratios_of(&times, |time| *time);
    table.ratios("the same / its floor, pair by pair", ratios, "p50 <= 1.5");
    Ok(())
}

/// Blocks at that pace.
pub struct Paced {
    psql: Psql,
}

impl Paced {
    /// Starts a psql.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        Ok(Self { psql: cluster.coordinator().psql_session()? })
    }

    /// Blocks, at the next beat, and unblocks; what psql says of the block.
    pub fn once(&mut self, beat: &mut Beat) -> Result<Duration> {
        beat.wait();
        let block = self.psql.time("SELECT citus_block_writes_for_backup()")?;
        self.psql.time("SELECT citus_unblock_writes_for_backup()")?;
        Ok(block)
    }
}

/// When the last one began, whosever it was.
#[derive(Default)]
pub struct Beat {
    last: Option<Instant>,
}

impl Beat {
    fn wait(&mut self) {
        if let Some(last) = self.last {
            thread::sleep(PACE.saturating_sub(last.elapsed()));
        }
        self.last = Some(Instant::now());
    }
}
