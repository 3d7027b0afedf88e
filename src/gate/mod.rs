//! The gate that every writing transaction of a node passes, and the node's durable state behind it.
//!
//! A transaction passes before it first writes: it takes the gate's lock to its end, *then* reads the
//! node's state ([`passing`]).  The hooks decide who has to pass ([`policy`], [`hooks`]).  Closing comes in
//! two kinds: whoever takes ExclusiveLock on a gate makes writers *wait* ([`closing`]); a node that is read-only has them
//! *refused*, which a file in the data directory remembers ([`state_file`], [`store`]).  So has one that is
//! reserved for a clone, and lets through the clone split alone ([`reservation`], [`reserved_file`]).

pub mod api;
pub mod area;
pub mod closing;
pub mod error;
pub mod hooks;
pub mod lock;
pub mod passing;
pub mod policy;
pub mod reservation;
pub mod reserved_file;
pub mod state_file;
pub mod store;
pub mod victim;
mod way_out;

mod alone;
mod functions;
mod keeper;
mod kind;
mod sealed_text;
mod whereabouts;

use crate::pg::ident;
use crate::pg::shmem::SharedArea;
use area::{AREA, NodeState};

/// The shared memory of the gate.
pub struct Memory;

impl SharedArea for Memory {
    fn request(&self) {
        AREA.request();
    }

    fn startup(&self) {
        AREA.startup();
        store::restore();
    }
}

pub use closing::{close as close_gate, stay_closed};
pub use keeper::{KEEPER, may_be_needed as may_need_keeper};
pub use passing::is_writing;
pub use policy::Gate;

/// Whether the node refuses writers; recovery counts.
pub fn is_read_only() -> bool {
    ident::in_recovery()
        || AREA
            .node()
            .is_some_and(|node| matches!(node.state(), NodeState::ReadOnly | NodeState::Reserved))
}

/// Whether the library is preloaded.
pub fn is_preloaded() -> bool {
    AREA.node().is_some()
}

/// The clone that this node is reserved for.
pub fn reserved_for() -> Option<i32> {
    AREA.node().filter(|node| node.state() == NodeState::Reserved).map(|node| node.clone_id())
}

/// Takes this transaction through its gate before it does on other nodes what may be a write.
pub fn pass_gate() {
    if let Some(node) = passing::guarded_node() {
        passing::pass_or_read(node);
    }
}
