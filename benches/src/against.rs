//! This build beside another: servers of both at the same time, in turns, and for every figure the ratio of
//! the new to the old with the interval that holds its true median 19 times of 20 (by order statistics).

use test_cluster::{Cluster, Engine, Installation, Result, Server};

use crate::figures::Table;
use crate::gate::{self, Plan};
use crate::instructions::instructions;
use crate::latency;
use crate::load::{Tables, restart, server};
use crate::psql::Paced;
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
    let (mut first, mut second) = (latency::Idle::new(new)?, latency::Idle::new(old)?);
    // The first of each fills caches and is not counted.
    first.once();
    second.once();
    let (mut blocks, mut unblocks, mut lockings) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (new, old) = if round % 2 == 0 {
            let new = first.once();
            (new, second.once())
        } else {
            let old = second.once();
            (first.once(), old)
        };
        let note = |ratios: &mut Vec<f64>, new: std::time::Duration, old: std::time::Duration| {
            ratios.push(new.as_secs_f64() / old.as_secs_f64());
        };
        note(&mut blocks, new.block, old.block);
        note(&mut unblocks, new.unblock, old.unblock);
        note(&mut lockings, new.locking, old.locking);
    }
    table.interval("block: new / old", blocks, SAME);
    table.interval("unblock: new / old", unblocks, SAME);
    table.interval("first lock asked for to last lock held: new / old", lockings, SAME);

    let mut psqls = (Paced::new(new)?, Paced::new(old)?);
    psqls.0.once()?;
    psqls.1.once()?;
    let paced = turns::ratios(
        &mut psqls,
        rounds,
        |(new, _)| Ok(new.once()?.as_secs_f64()),
        |(_, old)| Ok(old.once()?.as_secs_f64()),
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
pub fn gate(engine: Engine, old: &Installation, plan: Plan, table: &mut Table) -> Result<()> {
    let seconds = plan.seconds.to_string();
    let servers = (
        server(Server::builder("new"), Tables::Plain)?,
        server(Server::builder("old").installation(old), Tables::Plain)?,
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
        let mut new = gate::Idle::start(engine, Server::builder("new"), fsync)?;
        let builder = Server::builder("old").installation(old);
        let mut old = gate::Idle::start(engine, builder, fsync)?;
        new.once();
        old.once();
        let (mut closings, mut openings) = (Vec::new(), Vec::new());
        for round in 0..plan.closings {
            let (new, old) = if round % 2 == 0 {
                let new = new.once();
                (new, old.once())
            } else {
                let old = old.once();
                (new.once(), old)
            };
            closings.push(new.0.as_secs_f64() / old.0.as_secs_f64());
            openings.push(new.1.as_secs_f64() / old.1.as_secs_f64());
        }
        table.interval(&format!("closing an idle gate, {how}: new / old"), closings, SAME);
        table.interval(&format!("opening a gate, {how}: new / old"), openings, SAME);
    }
    Ok(())
}
