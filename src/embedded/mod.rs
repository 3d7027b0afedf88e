//! The embedded catalog: the code behind the extension `pg_dist`.
//!
//! It exists so that the demo and the tests run where Citus is not installed, and for nothing else:
//! the tables of Citus' catalog on plain PostgreSQL, and just enough to write across nodes in
//! two-phase commits that leave the same marks as Citus' own.  No planner, no router, no rebalancer.
//! Where `CREATE EXTENSION pg_dist` has not been run, none of it is ever called.
//!
//! # The life of a distributed write
//!
//! ```text
//! pg_dist_execute ──> shard_lock::share, then where the shard is
//!                 ──> transaction::run ──> BEGIN and the command on the shard's node
//!                                            (once per node and transaction; sessions are kept)
//! COMMIT ──> pre_commit    1. a commit record per node into pg_dist_transaction: RowExclusiveLock,
//!                             kept to the end of the transaction
//!                          2. PREPARE TRANSACTION everywhere, at once
//!            (local)       3. the commit of this node's own transaction, and so of the records
//!            committed     4. COMMIT PREPARED everywhere, at once; still under the lock of 1
//! ```
//!
//! So whoever holds ExclusiveLock on `pg_dist_transaction` on a node knows that no commit of that
//! node is anywhere between 1 and 4.  What a failure leaves between them, [`recovery`] finishes.

mod api;
mod catalog;
mod cleanup;
mod distribute;
pub mod error;
mod execute;
mod gid;
mod guc;
mod nodes;
mod ranges;
mod recovery;
mod shard_lock;
mod transaction;

pub use guc::init;
