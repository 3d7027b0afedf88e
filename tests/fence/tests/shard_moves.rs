//! Where shards are, and whoever moves one: writers go by its lock, and what is left over is dropped.  The embedded
//! catalog is to do here what Citus does.

use fence_tests::{
    Client, Cluster, Engine, PATIENCE, Result, in_background, on_each_engine, refusal, wait_until,
};
use test_cluster::Placement;

const TABLE: &str = "moving";
/// The key that is written to.
const KEY: i32 = 1;

/// A table with one shard on the first of two workers, and an equal one beside it on the second.
fn cluster_with_a_twin(engine: Engine) -> Result<(Cluster, Placement, usize)> {
    let cluster =
        Cluster::builder(engine).workers(2).setting("max_prepared_transactions", "20").build()?;
    let ddl = "CREATE TABLE moving (id int PRIMARY KEY, n int NOT NULL)";
    cluster.create_distributed(ddl, TABLE, "id", 1)?;
    let insert =
        cluster.shard_sql(TABLE, KEY, &format!("INSERT INTO %s (id, n) VALUES ({KEY}, 0)"));
    cluster.coordinator().execute(&insert)?;
    let shard = cluster.placements(TABLE)?.remove(0);
    let other = 3 - shard.node;
    let mut client = cluster.connect(other)?;
    let twin = format!(
        "{} CREATE TABLE {} (LIKE moving INCLUDING ALL); INSERT INTO {} VALUES ({KEY}, 0)",
        manual(engine),
        shard.table,
        shard.table
    );
    client.batch_execute(&twin).expect("a twin");
    Ok((cluster, shard, other))
}

/// What a session of Citus needs to work on shards itself.
fn manual(engine: Engine) -> &'static str {
    match engine {
        Engine::Citus => {
            "SET citus.enable_ddl_propagation = off; SET citus.enable_manual_changes_to_shards = on; \
             SET citus.override_table_visibility = off;"
        }
        Engine::Embedded => "",
    }
}

/// Says on the coordinator that the shard is on another node.
fn moves(shard: &Placement, to: &Cluster, node: usize) -> String {
    format!(
        "DELETE FROM pg_dist_placement WHERE shardid = {0};
         INSERT INTO pg_dist_placement (placementid, shardid, shardstate, shardlength, groupid)
         SELECT nextval('pg_dist_placement_placementid_seq'), {0}, 1, 0, groupid
           FROM pg_dist_node WHERE nodeport = {1};",
        shard.shardid,
        to.catalog_port(node)
    )
}

fn write(cluster: &Cluster) -> String {
    cluster.shard_sql(TABLE, KEY, &format!("UPDATE %s SET n = n + 1 WHERE id = {KEY}"))
}

fn value_at(cluster: &Cluster, shard: &Placement, node: usize) -> Result<i32> {
    let mut client = cluster.connect(node)?;
    client.batch_execute(manual(cluster.engine())).expect("settings");
    let row = client.query_one(&format!("SELECT n FROM {}", shard.table), &[]).expect("a row");
    Ok(row.get(0))
}

fn wait_for_a_waiting_writer(client: &mut Client) -> Result<()> {
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    wait_until("a writer that waits for the shard's lock", PATIENCE, || {
        let count: i64 = client.query_one(waits, &[]).ok()?.get(0);
        (count == 1).then_some(())
    })
}

#[test]
fn a_writer_that_waited_goes_to_the_new_place() {
    on_each_engine(|engine| {
        let (cluster, shard, other) = cluster_with_a_twin(engine)?;
        // A session that has been there before, and keeps its connection.
        cluster.coordinator().execute(&write(&cluster))?;
        assert_eq!(value_at(&cluster, &shard, shard.node)?, 1);
        let mut mover = cluster.connect(0)?;
        mover
            .batch_execute(&format!(
                "BEGIN; SELECT lock_shard_metadata(7, ARRAY[{}]); {}",
                shard.shardid,
                moves(&shard, &cluster, other)
            ))
            .expect("a move");
        let writer = in_background(&cluster, 0, &[write(&cluster)]);
        wait_for_a_waiting_writer(&mut cluster.connect(0)?)?;
        // Prepared, it keeps the lock.
        mover.batch_execute("PREPARE TRANSACTION 'moved'").expect("prepared");
        wait_for_a_waiting_writer(&mut mover)?;
        assert!(!writer.is_finished());
        mover.batch_execute("COMMIT PREPARED 'moved'").expect("committed");
        writer.join().expect("no panic").expect("a write");
        assert_eq!(value_at(&cluster, &shard, shard.node)?, 1, "the old place");
        assert_eq!(value_at(&cluster, &shard, other)?, 1, "the new place");
        Ok(())
    });
}

/// The control: without the lock the same write ends up where nobody will look for it.
#[test]
fn a_writer_that_did_not_wait_is_lost() {
    on_each_engine(|engine| {
        let (cluster, shard, other) = cluster_with_a_twin(engine)?;
        let mut mover = cluster.connect(0)?;
        mover.batch_execute(&format!("BEGIN; {}", moves(&shard, &cluster, other))).expect("a move");
        cluster.coordinator().execute(&write(&cluster))?;
        mover.batch_execute("COMMIT").expect("committed");
        assert_eq!(value_at(&cluster, &shard, shard.node)?, 1, "the old place");
        assert_eq!(value_at(&cluster, &shard, other)?, 0, "the new place");
        Ok(())
    });
}

/// The other way round: whoever moves a shard waits for those who write to it.
#[test]
fn a_writer_holds_the_lock_to_its_end() {
    on_each_engine(|engine| {
        let (cluster, shard, _) = cluster_with_a_twin(engine)?;
        let mut writer = cluster.connect(0)?;
        writer.batch_execute(&format!("BEGIN; {}", write(&cluster))).expect("a write");
        let mut mover = cluster.connect(0)?;
        mover.batch_execute("SET lock_timeout = '100ms'").expect("a bound");
        let lock = format!("SELECT lock_shard_metadata(7, ARRAY[{}])", shard.shardid);
        assert_eq!(refusal(&mut mover, &lock).code().code(), "55P03");
        // Beside others like itself.
        cluster
            .coordinator()
            .execute(&format!("SELECT lock_shard_metadata(5, ARRAY[{}])", shard.shardid))?;
        writer.batch_execute("COMMIT").expect("committed");
        mover.batch_execute(&lock).expect("the lock");
        Ok(())
    });
}

/// A transaction that keeps its snapshot is not to go by it: it goes to the new place, or fails.
#[test]
fn a_snapshot_from_before_the_move_is_not_gone_by() {
    on_each_engine(|engine| {
        let (cluster, shard, other) = cluster_with_a_twin(engine)?;
        let mut writer = cluster.connect(0)?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_dist_placement";
        writer.batch_execute(begin).expect("a snapshot");
        cluster.coordinator().execute(&format!(
            "BEGIN; SELECT lock_shard_metadata(7, ARRAY[{}]); {} COMMIT",
            shard.shardid,
            moves(&shard, &cluster, other)
        ))?;
        let wrote = writer.batch_execute(&write(&cluster));
        if let Err(error) = &wrote {
            let code = error.code().map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), Some("40001"), "{error:?}");
            writer.batch_execute("ROLLBACK").expect("rolled back");
        } else {
            writer.batch_execute("COMMIT").expect("committed");
        }
        assert_eq!(value_at(&cluster, &shard, shard.node)?, 0, "the old place");
        assert_eq!(value_at(&cluster, &shard, other)?, i32::from(wrote.is_ok()), "the new place");
        Ok(())
    });
}

/// What is recorded as orphaned is dropped, unless somebody uses it; a shard that is a placement is not.
#[test]
fn orphans_are_dropped() {
    on_each_engine(|engine| {
        let (cluster, shard, other) = cluster_with_a_twin(engine)?;
        let count = |node: usize| -> Result<String> {
            let mut client = cluster.connect(node)?;
            client.batch_execute(manual(engine)).expect("settings");
            let count = format!(
                "SELECT count(*)::text FROM pg_class WHERE relname = 'moving_{}'",
                shard.shardid
            );
            Ok(client.query_one(&count, &[]).expect("a count").get(0))
        };
        let record = |node: usize| {
            format!(
            "INSERT INTO pg_dist_cleanup (record_id, operation_id, object_type, object_name, node_group_id, policy_type)
             SELECT nextval('pg_dist_cleanup_recordid_seq'), nextval('pg_dist_operationid_seq'), 1,
                    'public.moving_{}', groupid, 2
               FROM pg_dist_node WHERE nodeport = {}",
            shard.shardid,
            cluster.catalog_port(node)
        )
        };
        let records = "SELECT count(*) FROM pg_dist_cleanup";
        let clean = "CALL citus_cleanup_orphaned_resources()";

        // Somebody reads it.
        let mut reader = cluster.connect(other)?;
        let read = format!("{} BEGIN; SELECT FROM {}", manual(engine), shard.table);
        reader.batch_execute(&read).expect("a reader");
        cluster.coordinator().execute(&record(other))?;
        if engine == Engine::Embedded {
            // Citus waits for it, as long as it likes.
            cluster.coordinator().execute(clean)?;
            assert_eq!(count(other)?, "1");
            assert_eq!(cluster.coordinator().query_value(records)?, "1");
        }
        drop(reader);
        wait_until("the orphan to be gone", PATIENCE, || {
            cluster.coordinator().execute(clean).ok()?;
            (count(other).ok()? == "0").then_some(())
        })?;
        assert_eq!(cluster.coordinator().query_value(records)?, "0");
        assert_eq!(count(shard.node)?, "1", "the shard itself");
        if engine == Engine::Embedded {
            cluster.coordinator().execute(&record(shard.node))?;
            cluster.coordinator().execute(clean)?;
            assert_eq!(count(shard.node)?, "1", "a record of what is in use");
        }
        Ok(())
    });
}

/// Numbers that no other node draws.
#[test]
fn sequences_of_a_node() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut worker = cluster.connect(1)?;
        worker
            .batch_execute(&format!(
                "{} CREATE SEQUENCE \"Big one\"; CREATE SEQUENCE public.small AS smallint",
                manual(engine)
            ))
            .expect("sequences");
        let apply = |name: &str, of: &str| {
            format!(
                "SELECT worker_apply_sequence_command('CREATE SEQUENCE IF NOT EXISTS {name} AS {of}', '{of}'::regtype)"
            )
        };
        let group: i64 = worker
            .query_one("SELECT groupid::int8 FROM pg_dist_local_group", &[])
            .expect("a group")
            .get(0);
        for name in ["\"Big one\"", "public.new_one"] {
            // Twice: the second time nothing is drawn again.
            for drawn in 1..=2 {
                worker.batch_execute(&apply(name, "bigint")).expect(name);
                let next: i64 = worker
                    .query_one(&format!("SELECT nextval('{name}')"), &[])
                    .expect("a number")
                    .get(0);
                assert_eq!(next, (group << 48) + drawn, "{name}");
            }
        }
        worker.batch_execute(&apply("public.small", "smallint")).expect("small");
        assert_eq!(refusal(&mut worker, "SELECT nextval('small')").code().code(), "2200H");
        Ok(())
    });
}

/// What plans and clean-ups read has the same columns, and the same rows.
#[test]
fn the_tables_of_moves() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let columns = |table: &str| {
            cluster.coordinator().query_value(&format!(
                "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
                   FROM pg_attribute
                  WHERE attrelid = 'pg_catalog.{table}'::regclass AND attnum > 0 AND NOT attisdropped"
            ))
        };
        assert_eq!(
            columns("pg_dist_cleanup")?,
            "record_id bigint, operation_id bigint, object_type integer, object_name text, \
             node_group_id integer, policy_type integer"
        );
        assert_eq!(
            columns("pg_dist_rebalance_strategy")?,
            "name name, default_strategy boolean, shard_cost_function regproc, \
             node_capacity_function regproc, shard_allowed_on_node_function regproc, \
             default_threshold real, minimum_threshold real, improvement_threshold real"
        );
        let strategies = cluster.coordinator().query_value(
            "SELECT string_agg(concat_ws(' ', name, default_strategy, shard_cost_function,
                        node_capacity_function, shard_allowed_on_node_function), ', ' ORDER BY name)
               FROM pg_dist_rebalance_strategy",
        )?;
        assert_eq!(
            strategies,
            "by_disk_size t citus_shard_cost_by_disk_size citus_node_capacity_1 \
             citus_shard_allowed_on_node_true, \
             by_shard_count f citus_shard_cost_1 citus_node_capacity_1 \
             citus_shard_allowed_on_node_true"
        );
        assert_eq!(cluster.coordinator().query_value("SELECT citus_is_coordinator()")?, "t");
        assert_eq!(cluster.worker(1).query_value("SELECT citus_is_coordinator()")?, "f");
        Ok(())
    });
}
