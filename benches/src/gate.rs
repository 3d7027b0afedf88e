//! The price of the gate: pgbench on one server that is started with the library and without it, in
//! turns; and how long closing an idle gate takes.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use test_cluster::{Engine, Result, Server, StopMode};

use crate::figures::Table;

/// Sessions of pgbench; the machine has to serve them and the server.
const SESSIONS: &str = "2";
/// Size of pgbench's tables.
const SCALE: &str = "10";
/// Transactions of a run whose instructions are counted.
const COUNTED: &str = "20000";

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

/// Starts it anew, with the gate or without, and its memory filled.
fn restart(server: &Server, engine: Engine, with_gate: bool) -> Result<()> {
    server.stop(StopMode::Fast)?;
    server.set_while_stopped("shared_preload_libraries", libraries(engine, with_gate))?;
    server.start()?;
    server.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")?;
    server.execute("SELECT pg_prewarm(oid) FROM pg_class WHERE relname LIKE 'pgbench%'")?;
    server.pgbench_to_end(&["-n", "-S", "-T", "1", "-c", SESSIONS, "-j", SESSIONS])?;
    Ok(())
}

fn rates(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    let mut server = Server::builder("gated");
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

    let seconds = plan.seconds.to_string();
    for (load, what, target) in [
        ("select-only", "pgbench -S", "interval has 1.00"),
        ("tpcb-like", "pgbench TPC-B", "p50 >= 0.98"),
    ] {
        let mut ratios = Vec::new();
        for pair in 0..plan.pairs {
            let rate = |with_gate: bool| -> Result<f64> {
                restart(&server, engine, with_gate)?;
                let text = server.pgbench_to_end(&[
                    "-n", "-b", load, "-T", &seconds, "-c", SESSIONS, "-j", SESSIONS,
                ])?;
                Ok(transactions_per_second(&text).expect("a rate in pgbench's output"))
            };
            // Which comes first changes from pair to pair.
            let (gated, plain) = if pair % 2 == 0 {
                let plain = rate(false)?;
                (rate(true)?, plain)
            } else {
                (rate(true)?, rate(false)?)
            };
            ratios.push(gated / plain);
        }
        table.interval(&format!("{what}: rate with the gate / without"), ratios, target);

        let count = |with_gate: bool| -> Result<Option<f64>> {
            restart(&server, engine, with_gate)?;
            instructions(&server, load)
        };
        match (count(true)?, count(false)?) {
            (Some(gated), Some(plain)) => table.note(
                &format!("{what}: instructions per transaction with / without"),
                &format!("{gated:.0} / {plain:.0} = {:.4}", gated / plain),
            ),
            _ => table.note(&format!("{what}: instructions per transaction"), "not available"),
        }
    }
    Ok(())
}

/// The figure in what pgbench prints at its end.
fn transactions_per_second(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Instructions that the server's processes need for a transaction, where the machine counts them.
fn instructions(server: &Server, load: &str) -> Result<Option<f64>> {
    let counts = std::env::temp_dir().join(format!("instructions-{}", server.port()));
    // It follows whatever the postmaster starts from now on, until its own command ends: a shell that
    // reads from us.
    let perf = Command::new("perf")
        .args(["stat", "-x", ",", "-e", "instructions:u", "-o"])
        .arg(&counts)
        .args(["-p", &server.pid()?.to_string(), "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut perf) = perf else {
        return Ok(None);
    };
    let run = server.pgbench_to_end(&["-n", "-b", load, "-t", COUNTED, "-c", "1"]);
    drop(perf.stdin.take());
    let _ = perf.wait();
    run?;
    let text = fs::read_to_string(&counts).unwrap_or_default();
    let _ = fs::remove_file(&counts);
    let transactions: f64 = COUNTED.parse().unwrap_or(1.0);
    Ok(counted(&text).map(|count| count / transactions))
}

/// The count in what perf writes; it has words where a machine counts nothing.
fn counted(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("instructions"))?;
    line.split(',').next()?.trim().parse().ok()
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

    #[test]
    fn reads_what_perf_writes() {
        assert_eq!(counted("# started\n\n5000,,instructions:u,10,100.00,,\n"), Some(5000.0));
        assert_eq!(counted("<not supported>,,instructions:u,0,100.00,,\n"), None);
        assert_eq!(counted(""), None);
    }
}
