//! One server, through everything that a test may do to it.

use std::time::{Duration, Instant};

use test_cluster::{
    Certificates, Error, Installation, PATIENCE, Result, Server, Signal, StopMode, WalMethod,
    wait_for_sql, wait_until,
};

/// A table with this many rows.
fn fill(server: &Server, rows: u32) -> Result<()> {
    server.execute(&format!(
        "CREATE TABLE t AS SELECT i, repeat('x', 100) AS pad FROM generate_series(1, {rows}) i"
    ))
}

fn count(server: &Server) -> Result<String> {
    server.query_value("SELECT count(*) FROM t")
}

/// A folder that belongs to a test, for copies.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // The servers may run as another user, who has to get through it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}

#[test]
fn starts_answers_and_goes_away() -> Result<()> {
    let server = Server::builder("alone").setting("work_mem", "5MB").start()?;
    assert_eq!(server.query_value("SHOW work_mem")?, "5MB");
    assert_eq!(server.query_value("SHOW fsync")?, "on");
    assert_eq!(server.query_value("SHOW cluster_name")?, "alone");
    assert_eq!(server.psql("SELECT 1, NULL; SELECT 'two'")?, "1|\ntwo\n");
    assert!(server.connect_as("postgres", None).is_ok());
    let (pid, data) = (server.pid()?, server.data_dir());
    let keeps = std::env::var_os("CITUS_FENCE_KEEP").is_some();
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(keeps || !data.exists());
    Ok(())
}

#[test]
fn identifiers_differ() -> Result<()> {
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let one = Server::builder("one").start()?;
    let other = Server::builder("other").start()?;
    assert_ne!(one.query_value(identifier)?, other.query_value(identifier)?);
    assert_ne!(one.port(), other.port());
    Ok(())
}

#[test]
fn stops_in_every_mode_and_starts_again() -> Result<()> {
    let server = Server::builder("stopping").start()?;
    fill(&server, 100)?;
    for mode in [StopMode::Smart, StopMode::Fast, StopMode::Immediate] {
        server.stop(mode)?;
        assert!(!server.is_running());
        assert!(server.connect().is_err());
        server.start()?;
        assert_eq!(count(&server)?, "100");
    }
    server.alter_system("work_mem", "7MB")?;
    server.restart()?;
    assert_eq!(server.query_value("SHOW work_mem")?, "7MB");
    Ok(())
}

#[test]
fn errors_tell_server_statement_and_log() -> Result<()> {
    let server = Server::builder("failing").start()?;
    let error = server.execute("SELECT * FROM nowhere").unwrap_err();
    assert_eq!(error.sqlstate(), Some("42P01"));
    let text = error.to_string();
    for part in ["failing", "SELECT * FROM nowhere", "42P01", "end of its log"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }

    server.execute("ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")?;
    let error = server.restart().unwrap_err().to_string();
    assert!(error.contains("did not start"), "{error}");
    assert!(error.contains("no_such_library"), "{error}");
    Ok(())
}

#[test]
fn survives_the_death_of_its_postmaster() -> Result<()> {
    let server = Server::builder("killed").start()?;
    fill(&server, 100)?;
    let mut idle = server.connect()?;
    server.kill_postmaster(Signal::SIGKILL)?;
    assert!(!server.is_running());
    server.start()?;
    assert_eq!(count(&server)?, "100");
    assert!(idle.simple_query("SELECT 1").is_err());

    server.crash()?;
    server.start()?;
    assert_eq!(count(&server)?, "100");
    server.wait_for_log("automatic recovery in progress", PATIENCE)
}

#[test]
fn frozen_is_silent_and_thawed_goes_on() -> Result<()> {
    let server = Server::builder("frozen").start()?;
    let mut client = server.connect()?;
    client.batch_execute("SELECT 1").unwrap();
    assert_eq!(server.backend_pids()?.len(), 1);
    server.freeze()?;
    let begin = Instant::now();
    let answer = std::thread::spawn(move || {
        client.batch_execute("SELECT 1").unwrap();
        begin.elapsed()
    });
    // That nothing comes can only be seen by waiting a little.
    let silence = Duration::from_millis(300);
    let early = wait_until("an answer", silence, || answer.is_finished().then_some(()));
    assert!(matches!(early, Err(Error::Timeout { .. })));
    assert!(server.stop(StopMode::Fast).is_err());
    server.thaw()?;
    assert!(answer.join().unwrap() >= silence);

    // A server that is still frozen when it goes away must not stay.
    server.freeze()?;
    let pid = server.pid()?;
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[test]
fn base_backups_start_as_servers() -> Result<()> {
    let server = Server::builder("backed_up").start()?;
    fill(&server, 1_000)?;
    let folder = folder();
    for (name, wal) in [("streamed", WalMethod::Stream), ("fetched", WalMethod::Fetch)] {
        let target = folder.path().join(name);
        server.base_backup(&target, wal)?;
        let copy = Server::builder(name).start_copy(&target)?;
        assert_eq!(count(&copy)?, "1000");
        assert_ne!(copy.port(), server.port());
        assert!(!target.exists());
    }
    let error = server.base_backup(&server.data_dir(), WalMethod::Stream).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    assert!(!error.contains("host="), "{error}");
    Ok(())
}

/// Copies that are taken while pages are written, checkpoints happen and files come and go.
#[test]
fn plain_copies_of_a_busy_server_are_sound() -> Result<()> {
    let server = Server::builder("busy").start()?;
    server.execute(
        "CREATE TABLE t (i int PRIMARY KEY, n int, pad text); \
         INSERT INTO t SELECT i, 0, repeat('x', 300) FROM generate_series(1, 5000) i",
    )?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let folder = folder();
    std::thread::scope(|scope| -> Result<()> {
        let work = |sql: &'static str| {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut client = server.connect().unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.batch_execute(sql).unwrap();
                }
            });
        };
        // Every transaction leaves the sum of n at zero.
        work("UPDATE t SET n = n + CASE i % 2 WHEN 0 THEN 1 ELSE -1 END");
        work("CHECKPOINT");
        work("CREATE TABLE gone AS SELECT generate_series(1, 1000); DROP TABLE gone");
        let copied = (0..3)
            .try_for_each(|round| server.copy_files(&folder.path().join(format!("copy{round}"))));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        copied
    })?;
    let amcheck =
        Installation::current()?.has_extension_for("amcheck", "the look into the copies' indexes");
    for round in 0..3 {
        let copy =
            Server::builder("copy").start_copy(&folder.path().join(format!("copy{round}")))?;
        if amcheck {
            copy.execute("CREATE EXTENSION amcheck; SELECT bt_index_check('t_pkey', true)")?;
        }
        let row = copy.query("SELECT count(*), sum(n), count(DISTINCT abs(n)) FROM t")?;
        let expected = ["5000", "0", "1"].map(|value| Some(value.to_owned()));
        assert_eq!(row, [expected.to_vec()]);
    }
    Ok(())
}

#[test]
fn a_standby_follows() -> Result<()> {
    let server = Server::builder("followed").start()?;
    let standby = server.standby("follower")?;
    fill(&server, 100)?;
    server.wait_for_replay_on(&standby, PATIENCE)?;
    assert_eq!(count(&standby)?, "100");
    assert_eq!(standby.query_value("SELECT pg_is_in_recovery()")?, "t");
    let mut client = server.connect()?;
    wait_for_sql(
        &mut client,
        "SELECT application_name = 'follower' AND client_addr = '127.0.0.1' \
         AND state = 'streaming' FROM pg_stat_replication",
        PATIENCE,
    )?;
    standby.execute("SELECT pg_promote()")?;
    standby.execute("INSERT INTO t VALUES (0, 'own')")?;
    assert_eq!(count(&standby)?, "101");
    assert_eq!(count(&server)?, "100");
    Ok(())
}

#[test]
fn tls_and_passwords_are_demanded() -> Result<()> {
    if !Installation::current()?.has_tls_for("a server that demands TLS") {
        return Ok(());
    }
    let certificates = Certificates::generate()?;
    let server =
        Server::builder("guarded").tls(&certificates).password("s3cret'\\ word").start()?;
    let params = server.tcp_params();
    let mut client = params.connect()?;
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(encrypted, &[]).unwrap();
    assert!(row.get::<_, bool>(0));

    let wrong = server.connect_as("postgres", Some("guess")).err().unwrap();
    assert_eq!(wrong.sqlstate(), Some("28P01"));
    assert!(!wrong.to_string().contains("guess"));
    assert!(!format!("{params:?}").contains("s3cret"));
    // Without encryption nobody gets in, password or not.
    let plain = params.config().connect(test_cluster::postgres::NoTls).err();
    let code = plain.and_then(|error| error.code().cloned());
    assert_eq!(code.map(|code| code.code().to_owned()).as_deref(), Some("28000"));

    // The real clients, and a standby, understand the connection string.
    let standby = server.standby("guarded_standby")?;
    server.execute("CREATE TABLE t AS SELECT 1 AS i")?;
    server.wait_for_replay_on(&standby, PATIENCE)?;
    assert_eq!(count(&standby)?, "1");
    Ok(())
}

#[test]
fn goes_away_while_a_test_panics() -> Result<()> {
    let server = Server::builder("panicking").start()?;
    let (pid, data) = (server.pid()?, server.data_dir());
    let test = std::thread::spawn(move || {
        let _moved_here = server;
        panic!("as a failed assertion does");
    });
    assert!(test.join().is_err());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!data.exists() || std::env::var_os("CITUS_FENCE_KEEP").is_some());
    Ok(())
}

#[test]
fn many_servers_side_by_side() -> Result<()> {
    std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6)
            .map(|number| scope.spawn(move || Server::builder(&format!("side{number}")).start()))
            .collect();
        for start in starts {
            let server = start.join().unwrap()?;
            assert_eq!(server.query_value("SELECT 1")?, "1");
        }
        Ok(())
    })
}
