//! A two-phase commit that sits in the middle: prepared on the other nodes, committed on its own, and
//! waiting for a synchronous standby that does not exist before it says so to anyone.

use std::thread::JoinHandle;

use test_cluster::postgres::Error;
use test_cluster::{Cluster, PATIENCE, Result, prepared_transactions, wait_until};

/// The commit, as long as it is stuck.
pub struct StuckCommit<'a> {
    cluster: &'a Cluster,
    node: usize,
    session: JoinHandle<std::result::Result<(), Error>>,
}

impl<'a> StuckCommit<'a> {
    /// Has `statements` run on a node and get stuck in their COMMIT.
    pub fn begin(cluster: &'a Cluster, node: usize, statements: &[String]) -> Result<Self> {
        let server = cluster.node(node);
        // Everybody else's commits, and their halves on this node, wait for no standby.
        server.alter_system("synchronous_commit", "local")?;
        server.alter_system("synchronous_standby_names", "nobody")?;
        server.reload()?;
        wait_until("the setting to arrive", PATIENCE, || {
            (server.query_value("SHOW synchronous_standby_names").ok()? == "nobody").then_some(())
        })?;
        let mut patient = vec!["SET synchronous_commit = on".to_owned()];
        patient.extend_from_slice(statements);
        let session = crate::in_background(cluster, node, &patient);
        wait_until("a commit that waits for a standby", PATIENCE, || {
            let waiting = server
                .query_value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT'")
                .ok()?;
            (waiting == "1").then_some(())
        })?;
        let stuck = Self { cluster, node, session };
        assert!(stuck.is_prepared(cluster)?, "nothing is prepared, so this is no two-phase commit");
        Ok(stuck)
    }

    /// Whether its other halves are still prepared.
    pub fn is_prepared(&self, cluster: &Cluster) -> Result<bool> {
        let prefix = format!("citus_{}_", self.node);
        Ok(prepared_transactions(cluster)?.iter().any(|left| left.gid.starts_with(&prefix)))
    }

    /// Lets it go on; how it ended.
    pub fn go_on(self) -> Result<std::result::Result<(), Error>> {
        let server = self.cluster.node(self.node);
        server.alter_system("synchronous_standby_names", "")?;
        server.reload()?;
        Ok(self.session.join().expect("a thread"))
    }
}
