//! The one place that starts PostgreSQL servers, for the tests, the demo and the benches of
//! `citus_fence`.
//!
//! ```no_run
//! use test_cluster::{Bank, Cluster, Engine, PATIENCE, WalMethod};
//!
//! # fn main() -> test_cluster::Result<()> {
//! for engine in Engine::available() {
//!     let cluster = Cluster::builder(engine).workers(2).build()?;
//!     let bank = Bank::create(&cluster, 100, 1_000)?;
//!     let writers = bank.start_writers(&cluster, 2)?;
//!     writers.wait_for_more(500, PATIENCE)?;
//!     let summary = writers.stop();
//!
//!     let mut copies = Vec::new();
//!     for (number, node) in cluster.nodes().iter().enumerate() {
//!         let copy = cluster.copy_target("first", number)?;
//!         node.base_backup(&copy, WalMethod::Stream)?;
//!         copies.push(copy);
//!     }
//!     let restored = cluster.restore(&copies)?;
//!     let audit = bank.audit(&restored, summary.transfers())?;
//!     assert!(audit.is_clean(), "{audit}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | `binaries` | the PostgreSQL installation (`PG_CONFIG`) and running its programs |
//! | `engine` | embedded or Citus, and which of them a test runs on (`CITUS_FENCE_ENGINE`) |
//! | `extent` | whether a test runs the whole of its matrix (`CITUS_FENCE_TEST_ALL`) |
//! | `server`, `talk`, `psql`, `copies` | one server: start, stop, freeze, kill; connect and query; psql at work; back up, copy, follow |
//! | `settings`, `template`, `control_file`, `files` | what a server's data directory is made of |
//! | `process`, `os_user` | its processes, and the user they run as |
//! | `ports`, `root_dir` | ports and folders that test processes side by side do not share, and the clean-up (`CITUS_FENCE_KEEP=1` keeps the folders) |
//! | `connect`, `tls` | connections, certificates |
//! | `pgbench` | the real pgbench as a load |
//! | `pooler` | PgBouncer in front of servers |
//! | `wal` | what was written, read with the real pg_waldump |
//! | `proxy` | a link in front of a server that can be cut, frozen and slowed down |
//! | `builder`, `cluster` | coordinator, workers and standbys as one |
//! | `replica` | a streaming replica of a node that is to become a node itself |
//! | `shards` | distributed tables, the same on both engines |
//! | `bank`, `writers`, `audit` | the workload of the safety tests, and its check |
//! | `restore` | copies of all nodes as a cluster of their own |
//! | `wait` | waiting for a state |
//! | `error` | what can go wrong, with the server's log |

mod audit;
mod bank;
mod binaries;
mod builder;
mod cluster;
mod connect;
mod control_file;
mod copies;
mod engine;
mod error;
mod extent;
mod files;
mod os_user;
mod patroni;
mod pgbench;
mod pooler;
mod ports;
mod process;
mod proxy;
mod psql;
mod replica;
mod restore;
mod root_dir;
mod server;
mod settings;
mod shards;
mod talk;
mod template;
mod tls;
mod wait;
mod wal;
mod writers;

pub use audit::{Audit, BalanceMismatch, HalfTransfer, PreparedLeft, prepared_transactions};
pub use bank::Bank;
pub use binaries::Installation;
pub use builder::{ClusterBuilder, PasswordSource};
pub use cluster::Cluster;
pub use connect::{ConnectParams, HOST};
pub use copies::WalMethod;
pub use engine::Engine;
pub use error::{Error, Result, describe};
pub use extent::whole_matrix;
pub use nix::sys::signal::Signal;
pub use os_user::{give_tree_to_server_user, run_as_server_user};
pub use patroni::Patroni;
pub use pgbench::PgBench;
pub use pooler::Pooler;
pub use ports::PortLease;
pub use postgres;
pub use process::{Process, Program, Stopped, peak_memory};
pub use proxy::Link;
pub use psql::{Psql, PsqlCall};
pub use replica::Replica;
pub use restore::{ISOLATION, Places, Restore};
pub use root_dir::say;
pub use server::{Server, ServerBuilder, StopMode};
pub use shards::{Placement, ShardRow};
pub use talk::TextRows;
pub use template::SUPERUSER;
pub use tls::Certificates;
pub use wait::{PATIENCE, try_wait_until, wait_for_sql, wait_until};
pub use wal::WalRecord;
pub use writers::{Mark, Phase, Summary, WriterError, Writers};
