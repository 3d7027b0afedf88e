//! `citus-fence restore-point`: it is in every archive, or the command says in which it is not.

mod common;

use common::{Ended, command, run};
use fence_tests::on_each_engine;
use test_cluster::{Cluster, HOST, SUPERUSER};

fn point(cluster: &Cluster, more: &[&str]) -> Ended {
    let port = cluster.coordinator().port().to_string();
    let mut point = command(&["restore-point", "-h", HOST, "-p", &port]);
    run(point.args(["-U", SUPERUSER, "-d", "postgres"]).args(more))
}

#[test]
fn the_point_is_in_every_archive_of_an_idle_cluster() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .setting("archive_mode", "on")
            .setting("archive_command", "test -n %f")
            .build()?;
        let ended = point(&cluster, &["nightly", "--json"]).expect(0);
        let made: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        assert!(made["name"].as_str().is_some_and(|name| name.starts_with("nightly-2")), "{made}");
        assert_eq!(made["nodes"].as_array().map(Vec::len), Some(2));
        for (index, node) in made["nodes"].as_array().into_iter().flatten().enumerate() {
            let mut client = cluster.connect(index)?;
            let row = client
                .query_one("SELECT last_archived_wal FROM pg_stat_archiver", &[])
                .expect("a row");
            let archived: String = row.get(0);
            assert!(
                archived.as_str() >= node["segment"].as_str().expect("a segment"),
                "{made} {archived}"
            );
        }
        point(&cluster, &["--exact-name", &"x".repeat(64)]).expect(2);

        // A node whose archive takes nothing is named, and the block is over all the same.
        cluster.worker(1).alter_system("archive_command", "false")?;
        cluster.worker(1).reload()?;
        let worker = format!("{HOST}:{}", cluster.catalog_port(1));
        point(&cluster, &["late", "--archived-within", "1s"]).expect(1).complains_of(&[
            "late-2",
            &worker,
            "archive_command",
        ]);
        let mut client = cluster.connect(0)?;
        let state = client
            .query_one("SELECT state FROM citus_backup_block_status()", &[])
            .expect("a state");
        assert_eq!(state.get::<_, String>(0), "inactive");
        Ok(())
    });
}

#[test]
fn a_node_that_does_not_archive_is_named_before_anything_is_done() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "archive_mode", "on")
            .node_setting(0, "archive_command", "test -n %f")
            .build()?;
        let worker = format!("{HOST}:{}", cluster.catalog_port(1));
        point(&cluster, &["nightly"]).expect(1).complains_of(&[
            &worker,
            "archive_mode is off",
            "Nothing was done",
        ]);
        // One that keeps its WAL until somebody gives it a command again would be late for ever.
        cluster.coordinator().alter_system("archive_command", "")?;
        point(&cluster, &["nightly"])
            .expect(1)
            .complains_of(&["archive_command is empty", "Nothing was done"]);
        let mut client = cluster.connect(0)?;
        let state = client
            .query_one("SELECT state, block_id FROM citus_backup_block_status()", &[])
            .expect("a state");
        assert_eq!(state.get::<_, Option<i64>>(1), None);
        Ok(())
    });
}
