//! Who waits for a fence, directly or behind somebody who does, across nodes.
//!
//! PostgreSQL knows who blocks whom on one node.  A transaction that waits on one node also keeps its
//! row locks on the others, in sessions that are idle there; whoever wants those rows waits for the
//! fence too.  Citus marks a session that serves a transaction begun elsewhere with the global process
//! id of the session where it was begun, and so does the embedded catalog; that joins the graphs.

use std::collections::HashSet;

/// A session that waits for a lock, serves another node's transaction, or may be served by one.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Position of its node in the manifest.
    pub node: usize,
    /// Process on that node.
    pub pid: i32,
    /// Where its transaction was begun.
    pub global_pid: u64,
    /// Its own number, the same where its transaction was begun in it.
    pub own_global_pid: u64,
    /// Processes on its node that it waits for.
    pub blockers: Vec<i32>,
}

/// A session that waits, by its position, and the position of the one whose wait it shares: a client waits
/// for the session that serves it on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The session.
    pub position: usize,
    /// Whose lock it is that has not been granted.
    pub through: usize,
}

/// The sessions that wait for one of the holders, a holder per node, each once.
pub fn waiting(holders: &[i32], sessions: &[Session]) -> Vec<Waiting> {
    let mut blocking: HashSet<(usize, i32)> =
        holders.iter().enumerate().map(|(node, pid)| (node, *pid)).collect();
    let mut waiting = Vec::new();
    let mut found: HashSet<usize> = HashSet::new();
    loop {
        let new: Vec<usize> = (0..sessions.len())
            .filter(|position| {
                let session = &sessions[*position];
                !found.contains(position)
                    && session.blockers.iter().any(|pid| blocking.contains(&(session.node, *pid)))
            })
            .collect();
        if new.is_empty() {
            return waiting;
        }
        for position in new {
            if !found.insert(position) {
                continue;
            }
            waiting.push(Waiting { position, through: position });
            let begun_in = sessions[position].global_pid;
            let client = sessions.iter().position(|session| session.own_global_pid == begun_in);
            // One that waits for a lock itself is found, or is to be found, by that.
            if let Some(client) = client
                && sessions[client].blockers.is_empty()
                && found.insert(client)
            {
                waiting.push(Waiting { position: client, through: position });
            }
            // Whatever its transaction holds on any node is held up with it.
            let global_pid = sessions[position].global_pid;
            let party = sessions.iter().filter(|session| session.global_pid == global_pid);
            blocking.extend(party.map(|session| (session.node, session.pid)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Session, waiting};
    use crate::citus::global_pid;

    fn session(node: usize, pid: i32, global_pid: u64, blockers: &[i32]) -> Session {
        let own_global_pid = global_pid_of(node, pid);
        Session { node, pid, global_pid, own_global_pid, blockers: blockers.to_vec() }
    }

    /// Node ids are one higher than positions here.
    fn global_pid_of(node: usize, pid: i32) -> u64 {
        global_pid(node as i32 + 1, pid)
    }

    fn positions(holders: &[i32], sessions: &[Session]) -> Vec<usize> {
        waiting(holders, sessions).into_iter().map(|waiting| waiting.position).collect()
    }

    #[test]
    fn a_row_lock_on_another_node_is_followed() {
        let sessions = [
            // Begun on node 0, waits for the fence there, and is idle on node 2.
            session(0, 50, global_pid(1, 50), &[10]),
            session(2, 70, global_pid(1, 50), &[]),
            // Waits on node 2 for a row of the idle one.
            session(2, 80, global_pid(2, 33), &[70]),
            // Behind that one, begun on node 1.
            session(2, 81, global_pid(2, 34), &[80]),
            // Waits for somebody who has nothing to do with the fence.
            session(1, 90, global_pid(2, 90), &[91]),
        ];
        assert_eq!(positions(&[10, 20, 30], &sessions), [0, 2, 3]);
    }

    #[test]
    fn equal_pids_on_different_nodes_are_different_processes() {
        let sessions =
            [session(1, 50, global_pid(2, 50), &[10]), session(0, 51, global_pid(1, 51), &[20])];
        assert!(positions(&[10, 20], &sessions).is_empty());
    }

    #[test]
    fn a_cycle_ends() {
        let sessions =
            [session(0, 1, global_pid(1, 1), &[9, 2]), session(0, 2, global_pid(1, 2), &[1])];
        assert_eq!(positions(&[9], &sessions), [0, 1]);
    }

    #[test]
    fn the_client_of_a_session_that_waits_elsewhere_is_named_once() {
        let sessions = [
            // Two sessions on node 1 serve one client of node 0, and both wait.
            session(1, 70, global_pid_of(0, 50), &[20]),
            session(1, 71, global_pid_of(0, 50), &[70]),
            session(0, 50, global_pid_of(0, 50), &[]),
            // At work, and no part of it.
            session(0, 51, global_pid_of(0, 51), &[]),
        ];
        let found = waiting(&[10, 20], &sessions);
        assert_eq!(
            found.iter().map(|w| (w.position, w.through)).collect::<Vec<_>>(),
            [(0, 0), (2, 0), (1, 1)]
        );
    }
}
