//! This node's own part in a block: the worker's transaction holds its locks, and spares a session.

use std::time::{Duration, Instant};

use remote::{Begun, Deadline, Pq, Session, Waiter};

use super::control::{NodeRow, Owner};
use crate::citus::identity::Who;
use crate::citus::myself::Proof;
use crate::citus::{self, Roster};
use crate::fence::blockers::blocked_here;
use crate::fence::engine::Home;
use crate::fence::error::{Failed, FenceError, NODES_CHANGED};
use crate::fence::party::Part;
use crate::fence::statements;
use crate::fence::steps::Barrier;
use crate::fence::text::Text;
use crate::gate::{Gate, close_gate, stay_closed};
use crate::pg::clock::now;
use crate::pg::worker::{self, Transaction};
use crate::pg::{elog, guc, ident, lock, process, wal};
use crate::report::Report;

/// This node, in one attempt.  Dropping it lets go.
pub struct ThisNode<'a> {
    owner: &'a Owner,
    roster: &'a Roster,
    /// Until it is proved that this server is the coordinator.
    proof: Option<Proof>,
    local: Option<Transaction>,
    locked_at: i64,
    wal_lsn: u64,
    is_proved: bool,
}

impl<'a> ThisNode<'a> {
    /// It holds nothing yet.
    pub fn new(owner: &'a Owner, roster: &'a Roster, proof: Option<Proof>) -> Self {
        Self { owner, roster, proof, local: None, locked_at: 0, wal_lsn: 0, is_proved: false }
    }

    /// Whether this attempt has proved that this server is the coordinator.
    pub fn is_proved(&self) -> bool {
        self.is_proved
    }

    /// When it had its locks.
    pub fn locked_at(&self) -> i64 {
        self.locked_at
    }

    /// Its row of the manifest.
    pub fn row(&self) -> NodeRow {
        let node = &self.roster.nodes()[0];
        NodeRow {
            nodeid: node.nodeid,
            groupid: node.groupid,
            host: Text::new(&node.host),
            port: node.port,
            backend_pid: process::me().pid,
            locked_at: self.locked_at,
            system_identifier: ident::system_identifier(),
            timeline: wal::timeline(),
            wal_lsn: self.wal_lsn,
            restore_lsn: 0,
        }
    }

    /// The transaction that holds its locks.
    pub fn into_local(self) -> Result<Transaction, FenceError> {
        self.local.ok_or_else(|| FenceError::Local(no_transaction()))
    }
}

/// The engine begins a part before it uses it, so nobody sees this.
fn no_transaction() -> Report {
    Report::new(pgrx::PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "the attempt has no transaction here")
}

impl Home for ThisNode<'_> {
    /// With the lock that keeps the extension, and so the way to unblock, from being dropped.
    fn begin(&mut self, bound: Duration) -> Result<(), Failed> {
        let local = Transaction::begin();
        local.set_local(c"deadlock_timeout", &local_deadlock_timeout(bound));
        let keep = || {
            if let Some(extension) = lock::extension(c"citus_fence") {
                lock::keep_extension(extension);
            }
            // What is looked up under the locks is in the caches from here on.
            citus::fence_relations()
                .and_then(|_| self.roster.is_current())
                .map_err(|error| Report::from(&error))
        };
        match local.bounded(bound, || self.owner.release_asked(), keep).flatten() {
            Ok(true) => {}
            Ok(false) => return Err(Failed::because(NODES_CHANGED)),
            Err(error) => {
                drop(local);
                return Err(blocked_here(|| self.owner.release_asked(), error));
            }
        }
        // The nodes may take their time, and vacuum does not wait for them.
        worker::forget_snapshot();
        self.local = Some(local);
        Ok(())
    }

    fn close(&mut self, barrier: Barrier, bound: Duration) -> Result<(), Failed> {
        let Some(local) = &self.local else {
            return Err(FenceError::Local(no_transaction()).into());
        };
        if let Err(error) = lock_here(self.owner, local, barrier, bound) {
            self.local = None;
            return Err(blocked_here(|| self.owner.release_asked(), error));
        }
        self.locked_at = now();
        Ok(())
    }

    fn who(&self) -> Option<(String, Who)> {
        Some((self.roster.nodes()[0].label().to_string(), Who::here()))
    }

    fn prove<C: Pq, W: Waiter>(
        &mut self,
        waiter: &mut W,
        answer: Option<Begun<C>>,
        by: Deadline,
    ) -> Result<Option<Session<C>>, Failed> {
        let Some(proof) = self.proof.take() else { return Ok(None) };
        let session = proof.finish(waiter, self.roster, answer, by)?;
        self.is_proved = true;
        Ok(session)
    }

    fn let_go(&mut self) {
        self.local = None;
    }

    /// Under the lock on `pg_dist_node`, so nobody can keep it from being read.
    fn nodes_are_the_same(&mut self) -> Result<bool, Failed> {
        Ok(self.roster.is_current()?)
    }

    fn flush(&mut self) {
        stay_closed();
        self.wal_lsn = wal::flush();
    }

    fn log(&mut self, line: &str) {
        elog::log(line);
    }
}

impl NodeRow {
    /// Another node's row of the manifest, where the locks of this one were taken at that time.
    pub fn of_part(part: &Part<'_>, locked_here_at: i64) -> Self {
        Self {
            nodeid: part.node.nodeid,
            groupid: part.node.groupid,
            host: Text::new(&part.node.host),
            port: part.node.port,
            backend_pid: part.pid,
            locked_at: locked_here_at + part.locked_after.as_micros() as i64,
            system_identifier: part.system_identifier,
            timeline: part.timeline,
            wal_lsn: part.wal_lsn,
            restore_lsn: 0,
        }
    }
}

/// The local locks, in the order that Citus' own operations take them.
fn lock_here(
    owner: &Owner,
    local: &Transaction,
    barrier: Barrier,
    bound: Duration,
) -> Result<(), Report> {
    let began = Instant::now();
    let left = || bound.saturating_sub(began.elapsed());
    let lock = |relation| {
        local.set_lock_timeout(left());
        lock::lock_relation_exclusive(relation);
    };
    // Who is in the way is looked for afterwards, on all barriers in one way.
    let close = |gate| close_gate(gate, Vec::new).map_err(|error| Report::from(&error));
    let locked = local.bounded(
        bound,
        || owner.release_asked(),
        || {
            match barrier {
                Barrier::ClientGate => close(Gate::Client)?,
                Barrier::InternalGate => close(Gate::Internal)?,
                Barrier::Tables => {
                    let relations =
                        citus::fence_relations().map_err(|error| Report::from(&error))?;
                    lock(relations.node);
                    lock(relations.partition);
                    lock(relations.transaction);
                }
            }
            Ok(())
        },
    );
    locked.flatten()
}

/// As a text with its unit.
fn local_deadlock_timeout(bound: Duration) -> String {
    let server = guc::read_number("deadlock_timeout").unwrap_or(1000.0);
    let own = statements::own_deadlock_timeout(server as i64, bound.as_millis() as i64);
    format!("{own}ms")
}
