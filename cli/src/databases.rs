//! The databases of a server that have Citus' catalog, each of which is a cluster of its own or may become one.

use crate::failure::Failure;
use crate::rows::{only_row, rows};
use crate::talk::Talk;

/// Those to connect to. One that an interrupted DROP DATABASE has left is invalid, and takes no connections for ever.
const LIST: &str = "SELECT datname FROM pg_catalog.pg_database \
     WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname";
const HAS_CATALOG: &str =
    "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_node') IS NOT NULL AS has_catalog";
const LOOK: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_node) AS has_nodes, \
     EXISTS (SELECT FROM pg_catalog.pg_dist_node WHERE groupid <> 0) AS has_workers, \
     EXISTS (SELECT FROM pg_catalog.pg_dist_local_group WHERE groupid = 0) AS is_coordinator, \
     EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus_fence') AS has_fence";

/// Whether a server takes itself for a coordinator without nodes that may be a worker whose metadata was taken from it
/// (`stop_metadata_sync_to_node()`): its group was written after Citus was created.
pub const IS_EMPTIED: &str = "NOT EXISTS (SELECT FROM pg_catalog.pg_dist_node) \
     AND (SELECT xmin FROM pg_catalog.pg_dist_local_group LIMIT 1) IS DISTINCT FROM \
         (SELECT xmin FROM pg_catalog.pg_attribute WHERE attname = 'groupid' \
             AND attrelid = 'pg_catalog.pg_dist_local_group'::pg_catalog.regclass)";

/// The error of such a one.
pub fn emptied(server: impl std::fmt::Display) -> Failure {
    Failure::Unfit {
        what: format!(
            "{server} knows no nodes, and its pg_dist_local_group was changed since Citus was created there: so is a \
             worker whose metadata was taken from it"
        ),
        todo: "Name the coordinator with -h and -p. If this server belongs to no cluster, there first: \
               SELECT citus_set_coordinator_host('host name or address', port);"
            .into(),
    }
}

/// What is known of one.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// It has Citus and knows nodes: itself, or others.
    pub has_nodes: bool,
    /// It knows others. One without commits on one server only.
    pub has_workers: bool,
    /// This server is its coordinator.
    pub is_coordinator: bool,
    pub has_fence: bool,
}

/// Its name, and what is known of it or why nothing is.
pub type Looked = (String, Result<Found, Failure>);

/// Those of the server that `talk` is with, looked at over sessions that `connect` makes. One without Citus is left out;
/// one that cannot be looked into is there with the reason.
pub fn with_citus<'a>(
    talk: &mut Talk<'_>,
    mut connect: impl FnMut(&str) -> Result<Talk<'a>, Failure>,
) -> Result<Vec<Looked>, Failure> {
    let reply = talk.ask("list of databases", LIST)?;
    let mut found = Vec::new();
    for row in rows(&reply)? {
        let name: String = row.get("datname")?;
        match connect(&name).and_then(|mut talk| look(&mut talk)) {
            Ok(None) => {}
            Ok(Some(one)) => found.push((name, Ok(one))),
            Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
            Err(error) => found.push((name, Err(error))),
        }
    }
    Ok(found)
}

fn look(talk: &mut Talk<'_>) -> Result<Option<Found>, Failure> {
    if !only_row(&talk.ask("look for Citus' catalog", HAS_CATALOG)?)?.is_true("has_catalog")? {
        return Ok(None);
    }
    let reply = talk.ask("look at Citus' catalog", LOOK)?;
    let row = only_row(&reply)?;
    Ok(Some(Found {
        has_nodes: row.is_true("has_nodes")?,
        has_workers: row.is_true("has_workers")?,
        is_coordinator: row.is_true("is_coordinator")?,
        has_fence: row.is_true("has_fence")?,
    }))
}
