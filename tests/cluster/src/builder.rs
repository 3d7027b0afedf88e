//! What a cluster is to be like.

use std::sync::Arc;

use crate::binaries::Installation;
use crate::cluster::{Cluster, node_name};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::root_dir::RootDir;
use crate::settings::Options;
use crate::tls::Certificates;

/// How the nodes' own connections get the password, where passwords are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PasswordSource {
    /// A row of `pg_dist_authinfo` for every node, as Citus' own connections use it.
    #[default]
    Authinfo,
    /// A `.pgpass` file that `PGPASSFILE` in the servers' environment names.
    Passfile,
}

/// A cluster that is described but not yet made.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    pub(crate) engine: Engine,
    pub(crate) installation: Option<Installation>,
    pub(crate) database: String,
    pub(crate) workers: usize,
    pub(crate) standbys: Vec<usize>,
    pub(crate) tls: bool,
    pub(crate) scram: Option<PasswordSource>,
    pub(crate) proxies: bool,
    pub(crate) fsync: bool,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) node_settings: Vec<(usize, String, String)>,
    pub(crate) without_preload: Vec<usize>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) fence: bool,
    pub(crate) identifiers_of_today: bool,
}

impl ClusterBuilder {
    /// A cluster of a coordinator and two workers.
    pub fn new(engine: Engine) -> ClusterBuilder {
        ClusterBuilder {
            engine,
            installation: None,
            database: String::from("postgres"),
            workers: 2,
            standbys: Vec::new(),
            tls: false,
            scram: None,
            proxies: false,
            fsync: true,
            settings: Vec::new(),
            node_settings: Vec::new(),
            without_preload: Vec::new(),
            environment: Vec::new(),
            fence: true,
            identifiers_of_today: false,
        }
    }

    /// How many workers.
    pub fn workers(mut self, workers: usize) -> ClusterBuilder {
        self.workers = workers;
        self
    }

    /// Servers of another installation of the same PostgreSQL, with its libraries.
    pub fn installation(mut self, installation: &Installation) -> ClusterBuilder {
        self.installation = Some(installation.clone());
        self
    }

    /// A streaming standby for each of these nodes; a node named twice gets two.
    pub fn standbys(mut self, nodes: impl IntoIterator<Item = usize>) -> ClusterBuilder {
        self.standbys = nodes.into_iter().collect();
        self
    }

    /// The database that holds the cluster.
    pub fn database(mut self, name: &str) -> ClusterBuilder {
        self.database = name.to_owned();
        self
    }

    /// Only encrypted connections over TCP, checked against an authority of the cluster's own.
    pub fn tls(mut self, tls: bool) -> ClusterBuilder {
        self.tls = tls;
        self
    }

    /// Passwords (SCRAM) for every connection over TCP, those between the nodes included.
    pub fn scram(mut self, scram: bool) -> ClusterBuilder {
        self.scram = scram.then(PasswordSource::default);
        self
    }

    /// Like [`ClusterBuilder::scram`], and where the nodes' own connections find the password.
    pub fn scram_from(mut self, source: PasswordSource) -> ClusterBuilder {
        self.scram = Some(source);
        self
    }

    /// A [`Link`](crate::Link) in front of every node. `pg_dist_node` then has the links' addresses, so whatever
    /// one node says to another passes a link. The connections of tests do not.
    pub fn proxies(mut self, proxies: bool) -> ClusterBuilder {
        self.proxies = proxies;
        self
    }

    /// A configuration parameter on all nodes.
    pub fn setting(mut self, name: &str, value: &str) -> ClusterBuilder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A configuration parameter on one node; it wins over [`ClusterBuilder::setting`].
    pub fn node_setting(mut self, node: usize, name: &str, value: &str) -> ClusterBuilder {
        self.node_settings.push((node, name.to_owned(), value.to_owned()));
        self
    }

    /// A variable in the environment that all servers are started in.
    pub fn environment(mut self, name: &str, value: &str) -> ClusterBuilder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves `citus_fence` out of one node's `shared_preload_libraries`.
    pub fn without_fence_preload(mut self, node: usize) -> ClusterBuilder {
        self.without_preload.push(node);
        self
    }

    /// Whether writes reach the disk before they are acknowledged. On unless switched off, as what
    /// is on disk is what many tests are about.
    pub fn fsync(mut self, fsync: bool) -> ClusterBuilder {
        self.fsync = fsync;
        self
    }

    /// Only system identifiers as initdb gives them before 2038: Barman 3.4 takes a server with a higher one for two
    /// servers, as SQL shows it with a sign and the replication protocol without.
    pub fn identifiers_of_today(mut self) -> ClusterBuilder {
        self.identifiers_of_today = true;
        self
    }

    /// A cluster without the extension under test: for what has to be shown without it, and for
    /// tests of this crate.
    pub fn without_fence(mut self) -> ClusterBuilder {
        self.fence = false;
        self
    }

    /// Makes and starts it.
    pub fn build(self) -> Result<Cluster> {
        self.check()?;
        let root = Arc::new(RootDir::create()?);
        let certificates = if self.tls { Some(Certificates::generate()?) } else { None };
        let password = self.scram.map(|_| random_password());
        let options: Vec<Options> = (0..=self.workers)
            .map(|node| self.options(node, certificates.as_ref(), password.as_deref()))
            .collect();
        Cluster::create(&root, options, self)
    }

    /// A node number that does not exist is a mistake in the test, and would go unnoticed.
    fn check(&self) -> Result<()> {
        let named = self
            .standbys
            .iter()
            .chain(&self.without_preload)
            .chain(self.node_settings.iter().map(|(node, _, _)| node));
        match named.copied().find(|node| *node > self.workers) {
            Some(node) => Err(Error::Environment(format!(
                "there is no node {node} in a cluster of a coordinator and {} workers",
                self.workers
            ))),
            None => Ok(()),
        }
    }

    fn options(
        &self,
        node: usize,
        certificates: Option<&Certificates>,
        password: Option<&str>,
    ) -> Options {
        let with_fence = self.fence && !self.without_preload.contains(&node);
        let mut options = Options::new(&node_name(node));
        options.installation = self.installation.clone();
        options.database = self.database.clone();
        options.preload = self.engine.preload(with_fence);
        options.fsync = self.fsync;
        options.certificates = certificates.cloned();
        options.password = password.map(str::to_owned);
        options.passfile = self.scram == Some(PasswordSource::Passfile);
        options.environment = self.environment.clone();
        options.is_node = true;
        options.identifier_of_today = self.identifiers_of_today;
        options.settings = self.settings.clone();
        let own = self.node_settings.iter().filter(|(of, _, _)| *of == node);
        options.settings.extend(own.map(|(_, name, value)| (name.clone(), value.clone())));
        options
    }
}

/// Letters and digits only, so that it needs no quoting in connection strings and password files.
fn random_password() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(24).collect()
}
