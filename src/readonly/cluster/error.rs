//! What can go wrong with switching the cluster.

use crate::catalog::CatalogError;
use crate::fence::error::FenceError;
use crate::readonly::error::GateError;
use remote::RemoteError;

/// One variant per kind; [`crate::errors`] gives each its SQLSTATE, detail and hint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// This node's own part.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// What closing the gates has in common with a backup block.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The gates could not be closed in time.
    #[error("could not hold back all writers of the cluster within {after_ms} ms")]
    WritersInTheWay {
        /// How long it was tried.
        after_ms: i32,
        /// What the last attempt ended with.
        last: String,
        /// Who was in the way: node, pid, age, query.
        blockers: Vec<String>,
    },
    /// A node where the extension is not, or something else in its place.
    #[error("{node} does not have the gate that makes it read only")]
    NoGate {
        /// The node.
        node: String,
    },
    /// A node could not be switched, and everything was taken back.
    #[error("could not switch {node}")]
    NotSwitched {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// Some nodes could not be switched, or switched back.
    #[error("the cluster is read only in part")]
    HalfWay {
        /// The nodes, and why.
        nodes: Vec<String>,
    },
    /// Some nodes could not be told to write.
    #[error("could not switch every node to read-write")]
    NotAllOpened {
        /// The nodes, and why.
        nodes: Vec<String>,
    },
    /// The nodes could not finish what is in doubt, and no writer ends: all wait for the block.
    #[error("cannot make the cluster read only while a backup block is held")]
    UnderBlock,
    /// The coordinator itself was switched to read-only, so that nothing can be written down.
    #[error("the coordinator is read only by itself")]
    CoordinatorReadOnly,
}

impl From<RemoteError> for ClusterError {
    fn from(error: RemoteError) -> Self {
        FenceError::from(error).into()
    }
}

impl From<CatalogError> for ClusterError {
    fn from(error: CatalogError) -> Self {
        FenceError::from(error).into()
    }
}
