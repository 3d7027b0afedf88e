//! Commands that commit several times on their way, and so have no lock of the gate all the time; and
//! readers of all kinds, who never notice a switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use readonly_tests::{
    Call, Client, Engine, PATIENCE, Result, Server, Stubborn, assert_agrees, assert_untouched,
    close, on_each_engine, open, serve, single, traces_of_writers, value, wait_until,
};

/// Commands that commit inside, and some that hold on to much while they run.
const COMMANDS: [&str; 9] = [
    "VACUUM (FREEZE) served",
    "VACUUM FULL served",
    "VACUUM",
    "ANALYZE",
    "REINDEX TABLE CONCURRENTLY served",
    "REINDEX SCHEMA public",
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS late ON served (n)",
    "DROP INDEX CONCURRENTLY IF EXISTS late",
    "CALL in_steps()",
];

#[test]
fn no_command_commits_once_more_on_its_way() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute(
            "INSERT INTO served SELECT generate_series(1, 3000);
             CREATE INDEX early ON served (n);
             CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
             BEGIN
                 FOR i IN 1..40 LOOP UPDATE served SET n = n WHERE n = i; COMMIT; END LOOP;
             END $$",
        )?;
        let writers: Vec<Stubborn> =
            COMMANDS.iter().map(|command| Stubborn::start(node, command, 1)).collect();
        let position = || node.wal_position();
        for number in 0..16 {
            let lsn = if number % 4 == 3 { close_patiently(node)? } else { close(node)? };
            writers.iter().for_each(Stubborn::is_closed);
            let refused: Vec<_> = writers.iter().map(Stubborn::refused).collect();
            wait_until("every command to be refused", PATIENCE, || {
                writers
                    .iter()
                    .zip(&refused)
                    .all(|(writer, before)| writer.refused() > *before)
                    .then_some(())
            })?;
            let traces = traces_of_writers(node, &lsn)?;
            assert!(traces.is_empty(), "round {number}, after {lsn}: {traces:?}");
            assert!(assert_agrees(node)?);
            writers.iter().for_each(Stubborn::opens);
            open(node)?;
            let before = position()?;
            wait_until("commands to go on", PATIENCE, || {
                (position().ok()? != before).then_some(())
            })?;
        }
        for (writer, command) in writers.into_iter().zip(COMMANDS) {
            assert_eq!(writer.stop(), 0, "{command} succeeded on the closed node");
        }
        assert_untouched(node)
    });
}

/// A call that waits for its writers may meet one that waits for the call's snapshot, as CREATE INDEX CONCURRENTLY
/// does at its end: then there is a deadlock, and the call is to be made again.
fn close_patiently(node: &Server) -> Result<String> {
    loop {
        match node.query_value("SELECT alter_system_read_only(false)") {
            Err(error) if error.to_string().contains("[40P01]") => {
                assert!(!assert_agrees(node)?, "closed after all: {error}");
            }
            answer => return answer,
        }
    }
}

/// Its last transaction is committed when the command itself is done, and holds no lock of the gate before:
/// until then the process is marked.
#[test]
fn a_command_is_on_its_way_until_its_last_commit() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("CREATE INDEX slow ON served (n)")?;
        const DROP: &str = "DROP INDEX CONCURRENTLY slow";
        let await_waiting_for = |who: &str| {
            let waits = format!(
                "SELECT count(*) FROM pg_stat_activity
                  WHERE query = '{DROP}' AND {who} = ANY (pg_blocking_pids(pid))"
            );
            wait_until("the command to wait", PATIENCE, || {
                (node.query_value(&waits).ok()? == "1").then_some(())
            })
        };
        let reader = || -> Result<(Client, String)> {
            let mut reader = node.connect()?;
            reader.batch_execute("BEGIN; SELECT count(*) FROM served").expect("a read");
            let pid = value(&mut reader, "SELECT pg_backend_pid()");
            Ok((reader, pid))
        };
        let (mut first, first_pid) = reader()?;
        let drop = Call::begin(node, DROP);
        await_waiting_for(&first_pid)?;
        let (mut second, second_pid) = reader()?;
        first.batch_execute("COMMIT").expect("the end of the first step");
        await_waiting_for(&second_pid)?;
        // Between two of its steps it holds no gate.
        let mut closer = node.connect()?;
        closer.batch_execute("BEGIN; SELECT citus_fence.lock_gate('client')").expect("a gate");
        let closer_pid = value(&mut closer, "SELECT pg_backend_pid()");
        second.batch_execute("COMMIT").expect("the end of the second step");
        // All that is left is its last commit.
        await_waiting_for(&closer_pid)?;
        let marked = "SELECT count(*) FROM citus_fence.commands_in_steps()";
        assert_eq!(node.query_value(marked)?, "1");
        closer.batch_execute("COMMIT").expect("an open gate");
        drop.join().expect(DROP);
        assert_eq!(node.query_value(marked)?, "0");
        assert_eq!(node.query_value("SELECT count(*) FROM pg_class WHERE relname = 'slow'")?, "0");
        assert_untouched(node)
    });
}

#[test]
fn readers_of_all_kinds_never_notice() {
    const READS: [&str; 5] = [
        "SELECT sum(n) FROM served",
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM served; SELECT min(n) FROM served; \
         COMMIT",
        "BEGIN; DECLARE c CURSOR FOR SELECT n FROM served; FETCH 10 FROM c; MOVE 10 FROM c; COMMIT",
        "SELECT count(*) FROM own",
        "DO $$ BEGIN FOR i IN 1..5 LOOP PERFORM count(*) FROM served; COMMIT; END LOOP; END $$",
    ];
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("INSERT INTO served SELECT generate_series(1, 20000)")?;
        node.execute("VACUUM ANALYZE served")?;
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Vec<Arc<AtomicU64>> = READS.iter().map(|_| Arc::default()).collect();
        let readers: Vec<_> = READS
            .iter()
            .zip(&counts)
            .map(|(read, count)| {
                let (params, stop, count) = (node.connect_params(), stop.clone(), count.clone());
                std::thread::spawn(move || {
                    let mut client = params.connect().expect("a connection");
                    client
                        .batch_execute(
                            "CREATE TEMP TABLE own AS SELECT generate_series(1, 10) AS n;
                             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
                             SET min_parallel_table_scan_size = 0",
                        )
                        .expect("a temporary table and settings");
                    while !stop.load(Ordering::SeqCst) {
                        client.batch_execute(read).unwrap_or_else(|error| {
                            panic!("{read}: {}", test_cluster::describe(&error))
                        });
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let all_read_more = || {
            let before: Vec<u64> =
                counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
            wait_until("every reader to read", PATIENCE, || {
                let is_dead = readers.iter().any(std::thread::JoinHandle::is_finished);
                let more = counts
                    .iter()
                    .zip(&before)
                    .all(|(count, before)| count.load(Ordering::SeqCst) > before + 1);
                (more || is_dead).then_some(())
            })
        };
        all_read_more()?;
        for _ in 0..12 {
            let lsn = close(node)?;
            all_read_more()?;
            let traces = traces_of_writers(node, &lsn)?;
            assert!(traces.is_empty(), "{traces:?}");
            open(node)?;
            all_read_more()?;
        }
        stop.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().expect("a reader that was never disturbed");
        }
        assert_untouched(node)
    });
}
