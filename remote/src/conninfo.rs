//! Connection parameters: pure values, masked wherever they are shown.

use std::ffi::CString;
use std::fmt;
use std::net::ToSocketAddrs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ffi;
use crate::pq::Peer;

/// What a secret looks like in anything a human may read.
const MASK: &str = "****";

/// Seconds of silence before the kernel asks whether the other host is still there, seconds
/// between its questions, and how many may go unanswered: a host that vanishes without a word is
/// noticed after 5 + 3 * 2 = 11 seconds, by the kernel alone, without any traffic of ours.
const KEEPALIVES_IDLE: u32 = 5;
const KEEPALIVES_INTERVAL: u32 = 2;
const KEEPALIVES_COUNT: u32 = 3;

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why connection parameters cannot be used. Never repeats any of their text: what cannot be
/// parsed may be a password that lacks its quotes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// libpq cannot parse the string, or knows no such option.
    #[error("not a valid libpq connection string (text not repeated, as it may hold a secret)")]
    Malformed,
    /// A value holds a zero byte, which C strings cannot.
    #[error("the value of \"{keyword}\" contains a zero byte")]
    ZeroByte {
        /// The keyword of that value.
        keyword: String,
    },
}

/// Keywords and values for libpq, in the order in which they were first set; a later value of the
/// same keyword replaces the earlier one.
///
/// `Debug` and `Display` mask every secret; [`ConnParams::redact`] takes the secrets out of a text
/// that somebody else wrote. What serde makes of them has the secrets in it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnParams {
    pairs: Vec<(String, String)>,
    /// libpq is not to see the environment's `PG*`.
    without_environment: bool,
}

impl ConnParams {
    /// No parameters at all: what libpq then does depends on its environment variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a keyword, in place of an earlier value if there is one.
    pub fn set(&mut self, keyword: impl Into<String>, value: impl Into<String>) -> &mut Self {
        let (keyword, value) = (keyword.into(), value.into());
        match self.pairs.iter_mut().find(|(known, _)| *known == keyword) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((keyword, value)),
        }
        self
    }

    /// The value of a keyword. May be a secret: not for messages.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == keyword).map(|(_, value)| value.as_str())
    }

    /// A connection string of everything that is no secret, for another program's command line. Its secrets are
    /// the caller's to hand over in another way.
    pub fn without_secrets(&self) -> String {
        let quoted = |value: &str| value.replace('\\', r"\\").replace('\'', r"\'");
        let shown = self.pairs.iter().filter(|(keyword, _)| !is_secret(keyword));
        let words = shown.map(|(keyword, value)| format!("{keyword}='{}'", quoted(value)));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Whether libpq is kept from what the environment says.
    pub(super) fn without_environment(&self) -> bool {
        self.without_environment
    }

    /// Has libpq dial that place, while `host` stays the name that certificates are for. A name is looked up
    /// here, as `hostaddr` takes addresses only; one that cannot be is left for libpq to complain of.
    pub fn dial(&mut self, place: &str) -> &mut Self {
        let port = self.get("port").and_then(|port| port.parse::<u16>().ok()).unwrap_or_default();
        let is_address = place.parse::<std::net::IpAddr>().is_ok();
        let found = if is_address { None } else { (place, port).to_socket_addrs().ok() };
        let addresses: Vec<String> =
            found.into_iter().flatten().map(|address| address.ip().to_string()).collect();
        if addresses.is_empty() {
            return self.set("hostaddr", place);
        }
        let name = self.get("host").unwrap_or_default().to_owned();
        // A name for each address: libpq asks for lists of the same length, and tries one after the other.
        self.set("host", vec![name; addresses.len()].join(",")).set("hostaddr", addresses.join(","))
    }

    /// Pins the parameters to the place that was reached: a second connection, such as a cancel's, has to go
    /// there and to none of the other places, and looks no name up.  The name stays, for certificates and .pgpass.
    pub(super) fn keep_place(&mut self, peer: Peer) {
        self.set("host", peer.host).set("port", peer.port.to_string());
        if let Some(address) = peer.address {
            self.set("hostaddr", address);
        }
    }

    /// Looks the name of the host up, so that connecting does not.  Where that fails, connecting will say why.
    /// Nothing bounds the look-up: for moments at which nobody waits.
    pub fn find_addresses(&mut self) {
        let (Some(host), Some(port)) = (self.get("host"), self.get("port")) else { return };
        let is_name = !host.contains(['/', ',']) && !host.is_empty();
        let (Ok(port), true, None) = (port.parse::<u16>(), is_name, self.get("hostaddr")) else {
            return;
        };
        let Ok(found) = (host, port).to_socket_addrs() else { return };
        let addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
        if !addresses.is_empty() {
            // A name for each address: libpq asks for lists of the same length, and tries one after the other.
            let names = vec![host; addresses.len()].join(",");
            self.set("host", names).set("hostaddr", addresses.join(","));
        }
    }

    /// Takes over the address that a connection with those parameters has come to, if it is known.
    pub fn keep_address_of(&mut self, other: &Self) {
        if other.get("hostaddr").is_some() {
            for keyword in ["host", "hostaddr", "port"] {
                if let Some(value) = other.get(keyword) {
                    self.set(keyword, value);
                }
            }
        }
    }

    /// Sets everything a connection string (`key=value …` or a URI) says, over what is there.
    /// Nothing is changed if it cannot be parsed.
    pub fn merge_conninfo(&mut self, conninfo: &str) -> Result<(), ConnInfoError> {
        let text = CString::new(conninfo)
            .map_err(|_| ConnInfoError::ZeroByte { keyword: "conninfo".into() })?;
        for (keyword, value) in ffi::parse_conninfo(&text).ok_or(ConnInfoError::Malformed)? {
            self.set(keyword, value);
        }
        Ok(())
    }

    /// Sets everything that other parameters say, over what is there.
    pub fn merge(&mut self, other: &ConnParams) -> &mut Self {
        for (keyword, value) in &other.pairs {
            self.set(keyword, value);
        }
        self
    }

    /// The parameters as C strings, for libpq.
    pub(super) fn to_c(&self) -> Result<Vec<(CString, CString)>, ConnInfoError> {
        let to_c = |(keyword, value): &(String, String)| {
            Ok((CString::new(keyword.as_str())?, CString::new(value.as_str())?))
        };
        self.pairs
            .iter()
            .map(|pair| {
                to_c(pair).map_err(|_: std::ffi::NulError| ConnInfoError::ZeroByte {
                    keyword: pair.0.replace('\0', ""),
                })
            })
            .collect()
    }

    /// A text from elsewhere (libpq, a server) with every secret of these parameters masked.
    /// libpq does not put passwords into its messages; this is for the case that it ever does.
    pub fn redact(&self, text: &str) -> String {
        self.pairs
            .iter()
            .filter(|(keyword, value)| is_secret(keyword) && !value.is_empty())
            .fold(text.to_owned(), |text, (_, value)| text.replace(value.as_str(), MASK))
    }
}

/// The one place that decides what is masked: passwords, client secrets, and keys (or where they
/// lie). By parts of the name, so that options of later libpq versions (`oauth_client_secret`,
/// `scram_client_key`) are covered too.
fn is_secret(keyword: &str) -> bool {
    let keyword = keyword.to_ascii_lowercase();
    ["password", "secret", "key"].iter().any(|part| keyword.contains(part))
}

impl fmt::Display for ConnParams {
    /// `host=127.0.0.1 password=****`: for humans, not for parsing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (keyword, value)) in self.pairs.iter().enumerate() {
            let gap = if position == 0 { "" } else { " " };
            let shown = if is_secret(keyword) { MASK } else { value };
            write!(f, "{gap}{keyword}={shown}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConnParams {
    /// As `Display`, so that no `{:?}` of a struct that holds parameters shows a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnParams({self})")
    }
}

/// The parameters every session starts from; merge Citus' and our own settings over them.
///
/// Nothing goes into `options`: poolers refuse startup packets that carry it, so settings are for
/// `SET LOCAL`. Kerberos' encryption is off unless a setting asks for it: libpq would look for a ticket at
/// every connection, and talk to the KDC for as long as that takes. `connect_timeout` only tells libpq's blocking half, and so whoever copies these
/// parameters; here the caller's deadline is the bound.
///
/// These are a server process' sessions: of the environment that its postmaster was started with, libpq sees no
/// `PG*` but `PGPASSFILE`, which says where the passwords are that `.pgpass` would have, and nothing of the session.
pub fn base_params(
    host: &str,
    port: i32,
    dbname: &str,
    user: &str,
    application_name: &str,
    connect_timeout: Duration,
) -> ConnParams {
    let whole_seconds = connect_timeout.as_millis().div_ceil(1000).max(1);
    let mut params = ConnParams { without_environment: true, ..ConnParams::new() };
    params
        .set("host", host)
        .set("port", port.to_string())
        .set("dbname", dbname)
        .set("user", user)
        .set("application_name", application_name)
        .set("client_encoding", "UTF8")
        .set("gssencmode", "disable")
        .set("connect_timeout", whole_seconds.to_string());
    set_keepalives(&mut params, connect_timeout);
    params
}

/// The parameters that a *program's* sessions start from; merge what its user says over them.
///
/// Who, where and how is left to libpq, which asks the environment (`PG*`), the service file and
/// .pgpass, as for psql; give such parameters [`NodeLabel::not_known`](crate::NodeLabel::not_known)
/// as their label. Not for a server process, whose environment belongs to nobody: [`base_params`]
/// is.
pub fn program_params(application_name: &str, connect_timeout: Duration) -> ConnParams {
    let mut params = ConnParams::new();
    params.set("fallback_application_name", application_name).set("client_encoding", "UTF8");
    set_keepalives(&mut params, connect_timeout);
    params
}

/// Has the kernel notice a host that vanishes.
fn set_keepalives(params: &mut ConnParams, connect_timeout: Duration) {
    // The kernel applies this one to the first SYN as well: never less than the connect timeout.
    let tcp_user_timeout = TCP_USER_TIMEOUT.max(connect_timeout).as_millis();
    params
        .set("keepalives", "1")
        .set("keepalives_idle", KEEPALIVES_IDLE.to_string())
        .set("keepalives_interval", KEEPALIVES_INTERVAL.to_string())
        .set("keepalives_count", KEEPALIVES_COUNT.to_string())
        .set("tcp_user_timeout", tcp_user_timeout.to_string());
}
