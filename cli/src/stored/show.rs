//! Both in lines, for people.

use std::collections::BTreeMap;

use super::Stored;
use super::verify::Verified;
use crate::dump::Dump;
use crate::manifest::Backup;
use crate::nodes::called;
use crate::units::{size, spell};

/// What a directory holds.
pub fn lines(stored: &Stored) -> String {
    let lines = match stored {
        Stored::Backup(backup) => of_backup(backup),
        Stored::Dump(dump) => of_dump(dump),
    };
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A backup.
pub fn lines_of_backup(backup: &Backup) -> String {
    of_backup(backup).iter().map(|line| format!("{line}\n")).collect()
}

fn of_backup(backup: &Backup) -> Vec<String> {
    let block = &backup.block;
    let what = match &backup.point {
        None => "all copies ended".to_owned(),
        Some(point) => format!("to be brought to restore point {point}, which was made"),
    };
    let mut lines = vec![
        format!(
            "backup of database \"{}\" ({}), {what} under block {} (mode {})",
            backup.database,
            engine(backup.citus.as_deref()),
            block.id,
            block.mode
        ),
        format!(
            "writers were held from {} to {} ({})",
            block.began_at.format("%F %T UTC"),
            block.ended_at.format("%T UTC"),
            spell(std::time::Duration::from_millis(block.held_ms))
        ),
    ];
    lines.extend(backup.nodes.iter().map(|node| {
        let place = node
            .data
            .as_ref()
            .map_or_else(|| format!("copied by {}", node.tool), |data| data.display().to_string());
        format!(
            "  {}: PostgreSQL {}, {}, up to {} on timeline {}, {place}",
            called(&node.name, node.port, node.groupid),
            node.postgresql,
            size(node.bytes),
            node.wal_lsn,
            node.timeline
        )
    }));
    lines.extend(backup.missing.iter().map(|node| {
        format!(
            "look: no copy of group {} ({}:{}): {}",
            node.groupid, node.name, node.port, node.why
        )
    }));
    lines
}

fn of_dump(dump: &Dump) -> Vec<String> {
    let sum = |of: fn(&crate::dump::DataFile) -> u64| dump.files.iter().map(of).sum::<u64>();
    let mut lines = vec![format!(
        "dump of database \"{}\" ({}, PostgreSQL {}) as of {}: {} tables, {} rows, {} ({} on disk), from {} nodes",
        dump.database,
        engine(dump.citus.as_deref()),
        dump.postgresql,
        dump.taken_at.format("%F %T UTC"),
        dump.tables.len(),
        sum(|file| file.rows),
        size(sum(|file| file.bytes)),
        size(sum(|file| file.stored_bytes)),
        dump.nodes.len()
    )];
    let mut of_table: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for file in &dump.files {
        let (rows, bytes) = of_table.entry((&file.schema, &file.table)).or_default();
        *rows += file.rows;
        *bytes += file.bytes;
    }
    lines.extend(dump.tables.iter().map(|table| {
        let (rows, bytes) = of_table
            .get(&(table.schema.as_str(), table.name.as_str()))
            .copied()
            .unwrap_or_default();
        format!(
            "  {}.{}  {}  {rows} rows  {}",
            table.schema,
            table.name,
            table.kind.spelled(),
            size(bytes)
        )
    }));
    lines.extend(dump.not_dumped.iter().map(|what| format!("look: {what}")));
    lines
}

fn engine(citus: Option<&str>) -> String {
    citus.map_or_else(|| "embedded catalog".to_owned(), |version| format!("Citus {version}"))
}

/// That all is well.
pub fn verified(verified: &Verified) -> String {
    if verified.parts == 0 && verified.elsewhere > 0 {
        return format!(
            "no copy is here to be read, only the manifest, which is as it was written: {} are kept by another tool\n",
            verified.elsewhere
        );
    }
    let parts = match (verified.kind, verified.parts) {
        ("backup", 1) => "1 copy".to_owned(),
        ("backup", count) => format!("{count} copies"),
        (_, 1) => "1 file".to_owned(),
        (_, count) => format!("{count} files"),
    };
    let elsewhere = match verified.elsewhere {
        0 => String::new(),
        count => format!("; {count} are kept by another tool, and were not read"),
    };
    let full = verified.full.as_ref().map(crate::restore::Tried::lines).unwrap_or_default();
    format!("{parts} read, all as they were written{elsewhere}\n{full}")
}
