//! Who is there in the cluster, and how far each is: plain words for [`super::world`].

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// At that node, under a lock on the shard's metadata there.
    At(usize),
    /// At that node, without one.
    Lockless(usize),
    /// At that node, under the lock, in a session that has used the shard before.
    Kept(usize),
    /// Something else of the coordinator's that all nodes get: DDL, a role.
    Ddl,
    /// At that node, under the lock; decided, and told so, when it is only prepared at the source.
    InDoubt(usize),
    /// A client of the clone, which takes its word for what it is.
    AtClone,
}

/// How far one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writer {
    /// Has not begun.
    Idle,
    /// Knows where to write.
    Planned(Place),
    /// Has written there.
    Written(Place),
    /// Was told that it is committed.
    Acknowledged(Place),
    /// Was told that it is not.
    Failed,
}

/// Where the shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Where it was.
    Source,
    /// Where it goes.
    Clone,
}

/// What the split holds somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Nothing.
    None,
    /// A lock, by an open transaction.
    Open,
    /// The same, by a prepared one.
    Prepared,
    /// It is committed: on a node the new metadata, of the seal that whoever comes is refused.
    Committed,
}

impl Hold {
    /// Whether somebody waits for it.
    pub fn is_locked(self) -> bool {
        matches!(self, Self::Open | Self::Prepared)
    }
}

/// What the clone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Streams from its source.
    Standby,
    /// A server of its own that takes itself for its source.
    Promoted,
    /// A worker of its own.
    Itself,
}

/// A two-phase commit of the source, whose other half is on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TwoPhase {
    /// Has not begun, or is not part of it.
    Idle,
    /// Prepared there; whether decided, its record tells.
    Prepared,
    /// Over there.
    Committed,
    /// Undone there.
    RolledBack,
}

/// Who drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// From the start.
    Drives,
    /// Is gone; whatever it held open is let go.
    Gone,
    /// By the registry: back, or forward.
    Settles,
}
