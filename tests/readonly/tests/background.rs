//! What writes by itself: autovacuum, the workers that apply what another server publishes, those of Citus and of other
//! extensions. They stop on a read-only node without filling its log, and go on when it is open again.

use std::time::Duration;

use readonly_tests::{
    Engine, PATIENCE, Result, Server, StopMode, assert_agrees, assert_untouched, close,
    on_each_engine, open, serve, traces_of_writers, wait_until,
};
use test_cluster::{Cluster, Installation};

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

/// It goes on with what does not write.  Told in the middle of its round to leave the rest, it once waited for ever: also
/// past its own end, if that was asked for at that moment, and the server did not stop.
#[test]
fn the_daemon_of_citus_goes_on_with_its_rounds() {
    on_each_engine(|engine: Engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        // Both are due in each of its rounds, many times a second.
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "citus.recover_2pc_interval", "10ms")
            .node_setting(0, "deadlock_timeout", "10ms")
            .build()?;
        let node = cluster.coordinator();
        serve(node)?;
        let daemon = "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'Citus Maintenance%' \
                         AND datname = current_database()";
        let pid = wait_until("the daemon", PATIENCE, || node.query_value(daemon).ok())?;
        // How often it has waited for something.
        let waits = || -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.and_then(|number| number.trim().parse().ok()).expect("a number")
        };
        // A round has some tens.
        let many = |from: u64| {
            wait_until("many rounds", PATIENCE, || (waits() > from + 2_000).then_some(()))
        };
        many(waits())?;
        close(node)?;
        many(waits())?;
        assert_eq!(node.query_value(daemon)?, pid, "it has died of it");
        open(node)?;
        many(waits())?;
        node.stop(StopMode::Fast)
    });
}

/// It takes its work up soon after the node writes again, also where it searches for no deadlocks: nothing but that had
/// it see the node's state oftener than once a minute.
#[test]
fn the_daemon_of_citus_is_soon_back_at_work() {
    /// Longer than any of its rounds, and shorter than a minute.
    const SOON: Duration = Duration::from_secs(25);
    on_each_engine(|engine: Engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        let cluster = Cluster::builder(engine)
            .workers(1)
            .setting("citus.distributed_deadlock_detection_factor", "-1")
            .setting("citus.recover_2pc_interval", "1s")
            .build()?;
        let node = cluster.coordinator();
        serve(node)?;
        cluster.worker(1).execute("CREATE TABLE own (n int)")?;
        for restarts in [true, false] {
            close(node)?;
            if restarts {
                node.restart()?;
            }
            // It has looked at what it finds, and waits.
            drop(node.connect()?);
            wait_until("the daemon", PATIENCE, || {
                let daemon = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Extension' \
                               AND backend_type LIKE 'Citus Maintenance%' AND datname = current_database()";
                (node.query_value(daemon).ok()? == "1").then_some(())
            })?;
            open(node)?;
            // As a crash would leave it; nobody but the daemon ends it.
            cluster.worker(1).execute(
                "SET application_name = 'citus_internal gpid=10000004242'; BEGIN; \
                 INSERT INTO own VALUES (1); PREPARE TRANSACTION 'citus_0_4242_7_0'",
            )?;
            wait_until("its recovery", SOON, || {
                let left = cluster.worker(1).query_value("SELECT count(*) FROM pg_prepared_xacts");
                (left.ok()? == "0").then_some(())
            })?;
        }
        // What is said in the files counts again.
        let log = node.log();
        assert!(!log.contains("PANIC") && !log.contains("terminated by signal"), "{log}");
        assert_untouched(node)
    });
}

/// pg_cron writes down each run of a job, and what was left undone when it starts.
#[test]
fn workers_of_other_extensions_wait_and_go_on() {
    const WAITS: &str = "waits until the system is not read only any more";
    const LAUNCHER: &str =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher'";
    let installation = Installation::current().expect("an installation");
    if !installation.has_extension_for("pg_cron", "a scheduler that writes by itself") {
        return;
    }
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "autovacuum_naptime", "1s")
            .node_setting(0, LOUD[0].0, LOUD[0].1)
            .node_setting(0, LOUD[1].0, LOUD[1].1)
            .build()?;
        let node = cluster.coordinator();
        serve(node)?;
        let libraries = node.query_value("SHOW shared_preload_libraries")?;
        node.stop(StopMode::Fast)?;
        node.set_while_stopped("shared_preload_libraries", &format!("{libraries},pg_cron"))?;
        node.set_while_stopped("cron.database_name", cluster.database())?;
        node.set_while_stopped("cron.host", test_cluster::HOST)?;
        node.start()?;
        // It is there on this node alone.
        node.execute("SET citus.enable_ddl_propagation = off; CREATE EXTENSION pg_cron")?;
        node.execute("CREATE TABLE ticks (n int)")?;
        node.execute("SELECT cron.schedule('* * * * *', 'INSERT INTO ticks VALUES (1)')")?;
        let launcher = || node.query_value(LAUNCHER);
        wait_until("the launcher", PATIENCE, || launcher().ok())?;

        let lsn = close(node)?;
        let closed = node.log().len();
        // It begins by writing.
        node.restart()?;
        wait_until("the launcher to wait", PATIENCE, || {
            since(node, closed).contains(WAITS).then_some(())
        })?;
        let waiting = launcher()?;
        await_launches(node, node.log().len(), LAUNCHES)?;
        assert_eq!(launcher()?, waiting, "it was started anew");
        let log = since(node, closed);
        let lines = noise(&log);
        assert!(lines.len() <= FEW_LINES, "{} lines: {lines:#?}", lines.len());
        assert!(traces_of_writers(node, &lsn)?.is_empty());
        // It can be ended where it waits, and does not keep the server from stopping.
        node.execute(&format!("SELECT pg_terminate_backend({waiting})"))?;
        wait_until("another launcher", PATIENCE, || launcher().ok().filter(|pid| *pid != waiting))?;
        let restarted = node.log().len();
        node.restart()?;
        wait_until("the launcher to wait", PATIENCE, || {
            since(node, restarted).contains(WAITS).then_some(())
        })?;
        let waiting = launcher()?;

        open(node)?;
        // Jobs begin with a minute.
        wait_until("the job to run", 3 * PATIENCE, || {
            (node.query_value("SELECT count(*) FROM ticks").ok()? != "0").then_some(())
        })?;
        assert_eq!(launcher()?, waiting, "it has not gone on where it was");
        assert_untouched(node)
    });
}

/// A node whose metadata is behind: Citus would try again every few seconds.
#[test]
fn the_metadata_of_other_nodes_is_left_until_later() {
    on_each_engine(|engine: Engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        let cluster = Cluster::builder(engine)
            .workers(2)
            .node_setting(0, "autovacuum_naptime", "1s")
            .node_setting(0, LOUD[0].0, LOUD[0].1)
            .node_setting(0, LOUD[1].0, LOUD[1].1)
            .node_setting(0, "citus.metadata_sync_interval", "1h")
            .node_setting(0, "citus.metadata_sync_retry_interval", "500ms")
            .build()?;
        let node = cluster.coordinator();
        let behind =
            || node.query_value("SELECT count(*) FROM pg_dist_node WHERE NOT metadatasynced");
        let set_behind =
            || node.execute("UPDATE pg_dist_node SET metadatasynced = false WHERE groupid = 1");
        let catches_up =
            || wait_until("the metadata", PATIENCE, || (behind().ok()? == "0").then_some(()));
        // The control: the daemon has it done when it starts.
        set_behind()?;
        node.restart()?;
        catches_up()?;

        set_behind()?;
        node.execute("SELECT citus_set_cluster_read_only()")?;
        assert_eq!(behind()?, "1");
        let closed = node.log().len();
        node.restart()?;
        await_launches(node, closed, LAUNCHES)?;
        let log = since(node, closed);
        // The stop ended as many sessions as Citus happened to keep.
        let (_, log) = log.split_once("database system is shut down").expect("a stop");
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| {
                ["ERROR: ", "FATAL: ", "WARNING: ", "exit code 1"]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .filter(|line| !line.contains("autovacuum"))
            .collect();
        assert!(lines.len() <= FEW_LINES, "{} lines: {lines:#?}", lines.len());
        assert_eq!(behind()?, "1");
        // It waits, and does not keep the server from stopping.
        node.restart()?;
        assert_eq!(behind()?, "1");
        node.execute("SELECT citus_set_cluster_read_write()")?;
        catches_up()?;
        assert_untouched(node)
    });
}

/// What a subscription has prepared its apply worker alone can end, and the switch waits for that.
#[test]
fn what_a_subscription_has_prepared_is_ended_first() {
    const SWITCHES: usize = 7;
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "wal_retrieve_retry_interval", "500ms")
            .build()?;
        let node = cluster.coordinator();
        let publisher = Server::builder("publisher").start()?;
        for server in [&publisher, node] {
            server.execute("CREATE TABLE news (n serial PRIMARY KEY, m int)")?;
        }
        publisher.execute("CREATE PUBLICATION p FOR TABLE news")?;
        let conninfo = publisher.tcp_params().conninfo().replace('\'', "''");
        node.execute(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p WITH (two_phase = true)"
        ))?;
        let enabled = "SELECT subtwophasestate FROM pg_subscription";
        wait_until("two phases", PATIENCE, || {
            (node.query_value(enabled).ok()? == "e").then_some(())
        })?;
        let count = |server: &Server| -> Option<u64> {
            server.query_value("SELECT count(*) FROM news").ok()?.parse().ok()
        };
        let script = "\\set gid random(1, 1000000000)\n\
             BEGIN;\nINSERT INTO news (m) VALUES (1);\nPREPARE TRANSACTION 'p:gid';\nCOMMIT PREPARED 'p:gid';\n\
             INSERT INTO news (m) VALUES (2);\n";
        let mut load = publisher.pgbench(script, 1, &[])?;
        for round in 0..SWITCHES {
            let before = count(node).expect("a count");
            wait_until("more rows", PATIENCE, || (count(node)? > before + 20).then_some(()))?;
            let lsn = close(node).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(traces_of_writers(node, &lsn)?.is_empty());
            assert_eq!(node.query_value("SELECT count(*) FROM pg_prepared_xacts")?, "0");
            open(node)?;
        }
        assert!(load.is_running(), "{}", load.output());
        load.kill();
        // What the load has left prepared is ended, and everything arrives.
        for gid in publisher.query("SELECT gid FROM pg_prepared_xacts")? {
            let gid = gid.into_iter().flatten().next().expect("a name");
            publisher.execute(&format!("COMMIT PREPARED '{gid}'"))?;
        }
        wait_until("all rows", PATIENCE, || (count(node)? == count(&publisher)?).then_some(()))?;
        assert_untouched(node)
    });
}
