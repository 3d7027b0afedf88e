//! The load of pgbench: what a transaction of it does, servers with its tables, and its rate.

use test_cluster::postgres::Client;
use test_cluster::{Engine, Result, Server, ServerBuilder};

/// Sessions of pgbench, where one server has the machine for itself; the machine has to serve them as well.
pub const BOTH: &str = "2";
/// Where two servers share it.
pub const HALF: &str = "1";
/// Size of pgbench's tables.
const SCALE: &str = "10";

/// What pgbench does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One row by its key.
    Read,
    /// Five statements.
    Write,
    /// Three statements, prepared, on the table that [`Tables::Partitioned`] makes.
    Simple,
}

impl Load {
    /// The name of its built-in script.
    fn name(self) -> &'static str {
        match self {
            Load::Read => "select-only",
            Load::Write => "tpcb-like",
            Load::Simple => "simple-update",
        }
    }

    /// How its statements are sent.
    fn protocol(self) -> &'static str {
        match self {
            Load::Read | Load::Write => "simple",
            Load::Simple => "prepared",
        }
    }

    /// The same as a transaction of our own.
    fn statement(self, number: u32) -> String {
        let (account, teller, branch) = row(number);
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
            Load::Simple => format!(
                "BEGIN;
                 EXECUTE pay ({account});
                 EXECUTE look ({account});
                 EXECUTE note ({teller}, {branch}, {account});
                 END"
            ),
        }
    }

    /// Makes so many transactions of our own in one session.
    pub fn run(self, client: &mut Client, transactions: u32) {
        if self == Load::Simple {
            client
                .batch_execute(
                    "PREPARE pay (int) AS
                         UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = $1;
                     PREPARE look (int) AS SELECT abalance FROM pgbench_accounts WHERE aid = $1;
                     PREPARE note (int, int, int) AS
                         INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
                         VALUES ($1, $2, $3, 1, CURRENT_TIMESTAMP)",
                )
                .expect("prepared statements");
        }
        for number in 0..transactions {
            client.batch_execute(&self.statement(number)).expect("a transaction");
        }
    }
}

/// The account, the teller and the branch of a transaction.
fn row(number: u32) -> (u32, u32, u32) {
    (1 + number * 7919 % 1_000_000, 1 + number % 100, 1 + number % 10)
}

/// How pgbench's tables are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// As they are by default.
    Plain,
    /// The accounts in 64 partitions, and every plan a generic one: it locks all partitions, more than the
    /// 16 locks that a session's fast path has room for (as many as up to PostgreSQL 17).
    Partitioned,
}

/// A server with tables that fit into its memory.
pub fn server(builder: ServerBuilder, tables: Tables) -> Result<Server> {
    let mut builder = builder;
    for (name, value) in [
        ("shared_buffers", "512MB"),
        ("autovacuum", "off"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "1h"),
    ] {
        builder = builder.setting(name, value);
    }
    let mut arguments = vec!["-i", "-q", "-s", SCALE];
    if tables == Tables::Partitioned {
        builder = builder.setting("plan_cache_mode", "force_generic_plan");
        arguments.extend(["--partitions=64", "--partition-method=hash"]);
    }
    let server = builder.start()?;
    server.pgbench_to_end(&arguments)?;
    server.execute("CREATE EXTENSION pg_prewarm")?;
    Ok(server)
}

/// What has to be in `shared_preload_libraries`.
pub fn libraries(engine: Engine, with_gate: bool) -> &'static str {
    match (engine, with_gate) {
        (Engine::Embedded, false) => "",
        (Engine::Embedded, true) => "citus_fence",
        (Engine::Citus, false) => "citus",
        (Engine::Citus, true) => "citus,citus_fence",
    }
}

/// Starts it anew, with the gate or without, and its memory filled.
pub fn restart(server: &Server, engine: Engine, with_gate: bool) -> Result<()> {
    server.restart_with_libraries(libraries(engine, with_gate))?;
    // Of a partitioned table only the partitions have anything to read.
    server.execute(
        "SELECT pg_prewarm(oid) FROM pg_class WHERE relname LIKE 'pgbench%' AND relkind IN ('r', 'i')",
    )?;
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

/// Transactions a second.
pub fn rate(server: &Server, load: Load, seconds: &str, sessions: &str) -> Result<f64> {
    tidy(server)?;
    let arguments = ["-n", "-b", load.name(), "-M", load.protocol(), "-T", seconds];
    let text = server.pgbench_to_end(&[&arguments[..], &["-c", sessions, "-j", BOTH]].concat())?;
    Ok(transactions_per_second(&text).expect("a rate in pgbench's output"))
}

/// The figure in what pgbench prints at its end.
fn transactions_per_second(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
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
