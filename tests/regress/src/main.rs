//! Runs PostgreSQL's own testers, `pg_regress` and `pg_isolation_regress`, on whole clusters.
//!
//! ```text
//! cargo run --package regress -- regress
//! cargo run --package regress -- isolation --engine citus --only race_for_the_block
//! ```
//!
//! Each engine gets a fresh cluster of a coordinator and two workers, with the bank of [`bank`] on it.
//! What is run, and what it must print, is in `pg_regress/`; the same expected output serves both
//! engines.  The tester's lines per test go to standard output as they are.
//!
//! A new test needs a line in a schedule and a file in `expected/`.  A run without that file fails, and
//! leaves what was printed in `target/pg_regress/<suite>-<engine>/results/`: read it, then copy it.

mod bank;
mod tester;

use std::fs;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use test_cluster::{Cluster, Engine};

use tester::Tester;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Runs PostgreSQL's own testers on whole clusters.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which of the testers.
    suite: Suite,
    /// On this engine only; else on each that is available, or that CITUS_FENCE_ENGINE names.
    #[arg(long)]
    engine: Option<EngineName>,
    /// Only these tests, in this order, instead of the schedule.
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
}

/// What there is to run.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    /// SQL files in psql: one session after another.
    Regress,
    /// Specs in isolationtester: several sessions at once.
    Isolation,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Regress => "regress",
            Suite::Isolation => "isolation",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum EngineName {
    Embedded,
    Citus,
}

impl From<EngineName> for Engine {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Embedded => Engine::Embedded,
            EngineName::Citus => Engine::Citus,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the suite on one engine after the other; true if all tests passed on all of them.
fn run(arguments: &Arguments) -> Result<bool> {
    let engines = match arguments.engine {
        Some(engine) => vec![engine.into()],
        None => Engine::available(),
    };
    let tester = Tester::find(arguments.suite)?;
    let mut all_passed = true;
    for engine in engines {
        println!("# {} tests on {engine}", arguments.suite.name());
        let cluster = Cluster::builder(engine)
            .workers(2)
            // Nothing here looks at what survives a crash.
            .fsync(false)
            // Citus' own recovery would wait for a block now and then, and show up as a waiter.
            .setting("citus.recover_2pc_interval", "-1")
            .build()?;
        bank::create(&cluster, &tester.sources)?;
        if let Suite::Isolation = arguments.suite {
            let setup = fs::read_to_string(tester.sources.join("setup_isolation.sql"))?;
            cluster.coordinator().execute(&setup)?;
        }
        all_passed &= tester.run(&cluster, &arguments.only)?;
    }
    Ok(all_passed)
}
