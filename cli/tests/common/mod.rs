//! Running the command as a user does, in an environment that nothing of the caller's leaks into.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod backup;

use std::process::{Child, Command, Output, Stdio};

use test_cluster::{PATIENCE, Result, Server, wait_until};

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
