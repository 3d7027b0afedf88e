//! One server is one clone, whatever address it is registered by; and what is told of where it has left its source.

use clone_tests::words::{refusal, words};
use clone_tests::{
    Bed, Engine, How, PATIENCE, Result, SOURCE, on_each_engine, ours_exists, replica_of, wait_until,
};
use test_cluster::{Cluster, HOST, Replica};

/// Another name of the same machine.
const OTHER_NAME: &str = "localhost";
const TAKEN: &str = "42710";

fn add(cluster: &Cluster, host: &str, replica: &Replica) -> String {
    let source = cluster.catalog_port(replica.source());
    let port = replica.catalog_port();
    format!("SELECT public.citus_add_clone_node('{host}', {port}, '{HOST}', {source})")
}

fn is_taken(cluster: &Cluster, call: &str, by: &str, how: &str) -> Result<()> {
    let error = refusal(cluster, 0, call)?;
    let said = words(&error);
    let fits = error.code().code() == TAKEN && said.contains(by) && said.contains(how);
    assert!(fits && error.hint().is_some(), "{call}: {said}");
    Ok(())
}

#[test]
fn a_server_is_registered_once_by_whatever_address() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let cluster = &bed.cluster;
        let replica = bed.replica()?;
        // Two that begin at one time: the second waits for the first's transaction.
        let mut first = cluster.connect(0)?;
        first.batch_execute("BEGIN").expect("a transaction");
        first.batch_execute(&add(cluster, HOST, &replica)).expect("a clone");
        let by_other_name = add(cluster, OTHER_NAME, &replica);
        let params = cluster.coordinator().connect_params().application_name("second");
        let call = clone_tests::how::Call::make(&params, by_other_name.clone());
        wait_until("the second to wait", PATIENCE, || {
            let look = "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'second' AND wait_event_type = 'Lock'";
            assert!(!call.has_ended(), "the second did not wait");
            (cluster.coordinator().query_value(look).ok()? == "1").then_some(())
        })?;
        first.batch_execute("COMMIT").expect("a commit");
        let refused = call.end().outcome.expect_err("the same server once more");
        let id = cluster.coordinator().query_value("SELECT clone_nodeid FROM citus_fence.clone")?;
        let by = format!("It is clone {id} at {HOST}:{}", replica.catalog_port());
        assert!(refused.contains(&by), "{refused}");
        is_taken(cluster, &by_other_name, &by, "the same replication slot")?;

        // Without a slot it is known by its own number, also after a new start.
        replica.server().alter_system("primary_slot_name", "")?;
        replica.server().restart()?;
        let look = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND slot_name IS NULL";
        wait_until("a stream without a slot", PATIENCE, || {
            (replica.server().query_value(look).ok()? == "1").then_some(())
        })?;
        is_taken(cluster, &by_other_name, &by, "the same server answers")?;

        // Another replica of the same source, which has its system identifier, is another server; and one that does not
        // answer is not this one.
        let other = bed.replica()?;
        let other_id = How::Ours.register(cluster, &other)?;
        other.server().stop(test_cluster::StopMode::Fast)?;
        is_taken(cluster, &by_other_name, &by, "the same server answers")?;
        for id in [id, other_id.to_string()] {
            let forget = format!("SELECT public.citus_remove_clone_node_with_nodeid({id})");
            cluster.coordinator().execute(&forget)?;
        }
        if engine == Engine::Citus {
            let place = format!("'{OTHER_NAME}', {}", replica.catalog_port());
            let source = format!("'{HOST}', {}", cluster.catalog_port(SOURCE));
            let secondary = cluster
                .coordinator()
                .query_value(&format!("SELECT citus_add_secondary_node({place}, {source})"))?;
            let by = format!("It is node {secondary} at {OTHER_NAME}");
            is_taken(cluster, &add(cluster, HOST, &replica), &by, "the same server answers")?;
            cluster.coordinator().execute(&format!("SELECT citus_remove_node({place})"))?;
        }

        // By another name than its source's it is split as well.
        let id = cluster.coordinator().query_value(&by_other_name)?;
        let id = id.parse().expect("an id");
        How::Ours.split(cluster, id).end().outcome.expect("the split");
        tells_where_it_forked(cluster, id, &replica, 2)?;
        let node = bed.cluster.adopt(replica);

        // A clone of that one has two forks behind it.
        let grandchild = replica_of(&bed.cluster, node)?;
        let source = format!(
            "SELECT nodeid FROM pg_dist_node WHERE nodeport = {}",
            bed.cluster.catalog_port(node)
        );
        let source = bed.cluster.coordinator().query_value(&source)?;
        let register = format!(
            "SELECT public.citus_add_clone_node_with_nodeid('{HOST}', {}, {source})",
            grandchild.catalog_port()
        );
        let id = bed.cluster.coordinator().query_value(&register)?.parse().expect("an id");
        assert_eq!(fork(&bed.cluster, id)?, " ", "before its promotion");
        How::Ours.split(&bed.cluster, id).end().outcome.expect("the split");
        tells_where_it_forked(&bed.cluster, id, &grandchild, 3)
    });
}

/// The timeline and the position that the status tells.
fn fork(cluster: &Cluster, id: i32) -> Result<String> {
    cluster.coordinator().query_value(&format!(
        "SELECT coalesce(fork_timeline::text, '') || ' ' || coalesce(fork_lsn::text, '')
           FROM public.citus_clone_status() WHERE clone_nodeid = {id}"
    ))
}

/// As the last line of its history has it.
fn tells_where_it_forked(
    cluster: &Cluster,
    id: i32,
    replica: &Replica,
    timeline: u32,
) -> Result<()> {
    let history = format!("{timeline:08X}.history");
    let path = replica.server().data_dir().join("pg_wal").join(history);
    let text = std::fs::read_to_string(&path).expect("its history");
    let last = text.lines().last().expect("a line");
    let lsn = last.split('\t').nth(1).expect("a position");
    assert_eq!(fork(cluster, id)?, format!("{timeline} {lsn}"), "{text}");
    Ok(())
}
