//! A split and the other operations of this extension exclude each other, in both orders: whoever comes second is
//! refused at once, and told what is under way.

use std::time::{Duration, Instant};

use clone_tests::{
    Bed, Engine, How, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists, wait_until,
};
use test_cluster::postgres::error::DbError;
use test_cluster::{Cluster, describe};

/// What "at once" may take on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);
const IN_USE: &str = "55006";

/// An operation: on which node, how it begins and how it ends.
const OPERATIONS: [(usize, &str, &str); 3] = [
    (0, "SELECT citus_block_writes_for_backup()", "SELECT citus_unblock_writes_for_backup()"),
    (0, "SELECT citus_set_cluster_read_only()", "SELECT citus_set_cluster_read_write()"),
    (SOURCE, "SELECT alter_system_read_only()", "SELECT alter_system_read_write()"),
];

/// The refusal of a statement, which has to come at once.
fn refusal(cluster: &Cluster, node: usize, sql: &str) -> Result<DbError> {
    let mut client = cluster.connect(node)?;
    let begun = Instant::now();
    let error = client.batch_execute(sql).expect_err(sql);
    assert!(begun.elapsed() < AT_ONCE, "{sql}: refused after {:?}", begun.elapsed());
    Ok(error.as_db_error().unwrap_or_else(|| panic!("{sql}: {}", describe(&error))).clone())
}

/// All that an error says.
fn words(error: &DbError) -> String {
    let more = [error.detail(), error.hint()].map(Option::unwrap_or_default);
    format!("{} {} {} {}", error.code().code(), error.message(), more[0], more[1])
}

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

        // The split comes second.
        for (node, begin, end) in OPERATIONS {
            // A block ends with its session's transaction or by itself, not with its session.
            cluster.node(node).execute(begin)?;
            let error = refusal(cluster, 0, &split)?;
            cluster.node(node).execute(end)?;
            assert_eq!(error.code().code(), IN_USE, "a split during {begin}: {}", words(&error));
            assert!(error.hint().is_some(), "a split during {begin}: {}", words(&error));
        }
        let error = refusal(cluster, 0, &format!("BEGIN; {split}"))?;
        assert_eq!(error.code().code(), "25001", "{}", words(&error));
        assert_eq!(replica.server().query_value("SELECT pg_is_in_recovery()")?, "t");

        // The split comes first.
        let mut stand = Stand::before(cluster, "promoting")?;
        let call = How::Ours.split(cluster, id);
        stand.wait(&call)?;
        let drop = (0, "DROP EXTENSION citus_fence", "");
        for (node, begin, _) in OPERATIONS.into_iter().chain([drop]) {
            let error = refusal(cluster, node, begin)?;
            assert_eq!(error.code().code(), IN_USE, "{begin} during a split: {}", words(&error));
            assert!(words(&error).contains("clone"), "{begin} during a split: {}", words(&error));
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
        Ok(())
    });
}
