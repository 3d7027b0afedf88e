//! `citus-fence dump` and `restore-dump` beside pg_dump and pg_restore, of the same eight tables, in turns.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Engine, Error, HOST, Installation, Result, SUPERUSER};

use crate::figures::Table;

const TABLES: u32 = 8;

/// One way to dump.
struct Way {
    name: &'static str,
    program: &'static str,
    words: &'static [&'static str],
}

/// The first is what the others are compared with.
const WAYS: [Way; 4] = [
    Way { name: "pg_dump -Fd -j2", program: "pg_dump", words: &["-Fd", "-j2"] },
    Way { name: "pg_dump -Fd -j2 -Z0", program: "pg_dump", words: &["-Fd", "-j2", "-Z0"] },
    Way { name: "citus-fence dump", program: "citus-fence", words: &["dump", "--quiet"] },
    Way {
        name: "citus-fence dump, binary, not compressed",
        program: "citus-fence",
        words: &["dump", "--quiet", "--compress", "none", "--format", "binary"],
    },
];

/// Rounds in which each way dumps the same megabytes.
pub fn measure(engine: Engine, megabytes: u32, rounds: usize, table: &mut Table) -> Result<()> {
    let cluster = Cluster::builder(engine).workers(1).setting("autovacuum", "off").build()?;
    for number in 0..TABLES {
        // What people store: numbers, words that repeat, a little noise.
        cluster.coordinator().execute(&format!(
            "CREATE TABLE stored{number} AS SELECT n AS id, n % 1000 AS customer, now() - n * interval '1 s' AS at,
                    (random() * 1e6)::numeric(12, 2) AS amount, 'order number ' || n || ' of ' || md5(n::text) AS note
               FROM generate_series(1, {}) n",
            u64::from(megabytes) * 8000 / u64::from(TABLES)
        ))?;
    }
    cluster.coordinator().execute("CHECKPOINT")?;
    let room = tempfile_folder()?;
    let mut times: [Vec<Duration>; WAYS.len()] = Default::default();
    let mut bytes = [0; WAYS.len()];
    for round in 0..rounds {
        for (index, way) in WAYS.iter().enumerate() {
            let dir = room.join(format!("{round}-{index}"));
            let began = Instant::now();
            dump(&cluster, way, &dir)?;
            times[index].push(began.elapsed());
            bytes[index] = size(&dir);
            let _ = fs::remove_dir_all(&dir);
        }
    }
    let _ = fs::remove_dir_all(&room);
    for (index, way) in WAYS.iter().enumerate() {
        table.times(way.name, &times[index], "");
        table.note(&format!("  {}: on disk", way.name), &format!("{} MB", bytes[index] >> 20));
    }
    let ratio = |a: usize, b: usize| -> Vec<f64> {
        times[a].iter().zip(&times[b]).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect()
    };
    table.ratios("pg_dump / citus-fence dump", ratio(0, 2), ">= 4");
    table.ratios("pg_dump -Z0 / citus-fence dump, binary", ratio(1, 3), ">= 1.2");
    Ok(())
}

fn dump(cluster: &Cluster, way: &Way, dir: &Path) -> Result<()> {
    let installation = Installation::current()?;
    let port = cluster.coordinator().port().to_string();
    let mut command = Command::new(installation.program(way.program));
    command.args(way.words).args(["-h", HOST, "-p", &port, "-U", SUPERUSER]);
    command.args(["-d", cluster.database()]);
    match way.program {
        "pg_dump" => command.arg("-f").arg(dir),
        _ => command.args(["--jobs", "2", "--bindir"]).arg(installation.bindir()).arg(dir),
    };
    let output = command.output().map_err(|error| Error::Environment(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Environment(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

fn tempfile_folder() -> Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("dump-bench-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|error| Error::Environment(error.to_string()))?;
    Ok(folder)
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
