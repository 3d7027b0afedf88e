//! A cluster with all writers' tables, and the one scenario that every way to split goes through.

use std::time::Duration;

use test_cluster::{
    Cluster, ClusterBuilder, Engine, PATIENCE, Replica, Result, prepared_transactions, wait_until,
};

use crate::audit::Audit;
use crate::book::Book;
use crate::how::{Called, How};
use crate::kind::Kind;
use crate::load::Load;
use crate::tables::Tables;

/// The node that is split.
pub const SOURCE: usize = 1;
/// A worker that has no part in it.
pub const OTHER: usize = 2;
/// How long a split may take under load.
pub const SPLIT_PATIENCE: Duration = Duration::from_secs(120);
/// What Citus says when its own split has found the replica caught up.
const CAUGHT_UP: &str = "is now caught up";
/// How many turns each writer has before and after.
const TURNS: u64 = 3;

/// A cluster of a coordinator and two workers.
pub struct Bed {
    /// The cluster.
    pub cluster: Cluster,
    /// Its tables.
    pub tables: Tables,
}

/// A split that has ended.
#[derive(Debug)]
pub struct Split {
    /// The call.
    pub called: Called,
    /// All that was written before, meanwhile and afterwards.
    pub book: Book,
    /// The number of the new node.
    pub node: usize,
}

/// A replica of a node that has caught up.
pub fn replica_of(cluster: &Cluster, node: usize) -> Result<Replica> {
    let replica = cluster.clone_of(node)?;
    cluster.wait_streaming(&replica, PATIENCE)?;
    cluster.wait_in_step(&replica, PATIENCE)?;
    Ok(replica)
}

impl Bed {
    /// Makes it, with links between the nodes where they are wanted.
    pub fn make(engine: Engine, links: bool) -> Result<Bed> {
        Bed::of(Bed::builder(engine).proxies(links))
    }

    /// What a cluster is to be like, to add to.
    pub fn builder(engine: Engine) -> ClusterBuilder {
        // A power failure of the machine is not among what is tried here, and a sync takes long on a pair of cores.
        // What is in doubt is recovered often: by the right daemon, and by one that takes itself for its source.
        // Orphans are dropped soon, so that what is to go with them is seen to.
        Cluster::builder(engine)
            .workers(2)
            .fsync(false)
            .setting("citus.recover_2pc_interval", "2s")
            .setting("citus.defer_shard_delete_interval", "2s")
    }

    /// Makes a cluster and its tables.
    pub fn of(builder: ClusterBuilder) -> Result<Bed> {
        let cluster = builder.build()?;
        let tables = Tables::create(&cluster)?;
        Ok(Bed { cluster, tables })
    }

    /// A replica of the source that has caught up.
    pub fn replica(&self) -> Result<Replica> {
        replica_of(&self.cluster, SOURCE)
    }

    /// Splits the source while writers of every kind write at every node, then has the new node written at
    /// too.
    pub fn split_under_load(&mut self, how: How) -> Result<Split> {
        self.split_under(how, Kind::all(self.tables.engine()))
    }

    /// The same with writers of these kinds.
    pub fn split_under(&mut self, how: How, kinds: &[Kind]) -> Result<Split> {
        // Before the writers: pg_basebackup gives up where it meets an intermediate result of a repartitioning
        // query, whose file it takes for a table's ("invalid segment number").
        let replica = self.replica()?;
        let nodes: Vec<usize> = (0..self.cluster.nodes().len()).collect();
        let load = Load::start(&self.cluster, &self.tables, &nodes, kinds, true)?;
        let id = how.register(&self.cluster, &replica)?;
        load.wait_for_each(TURNS, PATIENCE)?;
        // Citus holds only the writers that come by the coordinator; with others at work it rarely finds the replica
        // caught up, and looks every five seconds. So it is helped over that look: all wait for it, and go on.
        let helped = how == How::CitusOwn;
        if helped {
            load.hold(true);
            self.cluster.wait_in_step(&replica, PATIENCE)?;
        }
        let call = how.split(&self.cluster, id);
        if helped {
            let caught_up =
                wait_until("Citus to find the replica caught up", SPLIT_PATIENCE, || {
                    let said =
                        call.notices().iter().any(|notice| notice.message.contains(CAUGHT_UP));
                    (said || call.has_ended()).then_some(())
                });
            load.hold(false);
            caught_up?;
        }
        wait_until("the split", SPLIT_PATIENCE, || call.has_ended().then_some(()))?;
        let called = call.end();
        let node = self.cluster.adopt(replica);
        if let Err(error) = &called.outcome {
            panic!("the split failed: {error}\n{}", self.cluster.node(node).log());
        }
        load.wait_for_each(TURNS, PATIENCE)?;
        let at_new = Load::start(&self.cluster, &self.tables, &[node], kinds, true)?;
        at_new.wait_for_each(TURNS, PATIENCE)?;
        load.wait_for_each(TURNS, PATIENCE)?;
        let mut book = load.stop();
        book.add(at_new.stop());
        Ok(Split { called, book, node })
    }

    /// Audits a cluster at rest.
    pub fn audit(&self, book: &Book) -> Result<Audit> {
        Audit::of(&self.cluster, &self.tables, book)
    }

    /// Has every node finish what two-phase commits have left in doubt, as an operator does after a crash.
    pub fn recover(&self) -> Result<()> {
        wait_until("nothing to be in doubt", PATIENCE, || {
            self.cluster.recover_prepared().ok()?;
            prepared_transactions(&self.cluster).ok()?.is_empty().then_some(())
        })
    }
}
