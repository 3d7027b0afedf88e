//! Servers under the real Patroni, which makes them, starts them as it starts every server, and promotes them: one
//! alone, or a Citus cluster.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
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

/// The database that is distributed where Patroni manages a Citus cluster.
pub const DISTRIBUTED: &str = "citus";

/// Patroni and its server; both end when it is dropped.
pub struct Patroni {
    child: Option<Child>,
    name: String,
    folder: PathBuf,
    port: PortLease,
    api: PortLease,
    // Kept for as long as it may listen on it.
    _raft: PortLease,
    database: &'static str,
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
        let mut patroni = Patroni::prepare(libraries, "first", None, &[], PortLease::take()?)?;
        patroni.go_on()?;
        Ok(patroni)
    }

    /// Has several, which share their store, make a Citus cluster: one for each of these groups, of which the first
    /// to come is the group's primary and the others follow it.  Returns when every server answers.
    pub fn start_citus(libraries: &str, groups: &[u32]) -> Result<Vec<Patroni>> {
        let leases: Vec<PortLease> =
            groups.iter().map(|_| PortLease::take()).collect::<Result<_>>()?;
        let ports: Vec<u16> = leases.iter().map(PortLease::port).collect();
        let mut all = Vec::new();
        for (number, (raft, group)) in leases.into_iter().zip(groups).enumerate() {
            let partners: Vec<u16> =
                ports.iter().copied().filter(|port| *port != raft.port()).collect();
            let name = format!("member{number}");
            all.push(Patroni::prepare(libraries, &name, Some(*group), &partners, raft)?);
        }
        // None has a store before most of them run.
        all.iter_mut().try_for_each(Patroni::spawn)?;
        for patroni in &all {
            let answers = wait_until("Patroni's server to answer", PATIENCE * 2, || {
                patroni.connect().is_ok().then_some(())
            });
            answers.map_err(|error| Error::Environment(format!("{error}: {}", patroni.log())))?;
        }
        Ok(all)
    }

    fn prepare(
        libraries: &str,
        name: &str,
        group: Option<u32>,
        partners: &[u16],
        raft: PortLease,
    ) -> Result<Patroni> {
        let root = RootDir::create()?;
        let folder = root.private_folder("patroni")?;
        let (port, api) = (PortLease::take()?, PortLease::take()?);
        let at = folder.display();
        let bindir = Installation::current()?.bindir().display().to_string();
        let partners: Vec<String> =
            partners.iter().map(|port| format!("'{HOST}:{port}'")).collect();
        let citus = group.map_or(String::new(), |group| {
            format!("citus: {{group: {group}, database: {DISTRIBUTED}}}\n")
        });
        let settings = format!(
            "scope: one\nname: {name}\n{citus}\
             restapi: {{listen: '{HOST}:{api}', connect_address: '{HOST}:{api}'}}\n\
             raft: {{data_dir: '{at}/raft', self_addr: '{HOST}:{raft}', partner_addrs: [{partners}]}}\n\
             bootstrap:\n  dcs: {{ttl: 20, loop_wait: 1, retry_timeout: 3, postgresql: {{use_pg_rewind: false, \
             parameters: {{max_worker_processes: 20}}}}}}\n  initdb: [{{encoding: UTF8}}]\n\
             postgresql:\n  listen: {HOST}:{port}\n  connect_address: {HOST}:{port}\n  bin_dir: {bindir}\n  \
             data_dir: {at}/data\n  pgpass: {at}/pgpass\n  \
             pg_hba: ['local all all trust', 'host all all {HOST}/32 trust', 'host replication all {HOST}/32 trust']\n  \
             parameters: {{unix_socket_directories: '{at}', shared_preload_libraries: '{libraries}'}}\n  \
             authentication: {{superuser: {{username: {SUPERUSER}, password: x}}, \
             replication: {{username: follower, password: x}}}}\n",
            partners = partners.join(", "),
            api = api.port(),
            raft = raft.port(),
            port = port.port(),
        );
        let path = folder.join("patroni.yml");
        fs::write(&path, settings).at("cannot write", &path)?;
        give_tree_to_server_user(&folder)?;
        Ok(Patroni {
            child: None,
            name: name.to_owned(),
            folder,
            port,
            api,
            _raft: raft,
            database: if group.is_some() { DISTRIBUTED } else { "postgres" },
            _root: root,
        })
    }

    fn spawn(&mut self) -> Result<()> {
        let log = self.folder.join("patroni.log");
        let file =
            OpenOptions::new().create(true).append(true).open(&log).at("cannot open", &log)?;
        let also = file.try_clone().at("cannot open", &log)?;
        let mut command = Command::new(PROGRAM);
        // libpq looks for certificates in the home of whoever runs it.
        command.arg(self.folder.join("patroni.yml")).env("HOME", &self.folder);
        command.stdin(Stdio::null()).stdout(file).stderr(also);
        run_as_server_user(&mut command)?;
        self.child = Some(command.spawn().at("cannot run", PROGRAM)?);
        Ok(())
    }

    /// Starts it again, and returns when it has promoted its server.
    pub fn go_on(&mut self) -> Result<()> {
        self.spawn()?;
        let promoted = wait_until("Patroni to have promoted its server", PATIENCE, || {
            self.is_primary().then_some(())
        });
        promoted.map_err(|error| Error::Environment(format!("{error}: {}", self.log())))
    }

    /// A session with its server.
    pub fn connect(&self) -> std::result::Result<postgres::Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host(HOST).port(self.port.port()).user(SUPERUSER).dbname(self.database);
        config.connect(postgres::NoTls)
    }

    /// Whether its server answers and is no standby.
    pub fn is_primary(&self) -> bool {
        let Ok(mut client) = self.connect() else { return false };
        client.query_one("SELECT pg_is_in_recovery()", &[]).is_ok_and(|row| !row.get::<_, bool>(0))
    }

    /// Its server's port.
    pub fn port(&self) -> u16 {
        self.port.port()
    }

    /// Asks it to hand over to another member of its group, as `patronictl switchover` does.
    pub fn switch_over_to(&self, other: &Patroni) -> Result<()> {
        let body = format!("{{\"leader\": \"{}\", \"candidate\": \"{}\"}}", self.name, other.name);
        self.ask("POST /switchover", &body)
    }

    /// Fails unless it would take over from its primary without a loss.
    pub fn is_ready_to_take_over(&self) -> Result<()> {
        // From Patroni 4 on the standbys of Citus' groups are of a quorum.
        self.ask("GET /sync", "").or_else(|_| self.ask("GET /quorum", ""))
    }

    /// Asks its interface; an answer other than 200 is an error.
    fn ask(&self, what: &str, body: &str) -> Result<()> {
        let failed = |why: String| Error::Environment(format!("{what} of {}: {why}", self.name));
        let mut stream = TcpStream::connect((HOST, self.api.port()))
            .map_err(|error| failed(error.to_string()))?;
        let mut answer = String::new();
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| {
                write!(stream, "{what} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            })
            .and_then(|()| stream.read_to_string(&mut answer))
            .map_err(|error| failed(error.to_string()))?;
        match answer.lines().next().is_some_and(|line| line.contains(" 200 ")) {
            true => Ok(()),
            false => Err(failed(answer)),
        }
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
