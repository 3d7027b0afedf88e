//! Makes the clone harmless while it is still a standby, and gives it back its former settings.
//!
//! From its promotion to the switch of its metadata the clone carries its source's group, node list and commit records.
//! Its maintenance daemon would recover two-phase commits as its source, and roll back what that has prepared elsewhere;
//! so the daemon's work is switched off in the settings file, which a standby can write, too.  A client that wrote there
//! in that time would be acknowledged and lost; so the gate is closed first, and it stays closed over the promotion.

use std::time::Duration;

use remote::{Deadline, Pause, RemoteError, Session, Waiter, pause};
use serde_json::{Map as Settings, Value};

use super::error::CloneError;
use super::links::{Map, SHORT, ask, connect_clone};
use super::registry::{self, Replica};
use super::statements::{FAST_PATH, HARMLESS, query};
use crate::pg::quote::{identifier, literal};

/// How long the clone's server may take to read its settings again.
const RELOAD_BOUND: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Does it all; what the clone had before is in the registry by then.
pub fn make_harmless<W: Waiter>(
    waiter: &mut W,
    map: &Map,
    home: &mut Session,
    session: &mut Session,
    clone: &mut Replica,
) -> Result<(), CloneError> {
    let reserve = query(&format!(
        "SELECT citus_fence.reserve_node({}, {})",
        clone.nodeid,
        literal(&clone.token)
    ));
    ask(waiter, session, "close the gate", &reserve, SHORT)?;
    let there = settings(waiter, session)?;
    // What an interrupted split left there is not what the clone had.
    if clone.former_settings.is_none() {
        let text = Value::Object(there.clone()).to_string();
        let sql = format!(
            "UPDATE citus_fence.clone SET former_settings = {}::jsonb WHERE clone_nodeid = {}",
            literal(&text),
            clone.nodeid
        );
        registry::write(waiter, home, "note of the former settings", &sql)?;
        clone.former_settings = Some(there.clone());
    }
    for (name, value) in HARMLESS.iter().filter(|(name, _)| there.contains_key(*name)) {
        let sql = format!("ALTER SYSTEM SET {} = {}", identifier(name), literal(value));
        ask(waiter, session, "change a setting", &sql, SHORT)?;
    }
    reload(waiter, map, session)?;
    // The daemon reads its settings at the end of its round: the next one has them from its start, for the
    // postmaster that starts it has read them.  Clients find a closed gate; to end them tells them now.
    let end_others = query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
          WHERE datname IS NOT NULL AND pid <> pg_backend_pid() \
            AND (backend_type = 'client backend' OR backend_type LIKE 'Citus%')",
    );
    ask(waiter, session, "end other sessions", &end_others, SHORT)?;
    let daemon_is_gone = query(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'Citus Maint%' \
            AND backend_start < (SELECT pg_conf_load_time())",
    );
    let by = Deadline::after(waiter, RELOAD_BOUND);
    loop {
        let reply = ask(waiter, session, "look for Citus' daemon", &daemon_is_gone, SHORT)?;
        if reply.single_value()? == "0" {
            return Ok(());
        }
        look_again(waiter, by, &reply, "the maintenance daemon does not end")?;
    }
}

/// Gives a clone that goes on as a standby its former settings, and opens its gate.
///
/// One that has been promoted meanwhile, by whomever, believes to be its source: it stays closed and harmless.
pub fn give_back<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<(), CloneError> {
    let look = query("SELECT pg_is_in_recovery()");
    let reply = ask(waiter, session, "look whether it is still a standby", &look, SHORT)?;
    if reply.single_value()? != "t" {
        return Err(CloneError::Promoted { place: clone.place() });
    }
    give_back_settings(waiter, session, clone)?;
    open_gate(waiter, session, clone)
}

/// Gives the clone its former settings.
pub fn give_back_settings<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<(), CloneError> {
    let Some(former) = &clone.former_settings else { return Ok(()) };
    for (name, value) in former {
        let name = identifier(name);
        let sql = match value.as_str() {
            Some(value) => format!("ALTER SYSTEM SET {name} = {}", literal(value)),
            None => format!("ALTER SYSTEM RESET {name}"),
        };
        ask(waiter, session, "give back a setting", &sql, SHORT)?;
    }
    ask(waiter, session, "reload", &query("SELECT pg_reload_conf()"), SHORT)?;
    Ok(())
}

/// Switches off at the source what would make its own sessions stand in the way of the seal; what it had before is in the
/// registry by then.
pub fn calm_source<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    source: &mut Session,
    clone: &mut Replica,
) -> Result<(), CloneError> {
    let sql = query(&format!(
        "SELECT current_setting({0}, true) AS now, \
                (SELECT f.setting FROM pg_file_settings f WHERE f.name = {0} \
                    AND f.sourcefile LIKE '%/postgresql.auto.conf' ORDER BY f.seqno DESC LIMIT 1) AS own",
        literal(FAST_PATH)
    ));
    let reply = ask(waiter, source, "look at a setting", &sql, SHORT)?;
    let set = reply.last_set()?;
    if set.value(0, "now").is_none_or(|now| now == "off") && clone.former_source_setting.is_none() {
        return Ok(());
    }
    if clone.former_source_setting.is_none() {
        let own = set.value(0, "own").map(str::to_owned);
        let text = Value::from(vec![own.clone().map_or(Value::Null, Value::String)]).to_string();
        let sql = format!(
            "UPDATE citus_fence.clone SET former_source_setting = {}::jsonb WHERE clone_nodeid = {}",
            literal(&text),
            clone.nodeid
        );
        registry::write(waiter, home, "note of a setting of the source", &sql)?;
        clone.former_source_setting = Some(own);
    }
    let sql = format!("ALTER SYSTEM SET {} = off", identifier(FAST_PATH));
    ask(waiter, source, "change a setting of the source", &sql, SHORT)?;
    // Sessions that are in the middle of a statement read it after that; an attempt that meets one is tried again.
    ask(waiter, source, "reload", &query("SELECT pg_reload_conf()"), SHORT)?;
    Ok(())
}

/// Gives the source its former setting.
pub fn give_back_source<W: Waiter>(
    waiter: &mut W,
    home: &mut Session,
    source: &mut Session,
    clone: &mut Replica,
) -> Result<(), CloneError> {
    let Some(former) = &clone.former_source_setting else { return Ok(()) };
    let name = identifier(FAST_PATH);
    let sql = match former {
        Some(value) => format!("ALTER SYSTEM SET {name} = {}", literal(value)),
        None => format!("ALTER SYSTEM RESET {name}"),
    };
    ask(waiter, source, "give back a setting of the source", &sql, SHORT)?;
    ask(waiter, source, "reload", &query("SELECT pg_reload_conf()"), SHORT)?;
    let sql = format!(
        "UPDATE citus_fence.clone SET former_source_setting = NULL WHERE clone_nodeid = {}",
        clone.nodeid
    );
    registry::write(waiter, home, "note of a setting of the source", &sql)?;
    clone.former_source_setting = None;
    Ok(())
}

/// Opens the clone's gate.
pub fn open_gate<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
    clone: &Replica,
) -> Result<(), CloneError> {
    let sql = query(&format!("SELECT citus_fence.release_node({})", literal(&clone.token)));
    ask(waiter, session, "open the gate", &sql, SHORT)?;
    Ok(())
}

/// Those of the settings that there are, each with what ALTER SYSTEM has said of it, if it has.
fn settings<W: Waiter>(
    waiter: &mut W,
    session: &mut Session,
) -> Result<Settings<String, Value>, CloneError> {
    let names: Vec<String> = HARMLESS.iter().map(|(name, _)| literal(name)).collect();
    let sql = query(&format!(
        "SELECT s.name, (SELECT f.setting FROM pg_file_settings f WHERE f.name = s.name \
                            AND f.sourcefile LIKE '%/postgresql.auto.conf' ORDER BY f.seqno DESC LIMIT 1) AS own \
           FROM pg_settings s WHERE s.name IN ({}) AND s.context IN ('sighup', 'superuser', 'user')",
        names.join(", ")
    ));
    let reply = ask(waiter, session, "look at the settings", &sql, SHORT)?;
    let set = reply.last_set()?;
    Ok((0..set.rows.len())
        .filter_map(|row| {
            let own =
                set.value(row, "own").map_or(Value::Null, |own| Value::String(own.to_owned()));
            Some((set.value(row, "name")?.to_owned(), own))
        })
        .collect())
}

/// Has the server read its settings, and waits until a new session has them.
fn reload<W: Waiter>(waiter: &mut W, map: &Map, session: &mut Session) -> Result<(), CloneError> {
    ask(waiter, session, "reload", &query("SELECT pg_reload_conf()"), SHORT)?;
    let names: Vec<String> = HARMLESS.iter().map(|(name, _)| literal(name)).collect();
    let sql = query(&format!(
        "SELECT name, setting FROM pg_settings WHERE name IN ({})",
        names.join(", ")
    ));
    let by = Deadline::after(waiter, RELOAD_BOUND);
    loop {
        // Forked by the postmaster, which reads the settings before any process that it starts afterwards has them.
        let mut fresh = connect_clone(waiter, &map.clone)?;
        let reply = ask(waiter, &mut fresh, "look at the settings", &sql, SHORT)?;
        let set = reply.last_set()?;
        let is_set = |row| {
            let (name, now) = (set.value(row, "name"), set.value(row, "setting"));
            HARMLESS.iter().all(|(known, value)| name != Some(known) || now == Some(value))
        };
        if (0..set.rows.len()).all(is_set) {
            return Ok(());
        }
        look_again(
            waiter,
            by,
            &reply,
            "the settings do not take effect: the command line has them, too",
        )?;
    }
}

fn look_again<W: Waiter>(
    waiter: &mut W,
    by: Deadline,
    reply: &remote::Reply,
    what: &'static str,
) -> Result<(), CloneError> {
    if by.expired(waiter) {
        return Err(reply.unexpected(what).into());
    }
    if pause(waiter, LOOK_AGAIN) == Pause::Stopped {
        let (node, command) = (reply.node.clone(), reply.command);
        return Err(RemoteError::Stopped { node, command }.into());
    }
    Ok(())
}
