//! A server that brings a libpq of its own keeps it: its standbys stream with the library preloaded, and
//! where an older libpq is loaded all the same, the library does nothing and says so.

use releases_tests::{here, major, there};
use test_cluster::{Cluster, Engine, PATIENCE, Result, Server, StopMode, wait_for_sql};

const WARNING: &str = "citus_fence does nothing: libpq of PostgreSQL";

/// Waits until the standby streams, and a row of the primary has come through.
fn streams(primary: &Server, standby: &Server, row: i32) -> Result<()> {
    wait_for_sql(
        &mut standby.connect()?,
        "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')",
        PATIENCE,
    )?;
    primary.execute(&format!("INSERT INTO through VALUES ({row})"))?;
    primary.wait_for_replay_on(standby, PATIENCE)?;
    assert_eq!(standby.query_value("SELECT max(row) FROM through")?, row.to_string());
    Ok(())
}

/// Asserts that a call is refused with the code and both paths.
fn refuses(server: &Server, call: &str, loaded: &str, expected: &str) -> Result<()> {
    let error = match server.connect()?.simple_query(call) {
        Ok(_) => panic!("{call} succeeded with an older libpq"),
        Err(error) => error,
    };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{call}: {error}"));
    assert_eq!(error.code().code(), "55000", "{call}: {error}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.contains(loaded), "{call}: no {loaded} in: {detail}");
    assert!(detail.contains(expected), "{call}: no {expected} in: {detail}");
    Ok(())
}

/// Has the loader prefer the machine's libpq, as a library did that was linked with that.
fn start_with_libpq_from(server: &Server, libdir: &str) -> Result<()> {
    server.start_through(&["/usr/bin/env", &format!("LD_LIBRARY_PATH={libdir}")])
}

#[test]
fn a_server_keeps_its_own_libpq() -> Result<()> {
    let (old, own) = (here("--libdir"), there("--libdir"));
    let cluster = Cluster::builder(Engine::Embedded).workers(1).build()?;
    let primary = cluster.coordinator();
    primary.execute("CREATE TABLE through (row int)")?;
    assert!(!primary.log().contains(WARNING), "{}", primary.log());

    let standby = primary.standby("standby")?;
    streams(primary, &standby, 1)?;
    let mut client = cluster.connect(0)?;
    client.batch_execute("SELECT citus_block_writes_for_backup()").expect("a block");
    client.batch_execute("SELECT citus_unblock_writes_for_backup()").expect("its end");

    if major(&here("--version")) >= major(&there("--version")) {
        eprintln!("skipped: an older libpq than the server's, which this machine does not have");
        return Ok(());
    }
    drop(client);
    standby.stop(StopMode::Fast)?;
    primary.stop(StopMode::Fast)?;
    start_with_libpq_from(primary, &old)?;
    start_with_libpq_from(&standby, &old)?;
    for server in [primary, &standby] {
        assert!(server.log().contains(WARNING), "{}", server.log());
        for call in [
            "SELECT citus_block_writes_for_backup()",
            "SELECT citus_unblock_writes_for_backup()",
            "SELECT citus_backup_block_status()",
            "SELECT citus_set_cluster_read_only()",
            "SELECT citus_cluster_read_only_status()",
            "SELECT alter_system_read_only()",
            "SELECT * FROM citus_fence.stat_gate",
            "SELECT citus_fence.lock_gate('client')",
            "SELECT citus_fence.flush_wal()",
            "SELECT recover_prepared_transactions()",
        ] {
            refuses(server, call, &old, &own)?;
        }
        let memory = "SELECT count(*) FROM pg_shmem_allocations WHERE name LIKE 'citus_fence%'";
        assert_eq!(server.query_value(memory)?, "0");
    }
    // The control: this is the libpq with which the server's own connections fail, for what
    // pg_basebackup has written for the standby is unknown to it.
    standby.wait_for_log("invalid connection option", PATIENCE)?;

    // Not preloaded, but loaded by the call.
    primary.restart_without_fence()?;
    primary.stop(StopMode::Fast)?;
    start_with_libpq_from(primary, &old)?;
    refuses(primary, "SELECT citus_block_writes_for_backup()", &old, &own)?;
    refuses(primary, "SELECT citus_fence.flush_wal()", &old, &own)?;

    // And back: nothing of it stays.
    standby.stop(StopMode::Fast)?;
    standby.start()?;
    streams(primary, &standby, 2)
}
