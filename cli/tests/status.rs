//! `citus-fence status` on whole clusters, on every engine.

mod common;

use std::fs;

use common::{command, run, start, status, status_command};
use fence_tests::{Spread, in_background, on_each_engine};
use serde_json::Value;
use test_cluster::{Cluster, Engine, HOST, PATIENCE, Result, SUPERUSER, Server, wait_for_sql};

/// What `status --json` says.
fn json(server: &Server, code: i32) -> Value {
    let ended = status(server, &["--json"]).expect(code);
    assert!(ended.err.is_empty(), "{ended:?}");
    serde_json::from_str(&ended.out).expect("one JSON object")
}

#[test]
fn without_a_block_under_one_and_after_a_failed_one() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let coordinator = cluster.coordinator();

        let none = status(coordinator, &[]).expect(0);
        assert!(none.out.starts_with("no block: database \"postgres\" of 127.0.0.1:"), "{none:?}");
        let none = json(coordinator, 0);
        assert_eq!(none["block"]["state"], "inactive");
        assert_eq!(none["nodes"], Value::Array(Vec::new()));
        assert_eq!(none["server"]["port"], coordinator.port());

        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        client.simple_query("SELECT citus_block_writes_for_backup()").expect("a block");
        // Somebody who waits, from a worker.
        let writer = in_background(&cluster, 1, &spread.two_phase(&cluster));
        let waiting = "SELECT count(*) > 0 FROM citus_backup_block_waiters()";
        wait_for_sql(&mut client, waiting, PATIENCE)?;

        let active = json(coordinator, 0);
        assert_eq!(active["block"]["state"], "active");
        assert_eq!(active["block"]["node_count"], 3);
        assert_eq!(active["block"]["mode"], "2pc");
        let number = active["block"]["block_id"].as_i64().expect("a number");
        assert!(active["block"]["expires_at"].as_str() > active["asked_at"].as_str(), "{active}");
        let nodes = active["nodes"].as_array().expect("nodes");
        let mut ports: Vec<_> = nodes.iter().map(|node| node["nodeport"].as_u64()).collect();
        let mut known: Vec<_> =
            cluster.nodes().iter().map(|node| Some(u64::from(node.port()))).collect();
        ports.sort();
        known.sort();
        assert_eq!(ports, known);
        assert!(active["waiters"][0]["pid"].as_i64() > Some(0), "{active}");
        let lines = status(coordinator, &[]).expect(0).out;
        let begins = format!("block {number} (mode 2pc) is active, since ");
        assert!(lines.starts_with(&begins), "{lines}");
        assert!(lines.contains(" waits for "), "{lines}");
        let quiet = status(coordinator, &["--quiet"]).expect(0);
        assert!(quiet.out.is_empty() && quiet.err.is_empty(), "{quiet:?}");

        // The block ends without anybody having asked for that: this needs a look.
        let worker = &active["block"]["worker_pid"];
        client
            .simple_query(&format!("SELECT pg_terminate_backend({worker})"))
            .expect("its worker can be ended");
        wait_for_sql(
            &mut client,
            "SELECT state = 'error' FROM citus_backup_block_status()",
            PATIENCE,
        )?;
        let failed = json(coordinator, 3);
        assert_eq!(failed["block"]["state"], "error");
        assert_eq!(failed["block"]["block_id"].as_i64(), Some(number));
        assert_eq!(failed["findings"].as_array().map(Vec::len), Some(1), "{failed}");
        status(coordinator, &["-q"]).expect(3);
        let lines = status(coordinator, &[]).expect(3).out;
        assert!(lines.contains("look: the last block ended"), "{lines}");
        writer.join().expect("a thread").expect("the writer goes on");
        Ok(())
    });
}

#[test]
fn a_user_without_rights_sees_the_state_and_is_told_what_it_does_not_see() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.coordinator().execute("CREATE ROLE nobody_special LOGIN")?;
        let mut client = cluster.connect(0)?;
        client.simple_query("SELECT citus_block_writes_for_backup()").expect("a block");
        let seen = status(cluster.coordinator(), &["-U", "nobody_special"]);
        // -U twice is wrong use, and no way to become somebody else by accident.
        seen.expect(2);
        let conninfo = ["-d", "user=nobody_special dbname=postgres"];
        let port = cluster.coordinator().port().to_string();
        let words = [&["status", "-h", HOST, "-p", &port], conninfo.as_slice()].concat();
        let seen = run(&mut command(&words)).expect(0);
        assert!(seen.out.contains(" (mode 2pc) is active"), "{seen:?}");
        assert!(
            seen.out.contains("GRANT EXECUTE ON FUNCTION citus_backup_block_nodes()"),
            "{seen:?}"
        );
        let seen = run(command(&words).arg("--json")).expect(0);
        let seen: Value = serde_json::from_str(&seen.out).expect("JSON");
        assert_eq!(seen["nodes"], Value::Null);
        assert_eq!(seen["waiters"], Value::Null);
        assert_eq!(seen["server"]["user"], "nobody_special");
        Ok(())
    });
}

#[test]
fn whoever_cannot_know_says_so_and_what_to_do() {
    on_each_engine(|engine| {
        let mut cluster = Cluster::builder(engine).workers(1).build()?;
        cluster.add_standby(0)?;
        let place = format!("-h {HOST} -p {}", cluster.coordinator().port());
        status(cluster.worker(1), &[]).expect(1).complains_of(&[
            "citus-fence: error: 127.0.0.1:",
            "is a worker (group 1)",
            &place,
        ]);
        status(cluster.standby_of(0), &[])
            .expect(1)
            .complains_of(&["is a standby", "target_session_attrs"]);
        // One that has forgotten it: its metadata was taken from it.
        let empty = "UPDATE pg_dist_local_group SET groupid = 0; DELETE FROM pg_dist_node";
        cluster.worker(1).execute(empty)?;
        status(cluster.worker(1), &[]).expect(1).complains_of(&["knows no nodes", "-h and -p"]);

        let coordinator = cluster.coordinator();
        coordinator.execute("CREATE DATABASE plain")?;
        let plain = format!("postgresql://{SUPERUSER}@{HOST}:{}/plain", coordinator.port());
        run(&mut command(&["status", "-d", &plain])).expect(1).complains_of(&[
            "citus_fence does not exist in database \"plain\"",
            "CREATE EXTENSION citus_fence",
        ]);
        coordinator
            .connect_params()
            .database("plain")
            .connect()?
            .batch_execute("CREATE EXTENSION citus_fence")
            .expect("the extension alone");
        run(&mut command(&["status", "-d", &plain])).expect(1).complains_of(&[
            "database \"plain\"",
            "has no Citus catalog",
            "-d",
        ]);
        run(&mut command(&["status", "-d", &format!("{plain}_too")]))
            .expect(1)
            .complains_of(&["database \"plain_too\" does not exist"]);
        Ok(())
    });
}

#[test]
fn an_extension_without_its_library_is_told_in_the_servers_words() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).without_fence_preload(0).build()?;
        status(cluster.coordinator(), &[])
            .expect(1)
            .complains_of(&["shared_preload_libraries", "citus-fence: hint:"]);
        let ended = status(cluster.coordinator(), &["--json"]).expect(1);
        let error: Value = serde_json::from_str(&ended.err).expect("one line of JSON");
        assert_eq!(error["error"]["sqlstate"], "55000");
        Ok(())
    });
}

#[test]
fn a_password_is_found_where_libpq_finds_it_and_never_printed() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).scram(true).build()?;
        let coordinator = cluster.coordinator();
        let port = coordinator.port().to_string();
        coordinator.execute("CREATE ROLE backup LOGIN PASSWORD 'right hunter2'")?;
        let words = ["status", "-h", HOST, "-p", &port, "-U", "backup", "-d", "postgres", "-v"];

        run(&mut command(&words)).expect(1).complains_of(&["refused the connection", ".pgpass"]);
        let wrong = run(command(&words).env("PGPASSWORD", "wrong hunter2")).expect(1);
        let wrong =
            wrong.complains_of(&[&format!("{HOST}:{port}"), "password authentication failed"]);
        assert!(!wrong.err.contains("hunter2"), "{wrong:?}");
        let uri = format!("postgresql://backup:wrong%20hunter2@{HOST}:{port}/postgres");
        let wrong = run(&mut command(&["status", "-v", "-d", &uri])).expect(1);
        assert!(!wrong.err.contains("hunter2"), "{wrong:?}");

        let right = run(command(&words).env("PGPASSWORD", "right hunter2")).expect(0);
        assert!(!right.err.contains("hunter2") && !right.out.contains("hunter2"), "{right:?}");

        let directory = tempfile::tempdir().expect("a directory");
        let passfile = directory.path().join("pass");
        fs::write(&passfile, format!("{HOST}:{port}:*:backup:right hunter2\n")).expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&passfile, mode).expect("its mode");
        run(command(&words).env("PGPASSFILE", &passfile)).expect(0);
        Ok(())
    });
}

#[test]
fn the_place_may_come_from_the_environment_a_service_or_a_socket() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let coordinator = cluster.coordinator();
        let port = coordinator.port().to_string();
        let place = format!("of {HOST}:{port}\n");

        let from_environment = run(command(&["status"])
            .env("PGHOST", HOST)
            .env("PGPORT", &port)
            .env("PGUSER", SUPERUSER)
            .env("PGDATABASE", "postgres"))
        .expect(0);
        assert!(from_environment.out.contains(&place), "{from_environment:?}");

        let directory = tempfile::tempdir().expect("a directory");
        let services = directory.path().join("services");
        let text = format!("[shop]\nhost={HOST}\nport={port}\nuser={SUPERUSER}\ndbname=postgres\n");
        fs::write(&services, text).expect("a file");
        for words in [["status", "-d", "service=shop"].as_slice(), &["status"]] {
            let mut command = command(words);
            command.env("PGSERVICEFILE", &services);
            if words.len() == 1 {
                command.env("PGSERVICE", "shop");
            }
            let from_service = run(&mut command).expect(0);
            assert!(from_service.out.contains(&place), "{from_service:?}");
        }

        // Options go over the environment; of several hosts the one that answers is named.
        let over = run(status_command(coordinator.port(), &[]).env("PGPORT", "1")).expect(0);
        assert!(over.out.contains(&place), "{over:?}");
        let several = format!("host={HOST},{HOST} port=1,{port} user={SUPERUSER} dbname=postgres");
        let several = run(&mut command(&["status", "-d", &several])).expect(0);
        assert!(several.out.contains(&place), "{several:?}");

        let directory = coordinator.socket_dir().display().to_string();
        let words = ["status", "-h", &directory, "-p", &port, "-U", SUPERUSER, "-d", "postgres"];
        let by_socket = run(&mut command(&words)).expect(0);
        assert!(by_socket.out.contains(&format!("of {directory}:{port}\n")), "{by_socket:?}");
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_away_is_no_failure() -> Result<()> {
    let engine = Engine::available()[0];
    let cluster = Cluster::builder(engine).workers(1).build()?;
    let mut child = start(&mut status_command(cluster.coordinator().port(), &[]));
    drop(child.child().stdout.take());
    let gone = child.ended()?.expect(0);
    assert!(gone.err.is_empty(), "{gone:?}");
    // The control: an output that takes nothing for another reason is one.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let mut command = status_command(cluster.coordinator().port(), &[]);
    let full = run(command.stdout(full)).expect(1).complains_of(&["standard output"]);
    assert!(full.out.is_empty());
    Ok(())
}
