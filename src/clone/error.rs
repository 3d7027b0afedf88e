//! What can go wrong with clones and their split.

use pgrx::PgSqlErrorCode;
use remote::RemoteError;

use super::fault::Fault;
use super::plan_error::PlanError;
use super::state::Step;
use crate::citus::CatalogError;
use crate::fence::FenceError;
use crate::fence::error::Reason;
use crate::fence::under_way::UnderWay;
use crate::report::Report;

/// One variant per kind; each has its SQLSTATE, detail and hint below.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CloneError {
    /// A node, the catalog, or an error that a server raised.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// An argument that must not be null.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Its name.
        argument: &'static str,
    },
    /// An argument out of its range.
    #[error("catchup_timeout_seconds must be between 1 and {max}, not {given}")]
    TimeoutOutOfRange {
        /// What was given.
        given: i32,
        /// The longest.
        max: i32,
    },
    /// The library was not preloaded.
    #[error("citus_fence must be loaded via shared_preload_libraries")]
    NotPreloaded,
    /// A standby.
    #[error("a clone cannot be promoted from a standby of the coordinator")]
    InRecovery,
    /// Within a transaction that goes on.
    #[error("{function} cannot run inside a transaction block")]
    InTransaction {
        /// The function.
        function: &'static str,
    },
    /// Another operation needs the cluster to itself.
    #[error("cannot split a node while {}", .0.what)]
    UnderWay(UnderWay),
    /// The cluster is to be read-only.
    #[error("cannot split a node while the cluster is read only")]
    ReadOnly,
    /// Another split of this database is driven by another process.
    #[error("another split of this database is under way")]
    OtherSplit,
    /// The clone's split is under way.
    #[error("the split of clone {nodeid} is under way")]
    InUse {
        /// The clone.
        nodeid: i32,
        /// How far it is.
        step: Step,
    },
    /// It can be finished, or put back, without that.
    #[error("the split of clone {nodeid} is not to be given up")]
    NotToGiveUp {
        /// The clone.
        nodeid: i32,
        /// How far it is.
        step: Step,
        /// Whether the clone answers.
        answers: bool,
    },
    /// The split needs that node, or has no need to go on without it.
    #[error("node {nodeid} is not to be left out of the split")]
    NotToLeaveOut {
        /// The node.
        nodeid: i32,
        /// How far the split is.
        step: Step,
        /// Why not.
        why: WhyNot,
    },
    /// The registry has the clone at another step than its driver.
    #[error("clone {nodeid} is no longer at step {}", .step.name())]
    OtherStep {
        /// The clone.
        nodeid: i32,
        /// Where it was.
        step: Step,
    },
    /// A clone that was promoted without its split.
    #[error("clone {place} has been promoted, and stays closed")]
    Promoted {
        /// Where.
        place: String,
    },
    /// DROP EXTENSION while a split is under way.
    #[error("cannot drop the extension citus_fence while the split of clone {nodeid} is under way")]
    Dropped {
        /// The clone.
        nodeid: i32,
    },
    /// A node refuses writers.
    #[error("cannot split a node while {place} is {state}")]
    NodeClosed {
        /// The node.
        place: String,
        /// What its gate says of itself.
        state: String,
    },
    /// No clone is registered with that id or address.
    #[error("no clone {what} is registered")]
    NoSuchClone {
        /// Its id or address.
        what: String,
        /// Whether Citus' own function has registered it.
        of_citus: bool,
    },
    /// No node has that id or address.
    #[error("node {what} is not a primary of this cluster")]
    NoSuchSource {
        /// Its id or address.
        what: String,
    },
    /// A registered clone's source is none any more.
    #[error("the source of clone {nodeid}, node {of}, is not an active primary of this cluster")]
    SourceGone {
        /// The clone.
        nodeid: i32,
        /// Its source.
        of: i32,
    },
    /// Its address is taken.
    #[error("{place} is registered already")]
    Registered {
        /// The address.
        place: String,
        /// As what.
        by: String,
        /// How to let go of it.
        hint: String,
    },
    /// No plan could be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The shards of the source are others than they were a moment ago.
    #[error("the shards of the source changed while the split began")]
    Changed,
    /// The replica, or its source, is not fit.
    #[error("{fault}")]
    Unfit {
        /// What is wrong.
        fault: Box<Fault>,
    },
    /// The writers could not be held back.
    #[error("could not hold back the writers of the moving shards within {after_ms} ms")]
    InTheWay {
        /// How long it was tried.
        after_ms: i32,
        /// What the last attempt ended with that tells something, and who was in the way.
        reason: Reason,
    },
    /// The clone lags.
    #[error("{clone} did not catch up with its source within {after_s} s")]
    Behind {
        /// The clone.
        clone: String,
        /// How long was waited.
        after_s: u64,
        /// How far it lags.
        lag: String,
    },
    /// What is on a node is not what the registry says.
    #[error("{node} does not have what the split of clone {nodeid} prepared there")]
    Lost {
        /// The node.
        node: String,
        /// The clone.
        nodeid: i32,
        /// What.
        what: String,
    },
    /// At the clone's address is a server that the split has not made harmless.
    #[error("{node} is not the server that the split of clone {nodeid} has reserved")]
    NotReserved {
        /// The address.
        node: String,
        /// The clone.
        nodeid: i32,
    },
    /// The registry is behind what the nodes have.
    #[error("{node} has the new metadata of clone {nodeid} already")]
    Ahead {
        /// The node.
        node: String,
        /// The clone.
        nodeid: i32,
    },
    /// The worker stopped without a word.
    #[error("the background worker of the split stopped without a word")]
    WorkerVanished,
    /// No worker could be started.
    #[error("could not start a background worker for the split")]
    NoWorkerSlot,
    /// The caller's client is gone.
    #[error("connection to client lost")]
    ClientGone,
    /// Whoever called for the split does not want it any more.
    #[error("the split was given up")]
    GivenUp,
    /// The worker was told to end.
    #[error("the split of clone {nodeid} was interrupted")]
    Interrupted {
        /// The clone.
        nodeid: i32,
        /// How far it is.
        step: Step,
    },
    /// It cannot go on now, and goes on by itself.
    #[error("the split of clone {nodeid} cannot be finished yet")]
    GoesOn {
        /// The clone.
        nodeid: i32,
        /// What is in its way.
        why: String,
    },
}

/// Why a node is not to be left out of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// Nothing is under way.
    NotUnderWay,
    /// It is the clone, before there is a node without it.
    IsClone,
    /// It is the coordinator.
    IsCoordinator,
    /// It is there.
    Answers,
}

impl CloneError {
    /// Something is wrong with the replica or its source.
    pub fn unfit(fault: Fault) -> Self {
        Self::Unfit { fault: Box::new(fault) }
    }
}

impl From<RemoteError> for CloneError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Stopped { .. } => Self::GivenUp,
            other => Self::Fence(other.into()),
        }
    }
}

impl From<CatalogError> for CloneError {
    fn from(error: CatalogError) -> Self {
        Self::Fence(error.into())
    }
}

impl From<Report> for CloneError {
    fn from(report: Report) -> Self {
        Self::Fence(report.into())
    }
}

impl From<&CloneError> for Report {
    fn from(error: &CloneError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        let status = "See how far it is: SELECT * FROM citus_clone_status();";
        match error {
            CloneError::Fence(error) => error.into(),
            CloneError::NullArgument { .. } => Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message),
            CloneError::TimeoutOutOfRange { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
            }
            CloneError::NotPreloaded => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).hint(
                    "Add citus_fence to shared_preload_libraries, after citus, and restart the server.",
                )
            }
            CloneError::InRecovery => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .hint("Connect to the coordinator's primary.")
            }
            CloneError::InTransaction { .. } => Report::new(ERRCODE_ACTIVE_SQL_TRANSACTION, message)
                .detail("What the split does on other nodes could not be undone with the transaction."),
            CloneError::UnderWay(other) => {
                Report::new(ERRCODE_OBJECT_IN_USE, message).hint(other.hint)
            }
            CloneError::ReadOnly => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .hint("Let it write first: SELECT citus_set_cluster_read_write();"),
            CloneError::OtherSplit => Report::new(ERRCODE_OBJECT_IN_USE, message).hint(status),
            CloneError::NotToGiveUp { step, answers, .. } => {
                let detail = if *answers {
                    "The clone answers, so the split can be finished.".to_owned()
                } else {
                    format!(
                        "It is at step {}; only at promoting and promoted there is no other way back.",
                        step.name()
                    )
                };
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(detail)
                    .hint(status)
            }
            CloneError::NotToLeaveOut { step, why, .. } => {
                let report = Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
                let step = step.name();
                match why {
                    WhyNot::NotUnderWay => report
                        .detail(format!("The split is at step {step}: nothing of it is under way."))
                        .hint(status),
                    WhyNot::IsClone => report
                        .detail(format!("It is the clone, and the split is at step {step}."))
                        .hint("Before promoting the split is taken back by itself; at promoting and promoted: SELECT citus_fence.give_up_clone_by_force(clone_nodeid);"),
                    WhyNot::IsCoordinator => report
                        .detail("It is the coordinator, which has the split's registry.")
                        .hint(status),
                    WhyNot::Answers => report
                        .detail("It answers, so the split can be ended with it.")
                        .hint(status),
                }
            }
            CloneError::OtherStep { .. } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("Somebody has changed citus_fence.clone meanwhile.")
                .hint(status),
            CloneError::Promoted { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("It has its source's identity: with its gate open, what clients write there would be lost, and it would decide its source's transactions.")
                    .hint("Stop it, and make a new replica.")
            }
            CloneError::Dropped { .. } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("The registry, by which it is finished or taken back, would be dropped with it.")
                .hint(status),
            CloneError::NodeClosed { .. } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("The new metadata could not be written there.")
                .hint("On that node: SELECT alter_system_read_write();"),
            CloneError::InUse { step, .. } => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail(format!("It is at step {}.", step.name()))
                .hint(status),
            CloneError::NoSuchClone { of_citus, .. } => {
                let report = Report::new(ERRCODE_UNDEFINED_OBJECT, message);
                if *of_citus {
                    report
                        .detail("Citus' own citus_add_clone_node() has registered it, which this function does not go by.")
                        .hint("Take that back with SELECT pg_catalog.citus_remove_clone_node(…); and register it with the citus_add_clone_node() of citus_fence, called by its schema.")
                } else {
                    report.hint("See which there are: SELECT * FROM citus_clone_status();")
                }
            }
            CloneError::NoSuchSource { .. } => Report::new(ERRCODE_UNDEFINED_OBJECT, message)
                .hint("See which there are: SELECT nodeid, nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary';"),
            CloneError::SourceGone { nodeid, of } => Report::new(ERRCODE_UNDEFINED_OBJECT, message)
                .hint(format!("If it is disabled, activate it: SELECT citus_activate_node(nodename, nodeport) FROM pg_dist_node WHERE nodeid = {of}; if it was removed, forget the clone: SELECT citus_remove_clone_node_with_nodeid({nodeid});")),
            CloneError::Registered { by, hint, .. } => {
                Report::new(ERRCODE_DUPLICATE_OBJECT, message)
                    .detail(format!("It is {by}."))
                    .hint(hint.clone())
            }
            CloneError::Plan(error) => error.into(),
            CloneError::Changed => Report::new(ERRCODE_OBJECT_IN_USE, message)
                .detail("Tables were created, dropped, distributed or moved meanwhile.")
                .hint("Call again. The cluster is as it was, and the clone streams on."),
            CloneError::Unfit { fault } => Report::from(&**fault),
            CloneError::InTheWay { reason, .. } => {
                let mut detail = format!("The last attempt ended with: {}.", reason.what);
                if !reason.blockers.is_empty() {
                    detail.push_str(&format!(" In the way: {}.", reason.blockers.join("; ")));
                }
                Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message)
                    .detail(detail)
                    .hint("End what is in the way, or raise citus_fence.acquire_timeout. The cluster is as it was, and the clone streams on.")
            }
            CloneError::Behind { lag, .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("It lags {lag}. The cluster is as it was, and the clone streams on."))
                    .hint("Call again when it replays what its source writes; how long it may take to come near, while writers go on, is catchup_timeout_seconds.")
            }
            CloneError::Lost { what, .. } => {
                Report::new(ERRCODE_DATA_CORRUPTED, message)
                    .detail(format!("Missing: {what}. Somebody has ended it by hand."))
                    .hint("See the page on the clone split, \"When something was ended by hand\".")
            }
            CloneError::NotReserved { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("It is not promoted: it would take its source's place.")
                    .hint("Start the clone at its address again. If it is lost for good, stop what is there, and see the page on the clone split, \"A clone that is lost for good\".")
            }
            CloneError::Ahead { .. } => Report::new(ERRCODE_DATA_CORRUPTED, message)
                .detail("The registry is older than that, and has no plan by which to go on.")
                .hint("See the page on the clone split, \"By hand\"."),
            CloneError::WorkerVanished => {
                Report::new(ERRCODE_SYSTEM_ERROR, message)
                    .detail("The server's log says why.")
                    .hint("The next call of citus_promote_clone_and_rebalance(), or the next start of the server, goes on from the step that citus_clone_status() shows.")
            }
            CloneError::NoWorkerSlot => Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                .detail("All max_worker_processes are in use.")
                .hint("Raise max_worker_processes, or wait for others to end."),
            CloneError::ClientGone => Report::new(ERRCODE_CONNECTION_FAILURE, message),
            CloneError::GivenUp => Report::new(ERRCODE_QUERY_CANCELED, message)
                .detail("The cluster is as it was, and the clone streams on."),
            CloneError::Interrupted { step, .. } => Report::new(ERRCODE_ADMIN_SHUTDOWN, message)
                .detail(format!("Its background worker was told to end at step {}.", step.name()))
                .hint("The next call of citus_promote_clone_and_rebalance(), or the next start of the server, goes on from there."),
            CloneError::GoesOn { why, .. } => {
                Report::new(ERRCODE_CONNECTION_EXCEPTION, message)
                    .detail(format!("{why}. A background worker goes on trying."))
                    .hint(status)
            }
        }
    }
}
