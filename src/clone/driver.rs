//! Drives a split from step to step, up to the promotion; [`super::finish`] goes on from there.
//!
//! What is done can be undone up to the promotion, and then only finished; [`super::state`] has the picture.  Before each step the
//! registry says that it begins.

use std::time::{Duration, Instant};

use pgrx::PgSqlErrorCode;
use remote::{Deadline, Pause, Session, Waiter, pause};

use super::checks;
use super::error::CloneError;
use super::fault::Fault;
use super::harmless;
use super::hold::{self, Attempts};
use super::identity;
use super::inventory::Inventory;
use super::lag::lag;
use super::links::{Links, Map, SHORT, ask, connect};
use super::reach;
use super::registry::{self, Kind, Plan, Replica, entry};
use super::state::Step;
use super::statements::{self, query};
use crate::fence::retry::{GaveUp, Limit, until_held};
use crate::fence::under_way;
use crate::pg::elog;
use crate::pg::quote::literal;
use crate::pg::worker;
use crate::report::Report;

/// A clone this close to its source catches up in a moment.
const NEAR_BYTES: i64 = 16 * 1024 * 1024;
/// How often is looked how near it is.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How soon a clone that is near replays what its source writes.
const NEAR_TIME: Duration = Duration::from_secs(1);
/// How long the nodes may take to finish what is in doubt before anybody is held.
const RECOVERY_BOUND: Duration = Duration::from_secs(5);

/// A split that is driven: from its start, or only to its end.
pub struct Drive<'a, W: Waiter, P> {
    /// Waits until the call is given up, or for ever.
    pub waiter: &'a mut W,
    /// Who takes part.
    pub map: &'a P,
    /// The clone, as the registry has it.
    pub clone: &'a mut Replica,
    /// Is told of each line of the journal.
    pub tell: &'a mut dyn FnMut(),
    /// When the last step began.
    pub since: Instant,
}

impl<W: Waiter, P> Drive<'_, W, P> {
    /// Writes down that a step begins.
    pub fn advance(
        &mut self,
        home: &mut Session,
        step: Step,
        besides: &str,
    ) -> Result<(), CloneError> {
        let (nodeid, from) = (self.clone.nodeid, self.clone.step);
        registry::advance(self.waiter, home, nodeid, from, step, besides)?;
        self.clone.step = step;
        worker::report_activity(&format!(
            "citus_fence clone split of node {}: {}",
            self.clone.nodeid,
            step.name()
        ));
        Ok(())
    }

    /// A line of the journal, with the time since the last one.
    pub fn say(&mut self, home: &mut Session, kind: Kind, message: &str) -> Result<(), CloneError> {
        let sql = self.line(kind, message);
        registry::write(self.waiter, home, "line of the journal", &sql)?;
        (self.tell)();
        Ok(())
    }

    /// The same as SQL, to be written with something else: while writers wait every note costs them.
    pub fn line(&mut self, kind: Kind, message: &str) -> String {
        let ms = self.since.elapsed().as_secs_f64() * 1e3;
        self.since = Instant::now();
        let sqlstate = match kind {
            Kind::Warning => PgSqlErrorCode::ERRCODE_WARNING,
            Kind::Notice | Kind::Trouble | Kind::Error | Kind::Done => {
                PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION
            }
        };
        let step = self.clone.step.name();
        let report = Report::new(sqlstate, format!("{step}: {message} ({ms:.0} ms)"));
        let nodeid = self.clone.nodeid;
        elog::log(&format!("citus_fence: clone split of node {nodeid}: {}", report.message));
        entry(nodeid, kind, &report)
    }
}

impl<W: Waiter> Drive<'_, W, Map> {
    /// From the start to the promotion.  After an error, go [`back`].
    pub fn start(&mut self, links: &mut Links) -> Result<(), CloneError> {
        self.advance(&mut links.home, Step::Checked, "")?;
        check(self.waiter, self.map, links, self.clone)?;
        let moving = self.weigh(links)?.moving().len();
        let message =
            format!("clone {} is fit: {moving} shards are to move to it", self.clone.place());
        self.say(&mut links.home, Kind::Notice, &message)?;

        self.warn_of_logical_slots(links)?;
        let group: i32 = ask(
            self.waiter,
            &mut links.home,
            "draw a node group",
            &statements::write("SELECT nextval('pg_dist_groupid_seq')"),
            SHORT,
        )?
        .parse_single()?;
        self.advance(&mut links.home, Step::Near, "")?;
        // From here on others see this one; who has begun since the call looked is seen here.
        if let Some(other) = under_way::look_but(super::OPERATION) {
            return Err(CloneError::UnderWay(other));
        }
        let Links { home, clone: session, .. } = links;
        harmless::make_harmless(self.waiter, self.map, home, session, self.clone)?;
        let catch_up = Duration::from_secs(u64::from(self.clone.terms.catchup_timeout_s));
        let near_by = Deadline::after(self.waiter, catch_up);
        self.come_near(links, near_by)?;
        self.say(&mut links.home, Kind::Notice, "the clone is near its source")?;

        let Links { home, lines, .. } = links;
        harmless::calm_source(self.waiter, home, &mut lines[self.map.source], self.clone)?;
        // Anew: to come near may have taken a while.
        let inventory = self.weigh(links)?;
        self.advance(&mut links.home, Step::Prepared, "")?;
        let (plan, held_at, line) = self.hold(links, &inventory, group)?;
        links.renew_lines(self.waiter, self.map)?;
        // The plan is written down before anything goes forward by it.
        let text = serde_json::to_string(&plan).unwrap_or_default();
        let note = format!(
            "UPDATE citus_fence.clone SET plan = {}::jsonb WHERE clone_nodeid = {}; {line}",
            literal(&text),
            self.clone.nodeid
        );
        self.advance(&mut links.home, Step::CaughtUp, &note)?;
        (self.tell)();
        self.clone.plan = Some(plan);
        let target = identity::target(self.waiter, self.source_line(links))?;
        // Writers wait for this one.
        let lag_by = Deadline::after(self.waiter, HELD_CATCH_UP);
        if !identity::replayed(self.waiter, &mut links.clone, &target, lag_by)? {
            return Err(self.behind(links, HELD_CATCH_UP.as_secs(), "while writers waited"));
        }
        let message = format!(
            "writers are held, and the clone has all they wrote, after {:.0} ms",
            held_at.elapsed().as_secs_f64() * 1e3
        );
        let line = self.line(Kind::Notice, &message);
        // The last thing that can fail, or be given up, on this side of the promotion.
        self.advance(&mut links.home, Step::Promoting, &line)?;
        (self.tell)();
        Ok(())
    }

    fn warn_of_logical_slots(&mut self, links: &mut Links) -> Result<(), CloneError> {
        let sql = query(statements::LOGICAL_SLOTS);
        let source = self.source_line(links);
        let reply = ask(self.waiter, source, "look at the logical slots", &sql, SHORT)?;
        let Some(names) = reply.last_set()?.value(0, "names").map(str::to_owned) else {
            return Ok(());
        };
        let message = format!(
            "logical slots of {} do not see the moved shards any more: {names}",
            self.map.name(self.map.source)
        );
        self.say(&mut links.home, Kind::Warning, &message)
    }

    fn source_line<'l>(&self, links: &'l mut Links) -> &'l mut Session {
        &mut links.lines[self.map.source]
    }

    fn weigh(&mut self, links: &mut Links) -> Result<Inventory, CloneError> {
        let strategy = self.clone.terms.strategy.as_deref();
        Inventory::weigh(self.waiter, &mut links.home, self.map, strategy)
    }

    /// Waits until the clone lags little, and replays what comes: however little that is, writers would wait for one
    /// whose replay stands still.
    fn come_near(&mut self, links: &mut Links, by: Deadline) -> Result<(), CloneError> {
        loop {
            if lag(self.waiter, self.map, links)?.is_some_and(|bytes| bytes <= NEAR_BYTES) {
                let target = identity::target(self.waiter, self.source_line(links))?;
                let soon = Deadline::after(self.waiter, NEAR_TIME);
                if identity::replayed(self.waiter, &mut links.clone, &target, soon)? {
                    return Ok(());
                }
            }
            if by.expired(self.waiter) {
                let patience = u64::from(self.clone.terms.catchup_timeout_s);
                return Err(self.behind(links, patience, "while writers went on"));
            }
            if pause(self.waiter, LOOK_AGAIN) == Pause::Stopped {
                return Err(CloneError::GivenUp);
            }
        }
    }

    fn behind(&mut self, links: &mut Links, after_s: u64, when: &str) -> CloneError {
        let lag = match lag(self.waiter, self.map, links) {
            Ok(Some(bytes)) => format!("{bytes} bytes behind, {when}"),
            Ok(None) | Err(_) => format!("behind by an unknown amount, {when}"),
        };
        CloneError::Behind { clone: self.clone.place(), after_s, lag }
    }

    /// Holds the writers, and prepares the switch; when the attempt that did began to hold, and the journal's line.
    fn hold(
        &mut self,
        links: &mut Links,
        inventory: &Inventory,
        group: i32,
    ) -> Result<(Plan, Instant, String), CloneError> {
        let terms = &self.clone.terms;
        let limit = Limit::from_now(
            self.waiter,
            Duration::from_millis(u64::from(terms.acquire_timeout_ms)),
        );
        let longest_wait = Duration::from_millis(u64::from(terms.lock_timeout_ms));
        let (bound, longest) = hold::bounds(inventory.moving().len(), longest_wait);
        links.finish_in_doubt(self.waiter, RECOVERY_BOUND)?;
        let mut attempts = Attempts {
            map: self.map,
            links,
            clone: self.clone,
            group,
            weighed: inventory,
            bound,
            longest,
            lasted: Duration::ZERO,
        };
        let why = match until_held(self.waiter, &mut attempts, limit) {
            Ok(held) => {
                let lasted = attempts.lasted;
                let held_at = Instant::now().checked_sub(lasted).unwrap_or_else(Instant::now);
                let message = format!(
                    "writers of {} shards are held, and the switch is prepared, with attempt {} after {:.0} ms",
                    held.what.moving.len(),
                    held.attempts,
                    lasted.as_secs_f64() * 1e3
                );
                let line = self.line(Kind::Notice, &message);
                return Ok((held.what, held_at, line));
            }
            Err(why) => why,
        };
        Err(match why {
            GaveUp::Stopped => CloneError::GivenUp,
            GaveUp::NotHeld(reason) => CloneError::InTheWay { after_ms: limit.ms(), reason },
            GaveUp::TooLittleTime(error) => error.into(),
            GaveUp::ForGood(error) => CloneError::Fence(error),
        })
    }
}

/// Longest time that writers wait for the clone.
const HELD_CATCH_UP: Duration = Duration::from_secs(10);

/// Looks whether clone, source and cluster are fit.
pub fn check<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    links: &mut Links,
    clone: &mut Replica,
) -> Result<(), CloneError> {
    let is_citus = map.roster.is_citus();
    let slot = look_at_both(
        waiter,
        map,
        &mut links.lines[map.source],
        &mut links.clone,
        (&clone.host, clone.port),
    )?;
    if slot != clone.slot {
        let text = slot.as_deref().map_or("NULL".to_owned(), literal);
        let sql = format!(
            "UPDATE citus_fence.clone SET slot_name = {text} WHERE clone_nodeid = {}",
            clone.nodeid
        );
        registry::write(waiter, &mut links.home, "note of the slot", &sql)?;
        clone.slot = slot;
    }
    for index in 0..links.lines.len() {
        let sql = query("SELECT current_setting('max_prepared_transactions')");
        let reply = ask(waiter, &mut links.lines[index], "look at a setting", &sql, SHORT)?;
        if reply.parse_single::<i64>()? < 2 {
            return Err(CloneError::unfit(Fault::NoPrepared { place: map.name(index) }));
        }
        let sql = query("SELECT state FROM citus_fence.node_gate()");
        let reply = ask(waiter, &mut links.lines[index], "look at the gate", &sql, SHORT)?;
        let state = reply.single_value()?.to_owned();
        if state != "read-write" {
            return Err(CloneError::NodeClosed { place: map.name(index), state });
        }
    }
    all_are_told(waiter, map, &mut links.home)?;
    let place = (&*clone.host, clone.port);
    if let Some(fault) = reach::ask_ways(waiter, map, &mut links.lines, &mut links.clone, place)? {
        return Err(CloneError::unfit(fault));
    }
    if is_citus && let Some(fault) = checks::ask_jobs(waiter, &mut links.home)? {
        return Err(CloneError::unfit(fault));
    }
    Ok(())
}

/// Looks at clone and source; the slot that the clone streams from.
pub fn look_at_both<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    source: &mut Session,
    clone: &mut Session,
    place: (&str, i32),
) -> Result<Option<String>, CloneError> {
    let is_citus = map.roster.is_citus();
    let node = &map.roster.nodes()[map.source];
    let of_source = checks::ask_facts(waiter, source, is_citus, &node.host, node.port)?;
    let clone_place = format!("{}:{}", place.0, place.1);
    if let Some(fault) = checks::ask_stranger(waiter, clone, &of_source, clone_place)? {
        return Err(CloneError::unfit(fault));
    }
    let mut of_clone = checks::ask_facts(waiter, clone, is_citus, place.0, place.1)?;
    of_clone.receives_from_source =
        checks::ask_sender(waiter, &map.roster.targets()[map.source], &of_source, &of_clone);
    of_clone.scheduled = checks::ask_scheduled(waiter, clone, &map.clone)?;
    if let Some(fault) = checks::judge(&of_source, &of_clone) {
        return Err(CloneError::unfit(fault));
    }
    if is_citus {
        let target = &map.roster.targets()[map.source];
        if let Some(fault) = checks::ask_databases(waiter, source, target, &of_source.place)? {
            return Err(CloneError::unfit(fault));
        }
    }
    match checks::ask_libraries(waiter, clone, &of_clone.place)? {
        Some(fault) => Err(CloneError::unfit(fault)),
        None => Ok(of_clone.slot),
    }
}

/// Every node that can write must learn of the split.
fn all_are_told<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    home: &mut Session,
) -> Result<(), CloneError> {
    let reply = ask(waiter, home, "look at the nodes", &query(statements::NOT_TOLD), SHORT)?;
    let set = reply.last_set()?;
    if let (Some(host), Some(port)) = (set.value(0, "nodename"), set.value(0, "nodeport")) {
        let place = format!("{host}:{port}");
        return Err(CloneError::unfit(Fault::NotTold { place, active: true }));
    }
    // An inactive one that does not answer writes nothing, and is told when it is activated.
    for target in &map.inactive {
        if connect(waiter, target).is_ok() {
            let place = format!("{}:{}", target.node.host, target.node.port);
            return Err(CloneError::unfit(Fault::NotTold { place, active: false }));
        }
    }
    Ok(())
}
