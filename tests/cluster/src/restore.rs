//! Copies of all nodes, started as a cluster of their own.
//!
//! A copy knows the addresses of the cluster it was taken of, and whatever it sends there does harm:
//! Citus' maintenance daemon finishes transactions that it finds prepared on nodes which are still
//! in use, and a subscription takes over the replication slot on its publisher. So nothing may run
//! before the copies know each other, and the order is:
//!
//! 1. [`Restore::isolate`]: settings that keep all background work from starting.
//! 2. [`Restore::start`]
//! 3. [`Restore::rewrite_addresses`]: `pg_dist_node` on every copy, directly.
//! 4. [`Restore::cut_subscriptions`]: no copy follows a publisher of the cluster it was taken of.
//! 5. [`Restore::recover_prepared`]: what was in doubt is committed or rolled back.
//! 6. [`Restore::end_isolation`]: the settings are taken back.
//!
//! [`Cluster::restore`] does all six. A control leaves out what it wants to show the need of.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::builder::ClusterBuilder;
use crate::cluster::{Cluster, in_parallel, recover_prepared};
use crate::connect::{ConnectParams, HOST};
use crate::error::{Error, IoContext, Result};
use crate::root_dir::RootDir;
use crate::server::Server;
use crate::settings::{line, write_for_server};

/// What keeps a copy from acting on its own. Without the library that defines them, the names with a
/// dot mean nothing and do no harm.
pub const ISOLATION: [(&str, &str); 5] = [
    ("citus.recover_2pc_interval", "-1"),
    ("citus.defer_shard_delete_interval", "-1"),
    ("citus.background_task_queue_interval", "-1"),
    ("citus.distributed_deadlock_detection_factor", "-1"),
    ("max_logical_replication_workers", "0"),
];

/// The file that is read last, so that it wins over all others.
const LAST_FILE: &str = "postgresql.auto.conf";

const BEGIN_LINE: &str = "# isolation begins";
const END_LINE: &str = "# isolation ends";

/// Files that would make a copy follow its source or an archive instead of being a server of its
/// own. `backup_label` stays: recovery of a base backup begins where it says.
const RECOVERY_SIGNALS: [&str; 2] = ["standby.signal", "recovery.signal"];

/// Copies on their way to be a cluster.
pub struct Restore {
    nodes: Vec<Server>,
    builder: ClusterBuilder,
}

impl Cluster {
    /// Starts copies of all nodes, in the nodes' order, as a new isolated cluster, and brings it to
    /// work. The copies are moved into the new cluster and go away with it.
    pub fn restore(&self, copies: &[PathBuf]) -> Result<Cluster> {
        let mut restore = Restore::new(self, copies)?;
        restore.isolate()?;
        restore.start()?;
        restore.rewrite_addresses()?;
        restore.cut_subscriptions()?;
        restore.recover_prepared()?;
        restore.end_isolation()?;
        Ok(restore.into_cluster())
    }
}

/// Places for the nodes of a cluster that somebody else restores: a data directory that does not exist yet, and a
/// port. Dropping them stops what runs there and removes it.
pub struct Places {
    nodes: Vec<Server>,
    builder: ClusterBuilder,
}

impl Cluster {
    /// Places for copies of all nodes, in the nodes' order.
    pub fn places(&self) -> Result<Places> {
        let root = Arc::new(RootDir::create()?);
        let place = |node: &Server| {
            let mut options = node.options().clone();
            options.name = format!("place_{}", node.name());
            Server::place(Arc::clone(&root), options)
        };
        Ok(Places {
            nodes: self.nodes().iter().map(place).collect::<Result<Vec<_>>>()?,
            builder: self.settings_of_builder().clone().proxies(false),
        })
    }
}

impl Places {
    /// The places, in the nodes' order.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// Only the first of them: the others' nodes are not restored.
    pub fn first(mut self, count: usize) -> Places {
        self.nodes.truncate(count);
        self
    }

    /// Gives each what its administrator would: where its socket is, and who may connect. Its port stays what is
    /// set by ALTER SYSTEM. Nothing is started.
    pub fn configure(&self) -> Result<()> {
        self.nodes.iter().try_for_each(Server::configure)
    }

    /// Starts all.
    pub fn start(&self) -> Result<()> {
        in_parallel(self.nodes.iter().collect(), Server::start).map(drop)
    }

    /// The nodes as a cluster, in whatever state they are.
    pub fn into_cluster(self) -> Cluster {
        Cluster::from_nodes(self.nodes, self.builder)
    }
}

impl Restore {
    /// Takes the copies over, gives them places and ports of their own, and starts nothing.
    pub fn new(cluster: &Cluster, copies: &[PathBuf]) -> Result<Restore> {
        if copies.len() != cluster.nodes().len() {
            return Err(Error::Environment(format!(
                "{} copies for a cluster of {} nodes",
                copies.len(),
                cluster.nodes().len()
            )));
        }
        let root = Arc::new(RootDir::create()?);
        let nodes = cluster
            .nodes()
            .iter()
            .zip(copies)
            .map(|(node, copy)| {
                let mut options = node.options().clone();
                options.name = format!("restored_{}", node.name());
                // Nothing of a restored cluster outlives its test, and syncing whole copies is what
                // would take longest.
                options.fsync = false;
                let server = Server::adopt(Arc::clone(&root), options, copy)?;
                for signal in RECOVERY_SIGNALS {
                    remove_if_there(&server.data_dir().join(signal))?;
                }
                Ok(server)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Restore {
            nodes,
            builder: cluster.settings_of_builder().clone().proxies(false).fsync(false),
        })
    }

    /// Step 1: adds [`ISOLATION`] to what each copy reads last.
    pub fn isolate(&self) -> Result<()> {
        for node in &self.nodes {
            let path = node.data_dir().join(LAST_FILE);
            let mut contents = fs::read_to_string(&path).at("cannot read", &path)?;
            contents.push_str(&format!("\n{BEGIN_LINE}\n"));
            for (name, value) in ISOLATION {
                contents.push_str(&format!("{}\n", line(name, value)));
            }
            contents.push_str(&format!("{END_LINE}\n"));
            write_for_server(&path, &contents)?;
        }
        Ok(())
    }

    /// Step 2: starts all copies.
    pub fn start(&mut self) -> Result<()> {
        in_parallel(self.nodes.iter_mut().collect(), Server::start_first).map(drop)
    }

    /// Step 3: puts the copies' own addresses into `pg_dist_node` on each of them. Rows are matched
    /// by group, and which group a copy is it knows itself.
    pub fn rewrite_addresses(&self) -> Result<()> {
        let mut groups = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let group = node.query_value("SELECT groupid FROM pg_catalog.pg_dist_local_group")?;
            groups.push(format!("({group}, {})", node.port()));
        }
        let update = format!(
            "UPDATE pg_catalog.pg_dist_node n SET nodename = '{HOST}', nodeport = v.port \
             FROM (VALUES {}) AS v (groupid, port) \
             WHERE n.groupid = v.groupid AND n.noderole = 'primary'",
            groups.join(", ")
        );
        let strangers = format!(
            "SELECT count(*) FROM pg_catalog.pg_dist_node WHERE nodename <> '{HOST}' \
             OR nodeport NOT IN ({})",
            self.nodes.iter().map(|node| node.port().to_string()).collect::<Vec<_>>().join(", ")
        );
        for node in &self.nodes {
            node.execute(&update)?;
            let left = node.query_value(&strangers)?;
            if left != "0" {
                return Err(node.error(format!(
                    "still has {left} nodes in pg_dist_node that are no copies; it would contact them"
                )));
            }
        }
        Ok(())
    }

    /// Step 4: in every database of every copy, takes the replication slot on the publisher away from
    /// each subscription and disables it; those that Citus made for a move or split of shards are
    /// dropped. Slots that a copy of the files has brought along are dropped too: nobody will come for
    /// them. Nothing of this connects anywhere, as no worker of a subscription may start yet.
    pub fn cut_subscriptions(&self) -> Result<()> {
        for node in &self.nodes {
            for row in
                node.query("SELECT datname FROM pg_catalog.pg_database WHERE datallowconn")?
            {
                let Some(database) = row[0].as_deref() else { continue };
                cut_subscriptions_in(&node.connect_params().database(database))?;
            }
            node.execute(DROP_COPIED_SLOTS)?;
        }
        Ok(())
    }

    /// Step 5: lets every copy finish what it finds prepared of its own transactions. Returns how
    /// many there were.
    pub fn recover_prepared(&self) -> Result<u64> {
        recover_prepared(&self.nodes)
    }

    /// Step 6: takes the settings back and restarts all copies, as one of the settings needs that.
    pub fn end_isolation(&self) -> Result<()> {
        for node in &self.nodes {
            let path = node.data_dir().join(LAST_FILE);
            let contents = fs::read_to_string(&path).at("cannot read", &path)?;
            let former = without_isolation(&contents).ok_or_else(|| {
                node.error(format!(
                    "has no isolation settings in {LAST_FILE}; an ALTER SYSTEM rewrites that file"
                ))
            })?;
            write_for_server(&path, &former)?;
        }
        in_parallel(self.nodes.iter().collect(), |node| node.restart()).map(drop)
    }

    /// The copies, in the nodes' order.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// The copies as a cluster, in whatever state they are.
    pub fn into_cluster(self) -> Cluster {
        Cluster::from_nodes(self.nodes, self.builder)
    }
}

/// Names that Citus gives to the subscriptions of a move or split.
const MADE_BY_CITUS: &str = "subname ~ '^citus_shard_(move|split)_subscription_'";

const DROP_COPIED_SLOTS: &str = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) \
     FROM pg_catalog.pg_replication_slots";

fn cut_subscriptions_in(params: &ConnectParams) -> Result<()> {
    let mut client = params.connect()?;
    let list = format!(
        "SELECT pg_catalog.quote_ident(subname), {MADE_BY_CITUS} FROM pg_catalog.pg_subscription s \
         JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = current_database()"
    );
    let rows = client.query(&list, &[]).map_err(|error| params.sql_error(&list, &error))?;
    for row in rows {
        let (name, made_by_citus): (String, bool) = (row.get(0), row.get(1));
        let mut cut = format!(
            "ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE);"
        );
        if made_by_citus {
            cut.push_str(&format!("DROP SUBSCRIPTION {name};"));
        }
        client.batch_execute(&cut).map_err(|error| params.sql_error(&cut, &error))?;
    }
    Ok(())
}

/// The lines that isolation has not added; `None` when it has added none.
fn without_isolation(contents: &str) -> Option<String> {
    if !contents.lines().any(|line| line == BEGIN_LINE) {
        return None;
    }
    let mut inside = false;
    let mut kept = String::new();
    for line in contents.lines() {
        match line {
            BEGIN_LINE => inside = true,
            END_LINE => inside = false,
            _ if inside => {}
            other => {
                kept.push_str(other);
                kept.push('\n');
            }
        }
    }
    Some(kept)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.at("cannot remove", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_isolation_back_leaves_the_rest() {
        let text = format!("a = '1'\n{BEGIN_LINE}\nb = '2'\n{END_LINE}\nc = '3'\n");
        assert_eq!(without_isolation(&text).as_deref(), Some("a = '1'\nc = '3'\n"));
        assert_eq!(without_isolation("a = '1'\n"), None);
    }
}
