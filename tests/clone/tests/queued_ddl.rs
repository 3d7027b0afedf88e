//! DDL that comes while a split holds the node list waits, and reaches the new worker.

use clone_tests::{Bed, Call, Engine, How, PATIENCE, Result, Stand, ours_exists, wait_until};

/// Each ends with something that every shard of `writes` and every node has to have.
const DDL: [&str; 2] =
    ["ALTER TABLE writes ADD COLUMN late int DEFAULT 7", "CREATE ROLE latecomer"];

#[test]
fn ddl_waits_and_reaches_the_new_worker() -> Result<()> {
    // The embedded catalog takes no DDL to other nodes.
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let mut bed = Bed::make(Engine::Citus, false)?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    let replica = bed.replica()?;
    let id = How::Ours.register(&bed.cluster, &replica)?;
    let mut stand = Stand::before(&bed.cluster, "promoting")?;
    let call = How::Ours.split(&bed.cluster, id);
    stand.wait(&call)?;
    let coordinator = bed.cluster.coordinator();
    let params = coordinator.connect_params().application_name("ddl");
    let ddl = Call::in_turn(&params, DDL.map(str::to_owned));
    wait_until("DDL to wait", PATIENCE, || {
        assert!(!ddl.has_ended(), "DDL went through in the middle of a split");
        let look = "SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = 'ddl' AND wait_event_type = 'Lock'";
        (coordinator.query_value(look).ok()? == "1").then_some(())
    })?;
    stand.let_go()?;
    wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
    call.end().outcome.expect("the split");
    wait_until("the DDL's end", PATIENCE, || ddl.has_ended().then_some(()))?;
    ddl.end().outcome.expect("the DDL");

    let node = bed.cluster.adopt(replica);
    // A shard without the column makes this an error.
    bed.cluster.read_all_shards("writes", "SELECT late FROM %s LIMIT 1")?;
    let new = bed.cluster.node(node);
    new.execute("SELECT late FROM writes LIMIT 1")?;
    let roles = new.query_value("SELECT count(*) FROM pg_roles WHERE rolname = 'latecomer'")?;
    assert_eq!(roles, "1");
    Ok(())
}
