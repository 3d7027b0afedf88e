//! Shards that are moved or split while a dump is made. What such a shard was is exact under the snapshot for as long as
//! it is there: Citus drops it some seconds later, by a record that it has made with the move. So each of these shards is
//! locked as soon as its record is seen, as a reader would; Citus' clean-up passes over what is locked, and comes
//! again later. There are as many of these locks as shards were moved.
//!
//! None of this is relied on. A shard that was dropped all the same is found by whoever is to copy it, and fails the dump.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use remote::RemoteError;
use tracing::debug;

use super::error::DumpError;
use super::export::Keeper;
use super::session::{NodeSession, WORD_TIME};
use crate::failure::Failure;
use crate::rows::rows;

/// Records of shards that are to be dropped since a move or split has succeeded. None from before the snapshot: what
/// these name is no shard in it.
const RECORDS: &str = "
SELECT record_id, object_name, node_group_id FROM pg_dist_cleanup
 WHERE object_type = 1 AND policy_type = 2 ORDER BY record_id";

/// How often they are looked for: what begins the next move drops what the last one has left.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is locked.
pub struct Leavings {
    halt: Arc<AtomicBool>,
    /// Records that need nothing more.
    known: HashSet<i64>,
    /// Whether those from before the snapshot are among them, and whether there are any records at all.
    is_begun: bool,
    is_over: bool,
    looked: Option<Instant>,
    /// Sees the coordinator's present.
    present: Option<NodeSession>,
    /// A session of each group that has some, in a transaction.
    sessions: HashMap<i32, NodeSession>,
}

impl Leavings {
    pub fn new(halt: Arc<AtomicBool>) -> Leavings {
        let (known, sessions) = (HashSet::new(), HashMap::new());
        let (is_begun, is_over, looked, present) = (false, false, None, None);
        Leavings { halt, known, is_begun, is_over, looked, present, sessions }
    }

    /// Looks for new ones, if it is time, and locks them. An error only where a node does not answer any more: the snapshot
    /// that it keeps is not to be waited for once more.
    pub fn hold(&mut self, keepers: &mut [Keeper]) -> Result<(), Failure> {
        if self.is_over || self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        match self.try_hold(keepers) {
            Ok(()) => Ok(()),
            Err(lost @ Failure::Dump(DumpError::KeeperLost { .. })) => Err(lost),
            Err(Failure::Remote(error @ RemoteError::Timeout { .. })) => {
                Err(DumpError::KeeperLost { node: error.node().to_string(), error }.into())
            }
            Err(failure) => {
                debug!("what was moved is not kept any longer: {failure}");
                self.is_over = true;
                Ok(())
            }
        }
    }

    fn try_hold(&mut self, keepers: &mut [Keeper]) -> Result<(), Failure> {
        let Some(coordinator) = keepers.first_mut() else {
            return Ok(());
        };
        if !self.is_begun {
            self.is_begun = true;
            for row in rows(&coordinator.ask("list what is to be cleaned up", RECORDS)?)? {
                self.known.insert(row.get("record_id")?);
            }
        }
        let present = match &mut self.present {
            Some(present) => present,
            none => none.insert(NodeSession::open(&coordinator.reach, &self.halt)?),
        };
        let reply = present.ask_within("look for what was moved", RECORDS, WORD_TIME)?;
        for row in rows(&reply)? {
            let (record, group): (i64, i32) = (row.get("record_id")?, row.get("node_group_id")?);
            let name: String = row.get("object_name")?;
            if self.known.insert(record)
                && let Some(keeper) = keepers.iter().find(|keeper| keeper.node.groupid == group)
            {
                self.lock(keeper, &name)?;
            }
        }
        Ok(())
    }

    fn lock(&mut self, keeper: &Keeper, name: &str) -> Result<(), Failure> {
        let group = keeper.node.groupid;
        let mut session = match self.sessions.remove(&group) {
            Some(session) if session.is_alive() => session,
            _ => {
                let mut session = NodeSession::open(&keeper.reach, &self.halt)?;
                session.ask_within("begin", "BEGIN", WORD_TIME)?;
                session
            }
        };
        // One that is gone or somebody else's is no reason to let go of the others.
        let sql = format!(
            "SAVEPOINT one; LOCK TABLE ONLY {name} IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT one"
        );
        match session.ask_within("keep a shard that was moved", &sql, WORD_TIME) {
            Ok(_) => debug!("{name} on {} was moved, and is kept", session.node()),
            Err(error @ RemoteError::Query { .. }) => {
                debug!("{error}");
                session.ask_within("go back", "ROLLBACK TO SAVEPOINT one", WORD_TIME)?;
            }
            Err(error) => return Err(error.into()),
        }
        self.sessions.insert(group, session);
        Ok(())
    }
}
