//! Measurements of the backup block and of the gate, each beside what it is to be compared with, in one run.
//!
//! ```text
//! make bench                        # embedded catalog
//! make bench BENCH_ARGS='--engine citus'
//! make bench BENCH_ARGS='--only gate'
//! ```
//!
//! | file | question |
//! | --- | --- |
//! | `latency.rs` | how long do block and unblock take, and how much of it is the floor |
//! | `floor.rs` | what a bare program needs for the same connections and locks |
//! | `throughput.rs` | what do writers and readers that need not wait notice of a block |
//! | `gate.rs` | what does the gate cost writers and readers, and how long does closing it take |
//! | `instructions.rs` | the same in instructions of the processor, which no other load disturbs |
//! | `figures.rs` | medians, and the table |

mod figures;
mod floor;
mod gate;
mod instructions;
mod latency;
mod throughput;

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
    /// block or gate; without it both.
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
    let wants = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let mut table = Table::default();
    if wants("block") {
        println!("{} workers on {}, all on this machine", options.workers, engine.name());
        let cluster = Cluster::builder(engine)
            .workers(options.workers)
            .setting("autovacuum", "off")
            .build()?;
        latency::measure(&cluster, options.rounds, &mut table)?;
        throughput::measure(&cluster, options.pairs, &mut table)?;
        if options.log {
            print!("{}", cluster.coordinator().log());
        }
    }
    if wants("gate") {
        println!("a server with and without the library, {}", engine.name());
        let plan = gate::Plan {
            pairs: options.gate_pairs,
            seconds: options.gate_seconds,
            closings: options.rounds,
        };
        gate::measure(engine, plan, &mut table)?;
    }
    print!("{table}");
    Ok(())
}
