//! How to reach a server: one value that a test can hand to a thread, turn into a connection, or
//! into a connection string for a program that uses libpq.

use std::path::PathBuf;
use std::time::Duration;

use postgres::config::SslMode;
use postgres::{Client, Config, NoTls};

use crate::error::{Error, Result, describe, log_tail};
use crate::template::SUPERUSER;
use crate::tls;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The address that every server listens on.
pub const HOST: &str = "127.0.0.1";

/// By which way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    /// The server's Unix socket, where everyone is trusted. How the harness itself connects.
    Socket(PathBuf),
    /// TCP, as the nodes connect to each other; encrypted and checked when there is a certificate.
    Tcp { root_certificate: Option<PathBuf> },
}

/// Who connects to what. Always straight to the server, never through a proxy.
#[derive(Clone)]
pub struct ConnectParams {
    server: String,
    route: Route,
    port: u16,
    database: String,
    user: String,
    password: Option<String>,
    application_name: String,
    /// The server's log, for the error of a connection that fails.
    log: PathBuf,
}

impl std::fmt::Debug for ConnectParams {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.server, self.port, self.database)
    }
}

impl ConnectParams {
    /// The superuser, by the socket.
    pub(crate) fn by_socket(
        server: &str,
        socket_dir: PathBuf,
        port: u16,
        database: &str,
        log: PathBuf,
    ) -> ConnectParams {
        ConnectParams {
            server: server.to_owned(),
            route: Route::Socket(socket_dir),
            port,
            database: database.to_owned(),
            user: SUPERUSER.to_owned(),
            password: None,
            application_name: String::from("test"),
            log,
        }
    }

    /// The same by TCP, checked against a certificate if the server has TLS.
    pub(crate) fn by_tcp(mut self, root_certificate: Option<PathBuf>) -> ConnectParams {
        self.route = Route::Tcp { root_certificate };
        self
    }

    /// The same as another user. Where passwords are asked for, give one.
    pub fn user(mut self, user: &str, password: Option<&str>) -> ConnectParams {
        self.user = user.to_owned();
        self.password = password.map(str::to_owned);
        self
    }

    /// The same with another database.
    pub fn database(mut self, database: &str) -> ConnectParams {
        self.database = database.to_owned();
        self
    }

    /// The same under another `application_name`, to be found by in `pg_stat_activity`.
    pub fn application_name(mut self, name: &str) -> ConnectParams {
        self.application_name = name.to_owned();
        self
    }

    /// The name of the server it leads to.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects.
    pub fn connect(&self) -> Result<Client> {
        let mut config = self.config();
        let client = match &self.route {
            Route::Tcp { root_certificate: Some(root) } => {
                config.ssl_mode(SslMode::Require);
                config.connect(tls::connector(root)?)
            }
            Route::Tcp { root_certificate: None } | Route::Socket(_) => config.connect(NoTls),
        };
        client.map_err(|error| self.sql_error("connecting", &error))
    }

    /// The parameters in the form of the `postgres` crate, for what [`ConnectParams::connect`] does
    /// not offer. TLS is up to the caller.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        match &self.route {
            Route::Socket(directory) => config.host_path(directory),
            Route::Tcp { .. } => config.host(HOST),
        };
        config
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name(&self.application_name)
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }

    /// A connection string for libpq: for psql, pg_regress, pg_basebackup. It holds the password.
    pub fn conninfo(&self) -> String {
        let mut pairs = vec![
            (
                "host",
                match &self.route {
                    Route::Socket(directory) => directory.display().to_string(),
                    Route::Tcp { .. } => HOST.to_owned(),
                },
            ),
            ("port", self.port.to_string()),
            ("user", self.user.clone()),
            ("dbname", self.database.clone()),
            ("application_name", self.application_name.clone()),
        ];
        if let Some(password) = &self.password {
            pairs.push(("password", password.clone()));
        }
        if let Route::Tcp { root_certificate: Some(root) } = &self.route {
            pairs.push(("sslmode", String::from("verify-full")));
            pairs.push(("sslrootcert", root.display().to_string()));
        }
        pairs
            .into_iter()
            .map(|(key, value)| {
                let value = value.replace('\\', r"\\").replace('\'', r"\'");
                format!("{key}='{value}'")
            })
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// An error of a statement that was sent there.
    pub(crate) fn sql_error(&self, statement: &str, error: &postgres::Error) -> Error {
        Error::Sql {
            server: self.server.as_str().into(),
            statement: statement.into(),
            message: describe(error).into(),
            sqlstate: error.code().map(|code| code.code().into()),
            log: log_tail(&self.log).into(),
        }
    }
}
