//! Several databases at once, and a pooler between the nodes.

use fence_tests::{
    BLOCK, Cluster, Engine, PATIENCE, Spread, UNBLOCK, call, in_background, on_each_engine, state,
    wait_until, words,
};
use test_cluster::{Installation, Pooler};

#[test]
fn two_databases_have_blocks_of_their_own() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let worker = cluster.worker(1).port();
        for node in cluster.nodes() {
            node.execute("CREATE DATABASE second")?;
            let mut client = node.connect_params().database("second").connect()?;
            client
                .batch_execute(&format!("CREATE EXTENSION {}", engine.catalog_extension()))
                .expect("the catalog");
            if engine == Engine::Embedded {
                client.batch_execute("CREATE EXTENSION citus_fence").expect("the extension");
            }
        }
        let mut second = cluster.coordinator().connect_params().database("second").connect()?;
        second
            .batch_execute(&format!(
                "SELECT citus_set_coordinator_host('127.0.0.1', {}); \
                 SELECT citus_add_node('127.0.0.1', {worker}); \
                 CREATE EXTENSION IF NOT EXISTS citus_fence",
                cluster.coordinator().port()
            ))
            .expect("a second cluster");
        let mut first = cluster.connect(0)?;
        assert!(call(&mut first, BLOCK));
        assert_eq!(state(&mut second), "inactive");
        assert!(call(&mut second, BLOCK));
        assert!(call(&mut first, UNBLOCK));
        assert_eq!(state(&mut first), "inactive");
        assert_eq!(state(&mut second), "active", "the other database's release ended this block");
        let rows =
            second.query("SELECT * FROM citus_backup_block_nodes()", &[]).expect("a manifest");
        assert_eq!(rows.len(), 2);
        assert!(call(&mut second, UNBLOCK));
        Ok(())
    });
}

/// A database that knows no encoding takes any bytes, and who waits with such a query is shown all the same.
#[test]
fn bytes_that_are_no_text_hide_nobody() {
    use std::os::unix::ffi::OsStrExt;
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(0).build()?;
        let node = cluster.coordinator();
        node.execute("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")?;
        let mut client = node.connect_params().database("bytes").connect()?;
        client
            .batch_execute(&format!(
                "CREATE EXTENSION {}; SELECT citus_set_coordinator_host('127.0.0.1', {}); \
                 CREATE EXTENSION IF NOT EXISTS citus_fence; CREATE TABLE own (n text)",
                engine.catalog_extension(),
                node.port()
            ))
            .expect("a cluster");
        client.batch_execute("SELECT citus_backup_block_start(60000, 'all')").expect("a block");
        let insert = std::ffi::OsStr::from_bytes(b"INSERT INTO own VALUES ('caf\xe9 \xff')");
        let mut writer = Installation::current()?.command("psql")?;
        writer
            .env("PGCLIENTENCODING", "SQL_ASCII")
            .args(["-X", "-q", "-d"])
            .arg(node.connect_params().database("bytes").conninfo())
            .arg("-c")
            .arg(insert);
        let writer = std::thread::spawn(move || writer.status());
        let shown = wait_until("the writer to be shown", PATIENCE, || {
            let sql = "SELECT query FROM citus_backup_block_waiters()";
            let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{}", words(&error)));
            rows.first().map(|row| row.get::<_, String>(0))
        })?;
        assert!(shown.contains("INSERT INTO own") && shown.contains("\\351"), "{shown}");
        for call in
            ["citus_backup_restore_point(E'caf\\351')", "citus_backup_block_start(9, E'\\377')"]
        {
            let error = client.batch_execute(&format!("SELECT {call}")).expect_err(call);
            let code = error.code().map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), Some("22021"), "{call}: {}", words(&error));
        }
        client.batch_execute("SELECT citus_unblock_writes_for_backup()").expect("its end");
        assert!(writer.join().expect("a thread").expect("psql").success());
        Ok(())
    });
}

#[test]
fn through_a_pooler_in_transaction_mode() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let workers = [cluster.worker(1), cluster.worker(2)];
        let pooler = Pooler::start(&workers, cluster.database())?;
        for (number, group) in [1, 2].iter().enumerate() {
            cluster.coordinator().execute(&format!(
                "INSERT INTO pg_dist_poolinfo SELECT nodeid, \
                 'host=127.0.0.1 port={} dbname=node{number}' FROM pg_dist_node WHERE groupid = {group}",
                pooler.port()
            ))?;
        }
        let mut client = cluster.connect(0)?;
        for round in 1..=3 {
            assert!(call(&mut client, BLOCK));
            for worker in workers {
                let held = worker.query_value(
                    "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                      WHERE c.relname = 'pg_dist_transaction' AND l.mode = 'ExclusiveLock' AND l.granted",
                )?;
                assert_eq!(held, "1", "round {round}");
            }
            let writer = in_background(&cluster, 1, &spread.two_phase(&cluster));
            wait_until("the writer to wait", PATIENCE, || {
                let waiting = client
                    .query("SELECT FROM citus_backup_block_waiters() WHERE query = 'COMMIT'", &[])
                    .unwrap_or_else(|error| panic!("{}", fence_tests::words(&error)));
                (waiting.len() == 1).then_some(())
            })?;
            client
                .query("SELECT * FROM citus_backup_restore_point('pooled')", &[])
                .expect("points");
            client.query("SELECT citus_extend_backup_block(60000)", &[]).expect("an extension");
            assert!(call(&mut client, UNBLOCK));
            writer.join().expect("a thread").expect("the write goes on");
            assert_eq!(spread.values(&cluster)?, [round, round]);
            for worker in workers {
                let left = worker.query_value(
                    "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation \
                      WHERE c.relname LIKE 'pg_dist_%' AND l.mode = 'ExclusiveLock'",
                )?;
                assert_eq!(left, "0", "round {round}");
                // Nothing that was set stays with a session of the pooler.
                let open = worker.query_value(
                    "SELECT count(*) FROM pg_stat_activity \
                      WHERE application_name LIKE 'citus_fence%' AND state LIKE 'idle in transaction%'",
                )?;
                assert_eq!(open, "0", "round {round}");
            }
        }
        Ok(())
    });
}
