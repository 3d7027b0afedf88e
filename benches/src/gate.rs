//! The price of the gate: pgbench with the library and without it, in turns; and how long closing an idle
//! gate takes.

use std::thread;
use std::time::{Duration, Instant};

use test_cluster::{Engine, Result, Server};

use crate::figures::Table;
use crate::instructions::instructions;

/// Sessions of pgbench, where one server has the machine for itself; the machine has to serve them as well.
const BOTH: &str = "2";
/// Where two servers share it.
const HALF: &str = "1";
/// Size of pgbench's tables.
const SCALE: &str = "10";

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

/// Measures all of it.
pub fn measure(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    rates(engine, plan, table)?;
    closings(engine, plan, table)
}

/// What has to be in `shared_preload_libraries`.
fn libraries(engine: Engine, with_gate: bool) -> &'static str {
    match (engine, with_gate) {
        (Engine::Embedded, false) => "",
        (Engine::Embedded, true) => "citus_fence",
        (Engine::Citus, false) => "citus",
        (Engine::Citus, true) => "citus,citus_fence",
    }
}

/// A server with tables that fit into its memory.
fn server(name: &str) -> Result<Server> {
    let mut server = Server::builder(name);
    for (name, value) in [
        ("shared_buffers", "512MB"),
        ("autovacuum", "off"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
    ] {
        server = server.setting(name, value);
    }
    let server = server.start()?;
    server.pgbench_to_end(&["-i", "-q", "-s", SCALE])?;
    server.execute("CREATE EXTENSION pg_prewarm")?;
    Ok(server)
}

/// Starts it anew, with the gate or without, and its memory filled.
fn restart(server: &Server, engine: Engine, with_gate: bool) -> Result<()> {
    server.restart_with_libraries(libraries(engine, with_gate))?;
    server.execute("SELECT pg_prewarm(oid) FROM pg_class WHERE relname LIKE 'pgbench%'")?;
    server.pgbench_to_end(&["-n", "-S", "-T", "1", "-c", BOTH, "-j", BOTH])?;
    Ok(())
}

/// Leaves no dead rows in the small tables, of which every transaction updates one: what a run costs would
/// depend on how many ran before.
pub fn tidy(server: &Server) -> Result<()> {
    server.execute("TRUNCATE pgbench_history")?;
    server.execute("VACUUM FULL pgbench_branches")?;
    server.execute("VACUUM FULL pgbench_tellers")
}

/// Two servers with the same tables, one with the gate and one without, take turns in short runs, and run at the
/// same time: what else disturbs the machine then disturbs both. Halfway they swap, so what else differs between
/// them is for the gate as often as against it.
fn rates(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    let servers = [server("first")?, server("second")?];
    let seconds = plan.seconds.to_string();
    for (load, what, target) in [
        (Load::Read, "pgbench -S", "interval has 1.00"),
        (Load::Write, "pgbench TPC-B", "p50 >= 0.98"),
    ] {
        let (mut in_turns, mut together) = (Vec::new(), Vec::new());
        for half in 0..2 {
            let (gated, plain) = (&servers[half], &servers[1 - half]);
            restart(gated, engine, true)?;
            restart(plain, engine, false)?;
            for pair in 0..plan.pairs.div_ceil(2) {
                let rate = |server: &Server, sessions| rate(server, load, &seconds, sessions);
                // Which comes first changes from pair to pair.
                in_turns.push(if pair % 2 == 0 {
                    rate(gated, BOTH)? / rate(plain, BOTH)?
                } else {
                    let other = rate(plain, BOTH)?;
                    rate(gated, BOTH)? / other
                });
                together.push(thread::scope(|scope| -> Result<f64> {
                    let other = scope.spawn(|| rate(plain, HALF));
                    Ok(rate(gated, HALF)? / other.join().expect("no panic")?)
                })?);
            }
        }
        table.interval(
            &format!("{what}: rate with the gate / without, in turns"),
            in_turns,
            target,
        );
        table.interval(&format!("{what}: the same, at the same time"), together, target);
        // After the swap it is the second that has the gate.
        match (instructions(&servers[1], load)?, instructions(&servers[0], load)?) {
            (Some(gated), Some(plain)) => table.note(
                &format!("{what}: instructions per transaction with / without"),
                &format!("{gated:.0} / {plain:.0} = {:.4}", gated / plain),
            ),
            _ => table.note(&format!("{what}: instructions per transaction"), "needs valgrind"),
        }
    }
    Ok(())
}

/// What pgbench does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One row by its key.
    Read,
    /// Five statements.
    Write,
}

impl Load {
    /// The name of its built-in script.
    fn name(self) -> &'static str {
        match self {
            Load::Read => "select-only",
            Load::Write => "tpcb-like",
        }
    }

    /// The same as a transaction of our own.
    pub fn statement(self, number: u32) -> String {
        let (account, teller) = (1 + number * 7919 % 1_000_000, 1 + number % 100);
        let branch = 1 + number % 10;
        match self {
            Load::Read => format!("SELECT abalance FROM pgbench_accounts WHERE aid = {account}"),
            Load::Write => format!(
                "BEGIN;
                 UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = {account};
                 SELECT abalance FROM pgbench_accounts WHERE aid = {account};
                 UPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = {teller};
                 UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = {branch};
                 INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
                     VALUES ({teller}, {branch}, {account}, 1, CURRENT_TIMESTAMP);
                 END"
            ),
        }
    }
}

/// Transactions a second.
fn rate(server: &Server, load: Load, seconds: &str, sessions: &str) -> Result<f64> {
    tidy(server)?;
    let text = server.pgbench_to_end(&[
        "-n",
        "-b",
        load.name(),
        "-T",
        seconds,
        "-c",
        sessions,
        "-j",
        sessions,
    ])?;
    Ok(transactions_per_second(&text).expect("a rate in pgbench's output"))
}

/// The figure in what pgbench prints at its end.
fn transactions_per_second(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

fn closings(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    for (fsync, what, target) in [
        (false, "closing an idle gate, without fsync", "p50 <= 5 ms"),
        (true, "closing an idle gate, as it is", ""),
    ] {
        let mut server = Server::builder("idle").fsync(fsync).setting("autovacuum", "off");
        for library in libraries(engine, true).split(',') {
            server = server.preload(library);
        }
        let server = server.start()?;
        let catalog = engine.catalog_extension();
        server.execute(&format!("CREATE EXTENSION {catalog}; CREATE EXTENSION citus_fence"))?;
        let mut client = server.connect()?;
        let mut closings: Vec<Duration> = Vec::new();
        let mut openings = Vec::new();
        for _ in 0..plan.closings {
            let begun = Instant::now();
            client.batch_execute("SELECT alter_system_read_only()").expect("a closed gate");
            closings.push(begun.elapsed());
            let begun = Instant::now();
            client.batch_execute("SELECT alter_system_read_write()").expect("an open gate");
            openings.push(begun.elapsed());
            // Something to be flushed.
            client.batch_execute("SELECT txid_current()").expect("a write");
        }
        table.times(what, &closings, target);
        table.times(&what.replace("closing an idle", "opening a"), &openings, "");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_pgbench_prints() {
        let text = "latency average = 0.1 ms\ntps = 1234.5 (without initial connection time)\n";
        assert_eq!(transactions_per_second(text), Some(1234.5));
        assert_eq!(transactions_per_second("nothing"), None);
    }
}
