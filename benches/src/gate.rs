//! The price of the gate: pgbench with the library and without it, in turns; and how long closing an idle
//! gate takes.

use std::time::{Duration, Instant};

use test_cluster::postgres::Client;
use test_cluster::{Engine, Result, Server, ServerBuilder};

use crate::figures::Table;
use crate::instructions::instructions;
use crate::load::{Load, Tables, libraries, restart, server};
use crate::turns::Rates;

/// How long the runs are, and how many.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Pairs of runs, with and without.
    pub pairs: usize,
    /// Seconds of a run.
    pub seconds: u32,
    /// Closings of an idle gate.
    pub closings: usize,
}

/// The loads, what they are called, and what their rates are to be.
pub const LOADS: [(Load, &str, &str); 2] = [
    (Load::Read, "pgbench -S", "interval has 1.00"),
    (Load::Write, "pgbench TPC-B", "p50 >= 0.98"),
];

/// Measures all of it.
pub fn measure(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    rates(engine, plan, table)?;
    closings(engine, plan, table)
}

/// Two servers with the same tables, one with the gate and one without, in short runs.  Halfway they swap, so
/// what else differs between them is for the gate as often as against it.
fn rates(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    let servers = [
        server(Server::builder("first"), Tables::Plain)?,
        server(Server::builder("second"), Tables::Plain)?,
    ];
    let seconds = plan.seconds.to_string();
    for (load, what, target) in LOADS {
        let mut rates = Rates::default();
        for half in 0..2 {
            let (gated, plain) = (&servers[half], &servers[1 - half]);
            restart(gated, engine, true)?;
            restart(plain, engine, false)?;
            rates.take(load, (gated, plain), plan.pairs.div_ceil(2), &seconds)?;
        }
        rates.show(&format!("{what}: rate with the gate / without"), target, table);
        // After the swap it is the second that has the gate.
        let counts = (instructions(&servers[1], load)?, instructions(&servers[0], load)?);
        table.counts(&format!("{what}: instructions per transaction with / without"), counts);
    }
    Ok(())
}

/// An idle server's gate, closed and opened.
pub struct Idle {
    client: Client,
    // Dropped after its client.
    _server: Server,
}

impl Idle {
    /// Starts the server.
    pub fn start(engine: Engine, builder: ServerBuilder, fsync: bool) -> Result<Self> {
        let mut server = builder.fsync(fsync).setting("autovacuum", "off");
        for library in libraries(engine, true).split(',') {
            server = server.preload(library);
        }
        let server = server.start()?;
        let catalog = engine.catalog_extension();
        server.execute(&format!("CREATE EXTENSION {catalog}; CREATE EXTENSION citus_fence"))?;
        Ok(Self { client: server.connect()?, _server: server })
    }

    /// How long closing takes, and opening.
    pub fn once(&mut self) -> (Duration, Duration) {
        let begun = Instant::now();
        self.client.batch_execute("SELECT alter_system_read_only()").expect("a closed gate");
        let closing = begun.elapsed();
        let begun = Instant::now();
        self.client.batch_execute("SELECT alter_system_read_write()").expect("an open gate");
        let opening = begun.elapsed();
        // Something to be flushed.
        self.client.batch_execute("SELECT txid_current()").expect("a write");
        (closing, opening)
    }
}

fn closings(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    for (fsync, what, target) in [
        (false, "closing an idle gate, without fsync", "p50 <= 5 ms"),
        (true, "closing an idle gate, as it is", ""),
    ] {
        let mut idle = Idle::start(engine, Server::builder("idle"), fsync)?;
        let (closings, openings): (Vec<_>, Vec<_>) =
            (0..plan.closings).map(|_| idle.once()).unzip();
        table.times(what, &closings, target);
        table.times(&what.replace("closing an idle", "opening a"), &openings, "");
    }
    Ok(())
}
