//! What writes by itself: autovacuum, and the workers that apply what another server publishes. They
//! stop on a read-only node without filling its log, and go on when it is open again.

use readonly_tests::{
    Engine, PATIENCE, Result, Server, assert_agrees, assert_untouched, close, on_each_engine, open,
    serve, traces_of_writers, wait_until,
};
use test_cluster::Cluster;

/// What a process says when it connects to its database, at the level that the tests switch on, and
/// what kind of process says so, by the prefix that the tests set.
const LAUNCHED: [&str; 2] = [" autovacuum worker ", "InitPostgres"];
const LOUD: [(&str, &str); 2] =
    [("log_min_messages", "debug3"), ("log_line_prefix", "%m [%p] %b %e %q%u@%d/%a ")];
/// Launches to wait for; with a naptime of one second they take some seconds.
const LAUNCHES: usize = 8;
/// Lines that a few launches may cost, however many there are.
const FEW_LINES: usize = 6;

/// The lines that an operator would see at the usual level and that are errors, or speak of a worker.
fn noise(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| {
            ["ERROR: ", "FATAL: ", "WARNING: ", "LOG: "].iter().any(|level| line.contains(level))
        })
        .filter(|line| {
            ["ERROR: ", "FATAL: ", "WARNING: ", "autovacuum", "logical replication", "worker"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect()
}

/// What was logged since the log had this length.
fn since(node: &Server, length: usize) -> String {
    node.log().split_off(length)
}

fn await_launches(node: &Server, from: usize, count: usize) -> Result<()> {
    wait_until("launches of autovacuum workers", PATIENCE, || {
        let log = since(node, from);
        let is_launch = |line: &&str| LAUNCHED.iter().all(|word| line.contains(word));
        (log.lines().filter(is_launch).count() >= count).then_some(())
    })
}

/// Rows that autovacuum has to deal with.
fn make_work(node: &Server, table: &str) -> Result<()> {
    node.execute(&format!(
        "CREATE TABLE {table} (n int) WITH (autovacuum_vacuum_scale_factor = 0,
             autovacuum_vacuum_threshold = 10, autovacuum_analyze_threshold = 10,
             autovacuum_analyze_scale_factor = 0, log_autovacuum_min_duration = 0)"
    ))?;
    node.execute(&format!("INSERT INTO {table} SELECT generate_series(1, 500)"))?;
    node.execute(&format!("UPDATE {table} SET n = n + 1"))
}

fn await_vacuum(node: &Server, table: &str, from: usize) -> Result<()> {
    wait_until(&format!("autovacuum of {table}"), PATIENCE, || {
        let log = since(node, from);
        log.lines()
            .any(|line| {
                line.contains("automatic vacuum of table") && line.contains(&format!(".{table}\""))
            })
            .then_some(())
    })
}

#[test]
fn autovacuum_stands_still_and_goes_on() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "autovacuum_naptime", "1s")
            .node_setting(0, LOUD[0].0, LOUD[0].1)
            .node_setting(0, LOUD[1].0, LOUD[1].1)
            .build()?;
        let node = cluster.coordinator();
        serve(node)?;
        // The control: autovacuum works, and would write.
        let begin = node.log().len();
        make_work(node, "first")?;
        await_vacuum(node, "first", begin)?;

        // It is not to come in between the making and the closing.
        node.alter_system("autovacuum", "off")?;
        wait_until("the setting to arrive", PATIENCE, || {
            (node.query_value("SHOW autovacuum").ok()? == "off").then_some(())
        })?;
        make_work(node, "second")?;
        node.execute("ALTER SYSTEM RESET autovacuum")?;
        let lsn = close(node)?;
        let closed = node.log().len();
        node.reload()?;
        await_launches(node, closed, LAUNCHES)?;
        let log = since(node, closed);
        assert!(!log.contains("automatic vacuum of table"), "{log}");
        assert!(!log.contains("automatic analyze of table"), "{log}");
        let lines = noise(&log);
        assert!(lines.len() <= FEW_LINES, "{} lines: {lines:#?}", lines.len());
        let traces = traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        assert!(assert_agrees(node)?);

        let opened = node.log().len();
        open(node)?;
        await_vacuum(node, "second", opened)?;
        assert_untouched(node)
    });
}

/// A vacuum that is under way when the node is closed does not hold it off.
#[test]
fn a_running_autovacuum_is_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "autovacuum_naptime", "1s")
            // As slow as it can be.
            .node_setting(0, "autovacuum_vacuum_cost_delay", "100ms")
            .node_setting(0, "autovacuum_vacuum_cost_limit", "1")
            .build()?;
        let node = cluster.coordinator();
        make_work(node, "slow")?;
        let running = "SELECT count(*) FROM pg_stat_activity
             WHERE backend_type = 'autovacuum worker' AND query LIKE '%slow%'";
        wait_until("an autovacuum worker", PATIENCE, || {
            (node.query_value(running).ok()? != "0").then_some(())
        })?;
        let lsn = close(node)?;
        let traces = traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");
        assert_eq!(node.query_value(running)?, "0");
        open(node)?;
        assert_untouched(node)
    });
}

#[test]
fn apply_workers_stand_still_and_lose_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "autovacuum_naptime", "1s")
            .node_setting(0, LOUD[0].0, LOUD[0].1)
            .node_setting(0, LOUD[1].0, LOUD[1].1)
            .node_setting(0, "wal_retrieve_retry_interval", "500ms")
            .build()?;
        let node = cluster.coordinator();
        let publisher = Server::builder("publisher").start()?;
        for server in [&publisher, node] {
            server.execute("CREATE TABLE news (n int PRIMARY KEY)")?;
        }
        publisher.execute("CREATE PUBLICATION p FOR TABLE news")?;
        let conninfo = publisher.tcp_params().conninfo().replace('\'', "''");
        node.execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p"))?;
        let arrived = |count: &str| {
            wait_until(&format!("{count} rows on the subscriber"), PATIENCE, || {
                (node.query_value("SELECT count(*) FROM news").ok()? == count).then_some(())
            })
        };
        // The control: it applies.
        publisher.execute("INSERT INTO news SELECT generate_series(1, 10)")?;
        arrived("10")?;

        let lsn = close(node)?;
        let closed = node.log().len();
        publisher.execute("INSERT INTO news SELECT generate_series(11, 20)")?;
        // A clock that does not depend on what the workers do.
        await_launches(node, closed, LAUNCHES)?;
        let lines = since(node, closed);
        let lines = noise(&lines);
        assert!(lines.len() <= FEW_LINES, "{} lines: {lines:#?}", lines.len());
        assert_eq!(node.query_value("SELECT count(*) FROM news")?, "10");
        let traces = traces_of_writers(node, &lsn)?;
        assert!(traces.is_empty(), "{traces:?}");

        open(node)?;
        arrived("20")?;
        publisher.execute("INSERT INTO news VALUES (21)")?;
        arrived("21")?;
        // Across a restart in between too.
        close(node)?;
        publisher.execute("INSERT INTO news VALUES (22)")?;
        node.restart()?;
        assert_eq!(node.query_value("SELECT count(*) FROM news")?, "21");
        open(node)?;
        arrived("22")?;
        assert_untouched(node)
    });
}

/// Citus' maintenance daemon recovers two-phase commits, which writes.  On a read-only node it leaves that,
/// and does not die of it again and again.
#[test]
fn the_daemon_of_citus_leaves_its_recovery() {
    on_each_engine(|engine: Engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        let cluster = Cluster::builder(engine)
            .workers(2)
            .node_setting(0, "autovacuum_naptime", "1s")
            .node_setting(0, LOUD[0].0, LOUD[0].1)
            .node_setting(0, LOUD[1].0, LOUD[1].1)
            .setting("citus.recover_2pc_interval", "1h")
            .build()?;
        let node = cluster.coordinator();
        serve(node)?;
        let ddl = "CREATE TABLE spread (id bigint, n bigint)";
        cluster.create_distributed(ddl, "spread", "id", 8)?;
        let records = || node.query_value("SELECT count(*) FROM pg_dist_transaction");
        let leave_records = || -> Result<()> {
            for n in 0..5 {
                node.execute(&format!(
                    "INSERT INTO spread SELECT i, {n} FROM generate_series(1, 40) i"
                ))?;
            }
            assert_ne!(records()?, "0");
            Ok(())
        };
        let recovers =
            || wait_until("the recovery", PATIENCE, || (records().ok()? == "0").then_some(()));
        let recover_often = |often: bool| -> Result<()> {
            node.alter_system("citus.recover_2pc_interval", if often { "1s" } else { "1h" })?;
            node.reload()
        };
        // The control: the daemon would write.
        leave_records()?;
        recover_often(true)?;
        recovers()?;

        recover_often(false)?;
        leave_records()?;
        let lsn = close(node)?;
        let left = records()?;
        let closed = node.log().len();
        recover_often(true)?;
        await_launches(node, closed, LAUNCHES)?;
        // A session of a client starts a daemon where there is none.
        drop(node.connect()?);
        let log = since(node, closed);
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| {
                ["ERROR: ", "FATAL: ", "exit code 1"].iter().any(|word| line.contains(word))
            })
            .filter(|line| !line.contains("autovacuum"))
            .collect();
        assert!(lines.len() <= FEW_LINES, "{} lines: {lines:#?}", lines.len());
        assert_eq!(records()?, left);
        assert!(traces_of_writers(node, &lsn)?.is_empty());

        open(node)?;
        recovers()?;
        assert_untouched(node)
    });
}
