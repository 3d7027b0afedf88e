//! Every acknowledged write, exactly once.

use std::collections::{BTreeSet, HashMap};

use test_cluster::{Cluster, Engine, Result, ShardRow};

use super::Audit;
use crate::book::{Book, WriterBook};
use crate::kind::{Kind, Table};
use crate::tables::Tables;

/// Rows per turn.
type Found = HashMap<i64, u64>;

pub(super) fn check(
    cluster: &Cluster,
    tables: &Tables,
    book: &Book,
    audit: &mut Audit,
) -> Result<()> {
    let mut found: HashMap<Table, Found> = HashMap::new();
    for table in tables.all() {
        match table {
            // They count in other ways.
            Table::Counters | Table::Entries => {}
            _ => {
                let rows = found.entry(table).or_default();
                for name in table.names() {
                    for row in
                        cluster.read_all_shards(&name, "SELECT op, count(*) FROM %s GROUP BY op")?
                    {
                        *rows.entry(number(&row, 0)).or_default() += number(&row, 1).unsigned_abs();
                    }
                }
            }
        }
    }
    for writer in &book.writers {
        match writer.kind.table() {
            Table::Counters | Table::Entries => {}
            table => {
                if let Some(found) = found.get_mut(&table) {
                    check_turns(writer, found, audit);
                }
            }
        }
    }
    for (table, rows) in found {
        if !rows.is_empty() {
            audit.wrong.push(format!("{table:?}: rows of {} turns that nobody made", rows.len()));
        }
    }
    check_counters(cluster, book, audit)?;
    if tables.engine() == Engine::Citus {
        check_references(cluster, book, audit)?;
        check_drawn(cluster, audit)?;
    }
    let transfers: Vec<&str> = book.bank.iter().flat_map(|bank| bank.transfers()).collect();
    let bank = tables.bank.audit(cluster, transfers)?;
    audit.lost_transfers = bank.missing_acknowledged.len();
    if !bank.is_clean() {
        audit.wrong.push(format!("the bank: {bank}"));
    }
    Ok(())
}

/// Takes a writer's turns out of what was found, and says what is wrong with them.
fn check_turns(writer: &WriterBook, found: &mut Found, audit: &mut Audit) {
    let rows = writer.kind.rows();
    let mut note = |which: fn(&mut Audit) -> &mut super::Turns, op: i64| {
        which(audit).entry(writer.kind).or_default().push(op);
    };
    for &op in &writer.acknowledged {
        let there = found.remove(&op).unwrap_or(0);
        if there < rows {
            note(|audit| &mut audit.lost, op);
        } else if there > rows {
            note(|audit| &mut audit.doubled, op);
        }
    }
    for op in writer.unknown.iter().filter_map(|miss| miss.op) {
        let there = found.remove(&op).unwrap_or(0);
        if there > rows {
            note(|audit| &mut audit.doubled, op);
        } else if there != 0 && there != rows {
            note(|audit| &mut audit.half, op);
        }
    }
    for op in writer.refused.iter().filter_map(|miss| miss.op) {
        if found.remove(&op).is_some() {
            note(|audit| &mut audit.undead, op);
        }
    }
}

/// How often a writer's counter may have been counted up: as often as acknowledged, and what nobody knows of.
fn range(writer: &WriterBook) -> std::ops::RangeInclusive<i64> {
    let count = |turns: usize| i64::try_from(turns).unwrap_or(i64::MAX);
    let acknowledged = count(writer.acknowledged.len());
    acknowledged..=acknowledged + count(writer.unknown.len())
}

/// Every row of a writer's counter has counted all of its turns.
fn check_counters(cluster: &Cluster, book: &Book, audit: &mut Audit) -> Result<()> {
    let mut counters: HashMap<i64, Vec<i64>> = HashMap::new();
    for row in cluster.read_all_shards("counters", "SELECT writer, n FROM %s")? {
        counters.entry(number(&row, 0)).or_default().push(number(&row, 1));
    }
    for writer in book.writers.iter().filter(|writer| writer.kind == Kind::AllShards) {
        let counts = counters.remove(&writer.writer).unwrap_or_default();
        let range = range(writer);
        if i64::try_from(counts.len()).ok() != Some(crate::kind::SEEDS) {
            audit.wrong.push(format!("writer {}: {} counters", writer.writer, counts.len()));
        }
        // A turn each that is missing in some row.
        let least = counts.iter().copied().min().unwrap_or(0);
        if least < *range.start() {
            audit.lost.entry(Kind::AllShards).or_default().extend(least..*range.start());
        }
        let distinct: BTreeSet<i64> = counts.iter().copied().collect();
        if distinct.len() > 1 || distinct.iter().any(|count| !range.contains(count)) {
            audit.wrong.push(format!(
                "writer {}: counters of {distinct:?}, which were counted up {range:?} times",
                writer.writer
            ));
        }
    }
    Ok(())
}

/// The same rows in every copy, and a copy on every node.
fn check_references(cluster: &Cluster, book: &Book, audit: &mut Audit) -> Result<()> {
    let mut entries: HashMap<usize, Found> = HashMap::new();
    let mut sums: HashMap<usize, HashMap<i64, i64>> = HashMap::new();
    for row in cluster.read_all_shards("ref_entries", "SELECT op, count(*) FROM %s GROUP BY op")? {
        entries
            .entry(row.node)
            .or_default()
            .insert(number(&row, 0), number(&row, 1).unsigned_abs());
    }
    for row in cluster.read_all_shards("ref_sums", "SELECT writer, n FROM %s")? {
        sums.entry(row.node).or_default().insert(number(&row, 0), number(&row, 1));
    }
    let copies = cluster.placements("ref_sums")?;
    for node in 0..cluster.nodes().len() {
        if copies.iter().filter(|copy| copy.node == node).count() != 1 {
            audit.wrong.push(format!("node {node} has not one copy of a reference table"));
            continue;
        }
        let mut entries = entries.remove(&node).unwrap_or_default();
        let sums = sums.remove(&node).unwrap_or_default();
        for writer in book.writers.iter().filter(|writer| writer.kind == Kind::Reference) {
            check_turns(writer, &mut entries, audit);
            let sum = sums.get(&writer.writer).copied();
            if !sum.is_some_and(|sum| range(writer).contains(&sum)) {
                audit.wrong.push(format!(
                    "node {node}: reference counter {} is {sum:?}, and was counted up {:?} times",
                    writer.writer,
                    range(writer)
                ));
            }
        }
        if !entries.is_empty() {
            audit.wrong.push(format!(
                "node {node}: reference rows of {} turns that nobody made",
                entries.len()
            ));
        }
    }
    Ok(())
}

/// No value of a sequence twice.
fn check_drawn(cluster: &Cluster, audit: &mut Audit) -> Result<()> {
    let rows = cluster.read_all_shards("drawn", "SELECT id, number FROM %s")?;
    for column in 0..2 {
        let distinct: BTreeSet<i64> = rows.iter().map(|row| number(row, column)).collect();
        audit.drawn_twice += rows.len() - distinct.len();
    }
    Ok(())
}

/// A number that the query makes sure of.
fn number(row: &ShardRow, column: usize) -> i64 {
    let value = row.values.get(column).and_then(Option::as_deref);
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{row:?} has no number in column {column}"))
}
