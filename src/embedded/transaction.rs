//! Sessions on other nodes, and how they take part in this session's transaction.
//!
//! ```text
//! Waiting ──BEGIN──> Joined { wrote } ──────────────────────────────── COMMIT ──────> Waiting
//!    ^                  │ (wrote, and not the only one who did)
//!    │                  └─ record, PREPARE ──> Prepared ─── COMMIT PREPARED ────────> Waiting
//!    │                                           │
//!    └── ROLLBACK, or ROLLBACK PREPARED ─────────┘  (from anywhere, when the transaction aborts)
//! ```
//!
//! A session is made when a node is first needed, and kept for later transactions of this backend.
//! Whatever goes wrong with it while it takes part aborts the transaction; a session that does not
//! come back from an abort or commit in good order is closed.
//!
//! The rules that everything else relies on:
//! * The commit records, and with them RowExclusiveLock on `pg_dist_transaction`, come *before* the
//!   first PREPARE.  The lock is kept until the callback after the commit, or abort, has returned.
//!   So there is no prepared transaction of a live session of this node without that lock.
//! * After the local commit nothing can fail any more: what cannot be finished within a deadline is
//!   a WARNING, and left to [`super::recovery`].
//!
//! [`STATE`] is never borrowed while an ERROR or FATAL may be raised on purpose: waits under it are
//! [`Stoppable`].  Should one be raised all the same while the process ends, the callbacks find it
//! borrowed and leave everything as it is: the sockets close, and recovery does the rest.

use std::cell::RefCell;
use std::time::Duration;

use pgrx::pg_sys::Oid;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::error::{EmbeddedError, or_raise};
use super::gid;
use super::guc::{PausePoint, pause};
use crate::citus::{Access, Dialer};
use crate::pg::process::me;
use crate::pg::quote::literal;
use crate::pg::stoppable::{Stoppable, serve};
use crate::pg::superuser::as_superuser;
use crate::pg::xact_callbacks::{self as xact, Turn, XactCallbacks, unfailing};
use crate::pg::{elog, ident, text_sql};
use crate::report::Report;
use remote::{
    Command, Deadline, NodeLabel, PollWaiter, RemoteError, Reply, Session, SessionState, Target,
    TransactionStatus, Waiter, cancel_and_drain, connect_all, run_all,
};

/// Bound on connecting to nodes, all at once.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Bound on a command on a shard.  It may wait for rows for as long as a backup block lasts; the
/// user's own `statement_timeout` and cancels end it sooner.
const STATEMENT_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);
/// Bound on PREPARE TRANSACTION on all nodes.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);
/// Bound on cancelling what an abort finds still running elsewhere.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Bound on the last command on all nodes, for which interrupts are held.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// What the sessions show in `pg_stat_activity`.
const APPLICATION_NAME: &str = "pg_dist";

/// A node that a command goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is called, and where it is.
    pub label: NodeLabel,
    /// Its group.
    pub group: i32,
}

/// Whether a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It does.
    Yes,
    /// Nobody knows: the node is asked, which needs the simple protocol (no parameters).
    Ask,
}

/// How a session takes part in the current transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// It does not; kept for a later one.
    Waiting,
    /// In a transaction of its own.
    Joined { wrote: bool },
    /// PREPARE TRANSACTION has been sent, and nothing is known of its success.
    Preparing { gid: String },
    /// Its transaction is prepared.
    Prepared { gid: String },
}

/// A session and its part.
struct Link {
    peer: Peer,
    role: Oid,
    session: Session,
    part: Part,
}

impl Link {
    /// Whether the node has already ended its transaction: the COMMIT of the only writer failed, say.
    fn has_ended_by_itself(&self) -> bool {
        matches!(self.part, Part::Joined { .. })
            && self.session.transaction_status() == TransactionStatus::Idle
    }
}

/// The sessions of this backend.
struct State {
    links: Vec<Link>,
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State { links: Vec::new() }) };
}

/// The question whose answer follows that of a command of which nobody knows whether it writes.
const HAS_WRITTEN: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL";

/// Runs a command on each peer (all different), all at once, as part of the current transaction.
pub fn run<'c>(
    peers: &[Peer],
    writes: Writes,
    command: impl Fn(usize) -> Command<'c>,
) -> Result<Vec<Reply>, EmbeddedError> {
    if peers.is_empty() {
        return Ok(Vec::new());
    }
    if xact::in_subtransaction() {
        return Err(EmbeddedError::Subtransaction);
    }
    // After the gate: the engine plays Citus.
    xact::register(
        Turn::Second,
        XactCallbacks {
            pre_commit,
            pre_prepare,
            committed: || unfailing(committed, || failed_after("commit")),
            // Nothing is left to do: it has been refused before.
            prepared: || {},
            aborted: || unfailing(aborted, || failed_after("abort")),
        },
    );
    let role = ident::current_role();
    let links = join(peers, role)?;
    let results = stoppable(|state, waiter| {
        let deadline = Deadline::after(waiter, STATEMENT_LIMIT);
        if writes == Writes::Yes {
            // Before it is known to have worked: it may have, even if the answer is lost.
            state.set_parts(&links, Part::Joined { wrote: true });
        }
        let results = state.run(waiter, &links, deadline, |position| {
            let mut command = command(position);
            if writes == Writes::Ask {
                command.sql = format!("{}\n;{HAS_WRITTEN}", command.sql).into();
            }
            command
        });
        state.check_transactions(&links, results)
    });
    let mut replies = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    if writes == Writes::Ask {
        for (reply, link) in replies.iter_mut().zip(&links) {
            let wrote = reply.single_value()? == "t";
            reply.sets.pop();
            with_state(|state| {
                if let Part::Joined { wrote: before } = &mut state.links[*link].part {
                    *before |= wrote;
                }
            });
        }
    }
    Ok(replies)
}

/// Brings the peers into the transaction: positions of their links, in order.
fn join(peers: &[Peer], role: Oid) -> Result<Vec<usize>, EmbeddedError> {
    begin_waiting(peers, role)?;
    let missing: Vec<&Peer> =
        peers.iter().filter(|peer| with_state(|state| state.find(peer, role)).is_none()).collect();
    if !missing.is_empty() {
        let targets = targets(&missing, role)?;
        let mut failure = None;
        stoppable(|state, waiter| {
            let deadline = Deadline::after(waiter, CONNECT_LIMIT);
            for (peer, result) in missing.iter().zip(connect_all(waiter, &targets, deadline)) {
                match result {
                    Ok(session) => state.links.push(Link {
                        peer: (*peer).clone(),
                        role,
                        session,
                        part: Part::Waiting,
                    }),
                    Err(error) => failure = failure.take().or(Some(error)),
                }
            }
        });
        if let Some(error) = failure {
            return Err(error.into());
        }
        begin_waiting(peers, role)?;
    }
    // All there, or the one that is not was lost again at once.
    peers
        .iter()
        .map(|peer| {
            with_state(|state| state.find(peer, role)).ok_or_else(|| {
                let node = peer.label.clone();
                RemoteError::Unexpected { node, command: BEGIN, what: "the session is gone" }.into()
            })
        })
        .collect()
}

/// The label of beginning a transaction.
const BEGIN: &str = "begin";

/// Begins a transaction in those of the peers' sessions that wait for one.  A session that turns out
/// to be dead (the node was restarted since) is dropped without an error, to be made anew.
fn begin_waiting(peers: &[Peer], role: Oid) -> Result<(), EmbeddedError> {
    // Settings of an earlier transaction are forgotten.  The process says its number itself, so that
    // it can be cancelled.
    let access = if xact::read_only() { "READ ONLY" } else { "READ WRITE" };
    let begin = format!(
        "RESET SESSION AUTHORIZATION; RESET ALL; \
         BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED {access}; \
         SELECT pg_catalog.pg_backend_pid()"
    );
    stoppable(|state, waiter| {
        let links: Vec<usize> = peers
            .iter()
            .filter_map(|peer| state.find(peer, role))
            .filter(|link| state.links[*link].part == Part::Waiting)
            .collect();
        state.set_parts(&links, Part::Joined { wrote: false });
        let deadline = Deadline::after(waiter, CONNECT_LIMIT);
        let results = state.run(waiter, &links, deadline, |_| Command::new(BEGIN, begin.as_str()));
        let mut dead = Vec::new();
        let mut failure = None;
        for (link, result) in links.into_iter().zip(results) {
            match result.and_then(|reply| reply.parse_single()) {
                Ok(pid) => state.links[link].session.set_server_pid(pid),
                Err(RemoteError::Lost { .. } | RemoteError::Closed { .. }) => dead.push(link),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        dead.sort_unstable();
        for link in dead.into_iter().rev() {
            state.links.remove(link);
        }
        failure.map_or(Ok(()), |error| Err(error.into()))
    })
}

/// Where to connect to, as a role, and with what the catalog says about that.
fn targets(peers: &[&Peer], role: Oid) -> Result<Vec<Target>, EmbeddedError> {
    let labels: Vec<NodeLabel> = peers.iter().map(|peer| peer.label.clone()).collect();
    connection_targets(&labels, role)
}

/// Where to connect to, as a role, and with what the catalog says about that.
pub fn connection_targets(labels: &[NodeLabel], role: Oid) -> Result<Vec<Target>, EmbeddedError> {
    // Who serves whom, in the form that Citus has for it.
    let group = crate::citus::local_group()?;
    let own = crate::citus::nodes()?.into_iter().find(|node| node.groupid == group);
    let global_pid = crate::citus::global_pid(own.map_or(0, |node| node.nodeid), me().pid);
    let application_name = format!("{APPLICATION_NAME} gpid={global_pid}");
    let access = Access::read(Dialer { role, application_name, connect_timeout: CONNECT_LIMIT });
    Ok(labels.iter().map(|label| access.target(label.clone())).collect::<Result<Vec<_>, _>>()?)
}

impl State {
    /// The position of a peer's link.  One that leads to where the node no longer is does not count.
    fn find(&self, peer: &Peer, role: Oid) -> Option<usize> {
        self.links.iter().position(|link| link.peer == *peer && link.role == role)
    }

    fn set_parts(&mut self, links: &[usize], part: Part) {
        for link in links {
            self.links[*link].part = part.clone();
        }
    }

    /// Positions of the links whose part is such.
    fn links_where(&self, is_such: impl Fn(&Part) -> bool) -> Vec<usize> {
        (0..self.links.len()).filter(|link| is_such(&self.links[*link].part)).collect()
    }

    /// Runs a command on each of these links (all different): one result per link, in order.
    fn run<'c, W: Waiter>(
        &mut self,
        waiter: &mut W,
        links: &[usize],
        deadline: Deadline,
        command: impl Fn(usize) -> Command<'c>,
    ) -> Vec<Result<Reply, RemoteError>> {
        let mut chosen: Vec<(usize, &mut Session)> = self
            .links
            .iter_mut()
            .enumerate()
            .filter_map(|(position, link)| {
                let order = links.iter().position(|chosen| *chosen == position)?;
                Some((order, &mut link.session))
            })
            .collect();
        chosen.sort_unstable_by_key(|(order, _)| *order);
        let mut sessions: Vec<&mut Session> =
            chosen.into_iter().map(|(_, session)| session).collect();
        run_all(waiter, &mut sessions, command, deadline)
    }

    /// Makes an error of a reply whose session is in no transaction any more.
    fn check_transactions(
        &self,
        links: &[usize],
        results: Vec<Result<Reply, RemoteError>>,
    ) -> Vec<Result<Reply, EmbeddedError>> {
        results
            .into_iter()
            .zip(links)
            .map(|(result, link)| {
                let reply = result?;
                match self.links[*link].session.transaction_status() {
                    TransactionStatus::InTransaction => Ok(reply),
                    TransactionStatus::Idle
                    | TransactionStatus::Active
                    | TransactionStatus::InError
                    | TransactionStatus::Unknown => {
                        Err(EmbeddedError::TransactionEnded { node: reply.node })
                    }
                }
            })
            .collect()
    }

    /// Ends a transaction: these links wait for the next one, or are closed if they did not end well.
    fn release(&mut self) {
        for link in &mut self.links {
            link.part = Part::Waiting;
        }
        self.links.retain(|link| {
            link.session.state() == SessionState::Idle
                && link.session.transaction_status() == TransactionStatus::Idle
        });
    }
}

fn with_state<R>(work: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(work)
}

/// Works on the sessions with waits that end when an interrupt is to be served, and then serves it,
/// when nothing is borrowed any more.
fn stoppable<R>(work: impl FnOnce(&mut State, &mut Stoppable) -> R) -> R {
    let result = with_state(|state| work(state, &mut Stoppable));
    serve();
    result
}

/// Before the local commit: everything that may still fail.
fn pre_commit() {
    or_raise(prepare());
}

fn prepare() -> Result<(), EmbeddedError> {
    let wrote = |part: &Part| *part == Part::Joined { wrote: true };
    let writers = with_state(|state| state.links_where(wrote));
    match writers.as_slice() {
        [] => Ok(()),
        // One node has all of it, and its COMMIT is the decision.
        [only] if !xact::has_written() => commit_single(*only),
        _ => prepare_all(&writers),
    }
}

/// Commits the only writer.  Not to be interrupted: a cancelled COMMIT may be committed or not.
fn commit_single(link: usize) -> Result<(), EmbeddedError> {
    with_state(|state| {
        let mut waiter = PollWaiter::new();
        let deadline = Deadline::after(&waiter, FINISH_LIMIT);
        let node = state.links[link].peer.label.clone();
        let unknown = |reason: String| EmbeddedError::UnknownOutcome { node, reason };
        let command = |_| Command::new("commit", "COMMIT");
        let mut results = state.run(&mut waiter, &[link], deadline, command);
        match results.pop() {
            Some(Ok(reply)) => {
                expect_tag(&reply, "COMMIT")?;
                state.links[link].part = Part::Waiting;
                Ok(())
            }
            // A deferred constraint, for example: the node has rolled back.
            Some(Err(error @ RemoteError::Query { .. })) => Err(error.into()),
            Some(Err(error)) => Err(unknown(error.to_string())),
            None => Err(unknown("no answer".to_owned())),
        }
    })
}

/// Records and prepares.
fn prepare_all(writers: &[usize]) -> Result<(), EmbeddedError> {
    let own_group = super::catalog::local_group()?;
    let number = xact::full_number();
    let gids: Vec<String> = (0..writers.len())
        .map(|connection| gid::name(own_group, std::process::id(), number, connection))
        .collect();
    let groups: Vec<i32> =
        with_state(|state| writers.iter().map(|writer| state.links[*writer].peer.group).collect());
    as_superuser(|| {
        for (group, gid) in groups.iter().zip(&gids) {
            text_sql::execute(
                "INSERT INTO pg_catalog.pg_dist_transaction (groupid, gid) VALUES ($1::int4, $2)",
                &[&group.to_string(), gid],
            )?;
        }
        Ok::<_, EmbeddedError>(())
    })?;
    pause(PausePoint::AfterRecord);
    stoppable(|state, waiter| {
        for (writer, gid) in writers.iter().zip(&gids) {
            state.links[*writer].part = Part::Preparing { gid: gid.clone() };
        }
        let deadline = Deadline::after(waiter, PREPARE_LIMIT);
        let results = state.run(waiter, writers, deadline, |position| {
            Command::new("prepare", format!("PREPARE TRANSACTION {}", literal(&gids[position])))
        });
        // All of them are looked at, so that all that are prepared are known to be.
        let mut failure = None;
        for ((result, writer), gid) in results.into_iter().zip(writers).zip(&gids) {
            let answer = result.map_err(EmbeddedError::from);
            // A transaction that has failed answers ROLLBACK, and means it.
            match answer.and_then(|reply| expect_tag(&reply, "PREPARE TRANSACTION")) {
                Ok(()) => state.links[*writer].part = Part::Prepared { gid: gid.clone() },
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    })?;
    pause(PausePoint::AfterPrepare);
    Ok(())
}

/// An error if a command that ends a transaction did something else to it.
fn expect_tag(reply: &Reply, tag: &str) -> Result<(), EmbeddedError> {
    if reply.last_set()?.command_tag == tag {
        return Ok(());
    }
    Err(EmbeddedError::TransactionEnded { node: reply.node.clone() })
}

/// Before PREPARE TRANSACTION of this session itself.
fn pre_prepare() {
    let joined = with_state(|state| !state.links_where(|part| *part != Part::Waiting).is_empty());
    if joined {
        or_raise(Err(EmbeddedError::LocalPrepare))
    }
}

/// What there is to say when the work after a commit or an abort fails in a way that nobody foresaw.
fn failed_after(event: &str) -> Report {
    Report::new(
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        format!("unexpected failure in the work on other nodes after a {event}"),
    )
    .hint("To finish what may be left: SELECT recover_prepared_transactions();")
}

/// After the local commit, under all its locks.
fn committed() {
    finish(
        |part| matches!(part, Part::Prepared { .. }),
        PausePoint::AfterCommit,
        "committed",
        |part| match part {
            Part::Waiting | Part::Preparing { .. } => None,
            Part::Joined { .. } => Some(Command::new("commit", "COMMIT")),
            Part::Prepared { gid } => {
                Some(Command::new("commit prepared", format!("COMMIT PREPARED {}", literal(gid))))
            }
        },
    );
}

/// After the local abort, under all its locks.
fn aborted() {
    finish(
        |_| false,
        PausePoint::None,
        "rolled back",
        |part| match part {
            Part::Waiting => None,
            Part::Joined { .. } => Some(Command::new("rollback", "ROLLBACK")),
            // If it is not prepared after all, it is rolled back already, and this an error.
            Part::Preparing { gid } | Part::Prepared { gid } => Some(Command::new(
                "rollback prepared",
                format!("ROLLBACK PREPARED {}", literal(gid)),
            )),
        },
    );
}

/// Ends the transactions on other nodes.  Interrupts are held, so nothing here waits without bound.
fn finish(
    pausing: impl Fn(&Part) -> bool,
    point: PausePoint,
    done: &str,
    last_command: impl Fn(&Part) -> Option<Command<'static>>,
) {
    STATE.with(|state| {
        // Borrowed only if the process is ending from within a wait: see the head of this file.
        let Ok(mut state) = state.try_borrow_mut() else {
            return;
        };
        if state.links.iter().all(|link| link.part == Part::Waiting) {
            return;
        }
        // Out of their place while they are worked on: should this unwind, they are closed.
        let mut ending = State { links: std::mem::take(&mut state.links) };
        if ending.links.iter().any(|link| pausing(&link.part)) {
            pause(point);
        }
        let mut waiter = PollWaiter::new();
        let deadline = Deadline::after(&waiter, DRAIN_LIMIT);
        let mut sessions: Vec<&mut Session> =
            ending.links.iter_mut().map(|link| &mut link.session).collect();
        cancel_and_drain(&mut waiter, &mut sessions, deadline);
        // Of its own: a node that does not come back leaves the others their time.
        let deadline = Deadline::after(&waiter, FINISH_LIMIT);
        let (links, commands): (Vec<usize>, Vec<Command<'static>>) = ending
            .links
            .iter()
            .enumerate()
            .filter(|(_, link)| !link.has_ended_by_itself())
            .filter_map(|(position, link)| Some((position, last_command(&link.part)?)))
            .unzip();
        let results =
            ending.run(&mut waiter, &links, deadline, |position| commands[position].clone());
        for (link, result) in links.into_iter().zip(results) {
            if let (Err(error), Part::Prepared { gid } | Part::Preparing { gid }) =
                (result, &ending.links[link].part)
            {
                warn_unfinished(&ending.links[link].part, gid, done, &error);
            }
        }
        ending.release();
        state.links = ending.links;
    });
}

/// Says that a prepared transaction is left over.
fn warn_unfinished(part: &Part, gid: &str, done: &str, error: &RemoteError) {
    const UNDEFINED_OBJECT: &str = "42704";
    let never_prepared =
        matches!(part, Part::Preparing { .. }) && error.sqlstate() == Some(UNDEFINED_OBJECT);
    if never_prepared {
        return;
    }
    elog::emit(
        PgLogLevel::WARNING,
        &Report::new(
            PgSqlErrorCode::ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN,
            format!("prepared transaction \"{gid}\" could not be {done} at once: {error}"),
        )
        .detail("The transaction as a whole is decided; until this part is ended too, it holds its locks.")
        .hint("On this node, when that one answers: SELECT recover_prepared_transactions();"),
    );
}
