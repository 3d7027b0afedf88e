//! A split and the other operations of this extension exclude each other, in both orders: whoever comes second is
//! refused at once, and told what is under way.

use clone_tests::words::{refusal_at_once, words};
use clone_tests::{
    Bed, Engine, How, OTHER, PATIENCE, SOURCE, Stand, on_each_engine, ours_exists, wait_until,
};

const IN_USE: &str = "55006";

/// An operation: on which node, how it begins and how it ends.
const OPERATIONS: [(usize, &str, &str); 4] = [
    (0, "SELECT citus_block_writes_for_backup()", "SELECT citus_unblock_writes_for_backup()"),
    (0, "SELECT citus_set_cluster_read_only()", "SELECT citus_set_cluster_read_write()"),
    (SOURCE, "SELECT alter_system_read_only()", "SELECT alter_system_read_write()"),
    (
        0,
        "SELECT citus_export_cluster_snapshot()",
        "SELECT citus_release_cluster_snapshot(export_id) FROM citus_cluster_snapshot_status() WHERE state = 'held'",
    ),
];

#[test]
fn a_split_excludes_the_others_and_they_exclude_it() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let cluster = &bed.cluster;
        let replica = bed.replica()?;
        let id = How::Ours.register(cluster, &replica)?;
        let split = How::Ours.call(id);
        let other = cluster.clone_of(OTHER)?;
        cluster.wait_streaming(&other, PATIENCE)?;
        let other_id = How::Ours.register(cluster, &other)?;

        // The split comes second.
        for (node, begin, end) in OPERATIONS {
            // A block ends with its session's transaction or by itself, not with its session.
            cluster.node(node).execute(begin)?;
            let error = refusal_at_once(cluster, 0, &split)?;
            cluster.node(node).execute(end)?;
            assert_eq!(error.code().code(), IN_USE, "a split during {begin}: {}", words(&error));
            assert!(error.hint().is_some(), "a split during {begin}: {}", words(&error));
        }
        let error = refusal_at_once(cluster, 0, &format!("BEGIN; {split}"))?;
        assert_eq!(error.code().code(), "25001", "{}", words(&error));
        assert_eq!(replica.server().query_value("SELECT pg_is_in_recovery()")?, "t");

        // The split comes first.
        let mut stand = Stand::before(cluster, "promoting")?;
        let call = How::Ours.split(cluster, id);
        stand.wait(&call)?;
        let drop = (0, "DROP EXTENSION citus_fence", "");
        let second = How::Ours.call(other_id);
        let forget = format!("SELECT public.citus_remove_clone_node_with_nodeid({id})");
        let more = [drop, (0, second.as_str(), ""), (0, forget.as_str(), "")];
        for (node, begin, _) in OPERATIONS.into_iter().chain(more) {
            let error = refusal_at_once(cluster, node, begin)?;
            assert_eq!(error.code().code(), IN_USE, "{begin} during a split: {}", words(&error));
            assert!(words(&error).contains("clone"), "{begin} during a split: {}", words(&error));
            assert!(error.hint().is_some(), "{begin} during a split: {}", words(&error));
        }
        stand.let_go()?;
        wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the split");

        // And nobody any more.
        let mut bed = bed;
        bed.cluster.adopt(replica);
        for (node, begin, end) in OPERATIONS {
            bed.cluster.node(node).execute(begin)?;
            bed.cluster.node(node).execute(end)?;
        }
        // The next one, of another source.
        How::Ours.split(&bed.cluster, other_id).end().outcome.expect("the second split");
        bed.cluster.adopt(other);
        Ok(())
    });
}
