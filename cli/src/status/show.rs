//! A status in lines, for people.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::answer::{Block, Node, State, Status, WaitingSession};
use crate::units::spell;

/// How much of a waiter's statement is shown.
const QUERY_WIDTH: usize = 60;

/// All of it, each line with its end.
pub fn lines(status: &Status) -> String {
    let mut lines = vec![block(status)];
    if status.block.state != State::Inactive && status.block.state != State::Error {
        lines.push(processes(status));
    }
    match &status.nodes {
        Some(nodes) => {
            for its_node in nodes {
                lines.push(node(its_node));
                lines.extend(waiters_of(status, its_node));
            }
        }
        None => lines.push(no_right(status, "the block's nodes", "citus_backup_block_nodes()")),
    }
    match &status.waiters {
        Some(waiters) => lines.extend(
            waiters
                .iter()
                .filter(|waiter| !is_listed(status, waiter))
                .map(|waiter| waiting(status, waiter)),
        ),
        None if status.findings.is_empty() => {
            lines.push(no_right(status, "who waits", "citus_backup_block_waiters()"));
        }
        None => {}
    }
    lines.extend(status.findings.iter().map(|finding| format!("look: {}", plain(finding))));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The block's own line.
fn block(status: &Status) -> String {
    let server = &status.server;
    let place = format!("database \"{}\" of {}:{}", server.database, server.host, server.port);
    let block = &status.block;
    let since = |since: Option<DateTime<Utc>>| match since {
        Some(since) => format!(
            ", since {} ({} ago)",
            since.format("%F %T UTC"),
            spell(between(since, status.asked_at))
        ),
        None => String::new(),
    };
    let what = match block.state {
        State::Inactive => "no block".to_owned(),
        State::Error => "no block; the last one failed".to_owned(),
        State::Starting => {
            format!("{} is being started{}", named(block), since(block.block_start_time))
        }
        State::Releasing => {
            format!("{} is being released{}", named(block), since(block.block_start_time))
        }
        State::Active => format!("{} is active{}", named(block), since(block.block_start_time)),
    };
    match block.expires_at {
        Some(end) => format!(
            "{what}, ends by itself at {} (in {}): {place}",
            end.format("%T UTC"),
            spell(between(status.asked_at, end))
        ),
        None => format!("{what}: {place}"),
    }
}

/// What it is called, and in which mode it is.
fn named(block: &Block) -> String {
    let mode = block.mode.as_deref().map_or(String::new(), |mode| format!(" (mode {mode})"));
    match block.block_id {
        Some(number) => format!("block {number}{mode}"),
        None => "a block".to_owned(),
    }
}

/// Who holds it and who wanted it.
fn processes(status: &Status) -> String {
    let block = &status.block;
    let process = |pid: Option<i32>| pid.map_or("none".to_owned(), |pid| pid.to_string());
    let nodes = match block.node_count {
        None => String::new(),
        Some(1) => ", on 1 node".to_owned(),
        Some(count) => format!(", on {count} nodes"),
    };
    format!(
        "asked for by process {}, held by worker process {}{nodes}",
        process(block.requestor_pid),
        process(block.worker_pid)
    )
}

fn node(node: &Node) -> String {
    format!(
        "node {}:{} (group {}): held by process {}, WAL {} on timeline {}",
        node.nodename,
        node.nodeport,
        node.groupid,
        node.backend_pid,
        node.wal_lsn,
        node.timeline_id
    )
}

/// The waiters on one node, indented below it.
fn waiters_of(status: &Status, node: &Node) -> Vec<String> {
    let waiters = status.waiters.as_deref().unwrap_or_default();
    let here = waiters.iter().filter(|waiter| is_on(waiter, node));
    here.map(|waiter| format!("  {}", what_waits(status, waiter))).collect()
}

/// A waiter on a node that is not listed.
fn waiting(status: &Status, waiter: &WaitingSession) -> String {
    format!("node {}:{}: {}", waiter.nodename, waiter.nodeport, what_waits(status, waiter))
}

fn what_waits(status: &Status, waiter: &WaitingSession) -> String {
    let since = waiter
        .waiting_since
        .map_or(String::new(), |since| format!(" for {}", spell(between(since, status.asked_at))));
    let user = waiter.usename.as_deref().map_or(String::new(), |user| format!(" ({user})"));
    let query = shortened(&plain(waiter.query.as_deref().unwrap_or_default()));
    format!("process {}{user} waits{since}: {query}", waiter.pid)
}

fn is_on(waiter: &WaitingSession, node: &Node) -> bool {
    waiter.nodename == node.nodename && waiter.nodeport == node.nodeport
}

fn is_listed(status: &Status, waiter: &WaitingSession) -> bool {
    status.nodes.iter().flatten().any(|node| is_on(waiter, node))
}

fn no_right(status: &Status, what: &str, function: &str) -> String {
    format!(
        "{what}: not shown to user \"{}\"; GRANT EXECUTE ON FUNCTION {function} changes that",
        status.server.user
    )
}

/// The time from one moment to a later one; none if the clocks see it the other way round.
fn between(earlier: DateTime<Utc>, later: DateTime<Utc>) -> Duration {
    (later - earlier).to_std().unwrap_or_default()
}

/// Somebody else's text on one line, without anything a terminal would obey.
fn plain(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUERY_WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
