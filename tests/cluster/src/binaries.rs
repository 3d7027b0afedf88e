//! The PostgreSQL installation under test, found by `pg_config` (or what `PG_CONFIG` names), and
//! how its programs are run: as the servers' user, with an environment that no setting of the
//! caller's leaks into, and with an end.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use crate::error::{Error, IoContext, Result, indent, log_tail};
use crate::os_user::run_as_server_user;
use crate::root_dir::say;
use crate::wait::try_wait_until;

/// How long one program may take. A base backup of a large test database is the longest.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(600);

/// Where one PostgreSQL is installed.
#[derive(Clone, Debug)]
pub struct Installation {
    bindir: PathBuf,
    sharedir: PathBuf,
    pkglibdir: PathBuf,
    version: String,
    has_tls: bool,
    lists_output_plugins: bool,
}

impl Installation {
    /// The installation that `PG_CONFIG` names; looked up once per process.
    pub fn current() -> Result<&'static Installation> {
        static FOUND: OnceLock<std::result::Result<Installation, String>> = OnceLock::new();
        match FOUND.get_or_init(Installation::look_up) {
            Ok(installation) => Ok(installation),
            Err(message) => Err(Error::Environment(message.clone())),
        }
    }

    fn look_up() -> std::result::Result<Installation, String> {
        let program = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
        Installation::told_by(Path::new(&program))
    }

    /// The one whose `pg_config` that is.
    pub fn of(pg_config: &Path) -> Result<Installation> {
        Installation::told_by(pg_config).map_err(Error::Environment)
    }

    fn told_by(program: &Path) -> std::result::Result<Installation, String> {
        let ask = |option: &str| {
            let shown = program.display();
            let output = Command::new(program).arg(option).output().map_err(|error| {
                format!("cannot run {shown}, which is to tell where PostgreSQL is: {error}")
            })?;
            if !output.status.success() {
                return Err(format!("{shown} {option} failed ({})", output.status));
            }
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let configured = ask("--configure")?;
        let bindir = PathBuf::from(ask("--bindir")?);
        let all = Command::new(bindir.join("postgres")).arg("--describe-config").output();
        let all = all.map(|output| output.stdout).unwrap_or_default();
        Ok(Installation {
            bindir,
            sharedir: ask("--sharedir")?.into(),
            pkglibdir: ask("--pkglibdir")?.into(),
            version: ask("--version")?,
            // Either way of asking for it, of several releases.
            has_tls: ["--with-openssl", "--with-ssl=openssl"]
                .iter()
                .any(|option| configured.contains(option)),
            lists_output_plugins: String::from_utf8_lossy(&all)
                .lines()
                .any(|line| line.starts_with("output_plugin_libraries\t")),
        })
    }

    /// The same folders below another root.  A server looks for its libraries and extensions by the way from
    /// its own program to them, so one that is started from there finds those that are there.
    pub fn below(&self, root: &Path) -> Installation {
        let place = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        Installation {
            bindir: place(&self.bindir),
            sharedir: place(&self.sharedir),
            pkglibdir: place(&self.pkglibdir),
            version: self.version.clone(),
            has_tls: self.has_tls,
            lists_output_plugins: self.lists_output_plugins,
        }
    }

    /// Whether it refuses output plugins that are not in `output_plugin_libraries`.
    pub fn lists_output_plugins(&self) -> bool {
        self.lists_output_plugins
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// Where its programs are.
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// Where its extensions and other files of every platform are.
    pub fn sharedir(&self) -> &Path {
        &self.sharedir
    }

    /// Where its loadable libraries are.
    pub fn pkglibdir(&self) -> &Path {
        &self.pkglibdir
    }

    /// What `pg_config --version` says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The release: 15 of 15.20.
    pub fn major(&self) -> u32 {
        let digits = self.version.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().unwrap_or_default()
    }

    /// Whether it was built with TLS. Where it was not, standard error gets a line that says what is left
    /// out for that.
    pub fn has_tls_for(&self, what: &str) -> bool {
        if !self.has_tls {
            say(&format!("skipped: {what}: this PostgreSQL was built without TLS"));
        }
        self.has_tls
    }

    /// Whether the control file of an extension is there. Where it is not, standard error gets a line that
    /// says what is left out for that.
    pub fn has_extension_for(&self, name: &str, what: &str) -> bool {
        let has = self.has_extension(name);
        if !has {
            say(&format!(
                "skipped: {what}: the extension {name} is not installed in this PostgreSQL"
            ));
        }
        has
    }

    /// Whether the control file of an extension is there.
    pub fn has_extension(&self, name: &str) -> bool {
        self.extension_control(name).is_file()
    }

    /// Where the control file of an extension would be.
    pub fn extension_control(&self, name: &str) -> PathBuf {
        self.sharedir.join("extension").join(format!("{name}.control"))
    }

    /// Runs one of its programs to its end, and returns what it wrote to its standard output.
    pub fn run<'a>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = &'a str>,
        folder: &Path,
    ) -> Result<String> {
        run(name, None, self.command(name)?.args(arguments).current_dir(folder))
    }

    /// A command for one of its programs, ready to get its arguments.
    pub fn command(&self, name: &str) -> Result<Command> {
        self.command_through(&[], name)
    }

    /// The same, run by another program: that one's name and arguments come first.
    pub(crate) fn command_through(&self, runner: &[&str], name: &str) -> Result<Command> {
        let mut command = match runner {
            [] => Command::new(self.program(name)),
            [runner, arguments @ ..] => {
                let mut command = Command::new(runner);
                command.args(arguments).arg(self.program(name));
                command
            }
        };
        // Variables like PGHOST or PGOPTIONS of the caller's shell would change what a test does.
        // RUST_BACKTRACE of a test run would put backtraces into the servers' error messages.
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy();
            if name.starts_with("PG") || name.starts_with("RUST_") {
                command.env_remove(variable);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            // libpq looks for certificates and passwords in the home folder, and a test must not
            // find those of whoever runs it (or be refused them, as another user).
            .env("HOME", "/nonexistent")
            // The caller's folder may be closed to the servers' user.
            .current_dir("/")
            .stdin(Stdio::null());
        run_as_server_user(&mut command)?;
        Ok(command)
    }
}

/// Runs a program to its end and returns what it wrote to its standard output.
pub(crate) fn run(server: &str, log: Option<&Path>, command: &mut Command) -> Result<String> {
    let shown = show(command);
    let program = PathBuf::from(command.get_program());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().at("cannot run", &program)?;
    // Both pipes are drained while waiting, else a program that prints much would wait for us.
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let ended = try_wait_until(&shown, PROGRAM_TIMEOUT, || {
        child.try_wait().at("cannot wait for", &program)
    });
    if ended.is_err() {
        // It may be gone by now, and is collected either way.
        let _ = child.kill();
        let _ = child.wait();
    }
    let stdout = stdout.map(collect).unwrap_or_default();
    let stderr = stderr.map(collect).unwrap_or_default();
    let outcome = match ended {
        Ok(status) if status.success() => return Ok(stdout),
        Ok(status) => status.to_string(),
        Err(error @ Error::Timeout { .. }) => error.to_string(),
        Err(error) => return Err(error),
    };
    Err(Error::Command {
        server: server.into(),
        command: shown.into(),
        outcome: outcome.into(),
        output: indent(&format!("{stdout}\n{stderr}")).into(),
        log: log.map(log_tail).unwrap_or_default().into(),
    })
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read up to an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn collect(reader: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

/// A command line as it appears in messages.
fn show(command: &Command) -> String {
    let mut words = vec![
        Path::new(command.get_program())
            .file_name()
            .unwrap_or(command.get_program())
            .to_string_lossy()
            .into_owned(),
    ];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
