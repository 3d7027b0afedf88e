//! From options to libpq's parameters. What is not said is libpq's to find: `PG*`, the service file,
//! .pgpass.

use std::time::Duration;

use remote::{ConnParams, NodeLabel, Target, program_params};

use crate::args::{CONNECT_TIMEOUT, ConnectionArgs};
use crate::failure::Failure;

/// The name in pg_stat_activity, unless the connection string has one.
const APPLICATION_NAME: &str = "citus-fence";

/// Where to connect to, and how long that may take.
#[derive(Clone, Debug)]
pub struct Destination {
    pub target: Target,
    pub connect_timeout: Duration,
}

impl Destination {
    /// What the options and the environment say.
    pub fn new(args: &ConnectionArgs) -> Result<Destination, Failure> {
        Self::with_environment(args, std::env::var("PGCONNECT_TIMEOUT").ok().as_deref())
    }

    fn with_environment(
        args: &ConnectionArgs,
        pgconnect_timeout: Option<&str>,
    ) -> Result<Destination, Failure> {
        let said = said(args)?;
        let connect_timeout = args
            .connect_timeout
            .or_else(|| seconds(said.get("connect_timeout")))
            .or_else(|| seconds(pgconnect_timeout))
            .unwrap_or(CONNECT_TIMEOUT);
        let mut params = program_params(APPLICATION_NAME, connect_timeout);
        params.merge(&said);
        // Sessions here speak UTF-8, whatever the user's terminal does.
        params.set("client_encoding", "UTF8");
        Ok(Destination { target: Target { node: NodeLabel::not_known(), params }, connect_timeout })
    }
}

/// The parameters that the options name. As in psql, a connection string goes over the other options.
fn said(args: &ConnectionArgs) -> Result<ConnParams, Failure> {
    let mut params = ConnParams::new();
    for (keyword, value) in [("host", &args.host), ("port", &args.port), ("user", &args.username)] {
        if let Some(value) = value {
            params.set(keyword, value);
        }
    }
    match args.dbname.as_deref() {
        Some(text) if is_connection_string(text) => {
            params.merge_conninfo(text).map_err(Failure::BadConnInfo)?;
        }
        Some(name) => {
            params.set("dbname", name);
        }
        None => {}
    }
    Ok(params)
}

/// How libpq tells a connection string from a database's name.
fn is_connection_string(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://") || text.contains('=')
}

/// A `connect_timeout` as libpq writes it. Its zero, "wait for ever", is not to be had here.
fn seconds(text: Option<&str>) -> Option<Duration> {
    text?.trim().parse().ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(text: &str) -> ConnectionArgs {
        ConnectionArgs { dbname: Some(text.into()), ..ConnectionArgs::default() }
    }

    fn params(args: &ConnectionArgs) -> ConnParams {
        Destination::with_environment(args, None).expect("parameters").target.params
    }

    #[test]
    fn what_is_not_said_is_left_to_libpq() {
        let params = params(&ConnectionArgs::default());
        for keyword in ["host", "port", "user", "dbname", "password", "passfile", "service"] {
            assert_eq!(params.get(keyword), None, "{keyword}");
        }
        assert_eq!(params.get("fallback_application_name"), Some("citus-fence"));
    }

    #[test]
    fn a_name_is_a_name_and_a_connection_string_goes_over_the_options() {
        assert_eq!(params(&database("shop")).get("dbname"), Some("shop"));
        for text in ["host=b port=2", "postgresql://b:2", "postgres://b:2/"] {
            let mut args = database(text);
            args.host = Some("a".into());
            args.username = Some("me".into());
            let params = params(&args);
            assert_eq!(params.get("host"), Some("b"), "{text}");
            assert_eq!(params.get("port"), Some("2"), "{text}");
            assert_eq!(params.get("user"), Some("me"), "{text}");
            assert_eq!(params.get("dbname"), None, "{text}");
        }
    }

    #[test]
    fn the_encoding_is_ours() {
        let params = params(&database("client_encoding=LATIN1 dbname=x"));
        assert_eq!(params.get("client_encoding"), Some("UTF8"));
    }

    #[test]
    fn a_string_that_cannot_be_read_is_wrong_use_and_not_repeated() {
        let error = Destination::with_environment(&database("password=my hunter2"), None)
            .expect_err("no connection string");
        let report = error.report();
        assert_eq!(report.exit_code, 2);
        assert!(!format!("{report:?}").contains("hunter2"));
    }

    #[test]
    fn connecting_is_always_bounded() {
        let timeout = |text: &str, flag, environment| {
            let mut args = database(text);
            args.connect_timeout = flag;
            Destination::with_environment(&args, environment).expect("parameters").connect_timeout
        };
        let s = Duration::from_secs;
        assert_eq!(timeout("x", None, None), s(10));
        assert_eq!(timeout("x", None, Some("7")), s(7));
        assert_eq!(timeout("connect_timeout=3", None, Some("7")), s(3));
        assert_eq!(timeout("connect_timeout=3", Some(s(1)), Some("7")), s(1));
        assert_eq!(timeout("connect_timeout=0", None, Some("-1")), s(10));
        assert_eq!(timeout("x", None, Some("soon")), s(10));
    }
}
