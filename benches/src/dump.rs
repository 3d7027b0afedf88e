//! `citus-fence dump` beside pg_dump, of the same eight tables, in turns.

use std::fs;
use std::time::Duration;

use test_cluster::{Cluster, Engine, Result};

use crate::figures::Table;
use crate::program::{Room, Way, size, times_in_turns};

pub const TABLES: u32 = 8;

/// The first is what the others are compared with.
const WAYS: [Way; 4] = [
    Way { name: "pg_dump -Fd -j2", program: "pg_dump", words: &["-Fd", "-j2"] },
    Way { name: "pg_dump -Fd -j2 -Z0", program: "pg_dump", words: &["-Fd", "-j2", "-Z0"] },
    Way { name: "citus-fence dump", program: "citus-fence", words: &["--quiet"] },
    Way {
        name: "citus-fence dump, binary, not compressed",
        program: "citus-fence",
        words: &["--quiet", "--compress", "none", "--format", "binary"],
    },
];

/// What people store: numbers, words that repeat, a little noise.
pub fn fill(cluster: &Cluster, table: &str, megabytes: u64) -> Result<()> {
    cluster.coordinator().execute(&format!(
        "CREATE TABLE {table} AS SELECT n AS id, n % 1000 AS customer, now() - n * interval '1 s' AS at,
                (random() * 1e6)::numeric(12, 2) AS amount, 'order number ' || n || ' of ' || md5(n::text) AS note
           FROM generate_series(1, {}) n",
        megabytes * 8000
    ))
}

/// The eight tables.
pub fn fill_all(cluster: &Cluster, megabytes: u32) -> Result<()> {
    for number in 0..TABLES {
        fill(cluster, &format!("stored{number}"), u64::from(megabytes / TABLES))?;
    }
    cluster.coordinator().execute("CHECKPOINT")
}

/// Rounds in which each way dumps the same megabytes.
pub fn measure(engine: Engine, megabytes: u32, rounds: usize, table: &mut Table) -> Result<()> {
    let cluster = Cluster::builder(engine).workers(1).setting("autovacuum", "off").build()?;
    fill_all(&cluster, megabytes)?;
    let room = Room::new()?;
    let mut bytes = [0; WAYS.len()];
    let times: [Vec<Duration>; WAYS.len()] = times_in_turns(rounds, |index| {
        let dir = room.path("dump");
        let (time, _) = WAYS[index].dump(&cluster, &dir)?;
        bytes[index] = size(&dir);
        let _ = fs::remove_dir_all(&dir);
        Ok(time)
    })?;
    for (index, way) in WAYS.iter().enumerate() {
        table.times(way.name, &times[index], "");
        table.note(&format!("  {}: on disk", way.name), &format!("{} MB", bytes[index] >> 20));
    }
    table.ratios("pg_dump / citus-fence dump", ratios(&times[0], &times[2]), ">= 4");
    let binary = ratios(&times[1], &times[3]);
    table.ratios("pg_dump -Z0 / citus-fence dump, binary", binary, ">= 1.2");
    Ok(())
}

/// The times of one by those of another, round by round.
pub fn ratios(of: &[Duration], by: &[Duration]) -> Vec<f64> {
    of.iter().zip(by).map(|(of, by)| of.as_secs_f64() / by.as_secs_f64()).collect()
}
