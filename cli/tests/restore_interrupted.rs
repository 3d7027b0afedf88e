//! A copy whose recovery was cut off in its middle, as by a crash of the machine, is recovered by the next
//! `citus-fence restore all`; PostgreSQL alone does not start it any more.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::backup::{backup_mapped, finish, manifest, restore_all, write_manifest};
use common::run;
use fence_tests::on_each_engine;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{
    Cluster, Installation, PATIENCE, Result, give_tree_to_server_user, run_as_server_user,
    wait_until,
};

/// How often to try to hit the middle of a recovery.
const TRIES: usize = 20;

/// What is written while the nodes are copied, so that their recovery takes a while; it ends with the body.
fn while_written<R>(cluster: &Cluster, body: impl FnOnce() -> Result<R>) -> Result<R> {
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let mut client = cluster.connect(0)?;
    client.batch_execute("CREATE TABLE filler (n int)").expect("a table");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let rows = "INSERT INTO filler SELECT generate_series(1, 20000)";
                client.batch_execute(rows).expect("rows");
            }
        });
        body()
    })
}

/// A copy of a copy.
fn again(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
    give_tree_to_server_user(to)
}

/// A plain start of a copy, that nobody reaches; and the end of its log.
fn start(data: &Path, folder: &Path) -> Result<Child> {
    let log = fs::File::create(folder.join("log")).expect("a log");
    let mut command = Command::new(Installation::current()?.program("postgres"));
    command.arg("-D").arg(data).current_dir("/").stdin(Stdio::null());
    for setting in [
        "listen_addresses=",
        "shared_preload_libraries=",
        "max_prepared_transactions=200",
        "archive_mode=off",
        "hot_standby=off",
        "logging_collector=off",
    ] {
        command.args(["-c", setting]);
    }
    command.args(["-c", &format!("unix_socket_directories={}", folder.display())]);
    command.stdout(log.try_clone().expect("a log")).stderr(log);
    run_as_server_user(&mut command)?;
    Ok(command.spawn().expect("a server"))
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// Whether the control file still waits for the end of a backup.
fn is_in_the_middle(data: &Path) -> Result<bool> {
    let program = Installation::current()?.program("pg_controldata");
    let output = Command::new(program).env("LC_ALL", "C").arg("-D").arg(data).output();
    let text = String::from_utf8_lossy(&output.expect("pg_controldata").stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("Backup start location:"));
    Ok(!line.expect("a backup start location").ends_with(" 0/0"))
}

#[test]
fn a_recovery_that_was_cut_off_is_begun_anew() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let slowly = |_: &Path, _| vec!["--max-rate=20M".to_owned()];
        let dir = while_written(&cluster, || backup_mapped(&cluster, "cut", &slowly))?;
        let whole = dir.join("nodes/0/data");
        let folder = cluster.copy_target("cut-off", 0)?.with_file_name("alone");
        fs::create_dir(&folder).expect("a folder");
        give_tree_to_server_user(&folder)?;
        let places = cluster.places()?;
        let copy = places.nodes()[0].data_dir();

        let mut hit = false;
        for _ in 0..TRIES {
            again(&whole, &copy)?;
            let mut server = start(&copy, &folder)?;
            wait_until("the beginning of recovery", PATIENCE, || {
                let gone = server.try_wait().ok().flatten().is_some();
                (gone || log(&folder).contains("redo starts at")).then_some(())
            })?;
            let pid = Pid::from_raw(i32::try_from(server.id()).expect("a pid"));
            kill(pid, Signal::SIGQUIT).expect("a signal");
            server.wait().expect("its end");
            hit = is_in_the_middle(&copy)?;
            if hit {
                break;
            }
        }
        assert!(hit, "no recovery was met in its middle: this test shows nothing");

        // The control: started as it is, it dies at the end of its WAL.
        let alone = folder.join("data");
        again(&copy, &alone)?;
        let mut server = start(&alone, &folder)?;
        wait_until("the end of a plain start", PATIENCE, || server.try_wait().ok().flatten())?;
        assert!(log(&folder).contains("WAL ends before end of online backup"), "{}", log(&folder));

        let mut manifest = manifest(&dir);
        manifest["nodes"][0]["data"] = serde_json::Value::Null;
        write_manifest(&dir, &manifest);
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        places.configure()?;
        places.start()?;
        let restored = places.into_cluster();
        finish(restored.coordinator().port(), &[]).expect(0);
        let rows = "SELECT count(*) > 0 AND count(*) % 20000 = 0 FROM filler";
        assert_eq!(restored.coordinator().query_value(rows)?, "t");
        Ok(())
    });
}
