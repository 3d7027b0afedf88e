//! This build beside another: servers of both at the same time, in turns, and for every figure the ratio of
//! the new to the old with the interval that holds its true median 19 times of 20 (by order statistics).

use test_cluster::{Cluster, Engine, Result, Server};

use crate::figures::Table;
use crate::gate::{self, Plan};
use crate::instructions::instructions;
use crate::latency;
use crate::load::{Tables, restart, server};
use crate::other_build::Builds;
use crate::psql::{Beat, Paced};
use crate::throughput::{self, Loaded};
use crate::turns::{self, Rates};

/// What every time is to hold, and every rate.
const SAME: &str = "interval has 1.00 or is better";

/// The block: pairs of blocks, and of intervals under load.
pub fn block(
    (new, old): (&Cluster, &Cluster),
    rounds: usize,
    pairs: usize,
    table: &mut Table,
) -> Result<()> {
    let mut idle = (latency::Idle::new(new)?, latency::Idle::new(old)?);
    // The first of each fills caches and is not counted.
    idle.0.once();
    idle.1.once();
    // What one cluster still has to clear away is not to be the other's time.
    let quiet = |idle: &mut (latency::Idle, latency::Idle)| {
        idle.0.quiet();
        idle.1.quiet();
    };
    let times = turns::pairs(
        &mut idle,
        rounds,
        |idle| {
            quiet(idle);
            Ok(idle.0.once())
        },
        |idle| {
            quiet(idle);
            Ok(idle.1.once())
        },
    )?;
    drop(idle);
    for (what, ratios) in [
        ("block", turns::ratios_of(&times, |times| times.block)),
        ("unblock", turns::ratios_of(&times, |times| times.unblock)),
        ("first lock asked for to last lock held", turns::ratios_of(&times, |times| times.locking)),
    ] {
        table.interval(&format!("{what}: new / old"), ratios, SAME);
    }

    let mut psqls = (Paced::new(new)?, Paced::new(old)?, Beat::default());
    psqls.0.once(&mut psqls.2)?;
    psqls.1.once(&mut psqls.2)?;
    let paced = turns::ratios(
        &mut psqls,
        rounds,
        |(new, _, beat)| Ok(new.once(beat)?.as_secs_f64()),
        |(_, old, beat)| Ok(old.once(beat)?.as_secs_f64()),
    )?;
    table.interval("block as psql times it, one each half second: new / old", paced, SAME);

    let mut loaded = (Loaded::new(new)?, Loaded::new(old)?);
    for (load, what) in throughput::LOADS {
        let ratios = turns::ratios(
            &mut loaded,
            pairs,
            |(new, _)| Ok(new.rate(load)),
            |(_, old)| Ok(old.rate(load)),
        )?;
        table.interval(&format!("{what}: new / old"), ratios, SAME);
    }
    Ok(())
}

/// The gate: pgbench, both with the library, and an idle gate closed and opened.
pub fn gate(engine: Engine, builds: &Builds, plan: Plan, table: &mut Table) -> Result<()> {
    let seconds = plan.seconds.to_string();
    let servers = (
        server(Server::builder("new").installation(&builds.new), Tables::Plain)?,
        server(Server::builder("old").installation(&builds.old), Tables::Plain)?,
    );
    restart(&servers.0, engine, true)?;
    restart(&servers.1, engine, true)?;
    for (load, what, _) in gate::LOADS {
        let mut rates = Rates::default();
        rates.take(load, (&servers.0, &servers.1), plan.pairs, &seconds)?;
        rates.show(&format!("{what}: rate, new / old"), SAME, table);
        let counts = (instructions(&servers.0, load)?, instructions(&servers.1, load)?);
        table.counts(&format!("{what}: instructions per transaction, new / old"), counts);
    }
    drop(servers);

    for (fsync, how) in [(false, "without fsync"), (true, "as it is")] {
        let start = |name, installation| {
            gate::Idle::start(engine, Server::builder(name).installation(installation), fsync)
        };
        let mut idle = (start("new", &builds.new)?, start("old", &builds.old)?);
        idle.0.once();
        idle.1.once();
        let times = turns::pairs(
            &mut idle,
            plan.closings,
            |(new, _)| Ok(new.once()),
            |(_, old)| Ok(old.once()),
        )?;
        let closings = turns::ratios_of(&times, |(closing, _)| *closing);
        let openings = turns::ratios_of(&times, |(_, opening)| *opening);
        table.interval(&format!("closing an idle gate, {how}: new / old"), closings, SAME);
        table.interval(&format!("opening a gate, {how}: new / old"), openings, SAME);
    }
    Ok(())
}
