//! A streaming replica of a node that is to become a node itself, as a clone split makes one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::error::Result;
use crate::proxy::Link;
use crate::server::{Server, StopMode};
use crate::wait::{PATIENCE, wait_for_sql};

/// Tells replicas of one node apart, in names and slots.
static NUMBER: AtomicUsize = AtomicUsize::new(1);

/// What a replica has not in common with its source: an archive would get the WAL of both.
const OWN_SETTINGS: [(&str, &str); 2] = [("archive_mode", "off"), ("archive_command", "")];

/// A replica that is no node yet.
#[derive(Debug)]
pub struct Replica {
    of: usize,
    link: Option<Link>,
    server: Server,
}

impl Replica {
    /// The node that it follows.
    pub fn source(&self) -> usize {
        self.of
    }

    /// The server.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The link in front of it, in a cluster with proxies.
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// The port by which other nodes are to reach it.
    pub fn catalog_port(&self) -> u16 {
        self.link.as_ref().map_or(self.server.port(), Link::port)
    }
}

impl Cluster {
    /// Makes a replica of a running node with pg_basebackup, and starts it: with the node's settings but
    /// no archive, a replication slot of its name, and in a cluster with proxies a link. Replication itself
    /// goes past the links.
    pub fn clone_of(&self, node: usize) -> Result<Replica> {
        let source = self.node(node);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let server =
            source.standby_with(&format!("clone{number}_of_{}", source.name()), &OWN_SETTINGS)?;
        let link = if self.settings_of_builder().proxies {
            Some(Link::open(server.name(), server.port())?)
        } else {
            None
        };
        Ok(Replica { of: node, link, server })
    }

    /// Waits until a replica's source sends it WAL as it is written.
    pub fn wait_streaming(&self, replica: &Replica, timeout: Duration) -> Result<()> {
        let mut client = self.connect(replica.of)?;
        wait_for_sql(
            &mut client,
            &format!(
                "SELECT count(*) = 1 FROM pg_stat_replication \
                  WHERE application_name = '{}' AND state = 'streaming'",
                replica.server.name()
            ),
            timeout,
        )
    }

    /// Waits until a replica has replayed what its source has written up to now.
    pub fn wait_in_step(&self, replica: &Replica, timeout: Duration) -> Result<()> {
        self.node(replica.of).wait_for_replay_on(&replica.server, timeout)
    }

    /// Has a node fail over to its first standby, which has all of its WAL and takes its place here; with proxies its
    /// address as well. `pg_dist_node` is left to the caller. The old server is gone.
    ///
    /// # Panics
    /// When it has no standby.
    pub fn fail_over(&mut self, node: usize) -> Result<()> {
        let lsn = self.node(node).query_value("SELECT pg_current_wal_flush_lsn()")?;
        let standby = self.take_standby_of(node);
        standby.wait_for_replay_of(&lsn, PATIENCE)?;
        self.node(node).stop(StopMode::Immediate)?;
        standby.execute("SELECT pg_promote()")?;
        self.put_in_place_of(node, standby)
    }

    /// Takes a replica that has become a node in as one; its number.
    pub fn adopt(&mut self, replica: Replica) -> usize {
        self.take_in(replica.server, replica.link)
    }
}
