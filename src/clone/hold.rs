//! Holding the writers back, on every node, and preparing the new metadata there.
//!
//! The order of the locks, for the other one deadlocks with every writer of a reference table on the coordinator,
//! which takes a lock on `pg_dist_node` *after* that of the shard: the reference shards there, and what moves and has
//! copies elsewhere; then nodes, DDL and moves of shards; then what moves there; then all of it on all other nodes at
//! once; then the tables at the source, behind what is in flight there and behind what is prepared, which holds no
//! lock of a shard any more.
//!
//! Under the locks nothing slow is done: sizes and costs were asked for before, and only the list of shards is
//! read again.
//!
//! Locks can form a cycle with writers.  It is looked for all the time, on each node and across them
//! ([`super::entangled`]).  For one that is not seen, as where a node does not answer, one bound is on all waits of an
//! attempt together; it grows from attempt to attempt, and between two the writers get as long as they had to wait.

use std::time::Duration;

use remote::{
    Command, Deadline, Pause, RemoteError, Reply, Session, SessionState, TransactionStatus, Waiter,
    pause, run_all,
};

use super::entangled::Entangled;
use super::links::{Links, Map, SHORT, ask, cancel};

use super::error::CloneError;
use super::inventory::{self, Inventory, Placed};
use super::registry::{Plan, Replica};
use super::statements;
use crate::fence::FenceError;
use crate::fence::blockers::describe_all;
use crate::fence::error::{Failed, Reason, is_passing_remote};
use crate::fence::retry::Trial;
use crate::pg::quote::literal;
use crate::pg::wait::BackendWaiter;

/// The first attempt's bound.
const SHORTEST: Duration = Duration::from_millis(1_000);
/// What the split's own work may take for each shard that moves: a lock and a trigger at the source, a row on every node.
const PER_SHARD: Duration = Duration::from_millis(1);
/// Bound on what waits for nobody: rows that go in, prepared transactions.
const WRITE_BOUND: Duration = Duration::from_secs(10);
/// Bound on looking who is in the way.
const LOOK_BOUND: Duration = Duration::from_millis(500);
/// Bound on rolling back.
const ROLLBACK_BOUND: Duration = Duration::from_secs(5);
/// Bound on recovering what is in doubt between two attempts.
const RECOVERY_BOUND: Duration = Duration::from_secs(2);

/// Bounds of the first attempt and of the longest, where so many shards move and writers may be waited for so long.
///
/// What the split itself has to do comes on top, or one of a very large node would never get its hold.
pub fn bounds(moving: usize, longest_wait: Duration) -> (Duration, Duration) {
    let own = PER_SHARD * u32::try_from(moving).unwrap_or(u32::MAX);
    (SHORTEST.min(longest_wait) + own, longest_wait + own)
}

/// Where something is locked.
enum Whom {
    /// On the coordinator.
    Coordinator,
    /// On all other nodes.
    Others,
    /// At the source: the tables.
    Tables,
}

/// Attempts to hold the writers of what moves.
pub struct Attempts<'a> {
    /// Who takes part.
    pub map: &'a Map,
    /// The sessions with them.
    pub links: &'a mut Links,
    /// The clone.
    pub clone: &'a Replica,
    /// Its node group.
    pub group: i32,
    /// What there was to weigh before the locks.
    pub weighed: &'a Inventory,
    /// Bound of the next attempt.
    pub bound: Duration,
    /// Bound of the longest.
    pub longest: Duration,
    /// How long the last one held anybody.
    pub lasted: Duration,
}

impl<W: Waiter> Trial<W> for Attempts<'_> {
    type Held = Plan;
    const ATTEMPT: &'static str = "holding back the writers of the moving shards";

    fn attempt(&mut self, waiter: &mut W) -> Result<Plan, Failed> {
        self.begin(waiter)?;
        let began = waiter.now();
        let by = Deadline::after(waiter, self.bound);
        let held = self.hold(waiter, by);
        self.lasted = waiter.now().saturating_sub(began);
        self.bound = (self.bound * 3 / 2).min(self.longest);
        held
    }

    fn let_go(&mut self) -> Vec<RemoteError> {
        let mut waiter = BackendWaiter::new(|| false);
        self.links.let_go(&mut waiter, self.clone)
    }

    fn recover(&mut self, waiter: &mut W) -> Result<(), Failed> {
        self.links.finish_in_doubt(waiter, RECOVERY_BOUND).map_err(|_| Failed::Stopped)?;
        // The attempt may have come as far as to prepare something.
        let renewed = self.links.renew_lines(waiter, self.map);
        renewed.map_err(|error| FenceError::Local((&error).into()))?;
        match pause(waiter, self.lasted) {
            Pause::Over => Ok(()),
            Pause::Stopped => Err(Failed::Stopped),
        }
    }
}

impl Attempts<'_> {
    /// Begins all transactions, and warms their sessions up.
    fn begin<W: Waiter>(&mut self, waiter: &mut W) -> Result<(), Failed> {
        let is_citus = self.map.roster.is_citus();
        let sql = statements::begin(self.bound, is_citus, &self.clone.switch_gid());
        let by = Deadline::after(waiter, SHORT);
        let mut sessions = self.links.holders();
        let replies =
            run_all(waiter, &mut sessions, |_| Command::new("begin to hold", sql.as_str()), by);
        for (session, reply) in sessions.iter_mut().zip(replies) {
            let reply = reply.map_err(Failed::of_node)?;
            session.set_server_pid(reply.parse_single().map_err(Failed::of_node)?);
        }
        Ok(())
    }

    fn hold<W: Waiter>(&mut self, waiter: &mut W, by: Deadline) -> Result<Plan, Failed> {
        let source_group = self.map.roster.nodes()[self.map.source].groupid;
        let reference = self.weighed.reference();
        let first = self.weighed.first();
        let lock_first = statements::lock_shards(first.iter().map(|shard| shard.id));
        self.on_coordinator(waiter, "hold writers of reference tables", &lock_first, by)?;
        let lock_cluster = statements::lock_cluster(self.weighed.lock_ids());
        self.on_coordinator(waiter, "hold changes of nodes and shards", &lock_cluster, by)?;

        let sql = statements::query("SELECT clock_timestamp()");
        let looker = &mut self.links.lookers[self.map.source];
        let reply = ask(waiter, looker, "look at the clock", &sql, LOOK_BOUND);
        let moment = reply.and_then(|reply| reply.single_value().map(str::to_owned));
        let moment = moment.map_err(Failed::of_node)?;

        // Nobody changes nodes, tables or placements from here on.
        let sql = statements::inventory(source_group, self.map.roster.is_citus());
        let reply = self.on_coordinator(waiter, "read the shards again", &sql, by)?;
        let placed = inventory::read(&reply).map_err(Failed::of_node)?;
        if !self.weighed.is_still(&placed) {
            return Err(FenceError::Local((&CloneError::Changed).into()).into());
        }
        let nodes = self.on_coordinator(waiter, "read the nodes again", statements::NODES, by)?;
        if !is_roster(&nodes, self.map).map_err(Failed::of_node)? {
            return Err(Failed::because(crate::fence::error::NODES_CHANGED));
        }
        let moving: Vec<&Placed> = self.weighed.moving();
        let mut all: Vec<i64> = reference.iter().map(|shard| shard.id).collect();
        all.extend(moving.iter().map(|shard| shard.id));
        all.sort_unstable();
        let lock_moving = statements::lock_shards(moving.iter().map(|shard| shard.id));
        self.on_coordinator(waiter, "hold writers on the coordinator", &lock_moving, by)?;
        let lock_all = statements::lock_shards(all);
        self.on_others(waiter, "hold writers on the other nodes", &lock_all, by)?;

        let names: Vec<String> = moving.iter().map(|shard| shard.name.clone()).collect();
        let reference_names: Vec<String> =
            reference.iter().map(|shard| shard.name.clone()).collect();
        self.drain(waiter, &names, &reference_names, by)?;
        self.nothing_in_doubt(waiter, &moment, by)?;

        let plan = self.number(waiter, &moving, &reference, names, by)?;
        self.prepare(waiter, source_group, &plan)?;
        Ok(plan)
    }

    /// Waits at the source for what is in flight or prepared there, and keeps what takes no lock of a shard off.
    fn drain<W: Waiter>(
        &mut self,
        waiter: &mut W,
        moving: &[String],
        reference: &[String],
        by: Deadline,
    ) -> Result<(), Failed> {
        let nothing = || "SELECT".to_owned();
        let lock_moving = match statements::lock_tables(moving) {
            Some(lock) => format!("{lock};{}", statements::seal(moving)),
            None => nothing(),
        };
        let lock_reference = statements::lock_tables(reference).unwrap_or_else(nothing);
        let sql = [lock_moving, lock_reference + "; COMMIT"];
        let command =
            |index: usize| Command::new("hold the tables at the source", sql[index].as_str());
        let replies = self.run(waiter, Whom::Tables, command, by)?;
        let source = self.map.source;
        self.all_or_blockers(waiter, replies, |_| source)
    }

    /// Waits until nothing is left prepared at the source of what was prepared when the locks were taken.  The clone rolls
    /// back all that it inherits; a change of the catalog that is in doubt holds none of our locks any more, and would be
    /// missing there for good.
    fn nothing_in_doubt<W: Waiter>(
        &mut self,
        waiter: &mut W,
        moment: &str,
        by: Deadline,
    ) -> Result<(), Failed> {
        const LOOK_AGAIN: Duration = Duration::from_millis(5);
        let sql = statements::prepared_before(moment);
        loop {
            let looker = &mut self.links.lookers[self.map.source];
            let reply = ask(waiter, looker, "look for what is in doubt", &sql, LOOK_BOUND);
            let count =
                reply.and_then(|reply| reply.parse_single::<i64>()).map_err(Failed::of_node)?;
            if count == 0 {
                return Ok(());
            }
            if by.expired(waiter) {
                let node = self.map.name(self.map.source);
                return Err(Failed::because(format!(
                    "{count} transactions of Citus are left prepared on {node}"
                )));
            }
            if pause(waiter, LOOK_AGAIN) == Pause::Stopped {
                return Err(Failed::Stopped);
            }
        }
    }

    /// Gives each new placement its number, from the coordinator's sequence.
    fn number<W: Waiter>(
        &mut self,
        waiter: &mut W,
        moving: &[&Placed],
        reference: &[&Placed],
        moving_names: Vec<String>,
        by: Deadline,
    ) -> Result<Plan, Failed> {
        let sql = format!(
            "SELECT nextval('pg_dist_placement_placementid_seq') FROM generate_series(1, {})",
            moving.len() + reference.len()
        );
        let reply = self.on_coordinator(waiter, "number the placements", &sql, by)?;
        let unexpected = || Failed::of_node(reply.unexpected("not a number for each placement"));
        let rows = &reply.last_set().map_err(Failed::of_node)?.rows;
        let mut ids = rows.iter().map(|row| row.first()?.as_ref()?.parse::<i64>().ok());
        let mut number = |shard: &&Placed| {
            let id = ids.next().flatten().ok_or_else(unexpected)?;
            Ok::<_, Failed>((shard.id, id))
        };
        Ok(Plan {
            group: self.group,
            moving: moving.iter().map(&mut number).collect::<Result<_, _>>()?,
            reference: reference.iter().map(&mut number).collect::<Result<_, _>>()?,
            moving_names,
            staying_names: self.weighed.staying_names(),
            source_group: Some(self.map.roster.nodes()[self.map.source].groupid),
            source_place: self.map.name(self.map.source),
        })
    }

    /// Makes the new metadata on all nodes, and prepares it and the seal.
    fn prepare<W: Waiter>(
        &mut self,
        waiter: &mut W,
        source_group: i32,
        plan: &Plan,
    ) -> Result<(), Failed> {
        let by = Deadline::after(waiter, WRITE_BOUND);
        let source = self.map.roster.nodes()[self.map.source].nodeid;
        let sql = statements::new_metadata(self.clone, source, source_group, plan);
        let mut sessions: Vec<&mut Session> = self.links.lines.iter_mut().collect();
        let command = |_| Command::new("write the new metadata", sql.as_str());
        let replies = run_all(waiter, &mut sessions, command, by);
        for reply in &replies {
            let Ok(reply) = reply else { continue };
            let written = reply.last_set().map(|set| set.affected).unwrap_or_default();
            if written != plan.moving.len() as u64 {
                let error = reply.unexpected("other placements than the coordinator has");
                return Err(Failed::of_node(error));
            }
        }
        self.all_or_blockers(waiter, replies, |index| index)?;
        // From the first of these on there may be something prepared, which letting go ends.
        let (switch, seal) = (
            statements::prepare(&self.clone.switch_gid()),
            statements::prepare(&self.clone.seal_gid()),
        );
        let last = self.links.lines.len();
        let mut sessions: Vec<&mut Session> = self.links.lines.iter_mut().collect();
        sessions.push(&mut self.links.seal);
        let command = |index| {
            let sql = if index == last { &seal } else { &switch };
            Command::new("prepare the switch", sql.as_str())
        };
        let replies = run_all(waiter, &mut sessions, command, by);
        for reply in replies {
            reply.map_err(Failed::of_node)?;
        }
        Ok(())
    }

    fn on_coordinator<W: Waiter>(
        &mut self,
        waiter: &mut W,
        name: &'static str,
        sql: &str,
        by: Deadline,
    ) -> Result<Reply, Failed> {
        let mut replies = self.run(waiter, Whom::Coordinator, |_| Command::new(name, sql), by)?;
        match replies.pop() {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => {
                self.all_or_blockers(waiter, vec![Err(error)], |_| 0)?;
                Err(Failed::Stopped)
            }
            None => Err(Failed::Stopped),
        }
    }

    fn on_others<W: Waiter>(
        &mut self,
        waiter: &mut W,
        name: &'static str,
        sql: &str,
        by: Deadline,
    ) -> Result<(), Failed> {
        let replies = self.run(waiter, Whom::Others, |_| Command::new(name, sql), by)?;
        self.all_or_blockers(waiter, replies, |index| index + 1)
    }

    /// Runs what waits for writers, and lets go as soon as one of them waits for it.
    fn run<'c, W: Waiter>(
        &mut self,
        waiter: &mut W,
        whom: Whom,
        command: impl Fn(usize) -> Command<'c>,
        by: Deadline,
    ) -> Result<Vec<Result<Reply, RemoteError>>, Failed> {
        let source = self.map.source;
        let Links { lines, lookers, seal, drain, .. } = &mut *self.links;
        let mut own: Vec<Vec<i32>> =
            lines.iter().map(|line| line.server_pid().into_iter().collect()).collect();
        own[source].extend([&*seal, &*drain].into_iter().filter_map(Session::server_pid));
        let mut sessions: Vec<&mut Session> = match whom {
            Whom::Coordinator => lines.iter_mut().take(1).collect(),
            Whom::Others => lines.iter_mut().skip(1).collect(),
            Whom::Tables => vec![seal, drain],
        };
        let mut watch = Entangled::new(waiter, lookers, own, self.map.roster.is_citus());
        let replies = run_all(&mut watch, &mut sessions, command, by);
        let Some(node) = watch.found() else { return Ok(replies) };
        let what = format!(
            "on {}, a writer waited for the split, and it for the writer",
            self.map.name(node)
        );
        let blockers = self.look(waiter, node);
        Err(Failed::ForNow(Reason { what, blockers, tells: true }))
    }

    /// An error unless all have answered well; who is in the way is looked up before anything is let go, for
    /// afterwards nobody can tell.
    fn all_or_blockers<W: Waiter>(
        &mut self,
        waiter: &mut W,
        replies: Vec<Result<Reply, RemoteError>>,
        node: impl Fn(usize) -> usize,
    ) -> Result<(), Failed> {
        let mut reason: Option<Reason> = None;
        for (index, reply) in replies.into_iter().enumerate() {
            let Err(error) = reply else { continue };
            if !is_passing_remote(&error) {
                return Err(Failed::of_node(error));
            }
            let reason = reason.get_or_insert_with(|| Reason {
                what: error.to_string(),
                blockers: Vec::new(),
                tells: false,
            });
            if reason.blockers.is_empty() {
                reason.blockers = self.look(waiter, node(index));
                reason.tells = !reason.blockers.is_empty();
            }
        }
        reason.map_or(Ok(()), |reason| Err(Failed::ForNow(reason)))
    }

    /// Who keeps our sessions on a node waiting.
    fn look<W: Waiter>(&mut self, waiter: &mut W, node: usize) -> Vec<String> {
        let mut pids = vec![self.links.lines[node].server_pid()];
        if node == self.map.source {
            pids.extend([self.links.seal.server_pid(), self.links.drain.server_pid()]);
        }
        let name = self.map.name(node);
        let looker = &mut self.links.lookers[node];
        for pid in pids.into_iter().flatten() {
            let sql = statements::blockers(pid);
            if let Ok(reply) = ask(waiter, looker, "look who is in the way", &sql, LOOK_BOUND)
                && let Ok(set) = reply.last_set()
                && !set.rows.is_empty()
            {
                return describe_all(&name, set);
            }
        }
        Vec::new()
    }
}

/// Whether the primaries are those that the split began with.
fn is_roster(reply: &Reply, map: &Map) -> Result<bool, RemoteError> {
    let set = reply.last_set()?;
    let number = |row, column| set.value(row, column).and_then(|text| text.parse::<i32>().ok());
    let there = (0..set.rows.len()).map(|row| (number(row, "nodeid"), number(row, "groupid")));
    let known = map.roster.nodes().iter().filter(|node| node.nodeid != 0);
    let mut known: Vec<_> = known.map(|node| (Some(node.nodeid), Some(node.groupid))).collect();
    known.sort_unstable();
    Ok(there.eq(known))
}

impl Links {
    /// The sessions that hold something in an attempt.
    fn holders(&mut self) -> Vec<&mut Session> {
        let mut sessions: Vec<&mut Session> = self.lines.iter_mut().collect();
        sessions.extend([&mut self.seal, &mut self.drain]);
        sessions
    }

    /// Ends all that an attempt holds, prepared or not; who did not confirm it.
    pub fn let_go<W: Waiter>(&mut self, waiter: &mut W, clone: &Replica) -> Vec<RemoteError> {
        let mut silent = Vec::new();
        let mut sessions = self.holders();
        if sessions.iter().any(|session| session.state() == SessionState::Busy) {
            cancel(&mut sessions);
        }
        let mut open: Vec<&mut Session> = sessions
            .into_iter()
            .filter(|session| session.transaction_status() != TransactionStatus::Idle)
            .collect();
        let by = Deadline::after(waiter, ROLLBACK_BOUND);
        let replies = run_all(waiter, &mut open, |_| Command::new("release", "ROLLBACK"), by);
        silent.extend(replies.into_iter().filter_map(Result::err));
        silent.extend(roll_back_prepared(waiter, &mut self.lookers, clone).err());
        silent
    }
}

/// Rolls back what of ours is prepared, on all at once.
pub fn roll_back_prepared<W: Waiter>(
    waiter: &mut W,
    sessions: &mut [Session],
    clone: &Replica,
) -> Result<(), RemoteError> {
    let mut sessions: Vec<&mut Session> = sessions.iter_mut().collect();
    // A session that was lost in the middle of its PREPARE may still finish it.
    let end = statements::end_leftovers(clone);
    let by = Deadline::after(waiter, SHORT);
    let command = |_| Command::new("end what is left of the split", end.as_str());
    let mut first_error = None;
    for reply in run_all(waiter, &mut sessions, command, by) {
        let ended = reply.and_then(|reply| match reply.single_value()? {
            "0" => Ok(()),
            _ => Err(reply.unexpected("a session of the split does not end")),
        });
        if let Err(error) = ended {
            first_error.get_or_insert(error);
        }
    }
    let look = statements::prepared(clone);
    let by = Deadline::after(waiter, SHORT);
    let command = |_| Command::new("look at what is prepared", look.as_str());
    let replies = run_all(waiter, &mut sessions, command, by);
    for (session, reply) in sessions.into_iter().zip(replies) {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                first_error.get_or_insert(error);
                continue;
            }
        };
        let Ok(set) = reply.last_set() else { continue };
        for gid in set.rows.iter().filter_map(|row| row.first()?.as_deref()) {
            let sql = format!("ROLLBACK PREPARED {}", literal(gid));
            if let Err(error) = ask(waiter, session, "roll back the switch", &sql, SHORT)
                && error.sqlstate() != Some(super::identity::NO_SUCH_GID)
            {
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::bounds;
    use std::time::Duration;

    #[test]
    fn a_split_s_own_work_is_not_taken_from_the_wait_for_writers() {
        let [second, five] = [1, 5].map(Duration::from_secs);
        assert_eq!(bounds(0, five), (second, five));
        assert_eq!(bounds(10_000, five), (second * 11, five + second * 10));
        // A short wait stays one.
        let short = Duration::from_millis(100);
        assert_eq!(bounds(50, short), (short + short / 2, short + short / 2));
    }
}
