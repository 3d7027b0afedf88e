//! Sources that have little to give: no table at all, and one table without any reference table beside it; and a replica that
//! was promoted by somebody else in the middle of a split, which is never opened.

use std::time::Duration;

use clone_tests::{
    Bed, Engine, How, PATIENCE, Result, SOURCE, Stand, on_each_engine, ours_exists, ours_exists_in,
    replica_of, wait_until,
};
use test_cluster::Cluster;
use test_cluster::postgres::Client;

const ROWS: i64 = 200;

#[test]
fn a_source_without_tables_and_one_without_reference_tables_are_split() {
    on_each_engine(|engine: Engine| {
        let mut cluster = Bed::builder(engine).build()?;
        if !How::Ours.exists(&cluster)? {
            return Ok(());
        }
        let split = |cluster: &mut test_cluster::Cluster| -> Result<usize> {
            let replica = cluster.clone_of(SOURCE)?;
            cluster.wait_streaming(&replica, PATIENCE)?;
            let id = How::Ours.register(cluster, &replica)?;
            How::Ours.split(cluster, id).end().outcome.expect("the split");
            Ok(cluster.adopt(replica))
        };
        split(&mut cluster)?;
        cluster.create_distributed("CREATE TABLE few (key bigint NOT NULL)", "few", "key", 8)?;
        let insert = |key: i64| {
            engine.shard_sql("few", key, &format!("INSERT INTO %s (key) VALUES ({key})"))
        };
        let inserts: Vec<String> = (1..=ROWS).map(insert).collect();
        cluster.coordinator().execute(&format!("BEGIN; {}; COMMIT", inserts.join("; ")))?;
        let before = cluster.placements("few")?;
        assert!(before.iter().any(|placement| placement.node == SOURCE), "nothing to give");
        let node = split(&mut cluster)?;
        let rows = cluster.read_all_shards("few", "SELECT count(*) FROM %s")?;
        let count: i64 =
            rows.iter().filter_map(|row| row.values[0].as_deref()?.parse::<i64>().ok()).sum();
        assert_eq!(count, ROWS);
        let after = cluster.placements("few")?;
        assert!(after.iter().any(|placement| placement.node == node), "nothing was given");
        Ok(())
    });
}

#[test]
fn a_replica_that_somebody_else_promotes_stays_closed() {
    on_each_engine(|engine: Engine| {
        let bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let replica = bed.replica()?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let mut stand = Stand::before(&bed.cluster, "prepared")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        replica.server().query("SELECT pg_promote(true, 30)")?;
        stand.let_go()?;
        wait_until("the call's end", PATIENCE, || call.has_ended().then_some(()))?;
        call.end().outcome.expect_err("a split of a replica that is none any more");
        // Nobody writes there, and its daemon decides nothing.
        let refused = replica.server().query("CREATE TABLE lost ()");
        let said = refused.expect_err("a write on a twin of the source").to_string();
        assert!(said.contains("25006") || said.contains("reserved"), "{said}");
        let state = replica.server().query_value("SELECT state FROM citus_fence.stat_gate")?;
        assert_eq!(state, "reserved");
        if engine == Engine::Citus {
            let interval = replica.server().query_value("SHOW citus.recover_2pc_interval")?;
            assert_eq!(interval, "-1");
        }
        for node in bed.cluster.nodes() {
            let prepared =
                "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'citus_fence_clone_%'";
            let free = wait_until("nothing to be prepared", Duration::from_secs(20), || {
                (node.query_value(prepared).ok()? == "0").then_some(())
            });
            assert!(free.is_ok(), "{}", node.name());
        }
        Ok(())
    });
}

/// Splits a node; the number of the new one.
fn split(cluster: &mut Cluster, source: usize) -> Result<usize> {
    split_telling(cluster, source).map(|(node, _)| node)
}

/// The same, and what it said.
fn split_telling(cluster: &mut Cluster, source: usize) -> Result<(usize, Vec<String>)> {
    let replica = replica_of(cluster, source)?;
    let id = How::Ours.register(cluster, &replica)?;
    let called = How::Ours.split(cluster, id).end();
    called.outcome.expect("the split");
    let said = called.notices.into_iter().map(|notice| notice.message).collect();
    Ok((cluster.adopt(replica), said))
}

/// A cluster of Citus on which nothing is dropped before it is asked for.
fn citus(setting: Option<(&str, &str)>) -> Result<Option<Cluster>> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(None);
    }
    let mut builder =
        Bed::builder(Engine::Citus).setting("citus.defer_shard_delete_interval", "-1");
    if let Some((name, value)) = setting {
        builder = builder.setting(name, value);
    }
    let cluster = builder.build()?;
    Ok(ours_exists_in(&cluster)?.then_some(cluster))
}

fn run(cluster: &Cluster, statements: &[&str]) -> Result<()> {
    statements.iter().try_for_each(|statement| cluster.coordinator().execute(statement))
}

/// The same answer at every node.
fn everywhere(cluster: &Cluster, sql: &str) -> Result<String> {
    let right = cluster.coordinator().query_value(sql)?;
    for node in cluster.nodes() {
        assert_eq!(node.query_value(sql)?, right, "{sql} at {}", node.name());
    }
    Ok(right)
}

/// Columnar and partitioned tables, foreign keys to colocated and to reference tables, names that need quotes, a
/// dropped column in pg_dist_node; and until the orphans are dropped they are in nobody's way.
#[test]
fn tables_of_every_kind_are_split() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    // On releases that have the column for clones: that is since 13.2.
    let column = "SELECT count(*) FROM pg_attribute \
                   WHERE attrelid = 'pg_dist_node'::regclass AND attname = 'nodeisclone'";
    let has_column = cluster.coordinator().query_value(column)? != "0";
    for node in cluster.nodes().iter().filter(|_| has_column) {
        node.execute(
            "SET allow_system_table_mods = on; SET citus.enable_ddl_propagation = off;
             ALTER TABLE pg_catalog.pg_dist_node ADD COLUMN gone int;
             ALTER TABLE pg_catalog.pg_dist_node DROP COLUMN gone",
        )?;
    }
    run(
        &cluster,
        &[
            "SET citus.shard_count = 8",
            "CREATE SCHEMA \"Odd schema\"",
            "CREATE TABLE lists (id int PRIMARY KEY, name text)",
            "SELECT create_reference_table('lists')",
            "CREATE TABLE parents (key bigint PRIMARY KEY, list int REFERENCES lists ON DELETE CASCADE)",
            "SELECT create_distributed_table('parents', 'key', shard_count := 8)",
            "CREATE TABLE \"Odd schema\".\"it's a \"\"child\"\"\" (key bigint REFERENCES parents ON DELETE CASCADE, n int)",
            "SELECT create_distributed_table('\"Odd schema\".\"it''s a \"\"child\"\"\"', 'key', colocate_with := 'parents')",
            "CREATE TABLE kept (key bigint, list int REFERENCES lists)",
            "SELECT create_distributed_table('kept', 'key', colocate_with := 'parents')",
            "CREATE EXTENSION citus_columnar",
            "CREATE TABLE stripes (key bigint, v text) USING columnar",
            "SELECT create_distributed_table('stripes', 'key', colocate_with := 'parents')",
            "CREATE TABLE days (key bigint, day date) PARTITION BY RANGE (day)",
            "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
            "SELECT create_distributed_table('days', 'key', colocate_with := 'parents')",
            "INSERT INTO lists SELECT n, n FROM generate_series(1, 10) n",
            "INSERT INTO parents SELECT n, 1 + n % 8 FROM generate_series(1, 200) n",
            "INSERT INTO \"Odd schema\".\"it's a \"\"child\"\"\" SELECT n, n FROM generate_series(1, 200) n",
            "INSERT INTO kept SELECT n, 9 + n % 2 FROM generate_series(1, 200) n",
            "INSERT INTO stripes SELECT n, n FROM generate_series(1, 200) n",
            "INSERT INTO days SELECT n, '2026-01-05' FROM generate_series(1, 200) n",
        ],
    )?;
    let before = cluster.placements("parents")?;
    let node = split(&mut cluster, SOURCE)?;
    assert!(cluster.placements("parents")?.iter().any(|placement| placement.node == node));
    assert!(before.iter().all(|placement| placement.node != node));
    let child = "\"Odd schema\".\"it's a \"\"child\"\"\"";
    for table in ["parents", child, "kept", "stripes", "days"] {
        assert_eq!(
            everywhere(&cluster, &format!("SELECT count(*) FROM {table}"))?,
            "200",
            "{table}"
        );
    }
    // The orphans are there still, and what is left of the split's seal with them.
    for node in 0..cluster.nodes().len() {
        let list = node + 1;
        cluster.node(node).execute(&format!("DELETE FROM lists WHERE id = {list}"))?;
        cluster
            .node(node)
            .execute(&format!("UPDATE parents SET list = 8 WHERE list = {}", list + 4))?;
    }
    let left = everywhere(&cluster, "SELECT count(*) FROM parents")?;
    assert_eq!(left, "100");
    assert_eq!(everywhere(&cluster, &format!("SELECT count(*) FROM {child}"))?, "100");
    // Whatever else comes to an orphan is refused, also from a session that says that it only applies.
    let of_source = before.iter().filter(|placement| placement.node == SOURCE);
    let still: Vec<i64> = cluster
        .placements("parents")?
        .into_iter()
        .filter(|placement| placement.node == SOURCE)
        .map(|placement| placement.shardid)
        .collect();
    let mut refused = 0;
    for orphan in of_source.filter(|placement| !still.contains(&placement.shardid)) {
        for role in ["origin", "replica"] {
            let write = format!(
                "SET citus.enable_manual_changes_to_shards = on; SET session_replication_role = {role};
                 INSERT INTO {} (key) VALUES (1)",
                orphan.table
            );
            let error = cluster.node(SOURCE).execute(&write).expect_err("a write to an orphan");
            assert!(error.to_string().contains("40001"), "{role}: {error}");
            refused += 1;
        }
    }
    assert!(refused > 0, "nothing has moved");
    // A row of an orphan is in the way of what its new place allows, until the orphan is dropped.
    cluster.coordinator().execute("DELETE FROM kept")?;
    cluster.coordinator().execute("CALL citus_cleanup_orphaned_resources()")?;
    cluster.coordinator().execute("DELETE FROM lists WHERE id IN (9, 10)")?;
    let orphans = clone_tests::audit::left::of_splits(&cluster)?;
    assert!(orphans.is_empty(), "{orphans:#?}");
    // And DDL reaches all of it.
    cluster.coordinator().execute("ALTER TABLE parents ADD COLUMN more int DEFAULT 7")?;
    assert_eq!(everywhere(&cluster, "SELECT sum(more) FROM parents")?, "700");
    // One more of the new node, which has what it needs to be a source itself.
    let grown = split(&mut cluster, node)?;
    assert!(cluster.placements("parents")?.iter().any(|placement| placement.node == grown));
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM days")?, "200");
    Ok(())
}

/// What tells sessions of a change of the catalog does not fire in one that is a replica's; and who has another role may
/// not even say that he is none.
#[test]
fn a_split_by_an_owner_who_is_a_replica_by_his_settings_is_told_to_kept_sessions() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    run(
        &cluster,
        &[
            "CREATE ROLE nobody",
            "CREATE TABLE spread (key bigint PRIMARY KEY, n int)",
            "SELECT create_distributed_table('spread', 'key', shard_count := 12)",
            "INSERT INTO spread SELECT key, 0 FROM generate_series(1, 100) key",
        ],
    )?;
    let read = |client: &mut Client| -> i64 {
        let one = |key: i64| -> i64 {
            let sql = format!("SELECT n::bigint FROM spread WHERE key = {key}");
            client.query_one(&sql, &[]).expect("a row").get(0)
        };
        (1..=100).map(one).sum()
    };
    let mut kept = Vec::new();
    for node in 0..cluster.nodes().len() {
        let mut client = cluster.connect(node)?;
        assert_eq!(read(&mut client), 0);
        kept.push(client);
    }
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    for node in cluster.nodes() {
        for setting in ["session_replication_role = 'replica'", "role = 'nobody'"] {
            node.execute(&format!(
                "SET ROLE NONE; SET citus.enable_alter_role_set_propagation = off; ALTER ROLE postgres SET {setting}"
            ))?;
        }
    }
    let mut owner = cluster.connect(0)?;
    for sql in ["SET ROLE NONE", &How::Ours.call(id)] {
        owner.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let node = cluster.adopt(replica);
    for node in cluster.nodes() {
        node.execute(
            "SET ROLE NONE; SET citus.enable_alter_role_set_propagation = off; ALTER ROLE postgres RESET ALL",
        )?;
    }
    assert!(cluster.placements("spread")?.iter().any(|placement| placement.node == node));
    cluster.coordinator().execute("UPDATE spread SET n = n + 1")?;
    for (node, client) in kept.iter_mut().enumerate() {
        assert_eq!(read(client), 100, "node {node} reads at the old place");
        let write = "UPDATE spread SET n = n WHERE key <= 20";
        client.batch_execute(write).unwrap_or_else(|error| panic!("node {node}: {error}"));
    }
    Ok(())
}

/// The coordinator is a source like any other: with shards, reference tables, and tables that it alone has.
#[test]
fn the_coordinator_is_split() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    let property = format!(
        "SELECT citus_set_node_property('{}', {}, 'shouldhaveshards', true)",
        test_cluster::HOST,
        cluster.catalog_port(0)
    );
    run(
        &cluster,
        &[
            property.as_str(),
            "CREATE TABLE lists (id int PRIMARY KEY)",
            "SELECT create_reference_table('lists')",
            "CREATE TABLE own (id int PRIMARY KEY)",
            "SELECT citus_add_local_table_to_metadata('own')",
            "CREATE TABLE pointing (id int PRIMARY KEY, own int REFERENCES own)",
            "SELECT create_reference_table('pointing')",
            "CREATE TABLE plain (id serial)",
            "CREATE TABLE spread (key bigint, id bigserial)",
            "SELECT create_distributed_table('spread', 'key', shard_count := 12)",
            "INSERT INTO spread SELECT generate_series(1, 200)",
            "INSERT INTO own VALUES (1)",
            "INSERT INTO plain DEFAULT VALUES",
        ],
    )?;
    let (node, said) = split_telling(&mut cluster, 0)?;
    // What no clean-up of Citus' knows.
    let left: Vec<_> = said.iter().filter(|line| line.contains("the coordinator alone")).collect();
    assert!(
        left.len() == 1 && left[0].contains("1 tables") && left[0].contains(": public.plain"),
        "{said:#?}"
    );
    assert!(cluster.placements("spread")?.iter().any(|placement| placement.node == node));
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM spread")?, "200");
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM own")?, "1");
    cluster.node(node).execute("INSERT INTO own VALUES (2)")?;
    cluster.node(node).execute("INSERT INTO lists VALUES (1)")?;
    // The orphan of the table that it points to has no such row.
    cluster.coordinator().execute("INSERT INTO pointing VALUES (1, 2)")?;
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM pointing")?, "1");
    cluster.node(node).execute("INSERT INTO spread SELECT generate_series(1, 50)")?;
    cluster.coordinator().execute("INSERT INTO spread SELECT generate_series(1, 50)")?;
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM own")?, "2");
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM lists")?, "1");
    assert_eq!(everywhere(&cluster, "SELECT count(DISTINCT id) FROM spread")?, "300");
    let orphans = clone_tests::audit::left::of_splits(&cluster)?;
    assert!(orphans.is_empty(), "{orphans:#?}");
    // It does not take itself for a coordinator any more.
    let group = "SELECT groupid <> 0 FROM pg_dist_local_group";
    assert_eq!(cluster.node(node).query_value(group)?, "t");
    let registered = "SELECT count(*) FROM citus_fence.clone";
    assert_eq!(cluster.node(node).query_value(registered)?, "0");
    Ok(())
}

/// Only reference tables, and one group of shards that cannot be shared out.
#[test]
fn little_to_share_out() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    run(
        &cluster,
        &[
            "CREATE TABLE lists (id int PRIMARY KEY)",
            "SELECT create_reference_table('lists')",
            "INSERT INTO lists VALUES (1)",
        ],
    )?;
    let node = split(&mut cluster, SOURCE)?;
    cluster.node(node).execute("INSERT INTO lists VALUES (2)")?;
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM lists")?, "2");
    run(
        &cluster,
        &[
            "CREATE TABLE one (key bigint)",
            "SELECT create_distributed_table('one', 'key', shard_count := 1)",
            "CREATE TABLE two (key bigint)",
            "SELECT create_distributed_table('two', 'key', colocate_with := 'one')",
            "INSERT INTO one VALUES (1), (2)",
        ],
    )?;
    let owner = cluster.placements("one")?[0].node;
    split(&mut cluster, owner)?;
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM one")?, "2");
    let together = |table: &str| Ok::<_, test_cluster::Error>(cluster.placements(table)?[0].node);
    assert_eq!(together("one")?, together("two")?);
    Ok(())
}

/// What is empty on a promoted replica stays on the source, with all that is colocated with it, by whatever
/// strategy.
#[test]
fn unlogged_tables_stay_by_any_strategy() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    run(
        &cluster,
        &[
            "CREATE UNLOGGED TABLE loose (key bigint)",
            "SELECT create_distributed_table('loose', 'key', shard_count := 8)",
            "CREATE TABLE beside (key bigint)",
            "SELECT create_distributed_table('beside', 'key', colocate_with := 'loose')",
            "CREATE TABLE free (key bigint)",
            "SELECT create_distributed_table('free', 'key', shard_count := 16, colocate_with := 'none')",
            "INSERT INTO loose SELECT generate_series(1, 100)",
            "INSERT INTO beside SELECT generate_series(1, 100)",
            "CREATE FUNCTION public.one_only(bigint, int) RETURNS bool LANGUAGE sql AS 'SELECT true'",
            "INSERT INTO pg_dist_rebalance_strategy (name, shard_cost_function, node_capacity_function,
                    shard_allowed_on_node_function, default_threshold)
             VALUES ('mine', 'citus_shard_cost_1', 'citus_node_capacity_1', 'public.one_only', 0)",
        ],
    )?;
    let replica = replica_of(&cluster, SOURCE)?;
    let id = How::Ours.register(&cluster, &replica)?;
    cluster
        .coordinator()
        .execute(&format!("SELECT public.citus_promote_clone_and_rebalance({id}, 'mine')"))?;
    let node = cluster.adopt(replica);
    let moved = |table: &str| {
        let there = cluster.placements(table)?;
        Ok::<_, test_cluster::Error>(there.iter().filter(|place| place.node == node).count())
    };
    assert_eq!((moved("loose")?, moved("beside")?), (0, 0));
    assert!(moved("free")? > 0);
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM loose")?, "100");
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM beside")?, "100");
    Ok(())
}

/// Shards of which the coordinator alone knows where they are stay where they are.
#[test]
fn tables_that_workers_do_not_know_stay() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    run(
        &cluster,
        &[
            "CREATE TABLE appended (key bigint)",
            "SELECT create_distributed_table('appended', 'key', 'append')",
            "SELECT master_create_empty_shard('appended') FROM generate_series(1, 4)",
            "CREATE TABLE spread (key bigint)",
            "SELECT create_distributed_table('spread', 'key', shard_count := 8)",
            "INSERT INTO spread SELECT generate_series(1, 200)",
            "SELECT citus_set_default_rebalance_strategy('by_shard_count')",
        ],
    )?;
    let before = cluster.placements("appended")?;
    assert!(before.iter().filter(|placement| placement.node == SOURCE).count() > 1);
    let node = split(&mut cluster, SOURCE)?;
    assert_eq!(cluster.placements("appended")?, before);
    assert!(cluster.placements("spread")?.iter().any(|placement| placement.node == node));
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM spread")?, "200");
    assert_eq!(cluster.coordinator().query_value("SELECT count(*) FROM appended")?, "0");
    Ok(())
}

/// Triggers on DDL are the users': they neither see nor refuse what the split does to shards.
#[test]
fn triggers_on_ddl_do_not_stop_a_split() -> Result<()> {
    let Some(mut cluster) = citus(None)? else { return Ok(()) };
    run(
        &cluster,
        &[
            "CREATE TABLE spread (key bigint)",
            "SELECT create_distributed_table('spread', 'key', shard_count := 8)",
            "INSERT INTO spread SELECT generate_series(1, 200)",
        ],
    )?;
    cluster.node(SOURCE).execute(
        "SET citus.enable_ddl_propagation = off;
         CREATE FUNCTION no_triggers() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no triggers here'; END $$;
         CREATE EVENT TRIGGER no_triggers ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER')
             EXECUTE FUNCTION no_triggers()",
    )?;
    let node = split(&mut cluster, SOURCE)?;
    assert!(cluster.placements("spread")?.iter().any(|placement| placement.node == node));
    assert_eq!(everywhere(&cluster, "SELECT count(*) FROM spread")?, "200");
    Ok(())
}

/// Whatever the database says of sessions: a standby refuses what is to be serializable, and a split's sessions wait for each
/// other.
#[test]
fn settings_of_the_database_do_not_stop_a_split() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        let replica = bed.replica()?;
        let database = format!("\"{}\"", bed.cluster.database());
        let set = |node: usize, setting: &str| {
            bed.cluster.node(node).execute(&format!(
                "SET citus.enable_ddl_propagation = off; ALTER DATABASE {database} SET {setting}"
            ))
        };
        set(SOURCE, "idle_session_timeout = '300ms'")?;
        for node in 0..bed.cluster.nodes().len() {
            set(node, "default_transaction_isolation = 'serializable'")?;
        }
        wait_until("the replica to have that", PATIENCE, || {
            let error = replica.server().execute("SELECT 1").err()?.to_string();
            error.contains("serializable").then_some(())
        })?;
        let id = How::Ours.register(&bed.cluster, &replica)?;
        let mut stand = Stand::before(&bed.cluster, "prepared")?;
        let call = How::Ours.split(&bed.cluster, id);
        stand.wait(&call)?;
        wait_until("a session of the split to be idle for longer than that", PATIENCE, || {
            let look = "SELECT count(*) > 2 FROM pg_stat_activity
                 WHERE application_name LIKE 'citus_fence clone%' AND state = 'idle'
                   AND clock_timestamp() - state_change > interval '600 ms'";
            (bed.cluster.node(SOURCE).query_value(look).ok()? == "t").then_some(())
        })?;
        stand.let_go()?;
        call.end().outcome.expect("the split");
        bed.cluster.adopt(replica);
        Ok(())
    });
}

/// Who takes changes of tables from the source is told that they end there; his slot stays.
#[test]
fn logical_slots_of_the_source_are_named() -> Result<()> {
    for engine in Engine::available() {
        let mut cluster = Bed::builder(engine).setting("wal_level", "logical").build()?;
        if !ours_exists_in(&cluster)? {
            continue;
        }
        cluster
            .node(SOURCE)
            .query("SELECT pg_create_logical_replication_slot('changes', 'pgoutput')")?;
        let (node, said) = split_telling(&mut cluster, SOURCE)?;
        let warned =
            |line: &&String| line.contains("do not see the moved shards any more: changes");
        assert_eq!(said.iter().filter(warned).count(), 1, "{engine:?}: {said:#?}");
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'";
        assert_eq!(cluster.node(SOURCE).query_value(slots)?, "1");
        assert_eq!(cluster.node(node).query_value(slots)?, "0");
    }
    Ok(())
}
