//! `citus-fence restore-dump` beside pg_restore, of the same eight tables, in turns, with and without keys.

use test_cluster::{Cluster, Engine, Result};

use crate::dump::{TABLES, fill_all, ratios};
use crate::figures::Table;
use crate::program::{Room, Way, fence, run, theirs, times_in_turns};

const DUMPS: [Way; 3] = [
    Way { name: "pg_restore -j2", program: "pg_dump", words: &["-Fd", "-j2", "-t", "stored*"] },
    Way { name: "restore-dump", program: "citus-fence", words: &["--quiet"] },
    Way {
        name: "restore-dump of a binary dump",
        program: "citus-fence",
        words: &["--quiet", "--format", "binary"],
    },
];

/// Whose ratio has a bar: the text alone keeps both processors busy in the server, for whoever sends it.
const BARS: [&str; 3] = ["", "", ">= 1.25"];

/// Rounds in which each restores the same megabytes.
pub fn measure(engine: Engine, megabytes: u32, rounds: usize, table: &mut Table) -> Result<()> {
    let build = || Cluster::builder(engine).workers(1).setting("autovacuum", "off").build();
    let source = build()?;
    fill_all(&source, megabytes)?;
    let target = build()?;
    for keys in ["no keys", "primary keys"] {
        if keys != "no keys" {
            for number in 0..TABLES {
                let add = format!("ALTER TABLE stored{number} ADD PRIMARY KEY (id)");
                source.coordinator().execute(&add)?;
            }
        }
        let room = Room::new()?;
        for way in &DUMPS {
            way.dump(&source, &room.path(way.name))?;
        }
        let mut peak = 0;
        let times: [_; DUMPS.len()] = times_in_turns(rounds, |index| {
            let mut command = match index {
                0 => theirs("pg_restore", &target)?,
                _ => fence("restore-dump", &target)?,
            };
            let words = if index == 0 { ["-j", "2"] } else { ["-q", "-j2"] };
            let (time, memory) = run(command.args(words).arg(room.path(DUMPS[index].name)))?;
            if index > 0 {
                peak = peak.max(memory);
            }
            let tables: Vec<String> = (0..TABLES).map(|number| format!("stored{number}")).collect();
            // That both have restored them all, the first of these shows.
            let drop = |option: &str| format!("DROP TABLE {option} {}", tables.join(", "));
            target.coordinator().execute(&drop(""))?;
            // Without Citus the schema is on every node.
            target.execute_everywhere(&drop("IF EXISTS"))?;
            target.coordinator().execute("CHECKPOINT")?;
            Ok(time)
        })?;
        for (index, way) in DUMPS.iter().enumerate() {
            table.times(&format!("{}, {keys}", way.name), &times[index], "");
            if index > 0 {
                let what = format!("pg_restore / {}, {keys}", way.name);
                table.ratios(&what, ratios(&times[0], &times[index]), BARS[index]);
            }
        }
        let memory = format!("{} MB (<= 64)", peak >> 10);
        table.note(&format!("restore-dump, {keys}: most memory of the command"), &memory);
    }
    Ok(())
}
