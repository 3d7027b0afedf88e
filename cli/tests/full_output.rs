//! A standard output that takes nothing: what was done is done, and its end says so.

mod common;

use std::fs::{File, OpenOptions};

use common::backup::{backup, restore_all};
use common::restored::restore_command;
use common::{command, dump_command, run};
use fence_tests::{Cluster, on_each_engine};
use test_cluster::{HOST, SUPERUSER};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("/dev/full")
}

#[test]
fn a_dump_and_a_restore_that_nobody_hears_of_are_whole() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS id")?;
        let folder = tempfile::tempdir().expect("a folder");
        for (name, words) in [("text", &[][..]), ("json", &["--json"])] {
            let dir = folder.path().join(name);
            let said = ["it is done, but", "standard output", "No space left on device"];
            let ended = run(dump_command(coordinator.port(), &dir, words).stdout(full())).expect(3);
            ended.complains_of(&said);
            assert_eq!(fence_command::verify_dump(&dir).expect("a dump").damaged, [""; 0]);
            cluster.execute_everywhere("DROP TABLE IF EXISTS t")?;
            let words = [words, &["--into-non-empty"]].concat();
            let ended = run(restore_command(coordinator.port(), &dir, &words).stdout(full()));
            ended.expect(3).complains_of(&said);
            assert_eq!(coordinator.query_value("SELECT count(*) FROM t")?, "10");
        }
        // The control: --quiet has nothing to say.
        let dir = folder.path().join("quiet");
        run(dump_command(coordinator.port(), &dir, &["--quiet"]).stdout(full())).expect(0);
        Ok(())
    });
}

#[test]
fn a_backup_s_restore_that_nobody_hears_of_is_whole() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).fsync(false).build()?;
        cluster.coordinator().execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS id")?;
        let dir = backup(&cluster, "full")?;
        let places = cluster.places()?;
        let said = ["it is done, but", "No space left on device"];
        run(restore_all(&dir, &places, &[]).stdout(full())).expect(3).complains_of(&said);
        places.configure()?;
        places.start()?;
        let port = places.nodes()[0].port().to_string();
        let words =
            ["restore", "finish", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"];
        run(command(&words).stdout(full())).expect(3).complains_of(&said);
        let restored = places.into_cluster();
        assert_eq!(restored.coordinator().query_value("SELECT count(*) FROM t")?, "10");
        Ok(())
    });
}
