//! What `status` knows, and so the shape of its JSON; docs/command.md describes it.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::exit::Exit;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// When, by the coordinator's clock.
    pub asked_at: DateTime<Utc>,
    /// Who answered.
    pub server: Answerer,
    /// The block.
    pub block: Block,
    /// The nodes under the block; none if the user may not see them.
    pub nodes: Option<Vec<Node>>,
    /// The sessions that wait because of the block; none if they are not known.
    pub waiters: Option<Vec<WaitingSession>>,
    /// What needs a look, in sentences.
    pub findings: Vec<String>,
}

/// The server that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answerer {
    pub host: String,
    pub port: i32,
    pub database: String,
    /// The user that was asked as.
    pub user: String,
    /// As text: JSON's numbers are not that long everywhere.
    pub system_identifier: String,
    pub postgresql: String,
    pub citus_fence: String,
}

/// The states of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Inactive,
    Starting,
    Active,
    Releasing,
    /// The last block ended, and nobody had asked for that.
    Error,
}

impl FromStr for State {
    type Err = ();

    fn from_str(text: &str) -> Result<State, ()> {
        match text {
            "inactive" => Ok(State::Inactive),
            "starting" => Ok(State::Starting),
            "active" => Ok(State::Active),
            "releasing" => Ok(State::Releasing),
            "error" => Ok(State::Error),
            _ => Err(()),
        }
    }
}

/// A row of `citus_backup_block_status()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Block {
    pub state: State,
    pub worker_pid: Option<i32>,
    pub requestor_pid: Option<i32>,
    pub block_start_time: Option<DateTime<Utc>>,
    pub timeout_ms: Option<i32>,
    pub node_count: Option<i32>,
    pub expires_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    /// Its number, or that of the last one, which `error` tells of.  None before 0.2.0.
    pub block_id: Option<i64>,
    pub mode: Option<String>,
}

/// A row of `citus_backup_block_nodes()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    pub nodeid: Option<i32>,
    pub groupid: i32,
    pub nodename: String,
    pub nodeport: i32,
    pub backend_pid: i32,
    pub locked_at: Option<DateTime<Utc>>,
    /// As text, without a sign: SQL has no number for it.
    pub system_identifier: String,
    pub timeline_id: i32,
    pub wal_lsn: String,
}

/// A row of `citus_backup_block_waiters()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaitingSession {
    pub nodeid: Option<i32>,
    pub nodename: String,
    pub nodeport: i32,
    pub pid: i32,
    pub usename: Option<String>,
    pub waiting_since: Option<DateTime<Utc>>,
    pub query: Option<String>,
}

impl Status {
    /// Findings need a look; a block, or none, is nothing to worry about.
    pub fn exit(&self) -> Exit {
        if self.findings.is_empty() { Exit::Done } else { Exit::Findings }
    }
}
