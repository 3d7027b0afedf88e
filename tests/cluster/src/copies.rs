//! Copies of a server: base backups, plain copies of its files, standbys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::binaries::{Installation, run};
use crate::error::{Error, IoContext, Result};
use crate::files::copy_running;
use crate::os_user::give_to_server_user;
use crate::server::Server;
use crate::settings::{line, write_for_server};
use crate::wait::wait_for_sql;

/// How a base backup gets the WAL it needs to be consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalMethod {
    /// Over a second connection while the files are copied.
    Stream,
    /// Together with the files, at the end.
    Fetch,
}

impl WalMethod {
    fn argument(self) -> &'static str {
        match self {
            WalMethod::Stream => "stream",
            WalMethod::Fetch => "fetch",
        }
    }
}

impl Server {
    /// Takes a base backup with the real pg_basebackup into a folder that is empty or does not
    /// exist.
    pub fn base_backup(&self, target: &Path, wal: WalMethod) -> Result<()> {
        self.pg_basebackup(target, wal, &self.connect_params().conninfo(), &[])
    }

    /// The same with more words for pg_basebackup.
    pub fn base_backup_with(&self, target: &Path, wal: WalMethod, more: &[&str]) -> Result<()> {
        self.pg_basebackup(target, wal, &self.connect_params().conninfo(), more)
    }

    fn pg_basebackup(
        &self,
        target: &Path,
        wal: WalMethod,
        source: &str,
        more: &[&str],
    ) -> Result<()> {
        // Made here, because the servers' user may not be allowed to in the folder above.
        fs::create_dir_all(target).at("cannot create", target)?;
        fs::set_permissions(target, fs::Permissions::from_mode(0o700))
            .at("cannot close", target)?;
        give_to_server_user(target)?;
        let mut command = Installation::current()?.command("pg_basebackup")?;
        command
            .arg("-D")
            .arg(target)
            .args(["-X", wal.argument(), "-d", source])
            .args(["--checkpoint=fast", "--no-sync", "--no-password"])
            .args(more);
        // The connection string may hold the password, and the error shows the command.
        run(self.name(), Some(&self.log_path()), &mut command).map(drop).map_err(
            |error| match error {
                Error::Command { server, command, outcome, output, log } => Error::Command {
                    server,
                    command: command.replace(source, "<connection>").into(),
                    outcome,
                    output,
                    log,
                },
                other => other,
            },
        )
    }

    /// Copies the files of the server, running or not, the way a disk snapshot sees them: no backup
    /// is started, WAL comes last. The target must not exist.
    pub fn copy_files(&self, target: &Path) -> Result<()> {
        // A snapshot takes no time. For as long as this takes, a slot that goes away with its session
        // keeps the server from removing the WAL since its last checkpoint. A server that cannot be
        // connected to is copied all the same, and hardly writes any.
        let mut session = None;
        if self.is_running() && !self.is_frozen() {
            session = self.connect().ok();
        }
        if let Some(client) = &mut session {
            let slot: String = std::iter::repeat_with(fastrand::lowercase).take(12).collect();
            let create =
                format!("SELECT pg_create_physical_replication_slot('{slot}', true, true)");
            client
                .batch_execute(&create)
                .map_err(|error| self.connect_params().sql_error(&create, &error))?;
        }
        copy_running(&self.data_dir(), target)
    }

    /// Starts a streaming standby of this server, in the same temporary folder. It uses a
    /// replication slot of its name.
    pub fn standby(&self, name: &str) -> Result<Server> {
        self.standby_with(name, &[])
    }

    /// The same with settings of its own, which win over this server's.
    pub(crate) fn standby_with(&self, name: &str, own: &[(&str, &str)]) -> Result<Server> {
        let mut options = self.options().clone();
        options.name = name.to_owned();
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        options.settings.extend(own);
        let mut standby = Server::place(Arc::clone(self.root()), options)?;
        let source = self.tcp_params().application_name(name).conninfo();
        let slot = slot_name(name);
        self.pg_basebackup(
            &standby.data_dir(),
            WalMethod::Stream,
            &source,
            &["--write-recovery-conf", "--create-slot", "--slot", &slot],
        )?;
        standby.configure()?;
        standby.start_first()?;
        Ok(standby)
    }

    /// Makes this stopped server a streaming standby of another one, with the files that it has, and
    /// starts it.
    pub fn follow(&self, primary: &Server) -> Result<()> {
        let conninfo = primary.tcp_params().application_name(self.name()).conninfo();
        self.set_while_stopped("primary_conninfo", &conninfo)?;
        self.set_while_stopped("primary_slot_name", "")?;
        write_for_server(&self.data_dir().join("standby.signal"), "")?;
        self.start()
    }

    /// Sets a configuration parameter of a server that does not run, over all that is set elsewhere.
    pub fn set_while_stopped(&self, name: &str, value: &str) -> Result<()> {
        let path = self.data_dir().join("postgresql.auto.conf");
        let contents = fs::read_to_string(&path).at("cannot read", &path)?;
        let former = contents.lines().filter(|other| !other.starts_with(&format!("{name} =")));
        let mut text = former.fold(String::new(), |text, line| text + line + "\n");
        text.push_str(&line(name, value));
        text.push('\n');
        write_for_server(&path, &text)
    }

    /// Waits until a standby has replayed all that this server, which may be stopped or unable to
    /// write, has written up to a position.
    pub fn wait_for_replay_of(&self, lsn: &str, timeout: Duration) -> Result<()> {
        let mut client = self.connect()?;
        wait_for_sql(
            &mut client,
            &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"),
            timeout,
        )
    }

    /// What pg_controldata says of one thing, such as `Latest checkpoint location`.
    pub fn control_data(&self, name: &str) -> Result<String> {
        let mut command = Installation::current()?.command("pg_controldata")?;
        command.arg("-D").arg(self.data_dir());
        let text = run(self.name(), Some(&self.log_path()), &mut command)?;
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(what, _)| *what == name)
            .map(|(_, value)| value.trim().to_owned())
            .ok_or_else(|| self.error(format!("has no \"{name}\" in its control file")))
    }

    /// Waits until a standby of this server has replayed all that was written here up to now.
    pub fn wait_for_replay_on(&self, standby: &Server, timeout: Duration) -> Result<()> {
        // A record of our own: the insert position itself may lie behind a page header that is not
        // written until there is more to write.
        let written =
            self.query_value("SELECT pg_logical_emit_message(true, 'test-cluster', 'here')")?;
        let mut client = standby.connect()?;
        wait_for_sql(
            &mut client,
            &format!("SELECT pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"),
            timeout,
        )
    }
}

/// A name as it is allowed for a replication slot.
fn slot_name(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            'a'..='z' | '0'..='9' | '_' => c,
            'A'..='Z' => c.to_ascii_lowercase(),
            _ => '_',
        })
        .collect()
}
