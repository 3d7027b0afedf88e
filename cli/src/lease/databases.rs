//! The other databases of the same servers that are clusters of their own.
//!
//! A block is of one database, and whatever copies a server copies all of them: without blocks of their own their
//! two-phase commits would be cut in half in the copies.

use super::ANSWER_TIME;
use crate::connection::Destination;
use crate::databases;
use crate::failure::Failure;
use crate::signals::Stop;
use crate::talk::Talk;

const LEAVE: &str = "--only-this-database";

/// Those that have to be held too, with the way to each. One that cannot be held is an error.
pub fn others(
    destination: &Destination,
    stop: &Stop,
) -> Result<Vec<(String, Destination)>, Failure> {
    let there = |name: &str| {
        let mut there = destination.clone();
        there.target.params.set("dbname", name);
        there
    };
    let mut talk = Talk::to(destination, ANSWER_TIME, stop)?;
    let own = talk.ask("own database", "SELECT pg_catalog.current_database()")?;
    let own = own.single_value()?.to_owned();
    let connect = |name: &str| Talk::to(&there(name), ANSWER_TIME, stop);
    let mut held = Vec::new();
    for (name, found) in databases::with_citus(&mut talk, connect)? {
        match found {
            _ if name == own => {}
            Ok(found) if !found.has_workers => {}
            Ok(found) if found.has_fence => held.push((name.clone(), there(&name))),
            Ok(_) => {
                return Err(Failure::Unfit {
                    what: format!(
                        "database \"{name}\" of these servers is a Citus cluster too, and cannot be held: it lacks \
                         citus_fence"
                    ),
                    todo: format!(
                        "Run in it, on the coordinator: CREATE EXTENSION citus_fence; or, if its two-phase commits may \
                         be cut in half in what you copy: {LEAVE}"
                    ),
                });
            }
            Err(error) => {
                return Err(Failure::Unfit {
                    what: format!(
                        "whether database \"{name}\" of these servers is a Citus cluster too is not known: {error}"
                    ),
                    todo: format!(
                        "Let this user connect to it, or leave all others alone: {LEAVE}"
                    ),
                });
            }
        }
    }
    Ok(held)
}
