//! The nodes that take part in a split, and the sessions with them.

use std::time::Duration;

use remote::{
    Command, Deadline, NodeLabel, Pause, RemoteError, Reply, Session, SessionState, Target, Waiter,
    cancel_and_drain, connect_all, pause, run_all,
};

use super::error::CloneError;
use super::ground::{Ground, Part};
use super::registry::Replica;
use super::{SESSION_NAME, statements};
use crate::citus::identity::{self, Who};
use crate::citus::myself::{self, Unproved};
use crate::citus::{Access, CatalogError, Dialer, Roster, own_role, spends_preparing_sessions};
use crate::fence::FenceError;
use crate::guc;
use crate::pg::elog;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::quote::literal;
use crate::pg::wait::BackendWaiter;

/// Longest time that cancelling what a session is at may take.
const CANCEL_BOUND: Duration = Duration::from_secs(2);

/// Who takes part, as the catalog has it.
pub struct Map {
    /// All active primaries, the coordinator, which is this server, first.
    pub roster: Roster,
    /// Where the inactive ones are reached.
    pub inactive: Vec<Target>,
    /// Which of them the clone replicates.
    pub source: usize,
    /// Where the clone is reached.
    pub clone: Target,
    /// Whether what has prepared the switch takes other sessions from then on.
    spends_lines: bool,
    _descriptors: ReservedDescriptors,
}

impl Map {
    /// Reads the catalog, inside a transaction.
    pub fn read(clone: &Replica) -> Result<Self, CloneError> {
        let place = NodeLabel::new(clone.nodeid, clone.host.clone(), clone.port);
        match Self::read_for(place, clone.source) {
            Err(CloneError::NoSuchSource { .. }) => {
                Err(CloneError::SourceGone { nodeid: clone.nodeid, of: clone.source })
            }
            result => result,
        }
    }

    /// The same for a replica that is not registered yet.
    pub fn read_for(place: NodeLabel, source: i32) -> Result<Self, CloneError> {
        let (roster, inactive) = Roster::read(dialer())?.part_with_inactive();
        let index = roster
            .nodes()
            .iter()
            .position(|node| node.nodeid == source)
            .ok_or_else(|| CloneError::NoSuchSource { what: source.to_string() })?;
        let clone = Access::read(dialer()).replica(place, source)?;
        let spends_lines = spends_preparing_sessions();
        // Two per node, three where others take the place of some, and home, seal, drain and clone.
        let per_node = if spends_lines { 3 } else { 2 };
        let count = per_node * roster.nodes().len() + 4;
        let descriptors =
            ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
        Ok(Self { roster, inactive, source: index, clone, spends_lines, _descriptors: descriptors })
    }

    /// What messages call a node.
    pub fn name(&self, index: usize) -> String {
        self.roster.nodes()[index].label().to_string()
    }
}

/// How the split's sessions dial.
pub fn dialer() -> Dialer {
    Dialer {
        role: own_role(),
        application_name: SESSION_NAME.to_owned(),
        connect_timeout: connect_timeout(),
    }
}

/// Bound on connecting.
pub fn connect_timeout() -> Duration {
    Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64)
}

/// An error unless this server is the coordinator that its catalog names: a copy would split the original's nodes.
pub fn prove<W: Waiter>(waiter: &mut W, roster: &Roster) -> Result<(), CloneError> {
    // Itself, and each worker that may have to be asked.
    let count = roster.nodes().len() + 1;
    let _descriptors =
        ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
    let by = Deadline::after(waiter, connect_timeout());
    match myself::prove(waiter, roster, by) {
        Ok(()) => Ok(()),
        Err(Unproved::Stopped) => Err(CloneError::ClientGone),
        Err(Unproved::Error(error) | Unproved::Passing(error)) => {
            Err(CloneError::Fence(error.into()))
        }
        Err(Unproved::Remote(error)) => Err(error.into()),
    }
}

/// What a server process takes to end, with some to spare.
const MOMENT: Duration = Duration::from_millis(10);

/// The sessions of a split.  None of them is in a transaction between two steps.
pub struct Links {
    /// With this server, for the registry.
    pub home: Session,
    /// With each node, in the order of the roster: what is prepared there is done in these.
    pub lines: Vec<Session>,
    /// With each node, to look at what the first one waits for.
    pub lookers: Vec<Session>,
    /// With the source: the seal on what moves.
    pub seal: Session,
    /// With the source: waits for writers of reference tables.
    pub drain: Session,
    /// With the clone.
    pub clone: Session,
}

impl Links {
    /// Connects to all, and finds out whether each is who it should be.
    ///
    /// To one after the other: nobody waits yet, and so many server processes that start at one moment would take the processors
    /// from those who write to shards that stay.
    pub fn connect<W: Waiter>(waiter: &mut W, map: &Map) -> Result<Self, CloneError> {
        let nodes = map.roster.targets();
        let mut targets = vec![nodes[0].clone()];
        targets.extend(nodes.iter().cloned());
        targets.extend(nodes.iter().cloned());
        targets.extend([nodes[map.source].clone(), nodes[map.source].clone(), map.clone.clone()]);
        let sessions: Result<Vec<Session>, RemoteError> =
            targets.iter().flat_map(|target| open(waiter, std::slice::from_ref(target))).collect();
        let mut sessions = sessions?.into_iter();
        let count = nodes.len();
        let mut next = || sessions.next().ok_or(CloneError::ClientGone);
        let home = next()?;
        let lines = (0..count).map(|_| next()).collect::<Result<_, _>>()?;
        let lookers = (0..count).map(|_| next()).collect::<Result<_, _>>()?;
        let mut links =
            Self { home, lines, lookers, seal: next()?, drain: next()?, clone: next()? };
        settle_down(waiter, &mut links.clone)?;
        know_each_other(waiter, &map.roster, &mut links.lines)?;
        Ok(links)
    }

    /// Those that are needed from the promotion on.
    pub fn ends(&mut self) -> Ends<'_> {
        Ends {
            home: &mut self.home,
            lines: self.lines.iter_mut().collect(),
            source: Some(&mut self.drain),
            clone: Some(&mut self.clone),
        }
    }

    /// Has one node after the other finish what is in doubt there, while nobody is held: what is prepared keeps its locks.
    /// What fails here is logged and nothing more: the next attempt says what is in the way.
    pub fn finish_in_doubt<W: Waiter>(
        &mut self,
        waiter: &mut W,
        bound: Duration,
    ) -> Result<(), CloneError> {
        let sql = statements::recover();
        // For all of them together: where each waits for somebody, the attempts are not to wait for that.
        let by = Deadline::after(waiter, bound);
        for looker in &mut self.lookers {
            if by.expired(waiter) {
                elog::log(
                    "citus_fence: no time is left to recover on all nodes before the next attempt",
                );
                return Ok(());
            }
            let left = by.remaining(waiter);
            match ask(waiter, looker, "recovery of prepared transactions", &sql, left) {
                Ok(_) => {}
                Err(RemoteError::Stopped { .. }) => return Err(CloneError::GivenUp),
                Err(error) => elog::log(&format!("citus_fence: {error}")),
            }
        }
        Ok(())
    }

    /// Closes one session after the other, as long as the waiter is not stopped; see [`Links::connect`].
    pub fn close<W: Waiter>(self, waiter: &mut W) {
        let Self { home, lines, lookers, seal, drain, clone } = self;
        let all = lines.into_iter().chain(lookers).chain([seal, drain, clone, home]);
        for session in all {
            drop(session);
            if pause(waiter, MOMENT) == Pause::Stopped {
                return;
            }
        }
    }

    /// Has other sessions take the place of those in which the switch was prepared, where those are spent by it.
    pub fn renew_lines<W: Waiter>(&mut self, waiter: &mut W, map: &Map) -> Result<(), CloneError> {
        if !map.spends_lines {
            return Ok(());
        }
        let fresh: Result<Vec<Session>, RemoteError> =
            open(waiter, map.roster.targets()).into_iter().collect();
        self.lines = fresh?;
        know_each_other(waiter, &map.roster, &mut self.lines)
    }
}

/// The sessions of a split from the promotion on.
pub struct Ends<'l> {
    /// With this server, for the registry.
    pub home: &'l mut Session,
    /// With each node that has to take the new metadata.
    pub lines: Vec<&'l mut Session>,
    /// With the source, where that has a part in it still.
    pub source: Option<&'l mut Session>,
    /// With the clone, likewise.
    pub clone: Option<&'l mut Session>,
}

/// Sessions with all nodes of the cluster that have to take the new metadata, each of which is who it should be.
pub fn connect_lines<W: Waiter>(
    waiter: &mut W,
    ground: &Ground,
) -> Result<Vec<Session>, CloneError> {
    let lines: Result<Vec<Session>, RemoteError> =
        open(waiter, ground.roster.targets()).into_iter().collect();
    let mut lines = lines?;
    know_each_other(waiter, &ground.roster, &mut lines)?;
    Ok(lines)
}

/// Every node has to be the one that the catalog says, and to run what this one runs.
fn know_each_other<W: Waiter>(
    waiter: &mut W,
    roster: &Roster,
    lines: &mut [Session],
) -> Result<(), CloneError> {
    let sql = statements::query(&format!("SELECT {}, {}", identity::QUESTION, identity::MARKS));
    let mut known: Vec<(String, Who)> = Vec::new();
    for (node, session) in roster.nodes().iter().zip(lines) {
        let reply = ask(waiter, session, "look who answers", &sql, SHORT)?;
        let who = Who::read_whole(&reply)?;
        who.must_fit(node, roster.extension()).map_err(FenceError::from)?;
        known.push((node.label().to_string(), who));
    }
    let all = known.iter().map(|(name, who)| (name.clone(), who));
    Ok(identity::must_differ(all).map_err(FenceError::from)?)
}

/// Rolls back what of the split is prepared on the nodes, on each that answers; an error if one of the active ones does not.
pub fn roll_back_everywhere<W: Waiter>(
    waiter: &mut W,
    ground: &Ground,
    clone: &Replica,
) -> Result<(), CloneError> {
    let mut first_error = None;
    let mut there = Vec::new();
    for session in open(waiter, ground.roster.targets()) {
        match session {
            Ok(session) => there.push(session),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    // The registry may have come with a standby of the coordinator that had not heard of the last steps.
    let sql = statements::has_switched(clone);
    let mut sessions: Vec<&mut Session> = there.iter_mut().collect();
    let by = Deadline::after(waiter, SHORT);
    let command = |_| Command::new("look for the new metadata", sql.as_str());
    for reply in run_all(waiter, &mut sessions, command, by) {
        let Ok(reply) = reply else { continue };
        if reply.single_value()? != "0" {
            return Err(CloneError::Ahead { node: reply.node.to_string(), nodeid: clone.nodeid });
        }
    }
    let rolled_back = super::hold::roll_back_prepared(waiter, &mut there, clone);
    // One that is inactive by now may have been active when the switch was prepared.  After the others, which do not wait for it.
    let mut inactive: Vec<Session> =
        open(waiter, &ground.inactive).into_iter().filter_map(Result::ok).collect();
    if let Err(error) = super::hold::roll_back_prepared(waiter, &mut inactive, clone) {
        elog::log(&format!("citus_fence: {error}"));
    }
    match first_error.or(rolled_back.err()) {
        None => Ok(()),
        Some(error) => Err(error.into()),
    }
}

/// Commits the switch on each node that answers, when there is no way back any more: a node that does not must not keep the
/// writers of the others waiting, nor the change of its address from being written down.
///
/// Which of the inactive ones do not.
pub fn commit_where_possible<W: Waiter>(
    waiter: &mut W,
    ground: &Ground,
    clone: &Replica,
) -> Vec<NodeLabel> {
    // The clone first, or its writers are refused for a moment longer.
    if let Part::Needed(at) | Part::Inactive(at) = &ground.clone
        && let Ok(mut session) = connect_clone(waiter, at)
    {
        let _ = super::harmless::open_gate(waiter, &mut session, clone);
    }
    let mut targets = ground.roster.targets().to_vec();
    targets.extend(ground.inactive.iter().cloned());
    let sessions: Vec<Result<Session, RemoteError>> = open(waiter, &targets);
    let inactive = sessions.iter().zip(&targets).skip(ground.roster.targets().len());
    let silent = inactive.filter(|(session, _)| session.is_err());
    let silent = silent.map(|(_, target)| target.node.clone()).collect();
    let mut there: Vec<Session> = sessions.into_iter().filter_map(Result::ok).collect();
    let sql = format!("COMMIT PREPARED {}", literal(&clone.switch_gid()));
    let by = Deadline::after(waiter, SHORT);
    let mut sessions: Vec<&mut Session> = there.iter_mut().collect();
    // What fails here is found by whoever goes on.
    let _ = run_all(waiter, &mut sessions, |_| Command::new("commit the switch", sql.as_str()), by);
    silent
}

/// An error unless the server at the other end is that node of the roster; nothing of one that is not in it.
pub fn must_be<W: Waiter>(
    waiter: &mut W,
    roster: &Roster,
    session: &mut Session,
) -> Result<(), CloneError> {
    let nodeid = session.node().nodeid;
    let Some(node) = roster.nodes().iter().find(|node| Some(node.nodeid) == nodeid) else {
        return Ok(());
    };
    let sql = statements::query(&format!("SELECT {}, {}", identity::QUESTION, identity::MARKS));
    let reply = ask(waiter, session, "look who answers", &sql, SHORT)?;
    let who = Who::read_whole(&reply)?;
    Ok(who.must_fit(node, roster.extension()).map_err(FenceError::from)?)
}

/// Bound on a question whose answer waits for nobody.
pub const SHORT: Duration = Duration::from_secs(10);

/// A session with this server, for the registry.
pub fn connect_home<W: Waiter>(waiter: &mut W) -> Result<Session, CloneError> {
    let target =
        crate::citus::read_within(waiter, connect_timeout(), crate::citus::OF_NODES, || {
            Access::read(dialer()).loopback()
        })??;
    connect(waiter, &target)
}

/// A session with that place.
pub fn connect<W: Waiter>(waiter: &mut W, target: &Target) -> Result<Session, CloneError> {
    Ok(open(waiter, std::slice::from_ref(target)).pop().ok_or(CatalogError::Missing)??)
}

/// A session with the clone.
pub fn connect_clone<W: Waiter>(waiter: &mut W, at: &Target) -> Result<Session, CloneError> {
    let mut session = connect(waiter, at)?;
    settle_down(waiter, &mut session)?;
    Ok(session)
}

/// Sessions with all of them at once.  They last as long as the split, whatever the database or the role says of sessions at
/// which nothing happens.
pub fn open<W: Waiter>(waiter: &mut W, targets: &[Target]) -> Vec<Result<Session, RemoteError>> {
    let by = Deadline::after(waiter, connect_timeout());
    let mut sessions = connect_all(waiter, targets, by);
    let mut there: Vec<&mut Session> =
        sessions.iter_mut().filter_map(|session| session.as_mut().ok()).collect();
    let by = Deadline::after(waiter, SHORT);
    let command = |_| Command::new("set the session up", statements::LASTING);
    let mut replies = run_all(waiter, &mut there, command, by).into_iter();
    let set_up = |session: Result<Session, RemoteError>| {
        let session = session?;
        match replies.next() {
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Ok(session),
        }
    };
    sessions.into_iter().map(set_up).collect()
}

/// What is asked of the clone in no transaction of ours takes its terms from the session: a standby refuses whatever is to be
/// serializable, and a checkpoint takes its time.  No pooler stands between that could give them to somebody else.
fn settle_down<W: Waiter>(waiter: &mut W, session: &mut Session) -> Result<(), RemoteError> {
    ask(waiter, session, "set the session up", statements::OF_CLONE, SHORT).map(drop)
}

/// Runs a command within `bound`.  Afterwards the session is at nothing any more: what has not ended is
/// cancelled.
pub fn ask<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    name: &'static str,
    sql: &str,
    bound: Duration,
) -> Result<Reply, RemoteError> {
    let by = Deadline::after(waiter, bound);
    let result = session.run(waiter, Command::new(name, sql), by);
    if session.state() == SessionState::Busy {
        cancel(&mut [session]);
    }
    result
}

/// Cancels what these sessions are at, and awaits that, whatever has stopped the wait for it.
pub fn cancel(sessions: &mut [&mut Session]) {
    let mut waiter = BackendWaiter::new(|| false);
    let by = Deadline::after(&waiter, CANCEL_BOUND);
    let _ = cancel_and_drain(&mut waiter, sessions, by);
}
