//! A writer that would wait for a split which waits for him goes on: the split lets go, and tries again. It takes many
//! locks one after the other, so the server's own look for deadlocks, once in each wait, would pick the writer.

use clone_tests::probe::Probe;
use clone_tests::{
    Bed, Call, Engine, How, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists_in,
    replica_of, wait_until,
};
use test_cluster::{Cluster, HOST, describe};

/// The server looks for deadlocks after so long a wait, once.
const DEADLOCK_TIMEOUT: &str = "400ms";
/// When the split has waited this long, its own look is over.
const WAITS: &str = "SELECT EXISTS (
    SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE NOT l.granted AND a.application_name LIKE 'citus_fence_clone%'
       AND clock_timestamp() - l.waitstart > interval '420 ms')";

#[test]
fn the_split_gives_way_to_a_writer() {
    on_each_engine(|engine: Engine| {
        // Without other tables, so that some of these shards move.
        let builder = Bed::builder(engine).setting("deadlock_timeout", DEADLOCK_TIMEOUT);
        let cluster = &builder.build()?;
        if !ours_exists_in(cluster)? {
            return Ok(());
        }
        let probe = Probe::make(cluster)?;
        let replica = replica_of(cluster, SOURCE)?;
        let id = How::Ours.register(cluster, &replica)?;
        let (split, moving) = Probe::split(cluster, &replica, id)?;
        assert!(moving.len() > 1, "{moving:?}");
        // The split takes the first, and waits for the last.
        let (first, last) = (moving[0], moving[moving.len() - 1]);
        let mut writer = cluster.connect(0)?;
        writer
            .batch_execute(&format!("BEGIN; {}", probe.insert_into(cluster, last)))
            .expect("a write");
        let call = Call::make(&cluster.coordinator().connect_params(), split);
        wait_until("the split to wait", PATIENCE, || {
            (cluster.coordinator().query_value(WAITS).ok()? == "t").then_some(())
        })?;
        if let Err(error) = writer.batch_execute(&probe.insert_into(cluster, first)) {
            panic!("the writer is the victim: {}", describe(&error));
        }
        writer.batch_execute("COMMIT").expect("a commit");
        wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the split");
        Ok(())
    });
}

/// What the log has when the split let go for a writer.
const GAVE_WAY: &str = "a writer waited for the split, and it for the writer";

/// A cluster of Citus whose deadlocks nobody else finds in time.
fn citus() -> Result<Option<Cluster>> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(None);
    }
    let builder = Bed::builder(Engine::Citus)
        .setting("deadlock_timeout", "20s")
        .setting("citus.distributed_deadlock_detection_factor", "-1");
    let cluster = builder.build()?;
    Ok(ours_exists_in(&cluster)?.then_some(cluster))
}

/// On one node the split waits for the writer, on another the writer for the split: no node sees that by itself.
#[test]
fn the_split_gives_way_to_a_writer_on_another_node() -> Result<()> {
    let Some(cluster) = citus()? else { return Ok(()) };
    let probe = Probe::make(&cluster)?;
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    let (split, moving) = Probe::split(&cluster, &replica, id)?;
    let (first, last) = (moving[0], moving[moving.len() - 1]);
    let elsewhere = 2;
    let mut writer = cluster.connect(elsewhere)?;
    writer
        .batch_execute(&format!("BEGIN; {}", probe.insert_into(&cluster, last)))
        .expect("a write");
    let call = Call::make(&cluster.coordinator().connect_params(), split);
    wait_until("the split to wait", PATIENCE, || {
        let waits = "SELECT EXISTS (
            SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE NOT l.granted AND a.application_name LIKE 'citus_fence_clone%')";
        (cluster.node(elsewhere).query_value(waits).ok()? == "t").then_some(())
    })?;
    let by_the_coordinator = format!(
        "SELECT success, result FROM run_command_on_coordinator($$ {} $$)",
        probe.insert_into(&cluster, first)
    );
    let rows = match writer.query(&by_the_coordinator, &[]) {
        Ok(rows) => rows,
        Err(error) => panic!("the writer is the victim: {}", describe(&error)),
    };
    assert!(rows[0].get::<_, bool>(0), "{}", rows[0].get::<_, String>(1));
    writer.batch_execute("COMMIT").expect("a commit");
    call.end().outcome.expect("the split");
    let log = cluster.coordinator().log();
    assert!(log.contains(GAVE_WAY), "nobody has looked across the nodes");
    Ok(())
}

/// Whoever writes to more than one copy of a shard locks the list of nodes after the shard, and so does the split.
#[test]
fn writers_of_copies_and_the_split_take_turns() -> Result<()> {
    let Some(cluster) = citus()? else { return Ok(()) };
    for statement in [
        "CREATE TABLE copies (key bigint)",
        "SET citus.shard_replication_factor = 2;
         SELECT create_distributed_table('copies', 'key', shard_count := 4)",
    ] {
        cluster.coordinator().execute(statement)?;
    }
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    let mut stand = Stand::before(&cluster, "prepared")?;
    let split = format!("SELECT public.citus_promote_clone_and_rebalance({id}, 'by_shard_count')");
    let params = cluster.coordinator().connect_params();
    let call = Call::make(&params, split);
    stand.wait(&call)?;
    // Both find the list of nodes taken, the split first.
    let mut holder = cluster.connect(0)?;
    holder
        .batch_execute("BEGIN; LOCK TABLE pg_dist_node IN EXCLUSIVE MODE")
        .expect("a lock that nobody has");
    stand.let_go()?;
    let wait_for = |name: &str| {
        let look = format!(
            "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                             WHERE NOT l.granted AND a.application_name LIKE '{name}')"
        );
        wait_until(&format!("{name} to wait"), PATIENCE, || {
            (cluster.coordinator().query_value(&look).ok()? == "t").then_some(())
        })
    };
    wait_for("citus_fence_clone%")?;
    let insert = "INSERT INTO copies SELECT generate_series(1, 100)".to_owned();
    let writer = Call::make(&params.clone().application_name("writer of copies"), insert);
    wait_for("writer of copies")?;
    holder.batch_execute("COMMIT").expect("the end of a lock");
    call.end().outcome.expect("the split");
    writer.end().outcome.expect("the writer");
    let log = cluster.coordinator().log();
    assert!(
        !log.contains(GAVE_WAY),
        "the split stood in the way of a writer that stood in its way"
    );
    let placed = format!(
        "SELECT count(*) FROM pg_dist_placement p JOIN pg_dist_node n USING (groupid)
          WHERE n.nodename = '{HOST}' AND n.nodeid = {id}"
    );
    assert_eq!(cluster.coordinator().query_value(&placed)?, "2");
    for copy in ["min", "max"] {
        let sum = format!(
            "SELECT sum(result::int) FROM run_command_on_placements('copies', 'SELECT count(*) FROM %s') r
              JOIN (SELECT {copy}(nodeport) AS nodeport, shardid FROM citus_shards
                     WHERE table_name = 'copies'::regclass GROUP BY shardid) c USING (shardid, nodeport)"
        );
        assert_eq!(cluster.coordinator().query_value(&sum)?, "100", "{copy}");
    }
    Ok(())
}
