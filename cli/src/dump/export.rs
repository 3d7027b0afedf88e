//! The snapshot of all nodes, and who keeps it.
//!
//! ```text
//! coordinator: LOCK distributed tables ── export ──────────────────────────── release
//! each node:                                  └─ import ── export again ──────┘ └─ kept to the end
//! ```
//! Whoever has imported a snapshot can export it again, so the extension's own export, with its fence worker and
//! lease, is needed for as long as all keepers have theirs. From then on each node's snapshot lives in a session
//! of this program, and ends with it, however that ends: nothing is left of a dump that is killed.
//!
//! The tables are locked *before* the snapshot: what came between could not be seen by either. Only the
//! coordinator's own tables are; DDL propagation is off, or the lock would be taken on every node.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use remote::{RemoteError, Target};
use tracing::{debug, warn};

use super::args::DumpArgs;
use super::error::DumpError;
use super::leavings::Leavings;
use super::manifest::Node;
use super::session::{NodeSession, Reach};
use crate::connection::Destination;
use crate::failure::Failure;
use crate::rows::{only_row, rows};

/// The life of the extension's export: what importing on all nodes may take.
const LEASE: Duration = Duration::from_secs(60);

/// How often a session that only waits is spoken to: some links forget one that is silent, and a snapshot that is
/// lost is to be told of before the workers find that out one by one.
const TALK_EVERY: Duration = Duration::from_secs(2);

/// How often the tables are locked until none was dropped meanwhile.
const LOCK_TRIES: u32 = 10;

/// A node, and the session that keeps its snapshot.
pub struct Keeper {
    pub node: Node,
    pub reach: Reach,
    pub session: NodeSession,
}

impl Keeper {
    /// Asks under the snapshot.
    pub fn ask(&mut self, name: &'static str, sql: &str) -> Result<remote::Reply, Failure> {
        self.session.ask(name, sql).map_err(|error| self.lost(error))
    }

    /// An error of the keeper's session: its snapshot is gone with the transaction.
    fn lost(&self, error: RemoteError) -> Failure {
        match error {
            RemoteError::Stopped { .. } => Failure::Remote(error),
            error => {
                let node = self.session.node().to_string();
                DumpError::KeeperLost { node, error }.into()
            }
        }
    }
}

/// The snapshots of all nodes, the coordinator's first.
pub struct Snapshots {
    pub keepers: Vec<Keeper>,
    /// The session that locks the coordinator's tables.
    locker: NodeSession,
    /// What keeps shards that were moved or split from being cleaned up before they are copied.
    leavings: Leavings,
    talked: Instant,
}

/// Takes them.
pub fn take(
    args: &DumpArgs,
    destination: &Destination,
    coordinator: &mut NodeSession,
    coordinator_reach: &Reach,
    halt: &Arc<AtomicBool>,
) -> Result<Snapshots, Failure> {
    let mut locker = NodeSession::open(coordinator_reach, halt)?;
    lock_tables(args, &mut locker)?;
    let home: String = coordinator
        .ask(
            "find the extension",
            "SELECT quote_ident(n.nspname) FROM pg_extension e
               JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'citus_fence'",
        )?
        .parse_single()?;
    let sql = format!(
        "SELECT export_id, nodeid, groupid, nodename, nodeport, snapshot_id, wal_lsn, current_user AS me,
                current_database() AS db
           FROM {home}.citus_export_cluster_snapshot(timeout_ms => {}) ORDER BY groupid",
        LEASE.as_millis()
    );
    let reply = coordinator.ask("export the cluster snapshot", &sql)?;
    let mut keepers = Vec::new();
    let mut export_id = 0_i64;
    for row in rows(&reply)? {
        export_id = row.get("export_id")?;
        let mut node = Node {
            // A coordinator that its own catalog does not have is where it was reached.
            nodeid: row.maybe("nodeid")?.unwrap_or(0),
            groupid: row.get("groupid")?,
            name: row
                .maybe("nodename")?
                .unwrap_or_else(|| coordinator_reach.target.node.host.clone()),
            port: row.maybe("nodeport")?.unwrap_or(coordinator_reach.target.node.port),
            snapshot_id: row.get("snapshot_id")?,
            wal_lsn: row.get("wal_lsn")?,
            system_identifier: String::new(),
        };
        let reach = match node.groupid {
            0 => coordinator_reach.clone(),
            _ => reach(args, destination, &node, row.get("me")?, row.get("db")?)?,
        };
        let session = NodeSession::open(&reach, halt)?;
        let mut keeper = Keeper { node: node.clone(), reach, session };
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET TRANSACTION SNAPSHOT '{}';
             SELECT pg_export_snapshot() AS snapshot,
                    (SELECT system_identifier::text FROM pg_control_system()) AS system",
            node.snapshot_id
        );
        let reply = keeper.ask("import the snapshot", &begin)?;
        let row = only_row(&reply)?;
        node.snapshot_id = row.get("snapshot")?;
        node.system_identifier = row.get("system")?;
        debug!("snapshot {} of {}", node.snapshot_id, keeper.session.node());
        keeper.node = node;
        keepers.push(keeper);
    }
    let groups: Vec<i32> = keepers.iter().map(|keeper| keeper.node.groupid).collect();
    args.nodes.must_be_among(&groups)?;
    // All have what they need. If it had ended before, an import would have failed: this makes sure that it is gone.
    let release = format!("SELECT {home}.citus_release_cluster_snapshot({export_id})");
    if coordinator.ask("release the export", &release)?.single_value()? != "t" {
        return Err(DumpError::ExportEnded.into());
    }
    let leavings = Leavings::new(Arc::clone(halt));
    Ok(Snapshots { keepers, locker, leavings, talked: Instant::now() })
}

/// Locks every table that Citus knows, on the coordinator alone. One that is dropped before its lock is to be had, as by a
/// DROP that had waited for a former try of the same dump, is no longer among them.
fn lock_tables(args: &DumpArgs, locker: &mut NodeSession) -> Result<(), Failure> {
    let wait = args.lock_wait;
    let mut tries = 0;
    loop {
        tries += 1;
        let reply = locker.ask(
            "list distributed tables",
            "SELECT format('%I.%I', n.nspname, c.relname) AS name
               FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid::oid
               JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p') ORDER BY 1",
        )?;
        let mut names = Vec::new();
        for row in rows(&reply)? {
            names.push(format!("ONLY {}", row.get::<String>("name")?));
        }
        if names.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "BEGIN; SET LOCAL lock_timeout = {}; LOCK TABLE {} IN ACCESS SHARE MODE",
            wait.as_millis(),
            names.join(", ")
        );
        let time = wait.saturating_add(Duration::from_secs(60));
        match locker.ask_within("lock the distributed tables", &sql, time) {
            Ok(_) => return Ok(()),
            // undefined_table, invalid_schema_name
            Err(error)
                if matches!(error.sqlstate(), Some("42P01" | "3F000")) && tries < LOCK_TRIES =>
            {
                debug!("{error}: again");
                locker.ask("give up", "ROLLBACK")?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// How a node is reached: as the coordinator's user, at the address that Citus has, or that was given.
fn reach(
    args: &DumpArgs,
    destination: &Destination,
    node: &Node,
    user: String,
    database: String,
) -> Result<Reach, Failure> {
    let mut theirs = destination.clone();
    theirs.target.params.set("user", user).set("dbname", database);
    let mut params = args.nodes.params(&theirs, node.groupid, &node.name, node.port);
    params.set("client_encoding", "UTF8");
    let label = remote::NodeLabel::new(node.nodeid, &*node.name, node.port);
    Ok(Reach {
        target: Target { node: label, params },
        connect_timeout: destination.connect_timeout,
        group: node.groupid,
    })
}

impl Snapshots {
    /// Speaks to every session that only waits, if it is time, and looks for shards that were moved. An error says whose snapshot is lost.
    pub fn talk(&mut self) -> Result<(), Failure> {
        self.leavings.hold(&mut self.keepers)?;
        let due = self.talked.elapsed() >= TALK_EVERY;
        if due {
            self.talked = Instant::now();
            self.talk_now()?;
        }
        Ok(())
    }

    /// The same at once.
    pub fn talk_now(&mut self) -> Result<(), Failure> {
        for keeper in &mut self.keepers {
            let is_there = keeper.session.is_there("see whether the snapshot is there");
            is_there.map_err(|error| keeper.lost(error))?;
        }
        if let Err(error) = self.locker.is_there("see whether the locks are there") {
            // What they would have held off is detected.
            warn!("the locks on the coordinator are lost: {error}");
            if matches!(error, RemoteError::Stopped { .. }) {
                return Err(error.into());
            }
        }
        Ok(())
    }
}
