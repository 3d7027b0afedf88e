//! Scripted nodes that answer what the fence asks, for the tests of its parts.

use super::engine::Home;
use super::error::Failed;
use super::steps::Barrier;
use crate::citus::Node;
use crate::citus::identity::Who;
use remote::script::{Incoming, Script, note};
use remote::{Begun, Deadline, Pq, PqResult, ResultSet, Session, Waiter};

/// The definition of the function that the extension is known by.
const OURS: &str = "CREATE OR REPLACE FUNCTION citus_fence.flush_wal()\n RETURNS pg_lsn\n LANGUAGE c\n \
    STRICT\nAS '$libdir/citus_fence', $function$flush_wal_wrapper$function$\n";

/// The answer to every question of a fence, after a while.
pub fn answer(after: u64) -> Vec<(u64, Incoming)> {
    answer_with(after, &[])
}

/// The same with other values in some columns.
pub fn answer_with(after: u64, other: &[(&str, &str)]) -> Vec<(u64, Incoming)> {
    let mut cells = [
        ("server_version_num", "150020"),
        ("deadlock_timeout", "1s"),
        ("pid", "$pid"),
        ("definition", OURS),
        ("flushed", "(0/1000,7000000000000000001,1)"),
        ("server_number", "$host"),
        ("library_version", env!("CARGO_PKG_VERSION")),
        ("extension_version", env!("CARGO_PKG_VERSION")),
        ("preloads", "t"),
        ("is_superuser", "on"),
        ("control_system", "(1300,202209061,7000000000000000001,\"2031-05-01\")"),
        ("started", "1930000000.000001"),
        ("local_group", "$host_number"),
    ];
    for cell in &mut cells {
        if let Some(other) = other.iter().find(|(column, _)| *column == cell.0) {
            *cell = *other;
        }
    }
    let set = ResultSet {
        columns: cells.iter().map(|(column, _)| (*column).to_owned()).collect(),
        rows: vec![cells.iter().map(|(_, value)| Some((*value).to_owned())).collect()],
        command_tag: "SELECT 1".into(),
        affected: 1,
    };
    vec![(after, Incoming::Result(PqResult::Set(set))), (after, Incoming::Ready)]
}

/// A node that is well, so slow at everything.
pub fn well(latency: u64) -> Script {
    Script::connects(latency).answers([answer(latency)])
}

/// The nodes' names; the answers of each say that it is of the group of that number.
pub fn host(index: usize) -> String {
    format!("node-{index}")
}

/// Rows of the catalog.
pub fn nodes(count: usize) -> Vec<Node> {
    let node = |index: usize| Node {
        nodeid: index as i32 + 1,
        groupid: index as i32,
        host: host(index),
        port: 5432,
        active: true,
        has_metadata: true,
    };
    (0..count).map(node).collect()
}

/// This node: it notes what it is asked to do among the commands that are sent.
#[derive(Default)]
pub struct ScriptHome {
    /// Whether a node comes or goes while the others are being locked.
    pub nodes_change: bool,
    /// Whether somebody is in the way of its beginning.
    pub cannot_begin: bool,
}

impl Home for ScriptHome {
    fn begin(&mut self, _bound: std::time::Duration) -> Result<(), Failed> {
        note("home: begin");
        match self.cannot_begin {
            true => Err(Failed::for_now("somebody is in the way here")),
            false => Ok(()),
        }
    }

    fn close(&mut self, barrier: Barrier, _bound: std::time::Duration) -> Result<(), Failed> {
        note(&format!("home: lock {barrier:?}"));
        Ok(())
    }

    fn who(&self) -> Option<(String, Who)> {
        None
    }

    fn prove<C: Pq, W: Waiter>(
        &mut self,
        _waiter: &mut W,
        _answer: Option<Begun<C>>,
        _by: Deadline,
    ) -> Result<Option<Session<C>>, Failed> {
        note("home: prove");
        Ok(None)
    }

    fn let_go(&mut self) {
        note("home: let go");
    }

    fn nodes_are_the_same(&mut self) -> Result<bool, Failed> {
        note("home: read nodes");
        Ok(!self.nodes_change)
    }

    fn flush(&mut self) {
        note("home: flush");
    }

    fn log(&mut self, line: &str) {
        note(&format!("home: log {line}"));
    }
}
