//! What passes by itself is waited for within `citus_fence.acquire_timeout`: a server that is being restarted or is
//! out of connections, background workers that others use, an autovacuum.

use std::thread;

use fence_tests::{
    BLOCK, Client, Cluster, Engine, PATIENCE, Result, UNBLOCK, call, on_each_engine, prove_usable,
    refusal, wait_until, words,
};
use test_cluster::{StopMode, wait_for_sql};

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";

/// Runs the call, which has to succeed; when the coordinator's log says how the call fared at first, what was in the
/// way ends.
fn succeeds_after(
    cluster: &Cluster,
    client: &mut Client,
    sql: &str,
    first: &str,
    end: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let before = cluster.coordinator().log().matches(first).count();
    thread::scope(|scope| {
        let called = scope.spawn(|| client.simple_query(sql).map(drop));
        wait_until(first, PATIENCE, || {
            (cluster.coordinator().log().matches(first).count() > before).then_some(())
        })?;
        assert!(!called.is_finished(), "{sql} gave up");
        end()?;
        let outcome = called.join().expect("no panic");
        outcome.unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
        Ok(())
    })
}

/// The calls, and what the log says of their first attempt.
const CALLS: [(&str, &str, &str); 3] = [
    (BLOCK, "attempt 1 at a backup block failed", UNBLOCK),
    (READ_ONLY, "attempt 1 at holding back all writers failed", "SELECT 1"),
    (READ_WRITE, "nodes are asked again to write", "SELECT 1"),
];

#[test]
fn a_worker_that_is_being_restarted() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        for (sql, first, after) in CALLS {
            cluster.worker(1).stop(StopMode::Fast)?;
            succeeds_after(&cluster, &mut client, sql, first, || cluster.worker(1).start())?;
            client.batch_execute(after).expect(after);
        }
        prove_usable(&cluster)
    });
}

#[test]
fn a_worker_that_is_out_of_connections() {
    on_each_engine(|engine: Engine| {
        let cluster =
            Cluster::builder(engine).workers(2).node_setting(1, "max_connections", "25").build()?;
        let mut client = cluster.connect(0)?;
        for (sql, first, after) in CALLS {
            let mut all = Vec::new();
            while let Ok(one) = cluster.connect(1) {
                all.push(one);
            }
            assert!(!all.is_empty());
            succeeds_after(&cluster, &mut client, sql, first, || {
                drop(all);
                Ok(())
            })?;
            client.batch_execute(after).expect(after);
        }
        // Who gives up says what is short there, and not that the server does not run.
        let mut all = Vec::new();
        while let Ok(one) = cluster.connect(1) {
            all.push(one);
        }
        client.batch_execute("SET citus_fence.acquire_timeout = '2s'").expect("a setting");
        let error = refusal(&mut client, "SELECT citus_block_writes_for_backup()");
        assert!(error.message().contains("too many clients"), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("max_connections")), "{error:?}");
        drop(all);
        client.batch_execute("RESET citus_fence.acquire_timeout").expect("a setting");
        prove_usable(&cluster)
    });
}

/// A node is asked of which group it is before anything is locked there.
#[test]
fn a_table_of_a_workers_catalog_that_somebody_keeps() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(
                "SET citus_fence.lock_timeout = '500ms'; SET citus_fence.connect_timeout = '1s'",
            )
            .expect("settings");
        for table in ["pg_dist_local_group", "pg_dist_transaction"] {
            let mut keeper = cluster.connect(1)?;
            keeper
                .batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
                .expect("a lock");
            let (sql, first, after) = CALLS[0];
            succeeds_after(&cluster, &mut client, sql, first, || {
                drop(keeper);
                Ok(())
            })?;
            client.batch_execute(after).expect(after);
        }
        prove_usable(&cluster)
    });
}

#[test]
fn a_background_worker_that_others_use() {
    on_each_engine(|engine: Engine| {
        // The launcher of logical replication, on Citus a daemon for each database, and one for a block.
        let slots = if engine == Engine::Citus { "4" } else { "2" };
        let cluster = Cluster::builder(engine)
            .workers(0)
            .node_setting(0, "max_worker_processes", slots)
            .build()?;
        cluster.coordinator().execute("CREATE DATABASE second")?;
        let mut second = cluster.coordinator().connect_params().database("second").connect()?;
        let setup = format!(
            "CREATE EXTENSION {}; SELECT citus_set_coordinator_host('127.0.0.1', {}); \
             CREATE EXTENSION citus_fence",
            engine.catalog_extension(),
            cluster.coordinator().port()
        );
        second.batch_execute(&setup).expect("a second distributed database");
        let mut first = cluster.connect(0)?;
        if engine == Engine::Citus {
            let daemons = "SELECT count(*) = 2 FROM pg_stat_activity \
                           WHERE backend_type LIKE 'Citus Maintenance Daemon%'";
            wait_for_sql(&mut first, daemons, PATIENCE)?;
        }
        assert!(call(&mut first, BLOCK));
        succeeds_after(&cluster, &mut second, BLOCK, "a backup block waits for one", || {
            assert!(call(&mut first, UNBLOCK));
            Ok(())
        })?;
        assert!(call(&mut second, UNBLOCK));
        Ok(())
    });
}

/// Has the vacuum of a worker's commit records take long, and begin: there is something to clean up.
fn slow_vacuum(worker: &mut Client, engine: Engine) -> Result<()> {
    let unhindered = match engine {
        Engine::Citus => "SET citus.enable_ddl_propagation = off;",
        Engine::Embedded => "",
    };
    worker
        .batch_execute(&format!(
            "{unhindered} SET allow_system_table_mods = on; \
             ALTER TABLE pg_dist_transaction \
                 SET (autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_cost_delay = 100)"
        ))
        .expect("a slow vacuum");
    worker
        .batch_execute(
            "INSERT INTO pg_dist_transaction (groupid, gid) \
             SELECT 0, 'not_of_citus_' || repeat('x', 90) || n FROM generate_series(1, 20000) AS n; \
             DELETE FROM pg_dist_transaction WHERE gid LIKE 'not_of_citus%'",
        )
        .expect("something to clean up");
    let at_it = "SELECT count(*) = 1 FROM pg_stat_activity \
                  WHERE query LIKE 'autovacuum: VACUUM%pg_catalog.pg_dist_transaction%'";
    wait_for_sql(worker, at_it, PATIENCE)
}

/// It is asked to leave by the session that waits for it, when that looks for deadlocks: long before it gives up,
/// whatever the server's `deadlock_timeout`.
#[test]
fn an_autovacuum_that_may_be_cancelled() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(1, "deadlock_timeout", "10s")
            .node_setting(1, "autovacuum_naptime", "1s")
            .build()?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.acquire_timeout = '20s'").expect("a setting");
        for mode in ["2pc", "all"] {
            slow_vacuum(&mut cluster.connect(1)?, engine)?;
            client
                .batch_execute(&format!("SET citus_fence.block_mode = '{mode}'"))
                .expect("a setting");
            assert!(call(&mut client, BLOCK), "mode {mode}");
            assert!(call(&mut client, UNBLOCK));
        }
        let cancelled = cluster.worker(1).log().matches("canceling autovacuum task").count();
        assert!(cancelled >= 2, "{cancelled}: no autovacuum was in the way");
        Ok(())
    });
}

/// The control: one against a wraparound is asked by nobody.  It is named, and it is of no role.
#[test]
fn an_autovacuum_against_a_wraparound() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(1, "autovacuum_naptime", "1s")
            .node_setting(1, "autovacuum_freeze_max_age", "100000")
            .build()?;
        let mut worker = cluster.connect(1)?;
        worker
            .batch_execute(
                "CREATE TABLE burnt (n int); \
                 DO $$ BEGIN FOR n IN 1..110000 LOOP \
                     BEGIN INSERT INTO burnt VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END; \
                 END LOOP; END $$",
            )
            .expect("transaction numbers");
        slow_vacuum(&mut worker, engine)?;
        let mut client = cluster.connect(0)?;
        let sql = "SET citus_fence.acquire_timeout = '3s'; SELECT citus_block_writes_for_backup()";
        let error = refusal(&mut client, sql);
        let detail = error.detail().unwrap_or_default();
        assert_eq!(error.code().code(), "55P03", "{error:?}");
        assert!(detail.contains("pg_dist_transaction (to prevent wraparound)"), "{detail}");
        assert!(!detail.contains(" of  for"), "{detail}");
        Ok(())
    });
}
