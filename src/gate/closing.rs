//! Closing the gates of this database to the end of a transaction: writers wait.

use std::cell::Cell;

use super::area::AREA;
use super::error::GateError;
use super::lock;
use super::passing::is_writing;
use super::policy::Gate;
use crate::pg::{ident, session, text_sql};

thread_local! {
    /// The transaction that holds a gate closed.
    static CLOSED: Cell<u32> = const { Cell::new(0) };
    /// The transaction that is about to close all of them, here and on other nodes.
    static ATTEMPT: Cell<u32> = const { Cell::new(0) };
}

/// Whether this transaction holds a gate closed.
pub fn holds_closed() -> bool {
    CLOSED.get() != 0 && CLOSED.get() == session::local_xid()
}

/// Closes a gate to the end of this transaction: writers wait.
pub fn close(gate: Gate, prepared_holders: impl FnOnce() -> Vec<String>) -> Result<(), GateError> {
    const FUNCTION: &str = "citus_fence.lock_gate()";
    if AREA.node().is_none() {
        return Err(GateError::NotPreloaded);
    }
    if ident::in_recovery() {
        return Err(GateError::InRecovery { function: FUNCTION });
    }
    if is_writing() {
        return Err(GateError::HasWritten { function: FUNCTION });
    }
    if ATTEMPT.get() != session::local_xid() {
        if !lock::begin_attempt() {
            return Err(GateError::NotClosed { gate: gate.name(), prepared: vec![] });
        }
        ATTEMPT.set(session::local_xid());
    }
    if !lock::try_close(gate) {
        // Now, as the catalog is out of reach after an error.
        let prepared = prepared_holders();
        if !lock::close(gate) {
            return Err(GateError::NotClosed { gate: gate.name(), prepared });
        }
    }
    if gate == Gate::Internal {
        let prepared = ungated_prepared()?;
        if !prepared.is_empty() {
            return Err(GateError::NotClosed { gate: gate.name(), prepared });
        }
    }
    CLOSED.set(session::local_xid());
    Ok(())
}

/// The gates of all nodes are closed, and stay so to the end of this transaction: who only reads needs to wait
/// no longer.
pub fn stay_closed() {
    if ATTEMPT.get() != 0 && ATTEMPT.replace(0) == session::local_xid() {
        lock::end_attempt();
    }
}

/// What was prepared before this library was loaded holds no gate, and would walk through a closed one.
fn ungated_prepared() -> Result<Vec<String>, GateError> {
    let rows = text_sql::query(
        "SELECT pg_catalog.quote_literal(p.gid) FROM pg_catalog.pg_prepared_xacts p \
          WHERE p.database = pg_catalog.current_database() \
            AND NOT EXISTS (SELECT FROM citus_fence.gate_blockers b WHERE b.gid = p.gid)",
        &[],
    )
    .map_err(|error| GateError::Look { why: error.to_string() })?;
    Ok(rows.into_iter().flatten().flatten().collect())
}
