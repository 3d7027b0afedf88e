//! The `citus-fence` command as an operator types it: the words, and what it prints.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use test_cluster::{Cluster, HOST, Installation, Places, SUPERUSER, run_as_server_user};

use crate::console::Console;
use crate::error::{DemoError, Result};
use crate::outcome::{BlockTimes, NodeCopy};

/// How often a copy is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The part of a backup's manifest that is drawn.
#[derive(Deserialize)]
struct Manifest {
    block: Block,
}

#[derive(Deserialize)]
struct Block {
    began_at: DateTime<Utc>,
}

/// A backup that is being taken.
pub struct Backup {
    child: Child,
    words: String,
    dir: PathBuf,
    copies: Vec<(Option<Instant>, Option<Instant>)>,
}

impl Backup {
    /// Starts one of all nodes.
    pub fn start(console: &Console, cluster: &Cluster, round: &str) -> Result<Backup> {
        let dir = cluster.copy_target(round, 0)?.with_file_name("backup");
        let port = cluster.coordinator().port().to_string();
        let words = ["backup", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", cluster.database()];
        let mut command = program(&words)?;
        command.arg(&dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(DemoError::file("run", "citus-fence"))?;
        let words = format!("citus-fence {} {}", words.join(" "), dir.display());
        console.block(format!("$ {words}"));
        let copies = vec![(None, None); cluster.nodes().len()];
        Ok(Backup { child, words, dir, copies })
    }

    /// Looks after the copies; whether all have begun, and none of them have ended.
    pub fn is_copying(&mut self) -> Result<bool> {
        for (group, (began, ended)) in self.copies.iter_mut().enumerate() {
            let data = self.dir.join(format!("nodes/{group}/data"));
            let now = Instant::now();
            if began.is_none() && data.is_dir() {
                *began = Some(now);
            }
            // It is put in place when all else is there.
            if ended.is_none() && data.join("backup_manifest").is_file() {
                *ended = Some(now);
            }
        }
        Ok(self.copies.iter().all(|(began, ended)| began.is_some() && ended.is_none()))
    }

    /// Waits a moment; false if it has ended meanwhile.
    pub fn goes_on(&mut self) -> Result<bool> {
        std::thread::sleep(LOOK_EVERY); // wait: between two looks
        let ended = self.child.try_wait().map_err(DemoError::file("wait for", "citus-fence"))?;
        Ok(ended.is_none())
    }

    /// Its directory, the times of its block, and those of the copies. It has ended.
    pub fn end(self, console: &Console) -> Result<(PathBuf, BlockTimes, Vec<NodeCopy>)> {
        let output = self.child.wait_with_output();
        let output = output.map_err(DemoError::file("wait for", "citus-fence"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        console.block(&text);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(DemoError::Command { words: self.words, said });
        }
        let path = self.dir.join("manifest.json");
        let manifest = std::fs::read(&path).map_err(DemoError::file("read", &path))?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| DemoError::file("read", &path)(error.into()))?;
        let since = (Utc::now() - manifest.block.began_at).to_std().unwrap_or_default();
        let now = Instant::now();
        let copies: Vec<NodeCopy> = self
            .copies
            .into_iter()
            .filter_map(|(began, ended)| Some(NodeCopy { began: began?, ended: ended? }))
            .collect();
        // The block ends after the last copy: until then it has to have held.
        let last = copies.iter().map(|copy| copy.ended).max();
        let block = BlockTimes { active: now - since, release_asked: last.unwrap_or(now) };
        Ok((self.dir, block, copies))
    }
}

/// Brings a backup up as a cluster of its own.
pub fn restore(console: &Console, cluster: &Cluster, dir: &Path) -> Result<Cluster> {
    let places: Places = cluster.places()?;
    let mut words = vec!["restore".to_owned(), "all".into(), dir.display().to_string()];
    for (group, node) in places.nodes().iter().enumerate() {
        let data = node.data_dir();
        words.push("--to".into());
        words.push(format!("{group}={HOST}:{},{}", node.port(), data.display()));
    }
    show(console, &words)?;
    places.configure()?;
    places.start()?;
    console.say("all started");
    let restored = places.into_cluster();
    let port = restored.coordinator().port().to_string();
    let finish =
        ["restore", "finish", "-h", HOST, "-p", &port, "-U", SUPERUSER, "-d", restored.database()];
    show(console, &finish.map(str::to_owned))?;
    Ok(restored)
}

/// Runs it to its good end, and shows words and output.
fn show(console: &Console, words: &[String]) -> Result<()> {
    let plain: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = program(&plain)?.output().map_err(DemoError::file("run", "citus-fence"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let typed = format!("citus-fence {}", words.join(" ").replace(" --to", " \\\n    --to"));
    console.block(format!("$ {typed}\n{text}"));
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(DemoError::Command { words: typed, said })
        }
    }
}

/// It, as the servers' user.
fn program(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(Installation::current()?.program("citus-fence"));
    command.args(words).stdin(Stdio::null()).current_dir("/");
    // The socket of a first start has to have a short path.
    command.env("TMPDIR", "/tmp");
    run_as_server_user(&mut command)?;
    Ok(command)
}
