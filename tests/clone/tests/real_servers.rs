//! What servers have beside Citus and this extension: jobs of pg_cron, other databases, and names by which they reach
//! themselves.

use std::time::Duration;

use clone_tests::words::{refusal, words};
use clone_tests::{
    Bed, Engine, How, Kind, Load, OTHER, PATIENCE, Result, SOURCE, on_each_engine, ours_exists,
    ours_exists_in, replica_of, wait_until,
};
use test_cluster::postgres::{Client, NoTls};
use test_cluster::{Cluster, HOST, Installation, Server};

const UNFIT: &str = "55000";
/// pg_cron's jobs begin with the minute.
const A_MINUTE: Duration = Duration::from_secs(75);
/// Another address of the same machine.
const OTHER_ADDRESS: &str = "127.0.0.2";

fn is_unfit(cluster: &Cluster, call: &str, about: &str) -> Result<()> {
    let error = refusal(cluster, 0, call)?;
    let said = words(&error);
    assert!(error.code().code() == UNFIT && said.contains(about), "{call}, {about}: {said}");
    Ok(())
}

fn add(cluster: &Cluster, replica: &test_cluster::Replica, host: &str) -> String {
    format!(
        "SELECT public.citus_add_clone_node('{HOST}', {}, '{host}', {})",
        replica.catalog_port(),
        cluster.catalog_port(replica.source())
    )
}

fn in_database(server: &Server, database: &str) -> Client {
    server.connect_params().database(database).config().connect(NoTls).expect(database)
}

/// A job that writes to a distributed table runs on the source, once, and not on its clone, wherever pg_cron keeps its jobs.
#[test]
fn jobs_of_the_source_do_not_run_twice() -> Result<()> {
    let is_there = Installation::current()?.has_extension_for("pg_cron", "jobs of the source");
    if !is_there || !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    // The jobs are in another database than the cluster.
    let builder = Bed::builder(Engine::Citus).database("app").node_setting(
        SOURCE,
        "cron.use_background_workers",
        "on",
    );
    let mut cluster = builder.build()?;
    if !ours_exists_in(&cluster)? {
        return Ok(());
    }
    cluster.create_distributed(
        "CREATE TABLE ticks (key bigint, at timestamptz, port int)",
        "ticks",
        "key",
        8,
    )?;
    let source = cluster.node(SOURCE);
    let libraries = source.query_value("SHOW shared_preload_libraries")?;
    let with_cron = format!("{libraries},pg_cron");
    source.restart_with_libraries(&with_cron)?;
    let mut jobs = in_database(source, "postgres");
    jobs.batch_execute(
        "CREATE EXTENSION pg_cron;
         SELECT cron.schedule_in_database('tick', '* * * * *', $$
             INSERT INTO public.ticks SELECT key, date_trunc('minute', clock_timestamp()), current_setting('port')::int
               FROM generate_series(1, 20) AS key$$, 'app')",
    )
    .expect("a job");
    let replica = replica_of(&cluster, SOURCE)?;
    let add = add(&cluster, &replica, HOST);
    is_unfit(&cluster, &add, "pg_cron")?;
    // pg_cron before 1.5 has no such setting, and runs its jobs all the same.
    let has_setting = "SELECT count(*) FROM pg_settings WHERE name = 'cron.launch_active_jobs'";
    if source.query_value(has_setting)? == "0" {
        let file = replica.server().data_dir().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file).expect("its settings");
        text.push_str("\ncron.launch_active_jobs = off\n");
        std::fs::write(&file, text).expect("its settings");
        replica.server().restart()?;
        cluster.wait_streaming(&replica, PATIENCE)?;
        is_unfit(&cluster, &add, "pg_cron")?;
    }
    replica.server().restart_with_libraries(&libraries)?;
    cluster.wait_streaming(&replica, PATIENCE)?;
    let id = cluster.coordinator().query_value(&add)?.parse().expect("an id");
    How::Ours.split(&cluster, id).end().outcome.expect("the split");
    let node = cluster.adopt(replica);

    let ports = [cluster.node(SOURCE).port(), cluster.node(node).port()];
    let ticks = |port: u16| -> Result<i64> {
        let count = format!("SELECT count(DISTINCT at) FROM ticks WHERE port = {port}");
        Ok(cluster.coordinator().query_value(&count)?.parse().expect("a count"))
    };
    let before = ticks(ports[0])?;
    wait_until("a job of the source", A_MINUTE, || (ticks(ports[0]).ok()? > before).then_some(()))?;
    assert_eq!(ticks(ports[1])?, 0, "the clone runs its source's job");
    // Each run is there whole, and once, from wherever one looks.
    let twice = "SELECT count(*) FROM (SELECT at FROM ticks GROUP BY at HAVING count(*) <> 20) t";
    for server in cluster.nodes() {
        assert_eq!(server.query_value(twice)?, "0", "{}", server.name());
    }
    // That it would show: with pg_cron preloaded the new worker runs them.
    cluster.node(node).restart_with_libraries(&with_cron)?;
    wait_until("a job of the clone", A_MINUTE, || (ticks(ports[1]).ok()? > 0).then_some(()))
}

/// A second database without Citus comes with the clone as it is; what is prepared there is named, and stays.
#[test]
fn a_second_database_is_left_alone() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let source = bed.cluster.node(SOURCE);
        let create = "SET citus.enable_create_database_propagation = off; CREATE DATABASE beside";
        source.query("SELECT 1")?;
        create.split("; ").try_for_each(|sql| source.execute(sql))?;
        let beside = |server: &Server, sql: &str| {
            in_database(server, "beside").batch_execute(sql).expect(sql);
        };
        beside(source, "CREATE TABLE own (key int); INSERT INTO own VALUES (1)");
        beside(source, "BEGIN; INSERT INTO own VALUES (2); PREPARE TRANSACTION 'of beside'");
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let called = How::Ours.split(&bed.cluster, id).end();
        called.outcome.expect("the split");
        let warned = |notice: &&clone_tests::how::Notice| {
            notice.message.contains("prepared transaction of beside in database beside")
        };
        assert_eq!(called.notices.iter().filter(warned).count(), 1, "{:?}", called.notices);
        let node = bed.cluster.adopt(replica);
        // Each ends it for itself.
        let servers = [bed.cluster.node(SOURCE), bed.cluster.node(node)];
        beside(servers[0], "COMMIT PREPARED 'of beside'");
        beside(servers[1], "ROLLBACK PREPARED 'of beside'");
        for (server, count) in servers.into_iter().zip([2i64, 1]) {
            let rows = in_database(server, "beside").query_one("SELECT count(*) FROM own", &[]);
            assert_eq!(rows.expect("a count").get::<_, i64>(0), count, "{}", server.name());
        }
        // A second database with the catalog would be a second cluster, which has no say in a split.
        if engine == Engine::Citus {
            beside(servers[1], "CREATE EXTENSION citus");
            let replica = replica_of(&bed.cluster, node)?;
            is_unfit(&bed.cluster, &add(&bed.cluster, &replica, HOST), "database beside")?;
        }
        Ok(())
    });
}

/// The name by which a server reaches itself comes with its settings to its clone, where it is another server's.
#[test]
fn a_clone_must_not_reach_its_source_where_it_means_itself() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let builder = Bed::builder(Engine::Citus)
        .setting("listen_addresses", &format!("{HOST},{OTHER_ADDRESS}"))
        // The coordinator by another address than the catalog has, too.
        .setting("citus.local_hostname", OTHER_ADDRESS);
    let mut bed = Bed::of(builder)?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    let cluster = &bed.cluster;
    let port = cluster.catalog_port(SOURCE);
    let nodeid = format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {port}");
    let nodeid = cluster.coordinator().query_value(&nodeid)?;
    cluster
        .coordinator()
        .execute(&format!("SELECT citus_update_node({nodeid}, '{OTHER_ADDRESS}', {port})"))?;
    let replica = bed.replica()?;
    let add = add(cluster, &replica, OTHER_ADDRESS);
    is_unfit(cluster, &add, "citus.local_hostname")?;
    replica.server().alter_system("citus.local_hostname", HOST)?;
    wait_until("a setting", PATIENCE, || {
        (replica.server().query_value("SHOW citus.local_hostname").ok()? == HOST).then_some(())
    })?;
    let kinds = [Kind::Insert, Kind::Copy, Kind::Merge, Kind::Reference, Kind::AllShards];
    let load = Load::start(cluster, &bed.tables, &[0, SOURCE, OTHER], &kinds, true)?;
    let id = cluster.coordinator().query_value(&add)?.parse().expect("an id");
    load.wait_for_each(2, PATIENCE)?;
    How::Ours.split(cluster, id).end().outcome.expect("the split");
    let node = bed.cluster.adopt(replica);
    load.wait_for_each(2, PATIENCE)?;
    let at_new = Load::start(&bed.cluster, &bed.tables, &[node], &kinds, true)?;
    at_new.wait_for_each(2, PATIENCE)?;
    let mut book = load.stop();
    book.add(at_new.stop());
    // What a split may cost is in nothing_lost.rs.
    let complaints = book.complaints(|_, sqlstate| matches!(sqlstate, "40001" | "CIINF"));
    assert!(complaints.is_empty(), "{complaints:#?}");
    let audit = bed.audit(&book)?;
    assert!(audit.is_clean(), "{audit}");
    Ok(())
}
