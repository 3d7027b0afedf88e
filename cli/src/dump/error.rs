//! What can go wrong with a dump, and what to do then.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use remote::RemoteError;

use crate::exit::Exit;
use crate::rows::is_full;

/// Why there is no dump, or why one is not what it says.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    /// The session is not with the server itself.
    #[error(
        "{node} is reached through a pooler, and snapshots, locks and settings belong to one session"
    )]
    Pooler { node: String },
    /// Another server than the catalog's.
    #[error("{node} is a node of group {found}, and has to be the one of group {group}")]
    WrongNode { node: String, group: i32, found: i32 },
    /// A table is no longer what the snapshot shows.
    #[error("table {table} on {node} was changed while the dump was made: {what}")]
    Changed { table: String, node: String, what: &'static str },
    /// A type is no longer what the snapshot shows.
    #[error("type {name} on {node} was altered while the dump was made")]
    TypeChanged { name: String, node: String },
    /// The schema did not stay the same while pg_dump read it.
    #[error("the schema changed while pg_dump read it ({what}), {tries} times")]
    SchemaChanged { what: String, tries: u32 },
    /// Somebody else's lock.
    #[error("the lock of table {table} on {node} was not to be had within {} s", waited.as_secs_f64())]
    Locked { table: String, node: String, waited: Duration },
    /// A table's session.
    #[error("table {table}: {error}")]
    Table { table: String, error: RemoteError },
    /// Somebody who may not.
    #[error("{0}")]
    Denied(RemoteError),
    /// The session that keeps a node's snapshot.
    #[error("the snapshot of {node} is lost: {error}")]
    KeeperLost { node: String, error: RemoteError },
    /// The export ended before all had its snapshots.
    #[error("the cluster snapshot ended before every node's session had it")]
    ExportEnded,
    /// A program of PostgreSQL's.
    #[error("{program}: {why}")]
    Program { program: String, why: String },
    /// A kind of table that cannot be dumped.
    #[error("table {table} is distributed by \"{method}\", which this program does not dump")]
    Method { table: String, method: String },
    /// A name that no manifest can have.
    #[error("{what} has a name that is no UTF-8, in a database without an encoding (SQL_ASCII)")]
    Name { what: String },
    /// A shard without an active placement on a node that is there.
    #[error("shard {shard} of table {table} is on no active node")]
    NoPlacement { table: String, shard: i64 },
    /// A pattern that nothing matches.
    #[error("nothing matches {option} {pattern}")]
    NoMatch { option: &'static str, pattern: String },
    /// A pattern with too many dots.
    #[error("the pattern {pattern} has too many parts")]
    Pattern { pattern: String },
    /// No dump.
    #[error("{}: {why}", dir.display())]
    NoDump { dir: PathBuf, why: String },
}

impl DumpError {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            DumpError::File { .. }
            | DumpError::Pooler { .. }
            | DumpError::WrongNode { .. }
            | DumpError::Changed { .. }
            | DumpError::TypeChanged { .. }
            | DumpError::SchemaChanged { .. }
            | DumpError::Locked { .. }
            | DumpError::Table { .. }
            | DumpError::Denied(_)
            | DumpError::KeeperLost { .. }
            | DumpError::ExportEnded
            | DumpError::Program { .. }
            | DumpError::Method { .. }
            | DumpError::Name { .. }
            | DumpError::NoPlacement { .. }
            | DumpError::NoDump { .. } => Exit::Failed,
            DumpError::NoMatch { .. } | DumpError::Pattern { .. } => Exit::WrongUse,
        }
    }

    /// The session's error behind it.
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            DumpError::Table { error, .. }
            | DumpError::Denied(error)
            | DumpError::KeeperLost { error, .. } => Some(error),
            _ => None,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        // insufficient_privilege
        let is_denied = self.remote().and_then(RemoteError::sqlstate) == Some("42501");
        let hint = match self {
            _ if is_denied => {
                "A role that dumps: GRANT pg_read_all_data TO ROLE; GRANT EXECUTE ON FUNCTION \
                 citus_export_cluster_snapshot, citus_release_cluster_snapshot TO ROLE; and BYPASSRLS where tables have \
                 row-level security. On every node."
            }
            _ if self.remote().is_some_and(is_full) => {
                "The server takes no more sessions: fewer --jobs, or a larger max_connections. Each job has two."
            }
            DumpError::Pooler { .. } => {
                "Name the server itself: -h and -p for the coordinator, --node GROUP=CONNINFO for \
                 another node."
            }
            DumpError::WrongNode { .. } => {
                "Look at --node, and at the addresses in pg_dist_node on the coordinator."
            }
            DumpError::Changed { .. }
            | DumpError::TypeChanged { .. }
            | DumpError::SchemaChanged { .. } => {
                "Nothing is kept of this dump. Run it again when nobody alters, truncates or rewrites tables, or moves \
                 shards."
            }
            DumpError::Locked { .. } => {
                "Who has it: SELECT * FROM pg_locks l JOIN pg_stat_activity USING (pid) on that node. \
                 --lock-wait allows more time."
            }
            DumpError::KeeperLost { .. } | DumpError::ExportEnded => {
                "Nothing is kept of this dump. Look into that node's log, and run it again."
            }
            DumpError::Program { why, .. }
                if why.contains("could not write") || why.contains("could not close") =>
            {
                return None;
            }
            DumpError::Program { .. } => {
                "--bindir names the directory of pg_dump, which must be no older than the server."
            }
            DumpError::Method { .. } => {
                "Distribute it by hash, or leave it out of the database while you dump."
            }
            DumpError::Name { .. } => {
                "Rename it. Letters outside of ASCII are shown as \u{fffd} here."
            }
            DumpError::NoPlacement { .. } => {
                "Look into pg_dist_placement and pg_dist_node on the coordinator."
            }
            DumpError::NoMatch { .. } => {
                "Patterns are pg_dump's: SCHEMA.NAME, with * and ?, and double quotes around capital letters. A \
                 name without a schema is looked for in your search_path."
            }
            DumpError::Pattern { .. } => {
                "Write SCHEMA.NAME for a table and NAME for a schema, with double quotes around a dot in a name."
            }
            DumpError::File { .. }
            | DumpError::Table { .. }
            | DumpError::Denied(_)
            | DumpError::NoDump { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
