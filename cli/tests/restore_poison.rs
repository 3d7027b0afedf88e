//! What a copy has in it that would act on production by itself, on every engine: cron jobs, work in a queue, metadata
//! that is behind, a second database, a state of being read-only.

mod common;

use std::io::Write as _;

use common::backup::{Listeners, backup, check, finish, restore_all};
use common::{run, second_cluster};
use fence_tests::on_each_engine;
use test_cluster::{
    Cluster, Engine, HOST, Installation, PATIENCE, Restore, Result, StopMode, wait_until,
};

/// What keeps production's own daemon from doing at once what is to be found undone in the copies.
const PATIENT: [(&str, &str); 3] = [
    ("citus.recover_2pc_interval", "1h"),
    ("citus.background_task_queue_interval", "-1"),
    ("citus.metadata_sync_interval", "1h"),
];

fn patient(engine: Engine) -> Result<Cluster> {
    let builder = Cluster::builder(engine).workers(1);
    PATIENT.into_iter().fold(builder, |builder, (name, value)| builder.setting(name, value)).build()
}

/// Gives the coordinator a job for every minute that pg_cron runs by way of production's address.
fn schedule(cluster: &Cluster) -> Result<bool> {
    if !Installation::current()?.has_extension("pg_cron") {
        // Past the capture of the test runner.
        let _ = writeln!(std::io::stderr(), "skipped: pg_cron is not installed in this PostgreSQL");
        return Ok(false);
    }
    let node = cluster.coordinator();
    let libraries = node.query_value("SHOW shared_preload_libraries")?;
    node.stop(StopMode::Fast)?;
    node.set_while_stopped("shared_preload_libraries", &format!("{libraries},pg_cron"))?;
    node.set_while_stopped("cron.database_name", cluster.database())?;
    node.set_while_stopped("cron.host", HOST)?;
    node.start()?;
    node.execute("SET citus.enable_ddl_propagation = off; CREATE EXTENSION pg_cron")?;
    node.execute("SELECT cron.schedule('* * * * *', 'SELECT 1')")?;
    Ok(true)
}

/// Work that Citus' daemon would do at its next round.
fn queue(cluster: &Cluster) -> Result<()> {
    cluster.coordinator().execute(
        "INSERT INTO pg_dist_background_job (job_type, description) VALUES ('rebalance', 'left over');
         INSERT INTO pg_dist_background_task (job_id, owner, status, command, message, nodes_involved)
         SELECT job_id, 'postgres'::regrole, 'runnable', 'SELECT count(*) FROM run_command_on_workers(''SELECT 1'')', '', '{}'
           FROM pg_dist_background_job",
    )?;
    // The daemon of a copy would sync this worker at once.
    cluster
        .coordinator()
        .execute("UPDATE pg_dist_node SET metadatasynced = false WHERE groupid = 1")
}

#[test]
fn what_acts_by_itself_acts_on_nobody() {
    on_each_engine(|engine| {
        let cluster = patient(engine)?;
        let has_cron = schedule(&cluster)?;
        if engine == Engine::Citus {
            queue(&cluster)?;
        }
        let dir = backup(&cluster, "poison")?;
        let plain: Vec<_> = (0..2)
            .map(|group| {
                let copy = dir.join(format!("plain{group}"));
                let from = dir.join(format!("nodes/{group}/data"));
                let copied =
                    std::process::Command::new("cp").arg("-a").arg(from).arg(&copy).status();
                assert!(copied.expect("cp").success());
                copy
            })
            .collect();
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.port()).collect();
        for node in cluster.nodes() {
            node.stop(StopMode::Immediate)?;
        }
        let listeners = Listeners::at(ports);

        let places = cluster.places()?;
        let prepared = run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let queued = finish(restored.coordinator().port(), &[]);
        match engine {
            Engine::Citus => {
                let queued = queued.expect(3);
                assert!(queued.out.contains("task 1 (runnable)"), "{queued:?}");
            }
            Engine::Embedded => drop(queued.expect(0)),
        }
        if has_cron {
            assert!(prepared.out.contains("cron job 1 for"), "{prepared:?}");
            let jobs = "SELECT count(*) FROM cron.job WHERE active";
            assert_eq!(restored.coordinator().query_value(jobs)?, "0");
        }
        // Work that was queued goes on among the copies once they are a cluster, and its daemon syncs the one that was
        // behind.
        if engine == Engine::Citus {
            for node in restored.nodes() {
                for (name, _) in PATIENT {
                    node.alter_system(name, "1s")?;
                }
                node.reload()?;
            }
            wait_until("the copies' daemon to do what was left", PATIENCE, || {
                let done = "SELECT bool_and(status = 'done') AND (SELECT bool_and(metadatasynced) FROM pg_dist_node)
                              FROM pg_dist_background_task";
                restored.coordinator().query_value(done).ok().filter(|done| done == "t")
            })?;
        }
        assert_eq!(listeners.connections(), 0, "nobody has called production");

        // The control: started as they are, with production's own settings, the same copies call.
        if engine == Engine::Citus || has_cron {
            let mut control = Restore::new(&cluster, &plain)?;
            for node in control.nodes() {
                for (name, _) in PATIENT {
                    node.set_while_stopped(name, "1s")?;
                }
            }
            control.start()?;
            wait_until("a copy to call production", 3 * PATIENCE, || {
                (listeners.connections() > 0).then_some(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn every_database_with_citus_is_brought_to_one_mind() {
    on_each_engine(|engine| {
        let cluster = patient(engine)?;
        let mut second = second_cluster(&cluster, true)?;
        let worker = cluster.worker(1);
        let mut there = worker.connect_params().database("second").connect()?;
        there.batch_execute("CREATE TABLE marks (mark int)").expect("a table");
        for (mark, gid) in [(1, "citus_0_4000001_1_1"), (2, "citus_0_4000001_2_1")] {
            there
                .batch_execute(&format!(
                    "BEGIN; INSERT INTO marks VALUES ({mark}); PREPARE TRANSACTION '{gid}';"
                ))
                .expect("a prepared transaction");
        }
        let record = "INSERT INTO pg_dist_transaction (groupid, gid)
                      SELECT groupid, 'citus_0_4000001_1_1' FROM pg_dist_node WHERE groupid <> 0";
        second.batch_execute(record).expect("a record");
        let dir = backup(&cluster, "second")?;
        drop((second, there));

        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let done = finish(restored.coordinator().port(), &["--json"]).expect(0);
        let done: serde_json::Value = serde_json::from_str(&done.out).expect("JSON");
        assert_eq!(done["databases"], serde_json::json!(["postgres", "second"]), "{done}");
        assert_eq!(done["recovered"], 2, "one committed, one rolled back: {done}");
        let mut there = restored.worker(1).connect_params().database("second").connect()?;
        let marks = there.query_one("SELECT array_agg(mark)::text FROM marks", &[]).expect("rows");
        assert_eq!(marks.get::<_, String>(0), "{1}", "decided and undecided");
        let left = restored.worker(1).query_value("SELECT count(*) FROM pg_prepared_xacts")?;
        assert_eq!(left, "0");
        check(restored.coordinator().port(), &[]).expect(0);
        Ok(())
    });
}

#[test]
fn a_read_only_cluster_comes_back_and_its_copies_take_writes() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.coordinator().query("SELECT citus_set_cluster_read_only()")?;
        let dir = backup(&cluster, "closed")?;
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        for node in restored.nodes() {
            node.execute("CREATE TABLE writable (n int)")?;
            node.execute("DROP TABLE writable")?;
        }
        // Production is as it was, whatever its copies do.
        let call = "SELECT citus_set_cluster_read_write()";
        restored.coordinator().query(call)?;
        for node in cluster.nodes() {
            assert!(
                node.execute("CREATE TABLE writable (n int)").is_err(),
                "production was opened"
            );
        }
        cluster.coordinator().query(call)?;
        Ok(())
    });
}

/// It publishes the tables of Citus, too, and then PostgreSQL lets nobody change rows of one without a key.
#[test]
fn a_publication_of_all_tables_is_in_no_restores_way() {
    on_each_engine(|engine| {
        let builder = Cluster::builder(engine).workers(1).fsync(false);
        let cluster = builder.setting("wal_level", "logical").build()?;
        for node in cluster.nodes() {
            node.execute(
                "SET citus.enable_ddl_propagation = off; CREATE PUBLICATION everything FOR ALL TABLES",
            )?;
        }
        let known_by =
            "SELECT relreplident FROM pg_class WHERE oid = 'pg_dist_node_metadata'::regclass";
        let was = cluster.coordinator().query_value(known_by)?;
        // The control.
        let change = "UPDATE pg_dist_node_metadata SET metadata = metadata";
        let refused = cluster.coordinator().execute(change).expect_err("it is published");
        assert!(refused.to_string().contains("replica identity"), "{refused}");
        let dir = backup(&cluster, "published")?;
        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        for node in restored.nodes() {
            assert_eq!(node.query_value(known_by)?, was, "it is as it was");
        }
        Ok(())
    });
}
