//! While a split waits for writers: does one of them wait for the split?
//!
//! The server looks for deadlocks once in each wait, and whoever looks when the circle is closed is the victim.  An attempt
//! takes many locks, one after the other, so its own look may come before a writer closes the circle, and the writer's
//! after: the user's transaction would die of it.  So a split looks again and again, and lets go.
//!
//! On Citus a writer may wait for it on one node and be waited for on another: no node sees that, and Citus' own search over
//! all of them would pick a writer.  So it is looked for across the nodes, too.

use std::collections::HashSet;
use std::time::Duration;

use remote::{
    Command, Deadline, Interest, RemoteError, Reply, Session, SessionState, WaitEnd, Waiter,
    run_all,
};

use super::links::cancel;
use super::statements;

/// How often is looked: a fraction of the time after which a writer's server does.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bound on a look.
const LOOK_BOUND: Duration = Duration::from_millis(500);

/// A waiter that looks, and stops when it has found that.
pub struct Entangled<'a, W: Waiter> {
    waiter: &'a mut W,
    /// Sessions with the nodes, in the order of the roster.
    lookers: &'a mut [Session],
    /// The split's processes that wait, by node.
    own: Vec<Vec<i32>>,
    is_citus: bool,
    next: Duration,
    found: Option<usize>,
}

impl<'a, W: Waiter> Entangled<'a, W> {
    /// Looks for the first time in a moment: most waits are over by then.
    pub fn new(
        waiter: &'a mut W,
        lookers: &'a mut [Session],
        own: Vec<Vec<i32>>,
        is_citus: bool,
    ) -> Self {
        let next = waiter.now() + LOOK_EVERY;
        Self { waiter, lookers, own, is_citus, next, found: None }
    }

    /// The node where a writer waits for the split, and the split for it.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// Asks every node about the processes that wait there.
    fn ask(&mut self, question: fn(&[i32]) -> String) -> Vec<Result<Reply, RemoteError>> {
        let by = Deadline::after(self.waiter, LOOK_BOUND);
        let sql: Vec<String> = self.own.iter().map(|own| question(own)).collect();
        let mut sessions: Vec<&mut Session> = self.lookers.iter_mut().collect();
        let command = |index: usize| Command::new("look for a deadlock", sql[index].as_str());
        let replies = run_all(self.waiter, &mut sessions, command, by);
        if sessions.iter().any(|session| session.state() == SessionState::Busy) {
            cancel(&mut sessions);
        }
        replies
    }

    fn look(&mut self) {
        let replies = self.ask(statements::entangled);
        // Where it cannot be seen, the attempt's bound ends it.
        self.found = replies.iter().position(|reply| {
            let reply = reply.as_ref().ok();
            reply.and_then(|reply| reply.single_value().ok()).is_some_and(|count| count != "0")
        });
        if self.found.is_none() && self.is_citus {
            self.found = self.look_across();
        }
        self.next = self.waiter.now() + LOOK_EVERY;
    }

    /// The node where somebody blocks the split who waits for it, wherever that is.
    fn look_across(&mut self) -> Option<usize> {
        let replies = self.ask(statements::entangled_elsewhere);
        let (mut blocks, mut waits) = (Vec::new(), HashSet::new());
        for (node, reply) in replies.iter().enumerate() {
            let Some(set) = reply.as_ref().ok().and_then(|reply| reply.last_set().ok()) else {
                continue;
            };
            for row in 0..set.rows.len() {
                let Some(whose) = set.value(row, "global_pid").map(str::to_owned) else { continue };
                match set.value(row, "way") {
                    Some("b") => blocks.push((node, whose)),
                    _ => drop(waits.insert(whose)),
                }
            }
        }
        blocks.into_iter().find(|(_, whose)| waits.contains(whose)).map(|(node, _)| node)
    }
}

impl<W: Waiter> Waiter for Entangled<'_, W> {
    fn now(&self) -> Duration {
        self.waiter.now()
    }

    fn wait(&mut self, interests: &[Interest], timeout: Duration) -> WaitEnd {
        let until = self.next.saturating_sub(self.now());
        if timeout <= until {
            return self.waiter.wait(interests, timeout);
        }
        match self.waiter.wait(interests, until) {
            WaitEnd::TimedOut => {
                self.look();
                // An empty answer: whoever waits looks at its own deadline, and waits again.
                self.found.map_or(WaitEnd::Ready(Vec::new()), |_| WaitEnd::Stopped)
            }
            end => end,
        }
    }
}
