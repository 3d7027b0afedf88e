//! Running the command as a user does, in an environment that nothing of the caller's leaks into.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod backup;
pub mod barman;
pub mod pgbackrest;
pub mod restored;
pub mod selected;
pub mod small_disk;

use std::process::{Child, Command, Output, Stdio};

use test_cluster::{Cluster, PATIENCE, Result, Server, wait_until};

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Fails unless it ended with this code.
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Fails unless standard error has all of these words.
    pub fn complains_of(self, words: &[&str]) -> Ended {
        for word in words {
            assert!(self.err.contains(word), "{word} is missing: {self:?}");
        }
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The command with these words.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_citus-fence"));
    command.args(words).stdin(Stdio::null());
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("PG") {
            command.env_remove(variable);
        }
    }
    // No service file, password file or certificate of whoever runs the test.
    command.env("HOME", "/nonexistent").env("LC_ALL", "C");
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    command.output().expect("the command can be run").into()
}

/// `citus-fence status` of a server over TCP, with more words.
pub fn status(server: &Server, more: &[&str]) -> Ended {
    run(&mut status_command(server.port(), more))
}

/// The same, of a port, and not yet run.
pub fn status_command(port: u16, more: &[&str]) -> Command {
    let mut command = command(&["status", "-h", test_cluster::HOST, "-p", &port.to_string()]);
    command.args(["-U", test_cluster::SUPERUSER, "-d", "postgres"]).args(more);
    command
}

/// A command that runs. It does not outlive the test.
pub struct Running(Option<Child>);

/// The same command, started through another program.
pub fn through(words: &[&str], command: &Command) -> Command {
    let mut other = Command::new(words[0]);
    other.args(&words[1..]).arg(command.get_program()).args(command.get_args());
    other.stdin(Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        other.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Starts a command whose outputs are kept.
pub fn start(command: &mut Command) -> Running {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    Running(Some(child.expect("the command can be run")))
}

impl Running {
    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("it has not been waited for")
    }

    /// Waits until it has ended.
    pub fn ended(mut self) -> Result<Ended> {
        let child = self.child();
        wait_until("the command to end", PATIENCE, || child.try_wait().ok().flatten())?;
        let child = self.0.take().expect("it has not been waited for");
        Ok(child.wait_with_output().expect("its output").into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may be gone by now, and is collected either way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `citus-fence dump` of a port into a directory, with more words, and not yet run.
pub fn dump_command(port: u16, dir: &std::path::Path, more: &[&str]) -> Command {
    let mut command = command(&["dump", "-h", test_cluster::HOST, "-p", &port.to_string()]);
    command.args(["-U", test_cluster::SUPERUSER, "-d", "postgres"]).args(more);
    if !more.contains(&"--bindir") {
        let installation = test_cluster::Installation::current().expect("PostgreSQL");
        command.arg("--bindir").arg(installation.bindir());
    }
    command.arg(dir);
    command
}

/// A pg_dump that waits until it is let go, and so a dump that has its snapshot and has copied nothing yet. A lock
/// that a test took before would hold up the snapshot itself, whose fence waits for every writer.
pub struct Gate(tempfile::TempDir);

impl Gate {
    pub fn new() -> Gate {
        Gate::of("pg_dump")
    }

    /// The same of another program.
    pub fn of(program: &str) -> Gate {
        Gate::written(program, "REACHED; WAIT; exec 'PROGRAM' \"$@\"")
    }

    /// A program that has done its work, and waits before it says so.
    pub fn after(program: &str) -> Gate {
        Gate::written(program, "'PROGRAM' \"$@\"; end=$?; REACHED; WAIT; exit $end")
    }

    fn written(program: &str, script: &str) -> Gate {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let real = test_cluster::Installation::current().expect("PostgreSQL").program(program);
        let script = script
            .replace("REACHED", ": > 'FOLDER/reached'")
            .replace("WAIT", "until [ -e 'FOLDER/open' ]; do sleep 0.02; done")
            .replace("FOLDER", &folder.path().display().to_string())
            .replace("PROGRAM", &real.display().to_string());
        let program = folder.path().join(program);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("a program");
        Gate(folder)
    }

    /// What `--bindir` is given.
    pub fn bindir(&self) -> &str {
        self.0.path().to_str().expect("a path")
    }

    /// Waits until the dump has come to it.
    pub fn wait(&self, running: &mut Running) -> Result<()> {
        let reached = self.0.path().join("reached");
        wait_until("the snapshot to be there", PATIENCE, || {
            let over = running.child().try_wait().expect("its state");
            assert!(over.is_none() || reached.exists(), "it has ended: {over:?}");
            reached.exists().then_some(())
        })
    }

    /// Lets it go.
    pub fn open(&self) {
        std::fs::write(self.0.path().join("open"), "").expect("a file");
    }
}

/// Makes a second database a cluster of its own, with or without this extension in it on the coordinator.
pub fn second_cluster(
    cluster: &Cluster,
    with_fence: bool,
) -> Result<test_cluster::postgres::Client> {
    let engine = cluster.engine();
    for node in cluster.nodes() {
        node.execute("CREATE DATABASE second")?;
        let mut client = node.connect_params().database("second").connect()?;
        let catalog = format!("CREATE EXTENSION {}", engine.catalog_extension());
        client.batch_execute(&catalog).expect("the catalog");
    }
    let mut second = cluster.coordinator().connect_params().database("second").connect()?;
    let (own, worker) = (cluster.coordinator().port(), cluster.worker(1).port());
    if with_fence && engine == test_cluster::Engine::Embedded {
        let mut there = cluster.worker(1).connect_params().database("second").connect()?;
        there.batch_execute("CREATE EXTENSION citus_fence").expect("the extension");
    }
    second
        .batch_execute(&format!(
            "SELECT citus_set_coordinator_host('127.0.0.1', {own}); \
             SELECT citus_add_node('127.0.0.1', {worker})"
        ))
        .expect("a second cluster");
    if with_fence {
        second.batch_execute("CREATE EXTENSION citus_fence").expect("the extension");
    }
    Ok(second)
}

/// The manifest of a dump.
pub fn manifest(dir: &std::path::Path) -> serde_json::Value {
    let text = std::fs::read(dir.join("manifest.json")).expect("a manifest");
    let mut value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    // What a test writes back is of its own hand.
    value.as_object_mut().expect("an object").remove("checksum");
    value
}

/// A database of its own on a server, to load what was dumped into.
pub fn fresh_database(server: &Server, name: &str) -> Result<test_cluster::postgres::Client> {
    server.execute(&format!("DROP DATABASE IF EXISTS {name}"))?;
    server.execute(&format!("CREATE DATABASE {name}"))?;
    server.connect_params().database(name).connect()
}

/// Loads a table's files by hand, as docs/dump.md shows it: `zstd -dc FILE | psql -c '\copy …'`. The table is
/// there already, and plain.
///
/// `quoted` is its name as SQL takes it.
pub fn load(
    server: &Server,
    database: &str,
    dir: &std::path::Path,
    table: &str,
    quoted: &str,
) -> Result<()> {
    let installation = test_cluster::Installation::current()?;
    let conninfo = server.connect_params().database(database).conninfo();
    let mut loaded = 0;
    let manifest = manifest(dir);
    for file in manifest["files"].as_array().expect("files") {
        if file["table"] != table {
            continue;
        }
        let columns: Vec<&str> = file["columns"]
            .as_array()
            .expect("columns")
            .iter()
            .filter_map(|c| c.as_str())
            .collect();
        let path = dir.join(file["path"].as_str().expect("a path"));
        let mut psql = installation.command("psql")?;
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo, "-c"]);
        psql.arg(format!("\\copy public.{quoted} ({}) FROM STDIN", columns.join(", ")));
        match path.extension().is_some_and(|ending| ending == "zst") {
            true => {
                let zstd =
                    Command::new("zstd").arg("-dc").arg(&path).stdout(Stdio::piped()).spawn();
                let mut zstd = zstd.expect("zstd is installed");
                psql.stdin(zstd.stdout.take().expect("its output"));
                let status = psql.status().expect("psql");
                assert!(status.success() && zstd.wait().expect("zstd").success(), "{path:?}");
            }
            false => {
                psql.stdin(std::fs::File::open(&path).expect("the file"));
                assert!(psql.status().expect("psql").success(), "{path:?}");
            }
        }
        loaded += 1;
    }
    assert!(loaded > 0, "no file of {table}, so this shows nothing");
    Ok(())
}
