//! The other databases of the servers that are restored: clusters that number the same nodes in another way or have
//! another coordinator, one that takes no connections, and what an interrupted DROP DATABASE has left.

mod common;

use common::backup::{Listeners, as_servers_user, backup, finish, restore_all};
use common::{command, run, second_cluster};
use fence_tests::on_each_engine;
use test_cluster::postgres::Client;
use test_cluster::{
    Cluster, HOST, Installation, PATIENCE, PortLease, Result, SUPERUSER, Server, StopMode,
    give_tree_to_server_user, wait_until,
};

/// Makes a cluster of its own out of the same servers: the first is its coordinator, the others come in this order.
fn cluster_in(cluster: &Cluster, database: &str, order: &[usize]) -> Result<Client> {
    for node in cluster.nodes() {
        node.execute(&format!("CREATE DATABASE {database}"))?;
        let catalog = cluster.engine().catalog_extension();
        let create = format!("CREATE EXTENSION {catalog}");
        inside(node, database)?.batch_execute(&create).expect("the catalog");
    }
    let (first, others) = order.split_first().expect("a coordinator");
    let mut client = inside(cluster.node(*first), database)?;
    let own = cluster.node(*first).port();
    let calls = others
        .iter()
        .map(|node| format!("SELECT citus_add_node('{HOST}', {});", cluster.node(*node).port()));
    let calls: String = calls.collect();
    client
        .batch_execute(&format!("SELECT citus_set_coordinator_host('{HOST}', {own}); {calls}"))
        .expect("a cluster");
    Ok(client)
}

fn inside(node: &Server, database: &str) -> Result<Client> {
    node.connect_params().database(database).connect()
}

/// Leaves two of the coordinator's commits prepared on a node, one of which it has committed.
fn leave_prepared(coordinator: &mut Client, node: &Server, database: &str) -> Result<()> {
    let mut there = inside(node, database)?;
    there.batch_execute("CREATE TABLE marks (mark int)").expect("a table");
    for mark in [1, 2] {
        let prepare = format!(
            "BEGIN; INSERT INTO marks VALUES ({mark}); PREPARE TRANSACTION 'citus_0_4000001_{mark}_1';"
        );
        there.batch_execute(&prepare).expect("a prepared transaction");
    }
    let record = format!(
        "INSERT INTO pg_dist_transaction (groupid, gid)
         SELECT groupid, 'citus_0_4000001_1_1' FROM pg_dist_node WHERE nodeport = {}",
        node.port()
    );
    coordinator.batch_execute(&record).expect("a record");
    Ok(())
}

/// That the one is committed, and the other not.
fn must_be_decided(node: &Server, database: &str) -> Result<()> {
    let marks = inside(node, database)?.query_one("SELECT array_agg(mark)::text FROM marks", &[]);
    assert_eq!(marks.expect("rows").get::<_, String>(0), "{1}", "in {database}");
    Ok(())
}

fn ports_in(node: &Server, database: &str) -> Result<Vec<i32>> {
    let rows = inside(node, database)?.query("SELECT nodeport FROM pg_dist_node ORDER BY 1", &[]);
    Ok(rows.expect("rows").iter().map(|row| row.get(0)).collect())
}

fn patient(engine: test_cluster::Engine, workers: usize) -> Result<Cluster> {
    Cluster::builder(engine).workers(workers).setting("citus.recover_2pc_interval", "1h").build()
}

/// A backup under the block of one database alone.
fn backup_of_one(cluster: &Cluster, round: &str) -> Result<std::path::PathBuf> {
    let dir = cluster.copy_target(round, 0)?.with_file_name("backup");
    let bindir = Installation::current()?.bindir().display().to_string();
    let port = cluster.coordinator().port().to_string();
    let mut taking = as_servers_user(&["backup", "-h", HOST, "-p", &port, "-U", SUPERUSER]);
    taking.args(["-d", cluster.database(), "--bindir", &bindir, "--only-this-database"]);
    run(taking.arg(&dir)).expect(0);
    Ok(dir)
}

#[test]
fn databases_that_number_the_nodes_in_their_own_way_come_back() {
    on_each_engine(|engine| {
        let cluster = patient(engine, 2)?;
        let mut turned = cluster_in(&cluster, "turned", &[0, 2, 1])?;
        let mut aside = cluster_in(&cluster, "aside", &[1, 0])?;
        // The control: the number of a node is another one there.
        let number = "SELECT groupid FROM pg_dist_local_group";
        let other = |database| -> Result<i32> {
            let row = inside(cluster.worker(1), database)?.query_one(number, &[]);
            Ok(row.expect("a row").get(0))
        };
        assert_eq!((other("turned")?, other("aside")?), (2, 0));
        leave_prepared(&mut turned, cluster.worker(1), "turned")?;
        leave_prepared(&mut aside, cluster.coordinator(), "aside")?;

        let dir = backup_of_one(&cluster, "numbers")?;
        drop((turned, aside));

        let places = cluster.places()?;
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        // Nothing more is changed by going on with what is done.
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let mut ports: Vec<i32> =
            restored.nodes().iter().map(|node| i32::from(node.port())).collect();
        for (database, count) in [("turned", 3), ("aside", 2)] {
            let mut wanted = ports[..count].to_vec();
            wanted.sort_unstable();
            for node in &restored.nodes()[..count] {
                assert_eq!(ports_in(node, database)?, wanted, "in {database}");
            }
        }
        ports.sort_unstable();
        let done = finish(restored.coordinator().port(), &[]).expect(3);
        assert!(
            done.out.contains("look: databases: ") && done.out.contains("\"aside\""),
            "{done:?}"
        );
        assert_eq!(done.out.matches("look:").count(), 1, "{done:?}");
        must_be_decided(restored.worker(1), "turned")?;
        let port = restored.worker(1).port().to_string();
        let words = ["restore", "finish", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "aside"];
        let done = run(&mut command(&words)).expect(3);
        assert!(
            done.out.contains("\"turned\"") && done.out.contains("in database aside\n"),
            "{done:?}"
        );
        must_be_decided(restored.coordinator(), "aside")?;
        Ok(())
    });
}

#[test]
fn a_database_that_takes_no_connections_leads_to_the_copies_and_an_invalid_one_is_in_nobodys_way() {
    on_each_engine(|engine| {
        let cluster = patient(engine, 1)?;
        let mut second = second_cluster(&cluster, true)?;
        leave_prepared(&mut second, cluster.worker(1), "second")?;
        drop(second);
        for node in cluster.nodes() {
            node.execute("ALTER DATABASE second ALLOW_CONNECTIONS false")?;
            node.execute("CREATE DATABASE broken")?;
            node.execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken'")?;
            // The control.
            for database in ["second", "broken"] {
                assert!(inside(node, database).is_err(), "{database} takes connections");
            }
        }
        let dir = backup(&cluster, "closed")?;
        let places = cluster.places()?;
        let said = run(&mut restore_all(&dir, &places, &[])).expect(0).out;
        assert_eq!(said.matches("\"second\" takes no connections, as before").count(), 2, "{said}");
        assert_eq!(
            said.matches("\"broken\" is what an interrupted DROP DATABASE").count(),
            2,
            "{said}"
        );
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        let port = restored.coordinator().port();
        finish(port, &[]).expect(0);
        let mut ports: Vec<i32> =
            restored.nodes().iter().map(|node| i32::from(node.port())).collect();
        ports.sort_unstable();
        for node in restored.nodes() {
            assert!(inside(node, "second").is_err(), "it is as it was");
            node.execute("ALTER DATABASE second ALLOW_CONNECTIONS true")?;
        }
        for node in restored.nodes() {
            assert_eq!(ports_in(node, "second")?, ports, "production's are in it");
        }
        finish(port, &[]).expect(0);
        must_be_decided(restored.worker(1), "second")
    });
}

/// A block is refused while a clone split is under way in its database; in another one it may be, and a registered clone may
/// be in any.
#[test]
fn a_copy_does_not_go_on_with_a_clone_split_at_productions_replica() {
    on_each_engine(|engine| {
        let cluster = patient(engine, 1)?;
        let lease = PortLease::take()?;
        let replica = lease.port();
        let listeners = Listeners::at([replica]);
        let register = |client: &mut Client, step: &str| {
            let row = format!(
                "INSERT INTO citus_fence.clone (clone_nodeid, nodename, nodeport, source_nodeid, step, token)
                 SELECT 77, '{HOST}', {replica}, nodeid, '{step}', 'abcdefghijklmnop' FROM pg_dist_node WHERE groupid <> 0"
            );
            client.batch_execute(&row).expect("a row");
        };
        register(&mut cluster.connect(0)?, "registered");
        let mut second = second_cluster(&cluster, true)?;
        register(&mut second, "near");
        drop(second);
        // As a split leaves it for the next start.
        let hint = cluster.coordinator().data_dir().join("citus_fence.clone_splits");
        std::fs::write(&hint, "").expect("a file");
        give_tree_to_server_user(&hint)?;
        let dir = backup_of_one(&cluster, "split")?;
        // The control: whoever starts with that goes there.
        cluster.coordinator().stop(StopMode::Fast)?;
        cluster.coordinator().start()?;
        wait_until("a connection", PATIENCE, || (listeners.connections() > 0).then_some(()))?;
        for node in cluster.nodes() {
            node.stop(StopMode::Fast)?;
        }
        listeners.connections();

        let places = cluster.places()?;
        let said = run(&mut restore_all(&dir, &places, &[])).expect(0).out;
        // The copy's own look is over when it has found nothing more to look for.
        let hint = places.nodes()[0].data_dir().join("citus_fence.clone_splits");
        assert!(hint.exists(), "the copy would not look at all");
        places.configure()?;
        places.start()?;
        let mut came = 0;
        wait_until("the look for splits", PATIENCE, || {
            came += listeners.connections();
            (came > 0 || !hint.exists()).then_some(())
        })?;
        assert_eq!(came, 0, "a copy has come to production's replica");
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        assert_eq!(listeners.connections(), 0, "a copy has come to production's replica");
        for step in ["registered", "near"] {
            assert!(said.contains(&format!("{replica} (step {step}) is none any more")), "{said}");
        }
        Ok(())
    });
}
