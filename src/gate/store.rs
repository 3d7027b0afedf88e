//! The state file in the data directory: written so that after a crash at any moment there is either the
//! old or the new state, and read when the postmaster makes shared memory.

use std::path::Path;

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::area::{AREA, Node};
use super::error::GateError;
use super::state_file::{Judgement, Record, Surroundings, judge};
use crate::pg::control_file;
use crate::pg::durable_file::{DurableFile, Failed};
use crate::pg::elog;
use crate::pg::ident;
use crate::report::Report;

const FILE: DurableFile =
    DurableFile { name: "citus_fence.read_only", temporary: "citus_fence.read_only.tmp" };
/// These say that the directory is a base backup, or about to be a standby or to recover to some point.
const SIGNS_OF_A_COPY: [&str; 3] = ["backup_label", "standby.signal", "recovery.signal"];

/// Writes the file, and has it on disk when it returns.
pub fn write(record: Record) -> Result<(), GateError> {
    Ok(FILE.write(&record.to_text())?)
}

/// Removes the file, and has that on disk when it returns.
pub fn remove() -> Result<(), GateError> {
    Ok(FILE.remove()?)
}

impl From<Failed> for GateError {
    fn from(failed: Failed) -> Self {
        let Failed { what, file, why } = failed;
        Self::File { what, file, why: why.to_string() }
    }
}

/// Finds out whether the node is read-only, in the postmaster, before anybody can write.
pub fn restore() {
    let Some(node) = AREA.node() else {
        return;
    };
    // Of a switch that did not get far enough.
    FILE.forget_unfinished();
    let contents = match FILE.read() {
        Ok(None) => return,
        // Not readable is as bad as damaged.
        Err(_) => Vec::new(),
        Ok(Some(contents)) => contents,
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
    let file = FILE.name;
    match judgement {
        Judgement::ReadOnly(record) => {
            node.set_closed(record.lsn, record.since);
            elog::log(&format!("system is now read only, as \"{file}\" says"));
        }
        Judgement::Damaged(what) => {
            node.set_closed(0, crate::pg::clock::now());
            elog::emit(
                PgLogLevel::WARNING,
                &Report::new(
                    PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
                    format!("system is now read only because \"{file}\" is damaged: {what}"),
                )
                .hint(HINT),
            );
        }
        Judgement::Void(why) => {
            elog::log(&format!("ignoring and removing \"{file}\": {why}"));
            if let Err(error) = remove() {
                elog::log(&error.to_string());
            }
        }
    }
}
