//! The configuration files of a server. What the harness sets stands in a file of its own,
//! `server.conf`, which the data directory's `postgresql.conf` includes last. Copies bring it along,
//! and it is written anew before a copy is started: a copy must never take its source's address.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::binaries::Installation;
use crate::connect::HOST;
use crate::error::{IoContext, Result};
use crate::os_user::give_to_server_user;
use crate::tls::{Certificates, ROOT_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY};

const OWN_FILE: &str = "server.conf";
const INCLUDE_LINE: &str = "include 'server.conf'";

/// How a server is to be, apart from where it is.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) name: String,
    /// Whose server program runs; without it that of `PG_CONFIG`.
    pub(crate) installation: Option<Installation>,
    /// The database that connections go to unless told otherwise.
    pub(crate) database: String,
    pub(crate) preload: Vec<String>,
    pub(crate) fsync: bool,
    /// Later ones win.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) certificates: Option<Certificates>,
    /// Set when passwords are asked for over TCP; the superuser's.
    pub(crate) password: Option<String>,
    /// Whether the server's own connections find that password in a `.pgpass` file.
    pub(crate) passfile: bool,
    /// What its postmaster's environment has besides.
    pub(crate) environment: Vec<(String, String)>,
    /// Whether it is to be a node, and so needs to know how to connect to the others.
    pub(crate) is_node: bool,
    /// A system identifier as initdb gives it before 2038.
    pub(crate) identifier_of_today: bool,
}

impl Options {
    pub(crate) fn new(name: &str) -> Options {
        Options {
            name: name.to_owned(),
            installation: None,
            database: String::from("postgres"),
            preload: Vec::new(),
            fsync: true,
            settings: Vec::new(),
            certificates: None,
            password: None,
            passfile: false,
            environment: Vec::new(),
            is_node: false,
            identifier_of_today: false,
        }
    }

    /// Where its server program is.
    pub(crate) fn installation(&self) -> Result<&Installation> {
        match &self.installation {
            Some(installation) => Ok(installation),
            None => Installation::current(),
        }
    }

    /// All settings in the order in which they are written.
    fn all_settings(&self, data: &Path, socket_dir: &Path, port: u16) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = [
            ("listen_addresses", HOST),
            ("max_connections", "150"),
            // A distributed write prepares a transaction on every node it touches, so there may be
            // as many as there are connections.
            ("max_prepared_transactions", "200"),
            ("max_worker_processes", "20"),
            ("shared_buffers", "32MB"),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            // A plain copy of the running files needs the WAL since the last checkpoint.
            ("wal_keep_size", "512MB"),
            ("max_wal_size", "1GB"),
            // In the data directory, which goes away with the server. Elsewhere a killed server's
            // segments would stay.
            ("dynamic_shared_memory_type", "mmap"),
            // After a crash, and at the start of a copy, all files are synced first: in one call for
            // the file system instead of one for each of a thousand files.
            ("recovery_init_sync_method", "syncfs"),
            ("autovacuum", "on"),
            ("log_lock_waits", "on"),
            ("log_checkpoints", "off"),
            // Time, process, SQLSTATE, then who in which database under which name.
            ("log_line_prefix", "%m [%p] %e %q%u@%d/%a "),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();

        let mut add = |name: &str, value: String| all.push((name.to_owned(), value));
        add("port", port.to_string());
        add("unix_socket_directories", socket_dir.display().to_string());
        add("cluster_name", self.name.clone());
        add("fsync", String::from(if self.fsync { "on" } else { "off" }));
        if !self.preload.is_empty() {
            add("shared_preload_libraries", self.preload.join(","));
        }
        if self.installation().is_ok_and(Installation::lists_output_plugins) {
            // As anybody has to have it who splits shards online.
            add("output_plugin_libraries", String::from("pgoutput, test_decoding, citus"));
        }
        if self.certificates.is_some() {
            add("ssl", String::from("on"));
            add("ssl_ca_file", ROOT_CERTIFICATE.to_owned());
            add("ssl_cert_file", SERVER_CERTIFICATE.to_owned());
            add("ssl_key_file", SERVER_KEY.to_owned());
        }
        if self.is_node {
            // PostgreSQL accepts names with a dot that no library has defined, so the embedded
            // catalog finds Citus' settings too.
            let conninfo = match &self.certificates {
                Some(_) => format!(
                    "sslmode=verify-full sslrootcert={}",
                    data.join(ROOT_CERTIFICATE).display()
                ),
                None => String::from("sslmode=prefer"),
            };
            add("citus.node_conninfo", conninfo);
        }
        all.extend(self.settings.iter().cloned());
        all
    }

    /// Writes everything a server reads when it starts.
    pub(crate) fn write(&self, data: &Path, socket_dir: &Path, port: u16) -> Result<()> {
        let mut text =
            String::from("# Written by the test harness at every new start of a copy.\n");
        for (name, value) in self.all_settings(data, socket_dir, port) {
            let _ = writeln!(text, "{}", line(&name, &value));
        }
        write_for_server(&data.join(OWN_FILE), &text)?;

        let main = data.join("postgresql.conf");
        let mut contents = fs::read_to_string(&main).at("cannot read", &main)?;
        if !contents.lines().any(|line| line == INCLUDE_LINE) {
            let _ = write!(contents, "\n{INCLUDE_LINE}\n");
            write_for_server(&main, &contents)?;
        }

        write_for_server(&data.join("pg_hba.conf"), &self.host_rules())?;
        if let Some(certificates) = &self.certificates {
            certificates.install(data)?;
        }
        Ok(())
    }

    /// Who may connect how. The harness comes by the socket; what is under test comes by TCP.
    fn host_rules(&self) -> String {
        let kind = if self.certificates.is_some() { "hostssl" } else { "host" };
        let method = if self.password.is_some() { "scram-sha-256" } else { "trust" };
        format!(
            "local all         all           trust\n\
             local replication all           trust\n\
             {kind} all         all {HOST}/32 {method}\n\
             {kind} replication all {HOST}/32 {method}\n"
        )
    }
}

/// One line of a configuration file.
pub(crate) fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'", value.replace('\'', "''"))
}

/// Writes a file that the server reads and may rewrite.
pub(crate) fn write_for_server(path: &Path, contents: &str) -> Result<()> {
    fs::write(path, contents).at("cannot write", path)?;
    give_to_server_user(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_win_and_are_quoted() {
        let mut options = Options::new("node");
        options.settings.push((String::from("port"), String::from("it's")));
        let all = options.all_settings(Path::new("/data"), Path::new("/socket"), 1);
        let last = all.iter().rfind(|(name, _)| name == "port");
        let last = last.map(|(name, value)| line(name, value));
        assert_eq!(last.as_deref(), Some("port = 'it''s'"));
    }

    #[test]
    fn only_encrypted_connections_where_there_are_certificates() -> Result<()> {
        let mut options = Options::new("node");
        options.certificates = Some(Certificates::generate()?);
        options.password = Some(String::from("secret"));
        let rules = options.host_rules();
        assert!(rules.contains("hostssl all"));
        assert!(!rules.contains("host all"));
        assert!(!rules.contains("secret"));
        Ok(())
    }
}
