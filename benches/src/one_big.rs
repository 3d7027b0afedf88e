//! One big table among small ones: what two jobs make of it, beside one and beside pg_dump, which does not split a
//! table. And the most memory that a dump has in use, of this table and of one of an eighth.

use std::fs;

use test_cluster::{Cluster, Engine, Result};

use crate::dump::{fill, ratios};
use crate::figures::Table;
use crate::program::{Room, Way, times_in_turns};

const SMALL: u32 = 8;

const fn ours(name: &'static str, words: &'static [&'static str]) -> Way {
    Way { name, program: "citus-fence", words }
}

const WAYS: [Way; 6] = [
    Way { name: "one big: pg_dump -Fd -j2 -Z0", program: "pg_dump", words: &["-Fd", "-j2", "-Z0"] },
    ours("one big: text, 1 job", &["-q", "--compress", "none", "-j", "1"]),
    ours("one big: text, 2 jobs", &["-q", "--compress", "none", "-j", "2"]),
    ours("one big: binary, 1 job", &["-q", "--compress", "none", "--format", "binary", "-j", "1"]),
    ours("one big: binary, 2 jobs", &["-q", "--compress", "none", "--format", "binary", "-j", "2"]),
    ours("one big: zstd, 2 jobs", &["-q", "-j", "2"]),
];

/// Rounds in which each way dumps them.
pub fn measure(engine: Engine, megabytes: u32, rounds: usize, table: &mut Table) -> Result<()> {
    let cluster = Cluster::builder(engine).workers(1).setting("autovacuum", "off").build()?;
    fill(&cluster, "big", u64::from(megabytes / 8))?;
    for number in 0..SMALL {
        fill(&cluster, &format!("small{number}"), 1)?;
    }
    let room = Room::new()?;
    let dir = room.path("dump");
    let mut peaks = Vec::new();
    let once = |index: usize, peaks: &mut Vec<u64>| {
        let (time, peak) = WAYS[index].dump(&cluster, &dir)?;
        if WAYS[index].program == "citus-fence" {
            peaks.push(peak);
        }
        let _ = fs::remove_dir_all(&dir);
        Ok(time)
    };
    for index in 0..WAYS.len() {
        once(index, &mut peaks)?;
    }
    let of_an_eighth = peaks.iter().copied().max().unwrap_or(0);
    peaks.clear();
    cluster.coordinator().execute("DROP TABLE big")?;
    fill(&cluster, "big", u64::from(megabytes))?;
    cluster.coordinator().execute("CHECKPOINT")?;
    let times: [_; WAYS.len()] = times_in_turns(rounds, |index| once(index, &mut peaks))?;
    for (way, times) in WAYS.iter().zip(&times) {
        table.times(way.name, times, "");
    }
    table.ratios("one big: text, 1 job / 2 jobs", ratios(&times[1], &times[2]), ">= 1.4");
    table.ratios("one big: binary, 1 job / 2 jobs", ratios(&times[3], &times[4]), ">= 1.5");
    table.ratios("one big: pg_dump -Z0 / text, 2 jobs", ratios(&times[0], &times[2]), "> 1");
    table.ratios("one big: pg_dump -Z0 / binary, 2 jobs", ratios(&times[0], &times[4]), "> 1");
    let peak = peaks.iter().copied().max().unwrap_or(0);
    let memory = format!("{} MB, of an eighth of it {} MB (<= 64)", peak >> 10, of_an_eighth >> 10);
    table.note("one big: most memory of the command", &memory);
    Ok(())
}
