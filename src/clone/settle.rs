//! Where a split comes to rest: put back, or finished, whatever is in the way meanwhile.

use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use remote::{Deadline, Pause, Session, Target, Waiter, pause};

use super::driver::Drive;
use super::error::CloneError;
use super::ground::{Ground, Part};
use super::links::{self, Ends, connect, connect_clone};
use super::registry::{self, Kind, Replica, entry};
use super::state::{Step, Way};
use super::{harmless, identity, worker};
use crate::pg::elog;
use crate::pg::quote::literal;
use crate::pg::wait::BackendWaiter;
use crate::report::Report;

/// Goes on with an interrupted split until it is where it can rest: as before, or done.  Whatever is in the way is
/// written down and tried again.
///
/// Nodes may move meanwhile, so they are read anew each time.
pub fn settle<W: Waiter>(
    waiter: &mut W,
    clone: &mut Replica,
    tell: &mut dyn FnMut(),
) -> Result<(), CloneError> {
    const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
    let mut backoff = BACKOFF.0;
    loop {
        let ground = refresh(waiter, clone).and_then(|()| worker::locally(|| Ground::read(clone)));
        let tried = ground.and_then(|mut ground| match clone.step.way() {
            Way::Start if clone.step == Step::Checked => {
                let mut home = worker::connect_home(waiter)?;
                let (nodeid, from) = (clone.nodeid, clone.step);
                registry::advance(waiter, &mut home, nodeid, from, Step::Registered, "")
            }
            Way::Start | Way::Done => Ok(()),
            Way::Back => match back(waiter, &ground, clone) {
                // What a node has committed leads forward, whatever the registry remembers.
                Err(CloneError::Ahead { .. }) if clone.plan.is_some() => {
                    let mut home = worker::connect_home(waiter)?;
                    let (nodeid, from) = (clone.nodeid, clone.step);
                    let to = match &ground.clone {
                        Part::Needed(at) | Part::Inactive(at) => {
                            let mut session = connect_clone(waiter, at)?;
                            // Its gate is opened when there is nothing left to do there.
                            match identity::is_reserved(waiter, &mut session, clone)? {
                                true => Step::Promoting,
                                false => Step::Committing,
                            }
                        }
                        Part::LeftOut | Part::Gone => Step::Committing,
                    };
                    registry::advance(waiter, &mut home, nodeid, from, to, "")?;
                    clone.step = to;
                    Ok(())
                }
                result => result,
            },
            Way::Forward => finish(waiter, &mut ground, clone, tell),
        });
        let error = match tried {
            Ok(()) if clone.step.way() != Way::Forward => return Ok(()),
            Ok(()) => continue,
            // Nothing stops this but the end of the worker.
            Err(CloneError::GivenUp) => return Err(interrupted(clone)),
            Err(error) => error,
        };
        note_trouble(clone.nodeid, &error);
        tell();
        if pause(waiter, backoff) == Pause::Stopped {
            return Err(interrupted(clone));
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Goes forward as far as that is possible now, with whoever has a part in it.
fn finish<W: Waiter>(
    waiter: &mut W,
    ground: &mut Ground,
    clone: &mut Replica,
    tell: &mut dyn FnMut(),
) -> Result<(), CloneError> {
    let mut home = worker::connect_home(waiter)?;
    let mut session = match clone.step < Step::Committing {
        true => meet(waiter, &ground.clone, links::connect_clone)?,
        false => None,
    };
    if let Some(session) = &mut session {
        let since = Instant::now();
        let map = &*ground;
        Drive { waiter: &mut *waiter, map, clone: &mut *clone, tell: &mut *tell, since }
            .cross(&mut home, session)?;
    }
    let mut lines = Vec::new();
    if clone.step == Step::Committing {
        ground.silent = links::commit_where_possible(waiter, ground, clone);
        if !ground.clone_is_node && identity::had_switched(waiter, &mut home, clone)? {
            ground.clone = Part::Gone;
        }
        lines = links::connect_lines(waiter, ground)?;
    }
    // From `released` on the other nodes have no part in it.
    let mut source = meet(waiter, &ground.source, links::connect)?;
    if session.is_none() {
        session = meet(waiter, &ground.clone, links::connect_clone)?;
    }
    for session in [&mut source, &mut session].into_iter().flatten() {
        links::must_be(waiter, &ground.roster, session)?;
    }
    let mut ends = Ends {
        home: &mut home,
        lines: lines.iter_mut().collect(),
        source: source.as_mut(),
        clone: session.as_mut(),
    };
    let since = Instant::now();
    Drive { waiter, map: &*ground, clone, tell, since }.forward(&mut ends)
}

/// A session with source or clone, where one is needed or to be had.
fn meet<W: Waiter>(
    waiter: &mut W,
    part: &Part,
    connect: impl FnOnce(&mut W, &Target) -> Result<Session, CloneError>,
) -> Result<Option<Session>, CloneError> {
    match part {
        Part::Needed(at) => connect(waiter, at).map(Some),
        Part::Inactive(at) => match connect(waiter, at) {
            Err(CloneError::GivenUp) => Err(CloneError::GivenUp),
            result => Ok(result.ok()),
        },
        Part::LeftOut | Part::Gone => Ok(None),
    }
}

/// Reads again where the registry has the clone: what this process remembers may not have got there, and an operator may
/// have given the split up.
fn refresh<W: Waiter>(waiter: &mut W, clone: &mut Replica) -> Result<(), CloneError> {
    let mut home = worker::connect_home(waiter)?;
    if let Some(now) = registry::find(waiter, &mut home, clone.nodeid)? {
        *clone = now;
    }
    Ok(())
}

fn interrupted(clone: &Replica) -> CloneError {
    CloneError::Interrupted { nodeid: clone.nodeid, step: clone.step }
}

/// Writes down what is in the way, for whoever looks; where even that fails, the log has it.
fn note_trouble(nodeid: i32, error: &CloneError) {
    let report = Report::from(error);
    elog::log(&format!(
        "citus_fence: clone split of node {nodeid} cannot go on yet: {}{}",
        report.message,
        report.detail.as_deref().map_or(String::new(), |detail| format!(" ({detail})"))
    ));
    note(nodeid, Kind::Trouble, &report);
}

/// Writes down how a split ended, or what is in its way, over a session of its own.
pub fn note(nodeid: i32, kind: Kind, report: &Report) {
    let mut waiter = BackendWaiter::new(|| false);
    let sql = format!(
        "UPDATE citus_fence.clone SET last_error = {} WHERE clone_nodeid = {nodeid}; {}",
        literal(&report.message),
        entry(nodeid, kind, report)
    );
    let written = worker::connect_home(&mut waiter)
        .and_then(|mut home| registry::write(&mut waiter, &mut home, "line of the journal", &sql));
    if let Err(error) = written {
        elog::log(&format!("citus_fence: the journal of clone splits cannot be written: {error}"));
    }
}

/// Gives the clone back what it had.  Nobody waits for that but the caller, so one that is cut off for a moment is given it.
fn give_back<W: Waiter>(
    waiter: &mut W,
    ground: &Ground,
    clone: &Replica,
) -> Result<(), CloneError> {
    const BOUND: Duration = Duration::from_secs(10);
    const AGAIN: Duration = Duration::from_millis(500);
    let (Part::Needed(at) | Part::Inactive(at)) = &ground.clone else { return Ok(()) };
    let by = Deadline::after(waiter, BOUND);
    loop {
        let error = match connect_clone(waiter, at)
            .and_then(|mut session| harmless::give_back(waiter, &mut session, clone))
        {
            Err(error @ CloneError::Fence(_)) if !by.expired(waiter) => error,
            result => return result,
        };
        if pause(waiter, AGAIN) == Pause::Stopped {
            return Err(error);
        }
    }
}

/// Puts everything back that was done before the promotion; can be done again.
///
/// The nodes first, each by itself, for writers wait there: a node that does not answer, or a clone that is gone for good,
/// must not keep the others' waiting.
pub fn back<W: Waiter>(
    waiter: &mut W,
    ground: &Ground,
    clone: &mut Replica,
) -> Result<(), CloneError> {
    // One that is left out may be the only one that has committed, where the registry has come with a standby that lagged: the
    // clone was opened before that.
    if !ground.left_out.is_empty()
        && let Part::Needed(at) | Part::Inactive(at) = &ground.clone
        && let Ok(mut session) = connect_clone(waiter, at)
        && identity::is_open_node(waiter, &mut session, clone)?
    {
        let (node, nodeid) = (clone.place(), clone.nodeid);
        return Err(CloneError::Ahead { node, nodeid });
    }
    links::roll_back_everywhere(waiter, ground, clone)?;
    let mut home = connect(waiter, &ground.roster.targets()[0])?;
    let mut warnings = Vec::new();
    let mut forget = ", left_out = '{}'".to_owned();
    if clone.former_source_setting.is_some() {
        match meet(waiter, &ground.source, links::connect)? {
            Some(mut source) => {
                links::must_be(waiter, &ground.roster, &mut source)?;
                harmless::give_back_source(waiter, &mut home, &mut source, clone)?;
            }
            None => {
                if matches!(ground.source, Part::Gone) {
                    forget.push_str(", former_source_setting = NULL");
                }
                let name = super::statements::FAST_PATH;
                let (message, sqlstate) = (
                    format!("{name} is not given back on node {}, the source", clone.source),
                    PgSqlErrorCode::ERRCODE_WARNING,
                );
                let hint = format!("Should it be there again, on it: ALTER SYSTEM RESET {name};");
                warnings.push(Report::new(sqlstate, message).hint(hint));
            }
        }
    }
    for node in &ground.left_out {
        let message = format!("the split is taken back without {node}, which is left out");
        let hint = format!(
            "Should that server be started again, before anybody uses it, on it, where pg_prepared_xacts has them: ROLLBACK PREPARED {}; and ROLLBACK PREPARED {};",
            literal(&clone.switch_gid()),
            literal(&clone.seal_gid())
        );
        warnings.push(Report::new(PgSqlErrorCode::ERRCODE_WARNING, message).hint(hint));
    }
    let given_back = give_back(waiter, ground, clone);
    // What it had before stays written down where it could not be given back: the next split or removal does.
    match &given_back {
        Ok(()) => forget.push_str(", former_settings = NULL"),
        Err(CloneError::GivenUp) => return Err(CloneError::GivenUp),
        Err(_) => {}
    }
    let nodeid = clone.nodeid;
    if let Err(error) = &given_back {
        let place = clone.place();
        warnings.push(match error {
            CloneError::Promoted { .. } => Report::from(error),
            other => Report::new(
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("clone {place} stays closed, without its former settings: {other}"),
            )
            .hint("Both come back with the next split, or when it is removed from the registry."),
        });
    }
    let mut besides =
        format!("UPDATE citus_fence.clone SET plan = NULL{forget} WHERE clone_nodeid = {nodeid};");
    for report in &warnings {
        elog::log(&format!("citus_fence: {}", report.message));
        besides.push_str(&entry(nodeid, Kind::Warning, report));
        besides.push(';');
    }
    registry::advance(waiter, &mut home, nodeid, clone.step, Step::Registered, &besides)?;
    clone.step = Step::Registered;
    clone.plan = None;
    clone.left_out.clear();
    if given_back.is_ok() {
        clone.former_settings = None;
    }
    elog::log(&format!(
        "citus_fence: clone split of node {nodeid}: taken back on {} nodes",
        ground.roster.nodes().len()
    ));
    Ok(())
}
