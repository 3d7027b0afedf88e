//! From the promotion to the end of a split, whatever has become of its nodes meanwhile ([`super::ground`]).

use std::time::Duration;

use pgrx::PgSqlErrorCode;
use remote::{Command, Deadline, Session, Waiter, run_all};

use super::driver::Drive;
use super::error::CloneError;
use super::ground::{Ground, Part};
use super::links::{Ends, SHORT, ask};
use super::registry::{Kind, Plan, entry};
use super::state::Step;
use super::{harmless, identity, statements};
use crate::pg::elog;
use crate::pg::quote::literal;
use crate::report::Report;

/// How long a checkpoint of the promoted clone may take.
const CHECKPOINT_BOUND: Duration = Duration::from_secs(1_800);
/// No node has this group.
const NO_GROUP: i32 = -1;

impl<W: Waiter> Drive<'_, W, Ground> {
    fn plan(&self, home: &Session) -> Result<Plan, CloneError> {
        self.clone.plan.clone().ok_or_else(|| CloneError::Lost {
            node: home.node().to_string(),
            nodeid: self.clone.nodeid,
            what: "the plan in the registry".into(),
        })
    }

    fn is_of_coordinator(&self) -> bool {
        self.map.source_group == Some(crate::citus::COORDINATOR_GROUP)
    }

    /// From the promotion to where the nodes take the new metadata.  It has to do with the clone alone: a node that is
    /// gone is not to keep the others' writers waiting, nor its own new address from being written down.
    pub fn cross(&mut self, home: &mut Session, session: &mut Session) -> Result<(), CloneError> {
        if self.clone.step == Step::Promoting {
            let fork = identity::promote(self.waiter, session, self.clone)?;
            self.clone.has_forked = fork.is_some();
            let note = fork.map_or_else(String::new, |fork| fork.note(self.clone.nodeid));
            self.advance(home, Step::Promoted, &note)?;
        }
        if self.clone.step == Step::Promoted {
            let plan = self.plan(home)?;
            let left = identity::become_itself(
                self.waiter,
                session,
                self.clone,
                &plan,
                self.map.roster.is_citus(),
                self.is_of_coordinator(),
            )?;
            self.advance(home, Step::Committing, "")?;
            if !left.is_empty() {
                let message = format!("the clone has inherited: {}", left.join("; "));
                self.say(home, Kind::Warning, &message)?;
            }
        }
        Ok(())
    }

    /// From the promotion to the end, from whichever step of it.
    pub fn forward(&mut self, ends: &mut Ends<'_>) -> Result<(), CloneError> {
        let plan = self.plan(ends.home)?;
        if let Some(session) = ends.clone.as_deref_mut() {
            self.cross(ends.home, session)?;
        }
        if self.clone.step == Step::Committing {
            if let Some(session) = ends.clone.as_deref_mut() {
                harmless::open_gate(self.waiter, session, self.clone)?;
            }
            self.commit(ends, &plan)?;
            // At once: without its search for deadlocks writers of that node wait for each other for ever.
            if let Some(session) = ends.clone.as_deref_mut() {
                harmless::give_back_settings(self.waiter, session, self.clone)?;
            }
            let besides = self.warn_of_silent();
            self.advance(ends.home, Step::Released, &besides)?;
            let count = plan.moving.len();
            let message = format!(
                "writers go on: clone {} is node {} with {count} shards",
                self.clone.place(),
                self.clone.nodeid
            );
            self.say(ends.home, Kind::Notice, &message)?;
        }
        if self.clone.step == Step::Released {
            self.tidy(ends, &plan)?;
        }
        Ok(())
    }

    /// Commits the switch on all nodes at once, and the seal after them: what comes to the old place without a lock
    /// waits until then, and is refused.
    ///
    /// Where the source is not there, its seal stays as it is: prepared, and it keeps everybody off the old tables.
    fn commit(&mut self, ends: &mut Ends<'_>, plan: &Plan) -> Result<(), CloneError> {
        let switch = self.clone.switch_gid();
        let sql = format!("COMMIT PREPARED {}", literal(&switch));
        let by = Deadline::after(self.waiter, SHORT);
        let command = |_| Command::new("commit the switch", sql.as_str());
        let replies = run_all(self.waiter, &mut ends.lines, command, by);
        // Then the coordinator has no row of it, and nothing that moves would show that it had one.
        let nothing_to_see = plan.moving.is_empty() && matches!(self.map.clone, Part::Gone);
        for (session, reply) in ends.lines.iter_mut().zip(replies) {
            match reply {
                Ok(_) => {}
                Err(error) if error.sqlstate() == Some(identity::NO_SUCH_GID) => {
                    if !nothing_to_see {
                        let node = error.node().to_string();
                        identity::require_switched(self.waiter, session, self.clone, node)?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(source) = ends.source.as_deref_mut() else { return Ok(()) };
        let seal = format!("COMMIT PREPARED {}", literal(&self.clone.seal_gid()));
        match ask(self.waiter, source, "commit the seal", &seal, SHORT) {
            Ok(_) => Ok(()),
            // It was committed before, if it is there.
            Err(error) if error.sqlstate() == Some(identity::NO_SUCH_GID) => {
                let is_citus = self.map.roster.is_citus();
                let sql = statements::query_shards(is_citus, &statements::sealed(plan));
                let reply = ask(self.waiter, source, "look for the seal", &sql, SHORT)?;
                if reply.parse_single::<usize>()? == plan.moving_names.len() {
                    return Ok(());
                }
                let node = error.node().to_string();
                Err(CloneError::Lost {
                    node,
                    nodeid: self.clone.nodeid,
                    what: self.clone.seal_gid(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is left to do when the writers go on.
    fn tidy(&mut self, ends: &mut Ends<'_>, plan: &Plan) -> Result<(), CloneError> {
        if let Some(source) = ends.source.as_deref_mut() {
            harmless::give_back_source(self.waiter, ends.home, source, self.clone)?;
        }
        if let Some(clone) = ends.clone.as_deref_mut() {
            // Until then the clone's control file names the old timeline, which misleads tools that look at it.
            ask(self.waiter, clone, "checkpoint", "CHECKPOINT", CHECKPOINT_BOUND)?;
            let sql = statements::write(statements::DROP_SYNCHRONIZED);
            let dropped = ask(self.waiter, clone, "drop slots of the source", &sql, SHORT)?;
            let slots = &dropped.last_set()?.rows;
            let slots: Vec<&str> = slots.iter().filter_map(|row| row.first()?.as_deref()).collect();
            if !slots.is_empty() {
                let message = format!(
                    "logical slots that the clone had from its source are dropped: {}",
                    slots.join(", ")
                );
                self.say(ends.home, Kind::Warning, &message)?;
            }
        }
        if self.map.roster.is_citus() && self.is_of_coordinator() {
            self.warn_of_tables_left(ends)?;
        }
        let slot_left = self.drop_slot(ends)?;
        let (nodeid, place) = (self.clone.nodeid, self.clone.place());
        let well = PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION;
        let message = self.what_is_cleaned(ends, plan, slot_left.is_some());
        let cleaned = Report::new(well, message);
        let done = Report::new(well, format!("clone {place} is node {nodeid} of group {}", plan.group))
            .hint("Run ANALYZE on it, give it a backup of its own, which has to be a full one, and a standby.");
        // Where a node that had committed led forward, the registry has not seen the promotion.
        let fork = match ends.clone.as_deref_mut().filter(|_| !self.clone.has_forked) {
            Some(session) => identity::fork(self.waiter, session)?,
            None => None,
        };
        let fork = fork.map_or_else(String::new, |fork| fork.note(nodeid));
        let undone: Vec<String> = self
            .undone(ends, plan)
            .iter()
            .chain(&slot_left)
            .map(|report| {
                elog::log(&format!(
                    "citus_fence: clone split of node {nodeid}: {}",
                    report.message
                ));
                entry(nodeid, Kind::Warning, report) + ";"
            })
            .collect();
        let source_group = self.map.source_group.unwrap_or(NO_GROUP);
        let clone_is_lost = matches!(self.map.clone, Part::LeftOut);
        // With the step, in one transaction: what is dropped, and that it is done, is written down once.
        let besides = format!(
            "{fork}{}{}{}; {}",
            statements::clean_up(plan, source_group, clone_is_lost),
            undone.concat(),
            entry(nodeid, Kind::Notice, &cleaned),
            entry(nodeid, Kind::Done, &done)
        );
        self.advance(ends.home, Step::Cleaned, &besides)?;
        elog::log(&format!("citus_fence: clone split of node {nodeid}: {}", cleaned.message));
        (self.tell)();
        Ok(())
    }

    /// Drops the slot that the clone has streamed from.  Its walsender may not have noticed yet that the clone is gone:
    /// then another attempt drops it.  One that is in use for longer than any such walsender lives is somebody else's by
    /// now, and that is said; a split does not wait for him.
    fn drop_slot(&mut self, ends: &mut Ends<'_>) -> Result<Option<Report>, CloneError> {
        let (Some(slot), Some(source)) = (&self.clone.slot, ends.source.as_deref_mut()) else {
            return Ok(None);
        };
        let error =
            match ask(self.waiter, source, "drop the slot", &statements::drop_slot(slot), SHORT) {
                Ok(_) => return Ok(None),
                Err(error) if error.sqlstate() == Some(identity::IN_USE) => error,
                Err(error) => return Err(error.into()),
            };
        let what = "ask how long a walsender may live";
        let reply = ask(self.waiter, source, what, &statements::walsender_life(), SHORT)?;
        let life: u32 = reply.parse_single()?;
        let over = statements::released_for(self.clone.nodeid, life);
        let reply = ask(self.waiter, ends.home, "look how old the release is", &over, SHORT)?;
        if reply.single_value()? != "t" {
            return Err(error.into());
        }
        let message = format!(
            "replication slot \"{slot}\" on {}, which the clone streamed from, is left there: it is still in use {life} s after the clone has become a node",
            source.node()
        );
        let hint = format!(
            "If nobody needs it, end whoever uses it (pg_replication_slots.active_pid), and there: SELECT pg_drop_replication_slot({});",
            literal(slot)
        );
        Ok(Some(Report::new(PgSqlErrorCode::ERRCODE_WARNING, message).hint(hint)))
    }

    fn what_is_cleaned(&self, ends: &Ends<'_>, plan: &Plan, slot_is_left: bool) -> String {
        let ms = self.since.elapsed().as_secs_f64() * 1e3;
        let moved = match (&self.map.source, &self.map.clone) {
            (Part::Gone, _) | (_, Part::LeftOut) => 0,
            _ => plan.moving_names.len(),
        };
        let stayed = match self.map.clone {
            Part::Gone => 0,
            _ => plan.staying_names.len(),
        };
        let slot = match ends.source {
            Some(_) if slot_is_left => "and the replication slot is left, as it is in use",
            Some(_) => "and the replication slot is dropped",
            None => "and nothing is done at the source",
        };
        let orphans = moved + stayed;
        format!(
            "cleaned: {orphans} orphaned shards are left to Citus' clean-up, {slot} ({ms:.0} ms)"
        )
    }

    /// What no clean-up of Citus' knows: whether a copy is wanted there is not for the split to say.
    fn warn_of_tables_left(&mut self, ends: &mut Ends<'_>) -> Result<(), CloneError> {
        let Some(session) = ends.clone.as_deref_mut() else { return Ok(()) };
        let sql = statements::query_shards(true, statements::OF_COORDINATOR);
        let what = "look for tables of the coordinator's own";
        let reply = ask(self.waiter, session, what, &sql, SHORT)?;
        let set = reply.last_set()?;
        let Some(names) = set.value(0, "names") else { return Ok(()) };
        let message = format!(
            "{} tables that the coordinator alone has are on the clone as they were, in the way of tables of the same names; drop them there: {names}",
            set.value(0, "count").unwrap_or_default()
        );
        self.say(ends.home, Kind::Warning, &message)
    }

    /// Warnings of inactive nodes that may have the switch prepared still, as SQL; source and clone are told of at the end.
    fn warn_of_silent(&self) -> String {
        let own = [Some(self.clone.source), Some(self.clone.nodeid)];
        let others = self.map.silent.iter().filter(|node| !own.contains(&node.nodeid));
        let warnings = others.map(|node| {
            let place = format!("node {}, {node}", node.nodeid.unwrap_or_default());
            let report = self.without(&place, "is inactive and does not answer", false);
            entry(self.clone.nodeid, Kind::Warning, &report) + ";"
        });
        warnings.collect()
    }

    /// What is left undone on nodes that had no part in the end, for whoever brings them back.
    fn undone(&self, ends: &Ends<'_>, plan: &Plan) -> Vec<Report> {
        let mut all = Vec::new();
        for node in &self.map.left_out {
            let nodeid = node.nodeid.unwrap_or_default();
            if nodeid != self.clone.nodeid {
                let place = format!("node {nodeid}, {node}");
                let is_source = nodeid == self.clone.source;
                all.push(self.without(&place, "is left out", is_source));
            }
        }
        if ends.source.is_none() {
            let place = format!("node {}, {}", self.clone.source, plan.source_place);
            match self.map.source {
                Part::Gone => all.push(self.without(&place, "is no longer in pg_dist_node", true)),
                Part::Inactive(_) => {
                    all.push(self.without(&place, "is inactive and does not answer", true));
                }
                Part::Needed(_) | Part::LeftOut => {}
            }
        }
        if ends.clone.is_none() {
            let (nodeid, count) = (self.clone.nodeid, plan.moving_names.len());
            let report = Report::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!(
                    "the split is finished without its clone, node {nodeid}: of the {count} tables that have moved, those whose shards no other node has stay at the source, closed, as they were when they moved"
                ),
            );
            all.push(report.hint(format!(
                "See the page on the clone split, \"A node that is lost for good\". Should it be there again, as a node, on it: SELECT citus_fence.release_node_by_force({nodeid}); and ALTER SYSTEM RESET of what postgresql.auto.conf has of Citus."
            )));
        }
        all
    }

    /// That the split is finished without a node, and what is to be done there before it is used again.
    fn without(&self, place: &str, why: &str, is_source: bool) -> Report {
        let message = format!("the split is finished without {place}, which {why}");
        let mut first = format!(
            "Should that server be started again, before anybody uses it, on it, where pg_prepared_xacts has them: COMMIT PREPARED {};",
            literal(&self.clone.switch_gid())
        );
        if is_source {
            first.push_str(&format!(
                " and then COMMIT PREPARED {};",
                literal(&self.clone.seal_gid())
            ));
            if let Some(slot) = &self.clone.slot {
                first
                    .push_str(&format!(" and SELECT pg_drop_replication_slot({});", literal(slot)));
            }
            if let Some(former) = &self.clone.former_source_setting {
                let name = statements::FAST_PATH;
                first.push_str(&match former {
                    Some(value) => format!(" ALTER SYSTEM SET {name} = {};", literal(value)),
                    None => format!(" ALTER SYSTEM RESET {name};"),
                });
            }
        }
        Report::new(PgSqlErrorCode::ERRCODE_WARNING, message).hint(first)
    }
}
