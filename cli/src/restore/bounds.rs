//! From where to where a copy goes in the WAL, and whether that is what was meant.
//!
//! A tool may bring another copy than the one that was made under the block, its newest say, and an archive may have two
//! restore points of one name. Either fits the manifest in all but its place in the WAL, and brings one node to another
//! moment than the others.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::fault::{At, Fault};
use super::plan::{Place, Plan};
use super::programs::Control;
use crate::durable;
use crate::lsn::number;

/// Puts a copy's label back where its recovery was interrupted.  The server puts it aside when it begins, and without it,
/// and without an archive, a second start does not know the end of the backup when it comes, and dies there ("WAL ends
/// before end of online backup", PostgreSQL 15.20).  With it recovery begins anew at the backup's checkpoint, as it did
/// the first time.
///
/// The control file names the backup's start until that recovery has ended, so that no label of another backup counts,
/// and none once anything new has been written.
pub fn give_label_back(data: &Path, control: &Control) -> Result<(), Fault> {
    let start = control.get("Backup start location")?;
    let (label, aside) = (data.join("backup_label"), data.join("backup_label.old"));
    if start == "0/0" || label.exists() {
        return Ok(());
    }
    let text = match fs::read_to_string(&aside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.at("read", &aside)?,
    };
    if start_of(&text) == Some(start) {
        fs::rename(&aside, &label).at("rename", &aside)?;
        durable::sync_directory(data).at("sync", data)?;
    }
    Ok(())
}

/// Where a backup was begun, as its label says.
fn start_of(label: &str) -> Option<&str> {
    let line = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "));
    line.and_then(|place| place.split_whitespace().next())
}

/// Refuses a copy that goes on from beyond where it has to end: recovery goes forward only. It has not been started yet.
pub fn begun_in_time(plan: &Plan, place: &Place, control: &Control) -> Result<(), Fault> {
    let data = &place.to.data;
    let (end, what) = match (&plan.point, &place.node.held_until) {
        (Some(point), _) if point.is_known => {
            (&place.node.wal_lsn, format!("the restore point \"{}\"", point.name))
        }
        (None, Some(until)) => (until, "the end of the block".to_owned()),
        _ => return Ok(()),
    };
    let path = data.join("backup_label");
    let label = match fs::read_to_string(&path) {
        // Of a volume snapshot; or of a server that is no copy at all.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        other => Some(other.at("read", &path)?),
    };
    let begun = match &label {
        Some(label) => start_of(label).unwrap_or_default().to_owned(),
        None => control.get("Latest checkpoint location")?.to_owned(),
    };
    match (number(&begun), number(end)) {
        (Some(at), Some(end_at)) if at < end_at => Ok(()),
        _ => Err(place.refused(
            format!(
                "{} goes on from WAL {begun}, and {what} is at {end}: this is a later copy, or no copy",
                data.display()
            ),
            format!(
                "Bring the copy there that had ended before ({}); most tools bring their newest unless told otherwise. \
                 Nothing has been changed.",
                place.node.tool
            ),
        )),
    }
}

/// Refuses a node whose recovery has stopped elsewhere than where the manifest has the point.
pub fn is_at_the_point(plan: &Plan, place: &Place, control: &Control) -> Result<(), Fault> {
    let Some(point) = plan.point.as_ref().filter(|point| point.is_known) else { return Ok(()) };
    let stopped = control.get("Minimum recovery ending location")?;
    match (number(stopped), number(&place.node.wal_lsn)) {
        (Some(stopped), Some(at)) if stopped == at => Ok(()),
        _ => Err(place.refused(
            format!(
                "recovery has stopped at WAL {stopped}, and the restore point \"{}\" is at {}: the archive has another \
                 one of that name",
                point.name, place.node.wal_lsn
            ),
            "No node has been promoted. Bring a copy there that was begun after the other one, or restore to another point.",
        )),
    }
}

/// Refuses a copy whose recovery has ended in a first start that gave no verdict: what has been written since is not told
/// from what the copy brought along.
pub fn is_still_recovering(place: &Place, control: &Control) -> Result<(), Fault> {
    let state = control.get("Database cluster state")?;
    if ["in archive recovery", "in crash recovery", "shut down in recovery"].contains(&state) {
        return Ok(());
    }
    Err(place.refused(
        "its recovery has ended before, and whether the copy had ended under the block was not found then, or not so",
        format!(
            "Empty the data directory, and bring the copy there that was made under the block ({}).",
            place.node.tool
        ),
    ))
}

/// Refuses a copy that has turned out to go beyond the end of the block, by its recovery's last record.
pub fn ended_in_time(place: &Place, last_record: Option<&str>) -> Result<(), Fault> {
    let (Some(until), Some(last)) = (&place.node.held_until, last_record) else { return Ok(()) };
    match (number(last), number(until)) {
        (Some(last), Some(until)) if last < until => Ok(()),
        _ => Err(place.refused(
            format!(
                "the copy goes on to WAL {last}, and the block of the backup had ended at {until}: it was made later than \
                 the others"
            ),
            format!(
                "Empty the data directory, and bring the copy there that was made under the block ({}).",
                place.node.tool
            ),
        )),
    }
}
