//! Reserving a node for a clone: a standby that is to become a worker of its own refuses writers from its
//! promotion on, until its identity is switched.
//!
//! ```text
//!           reserve_node(), in recovery only                promotion, restart, crash
//! standby ─────────────────────────────────────> reserved ───────────────────────────> reserved
//!    ^                                              │                                     │
//!    └──────────────────────────────────────────────┴── release_node() ───────────────────┴──> read-write
//! ```
//! A standby writes no WAL and takes no lock that writers take, so none of that is used here.  Calls come one
//! after the other by an owner's number in shared memory ([`Alone`]): a lightweight lock must not be held
//! while a file is brought to disk.
//!
//! Why no writer slips through the promotion: the state is set first, and then it is looked whether recovery
//! still goes on.  A writer looks at each statement whether recovery is over, and then at the state.  Where
//! recovery goes on at the first look, any writer's look that finds it over comes later, and finds the state.

use std::cell::Cell;

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::alone::Alone;
use super::area::{AREA, Node, NodeState};
use super::error::GateError;
use super::reserved_file::Token;
use super::store;
use crate::pg::{elog, ident, interrupts, process};
use crate::report::Report;

thread_local! {
    /// The reservation (by its number since the server's start; 0: none) that this session belongs to.
    static ENTERED: Cell<u32> = const { Cell::new(0) };
}

/// Whether this session is that of the clone split for which the node is reserved.
pub fn is_entered(node: &Node) -> bool {
    ENTERED.get() != 0 && ENTERED.get() == node.reservation()
}

/// The session is somebody else's from now on.
pub fn leave() {
    ENTERED.set(0);
}

/// Reserves this standby.
pub fn reserve(clone: i32, token: &str) -> Result<(), GateError> {
    const FUNCTION: &str = "citus_fence.reserve_node()";
    let node = require()?;
    if clone <= 0 {
        return Err(GateError::CloneId { clone });
    }
    let token = Token::of(token).ok_or(GateError::TokenLength)?;
    let _alone = Alone::take(node)?;
    match node.state() {
        // Again, by who does not know what became of his first call.
        NodeState::Reserved if node.clone_id() == clone && node.token().is(token) => return Ok(()),
        NodeState::Reserved => {
            return Err(GateError::ReservedAlready {
                clone: node.clone_id(),
                is_same: node.clone_id() == clone,
            });
        }
        NodeState::ReadWrite | NodeState::Closing | NodeState::ReadOnly => {}
    }
    if !ident::in_recovery() {
        return Err(GateError::NotInRecovery { function: FUNCTION });
    }
    // The rest is short and waits for nobody.
    interrupts::ignore_cancels();
    if let Err(error) = store::write_reservation(clone, token) {
        // It may have got there all the same.
        let _ = store::remove_reservation();
        return Err(error);
    }
    // Where the node is promoted meanwhile, somebody may be switching it: his state is left alone.
    let is_set = node.begin_reservation(clone, token);
    if !is_set || !ident::in_recovery() {
        store::remove_reservation()?;
        if is_set {
            AREA.end_reservation();
        }
        return Err(GateError::NotInRecovery { function: FUNCTION });
    }
    log(&format!("this node is now reserved for clone {clone}"));
    Ok(())
}

/// Makes this session one that a reserved node does not refuse.
pub fn enter(token: &str) -> Result<(), GateError> {
    const FUNCTION: &str = "citus_fence.enter_reserved_node()";
    let node = require()?;
    let _alone = Alone::take(node)?;
    if node.state() != NodeState::Reserved {
        return Err(GateError::NotReserved { function: FUNCTION });
    }
    verify(node, token, FUNCTION)?;
    ENTERED.set(node.reservation());
    Ok(())
}

/// Ends the reservation.
pub fn release(token: &str) -> Result<(), GateError> {
    const FUNCTION: &str = "citus_fence.release_node()";
    let node = require()?;
    let _alone = Alone::take(node)?;
    if node.state() == NodeState::Reserved {
        verify(node, token, FUNCTION)?;
        end(node)?;
    }
    Ok(())
}

/// The same without the token, by somebody who knows what he does.
pub fn release_by_force(clone: i32) -> Result<(), GateError> {
    let node = require()?;
    let _alone = Alone::take(node)?;
    if node.state() != NodeState::Reserved {
        let report =
            Report::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, "this node is not reserved");
        elog::emit(PgLogLevel::NOTICE, &report);
        return Ok(());
    }
    if node.clone_id() != clone {
        return Err(GateError::OtherClone { given: clone, clone: node.clone_id() });
    }
    end(node)?;
    let report = Report::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!("this node was released although it was reserved for {}", Clone(clone)),
    )
    .detail(
        "Nothing keeps clients from writing here once it is promoted. What they write before \
         citus_promote_clone_and_rebalance() has made it a worker of its own is acknowledged and lost.",
    )
    .hint(
        "Keep clients away until its coordinator shows what has become of the clone: \
         SELECT * FROM citus_clone_status();",
    );
    elog::emit(PgLogLevel::WARNING, &report);
    Ok(())
}

/// What all of them ask for first.
fn require() -> Result<&'static Node, GateError> {
    AREA.node().ok_or(GateError::NotPreloaded)
}

fn verify(node: &Node, token: &str, function: &'static str) -> Result<(), GateError> {
    if node.clone_id() == UNKNOWN {
        return Err(GateError::TokenUnknown);
    }
    match Token::of(token) {
        Some(token) if node.token().is(token) => Ok(()),
        _ => Err(GateError::WrongToken { function, clone: node.clone_id() }),
    }
}

fn end(node: &Node) -> Result<(), GateError> {
    let clone = Clone(node.clone_id());
    interrupts::ignore_cancels();
    store::remove_reservation()?;
    AREA.end_reservation();
    log(&format!("this node is not reserved for {clone} any more"));
    Ok(())
}

fn log(what: &str) {
    elog::log(&format!(
        "{what}: by role \"{}\" (process {})",
        ident::role_name(ident::current_role()),
        process::me().pid,
    ));
}

/// The id of a clone where the file that told it is damaged.
pub const UNKNOWN: i32 = 0;

/// A clone in a message.
#[derive(Clone, Copy, Debug)]
pub struct Clone(pub i32);

impl std::fmt::Display for Clone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            UNKNOWN => f.write_str("a clone"),
            id => write!(f, "clone {id}"),
        }
    }
}
