//! The readers of WAL and the loads that the tests of the gate rely on.

use test_cluster::{PATIENCE, Result, Server, StopMode, wait_until};

#[test]
fn commits_are_found_in_the_wal_and_nothing_is_found_where_nothing_is() -> Result<()> {
    let server = Server::builder("written").start()?;
    server.execute("CREATE TABLE t (n int); CREATE SEQUENCE s")?;
    let begin = server.wal_position()?;
    server.execute("INSERT INTO t VALUES (1)")?;
    server.execute("SELECT nextval('s')")?;
    server.execute("SELECT pg_logical_emit_message(false, 'p', 'x')")?;
    server.execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'")?;
    server.execute("COMMIT PREPARED 'p'")?;
    let records = server.wal_since(&begin)?;
    let has = |manager: &str, kind: &str| {
        records.iter().any(|record| record.manager == manager && record.kind() == kind)
    };
    for (manager, kind) in [
        ("Transaction", "COMMIT"),
        ("Transaction", "PREPARE"),
        ("Transaction", "COMMIT_PREPARED"),
        ("Sequence", "LOG"),
        ("LogicalMessage", "MESSAGE"),
        ("Heap", "INSERT+INIT"),
    ] {
        assert!(has(manager, kind), "no {manager} {kind} in {records:?}");
    }
    assert_eq!(records.iter().filter(|record| record.is_commit()).count(), 4);

    let end = server.wal_position()?;
    assert!(!server.wal_since(&end)?.iter().any(|record| record.is_commit()));
    Ok(())
}

#[test]
fn pgbench_writes_until_it_is_refused() -> Result<()> {
    let server = Server::builder("loaded").start()?;
    server.execute("CREATE TABLE t (n int)")?;
    let begin = server.wal_position()?;
    let mut load = server.pgbench("INSERT INTO t VALUES (1);", 4, &[])?;
    wait_until("rows of pgbench", PATIENCE, || {
        let count: u64 = server.query_value("SELECT count(*) FROM t").ok()?.parse().ok()?;
        (count > 100).then_some(())
    })?;
    assert!(load.is_running(), "{}", load.output());
    server.execute("ALTER TABLE t RENAME TO gone")?;
    let output = load.wait_for_end(PATIENCE)?;
    assert!(output.contains("\"t\" does not exist"), "{output}");
    assert!(server.wal_since(&begin)?.iter().filter(|record| record.is_commit()).count() > 100);
    Ok(())
}

#[test]
fn a_stopped_primary_comes_back_as_a_standby() -> Result<()> {
    let first = Server::builder("first").start()?;
    first.execute("CREATE TABLE t AS SELECT 1 AS n")?;
    let second = first.standby("second")?;
    first.wait_for_replay_on(&second, PATIENCE)?;
    first.stop(StopMode::Fast)?;
    let end = first.control_data("Latest checkpoint location")?;
    second.wait_for_replay_of(&end, PATIENCE)?;
    second.execute("SELECT pg_promote()")?;
    second.execute("INSERT INTO t VALUES (2)")?;
    first.follow(&second)?;
    second.wait_for_replay_on(&first, PATIENCE)?;
    assert_eq!(first.query_value("SELECT sum(n) FROM t")?, "3");
    assert_eq!(first.query_value("SELECT pg_is_in_recovery()")?, "t");
    Ok(())
}
