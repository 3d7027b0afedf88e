//! `make demo`: what backups of a Citus cluster under load look like with the block and without it, and who waits while
//! one of its workers is split.
//!
//! Everything is real and measured: servers, two-phase commits, `citus-fence backup` and `restore`, and, without the
//! block, `pg_basebackup` of each node. Nothing is left behind.

mod command;
mod console;
mod error;
mod outcome;
mod picture;
mod psql;
mod report;
mod scenario;
mod split;
mod split_picture;
mod svg;
mod timeline;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use test_cluster::{Bank, Cluster, Engine, HOST, Installation, Mark, SUPERUSER};

use crate::console::Console;
use crate::error::{DemoError, Result};
use crate::outcome::Outcome;
use crate::report::{cents, comparison, plural, seconds};
use crate::scenario::{Scenario, Stage};

const DATABASE: &str = "bank";

/// In cents.
const OPENING_BALANCE: i64 = 100_000;

/// How often copies without the block are tried until they show damage.
const MOST_ROUNDS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EngineChoice {
    /// The catalog that comes with this repository, on plain PostgreSQL
    Embedded,
    /// The real extension, which has to be installed
    Citus,
}

/// Moves money between the nodes of a cluster, copies the nodes with the block and without it,
/// restores the copies and audits them; then splits a worker under load. Exits with 1 when the copies
/// with the block are damaged or those without it are not, or the split has lost a write, and with 2 when there is no verdict.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// What makes the cluster's catalog
    #[arg(long, value_enum, env = "CITUS_FENCE_ENGINE", default_value = "embedded")]
    engine: EngineChoice,

    /// How many workers; the coordinator comes on top
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8))]
    workers: u8,

    /// How many accounts
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=100_000))]
    accounts: u32,

    /// How many writers at each node
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    writers: u8,

    /// Without the block: how long to wait between the copy of one node and that of the next
    #[arg(long, value_name = "MS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(0..=20_000))]
    delay_ms: u64,

    /// Where to put the picture
    #[arg(long, value_name = "PATH", default_value = "target/demo/fence.svg")]
    svg: PathBuf,

    /// Where to put the picture of the split
    #[arg(long, value_name = "PATH", default_value = "target/demo/split.svg")]
    split_svg: PathBuf,

    /// Leave all clusters running at the end, say how to reach them, and wait for Enter
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo came to no verdict: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether the demo showed what it is to show.
fn run(args: &Args) -> Result<bool> {
    let console = Console::new();
    let engine = choose(args.engine)?;
    let installation = Installation::current()?;
    let workers = usize::from(args.workers);
    let server = installation.version().split(" (").next().unwrap_or_default().to_owned();

    console.plain(format!("citus_fence demo: {} on {server}", named(engine)));
    console.busy("starting servers");
    let mut cluster = Cluster::builder(engine).workers(workers).database(DATABASE).build()?;
    let ports: Vec<String> =
        cluster.nodes().iter().map(|node| format!("{} :{}", node.name(), node.port())).collect();
    console.say(format!("started {}", ports.join(", ")));
    console.busy("opening accounts");
    let bank = Bank::create(&cluster, args.accounts, OPENING_BALANCE)?;
    console.say(format!(
        "{} accounts with {} each, spread over the workers: {} in all",
        bank.accounts(),
        cents(OPENING_BALANCE),
        cents(bank.expected_total())
    ));
    let stage = Stage {
        console: &console,
        cluster: &cluster,
        bank: &bank,
        writers_per_node: usize::from(args.writers),
        delay: Duration::from_millis(args.delay_ms),
    };

    console.heading("A. citus-fence backup: copies of all nodes, under a block");
    let with = stage.play(Scenario::WithBlock, "with", &[])?;

    console.heading("B. The same copies, by a script without the block");
    let without = play_until_damaged(&stage, &with.watch.summary.acknowledged)?;

    console.heading("The same cluster, copied twice");
    console.block(comparison(&with, &without));
    let holds = conclude(&console, &with, &without);

    let subtitle = format!(
        "Coordinator and {workers} workers, {} on {server}; {} moving money at every node; \
         {} ms between the copies without the block",
        named(engine),
        plural(stage.writers_per_node, "writer", "writers"),
        args.delay_ms,
    );
    let picture = picture::compare(&stage.names(), subtitle, &with, &without);
    write_picture(&args.svg, &timeline::draw(&picture))?;
    console.say(format!("drawn: {}", args.svg.display()));

    console.heading("C. A worker is split under load: its replica becomes a worker");
    let subtitle = format!(
        "Coordinator and {workers} workers, {} on {server}; at every node a writer of shards that move, and one of shards that stay",
        named(engine)
    );
    let split = split::play(&console, &mut cluster, &subtitle)?;
    write_picture(&args.split_svg, &split_picture::draw(&split.picture))?;
    console.say(format!("drawn: {}", args.split_svg.display()));
    console.say(format!("the whole took {}", seconds(console.elapsed())));

    if args.keep {
        let kept = [&cluster, &with.restored, &without.restored];
        wait_for_enter(&console, &["original", "with the block", "without"], &kept)?;
    }
    Ok(holds && split.is_whole)
}

fn choose(choice: EngineChoice) -> Result<Engine> {
    let engine = match choice {
        EngineChoice::Embedded => Engine::Embedded,
        EngineChoice::Citus => Engine::Citus,
    };
    let installation = Installation::current()?;
    for (extension, advice) in [
        (engine.catalog_extension(), "Install it into this PostgreSQL, or choose another engine."),
        ("citus_fence", "`make demo` installs it and then runs this."),
    ] {
        if !installation.has_extension(extension) {
            return Err(DemoError::NotInstalled {
                what: format!(
                    "the extension {extension} is not installed: there is no {}",
                    installation.extension_control(extension).display()
                ),
                advice,
            });
        }
    }
    Ok(engine)
}

fn named(engine: Engine) -> &'static str {
    match engine {
        Engine::Embedded => "embedded catalog",
        Engine::Citus => "Citus",
    }
}

/// Copies without the block can be whole by luck. Every round has the same odds, and what is shown
/// is the first with damage, or the last.
fn play_until_damaged(stage: &Stage, before: &[Mark]) -> Result<Outcome> {
    let mut before = before.to_vec();
    let mut round = 1;
    loop {
        let outcome = stage.play(Scenario::WithoutBlock, &format!("without-{round}"), &before)?;
        if outcome.is_torn() || round == MOST_ROUNDS {
            return Ok(outcome);
        }
        round += 1;
        stage
            .console
            .say(format!("these copies are whole by luck; round {round} of at most {MOST_ROUNDS}"));
        before.extend(outcome.watch.summary.acknowledged);
    }
}

/// Says what came out, and whether it is what the demo promises.
fn conclude(console: &Console, with: &Outcome, without: &Outcome) -> bool {
    if with.is_whole() {
        console.say("with the block: not a cent is missing");
    } else if with.audit.is_clean() {
        console.say("with the block: the books are right, but nothing is proved");
    } else {
        console.say(format!("WITH THE BLOCK THE COPIES ARE DAMAGED: {}", with.audit));
    }
    for complaint in &with.complaints {
        console.say(format!("  {complaint}"));
    }
    if without.is_torn() {
        console.say("without it: the copies do not fit together");
    } else {
        console.say(format!(
            "without it: no damage in {MOST_ROUNDS} rounds, so this run shows nothing; \
             try a larger --delay-ms"
        ));
    }
    with.is_whole() && without.is_torn()
}

fn write_picture(path: &Path, svg: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(DemoError::file("create", folder))?;
    }
    fs::write(path, svg).map_err(DemoError::file("write", path))
}

fn wait_for_enter(console: &Console, names: &[&str], clusters: &[&Cluster]) -> Result<()> {
    console.quiet();
    console.plain("\nAll clusters are up:");
    for (name, cluster) in names.iter().zip(clusters) {
        for node in cluster.nodes() {
            console.plain(format!(
                "  {name:<15} psql -h {HOST} -p {} -U {SUPERUSER} {DATABASE}   # {}",
                node.port(),
                node.name()
            ));
        }
    }
    console.plain("Enter ends them.");
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(DemoError::file("read", "standard input"))?;
    Ok(())
}
