//! What is done on all nodes at one moment, as a list of steps: a plain value.
//!
//! Whoever needs the nodes to agree on a moment says in such a list what has to hold by then, in order; one
//! engine runs it ([`super::engine`]), and the model checker explores the lists that run.

use std::time::Duration;

/// What is closed on all nodes before anything else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// The gate that clients' transactions pass.
    ClientGate,
    /// The gate that sessions between nodes pass.
    InternalGate,
    /// The catalog tables that commit records, DDL and changes of nodes write to.
    Tables,
}

impl Barrier {
    /// Whether it is a gate, which a node has only where the library is preloaded.
    pub fn is_gate(self) -> bool {
        match self {
            Self::ClientGate | Self::InternalGate => true,
            Self::Tables => false,
        }
    }
}

/// One step, on all nodes at once; the next begins when it is done on the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Closes a barrier: from here on nobody gets past it, and who had got past it has ended.
    Close(Barrier),
    /// Nobody is in the middle of a command that commits on its way: between two of its steps it holds no gate.
    NobodyInSteps,
    /// The nodes finish what two-phase commits have left in doubt, which keeps the gates it has passed.
    FinishInDoubt,
    /// The list of nodes is read again, and is the one that the attempt began with.
    SameNodes,
    /// Every node brings its WAL to disk, and keeps from here on what it holds for as long as it may.
    Flush,
}

/// Longest time that an attempt keeps some gates closed while it waits for others.  A reader that turns writer,
/// and DDL over two nodes, can close a cycle through a gate that is closed on some nodes, and no search for
/// deadlocks sees it.
pub const LONGEST_GATE_LOCK: Duration = Duration::from_secs(1);

/// Whether all nodes need a gate.
pub fn close_gates(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Close(barrier) if barrier.is_gate()))
}

/// Longest time for all waits of an attempt together.
pub fn longest_lock_timeout(steps: &[Step]) -> Duration {
    if close_gates(steps) { LONGEST_GATE_LOCK } else { Duration::MAX }
}

#[cfg(test)]
mod tests {
    use super::{Barrier, LONGEST_GATE_LOCK, Step, close_gates, longest_lock_timeout};

    #[test]
    fn who_closes_gates_is_in_a_hurry() {
        let tables = [Step::Close(Barrier::Tables), Step::Flush];
        let gates = [Step::Close(Barrier::InternalGate), Step::Close(Barrier::Tables)];
        assert!(!close_gates(&tables) && longest_lock_timeout(&tables) > LONGEST_GATE_LOCK);
        assert!(close_gates(&gates) && longest_lock_timeout(&gates) == LONGEST_GATE_LOCK);
    }
}
