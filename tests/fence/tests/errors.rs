//! Bad surroundings: each has an error of its own that says what to do.

use fence_tests::{
    BLOCK, Cluster, Engine, Heard, UNBLOCK, call, on_each_engine, prove_usable, refusal, state,
};
use test_cluster::Installation;
use test_cluster::postgres::error::DbError;

/// Begins a block, and does not wait long for what passes by itself.
const SHORT_BLOCK: &str =
    "SET citus_fence.acquire_timeout = '2s'; SELECT citus_block_writes_for_backup()";

/// SQLSTATE, and words that message, detail or hint must have.
fn expect(error: &DbError, sqlstate: &str, words: &[&str]) {
    let text = format!(
        "{} | {} | {}",
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    );
    assert_eq!(error.code().code(), sqlstate, "{text}");
    for word in words {
        assert!(text.contains(word), "{text} lacks {word}");
    }
    assert!(error.hint().is_some(), "no hint: {text}");
    assert!(!error.message().ends_with('.'), "{text}");
    assert!(error.message().chars().next().is_some_and(|first| !first.is_uppercase()), "{text}");
}

#[test]
fn not_preloaded() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).without_fence_preload(0).build()?;
        let mut client = cluster.connect(0)?;
        for sql in [
            BLOCK,
            UNBLOCK,
            "SELECT * FROM citus_backup_block_status()",
            "SELECT * FROM citus_backup_block_nodes()",
            "SELECT * FROM citus_backup_block_waiters()",
            "SELECT citus_extend_backup_block(1000)",
            "SELECT * FROM citus_backup_restore_point('x')",
        ] {
            expect(
                &refusal(&mut client, sql),
                "55000",
                &["shared_preload_libraries", "after citus"],
            );
        }
        Ok(())
    });
}

#[test]
fn a_worker_without_the_preload_takes_part_in_a_block() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).without_fence_preload(2).build()?;
        prove_usable(&cluster)
    });
}

#[test]
fn a_database_without_a_catalog() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.coordinator().execute("CREATE DATABASE plain")?;
        let mut client = cluster.coordinator().connect_params().database("plain").connect()?;
        client.batch_execute("CREATE EXTENSION citus_fence").expect("the extension alone");
        expect(&refusal(&mut client, BLOCK), "55000", &["no Citus catalog", "pg_dist_"]);
        Ok(())
    });
}

#[test]
fn on_a_worker() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let place = format!("127.0.0.1:{}", cluster.coordinator().port());
        let mut client = cluster.connect(1)?;
        for sql in [BLOCK, UNBLOCK, "SELECT citus_extend_backup_block(1000)"] {
            expect(&refusal(&mut client, sql), "55000", &["not the coordinator", &place]);
        }
        // Nor is its status the cluster's, and it says so.
        let mut heard = Heard::on(&cluster, 1)?;
        assert_eq!(state(&mut heard.client), "inactive");
        let said = heard.take();
        assert!(
            said.iter().any(|text| text.contains("only the coordinator") && text.contains(&place)),
            "{said:?}"
        );
        let mut heard = Heard::on(&cluster, 0)?;
        assert_eq!(state(&mut heard.client), "inactive");
        assert!(heard.take().is_empty());
        Ok(())
    });
}

#[test]
fn a_database_that_lets_nobody_in_any_more() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(0).build()?;
        let mut client = cluster.connect(0)?;
        let elsewhere = cluster.coordinator().connect_params().database("template1");
        let allow = |allow: bool| {
            let sql = format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", cluster.database());
            elsewhere.connect()?.batch_execute(&sql).expect("a change of the database");
            Ok::<(), test_cluster::Error>(())
        };
        allow(false)?;
        expect(&refusal(&mut client, BLOCK), "55000", &["could not connect", "datallowconn"]);
        assert_eq!(state(&mut client), "inactive");
        allow(true)?;
        prove_usable(&cluster)
    });
}

#[test]
fn next_to_no_time() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).proxies(true).build()?;
        let mut client = cluster.connect(0)?;
        // So that a node cannot be too quick.
        cluster.link(1).freeze()?;
        let error = refusal(&mut client, "SELECT citus_block_writes_for_backup(20)");
        expect(&error, "55P03", &["within 20 ms", "too short to tell", "a second or more"]);
        cluster.link(1).heal()?;
        prove_usable(&cluster)
    });
}

#[test]
fn in_recovery() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).standbys([0]).build()?;
        let mut client = cluster.standby_of(0).connect()?;
        for sql in [BLOCK, UNBLOCK] {
            expect(&refusal(&mut client, sql), "55000", &["recovery", "primary"]);
        }
        // It has the coordinator's catalog, and is no copy that somebody has started by mistake.
        for sql in [
            "SELECT * FROM citus_cluster_read_only_status()",
            "SELECT citus_set_cluster_read_only()",
            "SELECT citus_set_cluster_read_write()",
        ] {
            let error = refusal(&mut client, sql);
            expect(&error, "55000", &["recovery", "primary"]);
            let told = format!("{error:?}");
            assert!(!told.contains("copy") && !told.contains("UPDATE pg_dist_node"), "{told}");
        }
        assert_eq!(state(&mut client), "inactive");
        Ok(())
    });
}

#[test]
fn no_background_worker_to_be_had() {
    on_each_engine(|engine: Engine| {
        // Enough for what the engine itself starts (Citus: a maintenance daemon; PostgreSQL: the
        // launcher of logical replication), and none for a block.
        let own = if engine == Engine::Citus { "2" } else { "1" };
        let cluster = Cluster::builder(engine)
            .workers(1)
            .node_setting(0, "max_worker_processes", own)
            .build()?;
        let mut client = cluster.connect(0)?;
        if engine == Engine::Citus {
            let daemon = "SELECT count(*) = 1 FROM pg_stat_activity \
                          WHERE backend_type LIKE 'Citus Maintenance Daemon%'";
            test_cluster::wait_for_sql(&mut client, daemon, fence_tests::PATIENCE)?;
        }
        expect(&refusal(&mut client, SHORT_BLOCK), "53000", &["max_worker_processes"]);
        assert_eq!(state(&mut client), "inactive");
        Ok(())
    });
}

#[test]
fn more_nodes_than_there_is_room_for() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine)
            .workers(2)
            .node_setting(0, "citus_fence.max_nodes", "2")
            .build()?;
        let mut client = cluster.connect(0)?;
        expect(&refusal(&mut client, BLOCK), "54000", &["citus_fence.max_nodes", "at least 3"]);
        assert_eq!(state(&mut client), "inactive");
        // The control: with room it works.
        cluster.coordinator().alter_system("citus_fence.max_nodes", "3")?;
        cluster.coordinator().restart()?;
        prove_usable(&cluster)
    });
}

#[test]
fn more_databases_than_there_are_slots() {
    on_each_engine(|engine: Engine| {
        let cluster =
            Cluster::builder(engine).workers(0).setting("citus_fence.max_blocks", "1").build()?;
        cluster.coordinator().execute("CREATE DATABASE second")?;
        let params = cluster.coordinator().connect_params().database("second");
        let mut second = params.connect()?;
        let setup = format!(
            "CREATE EXTENSION {}; SELECT citus_set_coordinator_host('127.0.0.1', {}); \
             CREATE EXTENSION citus_fence",
            engine.catalog_extension(),
            cluster.coordinator().port()
        );
        second.batch_execute(&setup).expect("a second distributed database");
        let mut first = cluster.connect(0)?;
        assert!(call(&mut first, BLOCK));
        expect(&refusal(&mut second, BLOCK), "53400", &["citus_fence.max_blocks"]);
        assert!(call(&mut first, UNBLOCK));
        assert!(call(&mut second, BLOCK));
        assert!(call(&mut second, UNBLOCK));
        Ok(())
    });
}

#[test]
fn a_node_that_refuses_the_connection_or_the_password() {
    on_each_engine(|engine: Engine| {
        let secret = "not-the-password-4711";
        let tls = Installation::current()?.has_tls_for("passwords over TLS; asked for without it");
        let sslmode = if tls { "require" } else { "disable" };
        let cluster = Cluster::builder(engine)
            .workers(1)
            .tls(tls)
            .scram(true)
            .node_setting(
                0,
                "citus_fence.node_conninfo",
                &format!("sslmode={sslmode} password={secret}"),
            )
            .build()?;
        // pg_dist_authinfo goes over the setting, so this is well.
        prove_usable(&cluster)?;
        let mut client = cluster.connect(0)?;
        let port = cluster.worker(1).port().to_string();
        client
            .batch_execute(
                "CREATE TABLE kept AS SELECT * FROM pg_dist_authinfo; \
                 DELETE FROM pg_dist_authinfo",
            )
            .expect("a change of authinfo");
        let error = refusal(&mut client, BLOCK);
        expect(&error, "28P01", &[&port, "password", "pg_dist_authinfo"]);
        assert!(!format!("{error:?}").contains(secret), "a secret got out");
        let log = cluster.coordinator().log();
        let leaked: Vec<&str> = log.lines().filter(|line| line.contains(secret)).collect();
        assert!(leaked.is_empty(), "a secret got into the log: {leaked:?}");
        client
            .batch_execute("INSERT INTO pg_dist_authinfo SELECT * FROM kept")
            .expect("a change of authinfo");
        prove_usable(&cluster)?;

        cluster.worker(1).stop(test_cluster::StopMode::Fast)?;
        expect(&refusal(&mut client, SHORT_BLOCK), "08001", &[&port, "refused"]);
        assert_eq!(state(&mut client), "inactive");
        cluster.worker(1).start()?;
        prove_usable(&cluster)
    });
}
