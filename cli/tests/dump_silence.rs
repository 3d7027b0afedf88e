//! Links that forget whoever is silent: a dump and a restore speak to every session that only waits, and begin anew in
//! one that was lost while it waited for somebody's lock.

mod common;

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use common::restored::restore_command;
use common::{Gate, dump_command, manifest, run, start};
use fence_tests::{Cluster, Engine, PATIENCE, Result, on_each_engine};
use test_cluster::{HOST, wait_for_sql};

/// How long the links remember: some times longer than a session is left alone.
const MEMORY: Duration = Duration::from_secs(8);

fn create(engine: Engine) -> Result<Cluster> {
    Cluster::builder(engine).workers(1).proxies(true).fsync(false).build()
}

/// Has all links forget, and waits until one has forgotten what was silent from now on.
fn forget(cluster: &Cluster) -> Result<()> {
    for node in 0..cluster.nodes().len() {
        cluster.link(node).forget_after(MEMORY)?;
    }
    let mut silent = TcpStream::connect((HOST, cluster.catalog_port(0))).expect("a connection");
    silent.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The server would wait for its first words much longer.
    let end = silent.read(&mut [0]);
    let is_reset =
        end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(is_reset, "the link forgets nobody, so this shows nothing: {end:?}");
    Ok(())
}

#[test]
fn a_dump_outlives_links_that_forget() {
    on_each_engine(|engine| {
        let cluster = create(engine)?;
        cluster.create_distributed("CREATE TABLE t (id bigint)", "t", "id", 4)?;
        for id in 1..=40 {
            let insert = cluster.shard_sql("t", id, &format!("INSERT INTO %s VALUES ({id})"));
            cluster.coordinator().execute(&insert)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        let gate = Gate::new();
        let words = ["-v", "--bindir", gate.bindir()];
        let mut running = start(&mut dump_command(cluster.catalog_port(0), &dir, &words));
        gate.wait(&mut running)?;
        forget(&cluster)?;
        // And once more, while a worker waits for a lock.
        let placement = cluster.placements("t")?.remove(0);
        let mut client = cluster.connect(placement.node)?;
        client
            .batch_execute(&format!(
                "SET citus.override_table_visibility = off; SET citus.enable_manual_changes_to_shards = on;
                 BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
                placement.table
            ))
            .expect("a lock");
        gate.open();
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity
              WHERE application_name = 'citus-fence' AND wait_event_type = 'Lock'";
        wait_for_sql(&mut cluster.connect(placement.node)?, waits, PATIENCE)?;
        forget(&cluster)?;
        client.batch_execute("COMMIT").expect("the lock's end");
        running.ended()?.expect(0).complains_of(&["again, with a new session"]);
        let manifest = manifest(&dir);
        let files = manifest["files"].as_array().expect("files").iter();
        let rows: i64 = files.filter_map(|file| file["rows"].as_i64()).sum();
        assert_eq!(rows, 40);
        Ok(())
    });
}

#[test]
fn a_restore_outlives_links_that_forget() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        for statement in [
            "CREATE FUNCTION waits(a int) RETURNS bool LANGUAGE plpgsql AS \
             $$BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN true; END$$",
            "CREATE TABLE slow (id int CHECK (waits(id)))",
            "INSERT INTO slow SELECT generate_series(1, 10)",
        ] {
            source.coordinator().execute(statement)?;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        drop(source);

        let target = create(engine)?;
        let mut client = target.connect(0)?;
        client.batch_execute("SELECT pg_advisory_lock(77)").expect("a lock");
        let running = start(&mut restore_command(target.catalog_port(0), &dir, &["-v"]));
        let waits = "SELECT count(*) > 0 FROM pg_locks
              WHERE locktype = 'advisory' AND objid = 77 AND NOT granted";
        wait_for_sql(&mut target.connect(0)?, waits, PATIENCE)?;
        forget(&target)?;
        client.batch_execute("SELECT pg_advisory_unlock(77)").expect("the lock's end");
        running.ended()?.expect(0).complains_of(&["again, with a new session"]);
        assert_eq!(target.coordinator().query_value("SELECT count(*) FROM slow")?, "10");
        Ok(())
    });
}
