//! The manifest of a dump: `manifest.json` in its directory, written last and put in place whole. A directory
//! without one holds no dump. docs/dump.md describes it for whoever reads a dump without this program.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::args::Format;
use super::select::Selection;
use crate::manifest::Sealed;

/// What `format` says in a dump.
pub const DUMP: &str = "citus-fence dump";
/// The newest version of that format, which is the only one so far.
pub const VERSION: u32 = 1;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// [`DUMP`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The version of this program.
    pub citus_fence: String,
    /// The database it is of.
    pub database: String,
    /// The encoding of the data files.
    pub encoding: String,
    /// What the database was made with.
    #[serde(default)]
    pub locale: Option<Locale>,
    /// `server_version` of the coordinator.
    pub postgresql: String,
    /// The version of Citus; none on the embedded catalog.
    pub citus: Option<String>,
    /// When the snapshot was taken, by the coordinator's clock.
    pub taken_at: DateTime<Utc>,
    /// When all was copied, by this machine's clock.
    pub ended_at: DateTime<Utc>,
    /// `none` or `zstd`.
    pub compression: String,
    /// What was asked for, where that was not everything.
    #[serde(default)]
    pub selection: Option<Selection>,
    /// The nodes, by group.
    pub nodes: Vec<Node>,
    /// The colocation groups, by number.
    pub colocation: Vec<Colocation>,
    /// The tables: those that Citus knows, and the coordinator's own.
    pub tables: Vec<Table>,
    /// The schemas that are distributed as a whole.
    pub tenants: Vec<Tenant>,
    /// Distributed functions that have an argument for it, or were declared by hand.
    pub functions: Vec<Function>,
    /// Materialized views that have rows, in an order in which they can be filled again.
    #[serde(default)]
    pub materialized_views: Vec<Name>,
    /// Every sequence's value on every node.
    pub sequences: Vec<Sequence>,
    /// What every node's database has its sessions begin with.
    #[serde(default)]
    pub settings: Vec<Setting>,
    /// Whose every node's database is, and who may use it.
    #[serde(default)]
    pub access: Vec<Access>,
    /// The schema's files.
    pub schema: Vec<SchemaFile>,
    /// The data's files.
    pub files: Vec<DataFile>,
    /// What is not in the dump, a sentence each.
    pub not_dumped: Vec<String>,
    /// See [`Sealed`].
    #[serde(default)]
    pub checksum: Option<String>,
}

impl Sealed for Dump {
    fn checksum(&mut self) -> &mut Option<String> {
        &mut self.checksum
    }
}

impl Dump {
    /// Whether every file is below the directory, whoever has written the manifest.
    pub fn stays_below(&self) -> bool {
        let schema = self.schema.iter().map(|file| &file.path);
        let mut paths = self.files.iter().map(|file| &file.path).chain(schema);
        paths.all(|path| crate::manifest::is_below(path))
    }
}

/// What a database is made with, as `pg_database` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locale {
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// `c`, `i` or `b`: libc, ICU, builtin.
    pub provider: Option<String>,
    /// The provider's own.
    pub locale: Option<String>,
    /// Rules of ICU's, from PostgreSQL 16 on.
    #[serde(default)]
    pub icu_rules: Option<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub nodeid: i32,
    pub groupid: i32,
    pub name: String,
    pub port: i32,
    /// The snapshot that was exported there.
    pub snapshot_id: String,
    pub wal_lsn: String,
    /// As text: JSON's numbers are not that long everywhere.
    pub system_identifier: String,
}

/// A colocation group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Colocation {
    pub id: i64,
    pub shard_count: i32,
    pub replication_factor: i32,
    /// The distribution column's type, where there is one.
    pub column_type: Option<String>,
}

/// What a table is to Citus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Distributed by hash.
    Hash,
    /// A single shard without a distribution column, of a schema-based tenant too.
    SingleShard,
    /// On every node.
    Reference,
    /// On the coordinator, and known to Citus.
    CitusLocal,
    /// On the coordinator alone.
    Local,
}

impl Kind {
    /// For people.
    pub fn spelled(self) -> &'static str {
        match self {
            Kind::Hash => "distributed",
            Kind::SingleShard => "single shard",
            Kind::Reference => "reference",
            Kind::CitusLocal => "local, known to Citus",
            Kind::Local => "local",
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub kind: Kind,
    /// The distribution column.
    pub column: Option<String>,
    pub colocation: Option<i64>,
    /// How many shards it has.
    pub shards: usize,
    /// Citus made it a table of its own because of a foreign key.
    pub autoconverted: bool,
    /// A parent of partitions has no rows of its own.
    pub partitioned: bool,
    /// Whether it is a partition.
    pub is_partition: bool,
    /// `heap`, `columnar`, …
    pub access_method: Option<String>,
    /// Of a columnar table: what pg_dump says nothing of.
    #[serde(default)]
    pub columnar: Option<Columnar>,
}

/// How a columnar table is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columnar {
    pub compression: String,
    pub compression_level: i32,
    pub stripe_row_limit: i64,
    pub chunk_group_row_limit: i64,
}

/// A schema's object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    pub schema: String,
    pub name: String,
}

/// A schema that is distributed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub schema: String,
    pub colocation: i64,
}

/// A distributed function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// As `regprocedure` writes it, with its schema.
    pub signature: String,
    /// The schema by itself.
    #[serde(default)]
    pub schema: String,
    /// The position of its distribution argument, from 0.
    pub argument: Option<i32>,
    /// Whether its calls go to the node of their rows whatever they are in.
    #[serde(default)]
    pub force_delegation: Option<bool>,
    pub colocation: Option<i64>,
}

/// A sequence on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub groupid: i32,
    pub schema: String,
    pub name: String,
    pub data_type: String,
    /// None where it has never been used, nor set.
    pub last_value: Option<i64>,
    /// Whether that was given; otherwise it is the next.
    #[serde(default = "yes")]
    pub is_called: bool,
}

/// A setting of the database on one node: `ALTER DATABASE … SET`, or `ALTER ROLE … IN DATABASE … SET`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    pub groupid: i32,
    /// None where it is for all roles.
    pub role: Option<String>,
    pub name: String,
    /// As `pg_db_role_setting` has it.
    pub value: String,
}

/// Whose the database is on one node, and who may do what with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    pub groupid: i32,
    pub owner: String,
    pub comment: Option<String>,
    /// -1: none.
    pub connection_limit: i32,
    /// None: as with every database that nobody has said anything of.
    pub privileges: Option<Vec<Privilege>>,
}

/// A privilege for a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privilege {
    /// None: PUBLIC.
    pub role: Option<String>,
    /// `CONNECT`, `CREATE` or `TEMPORARY`.
    pub privilege: String,
    pub grantable: bool,
}

/// What manifests said that did not say it.
fn yes() -> bool {
    true
}

/// A file of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaFile {
    /// Below the manifest's directory.
    pub path: PathBuf,
    pub bytes: u64,
    /// Of the file, in hexadecimal.
    pub sha256: String,
}

/// A file of data: one table or shard, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Below the manifest's directory.
    pub path: PathBuf,
    /// The table whose rows these are.
    pub schema: String,
    pub table: String,
    /// The shard, and the hashes it holds.
    pub shard: Option<i64>,
    pub min_value: Option<String>,
    pub max_value: Option<String>,
    /// The group of the node that it was copied on.
    pub groupid: i32,
    /// The blocks, from the first up to but without the last; none for all.
    pub blocks: Option<(u64, Option<u64>)>,
    /// The columns, in the order of the file, quoted where SQL needs it.
    pub columns: Vec<String>,
    pub format: Format,
    pub rows: u64,
    /// Before compression.
    pub bytes: u64,
    /// The size of the file.
    pub stored_bytes: u64,
    /// Of the file, in hexadecimal.
    pub sha256: String,
}

impl DataFile {
    /// Whether it is in COPY's binary format.
    pub fn is_binary(&self) -> bool {
        self.format == Format::Binary
    }
}
