//! A server under the real Patroni, alone in its cluster: Patroni makes it, starts it as it starts every server, and
//! promotes it.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::binaries::Installation;
use crate::connect::HOST;
use crate::error::{Error, IoContext, Result};
use crate::os_user::{give_tree_to_server_user, run_as_server_user};
use crate::ports::PortLease;
use crate::process;
use crate::root_dir::RootDir;
use crate::template::SUPERUSER;
use crate::wait::{PATIENCE, wait_until};

const PROGRAM: &str = "/usr/bin/patroni";

/// Patroni and its server; both end when it is dropped.
pub struct Patroni {
    child: Option<Child>,
    folder: PathBuf,
    port: PortLease,
    // Kept for as long as it may listen on them.
    _others: [PortLease; 2],
    _root: RootDir,
}

impl Patroni {
    /// Whether it is installed, with the store of its own that it needs here.
    pub fn is_installed() -> bool {
        let imports =
            Command::new("/usr/bin/python3").args(["-c", "import patroni, pysyncobj"]).output();
        imports.is_ok_and(|output| output.status.success())
    }

    /// Has it make a server that preloads these libraries, and returns when that takes writes.
    pub fn start(libraries: &str) -> Result<Patroni> {
        let root = RootDir::create()?;
        let folder = root.private_folder("patroni")?;
        let (port, api, raft) = (PortLease::take()?, PortLease::take()?, PortLease::take()?);
        let at = folder.display();
        let bindir = Installation::current()?.bindir().display().to_string();
        let settings = format!(
            "scope: one\nname: first\n\
             restapi: {{listen: '{HOST}:{api}', connect_address: '{HOST}:{api}'}}\n\
             raft: {{data_dir: '{at}/raft', self_addr: '{HOST}:{raft}'}}\n\
             bootstrap:\n  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3, postgresql: {{use_pg_rewind: false, \
             parameters: {{max_worker_processes: 20}}}}}}\n  initdb: [{{encoding: UTF8}}]\n\
             postgresql:\n  listen: {HOST}:{port}\n  connect_address: {HOST}:{port}\n  bin_dir: {bindir}\n  \
             data_dir: {at}/data\n  pgpass: {at}/pgpass\n  \
             pg_hba: ['local all all trust', 'host all all {HOST}/32 trust', 'host replication all {HOST}/32 trust']\n  \
             parameters: {{unix_socket_directories: '{at}', shared_preload_libraries: '{libraries}'}}\n  \
             authentication: {{superuser: {{username: {SUPERUSER}, password: x}}, \
             replication: {{username: follower, password: x}}}}\n",
            api = api.port(),
            raft = raft.port(),
            port = port.port(),
        );
        let path = folder.join("patroni.yml");
        fs::write(&path, settings).at("cannot write", &path)?;
        give_tree_to_server_user(&folder)?;
        let mut patroni = Patroni { child: None, folder, port, _others: [api, raft], _root: root };
        patroni.go_on()?;
        Ok(patroni)
    }

    /// Starts it again, and returns when it has promoted its server.
    pub fn go_on(&mut self) -> Result<()> {
        let log = self.folder.join("patroni.log");
        let file =
            OpenOptions::new().create(true).append(true).open(&log).at("cannot open", &log)?;
        let also = file.try_clone().at("cannot open", &log)?;
        let mut command = Command::new(PROGRAM);
        command.arg(self.folder.join("patroni.yml")).stdin(Stdio::null()).stdout(file).stderr(also);
        run_as_server_user(&mut command)?;
        self.child = Some(command.spawn().at("cannot run", PROGRAM)?);
        let promoted = wait_until("Patroni to have promoted its server", PATIENCE, || {
            let row = self.connect().ok()?.query_one("SELECT pg_is_in_recovery()", &[]).ok()?;
            (!row.get::<_, bool>(0)).then_some(())
        });
        promoted.map_err(|error| Error::Environment(format!("{error}: {}", self.log())))
    }

    /// A session with its server.
    pub fn connect(&self) -> std::result::Result<postgres::Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host(HOST).port(self.port.port()).user(SUPERUSER).dbname("postgres");
        config.connect(postgres::NoTls)
    }

    /// What it and its server have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("patroni.log")).unwrap_or_default()
    }

    /// Stops it, and with it its server, as `systemctl stop patroni` does.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id()).unwrap_or(0);
            process::signal(pid, Signal::SIGTERM)
                .map_err(|errno| Error::Environment(format!("cannot stop Patroni: {errno}")))?;
            wait_until("the end of Patroni", PATIENCE, || child.try_wait().ok().flatten())?;
        }
        Ok(())
    }

    /// Kills both at once, as a power failure does.
    pub fn crash(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let data = self.folder.join("data");
        for process in process::processes_in(&data) {
            let _ = process::signal(process.pid, Signal::SIGKILL);
        }
        wait_until("the end of its server", PATIENCE, || {
            process::processes_in(&data).is_empty().then_some(())
        })
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        // What fails here has ended already.
        let _ = self.crash();
    }
}
