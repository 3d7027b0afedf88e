//! A clone that is gone for good keeps nobody waiting: before its promotion the split is taken back by itself, and after it an
//! operator can give it up, as long as no other node has taken the new metadata.

use clone_tests::kind::Kind;
use clone_tests::{
    Bed, Engine, How, Load, PATIENCE, Result, Stand, on_each_engine, ours_exists, wait_until,
};
use test_cluster::StopMode;

/// A turn of each writer shows that none of them waits for a lock any more.
const TURNS: u64 = 3;

/// What the split has prepared anywhere.
const PREPARED: &str =
    "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%'";

/// Runs a split that loses its clone when it is about to come to `step`; writers go on throughout, and `meanwhile` is done
/// before the call ends.
fn lose(
    engine: Engine,
    step: &'static str,
    meanwhile: impl Fn(&Bed, i32) -> Result<()>,
) -> Result<()> {
    let bed = Bed::make(engine, false)?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    let replica = bed.replica()?;
    let id = How::Ours.register(&bed.cluster, &replica)?;
    let nodes: Vec<usize> = (0..bed.cluster.nodes().len()).collect();
    let kinds = [Kind::Insert, Kind::AllShards];
    let load = Load::start(&bed.cluster, &bed.tables, &nodes, &kinds, true)?;
    load.wait_for_each(TURNS, PATIENCE)?;
    let mut stand = Stand::before(&bed.cluster, step)?;
    let call = How::Ours.split(&bed.cluster, id);
    stand.wait(&call)?;
    replica.server().stop(StopMode::Immediate)?;
    stand.let_go()?;
    meanwhile(&bed, id)?;
    wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
    let error = call.end().outcome.expect_err("a split without a clone");
    for node in bed.cluster.nodes() {
        assert_eq!(node.query_value(PREPARED)?, "0", "{step}: {error}");
    }
    load.wait_for_each(TURNS, PATIENCE)?;
    let registered = format!("SELECT step FROM citus_fence.clone WHERE clone_nodeid = {id}");
    assert_eq!(bed.cluster.coordinator().query_value(&registered)?, "registered", "{error}");
    // It is forgotten although it cannot be given its settings any more.
    bed.cluster
        .coordinator()
        .execute(&format!("SELECT public.citus_remove_clone_node_with_nodeid({id})"))?;
    let book = load.stop();
    bed.recover()?;
    let audit = bed.audit(&book)?;
    assert!(audit.is_clean(), "{step}: {audit}");
    Ok(())
}

#[test]
fn before_its_promotion_the_split_is_taken_back() {
    on_each_engine(|engine: Engine| lose(engine, "caught_up", |_, _| Ok(())));
}

#[test]
fn after_it_an_operator_gives_it_up() {
    on_each_engine(|engine: Engine| {
        lose(engine, "promoted", |bed: &Bed, id: i32| {
            let coordinator = bed.cluster.coordinator();
            // Nobody but an operator knows that it is gone for good.
            let trouble = format!(
                "SELECT count(*) > 0 FROM citus_fence.clone_journal WHERE clone_nodeid = {id} AND kind = 'trouble'"
            );
            wait_until("trouble", PATIENCE, || {
                (coordinator.query_value(&trouble).ok()? == "t").then_some(())
            })?;
            let held = bed
                .cluster
                .nodes()
                .iter()
                .filter(|node| node.query_value(PREPARED).is_ok_and(|count| count != "0"));
            assert!(held.count() > 1, "nothing is held, so nothing is shown");
            coordinator.execute(&format!("SELECT citus_fence.give_up_clone_by_force({id})"))
        })
    });
}
