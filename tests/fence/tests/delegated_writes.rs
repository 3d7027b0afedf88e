//! Clients whose writes begin on other nodes: Citus has a worker run their procedure or lock their rows, or they
//! have all workers run a command.  They pass the clients' gate where they came in like all others, so that closing the gates
//! one kind after the other leaves nobody in the middle.

use std::time::{Duration, Instant};

use fence_tests::{
    BLOCK, Client, Cluster, Engine, Load, Result, UNBLOCK, call, left_behind, on_each_engine, words,
};

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";
/// What the coordinator's log says of each attempt that failed.
const FAILURES: [&str; 2] = ["at a backup block failed", "attempt to hold back all writers failed"];

const CLIENTS: usize = 6;
const ROUNDS: usize = 2;
/// Attempts that may fail under a load; with writers in the middle nearly every one does.
const FAILED_ATTEMPTS: usize = 2;
/// Longest attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// A procedure that writes to all shards of a table, in two phases.
const PROCEDURE: &str = "
    CREATE PROCEDURE entries(first bigint) LANGUAGE plpgsql AS $$
    DECLARE
        here int := (SELECT groupid FROM pg_dist_local_group);
    BEGIN
        INSERT INTO ledger SELECT i, here FROM generate_series(first, first + 7) i;
    END $$";
/// Has Citus run it where its argument's shard is.
const DISTRIBUTE: &str =
    "SELECT create_distributed_function('entries(bigint)', 'first', colocate_with := 'ledger')";

/// What the clients do.
const WRITES: [&str; 3] = [
    "CALL entries(?)",
    "SELECT run_command_on_workers('INSERT INTO ledger SELECT i FROM generate_series(1, 8) i')",
    "BEGIN; SELECT written_on FROM ledger WHERE id = ? FOR UPDATE; \
     UPDATE ledger SET written_on = written_on WHERE id = ?; COMMIT",
];

/// Clients that do it all the time.
fn clients(cluster: &Cluster, write: &'static str) -> Result<Vec<Load>> {
    let turn =
        |turn: u64| write.replace('?', &turn.to_string()).split("; ").map(str::to_owned).collect();
    let clients: Vec<Load> =
        (0..CLIENTS).map(|_| Load::start(cluster, 0, turn)).collect::<Result<_>>()?;
    clients.iter().try_for_each(|client| client.wait_for_more(2))?;
    Ok(clients)
}

/// Begins and ends a block; how long it was there.
fn block(operator: &mut Client) -> Duration {
    assert!(call(operator, BLOCK));
    let active = Instant::now();
    assert!(call(operator, UNBLOCK));
    active.elapsed()
}

fn switch_to_and_fro(operator: &mut Client) {
    for statement in [READ_ONLY, READ_WRITE] {
        operator
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {}", words(&error)));
    }
}

#[test]
fn closing_the_gates_takes_few_attempts() {
    on_each_engine(|engine: Engine| {
        // The embedded catalog hands no call to another node.
        if engine == Engine::Embedded {
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let table = "CREATE TABLE ledger (id bigint, written_on int)";
        cluster.create_distributed(table, "ledger", "id", 8)?;
        for statement in [PROCEDURE, DISTRIBUTE] {
            cluster.coordinator().execute(statement)?;
        }
        let mut operator = cluster.connect(0)?;
        operator
            .batch_execute(
                "SET citus_fence.block_mode = 'all'; SET citus_fence.acquire_timeout = '15s'",
            )
            .expect("settings");
        let failures = || {
            let log = cluster.coordinator().log();
            FAILURES.map(|failure| log.matches(failure).count()).iter().sum::<usize>()
        };
        for write in WRITES {
            let before = failures();
            let clients = clients(&cluster, write)?;
            let mut held = Duration::ZERO;
            for _ in 0..ROUNDS {
                held = held.max(block(&mut operator));
                clients.iter().try_for_each(|client| client.wait_for_more(1))?;
                switch_to_and_fro(&mut operator);
                clients.iter().try_for_each(|client| client.wait_for_more(1))?;
            }
            let failed = failures() - before;
            assert!(failed <= FAILED_ATTEMPTS, "{write}: {failed} attempts failed");
            for client in clients {
                let outcome = client.stop();
                let longest = outcome.longest;
                assert!(longest < ATTEMPT + held + SLACK, "{write}: one took {longest:?}");
                let strange = outcome.errors.iter().find(|error| !error.starts_with("25006"));
                assert_eq!(strange, None, "{write}");
            }
        }
        let here = "SELECT count(*) FROM ledger WHERE written_on = 0";
        let here = cluster.coordinator().query_value(here)?;
        assert_eq!(here, "0", "calls that no worker has run");
        for node in cluster.nodes() {
            assert_eq!(left_behind(node)?, 0);
            let ungated = node.query_value("SELECT ungated_commits FROM citus_fence.stat_gate")?;
            assert_eq!(ungated, "0", "{} has commits that passed no gate", node.name());
        }
        Ok(())
    });
}
