//! A node that is gone does not stand in the way of a split's end for ever: one that is no longer in pg_dist_node is not
//! waited for, and one that is there but dead for ever is left out by an operator.

use clone_tests::fault::is_driven;
use clone_tests::words::{refusal, words};
use clone_tests::{
    Bed, Cluster, Engine, Fault, How, OTHER, PATIENCE, Result, SOURCE, Stand, on_each_engine,
    ours_exists_in, replica_of, wait_until,
};
use test_cluster::{HOST, Installation, Program, StopMode, give_tree_to_server_user};

const ROWS: i64 = 200;
const PREPARED: &str =
    "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%'";

/// A cluster in which nothing is dropped by itself, with a table or without any.
fn cluster(engine: Engine, with_table: bool) -> Result<Option<Cluster>> {
    let builder = Bed::builder(engine);
    let builder = match engine {
        Engine::Citus => builder.setting("citus.defer_shard_delete_interval", "-1"),
        Engine::Embedded => builder,
    };
    let cluster = builder.build()?;
    if !ours_exists_in(&cluster)? {
        return Ok(None);
    }
    if with_table {
        cluster.create_distributed("CREATE TABLE spread (key bigint)", "spread", "key", 8)?;
        let inserts: Vec<String> = (1..=ROWS).map(|key| insert(&cluster, key)).collect();
        cluster.coordinator().execute(&format!("BEGIN; {}; COMMIT", inserts.join("; ")))?;
    }
    Ok(Some(cluster))
}

fn insert(cluster: &Cluster, key: i64) -> String {
    cluster.shard_sql("spread", key, &format!("INSERT INTO %s (key) VALUES ({key})"))
}

/// All rows, each read where the catalog has its shard.
fn rows(cluster: &Cluster) -> Result<i64> {
    let rows = cluster.read_all_shards("spread", "SELECT count(*) FROM %s")?;
    Ok(rows.iter().filter_map(|row| row.values[0].as_deref()?.parse::<i64>().ok()).sum())
}

/// The nodes that are up, without one.
fn others(cluster: &Cluster, without: usize) -> impl Iterator<Item = usize> {
    (0..cluster.nodes().len()).filter(move |node| *node != without)
}

/// The number that the catalog has of a node.
fn nodeid(cluster: &Cluster, node: usize) -> Result<i32> {
    let port = cluster.catalog_port(node);
    let look = format!("SELECT nodeid FROM pg_dist_node WHERE nodeport = {port}");
    Ok(cluster.coordinator().query_value(&look)?.parse().expect("a number"))
}

/// Takes a node that holds nothing out of the catalog.
fn remove_node(cluster: &Cluster, node: usize) -> Result<()> {
    let port = cluster.catalog_port(node);
    match cluster.engine() {
        Engine::Citus => cluster
            .coordinator()
            .execute(&format!("SELECT citus_remove_node('{HOST}', {port})")),
        Engine::Embedded => others(cluster, node).try_for_each(|other| {
            cluster.node(other).execute(&format!(
                "DELETE FROM pg_dist_placement WHERE groupid = (SELECT groupid FROM pg_dist_node WHERE nodeport = {port});
                 DELETE FROM pg_dist_node WHERE nodeport = {port}"
            ))
        }),
    }
}

fn step(cluster: &Cluster, id: i32) -> Result<String> {
    cluster
        .coordinator()
        .query_value(&format!("SELECT step FROM citus_fence.clone WHERE clone_nodeid = {id}"))
}

/// Waits until the split's worker has said that something is in its way.
fn wait_for_trouble(cluster: &Cluster, id: i32) -> Result<()> {
    let look = format!(
        "SELECT count(*) > 0 FROM citus_fence.clone_journal WHERE clone_nodeid = {id} AND kind = 'trouble'"
    );
    wait_until("trouble", PATIENCE, || {
        (cluster.coordinator().query_value(&look).ok()? == "t").then_some(())
    })
}

/// What the journal warns of.
fn warnings(cluster: &Cluster, id: i32) -> Result<String> {
    cluster.coordinator().query_value(&format!(
        "SELECT coalesce(string_agg(message || ' ' || coalesce(hint, ''), E'\\n' ORDER BY entry), '')
           FROM citus_fence.clone_journal WHERE clone_nodeid = {id} AND kind = 'warning'"
    ))
}

/// Others that need the cluster to themselves are let in again.
fn is_free(cluster: &Cluster) -> Result<()> {
    wait_until("no driver", PATIENCE, || (!is_driven(cluster).ok()?).then_some(()))?;
    cluster.coordinator().execute("SELECT citus_block_writes_for_backup()")?;
    cluster.coordinator().execute("SELECT citus_unblock_writes_for_backup()")
}

/// Leaves the split at `released`, without a driver.
fn stop_at_released(cluster: &Cluster, replica: &test_cluster::Replica, id: i32) -> Result<()> {
    let mut stand = Stand::before(cluster, "cleaned")?;
    let call = How::Ours.split(cluster, id);
    stand.wait(&call)?;
    Fault::EndDriver.strike(cluster, replica)?.heal()?;
    call.end().outcome.expect_err("a call whose driver is gone");
    stand.let_go()?;
    wait_until("no driver", PATIENCE, || (!is_driven(cluster).ok()?).then_some(()))?;
    assert_eq!(step(cluster, id)?, "released");
    Ok(())
}

/// Moves all shards of the table away from a node.
fn empty(cluster: &Cluster, node: usize, to: usize) -> Result<()> {
    let (from, to) = (cluster.catalog_port(node), cluster.catalog_port(to));
    let moves = cluster.coordinator().query(&format!(
        "SELECT format('SELECT citus_move_shard_placement(%s, ''{HOST}'', {from}, ''{HOST}'', {to}, ''block_writes'')', shardid)
           FROM pg_dist_placement p JOIN pg_dist_node n USING (groupid) WHERE n.nodeport = {from}"
    ))?;
    let mut moves = moves.into_iter().flatten().flatten();
    moves.try_for_each(|sql| cluster.coordinator().execute(&sql))
}

#[test]
fn a_source_that_was_removed_is_not_waited_for() {
    on_each_engine(|engine: Engine| {
        // The embedded catalog moves no shards.
        let with_table = engine == Engine::Citus;
        let Some(cluster) = cluster(engine, with_table)? else { return Ok(()) };
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        stop_at_released(&cluster, &replica, id)?;
        let source = nodeid(&cluster, SOURCE)?;
        if with_table {
            empty(&cluster, SOURCE, OTHER)?;
        }
        let before = cluster.coordinator().query_value("SELECT count(*) FROM pg_dist_cleanup")?;
        remove_node(&cluster, SOURCE)?;
        How::Ours.split(&cluster, id).end().outcome.expect("the rest of the split");
        assert_eq!(step(&cluster, id)?, "cleaned");
        let said = warnings(&cluster, id)?;
        assert!(said.contains(&format!("node {source}")) && said.contains("no longer"), "{said}");
        if with_table {
            // What Citus would pass over for good is not given to its clean-up; what has stayed is to go from the clone.
            let of = |group: &str| {
                cluster.coordinator().query_value(&format!(
                    "SELECT count(*) FROM pg_dist_cleanup
                      WHERE node_group_id {group} (SELECT groupid FROM pg_dist_node WHERE nodeid = {id})"
                ))
            };
            assert_eq!(of("<>")?, before, "records of a node that is gone");
            assert_ne!(of("=")?, "0", "nothing is to be dropped from the clone");
            assert_eq!(cluster.coordinator().query_value("SELECT count(*) FROM spread")?, "200");
        }
        is_free(&cluster)
    });
}

#[test]
fn a_source_that_is_removed_before_the_hold_is_not_waited_for() {
    on_each_engine(|engine: Engine| {
        let Some(cluster) = cluster(engine, false)? else { return Ok(()) };
        cluster.coordinator().execute("ALTER SYSTEM SET citus_fence.acquire_timeout = '2s'")?;
        cluster.coordinator().execute("SELECT pg_reload_conf()")?;
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        let mut stand = Stand::before(&cluster, "prepared")?;
        let call = How::Ours.split(&cluster, id);
        stand.wait(&call)?;
        remove_node(&cluster, SOURCE)?;
        stand.let_go()?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect_err("a split without a source");
        assert_eq!(step(&cluster, id)?, "registered");
        let gate = replica.server().query_value("SELECT state FROM citus_fence.stat_gate")?;
        assert_eq!(gate, "standby");
        cluster
            .coordinator()
            .execute(&format!("SELECT public.citus_remove_clone_node_with_nodeid({id})"))?;
        is_free(&cluster)
    });
}

#[test]
fn a_clone_whose_source_was_removed_is_forgotten_and_opened() {
    on_each_engine(|engine: Engine| {
        let Some(cluster) = cluster(engine, false)? else { return Ok(()) };
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        // A split that is taken back cannot open the clone.
        let mut stand = Stand::before(&cluster, "caught_up")?;
        let call = How::Ours.split(&cluster, id);
        stand.wait(&call)?;
        replica.server().stop(StopMode::Immediate)?;
        stand.let_go()?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect_err("a split without a clone");
        assert_eq!(step(&cluster, id)?, "registered");
        replica.server().start()?;
        let gate = "SELECT state FROM citus_fence.stat_gate";
        assert_ne!(replica.server().query_value(gate)?, "standby", "it was opened before");
        remove_node(&cluster, SOURCE)?;
        cluster
            .coordinator()
            .execute(&format!("SELECT public.citus_remove_clone_node_with_nodeid({id})"))?;
        assert_eq!(replica.server().query_value(gate)?, "standby");
        is_free(&cluster)
    });
}

/// The tables of what moves at the source, and a shard of each.
fn moved_tables(cluster: &Cluster, id: i32) -> Result<Vec<(i64, String)>> {
    let look = format!(
        "SELECT moving ->> 0, name FROM citus_fence.clone,
                ROWS FROM (jsonb_array_elements(plan -> 'moving'), jsonb_array_elements_text(plan -> 'moving_names'))
                AS m (moving, name)
          WHERE clone_nodeid = {id}"
    );
    let rows = cluster.coordinator().query(&look)?;
    let one = |row: Vec<Option<String>>| {
        let [shard, name] = row.try_into().ok()?;
        Some((shard?.parse().ok()?, name?))
    };
    Ok(rows.into_iter().filter_map(one).collect())
}

/// A key that a shard has.
fn key_of(cluster: &Cluster, shard: i64) -> Result<i64> {
    let rows = cluster.read_all_shards("spread", "SELECT max(key) FROM %s")?;
    let row = rows.iter().find(|row| row.shardid == shard).expect("the shard");
    Ok(row.values[0].as_deref().and_then(|key| key.parse().ok()).expect("a key"))
}

/// What a write to what is left of a shard at its old place is answered.
fn write_to_orphan(cluster: &Cluster, table: &str) -> Result<String> {
    let sql = format!(
        "SET lock_timeout = '300ms'; SET citus.enable_manual_changes_to_shards = on; INSERT INTO {table} (key) VALUES (0)"
    );
    let mut client = cluster.connect(SOURCE)?;
    let error = client.batch_execute(&sql).expect_err("a write to an orphan");
    Ok(error.code().expect("a server's error").code().to_owned())
}

fn gid(cluster: &Cluster, node: usize, kind: &str) -> Result<String> {
    let look =
        format!("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%_{kind}'");
    cluster.node(node).query_value(&look)
}

#[test]
fn a_source_that_is_lost_once_the_switch_is_decided_is_left_out() {
    on_each_engine(|engine: Engine| {
        let Some(cluster) = cluster(engine, true)? else { return Ok(()) };
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        let source = nodeid(&cluster, SOURCE)?;
        let leave_out = format!("SELECT citus_fence.leave_out_node_by_force({id}, {source})");
        let coordinator = cluster.coordinator();
        let refused = |why: &str| -> Result<()> {
            let error = refusal(&cluster, 0, &leave_out)?;
            let said = words(&error);
            assert!(error.code().code() == "55000" && said.contains(why), "{said}");
            Ok(())
        };
        refused("nothing of it is under way")?;
        let mut stand = Stand::before(&cluster, "committing")?;
        let call = How::Ours.split(&cluster, id);
        stand.wait(&call)?;
        refused("It answers")?;
        let moved = moved_tables(&cluster, id)?;
        assert!(!moved.is_empty(), "nothing moves, so nothing is shown");
        let key = key_of(&cluster, moved[0].0)?;
        cluster.node(SOURCE).stop(StopMode::Immediate)?;
        stand.let_go()?;
        wait_for_trouble(&cluster, id)?;
        assert_eq!(step(&cluster, id)?, "committing");
        let error = refusal(&cluster, 0, "SELECT citus_block_writes_for_backup()")?;
        assert_eq!(error.code().code(), "55006", "{}", words(&error));
        // The others' writers of what has moved go on without it.
        wait_until("a write to what has moved", PATIENCE, || {
            cluster.node(OTHER).execute(&insert(&cluster, key)).ok()
        })?;

        coordinator.execute(&leave_out)?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the split without its source");
        assert_eq!(step(&cluster, id)?, "cleaned");
        let said = warnings(&cluster, id)?;
        assert!(said.contains(&format!("node {source}")) && said.contains("is left out"), "{said}");

        // Should it come back, nobody is let to the old tables: before the last word is said there, and after it.
        cluster.node(SOURCE).start()?;
        for (_, table) in &moved {
            assert_eq!(write_to_orphan(&cluster, table)?, "55P03", "{table}");
        }
        for kind in ["switch", "seal"] {
            let gid = gid(&cluster, SOURCE, kind)?;
            assert!(said.contains(&format!("COMMIT PREPARED '{gid}'")), "{said}");
            cluster.node(SOURCE).execute(&format!("COMMIT PREPARED '{gid}'"))?;
        }
        for (_, table) in &moved {
            assert_eq!(write_to_orphan(&cluster, table)?, "40001", "{table}");
        }
        let mut cluster = cluster;
        cluster.adopt(replica);
        assert_eq!(rows(&cluster)?, ROWS + 1);
        is_free(&cluster)
    });
}

#[test]
fn a_node_that_is_lost_before_the_promotion_is_left_out() {
    on_each_engine(|engine: Engine| {
        let Some(cluster) = cluster(engine, true)? else { return Ok(()) };
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        let other = nodeid(&cluster, OTHER)?;
        let mut stand = Stand::before(&cluster, "promoting")?;
        let call = How::Ours.split(&cluster, id);
        stand.wait(&call)?;
        // Whoever asked for it does not want it any more, and a node cannot be told.
        cluster.node(OTHER).stop(StopMode::Immediate)?;
        Fault::CancelCaller.strike(&cluster, &replica)?.heal()?;
        stand.wait_until_left()?;
        stand.let_go()?;
        call.end().outcome.expect_err("a call that was cancelled");
        wait_for_trouble(&cluster, id)?;
        for node in others(&cluster, OTHER) {
            let freed = wait_until("the others' freedom", PATIENCE, || {
                (cluster.node(node).query_value(PREPARED).ok()? == "0").then_some(())
            });
            assert!(freed.is_ok(), "node {node}: {}", cluster.coordinator().log());
        }
        assert_eq!(step(&cluster, id)?, "caught_up");
        let coordinator = cluster.coordinator();
        let clone = format!("SELECT citus_fence.leave_out_node_by_force({id}, {id})");
        assert_eq!(refusal(&cluster, 0, &clone)?.code().code(), "55000");
        coordinator
            .execute(&format!("SELECT citus_fence.leave_out_node_by_force({id}, {other})"))?;
        wait_until("the way back", PATIENCE, || {
            (step(&cluster, id).ok()? == "registered" && !is_driven(&cluster).ok()?).then_some(())
        })?;
        let gate = replica.server().query_value("SELECT state FROM citus_fence.stat_gate")?;
        assert_eq!(gate, "standby");
        let left = "SELECT count(*) FROM citus_fence.clone WHERE left_out <> '{}'";
        assert_eq!(coordinator.query_value(left)?, "0", "the next split is to have it");
        // With what the warning says it is as the others are.
        cluster.node(OTHER).start()?;
        let gid = gid(&cluster, OTHER, "switch")?;
        let said = warnings(&cluster, id)?;
        assert!(said.contains(&format!("ROLLBACK PREPARED '{gid}'")), "{said}");
        cluster.node(OTHER).execute(&format!("ROLLBACK PREPARED '{gid}'"))?;
        How::Ours.split(&cluster, id).end().outcome.expect("the next split");
        let mut cluster = cluster;
        cluster.adopt(replica);
        assert_eq!(rows(&cluster)?, ROWS);
        is_free(&cluster)
    });
}

/// Of the moved tables, those that Citus' clean-up is to drop at the source.
fn to_be_dropped(cluster: &Cluster, moved: &[(i64, String)]) -> Result<usize> {
    let names: Vec<String> = moved.iter().map(|(_, name)| format!("'{name}'")).collect();
    let (names, source) = (names.join(", "), nodeid(cluster, SOURCE)?);
    let count = cluster.coordinator().query_value(&format!(
        "SELECT count(*) FROM pg_dist_cleanup c JOIN pg_dist_node n ON n.groupid = c.node_group_id
          WHERE n.nodeid = {source} AND c.object_name IN ({names})"
    ))?;
    Ok(count.parse().expect("a number"))
}

#[test]
fn a_clone_that_is_lost_as_a_node_leaves_what_its_source_has() {
    on_each_engine(|engine: Engine| {
        let Some(cluster) = cluster(engine, true)? else { return Ok(()) };
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        stop_at_released(&cluster, &replica, id)?;
        let moved = moved_tables(&cluster, id)?;
        assert!(!moved.is_empty(), "nothing moves, so nothing is shown");
        replica.server().stop(StopMode::Immediate)?;
        let call = How::Ours.split(&cluster, id);
        wait_for_trouble(&cluster, id)?;
        cluster
            .coordinator()
            .execute(&format!("SELECT citus_fence.leave_out_node_by_force({id}, {id})"))?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the end without the clone");
        // They are the only ones there are.
        assert_eq!(to_be_dropped(&cluster, &moved)?, 0);
        let said = warnings(&cluster, id)?;
        assert!(said.contains("stay at the source"), "{said}");
        wait_until("no driver", PATIENCE, || (!is_driven(&cluster).ok()?).then_some(()))
    });
}

#[test]
fn a_slot_that_somebody_else_has_taken_up_is_left_to_him() {
    on_each_engine(|engine: Engine| {
        let builder = Bed::builder(engine).setting("wal_sender_timeout", "2s");
        let cluster = builder.build()?;
        if !ours_exists_in(&cluster)? {
            return Ok(());
        }
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        let slot = format!("SELECT slot_name FROM citus_fence.clone WHERE clone_nodeid = {id}");
        let slot = cluster.coordinator().query_value(&slot)?;
        let mut stand = Stand::before(&cluster, "released")?;
        let call = How::Ours.split(&cluster, id);
        stand.wait(&call)?;
        let is_used = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let used = |whether: &str| {
            wait_until("the slot", PATIENCE, || {
                (cluster.node(SOURCE).query_value(&is_used).ok()? == whether).then_some(())
            })
        };
        used("f")?;
        let folder = tempfile::tempdir().expect("a folder");
        give_tree_to_server_user(folder.path())?;
        let mut command = Installation::current()?.command("pg_receivewal")?;
        let conninfo = cluster.node(SOURCE).connect_params().conninfo();
        command.args(["-n", "-s", "1", "-S", &slot, "-d", &conninfo, "-D"]).arg(folder.path());
        let _program = Program(command.spawn().expect("pg_receivewal"));
        used("t")?;
        stand.let_go()?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect("the split");
        assert_eq!(step(&cluster, id)?, "cleaned");
        used("t")?;
        let said = warnings(&cluster, id)?;
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        assert!(said.contains("is still in use") && said.contains(&drop), "{said}");
        is_free(&cluster)
    });
}

#[test]
fn a_clone_that_was_emptied_and_removed_is_not_waited_for() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let Some(mut cluster) = cluster(Engine::Citus, true)? else { return Ok(()) };
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    stop_at_released(&cluster, &replica, id)?;
    let moved = moved_tables(&cluster, id)?;
    let node = cluster.adopt(replica);
    empty(&cluster, node, OTHER)?;
    remove_node(&cluster, node)?;
    cluster.node(node).stop(StopMode::Immediate)?;
    How::Ours.split(&cluster, id).end().outcome.expect("the rest of the split");
    assert_eq!(step(&cluster, id)?, "cleaned");
    // They are elsewhere, and what is left at the source is of no use.
    assert_eq!(to_be_dropped(&cluster, &moved)?, moved.len());
    assert_eq!(cluster.coordinator().query_value("SELECT count(*) FROM spread")?, "200");
    Ok(())
}

#[test]
fn a_clone_that_is_a_node_is_found_where_the_catalog_has_it() {
    on_each_engine(|engine: Engine| {
        let cluster = Bed::builder(engine).proxies(true).build()?;
        if !ours_exists_in(&cluster)? {
            return Ok(());
        }
        let replica = replica_of(&cluster, SOURCE)?;
        let id = How::Ours.register(&cluster, &replica)?;
        stop_at_released(&cluster, &replica, id)?;
        // As after a failover: the address of before leads nowhere.
        let port = replica.server().port();
        match engine {
            Engine::Citus => cluster
                .coordinator()
                .execute(&format!("SELECT citus_update_node({id}, '{HOST}', {port})"))?,
            Engine::Embedded => cluster.execute_everywhere(&format!(
                "UPDATE pg_dist_node SET nodeport = {port} WHERE nodeid = {id}"
            ))?,
        }
        replica.link().expect("a cluster with links").cut()?;
        How::Ours.split(&cluster, id).end().outcome.expect("the rest of the split");
        assert_eq!(step(&cluster, id)?, "cleaned");
        Ok(())
    });
}
