//! The locks on where shards are, as Citus has them: whoever writes to a shard shares its lock to the end of his
//! transaction, on the node where his statement is routed, and reads where the shard is once he has it.  So
//! whoever holds the lock alone, on every node that routes, can move the shard: all who wrote have ended, and
//! all who wait go to the new place.
//!
//! Citus has one lock for colocated shards of hash-distributed tables; here each shard has its own.

use super::error::EmbeddedError;
use crate::pg::advisory_lock;

/// Citus' class for one shard's metadata.
const SHARD_METADATA: u16 = 4;

/// For a write to these shards, in the order of their numbers.
pub fn share(shards: &[i64]) {
    let mut shards = shards.to_vec();
    shards.sort_unstable();
    for shard in shards {
        advisory_lock::acquire(SHARD_METADATA, shard, advisory_lock::SHARED);
    }
}

/// `lock_shard_metadata`: in the order that the caller gives, who is to take care of deadlocks.
pub fn lock(mode: i32, shards: &[Option<i64>]) -> Result<(), EmbeddedError> {
    if !advisory_lock::is_mode(mode) {
        return Err(EmbeddedError::UnknownLockMode { mode });
    }
    for shard in shards {
        let shard = shard.ok_or(EmbeddedError::NullArgument { argument: "shard_id" })?;
        advisory_lock::acquire(SHARD_METADATA, shard, mode);
    }
    Ok(())
}
