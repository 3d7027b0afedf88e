//! The price of the gate where a session's fast path is full: its own lock then goes to the lock table that
//! all share, or takes the place of one that would not have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use test_cluster::{Engine, Result, Server};

use crate::figures::Table;
use crate::gate::Plan;
use crate::instructions::instructions;
use crate::load::{Load, Tables, rate, restart, server};
use crate::turns;

/// Sessions of pgbench: more than the machine has cores, so that they meet at the lock table.
const SESSIONS: &str = "4";
/// Between two looks at what the sessions wait for.
const LOOK: Duration = Duration::from_millis(2);
const WHAT: &str = "pgbench -N, 64 partitions, prepared";

/// Two servers that swap halfway, as in `gate.rs`.
pub fn measure(engine: Engine, plan: Plan, table: &mut Table) -> Result<()> {
    let servers = [
        server(Server::builder("first"), Tables::Partitioned)?,
        server(Server::builder("second"), Tables::Partitioned)?,
    ];
    let seconds = plan.seconds.to_string();
    let mut rates = Vec::new();
    let (mut with, mut without) = (Looks::default(), Looks::default());
    for half in 0..2 {
        let (gated, plain) = (&servers[half], &servers[1 - half]);
        restart(gated, engine, true)?;
        restart(plain, engine, false)?;
        rates.extend(turns::ratios(
            &mut (&mut with, &mut without),
            plan.pairs.div_ceil(2),
            |(with, _)| with.over(gated, &seconds),
            |(_, without)| without.over(plain, &seconds),
        )?);
    }
    table.interval(
        &format!("{WHAT}: rate with the gate / without, in turns"),
        rates,
        "p50 >= 0.98",
    );
    table.note(
        &format!("{WHAT}: looks at a session that waits for the lock table, with / without"),
        &format!("{with} / {without}"),
    );
    let counts =
        (instructions(&servers[1], Load::Simple)?, instructions(&servers[0], Load::Simple)?);
    table.counts(&format!("{WHAT}: instructions per transaction with / without"), counts);
    Ok(())
}

/// What was seen of sessions at work.
#[derive(Default)]
struct Looks {
    /// How many waited for the lock table.
    waiting: i64,
    /// Of so many.
    all: i64,
}

impl Looks {
    /// The rate of a run, with looks at it.
    fn over(&mut self, server: &Server, seconds: &str) -> Result<f64> {
        let mut client = server.connect()?;
        let look = client
            .prepare(
                "SELECT count(*) FILTER (WHERE wait_event_type = 'LWLock' AND wait_event = 'LockManager'), \
                        count(*) FROM pg_stat_activity \
                  WHERE application_name = 'pgbench' AND state <> 'idle'",
            )
            .expect("a query");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut looks = Looks::default();
                while !over.load(Ordering::Relaxed) {
                    let row = client.query_one(&look, &[]).expect("a look");
                    looks.waiting += row.get::<_, i64>(0);
                    looks.all += row.get::<_, i64>(1);
                    thread::sleep(LOOK);
                }
                looks
            });
            let rate = rate(server, Load::Simple, seconds, SESSIONS);
            over.store(true, Ordering::Relaxed);
            let looks = looking.join().expect("no panic");
            self.waiting += looks.waiting;
            self.all += looks.all;
            rate
        })
    }
}

impl std::fmt::Display for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = 100.0 * self.waiting as f64 / self.all.max(1) as f64;
        write!(f, "{share:.2} % of {}", self.all)
    }
}
