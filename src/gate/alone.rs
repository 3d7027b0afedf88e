//! One process at a time changes the files of the node's state: by a number in shared memory, as a lightweight
//! lock must not be held while a file is brought to disk, and as a standby takes no lock that writers take.

use std::time::Duration;

use super::area::{AREA, Node};
use super::error::GateError;
use crate::pg::exit::{Armed, Undo};
use crate::pg::process;
use crate::pg::wait::wait_latch_or_client_gone;

/// How long to wait before looking again who is at it.
const PAUSE: Duration = Duration::from_millis(10);

/// What this process took is free again, however it ends.  If it has not taken it, nothing happens.
static TAKEN: Undo<()> = Undo::new(|()| {
    if let Some(node) = AREA.node() {
        node.give_back(process::me().pid);
    }
});

/// While it lives, no other process changes these files or the reservation, or looks at them.
pub struct Alone(#[allow(dead_code, reason = "gives it back")] Armed<()>);

impl Alone {
    /// Waits for whoever is at it: he brings a file to disk, no more.
    pub fn take(node: &Node) -> Result<Self, GateError> {
        let armed = TAKEN.arm(());
        while !node.try_take(process::me().pid) {
            if wait_latch_or_client_gone(PAUSE) {
                return Err(GateError::ClientGone);
            }
        }
        Ok(Self(armed))
    }
}
