//! A node that was disabled and is gone: backup, restore point and restore do without it, and say so.

mod common;

use common::backup::{as_servers_user, finish, manifest};
use common::run;
use fence_tests::on_each_engine;
use test_cluster::{Cluster, Engine, HOST, Installation, Result, SUPERUSER, StopMode};

/// Disables the last worker and stops it, and stops it without that for the control.
fn lose_last_worker(cluster: &Cluster, disable: bool) -> Result<()> {
    let coordinator = cluster.coordinator();
    if disable {
        coordinator.execute(&match cluster.engine() {
            Engine::Citus => format!(
                "SELECT citus_disable_node('{HOST}', {}, synchronous => true)",
                cluster.catalog_port(2)
            ),
            Engine::Embedded => "UPDATE pg_dist_node SET isactive = false WHERE groupid = 2".into(),
        })?;
        if cluster.engine() == Engine::Embedded {
            cluster
                .worker(1)
                .execute("UPDATE pg_dist_node SET isactive = false WHERE groupid = 2")?;
        }
    }
    cluster.worker(2).stop(StopMode::Fast)
}

#[test]
fn a_disabled_node_that_is_gone_is_done_without_and_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("archive_mode", "on")
            .setting("archive_command", "test -n %f")
            .build()?;
        let bindir = Installation::current()?.bindir().display().to_string();
        let port = cluster.coordinator().port().to_string();
        let call = |words: &[&str]| {
            let mut command = as_servers_user(&words[..1]);
            command.args(["-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
            run(command.args(&words[1..]))
        };
        let dir = cluster.copy_target("without", 0)?.with_file_name("backup");
        let place = dir.display().to_string();
        let gone = format!("{HOST}:{}", cluster.catalog_port(2));

        // The control: one that the cluster works with is not done without.
        lose_last_worker(&cluster, false)?;
        call(&["backup", "--bindir", &bindir, &place]).expect(1).complains_of(&[&gone]);
        assert!(!dir.exists());
        cluster.worker(2).start()?;

        lose_last_worker(&cluster, true)?;
        let done = call(&["backup", "--bindir", &bindir, &place]).expect(3);
        assert!(done.out.contains("no copy of group 2") && done.out.contains(&gone), "{done:?}");
        let kept = manifest(&dir);
        assert_eq!(kept["nodes"].as_array().map(Vec::len), Some(2), "{kept}");
        assert_eq!(kept["missing"][0]["groupid"], 2, "{kept}");
        let point = call(&["restore-point", "nightly"]).expect(3);
        assert!(point.out.contains("on 2 nodes") && point.out.contains(&gone), "{point:?}");

        let places = cluster.places()?.first(2);
        let mut restore = as_servers_user(&["restore", "all", "--bindir", &bindir, &place]);
        for (group, node) in places.nodes().iter().enumerate() {
            let data = node.data_dir();
            restore.arg("--to").arg(format!("{group}={HOST}:{},{}", node.port(), data.display()));
        }
        let restored = run(&mut restore).expect(3);
        assert!(restored.out.contains("node 2 is not restored"), "{restored:?}");
        places.configure()?;
        places.start()?;
        finish(places.nodes()[0].port(), &[]).expect(0);
        Ok(())
    });
}
