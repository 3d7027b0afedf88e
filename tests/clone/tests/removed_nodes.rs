//! What is left to clean up on a node that is removed before it was: Citus passes over it for good, and moves no shard of that name
//! until it is forgotten, as docs/clone-split.md says. Splits go on.

use clone_tests::{Bed, Engine, How, OTHER, Result, SOURCE, ours_exists_in, replica_of};
use test_cluster::HOST;

#[test]
fn what_is_left_on_a_removed_node_is_forgotten_by_hand() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let builder = Bed::builder(Engine::Citus).setting("citus.defer_shard_delete_interval", "-1");
    let mut cluster = builder.build()?;
    if !ours_exists_in(&cluster)? {
        return Ok(());
    }
    cluster.create_distributed("CREATE TABLE spread (key bigint)", "spread", "key", 8)?;
    cluster.coordinator().execute("INSERT INTO spread SELECT generate_series(1, 200)")?;
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    How::Ours.split(&cluster, id).end().outcome.expect("the split");
    let node = cluster.adopt(replica);

    // A reader of one of its orphans keeps that from being dropped.
    let group = cluster.node(node).query_value("SELECT groupid FROM pg_dist_local_group")?;
    let left = format!("FROM pg_dist_cleanup WHERE node_group_id = {group}");
    let coordinator = cluster.coordinator();
    let orphan = coordinator.query_value(&format!("SELECT min(object_name) {left}"))?;
    let mut reader = cluster.connect(node)?;
    reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM {orphan}")).expect(&orphan);
    let (there, back) = (cluster.catalog_port(node), cluster.catalog_port(SOURCE));
    let moves = |from: u16, to: u16, shard: i64| {
        coordinator.execute(&format!(
            "SELECT citus_move_shard_placement({shard}, '{HOST}', {from}, '{HOST}', {to}, 'block_writes')"
        ))
    };
    for placement in cluster.placements("spread")?.iter().filter(|place| place.node == node) {
        moves(there, back, placement.shardid)?;
    }
    coordinator.execute(&format!("SELECT citus_remove_node('{HOST}', {there})"))?;
    reader.batch_execute("COMMIT").expect("its end");
    drop(reader);

    let count = format!("SELECT count(*) {left}");
    let stays = coordinator.query_value(&count)?;
    assert_ne!(stays, "0", "nothing is left, so nothing is shown");
    coordinator.execute("CALL citus_cleanup_orphaned_resources()")?;
    assert_eq!(coordinator.query_value(&count)?, stays, "Citus drops it now: say so in the page");
    coordinator.execute(&format!("SELECT citus_add_node('{HOST}', {there})"))?;
    coordinator.execute("CALL citus_cleanup_orphaned_resources()")?;
    assert_eq!(coordinator.query_value(&count)?, stays, "Citus drops it now: say so in the page");
    let shard: i64 = orphan.rsplit('_').next().and_then(|id| id.parse().ok()).expect("a number");
    // Citus moves no shard of that name meanwhile, wherever to.
    let elsewhere = cluster.catalog_port(OTHER);
    for to in [there, elsewhere] {
        let refused = moves(back, to, shard).expect_err("a shard that is left over").to_string();
        assert!(refused.contains("leftover from the previous move"), "{refused}");
    }
    // With what the page says, it does.
    let forget =
        "DELETE FROM pg_dist_cleanup WHERE node_group_id NOT IN (SELECT groupid FROM pg_dist_node)";
    coordinator.execute(forget)?;
    assert_eq!(coordinator.query_value(&count)?, "0");
    let mut by_hand = cluster.connect(node)?;
    for sql in ["SET citus.enable_manual_changes_to_shards = on", &format!("DROP TABLE {orphan}")] {
        by_hand.batch_execute(sql).expect(sql);
    }
    moves(back, there, shard)?;

    // The next split has nothing to do with it.
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    How::Ours.split(&cluster, id).end().outcome.expect("the next split");
    cluster.adopt(replica);
    assert_eq!(cluster.coordinator().query_value("SELECT count(*) FROM spread")?, "200");
    Ok(())
}
