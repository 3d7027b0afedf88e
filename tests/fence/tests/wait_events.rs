//! Who looks at `pg_stat_activity` sees what this extension's processes wait for: by names of its own since
//! PostgreSQL 17, as an extension before.  Also after a crash, when the server has forgotten all names.

use fence_tests::{
    BLOCK, Cluster, Engine, PATIENCE, Result, Server, UNBLOCK, call, on_each_engine, wait_until,
    worker_pid,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{Installation, wait_for_sql};

fn await_event(node: &Server, who: &str, own: &str) -> Result<()> {
    let event = if Installation::current()?.major() >= 17 { own } else { "Extension" };
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity
                         WHERE {who} AND wait_event_type = 'Extension' AND wait_event = '{event}')"
    );
    wait_for_sql(&mut node.connect()?, &sql, PATIENCE)
}

/// A block's worker waits for the nodes, and who wants one and cannot have it yet for the worker.
fn names_are_shown(cluster: &Cluster) -> Result<()> {
    let node = cluster.coordinator();
    let mut client = cluster.connect(0)?;
    assert!(call(&mut client, BLOCK));
    await_event(node, &format!("pid = {}", worker_pid(&mut client)), "CitusFenceNodes")?;
    assert!(call(&mut client, UNBLOCK));

    let mut in_the_way = cluster.connect(1)?;
    in_the_way
        .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_dist_transaction IN ROW EXCLUSIVE MODE")
        .expect("a lock");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| call(&mut client, BLOCK));
        let seen = await_event(node, &format!("query = '{BLOCK}'"), "CitusFenceWorker");
        in_the_way.batch_execute("ROLLBACK").expect("its end");
        assert!(waiting.join().expect("a call"));
        seen
    })?;
    assert!(call(&mut client, UNBLOCK));
    Ok(())
}

#[test]
fn waits_have_names() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        names_are_shown(&cluster)?;
        // A backend that is killed has the server make its shared memory anew.
        let node = cluster.coordinator();
        let starts = || node.log().matches("ready to accept connections").count();
        let before = starts();
        let mut doomed = node.connect()?;
        let pid = doomed.query_one("SELECT pg_backend_pid()", &[]).expect("a process id").get(0);
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a signal");
        wait_until("the server to start anew", PATIENCE, || {
            (starts() > before && node.connect().is_ok()).then_some(())
        })?;
        names_are_shown(&cluster)
    });
}
