//! The switchover: read-only, fast stop, the standby has replayed the shutdown checkpoint, promote, and
//! the old primary comes back as a standby with the files that it has.

use readonly_tests::{
    Engine, Load, PATIENCE, Result, Server, StopMode, assert_agrees, assert_untouched, close,
    is_read_only, on_each_engine, serve, single,
};
use test_cluster::Cluster;

/// How many rows are in all shards of `shared` on one node.
fn rows_in_shards(server: &Server) -> Result<u32> {
    let mut client = server.connect()?;
    client.batch_execute("SET citus.override_table_visibility = off").expect("a setting");
    let counts = readonly_tests::value(
        &mut client,
        "SELECT concat_ws(' + ', '0', string_agg(format('(SELECT count(*) FROM %I)', relname), ' + '))
           FROM pg_class WHERE relname ~ '^shared_[0-9]+$' AND relkind = 'r'",
    );
    let count = readonly_tests::value(&mut client, &format!("SELECT {counts}"));
    Ok(count.parse().expect("a count"))
}

/// The recipe. Returns once the old primary follows the new one.
fn switch_over(old: &Server, new: &Server) -> Result<()> {
    let lsn = close(old)?;
    new.wait_for_replay_of(&lsn, PATIENCE)?;
    old.stop(StopMode::Fast)?;
    let checkpoint = old.control_data("Latest checkpoint location")?;
    assert_eq!(old.control_data("Database cluster state")?, "shut down");
    // Its record is longer than its location, so this is past it.
    new.wait_for_replay_of(&checkpoint, PATIENCE)?;
    new.execute("SELECT pg_promote()")?;
    old.follow(new)?;
    new.wait_for_replay_on(old, PATIENCE)
}

#[test]
fn on_a_plain_pair_to_and_fro() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let first = cluster.coordinator();
        serve(first)?;
        first.execute("CREATE TABLE history (n bigserial)")?;
        let second = first.standby("second")?;
        let pair = [first, &second];
        for round in 0..4 {
            let (old, new) = (pair[round % 2], pair[(round + 1) % 2]);
            old.execute("INSERT INTO history SELECT FROM generate_series(1, 10)")?;
            old.execute("UPDATE served SET n = n + 1")?;
            old.wait_for_replay_on(new, PATIENCE)?;
            switch_over(old, new)?;
            assert!(is_read_only(old)?, "a standby is read-only");
            assert!(!assert_agrees(new)?, "round {round}: the new primary is read-only");
            new.wait_for_replay_on(old, PATIENCE)?;
            for table in ["served", "history"] {
                let all = format!("SELECT count(*) || ' ' || sum(n) FROM {table}");
                assert_eq!(old.query_value(&all)?, new.query_value(&all)?, "{table}");
            }
            assert!(!old.log().contains("requested starting point"), "{}", old.log());
        }
        assert_eq!(first.query_value("SELECT count(*) FROM history")?, "40");
        Ok(())
    });
}

/// The control: promoted beside a read-only primary that goes on, the two part, as it still writes
/// checkpoints and the like.
#[test]
fn promoted_beside_it_the_two_part() {
    on_each_engine(|engine: Engine| {
        let cluster = single(engine)?;
        let first = cluster.coordinator();
        serve(first)?;
        let second = first.standby("second")?;
        first.wait_for_replay_on(&second, PATIENCE)?;
        let lsn = close(first)?;
        second.wait_for_replay_of(&lsn, PATIENCE)?;
        second.execute("SELECT pg_promote()")?;
        // A later checkpoint than the standby has seen.
        first.execute("CHECKPOINT")?;
        first.stop(StopMode::Fast)?;
        // It starts, and cannot follow.
        let length = first.log().len();
        first.follow(&second)?;
        second.execute("INSERT INTO served VALUES (1)")?;
        let parted = || {
            let log = first.log().split_off(length);
            log.contains("forked off") || log.contains("is ahead of the WAL flush position")
        };
        test_cluster::wait_until("the two to part", PATIENCE, || parted().then_some(()))?;
        Ok(())
    });
}

#[test]
fn on_a_worker() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).standbys([1]).build()?;
        let coordinator = cluster.coordinator();
        let (old, new) = (cluster.worker(1), cluster.standby_of(1));
        cluster.create_distributed(
            "CREATE TABLE shared (id bigint, n bigint)",
            "shared",
            "id",
            8,
        )?;
        let write = |id: u32| {
            let insert = format!("INSERT INTO %s VALUES ({id}, 1)");
            coordinator.execute(&cluster.shard_sql("shared", id, &insert))
        };
        (1..=40).try_for_each(write)?;
        let load = Load::create(&cluster, false)?;
        let mut pgbench = load.begin(&[])?;

        old.wait_for_replay_on(new, PATIENCE)?;
        switch_over(old, new)?;
        let node = coordinator.query_value(&format!(
            "SELECT nodeid FROM pg_dist_node WHERE nodeport = {}",
            old.port()
        ))?;
        match engine {
            Engine::Citus => coordinator.execute(&format!(
                "SELECT citus_update_node({node}, '127.0.0.1', {})",
                new.port()
            ))?,
            Engine::Embedded => {
                let update = format!(
                    "UPDATE pg_dist_node SET nodeport = {} WHERE nodeid = {node}",
                    new.port()
                );
                for server in [coordinator, cluster.worker(2), new] {
                    server.execute(&update)?;
                }
            }
        }
        // Everything is served, by the new primary, and follows on the old one.
        (41..=80).try_for_each(write)?;
        let mut rows = 0;
        for server in [coordinator, new, cluster.worker(2)] {
            rows += rows_in_shards(server)?;
        }
        assert_eq!(rows, 80);
        new.wait_for_replay_on(old, PATIENCE)?;
        assert!(is_read_only(old)?);
        assert!(!is_read_only(new)?);
        // The coordinator's own writers never noticed.
        assert!(pgbench.is_running(), "{}", pgbench.output());
        pgbench.kill();
        assert_untouched(coordinator)?;
        Ok(())
    });
}
