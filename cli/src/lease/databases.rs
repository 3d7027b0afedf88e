//! The other databases of the same servers that are clusters of their own.
//!
//! A block is of one database, and whatever copies a server copies all of them: without blocks of their own their
//! two-phase commits would be cut in half in the copies.

use super::ANSWER_TIME;
use crate::connection::Destination;
use crate::failure::Failure;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::talk::Talk;

const OTHERS: &str = "SELECT datname FROM pg_catalog.pg_database \
     WHERE datallowconn AND NOT datistemplate AND datname <> pg_catalog.current_database() ORDER BY datname";
const HAS_CATALOG: &str =
    "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_node') IS NOT NULL AS has_catalog";
/// One without other nodes commits on one server only.
const LOOK: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid <> 0) AS is_cluster, \
     EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus_fence') AS has_fence";

/// Those that have to be held too, with the way to each. One that cannot be held is an error.
pub fn others(
    destination: &Destination,
    stop: &Stop,
) -> Result<Vec<(String, Destination)>, Failure> {
    let reply = Talk::to(destination, ANSWER_TIME, stop)?.ask("list of databases", OTHERS)?;
    let mut found = Vec::new();
    for row in rows(&reply)? {
        let name: String = row.get("datname")?;
        let mut there = destination.clone();
        there.target.params.set("dbname", &name);
        match look(&there, stop) {
            Ok(None) => {}
            Ok(Some(true)) => found.push((name, there)),
            Ok(Some(false)) => {
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
            Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
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
    Ok(found)
}

const LEAVE: &str = "--only-this-database";

/// Whether it can be held; none if it has not to be.
fn look(there: &Destination, stop: &Stop) -> Result<Option<bool>, Failure> {
    let mut talk = Talk::to(there, ANSWER_TIME, stop)?;
    if !only_row(&talk.ask("look for Citus' catalog", HAS_CATALOG)?)?.is_true("has_catalog")? {
        return Ok(None);
    }
    let reply = talk.ask("look at Citus' catalog", LOOK)?;
    let row = only_row(&reply)?;
    Ok(row.is_true("is_cluster")?.then_some(row.is_true("has_fence")?))
}
