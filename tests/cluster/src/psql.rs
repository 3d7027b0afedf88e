//! The real psql, kept open: what somebody at a terminal sees, its times among it.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use crate::binaries::Installation;
use crate::error::{IoContext, Result};
use crate::process::Program;
use crate::server::Server;

/// A psql that waits for statements. It goes away with its value.
#[derive(Debug)]
pub struct Psql {
    _child: Program,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    server: String,
}

impl Server {
    /// Starts psql, with `\timing` on.
    pub fn psql_session(&self) -> Result<Psql> {
        let installation = Installation::current()?;
        let program = installation.program("psql");
        let mut child = installation
            .command("psql")?
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(self.connect_params().application_name("psql").conninfo())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .at("cannot run", &program)?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(self.error("has a psql without pipes"));
        };
        input.write_all(b"\\timing on\n").at("cannot write to", &program)?;
        Ok(Psql {
            _child: Program(child),
            input,
            output: BufReader::new(output),
            server: self.name().to_owned(),
        })
    }
}

impl Psql {
    /// How long a statement took, as psql says. One that fails ends it.
    pub fn time(&mut self, statement: &str) -> Result<Duration> {
        let place = std::path::PathBuf::from(format!("psql on {}", self.server));
        writeln!(self.input, "{statement};").at("cannot write to", &place)?;
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).at("cannot read from", &place)?;
            if read == 0 {
                let end = std::io::Error::other(format!("it ended at {statement}"));
                return Err(end).at("cannot read from", &place);
            }
            if let Some(time) = milliseconds(&line) {
                return Ok(time);
            }
        }
    }
}

/// A psql with one call, and with nobody who hears more than warnings.  It goes away with its value.
#[derive(Debug)]
pub struct PsqlCall(Program);

impl Server {
    /// Starts one, after some settings.
    pub fn psql_call(&self, settings: &str, call: &str) -> Result<PsqlCall> {
        let installation = Installation::current()?;
        let program = installation.program("psql");
        let child = installation
            .command("psql")?
            .args(["-X", "-A", "-t", "-q", "-d"])
            .arg(self.connect_params().application_name("psql").conninfo())
            .args(["-c", &format!("SET client_min_messages = warning; {settings}"), "-c", call])
            .stdout(Stdio::null())
            .spawn()
            .at("cannot run", &program)?;
        Ok(PsqlCall(Program(child)))
    }
}

impl PsqlCall {
    /// Ends it as it is: the kernel closes its socket, and nobody says goodbye.
    pub fn kill(self) {}

    /// Whether its call succeeded.
    pub fn succeeds(mut self) -> bool {
        self.0.0.wait().is_ok_and(|status| status.success())
    }
}

/// What is in a line such as `Time: 1500.250 ms (00:01.500)`.
fn milliseconds(line: &str) -> Option<Duration> {
    let number = line.strip_prefix("Time: ")?.split_once(" ms")?.0;
    Some(Duration::from_secs_f64(number.parse::<f64>().ok()? / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_psql_prints() {
        assert_eq!(milliseconds("Time: 0.250 ms\n"), Some(Duration::from_micros(250)));
        let long = milliseconds("Time: 1500.250 ms (00:01.500)\n");
        assert_eq!(long, Some(Duration::from_micros(1_500_250)));
        assert_eq!(milliseconds("t\n"), None);
    }
}
