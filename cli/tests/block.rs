//! `citus-fence block`: whatever ends it, writers go on; and only a block that lasted gives the command's own code.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Running, command, run, second_cluster, start};
use fence_tests::on_each_engine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::postgres::Client;
use test_cluster::{
    Cluster, Engine, HOST, PATIENCE, Pooler, Result, SUPERUSER, Server, wait_for_sql, wait_until,
};

const NO_BLOCK: &str = "SELECT state IN ('inactive', 'error') FROM citus_backup_block_status()";
const ACTIVE: &str = "SELECT state = 'active' FROM citus_backup_block_status()";
/// A command that does not end by itself, with a grandchild that does not either; it says its pid in a file.
const LONG: &str = "sleep 600 & echo $! > \"$PIDS\"; wait";

/// `citus-fence block` on a port, with more words.
fn block(port: u16, more: &[&str]) -> Command {
    let mut block = command(&["block", "-h", HOST, "-p", &port.to_string()]);
    block.args(["-U", SUPERUSER, "-d", "postgres"]).args(more);
    block
}

/// One that runs the long command; and the file with its grandchild's pid.
fn long(server: &Server, more: &[&str]) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut words = more.to_vec();
    words.extend(["--", "sh", "-c", LONG]);
    let mut block = block(server.port(), &words);
    block.env("PIDS", folder.path().join("pids"));
    (block, folder)
}

fn pid_in(folder: &tempfile::TempDir) -> Result<i32> {
    let file = folder.path().join("pids");
    wait_until("the command's pid", PATIENCE, || {
        std::fs::read_to_string(&file).ok()?.trim().parse().ok()
    })
}

/// Whether a process is there and no mere entry.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn tell(child: &mut Running, signal: Signal) {
    let pid = i32::try_from(child.child().id()).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("a signal");
}

fn cluster(engine: Engine) -> Result<(Cluster, Client)> {
    let cluster = Cluster::builder(engine).workers(1).build()?;
    let client = cluster.connect(0)?;
    Ok((cluster, client))
}

#[test]
fn the_command_runs_under_a_block_and_gives_its_code() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        let server = cluster.coordinator();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("block.json");
        let script = format!(
            "echo \"$CITUS_FENCE_BLOCK_ID|$CITUS_FENCE_BLOCK_MODE|$CITUS_FENCE_BLOCK_NODES\"; \
             '{}' -X -At -h {HOST} -p {} -U {SUPERUSER} -d postgres \
             -c \"SELECT state, block_id, mode FROM citus_backup_block_status()\"; exit 7",
            test_cluster::Installation::current()?.program("psql").display(),
            server.port()
        );
        let words = [
            "--mode",
            "all",
            "--manifest",
            file.to_str().expect("a path"),
            "--",
            "sh",
            "-c",
            script.as_str(),
        ];
        let ended = run(&mut block(server.port(), &words)).expect(7).complains_of(&["lasted"]);
        let lines: Vec<&str> = ended.out.lines().collect();
        let manifest: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).expect("a manifest"))
                .expect("JSON");
        let id = manifest["block_id"].as_i64().expect("a number");
        assert!(lines[0].starts_with(&format!("{id}|all|0={HOST}:")), "{ended:?}");
        assert!(lines[0].contains(" 1="), "{ended:?}");
        assert_eq!(lines[1], format!("active|{id}|all"));
        assert_eq!(manifest["nodes"].as_array().map(Vec::len), Some(2));
        assert!(client.query_one(NO_BLOCK, &[]).expect("a state").get::<_, bool>(0));

        // What a shell says.
        run(&mut block(server.port(), &["--", "/nonexistent"])).expect(127);
        run(&mut block(server.port(), &["--", "/"])).expect(126);
        run(&mut block(server.port(), &["--", "sh", "-c", "kill -KILL $$"])).expect(137);
        run(&mut block(server.port(), &["-q", "--", "true"])).expect(0);
        // What it has left running was not done under the block; the members of a pipe are waited for.
        run(&mut block(server.port(), &["--", "sh", "-c", "sleep 600 & exit 0"]))
            .expect(125)
            .complains_of(&["left processes behind"]);
        run(&mut block(server.port(), &["--", "sh", "-c", "sleep 0.3 & exit 0"])).expect(0);
        assert!(client.query_one(NO_BLOCK, &[]).expect("a state").get::<_, bool>(0));

        // There is one already: it never begins, and the other is left alone.
        client.simple_query("SELECT citus_backup_block_start(60000)").expect("a block");
        run(&mut block(server.port(), &["--", "touch", "/nonexistent/x"]))
            .expect(125)
            .complains_of(&["block"]);
        assert!(client.query_one(ACTIVE, &[]).expect("a state").get::<_, bool>(0));
        Ok(())
    });
}

#[test]
fn told_to_stop_it_ends_the_command_and_all_it_started_and_the_block() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 143), (Signal::SIGHUP, 143)]
        {
            let (command, folder) = long(cluster.coordinator(), &[]);
            // Whoever runs the tests in the background of a script has SIGINT ignored.
            let mut heeding = Command::new("env");
            heeding
                .arg("--default-signal=TERM,INT,HUP")
                .arg(command.get_program())
                .args(command.get_args());
            heeding.stdin(Stdio::null()).env("PIDS", folder.path().join("pids"));
            let mut child = start(&mut heeding);
            let grandchild = pid_in(&folder)?;
            tell(&mut child, signal);
            child.ended()?.expect(code);
            assert!(!runs(grandchild), "{signal}");
            assert!(
                client.query_one(NO_BLOCK, &[]).expect("a state").get::<_, bool>(0),
                "{signal}"
            );
        }
        Ok(())
    });
}

/// The control: what docs/backup.md had as a recipe, told to stop, leaves writers held.
#[test]
fn a_shell_script_told_to_stop_leaves_the_block() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        let folder = tempfile::tempdir().expect("a folder");
        let psql = test_cluster::Installation::current()?.program("psql");
        let script = format!(
            "id=$('{}' -X -At -h {HOST} -p {} -U {SUPERUSER} -d postgres -c 'SELECT citus_backup_block_start(60000)'); {LONG}",
            psql.display(),
            cluster.coordinator().port()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::null()).env("PIDS", folder.path().join("pids"));
        let mut child = start(&mut shell);
        let grandchild = pid_in(&folder)?;
        tell(&mut child, Signal::SIGTERM);
        wait_until("the script's end", PATIENCE, || child.child().try_wait().ok().flatten())?;
        assert!(runs(grandchild));
        kill(Pid::from_raw(grandchild), Signal::SIGKILL).expect("a signal");
        assert!(client.query_one(ACTIVE, &[]).expect("a state").get::<_, bool>(0));
        Ok(())
    });
}

#[test]
fn killed_outright_it_leaves_nothing_for_longer_than_the_lease() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        let (mut command, folder) = long(cluster.coordinator(), &["--lease", "3s"]);
        let mut child = start(&mut command);
        let grandchild = pid_in(&folder)?;
        tell(&mut child, Signal::SIGKILL);
        let killed = Instant::now();
        wait_until("the grandchild's end", PATIENCE, || (!runs(grandchild)).then_some(()))?;
        wait_for_sql(&mut client, NO_BLOCK, PATIENCE)?;
        assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
        Ok(())
    });
}

#[test]
fn it_is_renewed_for_longer_than_its_lease_and_not_for_longer_than_it_may() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        // Twice its lease; what is waited for is the time itself.
        let started = Instant::now();
        run(&mut block(cluster.coordinator().port(), &["--lease", "3s", "--", "sleep", "6"]))
            .expect(0);
        assert!(started.elapsed() >= Duration::from_secs(6));

        let (mut command, folder) = long(cluster.coordinator(), &["--max", "1s"]);
        let ended = run(&mut command).expect(125).complains_of(&["--max"]);
        assert!(!runs(pid_in(&folder)?), "{ended:?}");
        assert!(client.query_one(NO_BLOCK, &[]).expect("a state").get::<_, bool>(0));
        Ok(())
    });
}

#[test]
fn a_lost_block_ends_the_command_and_a_lost_connection_does_not() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        let (mut command, folder) = long(cluster.coordinator(), &["--json"]);
        let child = start(&mut command);
        let grandchild = pid_in(&folder)?;
        client.simple_query("SELECT citus_unblock_writes_for_backup()").expect("a release");
        let ended = child.ended()?.expect(125).complains_of(&["released"]);
        let error: serde_json::Value = serde_json::from_str(&ended.err).expect("one line of JSON");
        assert_eq!(error["error"]["exit_code"], 125);
        assert!(!runs(grandchild));

        // One of somebody else's that has ended in an error, which nobody was told, is in nobody's way.
        client.simple_query("SELECT citus_backup_block_start(60000)").expect("a block");
        let sql = "SELECT pg_terminate_backend(worker_pid) FROM citus_backup_block_status()";
        client.simple_query(sql).expect("a termination");
        wait_until("the block to be lost", PATIENCE, || {
            let failed = "SELECT state = 'error' FROM citus_backup_block_status()";
            client.query_one(failed, &[]).expect("a state").get::<_, bool>(0).then_some(())
        })?;
        run(&mut block(cluster.coordinator().port(), &["--", "true"])).expect(0);

        // Its own sessions are ended, again and again.
        let (mut command, folder) = long(cluster.coordinator(), &["--lease", "3s"]);
        let mut child = start(&mut command);
        pid_in(&folder)?;
        let until = Instant::now() + Duration::from_secs(5);
        let mut ended = 0;
        while Instant::now() < until {
            let sql = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE application_name = 'citus-fence'";
            ended += client.query_one(sql, &[]).expect("a count").get::<_, i64>(0);
            client.simple_query("SELECT pg_sleep(0.4)").expect("a pause");
        }
        assert!(ended > 2, "{ended}");
        assert!(child.child().try_wait().expect("a state").is_none());
        assert!(client.query_one(ACTIVE, &[]).expect("a state").get::<_, bool>(0));
        tell(&mut child, Signal::SIGTERM);
        child.ended()?.expect(143);
        Ok(())
    });
}

#[test]
fn all_clusters_of_the_servers_are_held_unless_told_otherwise() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        let port = cluster.coordinator().port();
        let mut second = second_cluster(&cluster, true)?;
        let psql = test_cluster::Installation::current()?.program("psql").display().to_string();
        let states = |more: &[&str]| {
            let ask = "SELECT state FROM citus_backup_block_status()";
            let one = |database: &str| {
                format!(
                    "'{psql}' -X -At -h {HOST} -p {port} -U {SUPERUSER} -d {database} -c '{ask}'"
                )
            };
            let script = format!("{} && {}", one("postgres"), one("second"));
            let mut words = more.to_vec();
            words.extend(["--", "sh", "-c", &script]);
            run(&mut block(port, &words)).expect(0).out
        };
        assert_eq!(states(&[]), "active\nactive\n");
        // The control: the other one's commits go on, and are cut in half in a copy.
        assert_eq!(states(&["--only-this-database"]), "active\ninactive\n");
        for client in [&mut client, &mut second] {
            wait_for_sql(client, NO_BLOCK, PATIENCE)?;
        }

        // One that ends early makes the whole void.
        let (mut command, folder) = long(cluster.coordinator(), &[]);
        let running = start(&mut command);
        pid_in(&folder)?;
        second.batch_execute("SELECT citus_unblock_writes_for_backup()").expect("a release");
        running.ended()?.expect(125).complains_of(&["second"]);
        wait_for_sql(&mut client, NO_BLOCK, PATIENCE)?;

        // One that cannot be held is named before anything is held.
        second.batch_execute("DROP EXTENSION citus_fence").expect("no extension");
        let ended = run(&mut block(port, &["--", "true"]));
        ended.expect(125).complains_of(&[
            "\"second\"",
            "lacks citus_fence",
            "--only-this-database",
        ]);
        wait_for_sql(&mut client, NO_BLOCK, PATIENCE)
    });
}

/// Each of its statements may be run by another session.
#[test]
fn it_works_through_a_pooler_in_transaction_mode() {
    on_each_engine(|engine| {
        let (cluster, mut client) = cluster(engine)?;
        let pooler = Pooler::start(&[cluster.coordinator()], cluster.database())?;
        let port = pooler.port().to_string();
        for _ in 0..5 {
            let mut block = command(&["block", "--only-this-database", "-h", HOST, "-p", &port]);
            block.args(["-U", SUPERUSER, "-d", "node0", "--", "true"]);
            run(&mut block).expect(0);
        }
        wait_for_sql(&mut client, NO_BLOCK, PATIENCE)
    });
}
