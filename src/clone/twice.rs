//! Whether a replica is registered already, under another address: one server must not become two nodes.
//!
//! An address says nothing of that, nor does the system identifier, which all replicas of a source have.  A server is known by
//! the number that it draws at its start, and its stream by its slot, which no two servers use at one time.

use pgrx::Spi;
use remote::{Command, Deadline, NodeLabel, Session, Target, Waiter, run_all};

use super::error::CloneError;
use super::links::{self, SHORT, ask};
use super::statements::query;
use crate::citus::identity::{self, Who};
use crate::citus::{self, Access, CatalogError};
use crate::fence::FenceError;
use crate::gate::lock::numbers;
use crate::pg::fd::ReservedDescriptors;
use crate::pg::numbered_lock::{Mode, NumberedLock};
use crate::pg::superuser::as_superuser;

/// A server that has a place in the cluster without writing yet.
struct Known {
    nodeid: i32,
    host: String,
    port: i32,
    /// Whose password serves for it.
    source: i32,
    slot: Option<String>,
    is_clone: bool,
}

impl Known {
    fn taken(&self, place: &str, how: &str) -> CloneError {
        let Self { nodeid, host, port, .. } = self;
        let what = if self.is_clone { "clone" } else { "node" };
        let hint = match self.is_clone {
            true => format!("To forget it there: SELECT citus_remove_clone_node_with_nodeid({nodeid});"),
            false => "It has to be forgotten there first: one that Citus' own pg_catalog.citus_add_clone_node() has registered by SELECT pg_catalog.citus_remove_clone_node(…); a secondary by SELECT citus_remove_node(…);".into(),
        };
        CloneError::Registered {
            place: place.to_owned(),
            by: format!("{what} {nodeid} at {host}:{port}: {how}"),
            hint,
        }
    }
}

/// Has whoever else registers a clone wait for the end of this transaction: two that look at one time see neither.
pub fn one_at_a_time() {
    NumberedLock::of_database(numbers!(clone_adder)).acquire(Mode::Alone);
}

/// An error if this replica is registered as a clone, or as a node that does not write, wherever that is.  One that does not
/// answer there is not asked again: where it streams from the same slot it is known all the same.
pub fn require_new<W: Waiter>(
    waiter: &mut W,
    clone: &mut Session,
    place: &str,
    slot: Option<&str>,
) -> Result<(), CloneError> {
    let known = known()?;
    if let Some(other) = known.iter().find(|other| slot.is_some() && other.slot.as_deref() == slot)
    {
        return Err(other.taken(place, "both stream from the same replication slot"));
    }
    let targets =
        citus::read_within(waiter, SHORT, citus::OF_NODES, || -> Result<_, CatalogError> {
            let access = Access::read(links::dialer());
            let target = |other: &Known| -> Result<Target, CatalogError> {
                let label = NodeLabel::new(other.nodeid, other.host.clone(), other.port);
                access.replica(label, other.source)
            };
            known.iter().map(target).collect::<Result<Vec<_>, _>>()
        })??;
    let count = targets.len();
    let _descriptors =
        ReservedDescriptors::acquire(count).ok_or(FenceError::NoDescriptors { count })?;
    let sql = query(&format!("SELECT {}, {}", identity::QUESTION, identity::MARKS));
    let who = Who::read_whole(&ask(waiter, clone, "look who answers", &sql, SHORT)?)?;
    let mut there = Vec::new();
    for (other, session) in known.iter().zip(links::open(waiter, &targets)) {
        if let Ok(session) = session {
            there.push((other, session));
        }
    }
    let (others, mut sessions): (Vec<&Known>, Vec<Session>) = there.into_iter().unzip();
    let by = Deadline::after(waiter, SHORT);
    let mut asked: Vec<&mut Session> = sessions.iter_mut().collect();
    let replies = run_all(waiter, &mut asked, |_| Command::new("look who answers", &sql), by);
    for (other, reply) in others.into_iter().zip(replies) {
        let is_same = reply
            .and_then(|reply| Who::read_whole(&reply))
            .is_ok_and(|answers| answers.is_same_server(&who));
        if is_same {
            return Err(other.taken(place, "the same server answers at both addresses"));
        }
    }
    Ok(())
}

fn known() -> Result<Vec<Known>, CloneError> {
    let sql = "SELECT clone_nodeid, nodename, nodeport, source_nodeid, slot_name::text, true \
                 FROM citus_fence.clone WHERE step <> 'cleaned' \
               UNION ALL \
               SELECT nodeid, nodename::text, nodeport, nodeid, NULL, false \
                 FROM pg_dist_node WHERE noderole <> 'primary' ORDER BY 1";
    let rows = as_superuser(|| {
        // Not as a query that only reads: it is to see what was committed while this one waited.
        Spi::connect_mut(|client| {
            let mut known = Vec::new();
            for row in client.update(sql, None, &[])? {
                known.push(Known {
                    nodeid: row.get(1)?.unwrap_or_default(),
                    host: row.get(2)?.unwrap_or_default(),
                    port: row.get(3)?.unwrap_or_default(),
                    source: row.get(4)?.unwrap_or_default(),
                    slot: row.get(5)?,
                    is_clone: row.get(6)?.unwrap_or_default(),
                });
            }
            Ok::<_, pgrx::spi::Error>(known)
        })
    });
    rows.map_err(|error| {
        CloneError::from(CatalogError::Read {
            table: "citus_fence.clone",
            error: error.to_string(),
        })
    })
}
