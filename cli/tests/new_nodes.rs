//! Nodes that have never had metadata, and so take themselves for the coordinator of nobody: in a backup, a restore and a
//! dump as others are; and those that were never activated, which are left out and named. Only Citus has either.

mod common;

use common::backup::{as_servers_user, backup, check, finish, manifest, restore_all};
use common::{dump_command, run};
use fence_tests::on_each_engine;
use test_cluster::{Cluster, Engine, HOST, Installation, Result, SUPERUSER, StopMode};

/// Adds a server, once with nothing but its address.
fn add(cluster: &Cluster, port: u16, how: &str) -> Result<()> {
    cluster
        .coordinator()
        .execute(&format!("SET citus.enable_metadata_sync = off; SELECT {how}('{HOST}', {port})"))
}

#[test]
fn a_node_without_metadata_is_a_node() {
    on_each_engine(|engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let coordinator = cluster.coordinator();
        cluster.create_distributed("CREATE TABLE t (k bigint PRIMARY KEY)", "t", "k", 4)?;
        coordinator.execute("INSERT INTO t SELECT generate_series(1, 100)")?;
        // The last worker leaves, forgets all, and comes again without metadata.
        let port = cluster.catalog_port(2);
        coordinator.execute(&format!("SELECT citus_drain_node('{HOST}', {port})"))?;
        coordinator.execute("CALL citus_cleanup_orphaned_resources()")?;
        coordinator.execute(&format!("SELECT citus_remove_node('{HOST}', {port})"))?;
        cluster.worker(2).execute(
            "SET citus.enable_ddl_propagation = off; UPDATE pg_dist_local_group SET groupid = 0; DELETE FROM pg_dist_node",
        )?;
        add(&cluster, port, "citus_add_node")?;
        let group = coordinator.query_value(&format!(
            "SELECT groupid FROM pg_dist_node WHERE nodeport = {port} AND isactive AND NOT hasmetadata"
        ))?;
        let folder = tempfile::tempdir().expect("a folder");
        run(&mut dump_command(coordinator.port(), &folder.path().join("dump"), &[])).expect(0);

        let dir = backup(&cluster, "new")?;
        let places = cluster.places()?;
        // Its group is not its number any more.
        let all: Vec<String> = restore_all(&dir, &places, &[])
            .get_args()
            .map(|word| word.to_string_lossy().replace("2=", &format!("{group}=")))
            .collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        run(&mut as_servers_user(&all)).expect(0);
        places.configure()?;
        // In another's place it is known by what the restore has written down.
        let swap = |first: usize, second: usize| -> Result<()> {
            let port = |node: usize| places.nodes()[node].port().to_string();
            places.nodes()[1].set_while_stopped("port", &port(first))?;
            places.nodes()[2].set_while_stopped("port", &port(second))
        };
        swap(2, 1)?;
        places.start()?;
        finish(places.nodes()[0].port(), &[])
            .expect(1)
            .complains_of(&["nothing has been decided", &format!("answers group {group}")]);
        for node in places.nodes() {
            node.stop(StopMode::Fast)?;
        }
        swap(1, 2)?;
        places.start()?;
        finish(places.nodes()[0].port(), &[]).expect(3);
        // What is behind in production is in the copies, too, and named.
        let behind = check(places.nodes()[0].port(), &[]).expect(3);
        assert!(behind.out.contains("start_metadata_sync_to_all_nodes"), "{behind:?}");
        assert_eq!(places.nodes()[0].query_value("SELECT count(*) FROM t")?, "100");
        Ok(())
    });
}

#[test]
fn a_node_that_was_never_activated_is_left_out_and_named() {
    on_each_engine(|engine| {
        if engine != Engine::Citus {
            return Ok(());
        }
        let cluster = Cluster::builder(engine)
            .workers(1)
            .setting("archive_mode", "on")
            .setting("archive_command", "test -n %f")
            .build()?;
        let spare = cluster.start_spare("spare")?;
        add(&cluster, spare.port(), "citus_add_inactive_node")?;
        let port = cluster.coordinator().port().to_string();
        let bindir = Installation::current()?.bindir().display().to_string();
        let dir = cluster.copy_target("inactive", 0)?.with_file_name("backup");
        let call = |words: &[&str]| {
            let mut command = as_servers_user(&words[..1]);
            command.args(["-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
            run(command.args(&words[1..]))
        };
        let done = call(&["backup", "--bindir", &bindir, &dir.display().to_string()]).expect(3);
        let name = format!("{HOST}:{}", spare.port());
        assert!(done.out.contains("no copy of group") && done.out.contains(&name), "{done:?}");
        assert_eq!(manifest(&dir)["nodes"].as_array().map(Vec::len), Some(2));
        call(&["restore-point", "nightly"]).expect(3);
        let folder = tempfile::tempdir().expect("a folder");
        run(&mut dump_command(cluster.coordinator().port(), &folder.path().join("dump"), &[]))
            .expect(0);
        Ok(())
    });
}
