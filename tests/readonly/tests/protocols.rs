//! Writes by other roads than a plain query string: the extended protocol, COPY FROM STDIN, another
//! database, psql and pgbench as they are.

use std::io::Write;

use readonly_tests::{
    Client, Engine, REFUSED, assert_untouched, close, db_error, is_read_only, on_each_engine, open,
    serve, single, traces_of_writers, value,
};
use test_cluster::postgres::Error;

fn copy_in(client: &mut Client) -> Result<(), Error> {
    let mut writer = client.copy_in("COPY served FROM STDIN")?;
    writer.write_all(b"1\n2\n").expect("rows");
    writer.finish().map(drop)
}

#[test]
fn the_extended_protocol_and_copy() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        let mut client = node.connect()?;
        let insert = client.prepare("INSERT INTO served VALUES ($1)").expect("a statement");
        client.batch_execute("CREATE SEQUENCE ticket").expect("a sequence");
        let next = client.prepare("SELECT nextval('ticket')").expect("a statement");
        let read = client.prepare("SELECT count(*) FROM served").expect("a statement");
        // The control.
        client.execute(&insert, &[&7i64]).expect("a write");
        client.query(&next, &[]).expect("a number");
        copy_in(&mut client).expect("rows");

        let lsn = close(node)?;
        let refused = |outcome: Option<Error>, what: &str| {
            let error = outcome.unwrap_or_else(|| panic!("{what} went through"));
            assert_eq!(db_error(what, &error).code().code(), REFUSED, "{what}: {error}");
        };
        refused(client.execute(&insert, &[&7i64]).err(), "a prepared INSERT");
        refused(client.query(&next, &[]).err(), "a prepared nextval");
        // In a session of its own, as this client library does not get over a COPY that fails.
        refused(copy_in(&mut node.connect()?).err(), "COPY FROM STDIN");
        let mut transaction = client.transaction().expect("BEGIN");
        transaction.query(&read, &[]).expect("a read");
        refused(transaction.execute(&insert, &[&7i64]).err(), "an INSERT after a read");
        drop(transaction);
        let rows: i64 = client.query_one(&read, &[]).expect("a read").get(0);
        assert_eq!(rows, 4);
        let traces = traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");

        open(node)?;
        client.execute(&insert, &[&7i64]).expect("a write");
        copy_in(&mut client).expect("rows");
        assert_untouched(node)
    });
}

/// There is a gate per database; a node is closed with all of them, also for a database that has none of
/// our functions.
#[test]
fn every_database_is_closed() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("CREATE DATABASE other")?;
        let other = node.connect_params().database("other");
        let mut client = other.connect()?;
        client.batch_execute("CREATE TABLE here (n int)").expect("a table");
        let mut writer = other.connect()?;
        writer.batch_execute("BEGIN; INSERT INTO here VALUES (1)").expect("a write");
        let mut template = node.connect_params().database("template1").connect()?;

        let lsn = close(node)?;
        assert!(writer.batch_execute("COMMIT").is_err(), "a writer of another database commits");
        for client in [&mut client, &mut template] {
            let error = client.batch_execute("CREATE TABLE late (n int)").expect_err("a write");
            assert_eq!(db_error("a write", &error).code().code(), REFUSED);
            assert_eq!(value(client, "SHOW citus_fence.system_is_read_only"), "on");
        }
        let traces = traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        open(node)?;
        assert_eq!(value(&mut client, "SELECT count(*) FROM here"), "0");
        client.batch_execute("INSERT INTO here VALUES (1)").expect("a write");
        assert!(!is_read_only(node)?);
        assert_untouched(node)
    });
}

/// A worker is closed: what the coordinator sends there is refused there, all of the transaction is
/// undone, and reads go on.
#[test]
fn what_a_coordinator_sends_to_a_closed_worker() {
    on_each_engine(|engine: Engine| {
        let cluster = test_cluster::Cluster::builder(engine).workers(2).build()?;
        cluster.create_distributed(
            "CREATE TABLE shared (id bigint, n bigint)",
            "shared",
            "id",
            4,
        )?;
        let insert =
            |id: u32| cluster.shard_sql("shared", id, &format!("INSERT INTO %s VALUES ({id}, 1)"));
        let all: Vec<String> = (1..=8).map(insert).collect();
        let both = format!("BEGIN; {}; COMMIT", all.join("; "));
        let coordinator = cluster.coordinator();
        // The control, which also opens the connections that are used again.
        let mut client = coordinator.connect()?;
        client.batch_execute(&both).expect("a write to all shards");
        let rows = || cluster.read_all_shards("shared", "SELECT id FROM %s").map(|rows| rows.len());
        assert_eq!(rows()?, 8);

        let worker = cluster.worker(1);
        let lsn = close(worker)?;
        for client in [&mut client, &mut coordinator.connect()?] {
            let error = client.batch_execute(&both).expect_err("a write through a closed worker");
            let db = db_error("a write", &error);
            assert!(db.message().contains("read only") || db.code().code() == REFUSED, "{db:?}");
            let _ = client.batch_execute("ROLLBACK");
        }
        assert_eq!(rows()?, 8);
        let traces = traces_of_writers(worker, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        if engine == Engine::Citus {
            assert_eq!(value(&mut client, "SELECT count(*) FROM shared"), "8");
        }
        open(worker)?;
        coordinator.connect()?.batch_execute(&both).expect("a write to all shards");
        assert_eq!(rows()?, 16);
        cluster.nodes().iter().try_for_each(assert_untouched)
    });
}
