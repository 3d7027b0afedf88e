//! A backup in the shape of the manifest, and its restore by the command.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use test_cluster::{
    Cluster, HOST, Installation, Places, Result, SUPERUSER, WalMethod, run_as_server_user,
};

use super::{Ended, command, run};

/// Takes a backup by the command, as the servers' user: its directory.
pub fn backup(cluster: &Cluster, round: &str) -> Result<PathBuf> {
    let dir = cluster.copy_target(round, 0)?.with_file_name("backup");
    let bindir = Installation::current()?.bindir().display().to_string();
    let port = cluster.coordinator().port().to_string();
    let mut command = as_servers_user(&["backup", "-h", HOST, "-p", &port, "-U", SUPERUSER]);
    command.args(["-d", cluster.database(), "--bindir", &bindir]).arg(&dir);
    run(&mut command).expect(0);
    Ok(dir)
}

/// One in the same shape, made by hand, with more words for each node's pg_basebackup, from the backup's directory and
/// the group.
pub fn backup_mapped(
    cluster: &Cluster,
    round: &str,
    more: &dyn Fn(&Path, i64) -> Vec<String>,
) -> Result<PathBuf> {
    let target = cluster.copy_target(round, 0)?;
    let dir = target.parent().expect("a folder").to_owned();
    let coordinator = cluster.coordinator();
    let id = coordinator.query_value("SELECT citus_backup_block_start(120000)")?;
    let rows = coordinator.query(
        "SELECT nodeid::text, groupid::text, nodename, nodeport::text, system_identifier::text, timeline_id::text, \
         wal_lsn::text FROM citus_backup_block_nodes() ORDER BY groupid",
    )?;
    let mut nodes = Vec::new();
    for row in rows {
        let text = |column: usize| row[column].clone().expect("a value");
        let number = |column: usize| text(column).parse::<i64>().expect("a number");
        let group = number(1);
        let data = format!("nodes/{group}/data");
        let node = cluster.node(usize::try_from(group).expect("a node"));
        let more = more(&dir, group);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        node.base_backup_with(&dir.join(&data), WalMethod::Stream, &more)?;
        nodes.push(json!({
            "nodeid": number(0), "groupid": group, "name": text(2), "port": number(3),
            "system_identifier": number(4).cast_unsigned().to_string(), "timeline": number(5), "forks": [],
            "wal_lsn": text(6), "postgresql": "15", "bytes": 0, "data": data, "config": null,
            "tablespaces": [], "tool": "pg_basebackup"
        }));
    }
    let lasted = coordinator.query_value(&format!("SELECT citus_backup_block_stop({id})"))?;
    assert_eq!(lasted, "t", "the block has to last");
    let now = "2026-03-01T12:00:00Z";
    let manifest = json!({
        "format": "citus-fence backup", "version": 1, "citus_fence": "0.2.0", "database": cluster.database(),
        "citus_databases": [cluster.database()],
        "citus": if cluster.engine() == test_cluster::Engine::Citus { json!("13.2") } else { Value::Null },
        "block": {"id": id.parse::<i64>().expect("a number"), "mode": "2pc", "began_at": now, "ended_at": now,
                  "held_ms": 1},
        "nodes": nodes, "missing": []
    });
    write_manifest(&dir, &manifest);
    Ok(dir)
}

/// Its manifest.
pub fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("manifest.json")).expect("a manifest")).expect("JSON")
}

/// Writes one, by hand: without a checksum.
pub fn write_manifest(dir: &Path, manifest: &Value) {
    let mut manifest = manifest.clone();
    manifest.as_object_mut().expect("an object").remove("checksum");
    fs::write(dir.join("manifest.json"), manifest.to_string()).expect("a file");
}

/// The command as the servers' user.
pub fn as_servers_user(words: &[&str]) -> Command {
    let mut command = command(words);
    run_as_server_user(&mut command).expect("a user");
    // The socket of a first start has to have a short path.
    command.env("TMPDIR", "/tmp").current_dir("/");
    command
}

/// `restore all` of a backup to places, not yet run.
pub fn restore_all(dir: &Path, places: &Places, more: &[&str]) -> Command {
    let bindir = Installation::current().expect("PostgreSQL").bindir().display().to_string();
    let mut command = as_servers_user(&["restore", "all", "--bindir", &bindir]);
    command.arg(dir);
    for (group, node) in places.nodes().iter().enumerate() {
        command.arg("--to").arg(format!(
            "{group}={HOST}:{},{}",
            node.port(),
            node.data_dir().display()
        ));
    }
    command.args(more);
    command
}

/// `restore finish` at a port.
pub fn finish(port: u16, more: &[&str]) -> Ended {
    let port = port.to_string();
    let words = ["restore", "finish", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"];
    run(command(&words).args(more))
}

/// `check` at a port.
pub fn check(port: u16, more: &[&str]) -> Ended {
    let port = port.to_string();
    let words = ["check", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", "postgres"];
    run(command(&words).args(more))
}

/// How often each of some ports was connected to, since they were listened at.
pub struct Listeners {
    ports: HashMap<u16, std::net::TcpListener>,
}

impl Listeners {
    /// Listens where stopped servers were.
    pub fn at(ports: impl IntoIterator<Item = u16>) -> Listeners {
        let listen = |port| {
            let listener = std::net::TcpListener::bind((HOST, port)).expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            (port, listener)
        };
        Listeners { ports: ports.into_iter().map(listen).collect() }
    }

    /// Those who came, and have been let in by the kernel whether anybody looked or not.
    pub fn connections(&self) -> usize {
        self.ports
            .values()
            .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
            .sum()
    }
}
