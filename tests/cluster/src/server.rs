//! One PostgreSQL server: made, started, stopped, frozen, killed, backed up, copied, followed. It is
//! shut down and its files are removed when the value goes away, also while a test panics.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::Mutex;

use crate::binaries::Installation;
use crate::connect::HOST;
use crate::error::{Error, IoContext, Result, log_tail};
use crate::files::copy_tree;
use crate::os_user::{give_to_server_user, give_tree_to_server_user};
use crate::ports::PortLease;
use crate::process::{self, Process};
use crate::root_dir::RootDir;
use crate::settings::{Options, write_for_server};
use crate::template::{SUPERUSER, make_data_directory};
use crate::tls::{Certificates, ROOT_CERTIFICATE};
use crate::wait::{PATIENCE, try_wait_until, wait_until};

/// How often a start is tried on another port when somebody else has taken ours.
const PORT_TRIES: usize = 4;

/// How long an immediate shutdown may take before the processes are killed, when a server goes away.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// What a server says when its port is taken.
const PORT_TAKEN: &str = "could not create any TCP/IP sockets";

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for the clients to leave.
    Smart,
    /// Disconnects the clients, then shuts down cleanly.
    Fast,
    /// Quits without writing anything, as a crash does; the next start recovers.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            StopMode::Smart => Signal::SIGTERM,
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
        }
    }
}

/// A server that is described but not yet made.
#[derive(Clone, Debug)]
pub struct ServerBuilder {
    options: Options,
}

impl ServerBuilder {
    /// Sets a configuration parameter.
    pub fn setting(mut self, name: &str, value: &str) -> ServerBuilder {
        self.options.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the server program of another installation of the same PostgreSQL, with its libraries.
    pub fn installation(mut self, installation: &Installation) -> ServerBuilder {
        self.options.installation = Some(installation.clone());
        self
    }

    /// Adds a library to `shared_preload_libraries`.
    pub fn preload(mut self, library: &str) -> ServerBuilder {
        self.options.preload.push(library.to_owned());
        self
    }

    /// Whether writes reach the disk before they are acknowledged. On unless switched off.
    pub fn fsync(mut self, fsync: bool) -> ServerBuilder {
        self.options.fsync = fsync;
        self
    }

    /// Lets it accept only encrypted connections over TCP.
    pub fn tls(mut self, certificates: &Certificates) -> ServerBuilder {
        self.options.certificates = Some(certificates.clone());
        self
    }

    /// Lets it ask for passwords over TCP, and gives the superuser this one.
    pub fn password(mut self, password: &str) -> ServerBuilder {
        self.options.password = Some(password.to_owned());
        self
    }

    /// Makes and starts it, in a temporary folder of its own.
    pub fn start(self) -> Result<Server> {
        Server::create(Arc::new(RootDir::create()?), self.options)
    }

    /// Starts a copy of another server's files as a server of its own, in a temporary folder of its
    /// own. The copy is moved there.
    pub fn start_copy(self, copy: &Path) -> Result<Server> {
        let mut server = Server::adopt(Arc::new(RootDir::create()?), self.options, copy)?;
        server.start_first()?;
        Ok(server)
    }
}

/// A PostgreSQL server.
pub struct Server {
    options: Options,
    /// Holds the data directory, the socket, the log and the password file.
    directory: PathBuf,
    port: PortLease,
    state: Mutex<State>,
    /// Removed with the last server in it.
    root: Arc<RootDir>,
}

#[derive(Default)]
struct State {
    postmaster: Option<Child>,
    frozen: bool,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (port {})", self.options.name, self.port())
    }
}

// Making.
impl Server {
    /// Describes a server with the harness' usual settings.
    pub fn builder(name: &str) -> ServerBuilder {
        ServerBuilder { options: Options::new(name) }
    }

    /// A fresh server, started.
    pub(crate) fn create(root: Arc<RootDir>, options: Options) -> Result<Server> {
        let mut server = Server::place(root, options)?;
        let of_today = server.options.identifier_of_today;
        make_data_directory(server.name(), &server.data_dir(), of_today)?;
        server.configure()?;
        server.start_first()?;
        if let Some(password) = &server.options.password {
            let statement =
                format!("ALTER ROLE {SUPERUSER} PASSWORD '{}'", password.replace('\'', "''"));
            // The cluster's database may not exist yet.
            let params = server.connect_params().database("postgres");
            params
                .connect()?
                .batch_execute(&statement)
                // The statement itself stays out of the message.
                .map_err(|error| params.sql_error("setting the superuser's password", &error))?;
        }
        Ok(server)
    }

    /// A server over a copy of another one's files, configured for its new place but not started.
    pub(crate) fn adopt(root: Arc<RootDir>, options: Options, copy: &Path) -> Result<Server> {
        let server = Server::place(root, options)?;
        let data = server.data_dir();
        match fs::rename(copy, &data) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                copy_tree(copy, &data)?;
                fs::remove_dir_all(copy).at("cannot remove", copy)?;
            }
            outcome => outcome.at("cannot take over", copy)?,
        }
        give_tree_to_server_user(&data)?;
        // The files of a running server say that it runs, and where.
        for leftover in ["postmaster.pid", "postmaster.opts"] {
            let path = data.join(leftover);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).at("cannot remove", &path);
                }
                _ => {}
            }
        }
        server.configure()?;
        Ok(server)
    }

    /// Takes a folder and a port for a server.
    pub(crate) fn place(root: Arc<RootDir>, options: Options) -> Result<Server> {
        let directory = root.private_folder(&options.name)?;
        Ok(Server { options, directory, port: PortLease::take()?, state: Mutex::default(), root })
    }

    pub(crate) fn configure(&self) -> Result<()> {
        self.options.write(&self.data_dir(), &self.directory, self.port())?;
        if let (true, Some(password)) = (self.options.passfile, &self.options.password) {
            let path = self.passfile();
            write_for_server(&path, &format!("{HOST}:*:*:*:{password}\n"))?;
            // libpq ignores a password file that others can read.
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .at("cannot close", &path)?;
        }
        Ok(())
    }

    /// The first start. Nobody knows the address yet, so it can still change.
    pub(crate) fn start_first(&mut self) -> Result<()> {
        for _ in 1..PORT_TRIES {
            match self.start() {
                Err(_) if self.log().contains(PORT_TAKEN) => {
                    let log = self.log_path();
                    fs::remove_file(&log).at("cannot remove", &log)?;
                    self.port = PortLease::take()?;
                    self.configure()?;
                }
                outcome => return outcome,
            }
        }
        self.start()
    }
}

// Identity.
impl Server {
    /// Its name, as in messages and in `cluster_name`.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The folder of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    /// Its log so far, over all starts.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until a text is in its log.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> Result<()> {
        let what = format!("\"{text}\" in the log of {}", self.name());
        wait_until(&what, timeout, || self.log().contains(text).then_some(()))
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    fn passfile(&self) -> PathBuf {
        self.directory.join("pgpass")
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn root(&self) -> &Arc<RootDir> {
        &self.root
    }

    /// The file to check certificates against, when it has TLS.
    pub fn root_certificate(&self) -> Option<PathBuf> {
        self.options.certificates.as_ref().map(|_| self.data_dir().join(ROOT_CERTIFICATE))
    }

    /// An error of this server's.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        Error::Server {
            server: self.name().into(),
            what: what.into().into_boxed_str(),
            log: log_tail(&self.log_path()).into(),
        }
    }
}

// Starting and stopping.
impl Server {
    /// Starts it and returns once it accepts connections.
    pub fn start(&self) -> Result<()> {
        self.start_through(&[])
    }

    /// The same in a program that looks at what it does, such as valgrind: its name and arguments.  It must
    /// keep the process that it is started as for the server.
    pub fn start_through(&self, runner: &[&str]) -> Result<()> {
        let mut state = self.state.lock();
        if state.postmaster.is_some() {
            return Err(self.error("is to be started, but runs"));
        }
        self.await_no_leftovers()?;

        let data = self.data_dir();
        let log_path = self.log_path();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .at("cannot open", &log_path)?;
        give_to_server_user(&log_path)?;
        let also_log = log.try_clone().at("cannot open", &log_path)?;
        let installation = self.options.installation()?;
        let mut command = installation.command_through(runner, "postgres")?;
        command.arg("-D").arg(&data).stdout(Stdio::from(log)).stderr(Stdio::from(also_log));
        if self.options.passfile {
            command.env("PGPASSFILE", self.passfile());
        }
        command.envs(self.options.environment.iter().cloned());
        let mut child = process::start_postmaster(command)
            .at("cannot run", installation.program("postgres"))?;

        let ready = self.await_ready(&mut child);
        if ready.is_err() {
            // Whatever state it is in, it shall not stay.
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = process::kill_tree(pid);
            }
            let _ = child.kill();
            let _ = child.wait();
        } else {
            state.postmaster = Some(child);
            state.frozen = false;
        }
        ready
    }

    /// Reads the postmaster's own statement that it is ready, as pg_ctl does.
    fn await_ready(&self, child: &mut Child) -> Result<()> {
        let pid = child.id().to_string();
        let pid_file = self.data_dir().join("postmaster.pid");
        let what = format!("{} to accept connections", self.name());
        let outcome = try_wait_until(&what, PATIENCE, || {
            if let Some(status) = child.try_wait().at("cannot wait for", &pid_file)? {
                return Err(self.error(format!("did not start ({status})")));
            }
            let contents = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = contents.lines();
            let is_ours = lines.next() == Some(pid.as_str());
            // The eighth line is the state.
            let state = lines.nth(6).map(str::trim);
            Ok((is_ours && matches!(state, Some("ready" | "standby"))).then_some(()))
        });
        outcome.map_err(|error| match error {
            Error::Timeout { waited, .. } => {
                self.error(format!("does not accept connections after {waited:.1?}"))
            }
            other => other,
        })
    }

    /// After a postmaster was killed its children notice and leave, and until the last one has left,
    /// the data directory is in use.
    fn await_no_leftovers(&self) -> Result<()> {
        let data = self.data_dir();
        let outcome =
            wait_until("", PATIENCE, || process::processes_in(&data).is_empty().then_some(()));
        outcome.map_err(|_| {
            let left = process::processes_in(&data);
            self.error(format!(
                "is to be started, but processes of its last run are still there: {left:?}"
            ))
        })
    }

    /// Stops it, and returns once it is down.
    pub fn stop(&self, mode: StopMode) -> Result<()> {
        let pid = self.pid()?;
        if self.is_frozen() {
            if mode != StopMode::Immediate {
                return Err(self.error(format!("is frozen and cannot stop in mode {mode:?}")));
            }
            return self.crash();
        }
        self.signal(pid, mode.signal())?;
        self.await_end(&format!("a {mode:?} stop"))
    }

    /// Stops it in the mode Fast and starts it again.
    pub fn restart(&self) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Lets it read its configuration files again.
    pub fn reload(&self) -> Result<()> {
        self.signal(self.pid()?, Signal::SIGHUP)
    }

    /// Restarts it with other libraries preloaded, as `shared_preload_libraries` has them.
    pub fn restart_with_libraries(&self, libraries: &str) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.set_while_stopped("shared_preload_libraries", libraries)?;
        self.start()
    }

    /// Restarts it without this extension's library; the libraries that it had.
    pub fn restart_without_fence(&self) -> Result<String> {
        let with = self.query_value("SHOW shared_preload_libraries")?;
        let without = with.replace("citus_fence", "").replace(' ', "");
        self.restart_with_libraries(without.trim_end_matches(','))?;
        Ok(with)
    }

    /// `ALTER SYSTEM SET`, then a reload. What needs a restart needs a restart.
    pub fn alter_system(&self, name: &str, value: &str) -> Result<()> {
        self.execute(&format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''")))?;
        self.reload()
    }

    /// Sends a signal to the postmaster alone. After SIGKILL it returns once the postmaster is gone;
    /// its children leave by themselves, and [`Server::start`] waits for that.
    pub fn kill_postmaster(&self, signal: Signal) -> Result<()> {
        self.signal(self.pid()?, signal)?;
        if signal == Signal::SIGKILL {
            self.await_end("SIGKILL to the postmaster")?;
        }
        Ok(())
    }

    /// Kills all its processes at once, as a power failure does.
    pub fn crash(&self) -> Result<()> {
        let pid = self.pid()?;
        process::kill_tree(pid)
            .map_err(|errno| self.error(format!("cannot be killed: {errno}")))?;
        self.await_end("SIGKILL to all its processes")
    }

    /// Stops all its processes in their tracks (SIGSTOP): connections stay, nothing answers.
    pub fn freeze(&self) -> Result<()> {
        let pid = self.pid()?;
        self.state.lock().frozen = true;
        process::stop_tree(pid).map_err(|errno| self.error(format!("cannot be frozen: {errno}")))
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<()> {
        let pid = self.pid()?;
        process::continue_tree(pid)
            .map_err(|errno| self.error(format!("cannot be thawed: {errno}")))?;
        self.state.lock().frozen = false;
        Ok(())
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.state.lock().frozen
    }

    /// Waits for a server that stops for a reason of its own, such as one that was killed.
    pub fn await_end(&self, why: &str) -> Result<()> {
        let what = format!("the end of {} after {why}", self.name());
        let outcome = try_wait_until(&what, PATIENCE, || {
            let mut state = self.state.lock();
            let Some(child) = state.postmaster.as_mut() else {
                return Ok(Some(()));
            };
            let ended = child.try_wait().at("cannot wait for", self.data_dir())?.is_some();
            if ended {
                state.postmaster = None;
                state.frozen = false;
            }
            Ok(ended.then_some(()))
        });
        outcome.map_err(|error| match error {
            Error::Timeout { waited, .. } => {
                self.error(format!("still runs {waited:.1?} after {why}"))
            }
            other => other,
        })
    }

    /// Whether its postmaster runs. A frozen one does.
    pub fn is_running(&self) -> bool {
        let mut state = self.state.lock();
        match state.postmaster.as_mut() {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Result<i32> {
        let state = self.state.lock();
        let child = state.postmaster.as_ref();
        child
            .and_then(|child| i32::try_from(child.id()).ok())
            .ok_or_else(|| self.error("does not run"))
    }

    /// All its processes but the postmaster, with their titles.
    pub fn processes(&self) -> Result<Vec<Process>> {
        Ok(process::children_of(self.pid()?))
    }

    /// The processes of its client connections. Asks the operating system, so it also works while
    /// the server is frozen or has no connection left.
    pub fn backend_pids(&self) -> Result<Vec<i32>> {
        // A backend's title has the client's address, in brackets or followed by a port; background
        // processes have a role there instead.
        let is_backend =
            |title: &str| title.contains(" [local] ") || title.contains(&format!(" {HOST}("));
        Ok(self
            .processes()?
            .into_iter()
            .filter(|process| is_backend(&process.title))
            .map(|process| process.pid)
            .collect())
    }

    fn signal(&self, pid: i32, signal: Signal) -> Result<()> {
        process::signal(pid, signal)
            .map_err(|errno| self.error(format!("cannot be sent {signal}: {errno}")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data_dir();
        let state = self.state.get_mut();
        if let Some(mut child) = state.postmaster.take() {
            let pid = i32::try_from(child.id()).ok();
            // Asked before it is forced, so that it frees what the system holds for it.
            if let (true, Some(pid)) = (state.frozen, pid) {
                let _ = process::continue_tree(pid);
            }
            let ended = pid.is_some_and(|pid| process::signal(pid, Signal::SIGQUIT).is_ok())
                && wait_until("", DROP_PATIENCE, || child.try_wait().ok().flatten()).is_ok();
            if !ended {
                if let Some(pid) = pid {
                    let _ = process::kill_tree(pid);
                }
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        // Those whose postmaster was killed may not have noticed yet.
        for process in process::processes_in(&data) {
            let _ = process::signal(process.pid, Signal::SIGKILL);
        }
    }
}
