//! What can go wrong with the catalog.

use pgrx::PgSqlErrorCode;

use crate::report::Report;

/// What can go wrong with the catalog.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CatalogError {
    /// Neither Citus nor the embedded catalog is in this database.
    #[error("this database has no Citus catalog")]
    Missing,
    /// The function works on the coordinator only.
    #[error("this node is not the coordinator")]
    NotCoordinator {
        /// Where the coordinator is, as far as this node knows.
        coordinator: Option<String>,
    },
    /// It takes itself for a coordinator, as a worker does whose metadata was taken from it.
    #[error("this node is not known to be a coordinator")]
    NoNodes {
        /// The port of this server.
        port: i32,
    },
    /// Somebody keeps a table of the catalog to himself.
    #[error("could not read the tables of the cluster's nodes because they are locked")]
    Locked,
    /// Connection parameters that libpq cannot read.
    #[error("invalid connection parameters in {place} for {node}: {error}")]
    BadConnInfo {
        /// The setting or table they stand in.
        place: &'static str,
        /// The node they are for.
        node: String,
        /// What is wrong; never the text itself.
        error: String,
    },
    /// A query on the tables failed in a way that raised no error of its own.
    #[error("could not read {table}: {error}")]
    Read {
        /// The table.
        table: &'static str,
        /// What the query interface says.
        error: String,
    },
}

impl From<&CatalogError> for Report {
    fn from(error: &CatalogError) -> Self {
        use PgSqlErrorCode::*;
        let message = error.to_string();
        match error {
            CatalogError::Missing => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("The pg_dist_* tables are not in this database.")
                .hint("Connect to the database that Citus is used in, or run: CREATE EXTENSION citus;"),
            CatalogError::NotCoordinator { coordinator } => {
                let report = Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
                match coordinator {
                    Some(place) => report
                        .detail(format!("This node is a worker; the coordinator is {place}."))
                        .hint(format!("Connect to {place} and call the function there.")),
                    None => report
                        .detail("This node is a worker, and its copy of pg_dist_node has no coordinator.")
                        .hint("Connect to the coordinator and call the function there."),
                }
            }
            CatalogError::NoNodes { port } => Report::new(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .detail("Its pg_dist_node is empty, and its pg_dist_local_group was changed since Citus was created here: so is a worker whose metadata was taken from it, as by stop_metadata_sync_to_node().")
                .hint(format!("Call the function on the coordinator of the cluster that this node belongs to. If it belongs to none, and is to be a cluster of its own, first: SELECT citus_set_coordinator_host('host name or address', {port});")),
            CatalogError::Locked => Report::new(ERRCODE_LOCK_NOT_AVAILABLE, message)
                .detail("Another session holds an ACCESS EXCLUSIVE lock on a pg_dist_* table.")
                .hint(
                    "See who: SELECT pid, relation::regclass FROM pg_locks WHERE mode = \
                     'AccessExclusiveLock' AND relation::regclass::text LIKE 'pg_dist_%';",
                ),
            CatalogError::BadConnInfo { .. } => {
                Report::new(ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
                    "Correct citus_fence.node_conninfo, citus.node_conninfo, or the node's rows in \
                     pg_dist_authinfo and pg_dist_poolinfo.",
                )
            }
            CatalogError::Read { .. } => Report::new(ERRCODE_INTERNAL_ERROR, message),
        }
    }
}
