//! The real pgbench as a load: started, looked at, stopped. It goes away with its value.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::binaries::{Installation, run};
use crate::error::{Error, IoContext, Result};
use crate::os_user::give_to_server_user;
use crate::server::Server;
use crate::settings::write_for_server;
use crate::wait::try_wait_until;

/// A running pgbench.
#[derive(Debug)]
pub struct PgBench {
    child: Child,
    output: std::path::PathBuf,
}

impl Server {
    /// Starts pgbench with a script of its own and so many sessions, for as long as it is let. A
    /// session ends at its first error, and pgbench with its last session.
    pub fn pgbench(&self, script: &str, sessions: u32, more: &[&str]) -> Result<PgBench> {
        let tag: String = std::iter::repeat_with(fastrand::lowercase).take(8).collect();
        let script_path = self.socket_dir().join(format!("pgbench-{tag}.sql"));
        write_for_server(&script_path, script)?;
        let output = script_path.with_extension("log");
        let log = File::create(&output).at("cannot create", &output)?;
        give_to_server_user(&output)?;
        let also_log = log.try_clone().at("cannot open", &output)?;
        let installation = Installation::current()?;
        let mut command = installation.command("pgbench")?;
        command
            .args(["-n", "-T", "3600", "-j", "2", "-c", &sessions.to_string()])
            .args(more)
            .arg("-f")
            .arg(&script_path)
            .arg(self.connect_params().application_name("pgbench").conninfo())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(also_log));
        let child = command.spawn().at("cannot run", installation.program("pgbench"))?;
        Ok(PgBench { child, output })
    }

    /// Runs pgbench with these arguments to its end, and returns what it prints.
    pub fn pgbench_to_end(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Installation::current()?.command("pgbench")?;
        command.args(arguments).arg(self.connect_params().application_name("pgbench").conninfo());
        run(self.name(), Some(&self.log_path()), &mut command)
    }
}

impl PgBench {
    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until it has ended by itself, because every session got an error.
    pub fn wait_for_end(&mut self, timeout: Duration) -> Result<String> {
        let output = self.output.clone();
        try_wait_until("the end of pgbench", timeout, || {
            self.child.try_wait().at("cannot wait for", &output)
        })
        .map_err(|error| match error {
            Error::Timeout { what, waited } => {
                Error::Timeout { what: format!("{what}: {}", self.output()).into(), waited }
            }
            other => other,
        })?;
        Ok(self.output())
    }

    /// Kills it. Its sessions notice when they next talk to it.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for PgBench {
    fn drop(&mut self) {
        self.end();
    }
}
