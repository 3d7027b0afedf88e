//! The coordinator's own failover to its standby in the middle of a split, which goes on there; and that of the source,
//! which keeps nobody else waiting, and whose new address can be written down.

use clone_tests::kind::Kind;
use clone_tests::matrix::{is_as_before, is_done, step as step_of};
use clone_tests::stand::{NO_WAY_BACK, STEPS};
use clone_tests::{
    Bed, Engine, How, Load, OTHER, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists,
    wait_until,
};
use test_cluster::{HOST, whole_matrix};

const TURNS: u64 = 3;
const KINDS: [Kind; 3] = [Kind::Insert, Kind::AllShards, Kind::Slow];

/// The coordinator fails over when the split is about to come to `step`, with the address.
fn coordinator_fails_over(engine: Engine, step: &'static str) -> Result<()> {
    let mut bed = Bed::of(Bed::builder(engine).proxies(true).standbys([0]))?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    let replica = bed.replica()?;
    let load = Load::start(&bed.cluster, &bed.tables, &[SOURCE, OTHER], &KINDS, true)?;
    let id = How::Ours.register(&bed.cluster, &replica)?;
    load.wait_for_each(TURNS, PATIENCE)?;
    let mut stand = Stand::before(&bed.cluster, step)?;
    let call = How::Ours.split(&bed.cluster, id);
    stand.wait(&call)?;
    bed.cluster.fail_over(0)?;
    drop(stand);
    call.end().outcome.expect_err("a call whose server is gone");
    let goes_back = ["prepared", "caught_up", NO_WAY_BACK].contains(&step);
    wait_until(&format!("an end after a failover before {step}"), PATIENCE, || {
        let _ = bed.cluster.recover_prepared();
        if goes_back {
            is_as_before(&bed, &replica, id).ok()?.then_some(())
        } else {
            is_done(&bed, id).ok()?.then_some(())
        }
    })?;
    load.wait_for_each(TURNS, PATIENCE)?;
    if goes_back {
        bed.cluster.wait_in_step(&replica, PATIENCE)?;
        How::Ours.split(&bed.cluster, id).end().outcome.expect("the split on the new coordinator");
    }
    bed.cluster.adopt(replica);
    load.wait_for_each(TURNS, PATIENCE)?;
    let book = load.stop();
    bed.recover()?;
    let audit = bed.audit(&book)?;
    assert!(audit.is_clean(), "{step}: {audit}");
    Ok(())
}

#[test]
fn the_split_goes_on_at_the_coordinators_standby() {
    let steps: &[&str] = if whole_matrix() {
        &["prepared", "caught_up", "promoting", "promoted", "committing", "released", "cleaned"]
    } else {
        &["promoting", "promoted", "released"]
    };
    on_each_engine(|engine: Engine| {
        steps.iter().try_for_each(|step| coordinator_fails_over(engine, step))
    });
}

/// The source fails over when the split is about to come to `step`, and comes back at another address.
fn source_fails_over(step: &'static str) -> Result<()> {
    // The embedded catalog has no citus_update_node().
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let mut bed = Bed::of(Bed::builder(Engine::Citus).standbys([SOURCE]))?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    let replica = bed.replica()?;
    let load = Load::start(&bed.cluster, &bed.tables, &[0, OTHER], &KINDS, false)?;
    let id = How::Ours.register(&bed.cluster, &replica)?;
    load.wait_for_each(TURNS, PATIENCE)?;
    let mut stand = Stand::before(&bed.cluster, step)?;
    let call = How::Ours.split(&bed.cluster, id);
    stand.wait(&call)?;
    let old_port = bed.cluster.catalog_port(SOURCE);
    bed.cluster.fail_over(SOURCE)?;
    stand.let_go()?;
    let update = format!(
        "SET lock_timeout = '3s';
         SELECT citus_update_node((SELECT nodeid FROM pg_dist_node WHERE nodeport = {old_port}), '{HOST}', {})",
        bed.cluster.catalog_port(SOURCE)
    );
    wait_until("the source's new address", PATIENCE, || {
        bed.cluster.coordinator().execute(&update).ok()
    })?;
    let is_past_return = step == "promoted";
    wait_until("an end", PATIENCE, || {
        let _ = bed.cluster.recover_prepared();
        if is_past_return {
            return is_done(&bed, id).ok()?.then_some(());
        }
        let prepared =
            "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%'";
        let nodes = bed.cluster.nodes().iter();
        let free =
            nodes.map(|node| node.query_value(prepared).ok()).all(|n| n.as_deref() == Some("0"));
        let back = step_of(&bed, id).ok()?.as_deref() == Some(STEPS[0]);
        (free && back).then_some(())
    })?;
    if is_past_return {
        bed.cluster.adopt(replica);
    }
    load.wait_for_each(TURNS, PATIENCE)?;
    let book = load.stop();
    bed.recover()?;
    let audit = bed.audit(&book)?;
    assert!(audit.is_clean(), "{step}: {audit}");
    Ok(())
}

#[test]
fn a_source_that_fails_over_is_taken_in_and_the_split_taken_back_or_finished() -> Result<()> {
    ["caught_up", "promoted"].iter().try_for_each(|step| source_fails_over(step))
}
