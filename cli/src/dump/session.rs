//! A session of the dump: with the server itself, under settings that no role or database changes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use remote::{
    Command, CopyEnd, CopyError, Deadline, LibPq, NodeLabel, PollWaiter, RemoteError, Reply,
    Session, SessionState, Target, cancel_and_drain, connect_all,
};
use tracing::debug;

use super::error::DumpError;
use crate::failure::Failure;
use crate::rows::only_row;

/// How long a question may take that looks into catalogs.
pub const ANSWER_TIME: Duration = Duration::from_secs(120);

/// How long a server may take for what needs next to nothing: one that is silent for longer is frozen, or gone.
pub const WORD_TIME: Duration = Duration::from_secs(30);

/// How long a COPY may be silent: a scan of dead rows sends nothing. Whether the host is there the kernel asks.
const COPY_SILENCE: Duration = Duration::from_secs(3600);

/// How long a cancel may take that is on the way out.
const CANCEL_TIME: Duration = Duration::from_secs(2);

/// What every session starts with. In the startup packet these go over what roles and databases say, and hold
/// before the first statement; the time-outs of a role would end a keeper.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=0 \
 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c row_security=off \
 -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off \
 -c search_path=pg_catalog -c quote_all_identifiers=off -c xmloption=content \
 -c default_table_access_method=heap -c synchronize_seqscans=off -c jit=off -c citus.override_table_visibility=off \
 -c citus.enable_manual_changes_to_shards=on -c citus.enable_ddl_propagation=off";

/// What a session starts with that copies: rows are written as pg_dump has them written, whatever roles and databases say.
/// Who restores has none of it: a check or a view may look at the database's own time zone, and any format is read.
const WRITTEN: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 \
 -c bytea_output=hex -c TimeZone=UTC -c lc_monetary=C";

/// What pg_dump's sessions start with: Citus hides shards from it, whatever roles and databases say of that, and its locks
/// must not go to other nodes.
pub const OPTIONS_OF_PG_DUMP: &str = "-c statement_timeout=0 \
 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c lc_monetary=C \
 -c citus.enable_ddl_propagation=off -c citus.override_table_visibility=on \
 -c citus.show_shards_for_app_name_prefixes= -c standard_conforming_strings=on";

/// A setting of no meaning, by which a session sees that its startup packet has reached a server.
const TOKEN: &str = "citus_fence_command.token";

/// Where a node is.
#[derive(Clone, Debug)]
pub struct Reach {
    pub target: Target,
    pub connect_timeout: Duration,
    pub group: i32,
}

impl Reach {
    /// What libpq is given for pg_dump: the same place, other options.
    pub fn for_pg_dump(&self) -> remote::ConnParams {
        self.with_options(OPTIONS_OF_PG_DUMP)
    }

    /// The same place for another program, with options of its own.
    pub fn with_options(&self, options: &str) -> remote::ConnParams {
        let mut params = self.target.params.clone();
        let options = joined(params.get("options"), options);
        params.set("options", options);
        params
    }
}

fn joined(theirs: Option<&str>, ours: &str) -> String {
    format!("{} {ours}", theirs.unwrap_or_default())
}

/// A session with a node.
pub struct NodeSession {
    session: Session<LibPq>,
    waiter: PollWaiter,
}

impl NodeSession {
    /// Connects, and makes sure of who answers. A database of no encoding has bytes of any, which pass as they are. `halt` ends every wait.
    pub fn open(reach: &Reach, halt: &Arc<AtomicBool>) -> Result<NodeSession, Failure> {
        NodeSession::open_with(reach, WRITTEN, halt)
    }

    /// The same with other formats, and more options, which go over the others.
    pub fn open_with(
        reach: &Reach,
        more: &str,
        halt: &Arc<AtomicBool>,
    ) -> Result<NodeSession, Failure> {
        let mut target = reach.target.clone();
        let token = format!("{:x}", std::process::id());
        let options = format!("{OPTIONS} {more} -c {TOKEN}={token}");
        let options = joined(target.params.get("options"), &options);
        target.params.set("options", options);
        let mut waiter = PollWaiter::with_stop(Arc::clone(halt));
        let deadline = Deadline::after(&waiter, reach.connect_timeout);
        let node = target.node.clone();
        let session = connect_all(&mut waiter, std::slice::from_ref(&target), deadline)
            .into_iter()
            .next()
            .unwrap_or(Err(RemoteError::Unexpected { node, command: "connect", what: "no result" }))
            .map_err(|error| match error.server_message() {
                // What PgBouncer says of a startup packet with options.
                Some(words) if words.contains("unsupported startup parameter") => {
                    Failure::from(DumpError::Pooler { node: error.node().to_string() })
                }
                _ => Failure::Remote(error),
            })?;
        let mut this = NodeSession { session, waiter };
        let reply = this.ask(
            "begin session",
            &format!(
                "SELECT set_config('transaction_timeout', '0', false)
                  WHERE current_setting('server_version_num')::int >= 170000;
                 SELECT set_config('client_encoding', 'SQL_ASCII', false)
                  WHERE current_setting('server_encoding') = 'SQL_ASCII';
                 SELECT pg_backend_pid() AS pid, current_setting('{TOKEN}', true) AS token,
                        (SELECT groupid FROM pg_dist_local_group) AS groupid,
                        NOT EXISTS (SELECT FROM pg_dist_node) AS knows_nobody"
            ),
        )?;
        let row = only_row(&reply)?;
        let pid: i32 = row.get("pid")?;
        let direct =
            this.session.startup_pid() == Some(pid) && row.maybe::<String>("token")? == Some(token);
        if !direct {
            return Err(DumpError::Pooler { node: this.node().to_string() }.into());
        }
        let found: i32 = row.get("groupid")?;
        // A node that has never had metadata takes itself for the coordinator of nobody. Whether it is the one that was
        // meant shows when it knows the snapshot.
        let is_new = found == 0 && row.is_true("knows_nobody")?;
        if found != reach.group && !is_new {
            let node = this.node().to_string();
            return Err(DumpError::WrongNode { node, group: reach.group, found }.into());
        }
        this.session.set_server_pid(pid);
        // A session that waits for a lock does not look at its socket: with this it sees that a program that was
        // killed is gone, and holds neither snapshot nor lock any longer. Not every system can.
        let check = "SET client_connection_check_interval = '2s'";
        match this.ask("have the connection checked", check) {
            Ok(_) | Err(RemoteError::Query { .. }) => Ok(this),
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is.
    pub fn node(&self) -> &NodeLabel {
        self.session.node()
    }

    /// Whether it can be used.
    pub fn is_alive(&self) -> bool {
        self.session.state() == SessionState::Idle
    }

    /// Asks, for as long as catalogs may take.
    pub fn ask(&mut self, name: &'static str, sql: &str) -> Result<Reply, RemoteError> {
        self.ask_within(name, sql, ANSWER_TIME)
    }

    /// Sees that it is there.
    pub fn is_there(&mut self, name: &'static str) -> Result<(), RemoteError> {
        self.ask_within(name, "SELECT 1", WORD_TIME).map(drop)
    }

    /// Asks, and waits so long for the answer.
    pub fn ask_within(
        &mut self,
        name: &'static str,
        sql: &str,
        time: Duration,
    ) -> Result<Reply, RemoteError> {
        let deadline = Deadline::after(&self.waiter, time);
        let answer = self.session.run(&mut self.waiter, Command::new(name, sql), deadline);
        if let Err(error) = &answer {
            debug!("{error}");
            self.cancel();
        }
        answer
    }

    /// Runs a COPY whose rows go to `sink`.
    pub fn copy(
        &mut self,
        sql: &str,
        sink: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<CopyEnd, CopyError> {
        let command = Command::new("copy", sql);
        let end = self.session.copy_out(&mut self.waiter, &command, COPY_SILENCE, sink);
        if end.is_err() {
            self.cancel();
        }
        end
    }

    /// Runs a COPY whose rows come from `source`, piece by piece.
    pub fn copy_from(
        &mut self,
        sql: &str,
        source: &mut dyn FnMut(&mut Vec<u8>) -> std::io::Result<()>,
    ) -> Result<CopyEnd, CopyError> {
        let command = Command::new("copy", sql);
        self.session.copy_in(&mut self.waiter, &command, COPY_SILENCE, source)
    }

    /// Cancels what is under way, if anything is. What ended the wait does not end this.
    fn cancel(&mut self) {
        if self.session.state() != SessionState::Busy {
            return;
        }
        let mut waiter = PollWaiter::new();
        let deadline = Deadline::after(&waiter, CANCEL_TIME);
        for end in cancel_and_drain(&mut waiter, &mut [&mut self.session], deadline) {
            debug!("after a cancel: {end:?}");
        }
    }
}
