//! Somebody keeps a table of the cluster's nodes to himself, as an upgrade of Citus does: who needs it waits for as
//! long as it may and no longer, and who holds something needs none of it.

use std::time::{Duration, Instant};

use fence_tests::{
    BLOCK, Client, Cluster, Engine, PATIENCE, Result, UNBLOCK, call, on_each_engine, prove_usable,
    refusal, state, wait_until, wait_until_free, words, worker_pid,
};

/// What a busy machine may add to a bound.
const SLACK: Duration = Duration::from_secs(3);

/// Keeps a table of the coordinator from everybody.
fn keep(cluster: &Cluster, table: &str) -> Result<Client> {
    let mut client = cluster.connect(0)?;
    let lock = format!("BEGIN; LOCK pg_catalog.{table} IN ACCESS EXCLUSIVE MODE");
    client.batch_execute(&lock).expect("a lock");
    Ok(client)
}

/// A session on the coordinator that has looked at the catalog before: with Citus, one that has not cannot begin
/// anything while the catalog is kept.
fn connect(cluster: &Cluster) -> Result<Client> {
    let mut client = cluster.connect(0)?;
    assert!(!call(&mut client, UNBLOCK), "there is no block yet");
    Ok(client)
}

/// Waits until the worker of a block waits for a lock.
fn await_waiting_worker(client: &mut Client) -> Result<()> {
    let waits = "SELECT count(*) FROM pg_stat_activity
                  WHERE backend_type = 'citus_fence backup block' AND wait_event_type = 'Lock'";
    wait_until("a worker that waits for the catalog", PATIENCE, || {
        let count: i64 = client.query_one(waits, &[]).ok()?.get(0);
        (count == 1).then_some(())
    })
}

#[test]
fn a_block_is_not_started_and_says_who_is_in_the_way() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        for table in ["pg_dist_node", "pg_dist_authinfo", "pg_dist_local_group"] {
            let mut client = connect(&cluster)?;
            let mut keeper = keep(&cluster, table)?;
            let pid: i32 = keeper.query_one("SELECT pg_backend_pid()", &[]).expect("a pid").get(0);
            client.batch_execute("SET citus_fence.acquire_timeout = '2s'").expect("a setting");
            let began = Instant::now();
            let error = refusal(&mut client, "SELECT citus_block_writes_for_backup(30000)");
            let took = began.elapsed();
            assert_eq!(error.code().code(), "55P03", "{table}: {error:?}");
            assert!(took < Duration::from_secs(2) + SLACK, "{table}: {took:?}");
            let detail = error.detail().unwrap_or_default();
            let hint = error.hint().unwrap_or_default();
            let tells = detail.contains(&format!("process {pid}")) || hint.contains("pg_locks");
            assert!(tells, "{table}: {error:?}");
            drop(keeper);
            prove_usable(&cluster)?;
        }
        Ok(())
    });
}

#[test]
fn a_start_that_waits_for_the_catalog_can_be_ended() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut operator = connect(&cluster)?;
        for (sql, code) in [("SELECT pg_terminate_backend($)", "57P01"), (UNBLOCK, "57014")] {
            let mut caller = connect(&cluster)?;
            let keeper = keep(&cluster, "pg_dist_node")?;
            let caller = std::thread::spawn(move || caller.batch_execute(BLOCK));
            await_waiting_worker(&mut operator)?;
            let pid = worker_pid(&mut operator).to_string();
            let began = Instant::now();
            // Nothing was ever under a block that is released while it is being started.
            assert_eq!(call(&mut operator, &sql.replace('$', &pid)), sql != UNBLOCK, "{sql}");
            let error = caller.join().expect("a thread").expect_err("a start that was ended");
            assert!(words(&error).starts_with(code), "{sql}: {}", words(&error));
            assert!(began.elapsed() < SLACK, "{sql}: {:?}", began.elapsed());
            drop(keeper);
            wait_until_free(&cluster, SLACK)?;
        }
        prove_usable(&cluster)
    });
}

#[test]
fn an_active_block_needs_no_catalog() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = connect(&cluster)?;
        for table in ["pg_dist_authinfo", "pg_dist_poolinfo", "pg_dist_local_group"] {
            // Taken while the block is on its way: a writer on the worker has it wait for its locks.
            let mut in_the_way = cluster.connect(1)?;
            let lock = "BEGIN; LOCK pg_catalog.pg_dist_transaction IN ROW EXCLUSIVE MODE";
            in_the_way.batch_execute(lock).expect("a lock");
            let mut caller = connect(&cluster)?;
            let block = "SELECT citus_block_writes_for_backup(60000)";
            let caller = std::thread::spawn(move || caller.batch_execute(block));
            let waits = "SELECT count(*) > 0 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                          WHERE c.relname = 'pg_dist_transaction' AND NOT l.granted";
            wait_until("a fence that waits", PATIENCE, || {
                in_the_way.query_one(waits, &[]).ok()?.get::<_, bool>(0).then_some(())
            })?;
            let keeper = keep(&cluster, table)?;
            in_the_way.batch_execute("ROLLBACK").expect("a rollback");
            caller.join().expect("a thread").unwrap_or_else(|e| panic!("{table}: {}", words(&e)));
            assert_eq!(state(&mut client), "active", "{table}");
            // An errand, the release, and a deadline.
            let extended = "SELECT citus_extend_backup_block(60000) > now()";
            assert!(call(&mut client, extended), "{table}");
            assert!(call(&mut client, UNBLOCK), "{table}");
            drop(keeper);
            wait_until_free(&cluster, SLACK)?;
        }
        assert!(call(&mut client, "SELECT citus_block_writes_for_backup(1500)"));
        let _keeper = keep(&cluster, "pg_dist_authinfo")?;
        wait_until_free(&cluster, Duration::from_millis(1500) + SLACK)
    });
}

#[test]
fn a_switch_of_the_cluster_ends_in_time_and_changes_nothing() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        for function in ["citus_set_cluster_read_only()", "citus_set_cluster_read_write()"] {
            let mut client = connect(&cluster)?;
            let keeper = keep(&cluster, "pg_dist_node")?;
            client.batch_execute("SET citus_fence.acquire_timeout = '2s'").expect("a setting");
            let began = Instant::now();
            let error = refusal(&mut client, &format!("SELECT {function}"));
            assert_eq!(error.code().code(), "55P03", "{function}: {error:?}");
            assert!(began.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", began.elapsed());
            drop(keeper);
            cluster.execute_everywhere("CREATE TEMPORARY TABLE written (n int)")?;
        }
        Ok(())
    });
}

/// What the nodes need for it they are told before the worker's own session is begun, so neither waits for the other.
#[test]
fn the_nodes_make_their_sessions_while_the_worker_makes_its_own() {
    on_each_engine(|engine: Engine| {
        // Without a question before the start-up packet, that leaves at once, however busy the machine is.
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.node_conninfo", "sslmode=disable")
            .build()?;
        let mut client = connect(&cluster)?;
        // By then this session has looked up what it asks for.
        assert!(call(&mut client, BLOCK));
        assert!(call(&mut client, UNBLOCK));
        wait_until_free(&cluster, PATIENCE)?;
        let keeper = keep(&cluster, "pg_database")?;
        let caller = std::thread::spawn(move || client.batch_execute(BLOCK).map(|()| client));
        let sessions = "SELECT count(*) FROM pg_stat_activity
                         WHERE application_name = 'citus_fence backup block'";
        for node in &cluster.nodes()[1..] {
            wait_until("a session on the node, and none of the worker's", PATIENCE, || {
                node.query_value(sessions).ok().filter(|count| count == "1")
            })?;
        }
        drop(keeper);
        let mut client =
            caller.join().expect("a thread").unwrap_or_else(|e| panic!("{}", words(&e)));
        assert!(call(&mut client, UNBLOCK));
        Ok(())
    });
}

/// The server's oldest snapshot must not stand still for as long as a block lasts: vacuum could remove nothing.
#[test]
fn a_block_keeps_no_snapshot() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let mut errands = ["", "SELECT citus_extend_backup_block(60000) > now()"].into_iter();
        errands.try_for_each(|errand| {
            if !errand.is_empty() {
                assert!(call(&mut client, errand));
            }
            wait_until("sessions of the block without a snapshot", PATIENCE, || {
                let holds = "SELECT count(*) FROM pg_stat_activity
                              WHERE (backend_type LIKE 'citus_fence%'
                                     OR application_name LIKE 'citus_fence%')
                                AND backend_xmin IS NOT NULL";
                let none = |node: &fence_tests::Server| node.query_value(holds).ok();
                cluster.nodes().iter().all(|node| none(node).as_deref() == Some("0")).then_some(())
            })
        })?;
        assert!(call(&mut client, UNBLOCK));
        Ok(())
    });
}
