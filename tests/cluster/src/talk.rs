//! Talking to a server: connections, statements, psql.

use std::fs::{self, File};

use postgres::{Client, SimpleQueryMessage};

use crate::binaries::{Installation, run};
use crate::connect::ConnectParams;
use crate::error::{IoContext, Result, shorten};
use crate::server::Server;
use crate::settings::write_for_server;
use crate::template::SUPERUSER;

/// Rows as text, the way psql shows them; `None` is NULL.
pub type TextRows = Vec<Vec<Option<String>>>;

impl Server {
    /// How the harness connects: as the superuser, straight, by the socket.
    pub fn connect_params(&self) -> ConnectParams {
        ConnectParams::by_socket(
            self.name(),
            self.socket_dir().to_owned(),
            self.port(),
            &self.options().database,
            self.log_path(),
        )
    }

    /// How nodes and users connect: over TCP, with TLS and the superuser's password where the server
    /// asks for them.
    pub fn tcp_params(&self) -> ConnectParams {
        self.connect_params()
            .by_tcp(self.root_certificate())
            .user(SUPERUSER, self.options().password.as_deref())
    }

    /// Connects as the superuser.
    pub fn connect(&self) -> Result<Client> {
        self.connect_params().connect()
    }

    /// Connects as a certain user, over TCP.
    pub fn connect_as(&self, user: &str, password: Option<&str>) -> Result<Client> {
        self.tcp_params().user(user, password).connect()
    }

    /// Runs statements in a connection of their own.
    pub fn execute(&self, sql: &str) -> Result<()> {
        let params = self.connect_params();
        let mut client = params.connect()?;
        client.batch_execute(sql).map_err(|error| params.sql_error(&shorten(sql), &error))
    }

    /// Runs a query in a connection of its own and returns its rows as text.
    pub fn query(&self, sql: &str) -> Result<TextRows> {
        let params = self.connect_params();
        let mut client = params.connect()?;
        text_rows(&mut client, sql).map_err(|error| params.sql_error(&shorten(sql), &error))
    }

    /// Runs a query that yields exactly one value, and returns it as text.
    pub fn query_value(&self, sql: &str) -> Result<String> {
        let mut rows = self.query(sql)?;
        match (rows.len(), rows.pop()) {
            (1, Some(row)) => match <[Option<String>; 1]>::try_from(row) {
                Ok([Some(value)]) => Ok(value),
                Ok([None]) => Err(self.error(format!("{} yielded NULL", shorten(sql)))),
                Err(row) => Err(self.error(format!(
                    "{} yielded {} columns instead of one",
                    shorten(sql),
                    row.len()
                ))),
            },
            (rows, _) => {
                Err(self.error(format!("{} yielded {rows} rows instead of one", shorten(sql))))
            }
        }
    }

    /// Runs commands in the real psql, and returns what it prints, unaligned and without headers.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let mut command = Installation::current()?.command("psql")?;
        command
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(self.connect_params().conninfo())
            .args(["-c", sql]);
        run(self.name(), Some(&self.log_path()), &mut command)
    }

    /// Runs commands in single-user mode, while the server is stopped; all that it prints, also of commands
    /// that fail.
    pub fn single_user(&self, arguments: &[&str], sql: &str) -> Result<String> {
        let script = self.socket_dir().join("single-user.sql");
        write_for_server(&script, &format!("{sql}\n"))?;
        let output = script.with_extension("log");
        let log = File::create(&output).at("cannot create", &output)?;
        let also_log = log.try_clone().at("cannot open", &output)?;
        let installation = self.options().installation()?;
        let mut command = installation.command("postgres")?;
        let status = command
            .arg("--single")
            .args(arguments)
            .arg("-D")
            .arg(self.data_dir())
            .arg(&self.options().database)
            .stdin(File::open(&script).at("cannot open", &script)?)
            .stdout(log)
            .stderr(also_log)
            .status()
            .at("cannot run", installation.program("postgres"))?;
        let said = fs::read_to_string(&output).at("cannot read", &output)?;
        if status.success() {
            Ok(said)
        } else {
            Err(self.error(format!("in single-user mode ended with {status}: {said}")))
        }
    }

    /// The real pg_dump of one table.
    pub fn dump(&self, table: &str) -> Result<String> {
        let mut command = Installation::current()?.command("pg_dump")?;
        command.args(["-t", table, "-d"]).arg(self.connect_params().conninfo());
        run(self.name(), Some(&self.log_path()), &mut command)
    }
}

/// Runs a query and returns its rows as text.
pub(crate) fn text_rows(
    client: &mut Client,
    sql: &str,
) -> std::result::Result<TextRows, postgres::Error> {
    let messages = client.simple_query(sql)?;
    let mut rows = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            let values = (0..row.len())
                .map(|column| row.try_get(column).map(|value| value.map(str::to_owned)))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            rows.push(values);
        }
    }
    Ok(rows)
}
