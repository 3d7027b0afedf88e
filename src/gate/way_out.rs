//! What a client can do that was turned away.
//!
//! The server's own refusals of a read-only transaction get their hint while they are on their way, when no catalog may be
//! read.  So the hint is made before, by the statement that has its transaction made read-only, once for each switch.

use std::cell::RefCell;

use super::area::{Node, NodeState};
use super::error::{RESERVED_HINT, how_to_write};
use crate::pg::names;

/// What a hint depends on beside the database.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Switch {
    state: NodeState,
    since: i64,
    with_cluster: bool,
}

impl Switch {
    fn of(node: &Node) -> Self {
        Self { state: node.state(), since: node.since(), with_cluster: node.is_with_cluster() }
    }

    fn hint(self) -> &'static str {
        match self.state {
            NodeState::Reserved => RESERVED_HINT,
            NodeState::ReadWrite | NodeState::Closing | NodeState::ReadOnly => {
                how_to_write(self.with_cluster)
            }
        }
    }
}

thread_local!(static MADE: RefCell<Option<(Switch, String)>> = const { RefCell::new(None) });

/// Makes the hint for this session, in a transaction.
pub fn prepare(node: &Node) {
    let switch = Switch::of(node);
    if MADE.with_borrow(|made| made.as_ref().is_some_and(|made| made.0 == switch)) {
        return;
    }
    let hint = names::as_reached(switch.hint()).into_owned();
    MADE.set(Some((switch, hint)));
}

/// Hands the hint over; without a look at any catalog.
pub fn with_hint(node: &Node, use_it: impl FnOnce(&str)) {
    let switch = Switch::of(node);
    MADE.with_borrow(|made| match made {
        Some((of, hint)) if *of == switch => use_it(hint),
        _ => use_it(switch.hint()),
    });
}
