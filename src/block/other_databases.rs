//! Other databases of this server that are clusters of their own.
//!
//! A block holds back the writes of one database, and a copy of the servers takes all of them: the two-phase commits
//! of the others are torn in it.  Whether Citus is in a database only a session in it can tell.

use std::time::Duration;

use pgrx::PgSqlErrorCode;
use remote::{Command, Connecting, Deadline, RemoteError, Reply, Session, Target};

use super::control;
use super::state::State;
use crate::citus::Roster;
use crate::citus::databases::{MOST, in_database, other_databases};
use crate::pg::fd::ReservedDescriptors;
use crate::pg::wait::interruptible;
use crate::report::Report;

const LOOK: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_extension \
                     WHERE extname OPERATOR(pg_catalog.=) 'citus' OR extname OPERATOR(pg_catalog.=) 'pg_dist'";

/// What all of them together may take; the caller waits for a worker meanwhile.
const BOUND: Duration = Duration::from_secs(1);

/// What the caller is to be told: those that have Citus and no block of their own, and those of which it cannot be
/// told although others have it.
pub fn look(roster: &Roster) -> Option<Report> {
    let names = unblocked();
    let (looked, skipped) = names.split_at(names.len().min(MOST));
    let own = roster.targets().first()?;
    let targets: Vec<Target> = looked.iter().map(|name| in_database(own, name)).collect();
    if targets.is_empty() {
        return None;
    }
    let _descriptors = ReservedDescriptors::acquire(targets.len())?;
    let mut waiter = interruptible();
    let by = Deadline::after(&waiter, BOUND);
    let look = Command::new("look for Citus", LOOK);
    let answers = Connecting::start(&waiter, &targets, by).run(&mut waiter, &look, by);
    let (mut with, mut unknown) = (Vec::new(), skipped.to_vec());
    for (name, answer) in looked.iter().zip(answers) {
        match answer.and_then(|(_, reply): (Session, _)| has_citus(&reply?)) {
            Ok(true) => with.push(name.clone()),
            Ok(false) => {}
            Err(_) => unknown.push(name.clone()),
        }
    }
    told(&with, &unknown)
}

/// What is said of those with Citus, and of those of which it is not known.
fn told(with: &[String], unknown: &[String]) -> Option<Report> {
    const HALVES: &str = "A copy of the servers has all databases in it, and may have halves of their two-phase commits.";
    let (message, detail) = match (with, unknown) {
        ([], []) => return None,
        ([], unknown) => (
            format!("whether other databases have Citus is not known: {}", unknown.join(", ")),
            format!("The block holds back nothing in them. {HALVES}"),
        ),
        (with, unknown) => {
            let mut detail = HALVES.to_owned();
            if !unknown.is_empty() {
                detail.push_str(&format!(" Not known of: {}.", unknown.join(", ")));
            }
            let with = with.join(", ");
            (format!("the block holds back nothing in other databases with Citus: {with}"), detail)
        }
    };
    Some(Report::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message).detail(detail).hint(
        "Begin a block in each that has Citus before copies are taken, and end all of them afterwards.",
    ))
}

fn has_citus(reply: &Reply) -> Result<bool, RemoteError> {
    Ok(reply.parse_single::<i64>()? > 0)
}

/// The names of those that have no active block.
fn unblocked() -> Vec<String> {
    let is_blocked =
        |database| control::look(database).is_some_and(|(_, block)| block.state == State::Active);
    let others = other_databases().into_iter().filter(|other| !is_blocked(other.oid));
    others.map(|other| other.name).collect()
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn what_is_not_known_is_said() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(told(&[], &[]).is_none());
        let unknown = told(&[], &names(&["locked"])).expect("a notice");
        assert!(unknown.message.contains("not known: locked"), "{unknown:?}");
        let both = told(&names(&["shop"]), &names(&["locked"])).expect("a notice");
        assert!(both.message.ends_with("with Citus: shop"), "{both:?}");
        assert!(both.detail.expect("a detail").contains("Not known of: locked"));
    }
}
