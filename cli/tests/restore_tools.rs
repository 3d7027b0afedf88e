//! Copies that another tool makes and keeps: `backup --exec` and `restore-point --dir`, with the real pgBackRest.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::backup::{as_servers_user, backup, finish, manifest, restore_all};
use common::barman::Barman;
use common::pgbackrest::PgBackRest;
use common::{Ended, run};
use fence_tests::on_each_engine;
use test_cluster::{
    Bank, Cluster, Engine, HOST, Installation, PATIENCE, Places, Result, SUPERUSER, StopMode,
    WalMethod, give_tree_to_server_user, whole_matrix,
};

/// A subcommand on the coordinator, as the servers' user.
fn on_coordinator(cluster: &Cluster, subcommand: &str) -> Command {
    let port = cluster.coordinator().port().to_string();
    let words = [subcommand, "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", cluster.database()];
    as_servers_user(&words)
}

fn archiving_cluster(engine: Engine) -> Result<Cluster> {
    // A command that archives nothing until there is a repository.
    let cluster = Cluster::builder(engine).workers(2).setting("archive_mode", "on");
    cluster.setting("archive_command", "false").identifiers_of_today().build()
}

fn free_place(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    Ok(cluster.copy_target(name, 0)?.with_file_name("backup"))
}

/// Starts prepared places as a cluster, and finishes the restore.
fn finished(places: Places) -> Result<Cluster> {
    places.configure()?;
    places.start()?;
    let restored = places.into_cluster();
    let finished = finish(restored.coordinator().port(), &[]).expect(0);
    assert!(finished.out.contains("is finished"), "{finished:?}");
    Ok(restored)
}

/// A bank under load, copied by a command under a block, and restored once the tool has brought the copies to their places.
fn come_back_whole(
    cluster: &Cluster,
    exec: &str,
    bring: impl FnOnce(&Path, &Places),
) -> Result<()> {
    let bank = Bank::create(cluster, 60, 1_000)?;
    let writers = bank.start_writers(cluster, 2)?;
    writers.wait_for_more(50, PATIENCE)?;
    let began = Instant::now();
    let dir = free_place(cluster, "exec")?;
    run(on_coordinator(cluster, "backup").args(["--exec", exec]).arg(&dir)).expect(0);
    // What comes after the copies is in the archive too, and must not come back.
    writers.wait_for_more(50, PATIENCE)?;
    let summary = writers.stop();
    let places = cluster.places()?;
    bring(&dir, &places);
    run(&mut restore_all(&dir, &places, &[])).expect(0);
    let restored = finished(places)?;
    let audit = bank.audit(&restored, summary.transfers_before(began))?;
    assert!(audit.is_clean(), "{audit}");
    Ok(())
}

#[test]
fn copies_of_pgbackrest_under_a_block_come_back_whole() {
    if !PgBackRest::is_installed() {
        return;
    }
    on_each_engine(|engine| {
        let cluster = archiving_cluster(engine)?;
        let tool = PgBackRest::of(&cluster)?;
        let exec = tool.line("{groupid}", "--type=full backup");
        come_back_whole(&cluster, &exec, |dir, places| {
            let kept = manifest(dir);
            assert_eq!(kept["nodes"][2]["tool"], exec.as_str(), "{kept}");
            assert!(dir.join("nodes/1/output").is_file() && kept["nodes"][1]["data"].is_null());
            let verified = run(as_servers_user(&["verify"]).arg(dir)).expect(0);
            assert!(verified.out.contains("3 are kept by another tool"), "{verified:?}");
            let refused = |words: &[&str]| {
                run(&mut restore_all(dir, places, &[])).expect(1).complains_of(words);
            };
            refused(&["is no data directory", "pgbackrest", "bring it there"]);
            // Somebody's next backup of one node, which the tool would bring unless told otherwise.
            let info = tool.run(1, &["info", "--output=json"]).out;
            let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
            let label = info[0]["backup"][0]["label"].as_str().expect("a label");
            tool.run(1, &["--type=full", "backup"]);
            tool.restore(places, &[]);
            refused(&["node 1", "goes on from WAL", "the end of the block", "their newest"]);
            let data = places.nodes()[1].data_dir();
            std::fs::remove_dir_all(&data).expect("a directory");
            tool.restore_to(1, &data, &[&format!("--set={label}")]);
        })
    });
}

#[test]
fn copies_of_barman_under_a_block_come_back_whole() {
    if !Barman::is_installed() {
        return;
    }
    on_each_engine(|engine| {
        let cluster = archiving_cluster(engine)?;
        let tool = Barman::of(&cluster)?;
        let exec = tool.line("backup --wait n{groupid}");
        come_back_whole(&cluster, &exec, |dir, places| {
            tool.restore(places);
            // Cut off once its recovery has ended: what it has written since does not make it a later copy.
            let words = ["--superuser", "nobody_of_that_name"];
            run(&mut restore_all(dir, places, &words)).expect(1).complains_of(&["superuser"]);
        })
    });
}

#[test]
fn copies_of_any_time_come_to_one_restore_point() {
    if !PgBackRest::is_installed() {
        return;
    }
    on_each_engine(|engine| {
        let cluster = archiving_cluster(engine)?;
        let tool = PgBackRest::of(&cluster)?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        for round in 0..if whole_matrix() { 5 } else { 1 } {
            let writers = bank.start_writers(&cluster, 2)?;
            // Each at a moment of its own, with nobody held.
            for group in 0..cluster.nodes().len() {
                tool.run(group, &["--type=full", "backup"]);
                writers.wait_for_more(20, PATIENCE)?;
            }
            let before = Instant::now();
            let dir = free_place(&cluster, &format!("point{round}"))?;
            let words = ["nightly", "--dir", &dir.display().to_string()];
            run(on_coordinator(&cluster, "restore-point").args(words)).expect(0);
            writers.wait_for_more(20, PATIENCE)?;
            let summary = writers.stop();

            let places = cluster.places()?;
            // Whatever target the tool was told of, ours is the one that counts.
            let told: [&[&str]; 3] = [
                &[],
                &["--type=immediate", "--target-action=promote"],
                &["--type=name", "--target=another", "--target-action=pause"],
            ];
            for (group, node) in places.nodes().iter().enumerate() {
                tool.restore_to(group, &node.data_dir(), told[(group + round) % told.len()]);
            }
            // One host after the other, as if each saw its own nodes alone.
            per_host(&dir, &places);
            let restored = finished(places)?;
            let audit = bank.audit(&restored, summary.transfers_before(before))?;
            assert!(audit.is_clean(), "round {round}: {audit}");
        }

        // A copy that was begun after the point cannot be brought back to it, and is told apart before anything starts.
        let dir = cluster.copy_target("point0", 0)?.with_file_name("backup");
        for group in 0..cluster.nodes().len() {
            tool.run(group, &["--type=full", "backup"]);
        }
        let places = cluster.places()?;
        tool.restore(&places, &[]);
        run(&mut restore_all(&dir, &places, &[])).expect(1).complains_of(&[
            "goes on from WAL",
            "the restore point \"nightly-",
            "Nothing has been changed",
        ]);
        for node in places.nodes() {
            assert!(!node.data_dir().join("citus_fence.restore").exists(), "it was touched");
        }
        Ok(())
    });
}

/// `restore prepare` and `promote`, with worker 2 on a host of its own.
fn per_host(dir: &Path, places: &Places) {
    let steps = |step: &str, here: &[usize], more: &[&str]| -> Ended {
        let bindir = test_cluster::Installation::current().expect("PostgreSQL");
        let mut command = as_servers_user(&["restore", step, "--bindir"]);
        command.arg(bindir.bindir()).arg(dir);
        for (group, node) in places.nodes().iter().enumerate() {
            let address = format!("{group}={HOST}:{}", node.port());
            command.arg("--to").arg(match here.contains(&group) {
                true => format!("{address},{}", node.data_dir().display()),
                false => address,
            });
        }
        command.args(here.iter().flat_map(|group| ["--node".to_owned(), group.to_string()]));
        run(command.args(more))
    };
    // In a wrong order, each says what is missing.
    steps("promote", &[0, 1], &["--all-reached"])
        .expect(1)
        .complains_of(&["has not reached", "restore prepare"]);
    let reached = steps("prepare", &[0, 1], &[]).expect(0);
    assert!(reached.out.contains("has reached nightly-"), "{reached:?}");
    steps("promote", &[0, 1], &[]).expect(2).complains_of(&["--all-reached"]);
    steps("promote", &[2], &["--all-reached"]).expect(1).complains_of(&["has not reached"]);
    steps("prepare", &[2], &[]).expect(0);
    for here in [&[2][..], &[0, 1]] {
        let ready = steps("promote", here, &["--all-reached"]).expect(0);
        assert!(ready.out.contains("restore finish -h"), "{ready:?}");
        // Once more changes nothing.
        steps("promote", here, &["--all-reached"]).expect(0);
    }
}

#[test]
fn another_point_of_the_same_name_and_a_server_that_is_no_copy_are_found() {
    on_each_engine(|engine| {
        let archive = tempfile::tempdir().expect("a folder");
        let path = archive.path().display().to_string();
        give_tree_to_server_user(archive.path())?;
        let mut builder = Cluster::builder(engine).workers(1).setting("archive_mode", "on");
        for group in 0..2 {
            std::fs::create_dir(archive.path().join(group.to_string())).expect("a folder");
            builder =
                builder.node_setting(group, "archive_command", &format!("cp %p {path}/{group}/%f"));
        }
        give_tree_to_server_user(archive.path())?;
        let cluster = builder.build()?;
        let copies = |round: &str, places: &Places| -> Result<()> {
            for (group, node) in cluster.nodes().iter().enumerate() {
                let copy = cluster.copy_target(round, group)?;
                node.base_backup(&copy, WalMethod::Fetch)?;
                std::fs::rename(&copy, places.nodes()[group].data_dir()).expect("a place");
            }
            Ok(())
        };
        let point = |name: &str| -> Result<PathBuf> {
            let dir = free_place(&cluster, name)?;
            let words = ["--exact-name", "same", "--dir", &dir.display().to_string()];
            run(on_coordinator(&cluster, "restore-point").args(words)).expect(0);
            Ok(dir)
        };
        let command = format!("cp {path}/{{groupid}}/%f %p");
        let places = cluster.places()?;
        copies("early", &places)?;
        let first = point("first")?;
        let second = point("second")?;
        // Recovery stops at the first of the name.
        run(&mut restore_all(&second, &places, &["--restore-command", &command]))
            .expect(1)
            .complains_of(&["recovery has stopped at WAL", "\"same\" is at", "another one"]);
        let places = cluster.places()?;
        copies("again", &places)?;
        run(&mut restore_all(&first, &places, &["--restore-command", &command]))
            .expect(1)
            .complains_of(&["goes on from WAL"]);

        // Production itself, stopped, is no copy of its own, and nothing of it is touched.
        let mut restore = as_servers_user(&["restore", "all"]);
        restore.arg("--bindir").arg(Installation::current()?.bindir()).arg(&second);
        for (group, node) in cluster.nodes().iter().enumerate() {
            node.stop(StopMode::Fast)?;
            let port = places.nodes()[group].port();
            restore.arg("--to").arg(format!("{group}={HOST}:{port},{}", node.data_dir().display()));
        }
        run(restore.args(["--restore-command", &command]))
            .expect(1)
            .complains_of(&["or no copy", "Nothing has been changed"]);
        for node in cluster.nodes() {
            node.start()?;
        }
        Ok(())
    });
}

#[test]
fn a_copy_whose_restore_was_cut_off_does_not_start() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let dir = backup(&cluster, "cut")?;
        let places = cluster.places()?;
        // Its first start finds no superuser, and so it ends in the middle.
        run(&mut restore_all(&dir, &places, &["--superuser", "nobody_of_that_name"])).expect(1);
        for node in places.nodes() {
            assert!(node.data_dir().join("global/pg_control").is_file(), "it was not copied");
        }
        // Not even by whoever gives it a configuration.
        for node in places.nodes() {
            let kept = node.data_dir().join("postgresql.conf.during-restore");
            let conf = node.data_dir().join("postgresql.conf");
            assert!(!conf.exists());
            std::fs::copy(kept, &conf).expect("a configuration");
            give_tree_to_server_user(&conf)?;
        }
        places.configure()?;
        let refusal = places.start().expect_err("a copy that knows production has started");
        assert!(refusal.to_string().contains("postgresql.auto.conf"), "{refusal}");
        run(&mut restore_all(&dir, &places, &[])).expect(0);
        finished(places)?;
        Ok(())
    });
}

#[test]
fn a_command_that_fails_is_named_and_leaves_nothing_and_no_block() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let dir = free_place(&cluster, "fails")?;
        let exec =
            |text: &str| run(on_coordinator(&cluster, "backup").args(["--exec", text]).arg(&dir));
        let port = cluster.worker(1).port().to_string();
        exec("echo no room on {name} >&2; test {groupid} != 1 || exit 7; sleep 600")
            .expect(1)
            .complains_of(&[&port, "the command of --exec", "exit status: 7", "no room on"]);
        assert!(!dir.exists(), "what was made is gone");
        let state = "SELECT state FROM citus_backup_block_status()";
        assert_eq!(cluster.coordinator().query_value(state)?, "inactive");

        // Nor is one good that has not ended with its command.
        exec("sleep 600 & exit 0").expect(1).complains_of(&["left processes behind"]);
        assert!(!dir.exists());
        exec(" ").expect(2);

        // What the command is told is true of each node; a shell gets nothing that it would take apart.
        let told = "test -d {datadir}/base && test \"$CITUS_FENCE_NODE_GROUPID\" = {groupid} && \
                    test -n \"$CITUS_FENCE_NODE_WAL_LSN\" && echo {host}:{port} \"$CITUS_FENCE_BLOCK_ID\"";
        exec(told).expect(0);
        let output = |group: usize| {
            let path = dir.join(format!("nodes/{group}/output"));
            std::fs::read_to_string(path).expect("its words")
        };
        let id = manifest(&dir)["block"]["id"].to_string();
        assert_eq!(output(1), format!("{HOST}:{port} {id}\n"));
        assert_ne!(output(1), output(2));
        Ok(())
    });
}

#[test]
fn a_backup_is_prepared_host_by_host() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 20, 1_000)?;
        let dir = backup(&cluster, "hosts")?;
        let places = cluster.places()?;
        let bindir = test_cluster::Installation::current()?.bindir().display().to_string();
        let step = |step: &str, here: usize| {
            let mut command = as_servers_user(&["restore", step, "--bindir", &bindir]);
            command.arg(&dir).args(["--node", &here.to_string()]);
            for (group, node) in places.nodes().iter().enumerate() {
                let data = match group == here {
                    true => format!(",{}", node.data_dir().display()),
                    false => String::new(),
                };
                command.arg("--to").arg(format!("{group}={HOST}:{}{data}", node.port()));
            }
            run(&mut command)
        };
        step("prepare", 7).expect(2).complains_of(&["--node 7 has no --to"]);
        step("promote", 0).expect(2).complains_of(&["without a restore point"]);
        for here in [1, 2, 0] {
            let ready = step("prepare", here).expect(0);
            // Once one answers, the others are not prepared any more.
            assert!(
                ready.out.contains("every host, and not before: keep clients out, start"),
                "{ready:?}"
            );
        }
        // What each has been given are the addresses of all.
        let restored = finished(places)?;
        let audit = bank.audit(&restored, std::iter::empty())?;
        assert!(audit.is_clean(), "{audit}");
        Ok(())
    });
}
