//! Nothing leaks: whatever happens to the caller, the worker, a node or a link, no lock, session or
//! slot is left on any node within its bound, and a new block succeeds.

use std::time::{Duration, Instant};

use fence_tests::{
    BLOCK, Cluster, Engine, Heard, PATIENCE, Result, UNBLOCK, call, in_background, left_behind,
    on_each_engine, prove_usable, refusal, state, wait_until, wait_until_free, worker_pid,
};
use test_cluster::{Signal, StopMode};

/// Begins a block, and does not wait long for what passes by itself.
const SHORT_BLOCK: &str =
    "SET citus_fence.acquire_timeout = '2s'; SELECT citus_block_writes_for_backup()";

/// What a healthy cluster may take to clean up.
const SOON: Duration = Duration::from_secs(5);
/// After its deadline a node ends a hold by itself within this.
const AFTER_DEADLINE: Duration = Duration::from_secs(10);

fn cluster(engine: Engine) -> Result<Cluster> {
    Cluster::builder(engine).workers(2).build()
}

/// Keeps a conflicting lock on a worker, so that a block stays in `starting`.
struct InTheWay(fence_tests::Client);

impl InTheWay {
    fn on(cluster: &Cluster, node: usize) -> Result<Self> {
        let mut client = cluster.connect(node)?;
        client
            .batch_execute("BEGIN; LOCK TABLE pg_dist_transaction IN ROW EXCLUSIVE MODE")
            .expect("a lock");
        Ok(Self(client))
    }

    fn gone(mut self) {
        self.0.batch_execute("ROLLBACK").expect("a rollback");
    }
}

/// A caller that waits in `starting`, with the pid of its session.
fn starting_caller(
    cluster: &Cluster,
) -> Result<(std::thread::JoinHandle<std::result::Result<(), test_cluster::postgres::Error>>, i32)>
{
    let caller = in_background(cluster, 0, &[BLOCK.to_owned()]);
    let mut client = cluster.connect(0)?;
    let pid = wait_until("a block that is starting and holds the coordinator", PATIENCE, || {
        let row = client
            .query_one("SELECT state, requestor_pid FROM citus_backup_block_status()", &[])
            .expect("a status");
        let holds = left_behind(cluster.coordinator()).ok()? > 0;
        (row.get::<_, String>(0) == "starting" && holds).then(|| row.get::<_, i32>(1))
    })?;
    Ok((caller, pid))
}

#[test]
fn a_caller_that_is_cancelled_or_terminated_while_starting() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        for signal in ["pg_cancel_backend", "pg_terminate_backend"] {
            let in_the_way = InTheWay::on(&cluster, 1)?;
            let (caller, pid) = starting_caller(&cluster)?;
            cluster.coordinator().execute(&format!("SELECT {signal}({pid})"))?;
            assert!(caller.join().expect("a thread").is_err(), "{signal}");
            // Well before the one in the way goes: the attempt itself is given up.
            wait_until_free(&cluster, SOON)?;
            assert_eq!(state(&mut cluster.connect(0)?), "inactive");
            in_the_way.gone();
            prove_usable(&cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_caller_that_disconnects_while_starting() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let in_the_way = InTheWay::on(&cluster, 2)?;
        let conninfo = cluster.coordinator().connect_params().conninfo();
        let mut watcher = cluster.connect(0)?;
        let mut client = std::process::Command::new("psql")
            .args(["--no-psqlrc", "--dbname", &conninfo, "--command", BLOCK])
            .spawn()
            .expect("psql");
        let starting = wait_until("a block that is starting", PATIENCE, || {
            (state(&mut watcher) == "starting").then_some(())
        });
        // SIGKILL: the client's kernel closes the socket and nobody says goodbye.
        client.kill().expect("psql can be killed");
        client.wait().expect("psql has ended");
        starting?;
        wait_until_free(&cluster, SOON)?;
        assert_eq!(state(&mut watcher), "inactive");
        in_the_way.gone();
        prove_usable(&cluster)
    });
}

#[test]
fn an_unblock_while_starting() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let in_the_way = InTheWay::on(&cluster, 1)?;
        let (caller, _) = starting_caller(&cluster)?;
        assert!(!call(&mut cluster.connect(0)?, UNBLOCK), "nothing was ever under it");
        let error = caller.join().expect("a thread").expect_err("the block was given up");
        assert!(fence_tests::words(&error).contains("released while it was being started"));
        wait_until_free(&cluster, SOON)?;
        in_the_way.gone();
        prove_usable(&cluster)
    });
}

#[test]
fn the_worker_process_is_terminated_or_killed() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let pid = worker_pid(&mut client);
        assert!(call(&mut client, &format!("SELECT pg_terminate_backend({pid})")));
        wait_until("the end of the block", SOON, || (state(&mut client) == "error").then_some(()))?;
        wait_until_free(&cluster, SOON)?;
        let error = refusal(&mut client, BLOCK);
        assert_eq!(error.code().code(), "55000");
        assert!(error.detail().is_some_and(|detail| detail.contains("terminated")), "{error:?}");
        assert!(!call(&mut client, UNBLOCK), "the error is cleared, and that was no whole block");
        prove_usable(&cluster)?;

        assert!(call(&mut client, BLOCK));
        let pid = worker_pid(&mut client);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("a kill");
        // The postmaster ends all sessions and starts anew, with new shared memory.
        let mut client = wait_until("the coordinator's recovery", PATIENCE, || {
            let mut client = cluster.connect(0).ok()?;
            // A session from before the postmaster has noticed is ended with the others.
            (worker_of(&mut client)? != Some(pid)).then_some(client)
        })?;
        wait_until_free(&cluster, SOON)?;
        assert_eq!(state(&mut client), "inactive");
        prove_usable(&cluster)
    });
}

/// The block's worker, if any; nothing where the session is gone.
fn worker_of(client: &mut fence_tests::Client) -> Option<Option<i32>> {
    let row = client.query_one("SELECT worker_pid FROM citus_backup_block_status()", &[]);
    row.ok().map(|row| row.get(0))
}

#[test]
fn the_coordinator_stops_at_once_or_its_postmaster_is_killed() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        assert!(call(&mut cluster.connect(0)?, BLOCK));
        cluster.coordinator().stop(StopMode::Immediate)?;
        // The workers notice without the coordinator's help.
        wait_until_free(&cluster, SOON)?;
        cluster.coordinator().start()?;
        prove_usable(&cluster)?;

        assert!(call(&mut cluster.connect(0)?, BLOCK));
        cluster.coordinator().kill_postmaster(Signal::SIGKILL)?;
        cluster.coordinator().await_end("its postmaster was killed")?;
        wait_until_free(&cluster, SOON)?;
        cluster.coordinator().start()?;
        prove_usable(&cluster)
    });
}

#[test]
fn a_fast_shutdown_is_not_held_up() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        assert!(call(&mut cluster.connect(0)?, BLOCK));
        cluster.coordinator().stop(StopMode::Fast)?;
        wait_until_free(&cluster, SOON)?;
        cluster.coordinator().start()?;
        prove_usable(&cluster)
    });
}

#[test]
fn a_worker_node_is_stopped_or_killed() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        for kill in [false, true] {
            let mut client = cluster.connect(0)?;
            assert!(call(&mut client, BLOCK));
            if kill {
                cluster.worker(1).crash()?;
            } else {
                cluster.worker(1).stop(StopMode::Fast)?;
            }
            let lost = Instant::now();
            wait_until("the loss of the block", SOON, || {
                (state(&mut client) == "error").then_some(())
            })?;
            assert!(lost.elapsed() < SOON);
            let error: String = client
                .query_one("SELECT error FROM citus_backup_block_status()", &[])
                .expect("a status")
                .get(0);
            let port = cluster.worker(1).port().to_string();
            assert!(error.contains(&port), "{error} does not name the node");
            wait_until_free(&cluster, SOON)?;
            assert!(
                !call(&mut client, UNBLOCK),
                "the error is cleared, and that was no whole block"
            );
            let error = refusal(&mut client, SHORT_BLOCK);
            assert_eq!(error.code().code(), "08001", "{error:?}");
            assert!(error.message().contains(&port), "{error:?}");
            cluster.worker(1).start()?;
            prove_usable(&cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_worker_node_freezes() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.connect_timeout = '1s'").expect("a setting");

        // While active: the release does not wait for it for long, and it lets go once it can.
        assert!(call(&mut client, BLOCK));
        cluster.worker(1).freeze()?;
        let asked = Instant::now();
        let mut heard = Heard::on(&cluster, 0)?;
        assert!(!call(&mut heard.client, UNBLOCK), "nobody knows what that node has done");
        assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
        let warnings = heard.take();
        assert!(
            warnings.iter().any(|text| text.contains("a node did not confirm the release")),
            "{warnings:?}"
        );
        wait_until_free(&cluster, SOON)?;

        // While starting: an error that names it, in time, and the others are free.
        let asked = Instant::now();
        let error = refusal(&mut client, SHORT_BLOCK);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(error.code().code(), "08001");
        assert!(error.message().contains(&cluster.worker(1).port().to_string()), "{error:?}");
        wait_until_free(&cluster, SOON)?;

        cluster.worker(1).thaw()?;
        wait_until_free(&cluster, SOON)?;
        prove_usable(&cluster)
    });
}

#[test]
fn a_link_is_cut_or_goes_silent() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).proxies(true).build()?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.connect_timeout = '1s'").expect("a setting");
        assert!(call(&mut client, BLOCK));
        cluster.link(1).cut()?;
        wait_until("the loss of the block", SOON, || {
            (state(&mut client) == "error").then_some(())
        })?;
        wait_until_free(&cluster, SOON)?;
        assert!(!call(&mut client, UNBLOCK), "the error is cleared, and that was no whole block");
        cluster.link(1).heal()?;
        prove_usable(&cluster)?;

        // Half-open: nothing is forwarded any more and nobody is told.  The node ends its hold by itself.
        assert!(call(&mut client, "SELECT citus_block_writes_for_backup(3000)"));
        cluster.link(2).freeze()?;
        wait_until("the deadline", PATIENCE, || (state(&mut client) == "inactive").then_some(()))?;
        wait_until_free(&cluster, AFTER_DEADLINE)?;
        assert!(!call(&mut client, UNBLOCK), "it has expired, which somebody has to be told of");
        let asked = Instant::now();
        let error = refusal(&mut client, SHORT_BLOCK);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(error.code().code(), "08001");
        cluster.link(2).heal()?;
        prove_usable(&cluster)
    });
}

/// A link that goes silent while a node waits for its lock: the node gets the lock, and nobody hears of it.
#[test]
fn a_lock_whose_answer_is_lost_does_not_stay_for_the_time_of_a_whole_block() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).proxies(true).build()?;
        let in_the_way = InTheWay::on(&cluster, 1)?;
        let begin = [
            "SET citus_fence.acquire_timeout = '3s'".to_owned(),
            "SET citus_fence.connect_timeout = '1s'".to_owned(),
            "SELECT citus_block_writes_for_backup(1800000)".to_owned(),
        ];
        let caller = in_background(&cluster, 0, &begin);
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                     WHERE a.application_name = 'citus_fence backup block' AND NOT l.granted";
        wait_until("a node that waits for its lock", PATIENCE, || {
            (cluster.worker(1).query_value(waits).ok()? == "1").then_some(())
        })?;
        cluster.link(1).freeze()?;
        in_the_way.gone();
        let error = caller.join().expect("a thread").expect_err("the node does not answer");
        let words = fence_tests::words(&error);
        let port = cluster.catalog_port(1).to_string();
        assert!(words.contains("Not confirmed is the end of the attempt on"), "{words}");
        assert!(words.contains(&port), "{words}");
        // What the error says: the three seconds, and five more.
        assert!(words.contains("within 8000 ms"), "{words}");
        assert!(left_behind(cluster.worker(1))? > 0, "the node has no lock, so this shows nothing");
        wait_until_free(&cluster, AFTER_DEADLINE)?;
        cluster.link(1).heal()?;
        prove_usable(&cluster)
    });
}

#[test]
fn the_deadline_comes() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, "SELECT citus_block_writes_for_backup(700)"));
        wait_until_free(&cluster, SOON)?;
        assert_eq!(state(&mut client), "inactive");
        assert!(!call(&mut client, UNBLOCK), "an expired block is not a released one");
        prove_usable(&cluster)?;

        // The control: an extension in time moves it.
        assert!(call(&mut client, "SELECT citus_block_writes_for_backup(1500)"));
        let extend =
            "SELECT citus_extend_backup_block(60000) > clock_timestamp() + interval '50 s'";
        assert!(call(&mut client, extend));
        let expired = wait_until("an expiry that must not come", Duration::from_secs(3), || {
            (state(&mut client) != "active").then_some(())
        });
        assert!(expired.is_err());
        assert!(call(&mut client, UNBLOCK));
        Ok(())
    });
}

#[test]
fn of_twelve_callers_one_wins() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        for _ in 0..5 {
            let callers: Vec<_> =
                (0..12).map(|_| in_background(&cluster, 0, &[BLOCK.to_owned()])).collect();
            let results: Vec<_> =
                callers.into_iter().map(|c| c.join().expect("a thread")).collect();
            let losers: Vec<_> =
                results.iter().filter_map(|result| result.as_ref().err()).collect();
            assert_eq!(losers.len(), 11);
            for loser in losers {
                assert!(
                    fence_tests::words(loser).starts_with("55006"),
                    "{}",
                    fence_tests::words(loser)
                );
            }
            assert!(call(&mut cluster.connect(0)?, UNBLOCK));
            wait_until_free(&cluster, SOON)?;
        }
        prove_usable(&cluster)
    });
}

/// `DROP DATABASE` does not wait: it is refused, or with FORCE ends the block with all other sessions.
#[test]
fn a_database_is_dropped_under_a_block() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(0).build()?;
        let create = format!(
            "CREATE EXTENSION {}; SELECT citus_set_coordinator_host('127.0.0.1', {}); \
             CREATE EXTENSION citus_fence",
            engine.catalog_extension(),
            cluster.coordinator().port()
        );
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE DATABASE doomed")?;
        let params = coordinator.connect_params().database("doomed");
        params.connect()?.batch_execute(&create).expect("a second distributed database");
        let mut doomed = params.connect()?;
        assert!(call(&mut doomed, BLOCK));
        let worker = worker_pid(&mut doomed);
        doomed.close().expect("a clean end");
        let mut client = cluster.connect(0)?;
        let error = refusal(&mut client, "DROP DATABASE doomed");
        assert_eq!(error.code().code(), "55006", "{error:?}");
        // Seen from outside: on Citus a new session in there would bring a daemon along that FORCE misses.
        let holds = format!(
            "SELECT count(*) FROM pg_locks WHERE pid = {worker} AND mode = 'ExclusiveLock' \
             AND locktype = 'relation'"
        );
        assert_eq!(coordinator.query_value(&holds)?, "3", "the block goes on");
        client
            .batch_execute("DROP DATABASE doomed WITH (FORCE)")
            .unwrap_or_else(|error| panic!("{}", fence_tests::words(&error)));
        wait_until_free(&cluster, SOON)?;
        // The slot is not lost with it, nor does the other database hear of it.
        assert_eq!(state(&mut client), "inactive");
        prove_usable(&cluster)
    });
}

#[test]
fn the_extension_cannot_be_dropped_from_under_a_block() {
    on_each_engine(|engine| {
        let cluster = cluster(engine)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let error = refusal(&mut client, "SET lock_timeout = '500ms'; DROP EXTENSION citus_fence");
        assert_eq!(error.code().code(), "55P03", "{error:?}");
        client.batch_execute("RESET lock_timeout").expect("a setting");
        assert_eq!(state(&mut client), "active");
        assert!(call(&mut client, UNBLOCK));
        prove_usable(&cluster)
    });
}
