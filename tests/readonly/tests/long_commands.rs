//! Commands that commit several times on their way, and so have no lock of the gate all the time; and
//! readers of all kinds, who never notice a switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use readonly_tests::{
    Engine, PATIENCE, Stubborn, assert_agrees, assert_untouched, close, on_each_engine, open,
    serve, single, traces_of_writers, wait_until,
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
            let patiently = if number % 4 == 3 { "(false)" } else { "()" };
            let lsn = node.query_value(&format!("SELECT alter_system_read_only{patiently}"))?;
            writers.iter().for_each(Stubborn::is_closed);
            wait_until("every command to be refused", PATIENCE, || {
                writers.iter().all(|writer| writer.refused() > number).then_some(())
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
