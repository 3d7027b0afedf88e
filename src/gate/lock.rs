//! The gates' locks: heavyweight locks on relation numbers that no relation has.  All such numbers are here, the clone
//! split's too.

use super::policy::Gate;
use crate::pg::numbered_lock::{self, Holder, Mode, NumberedLock, for_top_transaction};

// Numbers below 10000 are given out by hand, and the last two thousand of them never to anything that is
// released: no relation will ever have these.

/// The numbers as they stand in SQL text: only literals can be put together with it at compile time.
macro_rules! numbers {
    // Held by who registers a clone, to the end of his transaction.
    (clone_adder) => {
        9992
    };
    // Held by the call that switches the whole cluster.
    (cluster_switch) => {
        9993
    };
    // Held by who waits for a clone split, and by the worker that drives it.
    (split_caller) => {
        9994
    };
    (split_driver) => {
        9995
    };
    (attempt) => {
        9996
    };
    (client) => {
        9997
    };
    (internal) => {
        9998
    };
    (switch) => {
        9999
    };
    // Those of the gates, as a list.
    (gates) => {
        concat!($crate::gate::lock::numbers!(client), ", ", $crate::gate::lock::numbers!(internal))
    };
}
pub(crate) use numbers;

/// Held by whoever is about to close the gates, until all of them are closed.
const ATTEMPT: u32 = numbers!(attempt);
const CLIENT: u32 = numbers!(client);
const INTERNAL: u32 = numbers!(internal);
/// Taken by whoever switches the node.
const SWITCH: u32 = numbers!(switch);
/// Taken by whoever switches the cluster.
const CLUSTER_SWITCH: u32 = numbers!(cluster_switch);

// The view over the locks has the same numbers.
const _: () = {
    const VIEW: &str = include_str!("../../sql/gate.sql");
    assert!(says(VIEW, concat!("gate.relation WHEN ", numbers!(internal), " THEN 'internal'")));
    assert!(says(VIEW, concat!("gate.relation IN (", numbers!(gates), ")")));
    assert!(says(VIEW, concat!("gate.relation = ", numbers!(attempt), " ")));
};

const fn says(text: &str, part: &str) -> bool {
    let (text, part) = (text.as_bytes(), part.as_bytes());
    let mut start = 0;
    while start + part.len() <= text.len() {
        let mut same = 0;
        while same < part.len() && text[start + same] == part[same] {
            same += 1;
        }
        if same == part.len() {
            return true;
        }
        start += 1;
    }
    false
}

/// How those who pass a gate hold its lock.
const PASS: Mode = Mode::Shared;
/// How whoever closes a gate holds its lock.
const CLOSE: Mode = Mode::Alone;

/// The gate's lock in this database.
fn gate_lock(gate: Gate) -> NumberedLock {
    NumberedLock::of_database(match gate {
        Gate::Client => CLIENT,
        Gate::Internal => INTERNAL,
    })
}

/// Takes the lock of those who pass, to the end of the transaction, if that needs no wait.
pub fn try_pass(gate: Gate) -> bool {
    for_top_transaction(|| gate_lock(gate).try_acquire(PASS))
}

/// The same, and waits as long as `lock_timeout` allows.
pub fn pass(gate: Gate) {
    for_top_transaction(|| gate_lock(gate).acquire(PASS));
}

/// Gives back what [`try_pass`] or [`pass`] took, by somebody who is turned away after all.
pub fn turn_back(gate: Gate) {
    for_top_transaction(|| gate_lock(gate).release(PASS));
}

/// Closes the gate to the end of the transaction, if nobody is in the way.
pub fn try_close(gate: Gate) -> bool {
    for_top_transaction(|| gate_lock(gate).try_acquire(CLOSE))
}

/// The same, and waits for those in the way.  False when `lock_timeout` has passed; the caller must then
/// raise an error.
pub fn close(gate: Gate) -> bool {
    for_top_transaction(|| gate_lock(gate).acquire_in_time(CLOSE))
}

/// Says that the gates are about to be closed, to the end of the transaction or to [`end_attempt`].  Waits
/// for whoever says the same; false when `lock_timeout` has passed.
pub fn begin_attempt() -> bool {
    for_top_transaction(|| attempt_lock().acquire_in_time(CLOSE))
}

/// All gates are closed, on all nodes.
pub fn end_attempt() {
    for_top_transaction(|| attempt_lock().release(CLOSE));
}

/// Waits while somebody is about to close the gates; false if nobody is.
pub fn await_attempt() -> bool {
    let lock = attempt_lock();
    let is_under_way = !lock.try_acquire(PASS);
    if is_under_way {
        lock.acquire(PASS);
    }
    lock.release(PASS);
    is_under_way
}

fn attempt_lock() -> NumberedLock {
    NumberedLock::of_database(ATTEMPT)
}

/// Makes switches of the node one at a time.  Given back when dropped; after an error, by the abort of the
/// (sub)transaction.
pub struct SwitchLock(());

impl SwitchLock {
    /// Waits for it.
    pub fn acquire() -> Self {
        NumberedLock::of_server(SWITCH).acquire(CLOSE);
        Self(())
    }
}

impl Drop for SwitchLock {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            NumberedLock::of_server(SWITCH).release(CLOSE);
        }
    }
}

/// Says, while it lives, that this database's cluster is being switched to read-only or back.  Given back when dropped;
/// after an error, by the abort of the (sub)transaction.
pub struct ClusterSwitch(());

impl ClusterSwitch {
    /// Waits for those who are just looking, who do not keep it.
    pub fn begin() -> Self {
        NumberedLock::of_database(CLUSTER_SWITCH).acquire(CLOSE);
        Self(())
    }

    /// Whether another session is at it.  In a transaction.
    pub fn is_under_way() -> bool {
        let lock = NumberedLock::of_database(CLUSTER_SWITCH);
        let is_free = lock.try_acquire(PASS);
        if is_free {
            lock.release(PASS);
        }
        !is_free
    }
}

impl Drop for ClusterSwitch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            NumberedLock::of_database(CLUSTER_SWITCH).release(CLOSE);
        }
    }
}

/// All who have passed a gate, in any database.
pub fn holders() -> Vec<Holder> {
    numbered_lock::holders(&[CLIENT, INTERNAL], PASS)
}
