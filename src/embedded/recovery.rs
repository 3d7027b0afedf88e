//! Finishing what failures have left between PREPARE and COMMIT PREPARED.
//!
//! It runs under ExclusiveLock on `pg_dist_transaction`.  A session that commits holds
//! RowExclusiveLock there from before its first PREPARE until after its last COMMIT PREPARED (or,
//! if it aborts, ROLLBACK PREPARED).  So once the lock is granted, no session of this node has
//! anything prepared that it is still going to finish: every prepared transaction with this group's
//! name is left over, and whether its commit record is there says what became of the whole.  (Citus
//! does without the lock, by comparing lists of what is active at two points in time; that costs
//! writers nothing, and needs shared memory.)
//!
//! The order of things, for each record:
//! 1. The prepared transaction is there: COMMIT PREPARED, and only after its success the record is
//!    deleted.  The deletion commits with this transaction: if that fails, the record stays, finds
//!    no prepared transaction the next time, and is deleted then.
//! 2. It is not there: it was committed, as records are only committed once all is prepared.  The
//!    record is deleted.
//!
//! Prepared transactions without a record were never decided: ROLLBACK PREPARED.  Records are read
//! with a snapshot that is younger than the lock, or one that had just been committed would be missed
//! and its transaction be rolled back: hence the refusal of snapshots that are kept.

use std::collections::HashSet;
use std::time::Duration;

use pgrx::PgLogLevel;

use super::catalog::{self, Row, local_group};
use super::error::EmbeddedError;
use super::gid;
use super::transaction::{CONNECT_LIMIT, Peer, connection_targets};
use crate::pg::quote::literal;
use crate::pg::superuser::as_superuser;
use crate::pg::{elog, ident, text_sql, wait, xact_callbacks};
use crate::report::Report;
use remote::{Command, Deadline, RemoteError, Session, connect_all};

/// Bound on each command: writers of this node wait meanwhile.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Finishes this node's prepared transactions on all active primaries; gives how many.
pub fn recover() -> Result<i32, EmbeddedError> {
    if xact_callbacks::keeps_snapshot() {
        return Err(EmbeddedError::KeptSnapshot { function: "recover_prepared_transactions()" });
    }
    let peers: Vec<Peer> =
        catalog::nodes()?.into_iter().filter(|node| node.active).map(|node| node.peer).collect();
    let labels: Vec<_> = peers.iter().map(|peer| peer.label.clone()).collect();
    let targets = connection_targets(&labels, ident::current_role())?;
    // Before the lock, so that a node that does not answer keeps nobody waiting.
    let mut waiter = wait::interruptible();
    let deadline = Deadline::after(&waiter, CONNECT_LIMIT);
    let sessions: Vec<Result<Session, _>> = connect_all(&mut waiter, &targets, deadline);

    as_superuser(|| {
        text_sql::execute("LOCK TABLE pg_catalog.pg_dist_transaction IN EXCLUSIVE MODE", &[])
    })?;
    let prefix = gid::prefix(local_group()?);
    let mut recovered = 0;
    for (peer, session) in peers.iter().zip(sessions) {
        match session {
            Ok(session) => {
                let mut node = NodeRecovery { group: peer.group, session, recovered: 0 };
                // What was done before a failure counts.
                let result = node.recover(&prefix);
                recovered += node.recovered;
                match result {
                    Err(EmbeddedError::Remote(error)) => warn(&error),
                    result => result?,
                }
            }
            Err(error) => warn(&error),
        }
    }
    Ok(recovered)
}

/// One node that does not answer, or refuses, keeps no other from being recovered.
fn warn(error: &RemoteError) {
    let mut report = Report::from(error);
    report.message =
        format!("prepared transactions on {} are not recovered: {error}", error.node());
    elog::emit(PgLogLevel::WARNING, &report);
}

/// The recovery on one node.
struct NodeRecovery {
    group: i32,
    session: Session,
    recovered: i32,
}

impl NodeRecovery {
    fn recover(&mut self, prefix: &str) -> Result<(), EmbeddedError> {
        let records = self.records()?;
        let prepared = self.prepared(prefix)?;
        for gid in &records {
            if prepared.contains(gid) {
                self.finish("COMMIT PREPARED", gid)?;
            }
            self.delete_record(gid)?;
        }
        for gid in prepared.difference(&records) {
            self.finish("ROLLBACK PREPARED", gid)?;
        }
        Ok(())
    }

    /// The commit records for this node.
    fn records(&self) -> Result<HashSet<String>, EmbeddedError> {
        let rows = text_sql::query(
            "SELECT gid FROM pg_catalog.pg_dist_transaction
              WHERE groupid OPERATOR(pg_catalog.=) $1::int4",
            &[&self.group.to_string()],
        )?;
        rows.iter().map(|row| Row::new(row, "pg_dist_transaction").text()).collect()
    }

    /// What this node's group has prepared there.
    fn prepared(&mut self, prefix: &str) -> Result<HashSet<String>, EmbeddedError> {
        let reply = self.run(
            Command::new(
                "list prepared transactions",
                "SELECT gid FROM pg_catalog.pg_prepared_xacts
                  WHERE database = pg_catalog.current_database()
                    AND pg_catalog.starts_with(gid, $1)",
            )
            .with_param(prefix),
        )?;
        let rows = &reply.last_set()?.rows;
        rows.iter().map(|row| Row::new(row, "pg_prepared_xacts").text()).collect()
    }

    fn finish(&mut self, verb: &str, gid: &str) -> Result<(), EmbeddedError> {
        self.run(Command::new("finish prepared transaction", format!("{verb} {}", literal(gid))))?;
        self.recovered += 1;
        Ok(())
    }

    fn run(&mut self, command: Command<'_>) -> Result<remote::Reply, EmbeddedError> {
        let mut waiter = wait::interruptible();
        let deadline = Deadline::after(&waiter, COMMAND_LIMIT);
        Ok(self.session.run(&mut waiter, command, deadline)?)
    }

    fn delete_record(&self, gid: &str) -> Result<(), EmbeddedError> {
        as_superuser(|| {
            text_sql::execute(
                "DELETE FROM pg_catalog.pg_dist_transaction WHERE groupid = $1::int4 AND gid = $2",
                &[&self.group.to_string(), gid],
            )
        })?;
        Ok(())
    }
}
