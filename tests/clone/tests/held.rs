//! Who waits while a split holds writers back, and who does not: seen while it stands still with everything held, and
//! again after a restart of each node between the promotion and the switch, which lets no writer back onto the source.

use clone_tests::probe::{Probe, only_moved_waited};
use clone_tests::{
    Bed, Engine, How, OTHER, PATIENCE, SOURCE, Stand, on_each_engine, ours_exists, wait_until,
};
use test_cluster::StopMode;

#[test]
fn only_writers_of_what_moves_wait_and_readers_never() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let probe = Probe::make(&bed.cluster)?;
        let before = probe.owners(&bed.cluster)?;
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let mut stand = Stand::before(&bed.cluster, "promoting")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        let through = probe.through(&bed.cluster, &[0, SOURCE, OTHER])?;
        stand.let_go()?;
        wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the split");
        bed.cluster.adopt(replica);
        only_moved_waited(&through, &before, &probe.owners(&bed.cluster)?);
        Ok(())
    });
}

#[test]
fn no_restart_between_promotion_and_switch_lets_a_writer_back() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let probe = Probe::make(&bed.cluster)?;
        let before = probe.owners(&bed.cluster)?;
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let mut stand = Stand::before(&bed.cluster, "promoted")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        // Promoted, and nobody goes on for now, whoever comes back.
        replica.server().freeze()?;
        let mut all = Vec::new();
        for node in [OTHER, SOURCE, 0] {
            bed.cluster.node(node).stop(StopMode::Immediate)?;
            bed.cluster.node(node).start()?;
            all.push(probe.through(&bed.cluster, &[0, SOURCE, OTHER])?);
        }
        drop(stand);
        replica.server().thaw()?;
        // The call was lost with the coordinator; what it asked for goes on by itself.
        wait_until("the split", PATIENCE, || {
            clone_tests::matrix::is_done(&bed, id).ok()?.then_some(())
        })?;
        call.end().outcome.expect_err("a call whose server is gone");
        bed.cluster.adopt(replica);
        let after = probe.owners(&bed.cluster)?;
        for through in &all {
            only_moved_waited(through, &before, &after);
        }
        Ok(())
    });
}
