//! What can go wrong with a plan.

use pgrx::PgSqlErrorCode;
use remote::RemoteError;

use crate::citus::CatalogError;
use crate::pg::text_sql::SqlError;
use crate::report::Report;

/// What can go wrong with a plan.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PlanError {
    /// An argument that must not be null is.
    #[error("{argument} must not be null")]
    NullArgument {
        /// Its name.
        argument: &'static str,
    },
    /// No node has that address.
    #[error("there is no node {node}")]
    UnknownNode {
        /// The address.
        node: String,
    },
    /// A standby, say, or a clone.
    #[error("node {node} is not a primary")]
    NotPrimary {
        /// The address.
        node: String,
    },
    /// A primary that Citus does not use.
    #[error("node {node} is not active")]
    Inactive {
        /// Its name.
        host: String,
        /// Its port.
        port: i32,
        /// Both.
        node: String,
    },
    /// Both addresses are nodes of the cluster, or the same.
    #[error("{node} is a primary of the cluster, and no replica")]
    ReplicaIsNode {
        /// The address.
        node: String,
    },
    /// No strategy has that name.
    #[error("rebalance strategy \"{name}\" does not exist")]
    UnknownStrategy {
        /// What was given.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// None is named and none is the default.
    #[error("there is no default rebalance strategy")]
    NoDefaultStrategy {
        /// Those that there are.
        known: Vec<String>,
    },
    /// A strategy's function says something that cannot be reckoned with.
    #[error("function {function} of the rebalance strategy gives {value} for {of}")]
    BadAnswer {
        /// The function.
        function: String,
        /// The shard or node.
        of: String,
        /// Its answer.
        value: String,
    },
    /// Another server than the catalog's answers at the source's address.
    #[error("{node} is not the node that pg_dist_node says")]
    OtherNode {
        /// The address.
        node: String,
        /// The group in `pg_dist_node`.
        group: i32,
        /// What the server says of itself.
        answered: i32,
    },
    /// A row of the catalog that does not make sense.
    #[error("unexpected value in {table}")]
    Corrupt {
        /// The table.
        table: &'static str,
    },
    /// The server lends no more descriptors.
    #[error("not enough file descriptors to connect to the source")]
    NoDescriptors,
    /// A query of ours that cannot be executed here.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The tables of nodes.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The source.
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

impl From<&PlanError> for Report {
    fn from(error: &PlanError) -> Self {
        use PgSqlErrorCode::*;
        const NODES: &str = "See: SELECT nodename, nodeport FROM pg_dist_node WHERE noderole = 'primary' AND isactive;";
        let message = error.to_string();
        let names = |known: &[String]| format!("There are: {}.", known.join(", "));
        match error {
            PlanError::NullArgument { .. } => Report::new(ERRCODE_NULL_VALUE_NOT_ALLOWED, message),
            PlanError::UnknownNode { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message).hint(NODES)
            }
            PlanError::NotPrimary { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("Only a primary has shards that can be split.")
                    .hint(NODES)
            }
            PlanError::Inactive { host, port, .. } => {
                let host = host.replace('\'', "''");
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .hint(format!("If it is to be used again: SELECT citus_activate_node('{host}', {port});"))
            }
            PlanError::ReplicaIsNode { .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail("A plan is for a node and a streaming replica of it.")
                    .hint("Give the address of the replica as the third and fourth argument.")
            }
            PlanError::UnknownStrategy { known, .. } => {
                Report::new(ERRCODE_UNDEFINED_OBJECT, message)
                    .detail(names(known))
                    .hint("See: SELECT * FROM pg_dist_rebalance_strategy;")
            }
            PlanError::NoDefaultStrategy { known } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(names(known))
                    .hint("Name one as rebalance_strategy, or: SELECT citus_set_default_rebalance_strategy('by_disk_size');")
            }
            PlanError::BadAnswer { .. } => Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message)
                .detail("Costs and capacities are numbers from 0 up, and whether a shard is allowed on a node is true or false.")
                .hint("Correct the function, or name another strategy: SELECT * FROM pg_dist_rebalance_strategy;"),
            PlanError::OtherNode { group, answered, .. } => {
                Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                    .detail(format!("It says that it is group {answered}; in pg_dist_node it is group {group}."))
                    .hint("See where connections to it lead: pg_dist_node, pg_dist_poolinfo, citus.node_conninfo and citus_fence.node_conninfo.")
            }
            PlanError::Corrupt { .. } => Report::new(ERRCODE_DATA_CORRUPTED, message),
            PlanError::NoDescriptors => Report::new(ERRCODE_INSUFFICIENT_RESOURCES, message)
                .hint("Raise max_files_per_process and the operating system's limit, and restart the server."),
            PlanError::Sql(SqlError::ZeroByte) => {
                Report::new(ERRCODE_UNTRANSLATABLE_CHARACTER, message)
            }
            PlanError::Sql(SqlError::Refused(_)) => Report::new(ERRCODE_INTERNAL_ERROR, message),
            PlanError::Catalog(error) => Report::from(error),
            PlanError::Remote(error) => Report::from(error),
        }
    }
}
