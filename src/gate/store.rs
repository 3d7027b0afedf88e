//! The state files in the data directory, of a read-only node and of a reserved one: written so that after a crash
//! at any moment there is either the old or the new state, and read when the postmaster makes shared memory.

use std::path::Path;

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::alone::Alone;
use super::area::{AREA, Node, NodeState};
use super::error::{GateError, how_to_write};
use super::reservation::UNKNOWN;
use super::reserved_file::{self, Token};
use super::state_file::{Judgement, LastStop, Record, Surroundings, judge};
use super::whereabouts::{Found, Home};
use crate::pg::control_file::{self, End};
use crate::pg::durable_file::{self, DurableFile, Failed};
use crate::pg::{elog, ident, wal};
use crate::report::Report;

const FILE: DurableFile =
    DurableFile { name: "citus_fence.read_only", temporary: "citus_fence.read_only.tmp" };
const RESERVED: DurableFile =
    DurableFile { name: "citus_fence.reserved", temporary: "citus_fence.reserved.tmp" };
/// Says that the directory is a base backup that was not started yet.
const BACKUP_LABEL: &str = "backup_label";
/// These say that it is about to be a standby, or to recover to some point.
const SIGNALS: [&str; 2] = ["standby.signal", "recovery.signal"];

/// Writes the file of a node that has become read-only, and has it on disk when it returns.
pub fn write(node: &Node, lsn: u64, since: i64) -> Result<(), GateError> {
    let _alone = Alone::take(node)?;
    write_record(&Record {
        system_identifier: ident::system_identifier(),
        timeline: wal::timeline(),
        lsn,
        since,
        with_cluster: node.is_with_cluster(),
        own_end: 0,
        home: None,
    })
}

fn write_record(record: &Record) -> Result<(), GateError> {
    let directory = own_directory(FILE)?;
    Ok(FILE.write_what(|place| record.to_text(&Home::new(place, &directory)))?)
}

fn own_directory(file: DurableFile) -> Result<String, GateError> {
    durable_file::directory().map_err(|why| GateError::File {
        what: "find the directory of",
        file: file.name,
        why: why.to_string(),
    })
}

/// Removes the file, and has that on disk when it returns.
pub fn remove(node: &Node) -> Result<(), GateError> {
    let _alone = Alone::take(node)?;
    Ok(FILE.remove()?)
}

/// Whether this start may be one of a read-only node that is promoted.
pub fn may_stay() -> bool {
    recovers() && Path::new(FILE.name).exists()
}

fn recovers() -> bool {
    SIGNALS.iter().any(|signal| Path::new(signal).exists())
}

/// After the promotion of a node that was read-only when it started.  The caller is the only one at the file.
pub fn settle(is_over: bool) -> Result<(), GateError> {
    // Who has switched the node since has written the file, or removed it.
    let Some(record) = FILE.read().ok().flatten().and_then(|text| Record::parse(&text).ok()) else {
        return Ok(());
    };
    let timeline = wal::timeline();
    if record.timeline == timeline {
        return Ok(());
    }
    let file = FILE.name;
    if is_over {
        elog::log(&format!(
            "system is read-write: it was promoted after it had replayed WAL of another server, so \"{file}\" is \
             void and removed"
        ));
        return Ok(FILE.remove()?);
    }
    write_record(&Record { timeline, own_end: 0, ..record })?;
    elog::log(&format!(
        "system is still read only, as \"{file}\" says: it was promoted, and had replayed no WAL of another server"
    ));
    Ok(())
}

/// Writes down for which clone the node is reserved; on disk when it returns.
pub fn write_reservation(clone: i32, token: Token) -> Result<(), GateError> {
    let directory = own_directory(RESERVED)?;
    let system_identifier = ident::system_identifier();
    let text = |place| {
        let home = Home::new(place, &directory);
        reserved_file::Record { clone, token, system_identifier, home }.to_text()
    };
    Ok(RESERVED.write_what(text)?)
}

/// Removes that, and has it on disk when it returns.
pub fn remove_reservation() -> Result<(), GateError> {
    Ok(RESERVED.remove()?)
}

impl From<Failed> for GateError {
    fn from(failed: Failed) -> Self {
        let Failed { what, file, why } = failed;
        Self::File { what, file, why: why.to_string() }
    }
}

/// Finds out whether the node is read-only or reserved, in the postmaster, before anybody can write.
pub fn restore() {
    let Some(node) = AREA.node() else {
        return;
    };
    if let Some(contents) = contents(FILE) {
        let last_life = control_file::last_life();
        let here = Surroundings {
            system_identifier: ident::system_identifier(),
            timeline: last_life.timeline,
            has_backup_label: Path::new(BACKUP_LABEL).exists(),
            recovers: recovers(),
            last_stop: match last_life.end {
                End::InOrder(end) => LastStop::InOrder(end),
                End::InRecovery => LastStop::InRecovery,
                End::Other => LastStop::Other,
            },
            found: found(FILE),
        };
        apply(node, &contents, judge(&contents, &here));
    }
    if let Some(contents) = contents(RESERVED) {
        let here = reserved_file::Surroundings {
            system_identifier: ident::system_identifier(),
            has_backup_label: Path::new(BACKUP_LABEL).exists(),
            found: found(RESERVED),
        };
        apply_reservation(node, reserved_file::judge(&contents, &here));
    }
}

fn found(file: DurableFile) -> Found {
    Found { place: file.place().ok(), directory: durable_file::directory().ok() }
}

/// What is in a file, if it is there.
fn contents(file: DurableFile) -> Option<Vec<u8>> {
    // Of a call that did not get far enough.
    file.forget_unfinished();
    // Not readable is as bad as damaged.
    file.read().unwrap_or_else(|_| Some(Vec::new()))
}

fn void(file: DurableFile, why: &str) {
    let name = file.name;
    elog::log(&format!("ignoring and removing \"{name}\": {why}"));
    if let Err(error) = file.remove().map_err(GateError::from) {
        elog::log(&error.to_string());
    }
}

fn warn(message: String, hint: String) {
    let report = Report::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message).hint(hint);
    elog::emit(PgLogLevel::WARNING, &report);
}

fn apply_reservation(node: &Node, judgement: reserved_file::Judgement) {
    use reserved_file::Judgement;
    let file = RESERVED.name;
    let reserve = |clone, token| {
        // A node that is read-only as well is reserved first.
        node.set_state(NodeState::ReadWrite);
        node.begin_reservation(clone, token);
    };
    let how_to_open = |clone| {
        format!(
            "Finish or give up the clone's promotion. To open this node whatever becomes of it, as a superuser or a role with EXECUTE: \
             SELECT citus_fence.release_node_by_force({clone});"
        )
    };
    match judgement {
        Judgement::Reserved(record) => {
            reserve(record.clone, record.token);
            let clone = record.clone;
            elog::log(&format!("this node is reserved for clone {clone}, as \"{file}\" says"));
        }
        Judgement::Doubtful(record, why) => {
            reserve(record.clone, record.token);
            let clone = record.clone;
            warn(
                format!(
                    "this node is reserved for clone {clone}, as \"{file}\" says, although {why}"
                ),
                how_to_open(clone),
            );
        }
        Judgement::Damaged(what) => {
            reserve(UNKNOWN, Token::of_words([0; Token::WORDS]));
            warn(
                format!("this node is reserved for a clone because \"{file}\" is damaged: {what}"),
                how_to_open(UNKNOWN),
            );
        }
        Judgement::Void(why) => void(RESERVED, why),
    }
}

fn apply(node: &Node, contents: &[u8], judgement: Judgement) {
    let file = FILE.name;
    match judgement {
        Judgement::ReadOnly { record, stay, doubt } => {
            node.set_with_cluster(record.with_cluster);
            let until = match stay {
                Some(stay) => {
                    node.set_staying(stay, record.lsn, record.since);
                    ", and stays so when it is promoted, unless it replays WAL of another server first"
                }
                None => {
                    node.set_closed(record.lsn, record.since);
                    ""
                }
            };
            match doubt {
                None => elog::log(&format!("system is now read only, as \"{file}\" says{until}")),
                Some(why) => warn(
                    format!("system is now read only, as \"{file}\" says, although {why}{until}"),
                    how_to_write(record.with_cluster).to_owned(),
                ),
            }
            // What was decided is not doubted again.  Should it fail, the next start finds out the same.
            let is_told = Record::parse(contents).is_ok_and(|told| told == record);
            if (!is_told || doubt.is_some() || record.home.is_none())
                && let Err(error) = write_record(&record)
            {
                elog::log(&error.to_string());
            }
        }
        Judgement::Damaged(what) => {
            node.set_closed(0, crate::pg::clock::now());
            warn(
                format!("system is now read only because \"{file}\" is damaged: {what}"),
                how_to_write(false).to_owned(),
            );
        }
        Judgement::Void(why) => void(FILE, why),
    }
}
