//! When the call has returned, no commit comes after the position that it has returned: read in the
//! WAL, under full load, many times.

use readonly_tests::{
    Cluster, Engine, Load, PATIENCE, READ_ONLY, Result, SOON, Server, Stubborn, assert_agrees,
    assert_untouched, close, on_each_engine, open, serve, single, traces_of_writers, value,
    wait_until,
};

const ROUNDS: usize = 50;
const DISTRIBUTED_ROUNDS: usize = 10;

/// One round: closes the node under load, and returns where, once all of the load is gone.
fn round(node: &Server, load: &Load, number: usize) -> Result<()> {
    // Sessions that last, and sessions that come for one transaction.
    let reconnecting: &[&str] = if number % 5 == 4 { &["-C"] } else { &[] };
    let begin = node.wal_position()?;
    let mut pgbench = load.begin(reconnecting)?;
    let call =
        if number.is_multiple_of(2) { READ_ONLY } else { "SELECT alter_system_read_only(false)" };
    let lsn = node.query_value(call)?;
    pgbench.wait_for_end(SOON)?;
    // The reader of the WAL finds commits where there are some.
    let before = node.wal_since(&begin)?;
    assert!(before.iter().any(|record| record.is_commit()), "round {number}: no load");
    let after = traces_of_writers(node, &lsn)?;
    assert!(after.is_empty(), "round {number}, {call}, after {lsn}: {after:?}");
    Ok(())
}

#[test]
fn nothing_is_committed_after_the_position_returned() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        let load = Load::create(&cluster, false)?;
        for number in 0..ROUNDS {
            round(node, &load, number)?;
            open(node)?;
        }
        assert_untouched(node)?;
        default_read_only_lets_commits_through(node, &load)
    });
}

/// The control: what PostgreSQL itself has for this is told to sessions when they next listen, and only
/// concerns transactions that begin later.
fn default_read_only_lets_commits_through(node: &Server, load: &Load) -> Result<()> {
    let commits_after = |lsn: &str| -> Result<usize> {
        Ok(node.wal_since(lsn)?.iter().filter(|record| record.is_commit()).count())
    };
    let mut got_through = 0;
    for _ in 0..10 {
        let mut pgbench = load.begin(&[])?;
        let mut client = node.connect()?;
        client
            .batch_execute("ALTER SYSTEM SET default_transaction_read_only = on")
            .expect("a setting");
        client.batch_execute("SELECT pg_reload_conf()").expect("a reload");
        let lsn = value(&mut client, "SELECT pg_current_wal_insert_lsn()");
        // Its sessions are refused once they begin another transaction, and end.
        pgbench.wait_for_end(SOON)?;
        got_through += commits_after(&lsn)?;
        reset(node)?;
    }
    assert!(got_through > 0, "the test would not notice a commit of pgbench");

    // Also when the setting has arrived everywhere.
    let mut writer = node.connect()?;
    writer.batch_execute("BEGIN; UPDATE loaded SET n = 0 WHERE id = 1").expect("a write");
    node.alter_system("default_transaction_read_only", "on")?;
    arrived(node, "on")?;
    let lsn = node.wal_position()?;
    writer.batch_execute("COMMIT").expect("a commit");
    assert_eq!(commits_after(&lsn)?, 1);
    reset(node)
}

fn reset(node: &Server) -> Result<()> {
    node.execute("ALTER SYSTEM RESET default_transaction_read_only")?;
    node.reload()?;
    arrived(node, "off")
}

fn arrived(node: &Server, setting: &str) -> Result<()> {
    wait_until("the setting to arrive", PATIENCE, || {
        (node.query_value("SHOW default_transaction_read_only").ok()? == setting).then_some(())
    })
}

/// The same while every transaction is a two-phase commit over the worker too.
#[test]
fn nothing_is_committed_after_it_under_two_phase_load() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            // What a terminated coordinator leaves in doubt is recovered by the test.
            .setting("citus.recover_2pc_interval", "-1")
            .build()?;
        let node = cluster.coordinator();
        let load = Load::create(&cluster, true)?;
        for number in 0..DISTRIBUTED_ROUNDS {
            round(node, &load, number)?;
            open(node)?;
            cluster.recover_prepared()?;
            let rows = cluster.read_all_shards("shared", "SELECT id FROM %s")?;
            let of =
                |id: &str| rows.iter().filter(|row| row.values[0].as_deref() == Some(id)).count();
            let counts = ["1", "2", "3", "4"].map(of);
            assert!(counts.iter().all(|count| *count == counts[0]), "halved: {counts:?}");
        }
        cluster.nodes().iter().try_for_each(assert_untouched)
    });
}

/// Sessions that come back at once after every error find no gap.
#[test]
fn nobody_slips_in_between() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("CREATE SEQUENCE ticket")?;
        let rows = Stubborn::start(node, "INSERT INTO served VALUES (1)", 4);
        let sequences = Stubborn::start(node, "SELECT nextval('ticket')", 2);
        for number in 0..20 {
            let lsn = close(node)?;
            for writers in [&rows, &sequences] {
                writers.is_closed();
            }
            let so_far = [rows.refused(), sequences.refused()];
            wait_until("writers to be refused", PATIENCE, || {
                (rows.refused() > so_far[0] + 5 && sequences.refused() > so_far[1] + 5)
                    .then_some(())
            })?;
            let after = traces_of_writers(node, &lsn)?;
            assert!(after.is_empty(), "round {number}, after {lsn}: {after:?}");
            assert!(assert_agrees(node)?);
            for writers in [&rows, &sequences] {
                writers.opens();
            }
            open(node)?;
            let count = || node.query_value("SELECT count(*) FROM served");
            let before = count()?;
            wait_until("writers to go on", PATIENCE, || (count().ok()? != before).then_some(()))?;
        }
        assert_eq!(rows.stop() + sequences.stop(), 0, "writes got through");
        assert_untouched(node)
    });
}
