//! Measurements of the backup block and of the gate, each beside what it is to be compared with, in one run.
//!
//! ```text
//! make bench                        # embedded catalog
//! make bench BENCH_ARGS='--engine citus'
//! make bench BENCH_ARGS='--only gate'
//! make bench BENCH_ARGS='--against v0.1.0'      # that commit beside this one, in turns
//! ```
//!
//! | file | question |
//! | --- | --- |
//! | `latency.rs` | how long do block and unblock take, and how much of it is the floor |
//! | `psql.rs` | the same as psql times it, one block each half second |
//! | `snapshot.rs` | how long does a cluster snapshot take, and hold writers |
//! | `split.rs` | how long does a clone split keep writers waiting |
//! | `backup.rs` | what does `citus-fence backup` add to the copies, and to the time that writers are held |
//! | `restore.rs` | what `citus-fence restore` adds to what the servers themselves need |
//! | `dump.rs` | `citus-fence dump` beside pg_dump |
//! | `restore_dump.rs` | `citus-fence restore-dump` beside pg_restore, and its memory |
//! | `one_big.rs` | what two jobs make of one big table, and how much memory a dump needs |
//! | `many_shards.rs` | how long a dump of many shards needs for its plan, and how many locks it holds |
//! | `program.rs` | running a program: its time and its memory |
//! | `floor.rs` | what a bare program needs for the same connections and locks |
//! | `throughput.rs` | what do writers and readers that need not wait notice of a block |
//! | `gate.rs` | what does the gate cost writers and readers, and how long does closing it take |
//! | `partitions.rs` | what does it cost where a transaction has more locks than the fast path takes |
//! | `instructions.rs` | the same in instructions of the processor, which no other load disturbs |
//! | `load.rs` | pgbench: its transactions, servers for it, its rate |
//! | `against.rs` | every figure, this build by that of another commit |
//! | `other_build.rs` | that commit, built and installed beside this one |
//! | `turns.rs` | pairs in turns |
//! | `figures.rs` | medians, and the table |

mod against;
mod backup;
mod dump;
mod figures;
mod floor;
mod gate;
mod instructions;
mod latency;
mod load;
mod many_shards;
mod one_big;
mod other_build;
mod partitions;
mod program;
mod psql;
mod restore;
mod restore_dump;
mod snapshot;
mod split;
mod throughput;
mod turns;

use clap::Parser;
use test_cluster::{Cluster, Engine, Result};

use figures::Table;

/// What can be chosen.
#[derive(Parser)]
#[command(
    about = "measures the backup block and the gate, side by side with what they are compared with"
)]
struct Options {
    /// embedded or citus
    #[arg(long, default_value = "embedded")]
    engine: String,
    /// Worker nodes.
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// Blocks, each paired with a floor.
    #[arg(long, default_value_t = 60)]
    rounds: usize,
    /// Pairs of intervals of single-shard load, outside and under a block.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// A commit whose build is measured beside this one: every figure is then the ratio of the new to the old.
    #[arg(long)]
    against: Option<String>,
    /// Clone splits, each on a cluster of its own.
    #[arg(long, default_value_t = 20)]
    splits: usize,
    /// How many shards there are when one node is split once, for its plan.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    shards: Vec<u32>,
    /// Megabytes of a node that is backed up, or dumped.
    #[arg(long, default_value_t = 1024)]
    megabytes: u32,
    /// Backups, and rounds of dumps.
    #[arg(long, default_value_t = 10)]
    copies: usize,
    /// How many shards there are when a dump is planned.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 100_000])]
    dump_shards: Vec<u32>,
    /// block, gate, partitions, snapshot, split, backup, restore, dump, one-big, restore-dump or
    /// many-shards; without it all.
    #[arg(long)]
    only: Option<String>,
    /// Pairs of runs of pgbench, with the gate and without.
    #[arg(long, default_value_t = 60)]
    gate_pairs: usize,
    /// Seconds of each.
    #[arg(long, default_value_t = 1)]
    gate_seconds: u32,
    /// Print the coordinator's log, which has the parts of each block's time.
    #[arg(long)]
    log: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let Some(engine) = Engine::available().into_iter().find(|e| e.name() == options.engine) else {
        eprintln!("there is no engine {} here", options.engine);
        std::process::exit(2);
    };
    let builds = options.against.as_deref().map(other_build::build).transpose()?;
    let wants = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let mut table = Table::default();
    if wants("block") {
        println!("{} workers on {}, all on this machine", options.workers, engine.name());
        let describe =
            || Cluster::builder(engine).workers(options.workers).setting("autovacuum", "off");
        let cluster = match &builds {
            None => describe().build()?,
            Some(builds) => describe().installation(&builds.new).build()?,
        };
        match &builds {
            None => {
                latency::measure(&cluster, options.rounds, &mut table)?;
                psql::measure(&cluster, options.rounds, &mut table)?;
                throughput::measure(&cluster, options.pairs, &mut table)?;
            }
            Some(builds) => {
                let old = describe().installation(&builds.old).build()?;
                against::block((&cluster, &old), options.rounds, options.pairs, &mut table)?;
            }
        }
        if options.log {
            print!("{}", cluster.coordinator().log());
        }
    }
    let plan = gate::Plan {
        pairs: options.gate_pairs,
        seconds: options.gate_seconds,
        closings: options.rounds,
    };
    if wants("gate") {
        println!("a server with and without the library, {}", engine.name());
        match &builds {
            None => gate::measure(engine, plan, &mut table)?,
            Some(builds) => against::gate(engine, builds, plan, &mut table)?,
        }
    }
    // That is between the gate and none, whichever build it is of.
    if wants("partitions") && builds.is_none() {
        println!("a server with and without the library, 64 partitions, {}", engine.name());
        partitions::measure(engine, plan, &mut table)?;
    }
    if wants("snapshot") && builds.is_none() {
        println!("{} workers on {}, all on this machine", options.workers, engine.name());
        let cluster =
            Cluster::builder(engine).workers(options.workers).setting("autovacuum", "off");
        snapshot::measure(&cluster.build()?, options.rounds, &mut table)?;
    }
    if wants("split") && builds.is_none() {
        println!("two workers, one of which is split, {}", engine.name());
        split::measure(engine, options.splits, &mut table)?;
        for shards in &options.shards {
            split::measure_many(engine, *shards, &mut table)?;
        }
    }
    if wants("backup") && builds.is_none() {
        println!("3 nodes of {} MB, {}, all on this machine", options.megabytes, engine.name());
        backup::measure(engine, options.megabytes, options.copies, &mut table)?;
    }
    if wants("restore") && builds.is_none() {
        println!("3 nodes of {} MB, {}, all on this machine", options.megabytes, engine.name());
        restore::measure(engine, options.megabytes, options.copies, &mut table)?;
    }
    if wants("dump") && builds.is_none() {
        println!("8 tables of {} MB altogether, {}", options.megabytes, engine.name());
        dump::measure(engine, options.megabytes, options.copies, &mut table)?;
    }
    if wants("one-big") && builds.is_none() {
        println!("a table of {} MB among small ones, {}", options.megabytes, engine.name());
        one_big::measure(engine, options.megabytes, options.copies, &mut table)?;
    }
    if wants("restore-dump") && builds.is_none() {
        println!("8 tables of {} MB altogether, {}", options.megabytes, engine.name());
        restore_dump::measure(engine, options.megabytes, options.copies, &mut table)?;
    }
    if wants("many-shards") && builds.is_none() {
        println!("empty shards on two workers, {}", engine.name());
        many_shards::measure(engine, &options.dump_shards, &mut table)?;
    }
    print!("{table}");
    Ok(())
}
