//! Reads, streaming and slots go on at a read-only node; who follows it catches up with all of it.

use readonly_tests::{
    Engine, Load, PATIENCE, Result, SOON, Server, assert_untouched, close, on_each_engine, open,
    serve,
};
use test_cluster::{Cluster, WalMethod};

#[test]
fn a_standby_catches_up_fully() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).standbys([0]).build()?;
        let node = cluster.coordinator();
        let standby = cluster.standby_of(0);
        let load = Load::create(&cluster, false)?;
        for _ in 0..3 {
            let mut pgbench = load.begin(&[])?;
            let lsn = close(node)?;
            standby.wait_for_replay_of(&lsn, PATIENCE)?;
            pgbench.wait_for_end(SOON)?;
            // All that there will ever be is there; both say the same.
            for sql in [
                "SELECT count(*) || ' ' || sum(n) || ' ' || max(id) FROM history",
                "SELECT sum(n) FROM loaded",
                "SELECT count(*) FROM pg_class",
            ] {
                assert_eq!(node.query_value(sql)?, standby.query_value(sql)?, "{sql}");
            }
            // Sequences are written ahead.
            let last = |server: &Server| -> Result<u64> {
                let text = server.query_value("SELECT last_value FROM ticket")?;
                Ok(text.parse().expect("a number"))
            };
            assert!(last(standby)? >= last(node)?);
            open(node)?;
        }
        assert_untouched(node)
    });
}

#[test]
fn reads_slots_and_backups_go_on() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let node = cluster.coordinator();
        serve(node)?;
        node.execute("CREATE PUBLICATION p FOR TABLE served")?;
        node.execute("SELECT pg_create_logical_replication_slot('before', 'pgoutput')")?;
        node.execute("INSERT INTO served SELECT generate_series(1, 100)")?;
        let lsn = close(node)?;
        // What is yet to be read from a slot can be read.
        let changes =
            "SELECT count(*) > 100 FROM pg_logical_slot_peek_binary_changes('before', NULL,
             NULL, 'proto_version', '1', 'publication_names', 'p')";
        assert_eq!(node.query_value(changes)?, "t");
        node.execute(
            "SELECT count(*) FROM pg_logical_slot_get_binary_changes('before', NULL, NULL,
                 'proto_version', '1', 'publication_names', 'p')",
        )?;
        // New followers can come.
        let late = node.standby("late")?;
        late.wait_for_replay_of(&lsn, PATIENCE)?;
        assert_eq!(late.query_value("SELECT count(*) FROM served")?, "101");
        let target = cluster.copy_target("backup", 0)?;
        node.base_backup(&target, WalMethod::Stream)?;
        assert!(node.dump("served")?.contains("COPY public.served"));
        // A subscriber too: the first copy of its tables, and what it is sent.
        let subscriber = Server::builder("subscriber").start()?;
        subscriber.execute("CREATE TABLE served (n bigint)")?;
        let conninfo = node.tcp_params().conninfo().replace('\'', "''");
        subscriber
            .execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p"))?;
        test_cluster::wait_until("the first copy", PATIENCE, || {
            (subscriber.query_value("SELECT count(*) FROM served").ok()? == "101").then_some(())
        })?;
        let traces = readonly_tests::traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        open(node)?;
        node.execute("INSERT INTO served VALUES (1000)")?;
        test_cluster::wait_until("the next row", PATIENCE, || {
            (subscriber.query_value("SELECT count(*) FROM served").ok()? == "102").then_some(())
        })?;
        subscriber.execute("DROP SUBSCRIPTION s")?;
        assert_untouched(node)
    });
}
