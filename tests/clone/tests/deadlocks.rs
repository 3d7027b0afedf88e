//! A writer that would wait for a split which waits for him goes on: the split lets go, and tries again. It takes many
//! locks one after the other, so the server's own look for deadlocks, once in each wait, would pick the writer.

use clone_tests::probe::Probe;
use clone_tests::{
    Bed, Call, Engine, How, PATIENCE, SOURCE, on_each_engine, ours_exists_in, replica_of,
    wait_until,
};
use test_cluster::describe;

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
