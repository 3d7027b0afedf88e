//! PgBouncer in front of servers.

use std::fs;
use std::process::{Child, Command, Stdio};

use postgres::{Config, NoTls, SimpleQueryMessage};

use crate::connect::HOST;
use crate::error::{Error, IoContext, Result, describe};
use crate::os_user::{give_tree_to_server_user, run_as_server_user};
use crate::ports::PortLease;
use crate::root_dir::RootDir;
use crate::server::Server;
use crate::template::SUPERUSER;
use crate::wait::{PATIENCE, wait_until};

/// A running pooler; it ends when dropped.
pub struct Pooler {
    child: Child,
    port: PortLease,
    _folder: RootDir,
}

impl Pooler {
    /// Starts one in front of the servers: the database `node<n>` leads to the n-th of them, in one of
    /// whose few sessions each transaction runs.
    pub fn start(servers: &[&Server], database: &str) -> Result<Pooler> {
        Pooler::start_in("transaction", 20, servers, database)
    }

    /// One that gives each client a session of its own, the one that the client before him has left; there is only
    /// one for each database and role.
    pub fn start_in_session_mode(servers: &[&Server], database: &str) -> Result<Pooler> {
        Pooler::start_in("session", 1, servers, database)
    }

    fn start_in(mode: &str, size: u32, servers: &[&Server], database: &str) -> Result<Pooler> {
        let root = RootDir::create()?;
        let folder = root.private_folder("pooler")?;
        let port = PortLease::take()?;
        let mut ini = String::from("[databases]\n");
        for (number, server) in servers.iter().enumerate() {
            ini.push_str(&format!(
                "node{number} = host={HOST} port={} dbname={database}\n",
                server.port()
            ));
        }
        ini.push_str(&format!(
            "[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {users}\nadmin_users = {SUPERUSER}\npool_mode = {mode}\n\
             default_pool_size = {size}\nlogfile = {log}\npidfile = {pid}\n",
            port.port(),
            users = folder.join("users.txt").display(),
            log = folder.join("pooler.log").display(),
            pid = folder.join("pooler.pid").display(),
        ));
        let path = folder.join("pooler.ini");
        fs::write(&path, ini).at("cannot write", &path)?;
        let users = folder.join("users.txt");
        fs::write(&users, format!("\"{SUPERUSER}\" \"\"\n")).at("cannot write", &users)?;
        give_tree_to_server_user(&folder)?;
        let mut command = Command::new(program());
        // It must not keep a test's output open that was killed before it.
        command.arg("--quiet").arg(&path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        run_as_server_user(&mut command)?;
        let child = command.spawn().at("cannot start PgBouncer with", &path)?;
        let pooler = Pooler { child, port, _folder: root };
        wait_until("PgBouncer to listen", PATIENCE, || {
            std::net::TcpStream::connect((HOST, pooler.port())).ok()
        })?;
        Ok(pooler)
    }

    /// Who comes by it right now: where each leads, and how it calls itself.
    pub fn clients(&self) -> Result<Vec<(String, String)>> {
        let failed = |error| Error::Environment(describe(&error));
        let mut admin = Config::new()
            .host(HOST)
            .port(self.port())
            .user(SUPERUSER)
            .dbname("pgbouncer")
            .connect(NoTls)
            .map_err(failed)?;
        let answer = admin.simple_query("SHOW CLIENTS").map_err(failed)?;
        let clients = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let text = |column| row.get(column).unwrap_or_default().to_owned();
                Some((text("database"), text("application_name")))
            }
            _ => None,
        });
        Ok(clients.collect())
    }

    /// Port it listens on.
    pub fn port(&self) -> u16 {
        self.port.port()
    }
}

/// Debian keeps it where only root looks.
fn program() -> &'static str {
    const DEBIAN: &str = "/usr/sbin/pgbouncer";
    if std::path::Path::new(DEBIAN).exists() { DEBIAN } else { "pgbouncer" }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // What fails here has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
