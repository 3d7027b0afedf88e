//! The gate that every writing transaction of a node passes, and the read-only node behind it.
//!
//! A transaction passes before it first writes: it takes the gate's lock to its end, *then* reads the
//! node's state ([`gate`]).  The hooks decide who has to pass ([`policy`], [`hooks`]).  Closing comes in
//! two kinds: whoever takes ExclusiveLock on a gate makes writers *wait*; a node that is switched to
//! read-only has them *refused* ([`switch`]), which a file in the data directory remembers
//! ([`state_file`], [`store`]).

pub mod api;
pub mod cluster;
pub mod error;
pub mod policy;

mod functions;
mod gate;
pub mod hooks;
mod kind;
mod state_file;
mod store;
pub mod switch;

use crate::pg::gate_area::AREA;
use crate::pg::shmem::SharedArea;

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

pub use gate::{close as close_gate, stay_closed};
pub use policy::Gate;
pub use switch::is_read_only;

/// Takes this transaction through its gate before it does on other nodes what may be a write.
pub fn pass_gate() {
    if let Some(node) = gate::guarded_node() {
        gate::pass_or_read(node);
    }
}
