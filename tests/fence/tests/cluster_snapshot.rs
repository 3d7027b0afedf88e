//! A cluster snapshot: all nodes at one moment, for as long as it is asked for, and never longer.

use std::time::{Duration, Instant};

use fence_tests::{
    Bank, Client, Cluster, Engine, Load, PATIENCE, Result, Spread, StuckCommit, call,
    in_background, left_behind, on_each_engine, refusal, wait_until, wait_until_free, words,
};
use test_cluster::{Signal, Stopped};

/// Exports whose snapshots must all show an exact cluster.
const ROUNDS: usize = 20;
/// Rounds within which snapshots without a fence have to show damage.
const CONTROL_ROUNDS: usize = 5;
/// What is committed between two nodes' snapshots of the control: what makes its damage certain.
const BETWEEN: u64 = 20;

/// An export: its number, and the snapshot of each node by its number.
struct Exported {
    id: i64,
    snapshots: Vec<String>,
    mode: String,
}

fn export(cluster: &Cluster, client: &mut Client, arguments: &str) -> Exported {
    let sql = format!("SELECT * FROM citus_export_cluster_snapshot({arguments})");
    let rows = client.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {}", words(&error)));
    let mut snapshots = vec![String::new(); cluster.nodes().len()];
    for row in &rows {
        let port: i32 = row.get("nodeport");
        let node = (0..snapshots.len())
            .find(|node| i32::from(cluster.catalog_port(*node)) == port)
            .unwrap_or_else(|| panic!("no node has port {port}"));
        snapshots[node] = row.get("snapshot_id");
    }
    assert!(snapshots.iter().all(|snapshot| !snapshot.is_empty()), "{snapshots:?}");
    assert_eq!(rows.len(), snapshots.len());
    Exported { id: rows[0].get("export_id"), snapshots, mode: rows[0].get("held_mode") }
}

fn release(client: &mut Client, id: i64) -> bool {
    call(client, &format!("SELECT citus_release_cluster_snapshot({id})"))
}

fn state(client: &mut Client, id: i64) -> (String, Option<String>) {
    let sql = "SELECT state, error FROM citus_cluster_snapshot_status() WHERE export_id = $1";
    let row = client.query_one(sql, &[&id]).expect("a row");
    (row.get(0), row.get(1))
}

/// Snapshots of the nodes, one after the other, and nothing more.
fn without_a_fence(
    cluster: &Cluster,
    between: impl Fn() -> Result<()>,
) -> Result<(Vec<Client>, Vec<String>)> {
    let (mut keepers, mut snapshots) = (Vec::new(), Vec::new());
    for node in 0..cluster.nodes().len() {
        if node > 0 {
            between()?;
        }
        let mut client = cluster.connect(node)?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").expect("a transaction");
        snapshots.push(client.query_one("SELECT pg_export_snapshot()", &[]).expect("one").get(0));
        keepers.push(client);
    }
    Ok((keepers, snapshots))
}

#[test]
fn every_export_is_one_moment_and_snapshots_without_a_fence_are_not() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 2)?;
        writers.wait_for_more(200, PATIENCE)?;
        let mut client = cluster.connect(0)?;
        for round in 0..ROUNDS {
            writers.wait_for_more(10, PATIENCE)?;
            let mode = if round % 2 == 0 { "mode => '2pc'" } else { "mode => 'all'" };
            let exported = export(&cluster, &mut client, mode);
            // They go on, and the snapshots do not.
            writers.wait_for_more(10, PATIENCE)?;
            let audit = bank.audit_under(&cluster, &exported.snapshots)?;
            assert!(audit.is_clean(), "round {round}, {mode}: {audit}");
            assert!(release(&mut client, exported.id), "it did not last");
        }

        let damaged = (0..CONTROL_ROUNDS).any(|_| {
            let between = || writers.wait_for_more(BETWEEN, PATIENCE);
            let (_keepers, snapshots) = without_a_fence(&cluster, between).expect("snapshots");
            !bank.audit_under(&cluster, &snapshots).expect("an audit").is_clean()
        });
        assert!(damaged, "snapshots without a fence show no damage: this test shows nothing");

        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        wait_until_free(&cluster, PATIENCE)
    });
}

/// B is written once A was acknowledged, on another node and in a transaction of its own: no snapshot may show B
/// without A. The control is mode 2pc, which does not promise that.
#[test]
fn what_was_written_later_is_never_there_without_what_was_before_it() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).proxies(true).fsync(false).build()?;
        let spread = Spread::create(&cluster)?;
        let [a, b] = spread.keys;
        let set = move |id: i64, turn: u64| {
            engine.shard_sql("spread", id, &format!("UPDATE %s SET n = {turn} WHERE id = {id}"))
        };
        // From the node of B, which all others hear from late: its snapshot is taken when many turns are over.
        let load =
            Load::start(&cluster, spread.nodes[1], move |turn| vec![set(a, turn), set(b, turn)])?;
        load.wait_for_more(50)?;
        cluster.link(spread.nodes[1]).delay(Duration::from_millis(50))?;
        let mut client = cluster.connect(0)?;
        let mut ahead = |mode: &str| -> Result<bool> {
            load.wait_for_more(3)?;
            let exported = export(&cluster, &mut client, mode);
            let sql = "SELECT id, n FROM %s";
            let rows = cluster.read_all_shards_under(&exported.snapshots, "spread", sql)?;
            let value = |id: i64| -> i64 {
                let row = rows.iter().find(|row| row.values[0] == Some(id.to_string()));
                row.and_then(|row| row.values[1].as_ref()?.parse().ok()).expect("the row")
            };
            assert!(release(&mut client, exported.id));
            Ok(value(b) > value(a))
        };
        for round in 0..10 {
            assert!(!ahead("mode => 'all'")?, "round {round}");
        }
        let seen = (0..10).any(|_| ahead("mode => '2pc'").expect("a snapshot"));
        assert!(seen, "mode 2pc never shows the later write alone: this test shows nothing");
        assert_eq!(load.stop().errors, [""; 0]);
        Ok(())
    });
}

#[test]
fn a_commit_in_doubt_is_finished_first() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.recover_2pc_interval", "-1")
            .fsync(false)
            .build()?;
        let spread = Spread::create(&cluster)?;
        // The coordinator dies between its own commit and the nodes'.
        let stuck = StuckCommit::begin(&cluster, 0, &spread.two_phase(&cluster))?;
        cluster.node(0).crash()?;
        drop(stuck);
        cluster.node(0).start()?;
        cluster.node(0).alter_system("synchronous_standby_names", "")?;
        cluster.node(0).reload()?;
        let prepared = test_cluster::prepared_transactions(&cluster)?;
        assert!(!prepared.is_empty(), "nothing is in doubt, so this shows nothing");

        let mut client = cluster.connect(0)?;
        let exported = export(&cluster, &mut client, "");
        assert_eq!(test_cluster::prepared_transactions(&cluster)?.len(), 0);
        let rows = cluster.read_all_shards_under(
            &exported.snapshots,
            "spread",
            "SELECT sum(n) FROM %s HAVING sum(n) > 0",
        )?;
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(release(&mut client, exported.id));
        Ok(())
    });
}

#[test]
fn a_release_says_whether_it_lasted_and_every_end_leaves_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;

        // Released, twice, and from another session.
        let first = export(&cluster, &mut client, "");
        let second = export(&cluster, &mut client, "");
        assert!(first.id < second.id);
        assert!(release(&mut cluster.connect(0)?, first.id));
        assert!(!release(&mut client, first.id));
        assert_eq!(state(&mut client, second.id).0, "held");
        assert!(release(&mut client, second.id));
        assert!(!release(&mut client, 1), "one that never was");
        wait_until_free(&cluster, Duration::from_secs(5))?;

        // Expired, and given a longer life in time.
        let short = export(&cluster, &mut client, "timeout_ms => 1500");
        let long = export(&cluster, &mut client, "timeout_ms => 1500");
        client
            .batch_execute(&format!("SELECT citus_extend_cluster_snapshot({}, 60000)", long.id))
            .expect("an extension");
        wait_until("the first to expire", PATIENCE, || {
            (state(&mut client, short.id).0 == "over").then_some(())
        })?;
        assert!(!release(&mut client, short.id));
        let error = refusal(
            &mut client,
            &format!("SELECT citus_extend_cluster_snapshot({}, 60000)", short.id),
        );
        assert_eq!(error.code().code(), "42704", "{error:?}");
        assert!(release(&mut client, long.id));
        wait_until_free(&cluster, Duration::from_secs(5))?;

        // The caller is gone, which changes nothing once it was told.
        let mut caller = cluster.connect(0)?;
        let kept = export(&cluster, &mut caller, "");
        drop(caller);
        assert!(
            !cluster
                .read_all_shards_under(&kept.snapshots, "spread", "SELECT 1 FROM %s")?
                .is_empty()
        );
        assert!(release(&mut client, kept.id));

        // A keeper is ended, and a node stops.
        for stop in [false, true] {
            let lost = export(&cluster, &mut client, "");
            let node = cluster.worker(1);
            if stop {
                node.kill_postmaster(Signal::SIGINT)?;
                node.await_end("it was asked to stop")?;
            } else {
                node.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE application_name = 'citus_fence cluster snapshot'",
                )?;
            }
            wait_until("the end of the export", Duration::from_secs(5), || {
                (state(&mut client, lost.id).0 == "over").then_some(())
            })?;
            let (_, why) = state(&mut client, lost.id);
            assert!(why.as_deref().is_some_and(|why| why.contains("terminat")), "{why:?}");
            assert!(!release(&mut client, lost.id));
            wait_until_free(&cluster, Duration::from_secs(5))?;
            if stop {
                client.batch_execute("SET citus_fence.acquire_timeout = '1s'").expect("a setting");
                let error = refusal(&mut client, "SELECT citus_export_cluster_snapshot()");
                assert!(error.code().code().starts_with("08"), "{error:?}");
                client.batch_execute("RESET citus_fence.acquire_timeout").expect("a setting");
                node.start()?;
            }
        }

        // The worker is ended.
        let lost = export(&cluster, &mut client, "");
        client
            .batch_execute(
                "SELECT pg_terminate_backend(worker_pid) FROM citus_cluster_snapshot_status() \
                  WHERE state = 'held'",
            )
            .expect("an end");
        wait_until("the end of the export", Duration::from_secs(5), || {
            (state(&mut client, lost.id).0 == "over").then_some(())
        })?;
        assert!(!release(&mut client, lost.id));
        wait_until_free(&cluster, Duration::from_secs(5))?;
        Ok(())
    });
}

/// The worker stands still while a node loses its snapshot, so that it hears of that and of the release at once.
#[test]
fn what_was_lost_before_the_release_did_not_last() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let mut client = cluster.connect(0)?;
        let lost = export(&cluster, &mut client, "");
        let pid: i32 = client
            .query_one(
                "SELECT worker_pid FROM citus_cluster_snapshot_status() WHERE export_id = $1",
                &[&lost.id],
            )
            .expect("a worker")
            .get(0);
        let stopped = Stopped::process(pid)?;
        let keeper =
            "FROM pg_stat_activity WHERE application_name = 'citus_fence cluster snapshot'";
        cluster.worker(1).execute(&format!("SELECT pg_terminate_backend(pid) {keeper}"))?;
        wait_until("the end of the keeper", PATIENCE, || {
            let count = cluster.worker(1).query_value(&format!("SELECT count(*) {keeper}")).ok()?;
            (count == "0").then_some(())
        })?;
        let params = cluster.coordinator().connect_params();
        let id = lost.id;
        let released =
            std::thread::spawn(move || release(&mut params.connect().expect("a session"), id));
        wait_until("the release to wait", PATIENCE, || {
            let waits = "SELECT count(*) FROM pg_stat_activity \
                         WHERE query LIKE 'SELECT citus_release%' AND state = 'active'";
            (cluster.coordinator().query_value(waits).ok()? == "1").then_some(())
        })?;
        stopped.go_on();
        assert!(!released.join().expect("a thread"), "it had not lasted");
        wait_until_free(&cluster, PATIENCE)
    });
}

/// Its host is gone: nothing is refused, and nothing answers.
#[test]
fn an_inactive_node_that_is_silent_is_left_out_and_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).proxies(true).fsync(false).build()?;
        let port = cluster.catalog_port(2);
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(&format!(
                "UPDATE pg_dist_node SET isactive = false WHERE nodeport = {port}; \
                 SET citus_fence.connect_timeout = '2s'"
            ))
            .expect("an inactive node");
        cluster.link(2).freeze()?;
        let sql = "SELECT export_id, nodeport FROM citus_export_cluster_snapshot()";
        let rows = client.query(sql, &[]).unwrap_or_else(|error| panic!("{}", words(&error)));
        assert_eq!(rows.len(), 2, "the coordinator and the other worker");
        assert!(rows.iter().all(|row| row.get::<_, i32>(1) != i32::from(port)));
        assert!(release(&mut client, rows[0].get(0)));
        cluster.link(2).heal()
    });
}

#[test]
fn a_read_only_cluster_is_read_like_any_other() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SELECT citus_set_cluster_read_only()").expect("a switch");
        for mode in ["mode => '2pc'", "mode => 'all'"] {
            let exported = export(&cluster, &mut client, mode);
            assert!(release(&mut client, exported.id), "{mode}");
        }
        client.batch_execute("SELECT citus_set_cluster_read_write()").expect("a switch");
        Ok(())
    });
}

#[test]
fn a_caller_who_gives_up_leaves_nothing_and_writers_go_on_while_it_is_held() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).fsync(false).build()?;
        let spread = Spread::create(&cluster)?;
        // Somebody is in the way.
        let mut holder = cluster.connect(1)?;
        holder
            .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_dist_transaction IN ROW EXCLUSIVE MODE")
            .expect("a lock");
        let mut client = cluster.connect(0)?;
        client
            .batch_execute(
                "SET citus_fence.lock_timeout = '300ms'; SET citus_fence.acquire_timeout = '1s'",
            )
            .expect("settings");
        let error = refusal(&mut client, "SELECT citus_export_cluster_snapshot()");
        assert_eq!(error.code().code(), "55P03", "{error:?}");
        assert!(error.detail().is_some_and(|detail| detail.contains("process")), "{error:?}");
        wait_until_free(&cluster, Duration::from_secs(5))?;

        // Cancelled, and gone.
        let call = "SELECT citus_export_cluster_snapshot()".to_owned();
        for how in ["pg_cancel_backend", "pg_terminate_backend"] {
            let asked = in_background(&cluster, 0, std::slice::from_ref(&call));
            wait_until("the call to wait", PATIENCE, || {
                let sql = format!(
                    "SELECT pid FROM pg_stat_activity WHERE query = '{call}' AND state = 'active'"
                );
                (left_behind(cluster.node(1)).ok()? > 0).then_some(())?;
                cluster.coordinator().query_value(&sql).ok().map(drop)
            })?;
            cluster.coordinator().execute(&format!(
                "SELECT {how}(pid) FROM pg_stat_activity WHERE query = '{call}' AND state = 'active'"
            ))?;
            assert!(asked.join().expect("a thread").is_err());
            wait_until_free(&cluster, Duration::from_secs(10))?;
        }
        holder.batch_execute("ROLLBACK").expect("an end");

        let exported = export(&cluster, &mut client, "");
        let begun = Instant::now();
        for statement in spread.two_phase(&cluster) {
            client.batch_execute(&statement).expect("a write");
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "a snapshot holds no writer back");
        assert!(release(&mut client, exported.id));
        Ok(())
    });
}

#[test]
fn what_is_asked_wrongly_is_refused_with_words() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let mut client = cluster.connect(0)?;
        let mut code = |sql: &str| refusal(&mut client, sql).code().code().to_owned();
        assert_eq!(code("SELECT citus_export_cluster_snapshot(0)"), "22023");
        assert_eq!(code("SELECT citus_export_cluster_snapshot(NULL)"), "22004");
        assert_eq!(code("SELECT citus_export_cluster_snapshot(1000, 'some')"), "22023");
        assert_eq!(code("SELECT citus_release_cluster_snapshot(NULL)"), "22004");
        assert_eq!(code("SELECT citus_extend_cluster_snapshot(1, 1000)"), "42704");
        let mut worker = cluster.connect(1)?;
        assert_eq!(
            refusal(&mut worker, "SELECT citus_export_cluster_snapshot()").code().code(),
            "55000"
        );
        client.batch_execute("CREATE TABLE own (n int)").expect("a table");
        client.batch_execute("BEGIN; INSERT INTO own VALUES (1)").expect("a write");
        let error = refusal(&mut client, "SELECT citus_export_cluster_snapshot()");
        assert_eq!(error.code().code(), "25001", "{error:?}");
        client.batch_execute("ROLLBACK").expect("an end");

        // A block and a snapshot: the one would wait for the other, and a snapshot that is held is in nobody's way.
        assert!(call(&mut client, fence_tests::BLOCK));
        let error = refusal(&mut client, "SELECT citus_export_cluster_snapshot()");
        assert_eq!(error.code().code(), "55006", "{error:?}");
        assert!(call(&mut client, fence_tests::UNBLOCK));
        let held = export(&cluster, &mut client, "");
        assert!(call(&mut client, fence_tests::BLOCK));
        assert!(call(&mut client, fence_tests::UNBLOCK));
        let error = refusal(&mut client, "DROP EXTENSION citus_fence");
        assert_eq!(error.code().code(), "55006", "{error:?}");
        assert!(release(&mut client, held.id));
        Ok(())
    });
}

#[test]
fn where_a_node_has_no_gate_the_mode_is_2pc_and_all_is_refused() {
    on_each_engine(|engine: Engine| {
        let cluster =
            Cluster::builder(engine).workers(1).without_fence_preload(1).fsync(false).build()?;
        let mut client = cluster.connect(0)?;
        let exported = export(&cluster, &mut client, "");
        let mode: String = client
            .query_one("SELECT mode FROM citus_cluster_snapshot_status() WHERE state = 'held'", &[])
            .expect("a row")
            .get(0);
        assert_eq!(mode, "2pc");
        assert_eq!(exported.mode, "2pc", "whoever hears no NOTICE sees it");
        assert!(release(&mut client, exported.id));
        let error = refusal(&mut client, "SELECT citus_export_cluster_snapshot(mode => 'all')");
        assert_eq!(error.code().code(), "55000", "{error:?}");
        Ok(())
    });
}

/// A name that leads to two servers, or a failover in the middle: the fence would stand on one of them and the snapshot
/// be of the other.
#[test]
fn fence_and_snapshot_are_of_one_server() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).proxies(true).standbys([1]).build()?;
        cluster.standby_of(1).execute("SELECT pg_promote()")?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.acquire_timeout = '3s'").expect("a setting");
        cluster.link(1).alternate_with(cluster.standby_of(1).port())?;
        let error = refusal(&mut client, "SELECT citus_export_cluster_snapshot()");
        let detail = error.detail().unwrap_or_default();
        assert_eq!(error.code().code(), "55P03", "{error:?}");
        assert!(detail.contains("two servers answer at"), "{error:?}");
        assert!(detail.contains(&cluster.catalog_port(1).to_string()), "{error:?}");
        cluster.link(1).heal()?;
        let exported = export(&cluster, &mut client, "");
        assert!(release(&mut client, exported.id));
        Ok(())
    });
}
