//! A cluster: a coordinator and workers of one engine, with the extension under test, ready for use.
//!
//! One number means the same everywhere: node 0 is the coordinator, node 1 the first worker, and so
//! on; it is also the node's `groupid` in a fresh cluster, and the number of its link.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::Signal;
use postgres::Client;

use crate::builder::{ClusterBuilder, PasswordSource};
use crate::connect::HOST;
use crate::engine::{Engine, FENCE};
use crate::error::Result;
use crate::process;
use crate::proxy::Link;
use crate::root_dir::RootDir;
use crate::server::Server;
use crate::settings::Options;
use crate::template::SUPERUSER;

/// A running cluster. Everything of it is gone when the value is.
pub struct Cluster {
    // Fields are dropped in this order: who follows goes before who is followed.
    standbys: Vec<Standby>,
    links: Vec<Link>,
    nodes: Vec<Server>,
    builder: ClusterBuilder,
}

struct Standby {
    of: usize,
    server: Server,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cluster {:?}", self.builder.engine, self.nodes)
    }
}

// Looking at it.
impl Cluster {
    /// Describes a cluster of a coordinator and two workers.
    pub fn builder(engine: Engine) -> ClusterBuilder {
        ClusterBuilder::new(engine)
    }

    /// What makes its catalog.
    pub fn engine(&self) -> Engine {
        self.builder.engine
    }

    /// The database that holds it.
    pub fn database(&self) -> &str {
        &self.builder.database
    }

    /// All nodes, the coordinator first.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// One node: 0 is the coordinator.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn node(&self, node: usize) -> &Server {
        match self.nodes.get(node) {
            Some(server) => server,
            None => panic!("there is no node {node}; the last one is {}", self.nodes.len() - 1),
        }
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Server {
        &self.nodes[0]
    }

    /// A worker. The first is number 1, as its group is.
    ///
    /// # Panics
    /// When there is no such worker.
    pub fn worker(&self, worker: usize) -> &Server {
        assert!(worker != 0, "node 0 is the coordinator; the workers begin at 1");
        self.node(worker)
    }

    /// All workers.
    pub fn workers(&self) -> &[Server] {
        &self.nodes[1..]
    }

    /// The link in front of a node.
    ///
    /// # Panics
    /// When the cluster was built without proxies, or there is no such node.
    pub fn link(&self, node: usize) -> &Link {
        match self.links.get(node) {
            Some(link) => link,
            None if self.links.is_empty() => panic!("the cluster was built without proxies"),
            None => panic!("there is no node {node}; the last one is {}", self.links.len() - 1),
        }
    }

    /// The port that stands for a node in `pg_dist_node`: its link's, if it has one.
    pub fn catalog_port(&self, node: usize) -> u16 {
        match self.links.get(node) {
            Some(link) => link.port(),
            None => self.node(node).port(),
        }
    }

    /// All standbys, in the order in which they were added.
    pub fn standbys(&self) -> impl Iterator<Item = &Server> {
        self.standbys.iter().map(|standby| &standby.server)
    }

    /// The first standby of a node.
    ///
    /// # Panics
    /// When it has none.
    pub fn standby_of(&self, node: usize) -> &Server {
        match self.standbys.iter().find(|standby| standby.of == node) {
            Some(standby) => &standby.server,
            None => panic!("node {node} has no standby"),
        }
    }

    /// Connects to a node as the superuser, straight.
    pub fn connect(&self, node: usize) -> Result<Client> {
        self.node(node).connect()
    }

    /// Runs statements on every node, the coordinator first.
    pub fn execute_everywhere(&self, sql: &str) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.execute(sql))
    }

    /// Lets every node finish the transactions it has left in doubt, and returns how many there were.
    /// Citus' own daemon does it too, but only once a minute, and until then they hold their locks.
    pub fn recover_prepared(&self) -> Result<u64> {
        recover_prepared(&self.nodes)
    }

    /// A path for a copy or backup of a node, inside the cluster's temporary folder. The folder
    /// above it exists and the servers' user may write there; the path itself does not exist.
    pub fn copy_target(&self, round: &str, node: usize) -> Result<PathBuf> {
        let folder = self.coordinator().root().private_folder(&format!("copies-{round}"))?;
        Ok(folder.join(self.node(node).name()))
    }

    pub(crate) fn settings_of_builder(&self) -> &ClusterBuilder {
        &self.builder
    }
}

// Making it.
impl Cluster {
    /// Makes the servers, joins them, and adds the standbys.
    pub(crate) fn create(
        root: &Arc<RootDir>,
        nodes: Vec<Options>,
        builder: ClusterBuilder,
    ) -> Result<Cluster> {
        let nodes = in_parallel(nodes, |options| Server::create(Arc::clone(root), options))?;
        let links = if builder.proxies {
            nodes
                .iter()
                .map(|node| Link::open(node.name(), node.port()))
                .collect::<Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let mut cluster = Cluster { nodes, links, standbys: Vec::new(), builder };
        cluster.join_nodes()?;
        for node in cluster.builder.standbys.clone() {
            cluster.add_standby(node)?;
        }
        Ok(cluster)
    }

    /// A restored cluster: nodes that already are one.
    pub(crate) fn from_nodes(nodes: Vec<Server>, builder: ClusterBuilder) -> Cluster {
        Cluster { standbys: Vec::new(), links: Vec::new(), nodes, builder }
    }

    /// Adds a streaming standby of a node and waits until it answers. It is not in `pg_dist_node`.
    pub fn add_standby(&mut self, node: usize) -> Result<&Server> {
        let number = self.standbys.iter().filter(|other| other.of == node).count() + 1;
        let primary = self.node(node);
        let server = primary.standby(&format!("{}_standby{number}", primary.name()))?;
        self.standbys.push(Standby { of: node, server });
        Ok(&self.standbys[self.standbys.len() - 1].server)
    }

    /// Takes a server in as the next node: somebody else has brought it into `pg_dist_node`. With proxies
    /// it comes with its link.
    pub(crate) fn take_in(&mut self, server: Server, link: Option<Link>) -> usize {
        self.nodes.push(server);
        self.links.extend(link);
        self.nodes.len() - 1
    }

    /// The first standby of a node, which is none any more.
    pub(crate) fn take_standby_of(&mut self, node: usize) -> Server {
        match self.standbys.iter().position(|standby| standby.of == node) {
            Some(place) => self.standbys.remove(place).server,
            None => panic!("node {node} has no standby"),
        }
    }

    /// Another server for a node whose own is gone.
    pub(crate) fn put_in_place_of(&mut self, node: usize, server: Server) -> Result<()> {
        if let Some(link) = self.links.get(node) {
            link.lead_to(server.port())?;
        }
        self.nodes[node] = server;
        Ok(())
    }

    /// Starts one more server that is ready to become a node, with all extensions, and does not add
    /// it.
    pub fn start_spare(&self, name: &str) -> Result<Server> {
        let mut options = self.coordinator().options().clone();
        options.name = name.to_owned();
        options.preload = self.builder.engine.preload(self.builder.fence);
        options.settings = self.builder.settings.clone();
        let server = Server::create(Arc::clone(self.coordinator().root()), options)?;
        self.prepare_node(&server)?;
        if self.builder.fence && self.builder.engine == Engine::Embedded {
            server.execute(&format!("CREATE EXTENSION {FENCE}"))?;
        }
        Ok(server)
    }

    /// Starts one more worker, adds it to the cluster, and returns its node number.
    pub fn add_worker(&mut self) -> Result<usize> {
        let node = self.nodes.len();
        let server = self.start_spare(&node_name(node))?;
        if self.builder.proxies {
            self.links.push(Link::open(server.name(), server.port())?);
        }
        self.nodes.push(server);
        self.coordinator()
            .execute(&format!("SELECT citus_add_node('{HOST}', {})", self.catalog_port(node)))?;
        Ok(node)
    }

    fn join_nodes(&self) -> Result<()> {
        in_parallel(self.nodes.iter().collect(), |node| self.prepare_node(node))?;
        let coordinator = self.coordinator();
        let mut join =
            format!("SELECT citus_set_coordinator_host('{HOST}', {});", self.catalog_port(0));
        // One after the other, so that the groups have the nodes' numbers.
        for node in 1..self.nodes.len() {
            join.push_str(&format!(
                "SELECT citus_add_node('{HOST}', {});",
                self.catalog_port(node)
            ));
        }
        coordinator.execute(&join)?;
        if self.builder.fence {
            let create = format!("CREATE EXTENSION {FENCE}");
            match self.builder.engine {
                // Citus takes it to the workers.
                Engine::Citus => coordinator.execute(&create)?,
                Engine::Embedded => self.execute_everywhere(&create)?,
            }
        }
        Ok(())
    }

    /// What a server needs before it can be added: the database, the catalog's extension, and the
    /// password for the others.
    fn prepare_node(&self, server: &Server) -> Result<()> {
        if self.builder.database != "postgres" {
            let maintenance = server.connect_params().database("postgres");
            let create = format!("CREATE DATABASE {}", quote_name(&self.builder.database));
            maintenance
                .connect()?
                .batch_execute(&create)
                .map_err(|error| maintenance.sql_error(&create, &error))?;
        }
        server.execute(&format!("CREATE EXTENSION {}", self.builder.engine.catalog_extension()))?;
        if self.builder.scram == Some(PasswordSource::Authinfo)
            && let Some(password) = &server.options().password
        {
            let params = server.connect_params();
            // Node 0 stands for every node.
            let insert = format!(
                "INSERT INTO pg_catalog.pg_dist_authinfo (nodeid, rolename, authinfo) \
                 VALUES (0, '{SUPERUSER}', 'password={password}')"
            );
            params
                .connect()?
                .batch_execute(&insert)
                // The statement stays out of the message, as it has the password.
                .map_err(|error| params.sql_error("filling pg_dist_authinfo", &error))?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // All at once; each server's own drop then only waits.
        for server in self.standbys().chain(&self.nodes) {
            if let (Ok(pid), false) = (server.pid(), server.is_frozen()) {
                let _ = process::signal(pid, Signal::SIGQUIT);
            }
        }
    }
}

/// Calls `recover_prepared_transactions()` on every node and adds up the answers.
pub(crate) fn recover_prepared(nodes: &[Server]) -> Result<u64> {
    nodes.iter().try_fold(0, |sum, node| {
        let answer = node.query_value("SELECT recover_prepared_transactions()")?;
        let recovered: u64 = answer.parse().map_err(|_| {
            node.error(format!("recover_prepared_transactions() returned {answer}"))
        })?;
        Ok(sum + recovered)
    })
}

/// The name of a node's server.
pub(crate) fn node_name(node: usize) -> String {
    match node {
        0 => String::from("coordinator"),
        worker => format!("worker{worker}"),
    }
}

/// A name as SQL takes it whatever is in it.
pub(crate) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Runs one task per item at the same time and returns the results in order, or the first error.
pub(crate) fn in_parallel<I: Send, T: Send>(
    items: Vec<I>,
    task: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(|| task(item))).collect();
        // All are joined before an error is returned, so nothing goes on behind it.
        let results: Vec<Result<T>> = threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect();
        results.into_iter().collect()
    })
}
