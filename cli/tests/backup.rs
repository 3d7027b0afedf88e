//! `citus-fence backup`, `list`, `verify`: copies agree with each other, damage is found, and a failure leaves nothing.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ended, command, run, start};
use fence_tests::{Bank, on_each_engine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_cluster::{
    Audit, Cluster, HOST, Installation, PATIENCE, Result, SUPERUSER, WalMethod, Writers,
    wait_for_sql, wait_until,
};

/// Rounds that must all be clean.
const ROUNDS: usize = 2;
/// Rounds within which the control has to find damage.
const CONTROL_ROUNDS: usize = 5;
/// Transfers that are committed between two copies of the control: what makes its damage certain.
const BETWEEN_COPIES: u64 = 40;

const NO_BLOCK: &str = "SELECT state IN ('inactive', 'error') FROM citus_backup_block_status()";

fn bindir() -> Result<String> {
    Ok(Installation::current()?.bindir().display().to_string())
}

fn backup_command(cluster: &Cluster, dir: &Path, more: &[&str]) -> Result<Command> {
    let port = cluster.coordinator().port().to_string();
    let mut backup =
        command(&["backup", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"]);
    backup.args(["--bindir", &bindir()?]).args(more).arg(dir);
    Ok(backup)
}

fn backup(cluster: &Cluster, dir: &Path, more: &[&str]) -> Result<Ended> {
    Ok(run(&mut backup_command(cluster, dir, more)?))
}

fn verify(dir: &Path) -> Result<Ended> {
    Ok(run(command(&["verify", "--bindir", &bindir()?]).arg(dir)))
}

/// A place that the servers' user reaches.
fn place(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    Ok(cluster.copy_target(name, 0)?.with_file_name("backup"))
}

fn is_gone(dir: &Path) -> bool {
    !dir.exists()
}

/// The copies of a backup, by node, for the servers' user.
fn copies(cluster: &Cluster, dir: &Path) -> Vec<PathBuf> {
    let mut chown = Command::new("chown");
    let reference = format!("--reference={}", cluster.coordinator().data_dir().display());
    assert!(chown.arg("-R").arg(reference).arg(dir).status().expect("chown").success());
    let text = fs::read_to_string(dir.join("manifest.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let nodes = manifest["nodes"].as_array().expect("nodes").iter();
    let mut by_port: Vec<(u64, PathBuf)> = nodes
        .map(|node| {
            let data = dir.join(node["data"].as_str().expect("a path"));
            (node["port"].as_u64().expect("a port"), data)
        })
        .collect();
    (0..cluster.nodes().len())
        .map(|node| {
            let port = u64::from(cluster.catalog_port(node));
            let index =
                by_port.iter().position(|(of, _)| *of == port).expect("a copy of each node");
            by_port.swap_remove(index).1
        })
        .collect()
}

fn audit_of(cluster: &Cluster, bank: &Bank, copies: &[PathBuf], marks: &[String]) -> Result<Audit> {
    let restored = cluster.restore(copies)?;
    bank.audit(&restored, marks.iter().map(String::as_str))
}

fn acknowledged(writers: &Writers) -> Vec<String> {
    writers.marks().into_iter().map(|mark| mark.transfer).collect()
}

#[test]
fn the_copies_of_a_backup_agree_and_copies_without_it_do_not() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let writers = bank.start_writers(&cluster, 2)?;
        writers.wait_for_more(100, PATIENCE)?;
        for number in 0..ROUNDS {
            writers.wait_for_more(30, PATIENCE)?;
            let before = acknowledged(&writers);
            let dir = place(&cluster, &format!("round{number}"))?;
            let ended = backup(&cluster, &dir, &[])?.expect(0);
            assert!(ended.out.starts_with("backup of database \"postgres\""), "{ended:?}");
            let audit = audit_of(&cluster, &bank, &copies(&cluster, &dir), &before)?;
            assert!(audit.is_clean(), "round {number}: {audit}");
        }
        let mut damaged = false;
        for number in 0..CONTROL_ROUNDS {
            let mut taken = Vec::new();
            for (index, node) in cluster.nodes().iter().enumerate() {
                let copy = cluster.copy_target(&format!("control{number}"), index)?;
                node.base_backup(&copy, WalMethod::Stream)?;
                taken.push(copy);
                writers.wait_for_more(BETWEEN_COPIES, PATIENCE)?;
            }
            damaged = !audit_of(&cluster, &bank, &taken, &[])?.is_clean();
            if damaged {
                break;
            }
        }
        assert!(damaged, "copies without the block show no damage: this test shows nothing");
        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        Ok(())
    });
}

#[test]
fn damage_is_found_and_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let space = cluster.copy_target("space", 1)?;
        fs::create_dir_all(&space).expect("a folder");
        let reference = format!("--reference={}", cluster.coordinator().data_dir().display());
        assert!(
            Command::new("chown").arg(reference).arg(&space).status().expect("chown").success()
        );
        let mut client = cluster.connect(1)?;
        client
            .simple_query(&format!("CREATE TABLESPACE extra LOCATION '{}'", space.display()))
            .expect("a tablespace");
        client.simple_query("CREATE TABLE t TABLESPACE extra AS SELECT 1 AS x").expect("a table");

        let dir = place(&cluster, "whole")?;
        let ended = backup(&cluster, &dir, &["--json"])?.expect(0);
        let manifest: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!(manifest["format"], "citus-fence backup");
        assert_eq!(manifest["citus_databases"], serde_json::json!(["postgres"]));
        let worker = manifest["nodes"]
            .as_array()
            .and_then(|nodes| nodes.iter().find(|node| node["groupid"] != 0))
            .expect("the worker");
        let at = |name: &str| dir.join(worker[name].as_str().expect("a path"));
        let table_space = dir.join(worker["tablespaces"][0]["copy"].as_str().expect("a path"));
        assert!(table_space.join("..").join("..").join("data").is_dir());
        assert!(fs::read_dir(&table_space).expect("its copy").next().is_some());
        assert!(at("config").join("pg_hba.conf").is_file());
        verify(&dir)?.expect(0);
        let listed = run(command(&["list"]).arg(&dir)).expect(0);
        assert!(listed.out.contains("(group 0)"), "{listed:?}");

        // One bit of one file.
        let version = at("data").join("base").join("1").join("PG_VERSION");
        let whole = fs::read(&version).expect("a file");
        let mut flipped = whole.clone();
        flipped[0] ^= 1;
        fs::write(&version, &flipped).expect("a file");
        let port = worker["port"].to_string();
        verify(&dir)?.expect(1).complains_of(&["base/1/PG_VERSION", &port]);
        fs::write(&version, &whole).expect("a file");
        verify(&dir)?.expect(0);
        fs::remove_file(&version).expect("a file");
        verify(&dir)?.expect(1).complains_of(&["base/1/PG_VERSION", &port]);
        fs::write(&version, &whole).expect("a file");
        fs::remove_dir_all(&table_space).expect("a folder");
        verify(&dir)?.expect(1).complains_of(&["is missing", &port]);
        fs::remove_file(dir.join("manifest.json")).expect("a file");
        verify(&dir)?.expect(1).complains_of(&["manifest.json"]);
        run(command(&["list"]).arg(&dir)).expect(1);

        // What is there is never overwritten.
        backup(&cluster, &dir, &[])?.expect(2).complains_of(&["not empty"]);
        assert!(version.is_file());
        Ok(())
    });
}

#[test]
fn a_failure_leaves_neither_copies_nor_processes_nor_a_block() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        let no_block = |client: &mut test_cluster::postgres::Client| {
            client.query_one(NO_BLOCK, &[]).expect("a state").get::<_, bool>(0)
        };
        let worker = format!("{HOST}:{}", cluster.catalog_port(1));

        // A copy that fails on one node ends the whole, and says which: it takes no WAL senders.
        cluster.worker(1).alter_system("max_wal_senders", "0")?;
        cluster.worker(1).restart()?;
        let dir = place(&cluster, "senders")?;
        backup(&cluster, &dir, &[])?.expect(1).complains_of(&["pg_basebackup failed", &worker]);
        assert!(is_gone(&dir) && no_block(&mut client));
        cluster.worker(1).alter_system("max_wal_senders", "10")?;
        cluster.worker(1).restart()?;

        // It would take too long, and is not begun.
        backup(&cluster, &dir, &["--max-rate", "32k", "--max", "1s"])?
            .expect(1)
            .complains_of(&["--max"]);
        assert!(is_gone(&dir) && no_block(&mut client));

        // It does take too long.
        let slow = ["--max-rate", "32k", "--max", "1h"];
        let copying = "SELECT count(*) > 0 FROM pg_stat_progress_basebackup";
        for how in ["told", "released", "killed"] {
            let dir = place(&cluster, how)?;
            let mut child = start(&mut backup_command(
                &cluster,
                &dir,
                &[&slow[..], &["--lease", "3s"]].concat(),
            )?);
            wait_for_sql(&mut client, copying, PATIENCE)?;
            let pid = Pid::from_raw(i32::try_from(child.child().id()).expect("a pid"));
            match how {
                "told" => {
                    kill(pid, Signal::SIGTERM).expect("a signal");
                    child.ended()?.expect(1).complains_of(&["ended by SIGTERM"]);
                    assert!(is_gone(&dir));
                }
                "released" => {
                    client
                        .simple_query("SELECT citus_unblock_writes_for_backup()")
                        .expect("a release");
                    child.ended()?.expect(1).complains_of(&["did not last"]);
                    assert!(is_gone(&dir));
                }
                _ => {
                    kill(pid, Signal::SIGKILL).expect("a signal");
                    wait_until("its end", PATIENCE, || child.child().try_wait().ok().flatten())?;
                    wait_for_sql(&mut client, NO_BLOCK, PATIENCE)?;
                    // Nobody was left to take the copies away: without a manifest they are no backup.
                    verify(&dir)?.expect(1).complains_of(&["no backup"]);
                }
            }
            wait_for_sql(
                &mut client,
                "SELECT count(*) = 0 FROM pg_stat_progress_basebackup",
                PATIENCE,
            )?;
            assert!(no_block(&mut client), "{how}");
        }
        Ok(())
    });
}

/// Another database of the same servers may be a cluster whose coordinator is one of the workers here: its commits would
/// be cut in half in the copies, and nobody could hold it from here.
#[test]
fn a_cluster_whose_coordinator_is_a_worker_here_is_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let workers = [cluster.worker(1), cluster.worker(2)];
        for worker in workers {
            worker.execute("CREATE DATABASE aside")?;
            let mut there = worker.connect_params().database("aside").connect()?;
            let catalog = format!("CREATE EXTENSION {}", engine.catalog_extension());
            there.batch_execute(&catalog).expect("the catalog");
        }
        let dir = place(&cluster, "named")?;
        // By itself it is no cluster yet.
        let mut aside = workers[0].connect_params().database("aside").connect()?;
        let own = workers[0].port();
        aside
            .batch_execute(&format!("SELECT citus_set_coordinator_host('127.0.0.1', {own})"))
            .expect("a coordinator");
        backup(&cluster, &dir, &[])?.expect(0);
        fs::remove_dir_all(&dir).expect("its end");
        aside
            .batch_execute(&format!("SELECT citus_add_node('127.0.0.1', {})", workers[1].port()))
            .expect("a cluster");
        let said = ["\"aside\"", &own.to_string(), "--only-this-database"];
        backup(&cluster, &dir, &[])?.expect(1).complains_of(&said);
        assert!(is_gone(&dir));
        backup(&cluster, &dir, &["--only-this-database"])?.expect(0);
        Ok(())
    });
}

/// Workers that were split off one source have its system identifier, and may be as far in their WAL: what answers is told
/// by its group.
#[test]
fn a_nodes_twin_is_not_copied_in_its_place() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut twins = Vec::new();
        for group in [11, 12] {
            let twin = cluster.clone_of(1)?;
            cluster.wait_in_step(&twin, PATIENCE)?;
            twin.server().execute("SELECT pg_promote()")?;
            twin.server().execute(&format!("UPDATE pg_dist_local_group SET groupid = {group}"))?;
            twins.push((group, twin));
        }
        let servers: Vec<_> =
            cluster.nodes().iter().chain(twins.iter().map(|(_, twin)| twin.server())).collect();
        for (group, twin) in &twins {
            for server in &servers {
                server.execute(&format!(
                    "INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, hasmetadata, metadatasynced, isactive)
                     VALUES ({group}, {group}, '127.0.0.1', {}, true, true, true)",
                    twin.catalog_port()
                ))?;
            }
        }
        // One that is further than the other: its copy would be far enough in the other's place.
        twins[0].1.server().execute("SELECT pg_switch_wal()")?;
        let dir = place(&cluster, "twins")?;
        let other = format!("12=port={}", twins[0].1.server().port());
        backup(&cluster, &dir, &["--node", &other])?.expect(1).complains_of(&[
            "(group 12)",
            "node 11 answers here",
            "--node 12=CONNINFO",
        ]);
        assert!(is_gone(&dir));
        // The control: nothing else is wrong with it, and the identifiers do not tell.
        backup(&cluster, &dir, &[])?.expect(0);
        let text = fs::read(dir.join("manifest.json")).expect("a manifest");
        let kept: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let identifier = |at: usize| kept["nodes"][at]["system_identifier"].clone();
        assert_eq!(identifier(2), identifier(3), "{kept}");
        Ok(())
    });
}

/// A backup is of the nodes of one database. Another one of the same coordinator may have nodes of its own besides.
#[test]
fn a_node_that_only_another_database_has_is_named() {
    on_each_engine(|engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let spare = cluster.start_spare("spare")?;
        let mut second = common::second_cluster(&cluster, true)?;
        // The same server by another name is no other node.
        second
            .batch_execute("UPDATE pg_dist_node SET nodename = 'localhost' WHERE groupid <> 0")
            .expect("a name");
        let dir = place(&cluster, "besides")?;
        backup(&cluster, &dir, &[])?.expect(0);
        fs::remove_dir_all(&dir).expect("its end");
        let row = format!(
            "INSERT INTO pg_dist_node (nodeid, groupid, nodename, nodeport, isactive) VALUES (9, 9, '127.0.0.1', {}, true)",
            spare.port()
        );
        second.batch_execute(&row).expect("a node");
        let said = ["\"second\"", &spare.port().to_string(), "--only-this-database"];
        backup(&cluster, &dir, &[])?.expect(1).complains_of(&said);
        assert!(is_gone(&dir));
        backup(&cluster, &dir, &["--only-this-database"])?.expect(0);
        Ok(())
    });
}
