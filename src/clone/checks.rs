//! Whether a replica is fit to become a node, and its source fit to give half of its shards away.
//!
//! What two servers say of themselves ([`Facts`]) is judged without a server ([`judge`]); the questions are at the end.

use remote::{NodeLabel, Reply, ResultSet, Session, Target, Waiter};

use super::error::CloneError;
use super::fault::Fault;
use super::links::{SHORT, ask, connect};
use super::statements::query;
use crate::fence::FenceError;
use crate::pg::quote::literal;

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What messages call it.
    pub place: String,
    /// Its host, as the catalog or the caller has it.
    pub host: String,
    /// Its port.
    pub port: i32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Of its data directory.
    pub system_identifier: String,
    /// `server_version_num`.
    pub version: String,
    /// Versions of Citus' and this extension's libraries.
    pub libraries: String,
    /// `shared_preload_libraries`.
    pub preloaded: Vec<String>,
    /// Prepared transactions it can keep.
    pub max_prepared: i64,
    /// Connections it takes.
    pub max_connections: i64,
    /// How it archives its WAL; nothing where it does not.
    pub archive: String,
    /// Whether its replay is paused.
    pub paused: bool,
    /// `recovery_min_apply_delay`, where it is not 0.
    pub delay: String,
    /// Where it streams from: status, host, port.
    pub receiver: Option<(String, String, String)>,
    /// Whether that place is its source, where that could be found out.
    pub receives_from_source: Option<bool>,
    /// When its postmaster was started: with the identifier that tells one server from all others.
    pub started: String,
    /// Its slot at the source.
    pub slot: Option<String>,
    /// Servers that stream from it.
    pub senders: Vec<Sender>,
    /// Slots of its own: name, process that uses it, state of its WAL.
    pub slots: Vec<(String, String, String)>,
    /// `synchronized_standby_slots`.
    pub synchronized_slots: String,
    /// Enabled subscriptions that could start.
    pub subscriptions: bool,
    /// Whether pg_cron has jobs that would run.
    pub scheduled: bool,
    /// A manager that has a session or a setting there.
    pub manager: Option<String>,
    /// `synchronous_standby_names`.
    pub standby_names: String,
    /// `citus.local_hostname`.
    pub local_hostname: String,
    /// Collations whose version here is another than recorded.
    pub collations: String,
}

/// A walsender of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// Its process.
    pub pid: String,
    /// `streaming`, or what it does instead.
    pub state: String,
    /// `async`, or how commits wait for it.
    pub sync_state: String,
}

/// Judges a replica against its source; `None`: fit.
pub fn judge(source: &Facts, clone: &Facts) -> Option<Fault> {
    let place = clone.place.clone();
    let source_place = source.place.clone();
    if source.in_recovery {
        return Some(Fault::SourceInRecovery { place: source_place });
    }
    if !clone.in_recovery {
        return Some(Fault::NotInRecovery { place });
    }
    if clone.system_identifier != source.system_identifier {
        let (own, expected) = (clone.system_identifier.clone(), source.system_identifier.clone());
        return Some(Fault::OtherSystem { place, source_place, own, expected });
    }
    let differs: [(&'static str, &String, &String); 2] = [
        ("server_version_num", &clone.version, &source.version),
        ("libraries", &clone.libraries, &source.libraries),
    ];
    for (what, own, expected) in differs {
        if own != expected {
            let (own, expected) = (own.clone(), expected.clone());
            return Some(Fault::OtherVersion { place, source_place, what, own, expected });
        }
    }
    if let Some(library) = ["citus", "citus_fence"].into_iter().find(|library| {
        source.preloaded.iter().any(|name| name == library)
            && !clone.preloaded.iter().any(|name| name == library)
    }) {
        return Some(Fault::NotPreloaded { place, library: library.to_owned() });
    }
    if clone.paused {
        return Some(Fault::Paused { place });
    }
    if !clone.delay.is_empty() {
        return Some(Fault::Delayed { place, delay: clone.delay.clone() });
    }
    if let Some(fault) = judge_stream(source, clone) {
        return Some(fault);
    }
    if !clone.senders.is_empty() {
        return Some(Fault::Cascading { place, count: clone.senders.len() as i64 });
    }
    let lower: [(&'static str, i64, i64); 2] = [
        ("max_prepared_transactions", clone.max_prepared, source.max_prepared),
        ("max_connections", clone.max_connections, source.max_connections),
    ];
    for (name, own, expected) in lower {
        if own < expected {
            return Some(Fault::Lower { place, source_place, name, own, expected });
        }
    }
    if source.max_prepared < 2 {
        return Some(Fault::NoPrepared { place: source_place });
    }
    if !clone.archive.is_empty() && clone.archive == source.archive {
        return Some(Fault::SharedArchive { place, source_place });
    }
    if !clone.standby_names.is_empty() {
        return Some(Fault::StandbyNames { place, value: clone.standby_names.clone() });
    }
    if clone.subscriptions {
        return Some(Fault::Subscriptions { place, source_place });
    }
    if clone.scheduled {
        return Some(Fault::Scheduler { place, source_place });
    }
    if let Some(manager) = clone.manager.clone() {
        return Some(Fault::Managed { place, manager });
    }
    // "localhost" leads to whoever says it.
    let is_own = |name: &str| matches!(name, "" | "localhost" | "127.0.0.1" | "::1");
    if !is_own(&clone.local_hostname)
        && clone.local_hostname == source.host
        && source.host != clone.host
    {
        return Some(Fault::LocalHostname { place, value: clone.local_hostname.clone() });
    }
    if !clone.collations.is_empty() {
        return Some(Fault::Collations { place, names: clone.collations.clone() });
    }
    None
}

/// Whether it streams from that source, and whether anything of the source waits for it.
fn judge_stream(source: &Facts, clone: &Facts) -> Option<Fault> {
    let place = clone.place.clone();
    let source_place = source.place.clone();
    let not_streaming = |instead: String| Fault::NotStreaming {
        place: clone.place.clone(),
        source_place: source.place.clone(),
        instead,
    };
    let Some((status, host, port)) = &clone.receiver else {
        return Some(not_streaming("It has no WAL receiver".to_owned()));
    };
    if status != "streaming" {
        return Some(not_streaming(format!("Its WAL receiver is {status}")));
    }
    // Another address may lead to the same server, and the same one, seen from there, to another.
    let is_elsewhere = match clone.receives_from_source {
        Some(is_source) => !is_source,
        None => clone.slot.is_none() && port.parse() != Ok(source.port),
    };
    if is_elsewhere {
        return Some(not_streaming(format!("It streams from {host}:{port}")));
    }
    let mine: Vec<&Sender> = match &clone.slot {
        // Its walsender is the one that uses its slot.
        Some(slot) => {
            let Some((_, pid, wal_status)) = source.slots.iter().find(|(name, ..)| name == slot)
            else {
                return Some(not_streaming(format!("The source has no replication slot {slot}")));
            };
            if matches!(wal_status.as_str(), "lost" | "unreserved") {
                return Some(Fault::SlotLost { place, slot: slot.clone() });
            }
            if source.synchronized_slots.split(',').any(|name| name.trim() == slot) {
                return Some(Fault::SynchronizedSlot { place, source_place, slot: slot.clone() });
            }
            source.senders.iter().filter(|sender| sender.pid == *pid).collect()
        }
        // Which of them serves it cannot be told: what holds for any of them is taken to hold for it.
        None => source.senders.iter().collect(),
    };
    if mine.is_empty() {
        return Some(not_streaming("The source has no walsender for it".to_owned()));
    }
    mine.iter()
        .any(|sender| !matches!(sender.sync_state.as_str(), "async" | ""))
        .then_some(Fault::Synchronous { place, source_place })
}

/// What both are asked.
fn question(is_citus: bool) -> String {
    // The versions of libraries, and not those of what is in the catalog, which a replica has from its source.
    let citus = if is_citus { "citus_version()" } else { "''" };
    query(&format!(
        "SELECT pg_is_in_recovery() AS in_recovery, \
                (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier, \
                pg_postmaster_start_time()::text AS started, \
                current_setting('server_version_num') AS version, \
                {citus} || ' ' || citus_fence.library_version() AS libraries, \
                current_setting('shared_preload_libraries') AS preloaded, \
                current_setting('max_prepared_transactions') AS max_prepared, \
                current_setting('max_connections') AS max_connections, \
                CASE WHEN current_setting('archive_mode') = 'off' THEN '' \
                     ELSE current_setting('archive_command') || coalesce(current_setting('archive_library', true), '') END AS archive, \
                CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused, \
                (SELECT concat(setting, ' ', unit) FROM pg_settings \
                  WHERE name = 'recovery_min_apply_delay' AND setting <> '0') AS delay, \
                r.status, r.sender_host, r.sender_port, r.slot_name, \
                coalesce(current_setting('synchronized_standby_slots', true), '') AS synchronized_slots, \
                current_setting('max_logical_replication_workers')::int > 0 \
                    AND EXISTS (SELECT FROM pg_subscription WHERE subenabled) AS subscriptions, \
                coalesce(current_setting('citus.local_hostname', true), '') AS local_hostname, \
                current_setting('synchronous_standby_names') AS standby_names, \
                (SELECT 'Patroni' FROM pg_stat_activity WHERE application_name LIKE 'Patroni%' LIMIT 1) AS patroni, \
                (SELECT 'repmgr' FROM pg_stat_activity WHERE application_name LIKE 'repmgr%' LIMIT 1) AS repmgr, \
                (SELECT 'pg_auto_failover' FROM pg_stat_activity WHERE application_name LIKE 'pg_auto%' LIMIT 1) AS pg_auto, \
                (SELECT string_agg(name, ', ' ORDER BY name) FROM ( \
                    SELECT collname::text AS name FROM pg_collation \
                     WHERE collversion IS DISTINCT FROM pg_collation_actual_version(oid) AND collversion IS NOT NULL \
                    UNION ALL \
                    SELECT 'the default of the database' FROM pg_database \
                     WHERE datname = current_database() AND datcollversion IS NOT NULL \
                       AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)) c) AS collations \
           FROM (SELECT) one LEFT JOIN pg_stat_wal_receiver r ON true;\
         SELECT pid, state, sync_state FROM pg_stat_replication WHERE application_name NOT LIKE 'pg_basebackup%';\
         SELECT slot_name, coalesce(active_pid::text, '') AS pid, coalesce(wal_status, '') AS wal_status \
           FROM pg_replication_slots WHERE slot_type = 'physical'"
    ))
}

/// Asks a server what any can tell, with this extension or without: what is wrong with it if it is no replica of the source
/// at all.
pub fn ask_stranger<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    source: &Facts,
    place: String,
) -> Result<Option<Fault>, CloneError> {
    let sql = query(
        "SELECT pg_is_in_recovery() AS in_recovery, system_identifier::text FROM pg_control_system()",
    );
    let reply = ask(waiter, session, "look whether that is a replica", &sql, SHORT)?;
    let set = reply.last_set()?;
    if set.value(0, "in_recovery") != Some("t") {
        return Ok(Some(Fault::NotInRecovery { place }));
    }
    let own = set.value(0, "system_identifier").unwrap_or_default().to_owned();
    let (source_place, expected) = (source.place.clone(), source.system_identifier.clone());
    Ok((own != expected).then_some(Fault::OtherSystem { place, source_place, own, expected }))
}

/// Asks a server for its facts.
pub fn ask_facts<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    is_citus: bool,
    host: &str,
    port: i32,
) -> Result<Facts, CloneError> {
    let reply =
        ask(waiter, session, "look at the replica and its source", &question(is_citus), SHORT)?;
    facts(&reply, host, port)
        .ok_or_else(|| CloneError::Fence(FenceError::from(reply.unexpected("unknown facts"))))
}

fn facts(reply: &Reply, host: &str, port: i32) -> Option<Facts> {
    let with_column =
        |name: &str| reply.sets.iter().find(|set| set.columns.iter().any(|column| column == name));
    let own = with_column("in_recovery")?;
    let text = |column: &str| own.value(0, column).unwrap_or_default().to_owned();
    let number = |column: &str| own.value(0, column)?.parse::<i64>().ok();
    let is = |column: &str| own.value(0, column) == Some("t");
    let rows = |set: &ResultSet, columns: [&str; 3]| -> Vec<[String; 3]> {
        (0..set.rows.len())
            .map(|row| columns.map(|column| set.value(row, column).unwrap_or_default().to_owned()))
            .collect()
    };
    let senders = rows(with_column("sync_state")?, ["pid", "state", "sync_state"])
        .into_iter()
        .map(|[pid, state, sync_state]| Sender { pid, state, sync_state })
        .collect();
    let slots = rows(with_column("wal_status")?, ["slot_name", "pid", "wal_status"])
        .into_iter()
        .map(|[name, pid, wal_status]| (name, pid, wal_status))
        .collect();
    Some(Facts {
        place: format!("{host}:{port}"),
        host: host.to_owned(),
        port,
        in_recovery: is("in_recovery"),
        system_identifier: text("system_identifier"),
        version: text("version"),
        libraries: text("libraries"),
        preloaded: text("preloaded").split(',').map(|name| name.trim().to_owned()).collect(),
        max_prepared: number("max_prepared")?,
        max_connections: number("max_connections")?,
        archive: text("archive"),
        paused: is("paused"),
        delay: text("delay"),
        receiver: own
            .value(0, "status")
            .map(|status| (status.to_owned(), text("sender_host"), text("sender_port"))),
        receives_from_source: None,
        started: text("started"),
        slot: own.value(0, "slot_name").filter(|name| !name.is_empty()).map(str::to_owned),
        senders,
        slots,
        synchronized_slots: text("synchronized_slots"),
        subscriptions: is("subscriptions"),
        scheduled: false,
        manager: ["patroni", "repmgr", "pg_auto"]
            .into_iter()
            .find_map(|column| own.value(0, column).map(str::to_owned)),
        standby_names: text("standby_names"),
        local_hostname: text("local_hostname"),
        collations: text("collations"),
    })
}

/// What a server says that has no database of that name.
const NO_SUCH_DATABASE: &str = "3D000";

/// Whether the place that a replica streams from is its source; `None` where it cannot be found out from here.
pub fn ask_sender<W: Waiter>(
    waiter: &mut W,
    target: &Target,
    source: &Facts,
    clone: &Facts,
) -> Option<bool> {
    let (_, host, port) = clone.receiver.as_ref()?;
    if host.is_empty() || host.starts_with('/') {
        return None;
    }
    let mut sender = target.clone();
    sender.node = NodeLabel::unregistered(host.clone(), port.parse().ok()?);
    sender.params.set("host", &**host).set("port", &**port).set("hostaddr", "");
    let mut session = connect(waiter, &sender).ok()?;
    let sql = query(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()) || ' ' || pg_postmaster_start_time()::text",
    );
    let reply = ask(waiter, &mut session, "look who the replica streams from", &sql, SHORT).ok()?;
    let is_source =
        reply.single_value().ok()? == format!("{} {}", source.system_identifier, source.started);
    // "localhost" means another server there than here.
    let is_loopback = host == "localhost" || host == "::1" || host.starts_with("127.");
    (is_source || !is_loopback).then_some(is_source)
}

/// Whether pg_cron would run jobs there: it is preloaded, starts jobs, and has some, in the one database of the server where it
/// keeps them, for whichever database they are.
pub fn ask_scheduled<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    target: &Target,
) -> Result<bool, CloneError> {
    // Its own settings are in pg_settings: one that its version does not know is none, whatever a file sets.
    let of_jobs = query(
        "SELECT CASE WHEN current_setting('shared_preload_libraries') LIKE '%pg_cron%' \
                      AND NOT EXISTS (SELECT FROM pg_settings \
                                       WHERE name = 'cron.launch_active_jobs' AND setting = 'off') \
                     THEN coalesce((SELECT setting FROM pg_settings WHERE name = 'cron.database_name'), \
                                   'postgres') \
                     ELSE '' END AS database",
    );
    let reply = ask(waiter, session, "look for a scheduler", &of_jobs, SHORT)?;
    let database = reply.single_value()?.to_owned();
    if database.is_empty() {
        return Ok(false);
    }
    let mut there = target.clone();
    there.params.set("dbname", &*database);
    let mut there = match connect(waiter, &there) {
        Ok(there) => there,
        Err(CloneError::Fence(FenceError::Remote(error)))
            if error.sqlstate() == Some(NO_SUCH_DATABASE) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let has_table = query("SELECT to_regclass('cron.job') IS NOT NULL");
    let reply = ask(waiter, &mut there, "look for a scheduler's jobs", &has_table, SHORT)?;
    if reply.single_value()? != "t" {
        return Ok(false);
    }
    let has_jobs = query("SELECT EXISTS (SELECT FROM cron.job WHERE active)");
    Ok(ask(waiter, &mut there, "look for scheduled jobs", &has_jobs, SHORT)?.single_value()? == "t")
}

/// A library of an installed extension that cannot be loaded there.
pub fn ask_libraries<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    place: &str,
) -> Result<Option<Fault>, CloneError> {
    // Since 18 functions find their libraries by their bare names; LOAD does not.
    let names = query(
        "SELECT DISTINCT CASE WHEN current_setting('server_version_num')::int >= 180000 \
                              THEN regexp_replace(probin, '^\\$libdir/([^/]+)$', '\\1') ELSE probin END \
           FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
          WHERE l.lanname = 'c' AND probin LIKE '$libdir/%' ORDER BY 1",
    );
    let reply = ask(waiter, session, "look at the libraries in use", &names, SHORT)?;
    let libraries: Vec<String> =
        reply.last_set()?.rows.iter().filter_map(|row| row.first()?.clone()).collect();
    for library in libraries {
        let load = format!("LOAD {}", literal(&library));
        if let Err(error) = ask(waiter, session, "load a library", &load, SHORT) {
            if error.sqlstate().is_none() {
                return Err(error.into());
            }
            let why = error.server_message().unwrap_or_default().to_owned();
            return Ok(Some(Fault::Library { place: place.to_owned(), library, why }));
        }
    }
    Ok(None)
}

/// Another database of the same server in which Citus is.
pub fn ask_databases<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    target: &Target,
    place: &str,
) -> Result<Option<Fault>, CloneError> {
    let sql = query(
        "SELECT datname FROM pg_database \
          WHERE datallowconn AND NOT datistemplate AND datname <> current_database() ORDER BY 1",
    );
    let reply = ask(waiter, session, "look at the databases", &sql, SHORT)?;
    let names: Vec<String> =
        reply.last_set()?.rows.iter().filter_map(|row| row.first()?.clone()).collect();
    for name in names {
        let mut other = target.clone();
        other.params.set("dbname", &*name);
        let mut there = connect(waiter, &other)?;
        let sql = query("SELECT count(*) FROM pg_extension WHERE extname = 'citus'");
        if ask(waiter, &mut there, "look for Citus", &sql, SHORT)?.single_value()? != "0" {
            let source_place = place.to_owned();
            return Ok(Some(Fault::OtherDatabase { source_place, database: name }));
        }
    }
    Ok(None)
}

/// A job of Citus that is not finished, on the coordinator.
pub fn ask_jobs<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
) -> Result<Option<Fault>, CloneError> {
    let sql = query(
        "SELECT job_id FROM pg_dist_background_job \
          WHERE state NOT IN ('finished', 'cancelled', 'failed') ORDER BY job_id LIMIT 1",
    );
    let reply = ask(waiter, home, "look for background jobs", &sql, SHORT)?;
    let job = reply.last_set()?.value(0, "job_id").map(str::to_owned);
    Ok(job.map(|job| Fault::JobRunning { job }))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
