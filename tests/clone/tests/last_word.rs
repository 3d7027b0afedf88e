//! Between a split's last word in the journal and the end of its worker: who is told of the end can begin the next split.

use std::time::Duration;

use clone_tests::{
    Bed, Engine, Fault, How, OTHER, PATIENCE, Result, Stand, on_each_engine, ours_exists,
    replica_of, wait_until,
};
use test_cluster::Cluster;

/// Within this a caller that does not wait for the worker has come back: it looks twice in a second. One that waits does so for
/// longer.
const TO_COME_BACK: Duration = Duration::from_secs(2);

fn wait_for_last_word(cluster: &Cluster, id: i32) -> Result<()> {
    let look = format!(
        "SELECT count(*) FROM citus_fence.clone_journal WHERE clone_nodeid = {id} AND kind = 'done'"
    );
    wait_until("the last word", PATIENCE, || {
        (cluster.coordinator().query_value(&look).ok()? == "1").then_some(())
    })
}

#[test]
fn who_is_told_of_the_end_can_begin_the_next_split() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let cluster = &bed.cluster;
        let replica = bed.replica()?;
        let id = How::Ours.register(cluster, &replica)?;
        let other = replica_of(cluster, OTHER)?;
        let other_id = How::Ours.register(cluster, &other)?;
        let mut stand = Stand::before(cluster, "cleaned")?;
        let call = How::Ours.split(cluster, id);
        stand.wait(&call)?;
        // The last word is on its way; the worker does not hear that it has been written down.
        let frozen = Fault::FreezeDriver.strike(cluster, &replica)?;
        stand.let_go()?;
        wait_for_last_word(cluster, id)?;
        let came_back =
            wait_until("the caller", TO_COME_BACK, || call.has_ended().then_some(())).is_ok();
        frozen.heal()?;
        call.end().outcome.expect("the split");
        How::Ours.split(cluster, other_id).end().outcome.expect("the next split");
        assert!(!came_back, "the caller came back while the worker was there");
        Ok(())
    });
}
