//! A block that lasts for as long as this program wants it, and no longer than a lease without it.
//!
//! ```text
//!  begin ──> held ──every third of the lease: renewed── … ──> end: the verdict
//!              │  └─ a renewal fails: again, over a new connection, while the lease lasts
//!              ├─ lost: the coordinator says so, or the lease has run out without a renewal
//!              └─ over: it has lasted for as long as it may (`--max`)
//! ```
//! The block outlives sessions, so a lost connection loses nothing by itself; and as each renewal gives it only
//! one lease more, a program that is killed leaves it standing for no longer than that.
//!
//! **What may be relied on.** `citus_backup_block_stop()` is true if and only if the block lasted until then, so
//! the verdict is the server's. [`Held::trouble`] is only there to end early what has become useless.

mod databases;
mod keeper;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use remote::{Command, RemoteError};
use serde::Serialize;
use tracing::debug;

use self::keeper::Shared;
use crate::connection::Destination;
use crate::failure::Failure;
use crate::output::Output;
use crate::rows::{Row, only_row, rows};
use crate::server::Server;
use crate::signals::Stop;
use crate::talk::Talk;
use crate::units::spell;

/// How long the start of a block may take: as long as the server's own `citus_fence.acquire_timeout` lets it, which
/// is 60 s where nobody changed it.
const START_TIME: Duration = Duration::from_secs(330);
/// How long one question about a block may take.
const ANSWER_TIME: Duration = Duration::from_secs(20);
/// How long the server itself lets one of ours run: less than we wait.
const SERVER_TIME: &str = "SET LOCAL statement_timeout = '15s'; SET LOCAL lock_timeout = '10s'; SET LOCAL TimeZone = 'UTC'; ";
/// The same for the start, whose bound is `citus_fence.acquire_timeout`.
const SERVER_START: &str = "SET LOCAL statement_timeout = '320s'; SET LOCAL lock_timeout = 0; ";
/// How long the end of a block is tried that nobody relies on any more, or that this program is told to leave: without
/// it, it ends with its lease.
const GIVE_UP: Duration = Duration::from_secs(10);
/// How long one try to end a block may take whose lease is over.
const LAST_TRY: Duration = Duration::from_secs(5);
/// How long to wait before a release is tried again.
const BREATH: Duration = Duration::from_millis(300);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// `2pc` or `all`; none is the server's setting.
    pub mode: Option<&'static str>,
    /// How long the block lives without a renewal.
    pub lease: Duration,
    /// How long it may last altogether.
    pub max: Duration,
    /// Other databases of the servers that have Citus are left alone.
    pub only_this_database: bool,
}

/// A node under the block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldNode {
    pub nodeid: Option<i32>,
    pub groupid: i32,
    pub name: String,
    pub port: i32,
    pub system_identifier: String,
    pub timeline: i32,
    /// What a copy of it has to reach.
    pub wal_lsn: String,
}

/// The block, while it is renewed. Dropped without [`Held::end`] it ends all the same, without a verdict.
pub struct Held {
    pub id: i64,
    pub mode: String,
    /// When all nodes were held, by the coordinator's clock.
    pub began_at: DateTime<Utc>,
    pub nodes: Vec<HeldNode>,
    /// The schema of the extension, quoted.
    home: String,
    destination: Destination,
    began: Instant,
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
    /// The blocks of the other databases, each with a name for messages.
    others: Vec<(String, Held)>,
}

/// Why what is done under a block should stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The block is gone, and why.
    Lost(String),
    /// It has lasted for as long as it may.
    Over,
}

/// How long the end of a block is waited for.
#[derive(Clone, Copy)]
enum Patience {
    /// Until the lease is over: afterwards the verdict is known without the server.
    ForTheVerdict,
    /// A few seconds.
    ToBeNice,
}

/// How a block ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It lasted until it was ended by this program.
    pub lasted: bool,
    /// Why not.
    pub why: Option<String>,
    /// When the coordinator said that it was over, by this machine's clock.
    pub ended_at: DateTime<Utc>,
    /// For how long writers were held, as seen from here.
    pub held: Duration,
}

/// Begins a block, and keeps it; and one in every other database of the servers that is a cluster, for copies of the
/// servers have all of them in it.
pub fn begin(
    destination: &Destination,
    terms: &Terms,
    stop: &Stop,
    output: &Output,
) -> Result<Held, Failure> {
    let others = match terms.only_this_database {
        true => Vec::new(),
        false => databases::others(destination, stop)?,
    };
    let mut held = begin_one(destination, terms, stop, output)?;
    // An early return ends those that have begun: by Drop.
    for (name, other) in others {
        held.others.push((name, begin_one(&other, terms, stop, output)?));
    }
    Ok(held)
}

/// Refuses a server that could not hold writers for anybody: no coordinator, no extension, or too old a one.
pub fn require(destination: &Destination, stop: &Stop) -> Result<(), Failure> {
    let mut server = Server::open(destination, stop)?;
    let coordinator = crate::status::coordinator(&mut server)?;
    server.close();
    if coordinator.citus_fence.starts_with("0.1.") {
        return Err(Failure::TooOld {
            server: format!("{}:{}", coordinator.host, coordinator.port),
            version: coordinator.citus_fence,
        });
    }
    Ok(())
}

fn begin_one(
    destination: &Destination,
    terms: &Terms,
    stop: &Stop,
    output: &Output,
) -> Result<Held, Failure> {
    require(destination, stop)?;
    let mut talk = Talk::to(destination, START_TIME, stop)?;
    let home: String = only_row(&talk.ask(
        "find the extension",
        "SELECT quote_ident(n.nspname) AS home FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'citus_fence'",
    )?)?
    .get("home")?;
    let pid: i32 =
        talk.ask("identify session", "SELECT pg_catalog.pg_backend_pid()")?.parse_single()?;

    // An earlier block that ended in an error is kept until somebody has been told. Whoever had its number is told by it,
    // then or later; a backup every night must not wait for somebody to come.
    let failed = format!(
        "{SERVER_TIME}SELECT block_id, {home}.citus_backup_block_stop(block_id) FROM {home}.citus_backup_block_status() \
         WHERE state = 'error' AND block_id IS NOT NULL"
    );
    if let Some(row) = rows(&talk.ask("look for a failed block", &failed)?)?.next() {
        let id: i64 = row.get("block_id")?;
        tracing::warn!("block {id} had ended in an error");
    }

    let mode = terms.mode.map_or("NULL".to_owned(), |mode| format!("'{mode}'"));
    let start = format!(
        "{SERVER_START}SELECT {home}.citus_backup_block_start({}, {mode})",
        milliseconds(terms.lease)
    );
    let asked = Instant::now();
    let begun =
        talk.ask("start of a block", &start).and_then(|reply| Ok(reply.parse_single::<i64>()?));
    drop(talk);
    let id = match begun {
        Ok(id) => id,
        Err(error) => {
            // It may have begun all the same, its answer lost, or crossed by the cancel.
            give_up(destination, &home, pid);
            return Err(error);
        }
    };
    let shared = Arc::new(Shared::new(asked + terms.lease));
    let mut held = Held {
        id,
        mode: String::new(),
        began_at: Utc::now(),
        nodes: Vec::new(),
        home: home.clone(),
        destination: destination.clone(),
        began: Instant::now(),
        shared: Arc::clone(&shared),
        keeper: None,
        others: Vec::new(),
    };
    let keeper = keeper::Keeper {
        id,
        home,
        destination: destination.clone(),
        terms: terms.clone(),
        began: held.began,
        shared,
        output: *output,
    };
    let thread = std::thread::Builder::new().name("lease".to_owned());
    held.keeper = Some(thread.spawn(move || keeper.keep()).map_err(Failure::Thread)?);
    // From here on an error ends the block: by Drop.
    held.look(stop)?;
    Ok(held)
}

impl Held {
    /// Whom it holds, and since when.
    fn look(&mut self, stop: &Stop) -> Result<(), Failure> {
        let mut talk = Talk::to(&self.destination, ANSWER_TIME, stop)?;
        let sql = format!(
            "{SERVER_TIME}SELECT nodeid, groupid, nodename, nodeport, system_identifier, timeline_id, wal_lsn, mode, \
             to_char(max(locked_at) OVER (), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS began_at \
             FROM {}.citus_backup_block_nodes() WHERE block_id = {} ORDER BY groupid",
            self.home, self.id
        );
        let reply = talk.ask("block's nodes", &sql)?;
        for row in rows(&reply)? {
            self.mode = row.get("mode")?;
            self.began_at = row.maybe("began_at")?.unwrap_or(self.began_at);
            self.nodes.push(node(row)?);
        }
        match self.nodes.is_empty() {
            false => Ok(()),
            true => {
                Err(reply.unexpected("no node is held; was the block released by somebody?").into())
            }
        }
    }

    /// Whether what is done under it should stop. Does not wait.
    pub fn trouble(&self) -> Option<Trouble> {
        let of_others =
            || self.others.iter().find_map(|(name, other)| named(name, other.trouble()?));
        self.own_trouble().or_else(of_others)
    }

    fn own_trouble(&self) -> Option<Trouble> {
        self.shared.trouble.lock().clone()
    }

    /// Asks something on the coordinator while the block is held. `sql` finds the extension's schema as `{home}`.
    pub fn ask(
        &self,
        name: &'static str,
        sql: &str,
        stop: &Stop,
    ) -> Result<remote::Reply, Failure> {
        let mut talk = Talk::to(&self.destination, ANSWER_TIME, stop)?;
        talk.run(Command::new(name, format!("{SERVER_TIME}{}", sql.replace("{home}", &self.home))))
    }

    /// Ends it. A signal does not stop this, which is bounded by the lease; once there was one, by a few seconds.
    pub fn end(mut self, stop: &Stop) -> Verdict {
        self.leave(stop, Patience::ForTheVerdict)
    }

    /// Ends it where nobody relies on it any more: in a few seconds, or with its lease.
    pub fn give_up(mut self) -> Verdict {
        self.leave(&Stop::default(), Patience::ToBeNice)
    }

    /// Ends it and the others; true if all of them have lasted.
    fn leave(&mut self, stop: &Stop, patience: Patience) -> Verdict {
        let mut verdict = self.leave_own(stop, patience);
        for (name, mut other) in std::mem::take(&mut self.others) {
            let theirs = other.leave(stop, patience);
            if !theirs.lasted && verdict.lasted {
                verdict.lasted = false;
                verdict.why = theirs.why.map(|why| format!("database \"{name}\": {why}"));
            }
        }
        verdict
    }

    fn leave_own(&mut self, stop: &Stop, patience: Patience) -> Verdict {
        self.shared.ending.store(true, Ordering::Release);
        self.shared.leave.store(true, Ordering::Release);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // It does not panic; if it did, the verdict is the server's all the same.
            let _ = keeper.join();
        }
        let why_lost = match self.own_trouble() {
            Some(Trouble::Lost(why)) => Some(why),
            Some(Trouble::Over) | None => None,
        };
        let end_of_lease = self.shared.valid_until();
        let mut until = match patience {
            Patience::ForTheVerdict => end_of_lease,
            Patience::ToBeNice => end_of_lease.min(Instant::now() + GIVE_UP),
        };
        let mut is_told = false;
        loop {
            if stop.number().is_some() && !is_told {
                is_told = true;
                until = until.min(Instant::now() + GIVE_UP);
            }
            match self.release(until) {
                // The server knows best why it did not last.
                Ok((lasted, error)) => {
                    let why =
                        || error.or(why_lost).unwrap_or_else(|| "no reason is known".to_owned());
                    return self.verdict(lasted, (!lasted).then(why));
                }
                Err(error) => {
                    debug!("{error}");
                    if Instant::now() >= until || refused(&error) {
                        let left = end_of_lease.saturating_duration_since(Instant::now());
                        let why = format!(
                            "its end could not be confirmed ({error}); it ends by itself, {}",
                            match left.is_zero() {
                                true => "with its lease, which is over".to_owned(),
                                false => format!("in {} at the latest", spell(left)),
                            }
                        );
                        return self.verdict(false, Some(why_lost.unwrap_or(why)));
                    }
                    std::thread::sleep(BREATH);
                }
            }
        }
    }

    fn verdict(&self, lasted: bool, why: Option<String>) -> Verdict {
        Verdict { lasted, why, ended_at: Utc::now(), held: self.began.elapsed() }
    }

    /// Has the coordinator end it. One try is made whatever the time.
    fn release(&self, until: Instant) -> Result<(bool, Option<String>), Failure> {
        let left = until.saturating_duration_since(Instant::now()).max(LAST_TRY);
        let mut there = self.destination.clone();
        there.connect_timeout = there.connect_timeout.min(left);
        let never = Stop::default();
        let mut talk = Talk::to(&there, ANSWER_TIME.min(left), &never)?;
        let sql = format!(
            "{SERVER_TIME}SELECT {}.citus_backup_block_stop({}) AS lasted",
            self.home, self.id
        );
        let lasted = only_row(&talk.ask("end of the block", &sql)?)?.is_true("lasted")?;
        if lasted {
            return Ok((true, None));
        }
        // Only for the message: that it did not last is known.
        let status = talk.ask(
            "block's status",
            &format!("SELECT error FROM {}.citus_backup_block_status()", self.home),
        );
        let error = status.ok().and_then(|reply| only_row(&reply).ok()?.maybe("error").ok()?);
        Ok((false, error))
    }
}

/// The same of another database.
fn named(database: &str, trouble: Trouble) -> Option<Trouble> {
    Some(match trouble {
        Trouble::Lost(why) => Trouble::Lost(format!("database \"{database}\": {why}")),
        Trouble::Over => Trouble::Over,
    })
}

impl Drop for Held {
    /// An early return must not leave it standing for a lease.
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let verdict = self.leave(&Stop::default(), Patience::ToBeNice);
            debug!("block {} was given up: {verdict:?}", self.id);
        }
    }
}

/// Ends a block that this session may have begun without our hearing of it. Where this fails too, it ends with its
/// lease.
fn give_up(destination: &Destination, home: &str, pid: i32) {
    let never = Stop::default();
    let sql = format!(
        "{SERVER_TIME}SELECT {home}.citus_backup_block_stop(block_id) FROM {home}.citus_backup_block_status() \
         WHERE state IN ('starting', 'active') AND requestor_pid = {pid}"
    );
    let mut talk = match Talk::to(destination, ANSWER_TIME, &never) {
        Ok(talk) => talk,
        Err(error) => return debug!("{error}"),
    };
    if let Err(error) = talk.ask("end of an unheard block", &sql) {
        debug!("{error}");
    }
}

/// Whether the server itself has spoken, in a way that asking again does not change.
fn refused(error: &Failure) -> bool {
    matches!(error, Failure::Remote(RemoteError::Query { .. } | RemoteError::Refused { .. }))
}

fn node(row: Row<'_>) -> Result<HeldNode, RemoteError> {
    Ok(HeldNode {
        nodeid: row.maybe("nodeid")?,
        groupid: row.get("groupid")?,
        name: row.get("nodename")?,
        port: row.get("nodeport")?,
        // SQL shows the unsigned number with a sign.
        system_identifier: row.get::<i64>("system_identifier")?.cast_unsigned().to_string(),
        timeline: row.get("timeline_id")?,
        wal_lsn: row.get("wal_lsn")?,
    })
}

/// As the server takes it.
fn milliseconds(duration: Duration) -> u128 {
    duration.as_millis()
}
