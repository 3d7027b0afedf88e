//! A restore that is killed, at every stage, and goes on: nothing is missing then, and nothing is there twice.

mod common;

use std::collections::BTreeSet;
use std::thread;

use common::restored::{create, portrait, restore_command, same};
use common::{Gate, dump_command, run, start};
use fence_tests::{Cluster, PATIENCE, Result, on_each_engine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::postgres::Client;

/// More kills than it can take: each run gets one step further at least.
const MOST_RUNS: usize = 400;

/// How far a restore is, by what is in the databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Far {
    begun: bool,
    before: bool,
    distributed: i64,
    files: i64,
    after: i64,
}

impl Far {
    fn of(clients: &mut [Client]) -> Far {
        let mut far = Far::default();
        for (node, client) in clients.iter_mut().enumerate() {
            let mut number = |sql: &str| client.query_one(sql, &[]).map(|row| row.get::<_, i64>(0));
            if node == 0 {
                far.distributed = number("SELECT count(*) FROM pg_dist_partition").unwrap_or(0);
            }
            let mut marks = |like: &str| {
                let sql = format!(
                    "SELECT count(*) FROM citus_fence_restore.progress WHERE what LIKE '{like}'"
                );
                // It is not there before and after.
                number(&sql).unwrap_or(0)
            };
            far.begun |= marks("dump %") > 0;
            far.before |= node == 0 && marks("before the data") > 0;
            far.files += marks("data %");
            far.after += marks("after the data %");
        }
        far
    }

    fn stage(&self) -> &'static str {
        match self {
            Far { begun: false, .. } => "nothing",
            Far { before: false, .. } => "before the data",
            Far { files: 0, .. } => "distribution",
            Far { after: 0, .. } => "data",
            _ => "after the data",
        }
    }
}

#[test]
fn killed_at_every_stage_it_goes_on_and_loads_nothing_twice() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(2).fsync(false).build()?;
        create(&source)?;
        let was = portrait(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("dump");
        run(&mut dump_command(source.coordinator().port(), &dir, &["--part-blocks", "1"]))
            .expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(3).fsync(false).build()?;
        let port = target.coordinator().port();
        let mut clients: Vec<Client> =
            (0..target.nodes().len()).map(|node| target.connect(node)).collect::<Result<_>>()?;
        let mut stages = BTreeSet::new();
        let (mut runs, mut last) = (0, "nothing");
        loop {
            runs += 1;
            assert!(runs < MOST_RUNS, "it never ends");
            let was = Far::of(&mut clients);
            let mut running = start(&mut restore_command(port, &dir, &["--resume", "--jobs", "3"]));
            let over = loop {
                if running.child().try_wait().expect("its state").is_some() {
                    break true;
                }
                if Far::of(&mut clients) != was {
                    break false;
                }
                thread::yield_now();
            };
            if over {
                let ended = running.ended()?;
                // The last run may have been killed when all was done, and nothing was left but to say so; or its psql,
                // which outlives it for a moment, has come to the end without it. That all is there is seen below.
                if ended.code != Some(0) {
                    assert!(["after the data", "nothing"].contains(&last), "at {last}: {ended:?}");
                    ended.expect(1).complains_of(&["no restore is under way", "to the end"]);
                }
                break;
            }
            // SIGKILL.
            running.child().kill().expect("killed");
            running.child().wait().expect("collected");
            last = Far::of(&mut clients).stage();
            stages.insert(last);
        }
        println!("{engine}: killed {} times, at {stages:?}", runs - 1);
        for stage in ["before the data", "distribution", "data", "after the data"] {
            assert!(stages.contains(stage), "not killed at \"{stage}\": {stages:?}");
        }
        same(&was, &portrait(&target)?);
        assert!(!Far::of(&mut clients).begun);
        Ok(())
    });
}

#[test]
fn told_to_stop_it_ends_and_says_how_to_go_on() {
    on_each_engine(|engine| {
        let source = Cluster::builder(engine).workers(1).fsync(false).build()?;
        create(&source)?;
        let was = portrait(&source)?;
        let folder = tempfile::tempdir().expect("a folder");
        let (dir, other) = (folder.path().join("dump"), folder.path().join("other"));
        run(&mut dump_command(source.coordinator().port(), &dir, &[])).expect(0);
        run(&mut dump_command(source.coordinator().port(), &other, &[])).expect(0);
        drop(source);

        let target = Cluster::builder(engine).workers(1).fsync(false).build()?;
        let port = target.coordinator().port();
        let gate = Gate::of("psql");
        let mut running = start(&mut restore_command(port, &dir, &["--bindir", gate.bindir()]));
        gate.wait(&mut running)?;
        run(&mut restore_command(port, &dir, &["--resume"]))
            .expect(1)
            .complains_of(&["another restore-dump is at work"]);
        let pid = Pid::from_raw(i32::try_from(running.child().id()).expect("a number"));
        kill(pid, Signal::SIGTERM).expect("told");
        running.ended()?.expect(1).complains_of(&["ended by SIGTERM", "--resume"]);
        // Its sessions have ended.
        test_cluster::wait_until("its sessions to end", PATIENCE, || {
            let sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'citus-fence'";
            target.coordinator().query(sql).ok().filter(Vec::is_empty)
        })?;

        run(&mut restore_command(port, &dir, &[]))
            .expect(1)
            .complains_of(&["was begun and not ended", "--resume"]);
        let wrong = run(&mut restore_command(port, &other, &["--resume"])).expect(1);
        wrong.complains_of(&["another dump"]);
        let ended = run(&mut restore_command(port, &dir, &["--resume", "--json"])).expect(0);
        assert!(ended.out.contains("\"resumed\":true"), "{ended:?}");
        same(&was, &portrait(&target)?);
        Ok(())
    });
}
