//! Whether this server is the one that its own catalog names.
//!
//! A copy of a coordinator has the catalog of the original, and with it the addresses of production's nodes: what it
//! is told to do to its cluster, it would do to theirs.  Neither its system identifier nor its group tells it from
//! what it was copied from.  So before a call touches another node, this server dials the address that the catalog
//! gives for it, and has to find itself there, by a number that it has drawn when it was started.
//!
//! An address of the loopback kind leads every server to itself, and proves something only where all nodes have such
//! addresses: then a copy elsewhere reaches no node of the original either.  Where this server cannot be dialled from
//! here, a worker is asked to dial its coordinator.  As long as nobody can tell, the call is refused.

use std::net::IpAddr;
use std::time::Duration;

use remote::{
    Begun, Command, Connecting, Deadline, LibPq, Pq, RemoteError, Reply, Session, Target, Waiter,
    connect_all, run_all,
};

use super::identity::{IdentityError, as_owner, is_own_function, own_number};
use super::{
    Access, COORDINATOR_GROUP, CatalogError, Dialer, OF_NODES, Roster, nodes, read_within,
};
use crate::guc;
use crate::pg::ident;
use crate::pg::wait::interruptible;

/// Which server answers.  A session that has just begun has nothing to look up for that.
const ASK_NUMBER: &str =
    "SELECT pg_catalog.current_setting('citus_fence.server_number', true) AS server_number";

/// The same, and of which group it is.
const ASK: &str = "SELECT pg_catalog.current_setting('citus_fence.server_number', true) AS server_number, \
                          (SELECT groupid FROM pg_catalog.pg_dist_local_group) AS local_group";

/// The same of a worker's coordinator: has it begin, and shows what would be called.
const LOOK: &str = concat!(
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; ",
    as_owner!(),
    " SET LOCAL statement_timeout = '10s'; SET LOCAL idle_in_transaction_session_timeout = '10s'; \
     SET LOCAL client_connection_check_interval = '1s'; \
     SELECT pg_catalog.pg_get_functiondef( \
         pg_catalog.to_regprocedure('citus_fence.coordinator_number()')) AS definition"
);
const CALL: &str = "SELECT citus_fence.coordinator_number() AS server_number";

/// Why it is not proved.
#[derive(Debug)]
pub enum Unproved {
    /// The waiter was told to stop.
    Stopped,
    /// It is not so, or nobody can tell.
    Error(IdentityError),
    /// Nobody can tell right now: this server is out of connections, say.
    Passing(IdentityError),
    /// A worker that is to be asked cannot be reached: nor could it for what the call wants of it.
    Remote(RemoteError),
}

/// A proof that this server is the coordinator.
pub struct Proof {
    /// Where this server has to find itself.
    place: Option<Target>,
    /// Why dialling would prove nothing.
    why: Vec<String>,
    is_needed: bool,
}

impl Proof {
    /// Looks whom to dial.
    pub fn of(roster: &Roster) -> Self {
        let mut proof = Self { place: None, why: Vec::new(), is_needed: true };
        // Where there are no other nodes, nothing can be done to them.
        if roster.others().is_empty() {
            proof.is_needed = false;
            return proof;
        }
        let all_are_near = roster.others().iter().all(|node| is_loopback(&node.host));
        match roster.registered() {
            None => proof
                .why
                .push("pg_dist_node has no row of group 0, which would say where it is".into()),
            Some(own) if is_loopback(&own.node.host) && !all_are_near => proof.why.push(format!(
                "pg_dist_node has it at {}, where every server finds itself",
                own.node
            )),
            Some(own) => proof.place = Some(own.clone()),
        }
        proof
    }

    /// Who is to be dialled, and asked what; nobody where that would prove nothing.
    pub fn question(&self) -> Option<(&Target, Command<'static>)> {
        let ask = Command::new("look for this server itself", ASK_NUMBER);
        self.place.as_ref().map(|place| (place, ask))
    }

    /// Judges the answer, and where there is none has the workers asked; the session that it came over, which holds
    /// nothing.
    pub fn finish<C: Pq, W: Waiter>(
        self,
        waiter: &mut W,
        roster: &Roster,
        answer: Option<Begun<C>>,
        deadline: Deadline,
    ) -> Result<Option<Session<C>>, Unproved> {
        if !self.is_needed {
            return Ok(None);
        }
        let mut why = self.why;
        let mut is_passing = false;
        let answer = answer.map(|begun| begun.and_then(|(session, reply)| Ok((session, reply?))));
        match (answer, self.place) {
            (Some(Ok((session, reply))), _) if number(&reply) == own_number() => {
                return Ok(Some(session));
            }
            (Some(Ok(_)), Some(place)) => {
                let (at, by) = (place.node.to_string(), String::new());
                return Err(Unproved::Error(IdentityError::Copy { at, by }));
            }
            (Some(Err(RemoteError::Stopped { .. })), _) => return Err(Unproved::Stopped),
            (Some(Err(error)), _) => {
                is_passing = error.sqlstate().is_some_and(|code| code.starts_with("53"));
                why.push(error.to_string());
            }
            (Some(Ok(_)) | None, _) => {}
        }
        match ask_workers(waiter, roster, deadline, why) {
            Ok(()) => Ok(None),
            Err(Unproved::Error(error @ IdentityError::Unknown { .. })) if is_passing => {
                Err(Unproved::Passing(error))
            }
            Err(error) => Err(error),
        }
    }
}

/// All of it at once.
pub fn prove<W: Waiter>(
    waiter: &mut W,
    roster: &Roster,
    deadline: Deadline,
) -> Result<(), Unproved> {
    let proof = Proof::of(roster);
    // Where packets to its own address are swallowed, that takes all the time there is: half of it is for asking the
    // workers.
    let dial_by = Deadline::after(waiter, deadline.remaining(waiter) / 2);
    let answer: Option<Begun<LibPq>> = proof.question().and_then(|(place, ask)| {
        let place = std::slice::from_ref(place);
        Connecting::start(waiter, place, dial_by).run(waiter, &ask, dial_by).pop()
    });
    proof.finish(waiter, roster, answer, deadline)?;
    Ok(())
}

/// An error if a session that is meant to be with this very server is with another.
pub fn must_be_home<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    deadline: Deadline,
) -> Result<(), HomeError> {
    let ask = Command::new("look for this server itself", ASK_NUMBER);
    let reply = session.run(waiter, ask, deadline)?;
    if number(&reply) == own_number() {
        return Ok(());
    }
    Err(HomeError::Identity(IdentityError::NotHome { at: reply.node.to_string() }))
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It is with another.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It is of no use.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Has the active workers dial their coordinator.  One that finds another server there is enough to refuse, and one
/// that finds this one enough to go on, if none has found another.
fn ask_workers<W: Waiter>(
    waiter: &mut W,
    roster: &Roster,
    deadline: Deadline,
    mut why: Vec<String>,
) -> Result<(), Unproved> {
    let others = roster.others().iter().zip(roster.other_targets());
    let targets: Vec<_> =
        others.filter(|(node, _)| node.active).map(|(_, target)| target.clone()).collect();
    let mut sessions: Vec<Session> = Vec::new();
    let mut unreached = None;
    for session in connect_all(waiter, &targets, deadline) {
        match session {
            Ok(session) => sessions.push(session),
            Err(RemoteError::Stopped { .. }) => return Err(Unproved::Stopped),
            Err(error) => unreached = unreached.or(Some(error)),
        }
    }
    let look = |_| Command::new("look for the function to ask", LOOK);
    let looked = run_all(waiter, &mut sessions.iter_mut().collect::<Vec<_>>(), look, deadline);
    let knows = |reply: &Result<Reply, RemoteError>| {
        reply.as_ref().is_ok_and(|reply| {
            let definition = reply.sets.iter().find_map(|set| set.value(0, "definition"));
            is_own_function(definition, "citus_fence.coordinator_number()", "text")
        })
    };
    let mut able: Vec<&mut Session> = Vec::new();
    for (session, reply) in sessions.iter_mut().zip(&looked) {
        if knows(reply) {
            able.push(session);
        } else {
            why.push(format!(
                "{} cannot be asked: it has not this version of citus_fence",
                session.node()
            ));
        }
    }
    let ask = |_| Command::new("question for the coordinator", CALL);
    let mut has_found = false;
    for reply in run_all(waiter, &mut able, ask, deadline) {
        match reply {
            Ok(reply) => match number(&reply) {
                Some(found) if Some(&found) == own_number().as_ref() => has_found = true,
                Some(_) => {
                    let at = roster.registered().map(|own| own.node.to_string());
                    let at = at.unwrap_or_else(|| "what its workers take for it".to_owned());
                    let by = format!(", as {} has found", reply.node);
                    return Err(Unproved::Error(IdentityError::Copy { at, by }));
                }
                None => why.push(format!("{} does not reach its coordinator", reply.node)),
            },
            Err(RemoteError::Stopped { .. }) => return Err(Unproved::Stopped),
            Err(error) => why.push(error.to_string()),
        }
    }
    if has_found {
        return Ok(());
    }
    if let Some(error) = unreached {
        return Err(Unproved::Remote(error));
    }
    Err(Unproved::Error(IdentityError::Unknown { why, port: ident::port() }))
}

fn number(reply: &Reply) -> Option<String> {
    let found = reply.sets.iter().find_map(|set| set.value(0, "server_number"));
    found.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Whether a server finds itself there, whichever it is.
fn is_loopback(host: &str) -> bool {
    let is_address = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_address || host.eq_ignore_ascii_case("localhost") || host.starts_with('/') || host.is_empty()
}

/// On any node: the number of the server that its catalog calls the coordinator; none where that cannot be told.
pub fn coordinator_number() -> Result<Option<String>, LookError> {
    let mut waiter = interruptible();
    let bound = Duration::from_millis(guc::CONNECT_TIMEOUT.get() as u64);
    let target = read_within(&mut waiter, bound, OF_NODES, || {
        let nodes = nodes()?;
        let coordinator = nodes.iter().find(|node| node.groupid == COORDINATOR_GROUP);
        let access = Access::read(Dialer::helper(bound));
        coordinator.map(|node| access.target(node.label())).transpose()
    })??;
    let Some(target) = target else { return Ok(None) };
    let deadline = Deadline::after(&waiter, bound);
    let connecting = Connecting::start(&waiter, std::slice::from_ref(&target), deadline);
    let ask = Command::new("question for the coordinator", ASK);
    let Some(begun) = connecting.run(&mut waiter, &ask, deadline).pop() else { return Ok(None) };
    let reply = begun.and_then(|(_, reply): (Session, _)| reply)?;
    let group = reply.sets.iter().find_map(|set| set.value(0, "local_group"));
    // A worker that has found itself has found nothing.
    let is_coordinator = group.and_then(|text| text.parse().ok()) == Some(COORDINATOR_GROUP);
    Ok(if is_coordinator { number(&reply) } else { None })
}

/// Why it could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The session.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn loopback_addresses_are_known() {
        for host in
            ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "/run/postgresql", ""]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["10.0.0.1", "coordinator", "localhost.example", "fe80::1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
