//! Covers `show` and the JSON of `answer`.

use chrono::TimeDelta;
use serde_json::json;

use super::super::answer::Answerer;
use super::*;
use crate::exit::Exit;

fn at(second: i64) -> DateTime<Utc> {
    let start: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().expect("a time");
    start + TimeDelta::seconds(second)
}

/// A block on a node, and a session that waits.
fn blocked() -> Status {
    Status {
        asked_at: at(12),
        server: Answerer {
            host: "c".into(),
            port: 5432,
            database: "shop".into(),
            user: "backup".into(),
            system_identifier: "18446744073709551615".into(),
            postgresql: "15.4".into(),
            citus_fence: "0.1.0".into(),
        },
        block: Block {
            state: State::Active,
            worker_pid: Some(10),
            requestor_pid: Some(11),
            block_start_time: Some(at(0)),
            timeout_ms: Some(300_000),
            node_count: Some(1),
            expires_at: Some(at(300)),
            error: None,
            block_id: Some(825_681_600_000_000),
            mode: Some("2pc".into()),
        },
        nodes: Some(vec![Node {
            nodeid: Some(1),
            groupid: 0,
            nodename: "c".into(),
            nodeport: 5432,
            backend_pid: 10,
            locked_at: Some(at(0)),
            system_identifier: "7".into(),
            timeline_id: 1,
            wal_lsn: "0/3000060".into(),
        }]),
        waiters: Some(vec![WaitingSession {
            nodeid: Some(1),
            nodename: "c".into(),
            nodeport: 5432,
            pid: 99,
            usename: Some("app".into()),
            waiting_since: Some(at(10)),
            query: Some("COMMIT\n\u{1b}[2J".into()),
        }]),
        findings: Vec::new(),
    }
}

/// No block, and a user who may see no more.
fn unblocked() -> Status {
    let mut status = blocked();
    status.block = Block {
        state: State::Inactive,
        worker_pid: None,
        requestor_pid: None,
        block_start_time: None,
        timeout_ms: None,
        node_count: None,
        expires_at: None,
        error: None,
        block_id: None,
        mode: None,
    };
    status.nodes = None;
    status.waiters = None;
    status
}

#[test]
fn a_block_in_lines() {
    assert_eq!(
        lines(&blocked()),
        "block 825681600000000 (mode 2pc) is active, since 2026-03-01 12:00:00 UTC (12 s ago), ends by itself at 12:05:00 UTC \
         (in 4 min 48 s): database \"shop\" of c:5432\n\
         asked for by process 11, held by worker process 10, on 1 node\n\
         node c:5432 (group 0): held by process 10, WAL 0/3000060 on timeline 1\n  \
         process 99 (app) waits for 2.0 s: COMMIT \u{fffd}[2J\n"
    );
    assert_eq!(blocked().exit(), Exit::Done);
}

#[test]
fn a_block_of_a_release_without_numbers_is_shown_too() {
    let mut status = blocked();
    (status.block.block_id, status.block.mode) = (None, None);
    assert!(lines(&status).starts_with("a block is active, since"), "{}", lines(&status));
}

#[test]
fn what_may_not_be_seen_is_said() {
    let text = lines(&unblocked());
    assert!(text.starts_with("no block: database \"shop\" of c:5432\n"), "{text}");
    assert!(
        text.contains("the block's nodes: not shown to user \"backup\"; GRANT EXECUTE"),
        "{text}"
    );
    assert!(text.contains("who waits: not shown"), "{text}");
    assert_eq!(unblocked().exit(), Exit::Done);
}

#[test]
fn a_waiter_on_a_node_that_is_not_listed_is_shown_too() {
    let mut status = blocked();
    status.nodes = None;
    assert!(lines(&status).contains("node c:5432: process 99 (app) waits"), "{}", lines(&status));
}

#[test]
fn findings_are_shown_and_change_the_exit_code() {
    let mut status = unblocked();
    status.findings.push("the last block ended".into());
    assert!(lines(&status).contains("look: the last block ended\n"));
    assert_eq!(status.exit(), Exit::Findings);
}

#[test]
fn long_statements_are_cut_between_characters() {
    assert_eq!(shortened(&"é".repeat(61)), format!("{}…", "é".repeat(60)));
    assert_eq!(shortened("SELECT 1"), "SELECT 1");
}

#[test]
fn the_shape_of_the_json() {
    assert_eq!(
        serde_json::to_value(blocked()).expect("JSON"),
        json!({
            "asked_at": "2026-03-01T12:00:12Z",
            "server": {
                "host": "c", "port": 5432, "database": "shop", "user": "backup",
                "system_identifier": "18446744073709551615", "postgresql": "15.4", "citus_fence": "0.1.0"
            },
            "block": {
                "state": "active", "worker_pid": 10, "requestor_pid": 11,
                "block_start_time": "2026-03-01T12:00:00Z", "timeout_ms": 300_000, "node_count": 1,
                "expires_at": "2026-03-01T12:05:00Z", "error": null,
                "block_id": 825_681_600_000_000_i64, "mode": "2pc"
            },
            "nodes": [{
                "nodeid": 1, "groupid": 0, "nodename": "c", "nodeport": 5432, "backend_pid": 10,
                "locked_at": "2026-03-01T12:00:00Z", "system_identifier": "7", "timeline_id": 1,
                "wal_lsn": "0/3000060"
            }],
            "waiters": [{
                "nodeid": 1, "nodename": "c", "nodeport": 5432, "pid": 99, "usename": "app",
                "waiting_since": "2026-03-01T12:00:10Z", "query": "COMMIT\n\u{1b}[2J"
            }],
            "findings": []
        })
    );
    let none = serde_json::to_value(unblocked()).expect("JSON");
    assert_eq!(none["nodes"], json!(null));
    assert_eq!(none["block"]["expires_at"], json!(null));
}
