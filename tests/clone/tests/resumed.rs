//! Where an interrupted split goes when the registry or the clone is not what it was: a registry that has forgotten the
//! last steps, as with a standby of the coordinator that lagged; and another server at the clone's address.

use clone_tests::fault::is_driven;
use clone_tests::kind::Kind;
use clone_tests::matrix::is_done;
use clone_tests::{
    Bed, Engine, Fault, How, Load, OTHER, PATIENCE, SOURCE, Stand, on_each_engine, ours_exists,
    wait_until,
};

const TURNS: u64 = 3;

#[test]
fn what_a_node_has_committed_leads_forward() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let replica = bed.replica()?;
        let kinds = [Kind::Insert, Kind::AllShards];
        let load = Load::start(&bed.cluster, &bed.tables, &[0, SOURCE, OTHER], &kinds, true)?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        load.wait_for_each(TURNS, PATIENCE)?;
        // The clone is itself.
        let mut stand = Stand::before(&bed.cluster, "committing")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        Fault::EndDriver.strike(&bed.cluster, &replica)?.heal()?;
        call.end().outcome.expect_err("a call whose driver is gone");
        stand.let_go()?;
        let other = bed.cluster.node(OTHER);
        let gid = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%_switch'";
        let gid = other.query_value(gid)?;
        other.execute(&format!("COMMIT PREPARED '{gid}'"))?;
        bed.cluster.coordinator().execute(&format!(
            "UPDATE citus_fence.clone SET step = 'caught_up' WHERE clone_nodeid = {id}"
        ))?;
        How::Ours.split(&bed.cluster, id).end().outcome.expect("the split");
        assert!(is_done(&bed, id)?);
        bed.cluster.adopt(replica);
        load.wait_for_each(TURNS, PATIENCE)?;
        let book = load.stop();
        bed.recover()?;
        let audit = bed.audit(&book)?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    });
}

#[test]
fn only_the_server_that_was_reserved_is_promoted() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let coordinator = bed.cluster.coordinator();
        let token = format!("SELECT token FROM citus_fence.clone WHERE clone_nodeid = {id}");
        let token = coordinator.query_value(&token)?;
        let mut stand = Stand::before(&bed.cluster, "promoting")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        // As a replica that was made anew has none.
        let forget = format!("SELECT citus_fence.release_node_by_force({id})");
        replica.server().execute(&forget)?;
        stand.let_go()?;
        let trouble = format!(
            "SELECT count(*) > 0 FROM citus_fence.clone_journal
              WHERE clone_nodeid = {id} AND message LIKE '%is not the server that%'"
        );
        wait_until("the refusal", PATIENCE, || {
            (coordinator.query_value(&trouble).ok()? == "t").then_some(())
        })?;
        assert_eq!(replica.server().query_value("SELECT pg_is_in_recovery()")?, "t");
        assert!(is_driven(&bed.cluster)?);
        replica.server().execute(&format!("SELECT citus_fence.reserve_node({id}, '{token}')"))?;
        wait_until("the split", PATIENCE, || is_done(&bed, id).ok()?.then_some(()))?;
        call.end().outcome.expect("the call");
        bed.cluster.adopt(replica);
        Ok(())
    });
}
