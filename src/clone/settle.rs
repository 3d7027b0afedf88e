//! Where a split comes to rest: put back, or finished, whatever is in the way meanwhile.

use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use remote::{Deadline, Pause, Waiter, pause};

use super::driver::Drive;
use super::error::CloneError;
use super::links::{self, Map, connect, connect_clone};
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
        let map = refresh(waiter, clone).and_then(|()| worker::locally(|| Map::read(clone)));
        let tried = map.and_then(|map| match clone.step.way() {
            Way::Start if clone.step == Step::Checked => {
                let mut home = worker::connect_home(waiter)?;
                let (nodeid, from) = (clone.nodeid, clone.step);
                registry::advance(waiter, &mut home, nodeid, from, Step::Registered, "")
            }
            Way::Start | Way::Done => Ok(()),
            Way::Back => match back(waiter, &map, clone) {
                // What a node has committed leads forward, whatever the registry remembers.
                Err(CloneError::Ahead { .. }) if clone.plan.is_some() => {
                    let mut home = worker::connect_home(waiter)?;
                    let (nodeid, from) = (clone.nodeid, clone.step);
                    let mut session = connect_clone(waiter, &map)?;
                    // Its gate is opened when there is nothing left to do there.
                    let to = match identity::is_reserved(waiter, &mut session, clone)? {
                        true => Step::Promoting,
                        false => Step::Committing,
                    };
                    registry::advance(waiter, &mut home, nodeid, from, to, "")?;
                    clone.step = to;
                    Ok(())
                }
                result => result,
            },
            Way::Forward => {
                let map = &map;
                if clone.step < Step::Committing {
                    let mut home = worker::connect_home(waiter)?;
                    let mut session = connect_clone(waiter, map)?;
                    let since = Instant::now();
                    Drive {
                        waiter: &mut *waiter,
                        map,
                        clone: &mut *clone,
                        tell: &mut *tell,
                        since,
                    }
                    .cross(&mut home, &mut session)?;
                }
                if clone.step == Step::Committing {
                    links::commit_where_possible(waiter, map, clone);
                }
                let mut links = links::Links::connect(waiter, map, links::Pace::AtOnce)?;
                let since = Instant::now();
                Drive { waiter: &mut *waiter, map, clone: &mut *clone, tell: &mut *tell, since }
                    .forward(&mut links)
            }
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
fn give_back<W: Waiter>(waiter: &mut W, map: &Map, clone: &Replica) -> Result<(), CloneError> {
    const BOUND: Duration = Duration::from_secs(10);
    const AGAIN: Duration = Duration::from_millis(500);
    let by = Deadline::after(waiter, BOUND);
    loop {
        let error = match connect_clone(waiter, map)
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
pub fn back<W: Waiter>(waiter: &mut W, map: &Map, clone: &mut Replica) -> Result<(), CloneError> {
    links::roll_back_everywhere(waiter, map, clone)?;
    let mut home = connect(waiter, &map.roster.targets()[0])?;
    if clone.former_source_setting.is_some() {
        let mut source = connect(waiter, &map.roster.targets()[map.source])?;
        harmless::give_back_source(waiter, &mut home, &mut source, clone)?;
    }
    let given_back = give_back(waiter, map, clone);
    // What it had before stays written down where it could not be given back: the next split or removal does.
    let forget = match &given_back {
        Ok(()) => ", former_settings = NULL",
        Err(CloneError::GivenUp) => return Err(CloneError::GivenUp),
        Err(_) => "",
    };
    let nodeid = clone.nodeid;
    let forget =
        format!("UPDATE citus_fence.clone SET plan = NULL{forget} WHERE clone_nodeid = {nodeid};");
    registry::advance(waiter, &mut home, nodeid, clone.step, Step::Registered, &forget)?;
    clone.step = Step::Registered;
    clone.plan = None;
    match given_back {
        Ok(()) => clone.former_settings = None,
        Err(error) => {
            let place = clone.place();
            let report = match &error {
                CloneError::Promoted { .. } => Report::from(&error),
                other => Report::new(
                    PgSqlErrorCode::ERRCODE_WARNING,
                    format!("clone {place} stays closed, without its former settings: {other}"),
                )
                .hint(
                    "Both come back with the next split, or when it is removed from the registry.",
                ),
            };
            elog::log(&format!("citus_fence: {}", report.message));
            let sql = entry(nodeid, Kind::Warning, &report);
            registry::write(waiter, &mut home, "line of the journal", &sql)?;
        }
    }
    elog::log(&format!(
        "citus_fence: clone split of node {nodeid}: taken back on {} nodes",
        map.roster.nodes().len()
    ));
    Ok(())
}
