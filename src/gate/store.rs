//! The state files in the data directory, of a read-only node and of a reserved one: written so that after a crash at any moment there is either the
//! old or the new state, and read when the postmaster makes shared memory.

use std::path::Path;

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::area::{AREA, Node, NodeState};
use super::error::GateError;
use super::reservation::UNKNOWN;
use super::reserved_file::{self, Token};
use super::state_file::{Judgement, Record, Surroundings, judge};
use crate::pg::control_file;
use crate::pg::durable_file::{self, DurableFile, Failed};
use crate::pg::elog;
use crate::pg::ident;
use crate::report::Report;

const FILE: DurableFile =
    DurableFile { name: "citus_fence.read_only", temporary: "citus_fence.read_only.tmp" };
const RESERVED: DurableFile =
    DurableFile { name: "citus_fence.reserved", temporary: "citus_fence.reserved.tmp" };
/// Says that the directory is a base backup that was not started yet.
const BACKUP_LABEL: &str = "backup_label";
/// These say that the directory is a base backup, or about to be a standby or to recover to some point.
const SIGNS_OF_A_COPY: [&str; 3] = [BACKUP_LABEL, "standby.signal", "recovery.signal"];

/// Writes the file, and has it on disk when it returns.
pub fn write(record: Record) -> Result<(), GateError> {
    Ok(FILE.write(&record.to_text())?)
}

/// Removes the file, and has that on disk when it returns.
pub fn remove() -> Result<(), GateError> {
    Ok(FILE.remove()?)
}

/// Writes down for which clone the node is reserved; on disk when it returns.
pub fn write_reservation(clone: i32, token: Token) -> Result<(), GateError> {
    let directory = durable_file::directory().map_err(|why| GateError::File {
        what: "find the directory of",
        file: RESERVED.name,
        why: why.to_string(),
    })?;
    let system_identifier = ident::system_identifier();
    let text = |place| {
        reserved_file::Record { clone, token, system_identifier, place, directory }.to_text()
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
        let here = Surroundings {
            system_identifier: ident::system_identifier(),
            timeline: control_file::timeline(),
            is_copy: SIGNS_OF_A_COPY.iter().any(|sign| Path::new(sign).exists()),
        };
        apply(node, judge(&contents, here));
    }
    if let Some(contents) = contents(RESERVED) {
        let here = reserved_file::Surroundings {
            system_identifier: ident::system_identifier(),
            has_backup_label: Path::new(BACKUP_LABEL).exists(),
            place: RESERVED.place().ok(),
            directory: durable_file::directory().ok(),
        };
        apply_reservation(node, reserved_file::judge(&contents, &here));
    }
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
            "Finish or give up the clone's promotion. To open this node whatever becomes of it, as a superuser: \
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

fn apply(node: &Node, judgement: Judgement) {
    const HINT: &str =
        "To let this node write again, as a superuser: SELECT alter_system_read_write();";
    let file = FILE.name;
    match judgement {
        Judgement::ReadOnly(record) => {
            node.set_closed(record.lsn, record.since);
            elog::log(&format!("system is now read only, as \"{file}\" says"));
        }
        Judgement::Damaged(what) => {
            node.set_closed(0, crate::pg::clock::now());
            warn(
                format!("system is now read only because \"{file}\" is damaged: {what}"),
                HINT.to_owned(),
            );
        }
        Judgement::Void(why) => void(FILE, why),
    }
}
