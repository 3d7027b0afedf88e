//! The state file in the data directory: written so that after a crash at any moment there is either the
//! old or the new state, and read when the postmaster makes shared memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::error::GateError;
use super::state_file::{Judgement, Record, Surroundings, judge};
use crate::pg::control_file::{self, fsync_is_on};
use crate::pg::elog;
use crate::pg::gate_area::{AREA, Node};
use crate::pg::ident;
use crate::report::Report;

/// Every process of the server works in the data directory.
pub const FILE: &str = "citus_fence.read_only";
const TEMPORARY: &str = "citus_fence.read_only.tmp";
/// These say that the directory is a base backup, or about to be a standby or to recover to some point.
const SIGNS_OF_A_COPY: [&str; 3] = ["backup_label", "standby.signal", "recovery.signal"];

/// Writes the file, and has it on disk when it returns.
pub fn write(record: Record) -> Result<(), GateError> {
    step("write", TEMPORARY, write_temporary(&record.to_text()))?;
    step("rename", TEMPORARY, fs::rename(TEMPORARY, FILE))?;
    step("sync the directory of", FILE, sync_directory())
}

/// Removes the file, and has that on disk when it returns.
pub fn remove() -> Result<(), GateError> {
    step("remove", FILE, remove_if_there(FILE))?;
    step("sync the directory of", FILE, sync_directory())
}

fn step(what: &'static str, file: &'static str, result: io::Result<()>) -> Result<(), GateError> {
    result.map_err(|error| GateError::File { what, file, why: error.to_string() })
}

fn write_temporary(text: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(TEMPORARY)?;
    file.write_all(text.as_bytes())?;
    sync(&file)
}

fn sync_directory() -> io::Result<()> {
    sync(&File::open(".")?)
}

fn sync(file: &File) -> io::Result<()> {
    if fsync_is_on() { file.sync_all() } else { Ok(()) }
}

fn remove_if_there(file: &str) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Finds out whether the node is read-only, in the postmaster, before anybody can write.
pub fn restore() {
    let Some(node) = AREA.node() else {
        return;
    };
    // Of a switch that did not get far enough.
    let _ = remove_if_there(TEMPORARY);
    let contents = match fs::read(FILE) {
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        // Not readable is as bad as damaged.
        Err(_) => Vec::new(),
        Ok(contents) => contents,
    };
    let here = Surroundings {
        system_identifier: ident::system_identifier(),
        timeline: control_file::timeline(),
        is_copy: SIGNS_OF_A_COPY.iter().any(|sign| Path::new(sign).exists()),
    };
    apply(node, judge(&contents, here));
}

fn apply(node: &Node, judgement: Judgement) {
    const HINT: &str =
        "To let this node write again, as a superuser: SELECT alter_system_read_write();";
    match judgement {
        Judgement::ReadOnly(record) => {
            node.set_closed(record.lsn, record.since);
            elog::log(&format!("system is now read only, as \"{FILE}\" says"));
        }
        Judgement::Damaged(what) => {
            node.set_closed(0, crate::pg::clock::now());
            elog::emit(
                PgLogLevel::WARNING,
                &Report::new(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("system is now read only because \"{FILE}\" is damaged: {what}"),
                )
                .hint(HINT),
            );
        }
        Judgement::Void(why) => {
            elog::log(&format!("ignoring and removing \"{FILE}\": {why}"));
            if let Err(error) = remove() {
                elog::log(&error.to_string());
            }
        }
    }
}
