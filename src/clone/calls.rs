//! What the calls of the sessions do: check, ask, wait for the worker, say what it says.

use std::time::Duration;

use pgrx::{PgLogLevel, PgSqlErrorCode, Spi};
use remote::{NodeLabel, RemoteError, Session, Waiter};

use super::driver;
use super::error::{CloneError, WhyNot};
use super::fault::Fault;
use super::follower::Follower;
use super::ground::clone_target;
use super::harmless;
use super::lag::lag_behind;
use super::links::{self, Map, SHORT, ask, connect, connect_clone};
use super::reach;
use super::registry::{self, Replica, Terms};
use super::state::Step;
use super::statements::query;
use super::twice;
use super::worker;
use crate::citus::{self, CatalogError, Roster, identity};
use crate::fence::FenceError;
use crate::fence::under_way::{self, UnderWay};
use crate::gate;
use crate::guc;
use crate::pg::quote::literal;
use crate::pg::superuser::as_superuser;
use crate::pg::types::Lsn;
use crate::pg::wait::{interruptible, require_client};
use crate::pg::{elog, ident, libpq, lock, process, session, small_table};
use crate::report::Report;

/// Longest `catchup_timeout_seconds`: a day.
pub const MAX_CATCHUP_S: i32 = 86_400;

/// What the split is called among the operations that exclude each other.
pub const OPERATION: &str = "clone split";

/// The split of this database as others see it who exclude it.
pub fn under_way() -> Option<UnderWay> {
    let (_, step) = interrupted()?;
    let what = match step {
        Step::Near => "a clone split is under way, at step near",
        Step::Prepared => "a clone split is under way, at step prepared",
        Step::CaughtUp => "a clone split is under way, at step caught_up",
        Step::Promoting => "a clone split is under way, at step promoting",
        Step::Promoted => "a clone split is under way, at step promoted",
        Step::Committing => "a clone split is under way, at step committing",
        Step::Released => "a clone split is under way, at step released",
        Step::Registered | Step::Checked | Step::Cleaned => "a clone split is under way",
    };
    Some(UnderWay {
        what,
        hint: "See how far it is: SELECT * FROM citus_clone_status(); it goes on by itself, or by calling citus_promote_clone_and_rebalance() again.",
    })
}

/// The extension is about to be dropped: with it the registry would go by which a split goes on.
pub fn before_drop() {
    if !ident::in_recovery()
        && let Some((nodeid, _)) = interrupted()
    {
        elog::raise(&Report::from(&CloneError::Dropped { nodeid }));
    }
}

/// A clone whose split has changed something and is not done, and how far that is.
///
/// Without a query: on Citus even one of a table of its own waits for whoever keeps the catalog to himself, and who asks
/// here is to be refused at once.  Whoever keeps the registry to himself changes its schema, and no split gets on meanwhile.
fn interrupted() -> Option<(i32, Step)> {
    let registry = lock::relation_in(c"citus_fence", c"clone")?;
    let _readable = lock::Readable::try_all(std::iter::once(registry))?;
    small_table::rows(registry, &[c"clone_nodeid", c"step"]).into_iter().find_map(|row| {
        let step = Step::parse(row[1].as_deref()?)?;
        if step.is_under_way() { Some((row[0].as_ref()?.parse().ok()?, step)) } else { None }
    })
}

/// The numbers that a query gives; it only reads.
fn select(sql: &str) -> Vec<i32> {
    let rows = Spi::connect(|client| {
        let rows = client.select(sql, None, &[])?;
        rows.map(|row| row.get::<i32>(1)).collect::<Result<Vec<_>, _>>()
    });
    rows.unwrap_or_default().into_iter().flatten().collect()
}

fn require_usable() -> Result<(), CloneError> {
    libpq::require();
    if !gate::is_preloaded() {
        return Err(CloneError::NotPreloaded);
    }
    if ident::in_recovery() {
        return Err(CloneError::InRecovery);
    }
    let mut waiter = interruptible();
    citus::require_coordinator(&mut waiter, bound())?;
    identity::owner_must_be_superuser().map_err(FenceError::from)?;
    let roster = citus::read_within(&mut waiter, bound(), citus::OF_NODES, || {
        Roster::read(links::dialer())
    })??;
    links::prove(&mut waiter, &roster)
}

fn bound() -> Duration {
    Duration::from_millis(guc::ACQUIRE_TIMEOUT.get() as u64)
}

/// Which node is meant.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// By its address.
    At(&'a str, i32),
    /// By its number.
    Numbered(i32),
}

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(host, port) => write!(f, "{host}:{port}"),
            Self::Numbered(nodeid) => write!(f, "{nodeid}"),
        }
    }
}

/// Registers a clone, in the caller's transaction.
pub fn add(host: &str, port: i32, source: Named<'_>) -> Result<i32, CloneError> {
    require_usable()?;
    let mut waiter = interruptible();
    let nodes = citus::read_within(&mut waiter, bound(), citus::OF_NODES, citus::nodes)??;
    let node = nodes.iter().find(|node| match source {
        Named::At(host, port) => node.host == host && node.port == port,
        Named::Numbered(nodeid) => node.nodeid == nodeid,
    });
    let node = node.ok_or_else(|| CloneError::NoSuchSource { what: source.to_string() })?;
    if !node.active {
        let place = format!("{}:{}", node.host, node.port);
        return Err(CloneError::unfit(Fault::NotTold { place, active: false }));
    }
    twice::one_at_a_time();
    require_free(host, port)?;
    let place = NodeLabel::unregistered(host.to_owned(), port);
    let map = citus::read_within(&mut waiter, bound(), citus::OF_NODES, || {
        Map::read_for(place.clone(), node.nodeid)
    })??;
    let mut at_source = connect(&mut waiter, &map.roster.targets()[map.source])?;
    let mut at_clone = connect_clone(&mut waiter, &map.clone)?;
    let slot =
        driver::look_at_both(&mut waiter, &map, &mut at_source, &mut at_clone, (host, port))?;
    let place = format!("{host}:{port}");
    twice::require_new(&mut waiter, &mut at_clone, &place, slot.as_deref())?;
    let mut lines = links::open(&mut waiter, map.roster.targets())
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(CloneError::from)?;
    if let Some(fault) =
        reach::ask_ways(&mut waiter, &map, &mut lines, &mut at_clone, (host, port))?
    {
        return Err(CloneError::unfit(fault));
    }
    drop(lines);
    let slot = slot.as_deref().map_or("NULL".to_owned(), literal);
    let sql = format!(
        "INSERT INTO citus_fence.clone (clone_nodeid, nodename, nodeport, source_nodeid, token, slot_name) \
         SELECT nextval('pg_dist_node_nodeid_seq')::int, {}, {port}, {}, \
                replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), {slot} \
         RETURNING clone_nodeid",
        literal(host),
        node.nodeid,
    );
    Ok(written(&sql)?.into_iter().next().unwrap_or_default())
}

/// An error if a node or a clone has that address.
fn require_free(host: &str, port: i32) -> Result<(), CloneError> {
    let place = format!("{host}:{port}");
    let at = format!("nodename = {} AND nodeport = {port}", literal(host));
    as_superuser(|| {
        let done = format!(
            "DELETE FROM citus_fence.clone WHERE {at} AND step = 'cleaned' RETURNING clone_nodeid"
        );
        let nodes = select(&format!("SELECT nodeid FROM pg_dist_node WHERE {at}"));
        if let Some(nodeid) = nodes.first() {
            return Err(CloneError::Registered {
                place: place.clone(),
                by: format!("node {nodeid} of pg_dist_node"),
                hint: "A replica has to be forgotten there first: one that Citus' own pg_catalog.citus_add_clone_node() has registered by SELECT pg_catalog.citus_remove_clone_node(…); a secondary by SELECT citus_remove_node(…);".into(),
            });
        }
        let clones = select(&format!(
            "SELECT clone_nodeid FROM citus_fence.clone WHERE {at} AND step <> 'cleaned'"
        ));
        if let Some(nodeid) = clones.first() {
            return Err(CloneError::Registered {
                place: place.clone(),
                by: format!("clone {nodeid}"),
                hint: format!(
                    "To forget it: SELECT citus_remove_clone_node_with_nodeid({nodeid});"
                ),
            });
        }
        written(&done).map(drop)
    })
}

/// Runs SQL that writes in the caller's transaction, with the rights of the extension; the numbers it returns.
fn written(sql: &str) -> Result<Vec<i32>, CloneError> {
    let rows = as_superuser(|| {
        Spi::connect_mut(|client| {
            let rows = client.update(sql, None, &[])?;
            rows.map(|row| row.get::<i32>(1)).collect::<Result<Vec<_>, _>>()
        })
    });
    match rows {
        Ok(rows) => Ok(rows.into_iter().flatten().collect()),
        Err(error) => Err(CloneError::Fence(FenceError::Local(Report::new(
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            error.to_string(),
        )))),
    }
}

/// Forgets a clone, in the caller's transaction.
pub fn remove(named: Named<'_>) -> Result<(), CloneError> {
    require_usable()?;
    let condition = match named {
        Named::At(host, port) => format!("nodename = {} AND nodeport = {port}", literal(host)),
        Named::Numbered(nodeid) => format!("clone_nodeid = {nodeid}"),
    };
    let sql = format!("SELECT clone_nodeid FROM citus_fence.clone WHERE {condition}");
    let there = as_superuser(|| select(&sql));
    // Before the row is locked: a split holds it for as long as it writes a step down.
    if let Some((nodeid, step)) = interrupted().filter(|(nodeid, _)| there.contains(nodeid)) {
        return Err(CloneError::InUse { nodeid, step });
    }
    let sql = format!("{sql} FOR UPDATE");
    let Some(nodeid) = written(&sql)?.into_iter().next() else {
        return Err(not_found(named));
    };
    // It may have waited for others with that row.
    require_client();
    let mut waiter = interruptible();
    let mut home = links::connect_home(&mut waiter)?;
    if let Some(clone) = registry::find(&mut waiter, &mut home, nodeid)? {
        if clone.step.is_under_way() || (clone.step != Step::Cleaned && worker::is_driven()) {
            return Err(CloneError::InUse { nodeid, step: clone.step });
        }
        if clone.step != Step::Cleaned && clone.former_settings.is_some() {
            give_back(&mut waiter, &clone)?;
        }
    }
    written(&format!(
        "DELETE FROM citus_fence.clone WHERE clone_nodeid = {nodeid} RETURNING clone_nodeid"
    ))?;
    Ok(())
}

/// A split that was taken back could not give the clone what it had; now is the last time that anybody knows it.
fn give_back<W: Waiter>(waiter: &mut W, clone: &Replica) -> Result<(), CloneError> {
    // Its source may not be in the catalog any more.
    let at = citus::read_within(waiter, bound(), citus::OF_NODES, || clone_target(clone))??;
    let given_back = connect_clone(waiter, &at)
        .and_then(|mut session| harmless::give_back(waiter, &mut session, clone));
    if let Err(error @ CloneError::Promoted { .. }) = &given_back {
        let mut report = Report::from(error);
        report.sqlstate = PgSqlErrorCode::ERRCODE_WARNING;
        elog::emit(PgLogLevel::WARNING, &report);
        return Ok(());
    }
    if let Err(error) = given_back {
        let message =
            format!("clone {} does not have its former settings back: {error}", clone.place());
        let report = Report::new(PgSqlErrorCode::ERRCODE_WARNING, message).hint(format!(
            "If it is to go on as a replica, on it: SELECT citus_fence.release_node_by_force({}); and ALTER SYSTEM RESET of what postgresql.auto.conf has of Citus.",
            clone.nodeid
        ));
        elog::emit(PgLogLevel::WARNING, &report);
    }
    Ok(())
}

/// Gives up a split whose clone is lost for good between its promotion and the first commit of the switch elsewhere.
///
/// Why nothing is lost: the step `committing` is written before any other node commits, and it is looked for in the same
/// statement that turns the split back.  So every node still has the old placements, and what is prepared there can be
/// rolled back; the clone itself has taken no client as long as its gate was closed.
pub fn give_up(nodeid: i32) -> Result<(), CloneError> {
    require_usable()?;
    let mut waiter = interruptible();
    let mut home = links::connect_home(&mut waiter)?;
    let Some(clone) = registry::find(&mut waiter, &mut home, nodeid)? else {
        return Err(not_found(Named::Numbered(nodeid)));
    };
    if !matches!(clone.step, Step::Promoting | Step::Promoted) {
        return Err(CloneError::NotToGiveUp { nodeid, step: clone.step, answers: false });
    }
    let at = citus::read_within(&mut waiter, bound(), citus::OF_NODES, || clone_target(&clone))??;
    if answers(&connect_clone(&mut waiter, &at)) {
        return Err(CloneError::NotToGiveUp { nodeid, step: clone.step, answers: true });
    }
    registry::advance(&mut waiter, &mut home, nodeid, clone.step, Step::CaughtUp, "")?;
    let message =
        format!("the split of clone {nodeid} is given up, and is taken back on all nodes");
    let report = Report::new(PgSqlErrorCode::ERRCODE_WARNING, message)
        .detail("The clone has taken no client so far; it has its source's identity, or its own that no other node knows.")
        .hint("The server must never be started again as it is: make a new replica.");
    elog::emit(PgLogLevel::WARNING, &report);
    go_on()
}

/// A server that says anything at all is there, whatever it says.
fn answers(tried: &Result<Session, CloneError>) -> bool {
    match tried {
        Ok(_) => true,
        Err(CloneError::Fence(FenceError::Remote(error))) => {
            matches!(error, RemoteError::Refused { .. }) || error.sqlstate().is_some()
        }
        Err(_) => false,
    }
}

/// Whoever drives the split reads the registry before he tries again.
fn go_on() -> Result<(), CloneError> {
    if !worker::is_driven() && worker::start(0).is_none() {
        return Err(CloneError::NoWorkerSlot);
    }
    Ok(())
}

/// Has an interrupted split end without a node that is lost for good; [`super::ground`] says why nothing is lost with that.
pub fn leave_out(clone_nodeid: i32, nodeid: i32) -> Result<(), CloneError> {
    require_usable()?;
    let mut waiter = interruptible();
    let mut home = links::connect_home(&mut waiter)?;
    let Some(clone) = registry::find(&mut waiter, &mut home, clone_nodeid)? else {
        return Err(not_found(Named::Numbered(clone_nodeid)));
    };
    let refuse = |why| Err(CloneError::NotToLeaveOut { nodeid, step: clone.step, why });
    if !clone.step.is_under_way() {
        return refuse(WhyNot::NotUnderWay);
    }
    if nodeid == clone.nodeid && clone.step < Step::Committing {
        return refuse(WhyNot::IsClone);
    }
    let found = citus::read_within(&mut waiter, bound(), citus::OF_NODES, || {
        let all = Roster::read(links::dialer())?;
        let node = all.nodes().iter().zip(all.targets()).find(|(node, _)| node.nodeid == nodeid);
        Ok::<_, CatalogError>(node.map(|(node, target)| (node.groupid, target.clone())))
    })??;
    let Some((group, target)) = found else {
        return Err(CloneError::NoSuchSource { what: nodeid.to_string() });
    };
    if group == citus::COORDINATOR_GROUP {
        return refuse(WhyNot::IsCoordinator);
    }
    if answers(&connect(&mut waiter, &target)) {
        return refuse(WhyNot::Answers);
    }
    // In one step with the look where the split is: its end forgets who was left out.
    let sql = format!(
        "UPDATE citus_fence.clone SET left_out = left_out || {nodeid} \
          WHERE clone_nodeid = {clone_nodeid} AND step = '{}' AND {nodeid} <> ALL (left_out)",
        clone.step.name()
    );
    registry::write(&mut waiter, &mut home, "note of a node that is left out", &sql)?;
    let is_noted = registry::find(&mut waiter, &mut home, clone_nodeid)?
        .is_some_and(|now| now.left_out.contains(&nodeid));
    if !is_noted {
        return Err(CloneError::OtherStep { nodeid: clone_nodeid, step: clone.step });
    }
    let message =
        format!("the split of clone {clone_nodeid} goes on without node {nodeid}, {}", target.node);
    let report = Report::new(PgSqlErrorCode::ERRCODE_WARNING, message)
        .detail("What is prepared there stays prepared, and keeps writers of the moving shards off as long as that server runs.")
        .hint("The warnings of the split say what is to be done there before anybody uses that server again; they are in citus_fence.clone_journal, too.");
    elog::emit(PgLogLevel::WARNING, &report);
    go_on()
}

fn not_found(named: Named<'_>) -> CloneError {
    let condition = match named {
        Named::At(host, port) => format!("nodename = {} AND nodeport = {port}", literal(host)),
        Named::Numbered(nodeid) => format!("nodeid = {nodeid}"),
    };
    // Citus 13.2 and later have a column for clones of their own.
    let sql = format!(
        "SELECT nodeid FROM pg_dist_node n WHERE {condition} AND to_jsonb(n) ->> 'nodeisclone' = 'true'"
    );
    let of_citus = as_superuser(|| !select(&sql).is_empty());
    CloneError::NoSuchClone { what: named.to_string(), of_citus }
}

/// Splits, and comes back when that is done.
pub fn promote(
    nodeid: i32,
    strategy: Option<&str>,
    catchup_timeout_s: i32,
) -> Result<(), CloneError> {
    const FUNCTION: &str = "citus_promote_clone_and_rebalance()";
    if !(1..=MAX_CATCHUP_S).contains(&catchup_timeout_s) {
        return Err(CloneError::TimeoutOutOfRange { given: catchup_timeout_s, max: MAX_CATCHUP_S });
    }
    require_usable()?;
    if session::is_in_transaction_block() || gate::is_writing() {
        return Err(CloneError::InTransaction { function: FUNCTION });
    }
    if let Some(other) = under_way::look_but(OPERATION) {
        return Err(CloneError::UnderWay(other));
    }
    // The registry is looked at over a session only: this one's transaction lasts as long as the split, and must not keep
    // a lock on its tables.
    let mut waiter = interruptible();
    let mut home = links::connect_home(&mut waiter)?;
    let sql = query("SELECT count(*) FROM citus_fence.cluster_read_only");
    if ask(&mut waiter, &mut home, "look whether the cluster is read only", &sql, SHORT)?
        .single_value()?
        != "0"
    {
        return Err(CloneError::ReadOnly);
    }
    let Some(clone) = registry::find(&mut waiter, &mut home, nodeid)? else {
        return Err(not_found(Named::Numbered(nodeid)));
    };
    if clone.step == Step::Cleaned {
        return Err(CloneError::Registered {
            place: clone.place(),
            by: format!("node {nodeid}: its split is done"),
            hint: "See it: SELECT * FROM pg_dist_node;".into(),
        });
    }
    let driven = worker::is_driven();
    let interrupted = registry::find_interrupted(&mut waiter, &mut home)?;
    let is_others = interrupted.is_some_and(|other| other.nodeid != nodeid);
    if is_others || (driven && !clone.step.is_under_way()) {
        return Err(CloneError::OtherSplit);
    }
    if !worker::wait_for_split() {
        return Err(CloneError::OtherSplit);
    }
    let me = process::me();
    let terms = Terms {
        strategy: strategy.map(str::to_owned),
        catchup_timeout_s: catchup_timeout_s as u32,
        acquire_timeout_ms: guc::ACQUIRE_TIMEOUT.get() as u32,
        lock_timeout_ms: guc::LOCK_TIMEOUT.get() as u32,
        requestor: (me.place, me.pid),
    };
    let terms = serde_json::to_string(&terms).unwrap_or_default();
    let sql = format!(
        "UPDATE citus_fence.clone SET terms = {}::jsonb, last_error = NULL WHERE clone_nodeid = {nodeid}",
        literal(&terms)
    );
    registry::write(&mut waiter, &mut home, "what is asked for", &sql)?;
    let mut follower = Follower::begin(&mut waiter, &mut home, nodeid)?;
    let handle = match driven {
        true => None,
        false => Some(worker::start(nodeid).ok_or(CloneError::NoWorkerSlot)?),
    };
    follower.follow(&mut waiter, &mut home, handle)
}

/// A row of the status.
pub struct Row {
    /// The clone.
    pub nodeid: i32,
    /// Where it is.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// What it replicates.
    pub source: i32,
    /// How far its split is.
    pub step: String,
    /// Since when, in microseconds as PostgreSQL counts them.
    pub since: Option<pgrx::datum::TimestampWithTimeZone>,
    /// How far it lags.
    pub lag: Option<i64>,
    /// What its last split ended with, or what is in its way.
    pub last_error: Option<String>,
    /// The timeline of a promoted clone.
    pub fork_timeline: Option<i32>,
    /// Where that begins: up to there it has what its source wrote.
    pub fork_lsn: Option<Lsn>,
}

/// All clones.
pub fn status() -> Result<Vec<Row>, CloneError> {
    let sql = "SELECT clone_nodeid, nodename, nodeport, source_nodeid, step, step_since, last_error, \
                      fork_timeline, fork_lsn::text \
                 FROM citus_fence.clone ORDER BY clone_nodeid";
    let rows = as_superuser(|| {
        Spi::connect(|client| {
            let mut rows = Vec::new();
            for row in client.select(sql, None, &[])? {
                rows.push(Row {
                    nodeid: row.get(1)?.unwrap_or_default(),
                    host: row.get(2)?.unwrap_or_default(),
                    port: row.get(3)?.unwrap_or_default(),
                    source: row.get(4)?.unwrap_or_default(),
                    step: row.get(5)?.unwrap_or_default(),
                    since: row.get(6)?,
                    lag: None,
                    last_error: row.get(7)?,
                    fork_timeline: row.get(8)?,
                    fork_lsn: row.get::<String>(9)?.and_then(|text| Lsn::parse(&text)),
                });
            }
            Ok::<_, pgrx::spi::Error>(rows)
        })
    });
    let mut rows = rows.map_err(|error| {
        CloneError::from(CatalogError::Read {
            table: "citus_fence.clone",
            error: error.to_string(),
        })
    })?;
    for row in &mut rows {
        if row.step != Step::Cleaned.name() {
            row.lag = lag_of(row).ok().flatten();
        }
    }
    Ok(rows)
}

/// How far a clone lags, if both can be asked.
fn lag_of(row: &Row) -> Result<Option<i64>, CloneError> {
    let mut waiter = interruptible();
    let place = NodeLabel::unregistered(row.host.clone(), row.port);
    let map = citus::read_within(&mut waiter, Duration::ZERO, citus::OF_NODES, || {
        Map::read_for(place.clone(), row.source)
    })??;
    let mut source = connect(&mut waiter, &map.roster.targets()[map.source])?;
    let sql = query("SELECT pg_current_wal_flush_lsn()::text");
    let reply = ask(&mut waiter, &mut source, "look how far the source is", &sql, SHORT)?;
    let lsn = reply.single_value()?.to_owned();
    let mut clone = connect_clone(&mut waiter, &map.clone)?;
    lag_behind(&mut waiter, &mut clone, &lsn)
}
