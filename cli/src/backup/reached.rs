//! What a copy says of itself: how far its WAL goes, and where its timelines were left.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;
use crate::folder::failed;
use crate::lsn::number;
use crate::manifest::Fork;
use crate::nodes::Node;

/// The part of pg_basebackup's manifest that matters here.
#[derive(Deserialize)]
struct BackupManifest {
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "Timeline")]
    timeline: i32,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// Refuses a copy that ends before what the block promised, or on another timeline.
pub fn require(node: &Node, data: &Path, timeline: i32, wal_lsn: &str) -> Result<(), Failure> {
    let path = data.join("backup_manifest");
    let text = fs::read_to_string(&path).map_err(|error| failed("read", &path, error))?;
    let manifest: BackupManifest =
        serde_json::from_str(&text).map_err(|error| failed("read", &path, error.into()))?;
    let reached = manifest
        .ranges
        .iter()
        .filter(|range| range.timeline == timeline)
        .filter_map(|range| number(&range.end))
        .max();
    match (reached, number(wal_lsn)) {
        (Some(reached), Some(wanted)) if reached >= wanted => Ok(()),
        _ => Err(node.unfit(
            format!("its copy does not reach WAL {wal_lsn} on timeline {timeline}, from which on writers were held"),
            "Was the node failed over meanwhile? Run it again.",
        )),
    }
}

/// Where each timeline before this one was left, from the history file that comes with the copy's WAL.
pub fn forks(data: &Path, timeline: i32) -> Result<Vec<Fork>, Failure> {
    if timeline <= 1 {
        return Ok(Vec::new());
    }
    let path = data.join("pg_wal").join(format!("{timeline:08X}.history"));
    let text = fs::read_to_string(&path).map_err(|error| failed("read", &path, error))?;
    Ok(history(&text))
}

/// A history file's forks.
pub fn history(text: &str) -> Vec<Fork> {
    let fork = |line: &str| {
        let mut words = line.split_whitespace();
        let timeline = words.next()?.parse().ok()?;
        Some(Fork { timeline, lsn: words.next()?.to_owned() })
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(fork).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_the_forks() {
        let text = "1\t0/3000148\tno recovery target specified\n\n# a remark\n2\t0/5000000\tx\n";
        let forks = history(text);
        assert_eq!(forks.len(), 2);
        assert_eq!((forks[1].timeline, forks[1].lsn.as_str()), (2, "0/5000000"));
    }
}
