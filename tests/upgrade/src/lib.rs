//! Schemas of this extension, old and new, and what is the same in two of them.
//!
//! The SQL of every release is kept in `sql/releases/` as it was installed, and `ci/install dev` puts it
//! beside today's.  So a test can have the schema of any release, upgrade it with the scripts of `sql/`,
//! and compare what came of it with what `CREATE EXTENSION` makes.

mod description;
mod releases;

pub use description::{Description, differences};
pub use releases::{current, paths, released};

use test_cluster::{Cluster, Engine, Result};

/// Drops the extension on every node, and makes it anew from the script of a release.
pub fn recreate(cluster: &Cluster, version: &str) -> Result<()> {
    on_the_nodes(cluster, "DROP EXTENSION citus_fence")?;
    on_the_nodes(cluster, &format!("CREATE EXTENSION citus_fence VERSION '{version}'"))
}

/// Runs the upgrade to a version on every node.
pub fn update(cluster: &Cluster, version: &str) -> Result<()> {
    on_the_nodes(cluster, &format!("ALTER EXTENSION citus_fence UPDATE TO '{version}'"))
}

/// The version that each node has.
pub fn versions(cluster: &Cluster) -> Result<Vec<String>> {
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'citus_fence'";
    cluster.nodes().iter().map(|node| node.query_value(version)).collect()
}

/// Citus takes commands about extensions from the coordinator to the workers.
fn on_the_nodes(cluster: &Cluster, sql: &str) -> Result<()> {
    match cluster.engine() {
        Engine::Citus => cluster.coordinator().execute(sql),
        Engine::Embedded => cluster.execute_everywhere(sql),
    }
}
