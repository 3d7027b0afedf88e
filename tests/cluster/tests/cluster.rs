//! Whole clusters: built in every variant, worked on, copied, restored and audited.

use std::path::PathBuf;

use test_cluster::{
    Bank, Cluster, ClusterBuilder, Engine, Installation, PATIENCE, PasswordSource, Phase, Restore,
    Result, Signal, StopMode, WalMethod, Writers, try_wait_until, wait_for_sql,
};

/// Without the extension under test: what these tests are about is the harness.
fn builder(engine: Engine) -> ClusterBuilder {
    Cluster::builder(engine).workers(2).without_fence()
}

/// A second's work of writers at every node.
fn work(bank: &Bank, cluster: &Cluster) -> Result<test_cluster::Summary> {
    let writers = bank.start_writers(cluster, 1)?;
    writers.wait_for_more(100, PATIENCE)?;
    let summary = writers.stop();
    assert!(summary.errors.is_empty(), "{:?}", summary.errors.first());
    assert!(summary.hung.is_empty());
    Ok(summary)
}

/// Waits for more transfers on a cluster that has just lost a node. What the node left in doubt holds
/// locks that the writers wait for.
fn go_on(cluster: &Cluster, writers: &Writers, more: u64) -> Result<()> {
    let goal = writers.acknowledged() + more;
    try_wait_until("more transfers after a crash", PATIENCE, || {
        cluster.recover_prepared()?;
        Ok((writers.acknowledged() >= goal).then_some(()))
    })
}

fn copies_of(
    cluster: &Cluster,
    round: &str,
    copy: impl Fn(&test_cluster::Server, &PathBuf) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    cluster
        .nodes()
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let target = cluster.copy_target(round, number)?;
            copy(node, &target)?;
            Ok(target)
        })
        .collect()
}

#[test]
fn a_bank_at_work_audits_clean_and_so_do_its_copies() -> Result<()> {
    for engine in Engine::available() {
        let cluster = builder(engine).build()?;
        let bank = Bank::create(&cluster, 40, 1_000)?;
        let summary = work(&bank, &cluster)?;
        let mut nodes: Vec<usize> = summary.acknowledged.iter().map(|mark| mark.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert_eq!(nodes, [0, 1, 2]);
        assert!(summary.latency_at(0.5) <= summary.latency_at(1.0));
        let audit = bank.audit(&cluster, summary.transfers())?;
        assert!(audit.is_clean(), "{engine}: {audit}");
        assert_eq!(audit.transfers, summary.acknowledged.len());

        let backups = copies_of(&cluster, "backup", |node, target| {
            node.base_backup(target, WalMethod::Stream)
        })?;
        let plain = copies_of(&cluster, "plain", |node, target| node.copy_files(target))?;
        for copies in [backups, plain] {
            let restored = cluster.restore(&copies)?;
            let audit = bank.audit(&restored, summary.transfers())?;
            assert!(audit.is_clean(), "{engine}, restored: {audit}");
            // It works, and its source knows nothing of it.
            let more = work(&bank, &restored)?;
            let audit = bank.audit(&restored, summary.transfers().chain(more.transfers()))?;
            assert!(audit.is_clean(), "{engine}, restored and used: {audit}");
        }
        let audit = bank.audit(&cluster, summary.transfers())?;
        assert_eq!(audit.transfers, summary.acknowledged.len());
        assert!(audit.is_clean(), "{engine}, after the restores: {audit}");
    }
    Ok(())
}

#[test]
fn copies_of_different_moments_show_damage() -> Result<()> {
    for engine in Engine::available() {
        let cluster = builder(engine).build()?;
        let bank = Bank::create(&cluster, 40, 1_000)?;
        let writers = bank.start_writers(&cluster, 1)?;
        writers.wait_for_more(20, PATIENCE)?;
        let copies = copies_of(&cluster, "torn", |node, target| {
            node.copy_files(target)?;
            // What is written between two copies is in the later one only.
            writers.wait_for_more(50, PATIENCE)
        })?;
        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors.first());

        let mut restore = Restore::new(&cluster, &copies)?;
        restore.isolate()?;
        restore.start()?;
        restore.rewrite_addresses()?;
        restore.recover_prepared()?;
        let audit = bank.audit(&restore.into_cluster(), [])?;
        assert!(!audit.half_transfers.is_empty(), "{engine}: {audit}");
        assert!(!audit.is_clean());
        // The source is whole all the same.
        let audit = bank.audit(&cluster, summary.transfers())?;
        assert!(audit.is_clean(), "{engine}: {audit}");
    }
    Ok(())
}

#[test]
fn isolated_copies_do_nothing_on_their_own() -> Result<()> {
    for engine in Engine::available() {
        let cluster = builder(engine).build()?;
        let copies = copies_of(&cluster, "isolated", |node, target| node.copy_files(target))?;
        let mut restore = Restore::new(&cluster, &copies)?;
        restore.isolate()?;
        restore.start()?;
        for node in restore.nodes() {
            assert_eq!(node.query_value("SHOW citus.recover_2pc_interval")?, "-1");
            assert_eq!(node.query_value("SHOW max_logical_replication_workers")?, "0");
        }
        restore.rewrite_addresses()?;
        restore.recover_prepared()?;
        restore.end_isolation()?;
        for node in restore.nodes() {
            assert_ne!(node.query_value("SHOW max_logical_replication_workers")?, "0");
        }
    }
    Ok(())
}

#[test]
fn nodes_find_each_other_with_tls_and_passwords() -> Result<()> {
    for engine in Engine::available() {
        for (tls, source) in [(true, PasswordSource::Authinfo), (false, PasswordSource::Passfile)] {
            let tls = tls && Installation::current()?.has_tls_for("TLS between nodes");
            let cluster = builder(engine).tls(tls).scram_from(source).build()?;
            let bank = Bank::create(&cluster, 20, 1_000)?;
            let summary = work(&bank, &cluster)?;
            let audit = bank.audit(&cluster, summary.transfers())?;
            assert!(audit.is_clean(), "{engine}: {audit}");

            let copies = copies_of(&cluster, "secure", |node, target| {
                node.base_backup(target, WalMethod::Fetch)
            })?;
            let restored = cluster.restore(&copies)?;
            work(&bank, &restored)?;
        }
    }
    Ok(())
}

#[test]
fn traffic_between_nodes_passes_the_links() -> Result<()> {
    for engine in Engine::available() {
        let cluster = builder(engine).proxies(true).build()?;
        let bank = Bank::create(&cluster, 20, 1_000)?;
        work(&bank, &cluster)?;
        for node in 0..3 {
            let passed = cluster.link(node).forwarded();
            assert!(node == 0 || passed > 0, "nothing passed link {node}");
        }

        // Without its link a worker cannot be reached by the others, but by tests.
        cluster.link(1).cut()?;
        assert_eq!(cluster.worker(1).query_value("SELECT 1")?, "1");
        let writers = bank.start_writers_at(&cluster, &[0], 1)?;
        let failed = test_cluster::wait_until("an error", PATIENCE, || writers.errors().pop())?;
        assert_ne!(failed.phase, Phase::Connecting);
        cluster.link(1).heal()?;
        go_on(&cluster, &writers, 20)?;
        writers.stop();
        cluster.recover_prepared()?;
        let audit = bank.audit(&cluster, [])?;
        assert!(audit.is_clean(), "{engine}: {audit}");
    }
    Ok(())
}

#[test]
fn a_worker_that_crashes_is_survived() -> Result<()> {
    for engine in Engine::available() {
        let cluster = builder(engine).build()?;
        let bank = Bank::create(&cluster, 20, 1_000)?;
        let writers = bank.start_writers(&cluster, 1)?;
        writers.wait_for_more(20, PATIENCE)?;
        cluster.worker(2).crash()?;
        cluster.worker(2).start()?;
        go_on(&cluster, &writers, 50)?;
        cluster.worker(1).kill_postmaster(Signal::SIGKILL)?;
        cluster.worker(1).start()?;
        go_on(&cluster, &writers, 50)?;
        cluster.coordinator().stop(StopMode::Immediate)?;
        cluster.coordinator().start()?;
        go_on(&cluster, &writers, 50)?;
        let summary = writers.stop();
        assert!(!summary.errors.is_empty());
        assert!(summary.hung.is_empty());
        cluster.recover_prepared()?;
        let audit = bank.audit(&cluster, summary.transfers())?;
        assert!(audit.is_clean(), "{engine}: {audit}");
    }
    Ok(())
}

#[test]
fn standbys_spares_and_more_workers() -> Result<()> {
    for engine in Engine::available() {
        let mut cluster = builder(engine)
            .standbys([1])
            .database("shop")
            .setting("work_mem", "5MB")
            .node_setting(1, "work_mem", "6MB")
            .build()?;
        assert_eq!(cluster.coordinator().query_value("SHOW work_mem")?, "5MB");
        assert_eq!(cluster.worker(1).query_value("SHOW work_mem")?, "6MB");
        assert_eq!(cluster.worker(2).query_value("SELECT current_database()")?, "shop");
        cluster.worker(1).execute("CREATE TABLE t AS SELECT 1 AS i")?;
        let standby = cluster.standby_of(1);
        cluster.worker(1).wait_for_replay_on(standby, PATIENCE)?;
        assert_eq!(standby.query_value("SELECT i FROM t")?, "1");

        let added = cluster.add_worker()?;
        assert_eq!(added, 3);
        let mut client = cluster.connect(0)?;
        wait_for_sql(
            &mut client,
            "SELECT array_agg(groupid ORDER BY groupid) = '{0,1,2,3}' \
             AND bool_and(isactive) FROM pg_dist_node",
            PATIENCE,
        )?;
        let spare = cluster.start_spare("spare")?;
        assert_eq!(spare.query_value("SELECT count(*) FROM pg_dist_node")?, "0");
    }
    Ok(())
}

#[test]
fn shards_are_read_where_they_are() -> Result<()> {
    for engine in Engine::available() {
        let cluster = builder(engine).build()?;
        cluster.create_distributed(
            "CREATE TABLE things (id bigint PRIMARY KEY, name text)",
            "things",
            "id",
            4,
        )?;
        for id in 1..=20 {
            let insert = format!("INSERT INTO %s (id, name) VALUES ({id}, 'it''s {id}')");
            let node = cluster.node(id % 3);
            node.execute(&cluster.shard_sql("things", id, &insert))?;
        }
        assert_eq!(cluster.placements("things")?.len(), 4);
        let rows = cluster.read_all_shards("things", "SELECT id, name, NULL FROM %s")?;
        assert_eq!(rows.len(), 20);
        assert!(rows.iter().all(|row| row.node > 0 && row.values[2].is_none()));
        assert!(rows.iter().any(|row| row.values[1].as_deref() == Some("it's 7")));
        assert!(cluster.placements("pg_class").is_err());
    }
    Ok(())
}

#[test]
fn mistakes_in_a_test_are_errors() {
    let outcome = builder(Engine::Embedded).without_fence_preload(3).build();
    let message = outcome.err().map(|error| error.to_string());
    assert!(message.is_some_and(|text| text.contains("there is no node 3")));
}

#[test]
fn a_replica_streams_without_an_archive_and_writers_can_be_held() -> Result<()> {
    for engine in Engine::available() {
        let mut cluster = builder(engine)
            .proxies(true)
            .node_setting(1, "archive_mode", "on")
            .node_setting(1, "archive_command", "exit 1")
            .build()?;
        let bank = Bank::create(&cluster, 20, 1_000)?;
        let replica = cluster.clone_of(1)?;
        cluster.wait_streaming(&replica, PATIENCE)?;
        assert_eq!(replica.source(), 1);
        assert_eq!(replica.server().query_value("SHOW archive_mode")?, "off");
        assert_eq!(replica.server().query_value("SELECT pg_is_in_recovery()")?, "t");
        assert_eq!(replica.link().map(test_cluster::Link::port), Some(replica.catalog_port()));

        let writers = bank.between(&[1, 2]).start_writers(&cluster, 1)?;
        writers.wait_for_more(20, PATIENCE)?;
        writers.hold(true);
        writers.await_held(PATIENCE)?;
        let held = writers.acknowledged();
        cluster.wait_in_step(&replica, PATIENCE)?;
        let here = cluster.read_all_shards("entries", "SELECT count(*) FROM %s")?;
        for shard in here.iter().filter(|shard| shard.node == 1) {
            let table = format!("SELECT count(*) FROM entries_{}", shard.shardid);
            let there = replica.server().query_value(&table)?;
            assert_eq!(Some(there.as_str()), shard.values[0].as_deref(), "{engine}");
        }
        assert_eq!(writers.acknowledged(), held, "{engine}: writers that are held go on");
        writers.hold(false);
        writers.wait_for_more(20, PATIENCE)?;
        writers.stop();
        let port = replica.server().port();
        assert_eq!(cluster.adopt(replica), 3);
        assert_eq!(cluster.node(3).port(), port);
    }
    Ok(())
}
