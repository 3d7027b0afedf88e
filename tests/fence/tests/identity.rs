//! Sessions know who answered, and a coordinator knows who it is: nothing is held on, or done to, another server
//! than the one that was meant.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use fence_tests::{
    BLOCK, Client, Cluster, Engine, Heard, Result, Server, UNBLOCK, call, left_behind,
    on_each_engine, prove_usable, refusal, words,
};
use test_cluster::WalMethod;
use test_cluster::postgres::error::DbError;

const READ_ONLY: &str = "SELECT citus_set_cluster_read_only()";
const READ_WRITE: &str = "SELECT citus_set_cluster_read_write()";

/// What touches the other nodes of the cluster.
const CALLS: [&str; 4] = [
    BLOCK,
    READ_ONLY,
    READ_WRITE,
    "SELECT public.citus_add_clone_node('127.0.0.1', 1, '127.0.0.1', 2)",
];

/// Message, detail and hint.
fn text(error: &DbError) -> String {
    let (detail, hint) = (error.detail().unwrap_or_default(), error.hint().unwrap_or_default());
    format!("{} | {detail} | {hint}", error.message())
}

/// The call is refused with 55000 and these words, and no node has a lock or a state from it.
fn expect_refusal(cluster: &Cluster, client: &mut Client, sql: &str, words: &[&str]) -> Result<()> {
    let error = refusal(client, sql);
    let text = text(&error);
    assert_eq!(error.code().code(), "55000", "{sql}: {text}");
    for word in words {
        assert!(text.contains(word), "{sql}: {text} lacks {word}");
    }
    assert!(error.hint().is_some(), "{sql}: no hint: {text}");
    fence_tests::wait_until_free(cluster, std::time::Duration::from_secs(5))?;
    for node in cluster.nodes() {
        let state = node.query_value("SELECT state FROM citus_fence.node_gate()")?;
        assert_eq!(state, "read-write", "{} after {sql}", node.name());
    }
    Ok(())
}

/// Something at another loopback address that leads to a server on 127.0.0.1; to the end of the process.
fn lead(from: &str, port: u16, to: u16) {
    let listener = TcpListener::bind((from, port)).expect("a port at another address");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) =
                    (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

/// In `citus.node_conninfo` the host is the name that certificates are for: as in Citus, the node's own name is
/// dialled.  Here that name leads to another node with the same port: a worker, or the coordinator.
#[test]
fn a_name_for_certificates_is_not_dialled() {
    on_each_engine(|engine: Engine| {
        for other in [2, 0] {
            let cluster = Cluster::builder(engine)
                .workers(2)
                .node_setting(0, "citus.node_conninfo", "sslmode=prefer host=localhost")
                .build()?;
            let port = cluster.node(other).port();
            lead("127.0.0.2", port, cluster.worker(1).port());
            cluster.execute_everywhere(&format!(
                "UPDATE pg_dist_node SET nodename = '127.0.0.2', nodeport = {port} WHERE groupid = 1"
            ))?;
            // Looks at every node for the locks.
            prove_usable(&cluster)?;
            let mut client = cluster.connect(0)?;
            client.batch_execute(READ_ONLY).expect(READ_ONLY);
            for node in cluster.nodes() {
                let state = node.query_value("SELECT state FROM citus_fence.node_gate()")?;
                assert_eq!(state, "read-only", "{}", node.name());
            }
            client.batch_execute(READ_WRITE).expect(READ_WRITE);
        }
        Ok(())
    });
}

/// A pooler's address, a stale or wrong one, that leads to another node of the cluster.
#[test]
fn another_node_than_was_meant_is_told_by_its_group() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        let meant = format!("127.0.0.1:{}", cluster.worker(1).port());
        for (group, other) in [("of group 2", 2), ("of group 0", 0)] {
            client
                .batch_execute(&format!(
                    "DELETE FROM pg_dist_poolinfo; INSERT INTO pg_dist_poolinfo \
                     SELECT nodeid, 'host=127.0.0.1 port={}' FROM pg_dist_node WHERE groupid = 1",
                    cluster.node(other).port()
                ))
                .expect("a pooler");
            for sql in [BLOCK, READ_ONLY] {
                expect_refusal(&cluster, &mut client, sql, &[&meant, "of group 1", group])?;
            }
        }
        // One without metadata does not know its group; that it is another node's server shows all the same.
        client
            .batch_execute("UPDATE pg_dist_node SET hasmetadata = false, metadatasynced = false WHERE groupid = 1")
            .expect("a node without metadata");
        let coordinator = format!("127.0.0.1:{}", cluster.coordinator().port());
        for sql in [BLOCK, READ_ONLY] {
            let words = [meant.as_str(), &coordinator, "one and the same server"];
            expect_refusal(&cluster, &mut client, sql, &words)?;
        }
        client.batch_execute("DELETE FROM pg_dist_poolinfo").expect("no pooler");
        prove_usable(&cluster)
    });
}

/// A worker with older files: its version is told, and not what fails because of it.
#[test]
fn another_version_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        if engine == Engine::Citus {
            cluster.worker(1).execute("ALTER SYSTEM SET citus.enable_ddl_propagation = off")?;
            cluster.worker(1).reload()?;
        }
        cluster
            .worker(1)
            .execute("DROP EXTENSION citus_fence; CREATE EXTENSION citus_fence VERSION '0.1.0'")?;
        let mut client = cluster.connect(0)?;
        let place = format!("127.0.0.1:{}", cluster.worker(1).port());
        for sql in [
            BLOCK,
            "SET citus_fence.block_mode = 'all'; SELECT citus_block_writes_for_backup()",
            READ_ONLY,
        ] {
            expect_refusal(&cluster, &mut client, sql, &[&place, "0.1.0", "UPDATE TO"])?;
        }
        // Nobody is kept from opening nodes: they have to write before they can be upgraded.
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        cluster.worker(1).execute("ALTER EXTENSION citus_fence UPDATE")?;
        client.batch_execute("RESET citus_fence.block_mode").expect("a setting");
        prove_usable(&cluster)
    });
}

/// A copy of the coordinator has the addresses of production's nodes.
#[test]
fn a_copy_of_the_coordinator_does_nothing_to_the_nodes() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let target = cluster.copy_target("copy", 0)?;
        cluster.coordinator().base_backup(&target, WalMethod::Stream)?;
        let mut builder = Server::builder("copy").setting("citus.node_conninfo", "sslmode=prefer");
        if engine == Engine::Citus {
            builder = builder.preload("citus").setting("citus.recover_2pc_interval", "-1");
        }
        let copy = builder.preload("citus_fence").start_copy(&target)?;
        let mut there = copy.connect()?;
        let place = format!("127.0.0.1:{}", cluster.coordinator().port());
        for sql in CALLS {
            expect_refusal(&cluster, &mut there, sql, &["not the coordinator", &place, "copy"])?;
        }
        // Nor is its own state shown as that of the server at that address.
        copy.execute("SELECT alter_system_read_only()")?;
        let status = "SELECT * FROM citus_cluster_read_only_status()";
        expect_refusal(&cluster, &mut there, status, &["not the coordinator", &place, "copy"])?;
        copy.execute("SELECT alter_system_read_write()")?;
        // Nor if its own row is gone, or leads nowhere: the workers know another coordinator.
        let to = |sql: &str| copy.execute(sql);
        to("UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = 0")?;
        expect_refusal(&cluster, &mut there, BLOCK, &["not the coordinator", "has found"])?;
        to("DELETE FROM pg_dist_node WHERE groupid = 0")?;
        expect_refusal(&cluster, &mut there, READ_ONLY, &["not the coordinator", "has found"])?;

        // What is read-only stays so, whatever a copy is told.
        let mut client = cluster.connect(0)?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        assert_eq!(refusal(&mut there, READ_WRITE).code().code(), "55000");
        for node in cluster.nodes() {
            let state = node.query_value("SELECT state FROM citus_fence.node_gate()")?;
            assert_eq!(state, "read-only", "{}", node.name());
        }
        client.batch_execute(READ_WRITE).expect(READ_WRITE);

        // The control: as a cluster of its own it may.  No other node is left in its catalog.
        to("DELETE FROM pg_dist_node")?;
        assert!(call(&mut there, BLOCK));
        assert_eq!(left_behind(cluster.worker(1))?, 0);
        assert!(call(&mut there, UNBLOCK));
        prove_usable(&cluster)
    });
}

/// A coordinator whose own row is of no use to it is proved by its workers, and else told how to mend it.
#[test]
fn a_coordinator_that_cannot_dial_itself_asks_a_worker() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let mut client = cluster.connect(0)?;
        let coordinator = cluster.coordinator();
        let port = coordinator.port();
        coordinator.execute("UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = 0")?;
        prove_usable(&cluster)?;
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        client.batch_execute(READ_WRITE).expect(READ_WRITE);

        cluster.execute_everywhere("UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = 0")?;
        let mend = format!("citus_set_coordinator_host('host name or address', {port})");
        for sql in CALLS {
            expect_refusal(&cluster, &mut client, sql, &["cannot find out", &mend, "127.0.0.1:1"])?;
        }
        cluster.execute_everywhere(&format!(
            "UPDATE pg_dist_node SET nodeport = {port} WHERE groupid = 0"
        ))?;
        prove_usable(&cluster)
    });
}

/// What is set for the role, the database or a server makes no other sessions of the extension's own.
#[test]
fn nothing_that_is_set_for_the_owner_makes_other_sessions() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let own =
            if engine == Engine::Citus { "SET citus.enable_ddl_propagation = off; " } else { "" };
        cluster.execute_everywhere(&format!(
            "{own}CREATE ROLE nobody LOGIN; ALTER ROLE postgres SET quote_all_identifiers = on; \
             ALTER ROLE postgres SET search_path = nowhere; ALTER ROLE postgres SET role = 'nobody'"
        ))?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET ROLE NONE").expect("the owner");
        for call in [
            READ_ONLY,
            READ_WRITE,
            "SELECT citus_backup_block_start(60000, 'all')",
            "SELECT citus_unblock_writes_for_backup()",
            "SELECT citus_export_cluster_snapshot(mode => 'all')",
            "SELECT citus_release_cluster_snapshot(export_id) FROM citus_cluster_snapshot_status()",
        ] {
            let call = call.replace("SELECT citus", "SELECT public.citus");
            let call = call.replace("FROM citus", "FROM public.citus");
            client.batch_execute(&call).unwrap_or_else(|error| panic!("{call}: {}", words(&error)));
        }
        let states = "SELECT DISTINCT state FROM public.citus_cluster_read_only_status()";
        let state: String = client.query_one(states, &[]).expect("one state").get(0);
        assert_eq!(state, "read-write");
        Ok(())
    });
}

/// An error of the server's own is told as the server told it, wherever traces are wanted of programs.
#[test]
fn no_error_has_a_trace_for_its_detail() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(1)
            .environment("RUST_BACKTRACE", "1")
            .environment("RUST_LIB_BACKTRACE", "1")
            .build()?;
        let mut in_the_way = cluster.connect(0)?;
        in_the_way.batch_execute("BEGIN; CREATE TABLE own (n int)").expect("a writer");
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET statement_timeout = '500ms'").expect("a setting");
        let error = refusal(&mut client, "SELECT alter_system_read_only(false)");
        assert_eq!(error.code().code(), "57014", "{error:?}");
        assert_eq!(error.detail(), None);
        Ok(())
    });
}

/// What the servers were started with stays with them.
#[test]
fn nothing_of_the_servers_environment_reaches_a_session() {
    on_each_engine(|engine: Engine| {
        let mut builder = Cluster::builder(engine)
            .workers(2)
            .environment("PGAPPNAME", "prod")
            .environment("PGTZ", "Asia/Tokyo")
            .environment("PGDATESTYLE", "German");
        if engine == Engine::Embedded {
            // Citus' own connections would have it, too.
            builder = builder
                .environment("PGSERVICE", "nowhere")
                .environment("PGOPTIONS", "-c default_transaction_read_only=on");
        }
        let cluster = builder.build()?;
        // One that a crash has left, which the switch has to finish: it is waited for by no session of its own.
        cluster.worker(1).execute("CREATE TABLE own (n int)")?;
        cluster.worker(1).execute(
            "SET application_name = 'citus_internal gpid=10000004242'; BEGIN; \
             INSERT INTO own VALUES (1); PREPARE TRANSACTION 'citus_0_4242_7_0'",
        )?;
        let mut client = cluster.connect(0)?;
        let asked = std::time::Instant::now();
        client.batch_execute(READ_ONLY).expect(READ_ONLY);
        assert!(asked.elapsed().as_secs() < 10, "{:?}", asked.elapsed());
        client.batch_execute(READ_WRITE).expect(READ_WRITE);

        assert!(call(&mut client, BLOCK));
        let names = cluster.worker(1).query_value(
            "SELECT string_agg(DISTINCT application_name, ',') FROM pg_stat_activity \
              WHERE application_name LIKE 'citus_fence%' OR application_name = 'prod'",
        )?;
        assert_eq!(names, "citus_fence backup block");
        assert!(call(&mut client, UNBLOCK));
        Ok(())
    });
}

/// Packets to its own address are swallowed, as behind an address translation that does not turn around.
#[test]
fn a_coordinator_whose_own_address_is_silent_asks_a_worker() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).proxies(true).build()?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.connect_timeout = '3s'").expect("a setting");
        // The worker goes by an address of its own that answers.
        let port = cluster.coordinator().port();
        cluster
            .worker(1)
            .execute(&format!("UPDATE pg_dist_node SET nodeport = {port} WHERE groupid = 0"))?;
        cluster.link(0).freeze()?;
        assert!(call(&mut client, BLOCK));
        assert!(call(&mut client, UNBLOCK));
        cluster.link(0).heal()
    });
}

/// Its owner is who the extension acts as on every node.
#[test]
fn an_owner_who_is_no_superuser_any_more_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let everywhere = |sql: &str| match engine {
            // Citus takes it to the workers.
            Engine::Citus => cluster.coordinator().execute(sql),
            Engine::Embedded => cluster.execute_everywhere(sql),
        };
        everywhere("DROP EXTENSION citus_fence")?;
        everywhere("CREATE ROLE keeper LOGIN SUPERUSER")?;
        let create = "SET SESSION AUTHORIZATION keeper; CREATE EXTENSION citus_fence";
        everywhere(create)?;
        prove_usable(&cluster)?;
        let mut client = cluster.connect(0)?;
        let place = format!("127.0.0.1:{}", cluster.worker(1).port());
        let local = match engine {
            Engine::Citus => {
                "SET citus.enable_ddl_propagation = off; SET citus.enable_alter_role_propagation = off; "
            }
            Engine::Embedded => "",
        };
        for (node, named) in [(1, place.as_str()), (0, "this node")] {
            cluster.node(node).execute(&format!("{local}ALTER ROLE keeper NOSUPERUSER"))?;
            for sql in [BLOCK, READ_ONLY, READ_WRITE] {
                let error = refusal(&mut client, sql);
                let text = text(&error);
                assert_eq!(
                    error.code().code(),
                    if sql == READ_WRITE && node == 1 { "58000" } else { "42501" },
                    "{sql}: {text}"
                );
                for word in [named, "keeper", "not a superuser"] {
                    assert!(text.contains(word), "{sql}: {text} lacks {word}");
                }
            }
            cluster.node(node).execute(&format!("{local}ALTER ROLE keeper SUPERUSER"))?;
        }
        client.batch_execute(READ_WRITE).expect(READ_WRITE);
        prove_usable(&cluster)
    });
}

/// A block holds back one database; a copy of the servers has all of them in it.
#[test]
fn other_databases_with_citus_are_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(0).build()?;
        cluster.coordinator().execute("CREATE DATABASE second")?;
        cluster.coordinator().execute("CREATE DATABASE plain")?;
        let mut second = cluster.coordinator().connect_params().database("second").connect()?;
        let setup = format!(
            "CREATE EXTENSION {}; SELECT citus_set_coordinator_host('127.0.0.1', {}); \
             CREATE EXTENSION citus_fence",
            engine.catalog_extension(),
            cluster.coordinator().port()
        );
        second.batch_execute(&setup).expect("a second distributed database");
        let mut heard = Heard::on(&cluster, 0)?;
        let named = |heard: &Heard| {
            let said = heard.take();
            let notice = said.iter().find(|text| text.contains("in other databases"));
            notice.map(|text| (text.contains(": second ("), text.contains("plain")))
        };
        assert!(call(&mut heard.client, BLOCK));
        assert_eq!(named(&heard), Some((true, false)));
        assert!(call(&mut heard.client, UNBLOCK));
        // With a block of its own it is no news.
        assert!(call(&mut second, BLOCK));
        assert!(call(&mut heard.client, BLOCK));
        assert_eq!(named(&heard), None);
        assert!(call(&mut heard.client, UNBLOCK));
        assert!(call(&mut second, UNBLOCK));
        Ok(())
    });
}
