//! What the tests of the clone split share: writers of every kind at every node, the audit of what they wrote, and the
//! split itself, this extension's or Citus' own.
//!
//! The tests are in `tests/`, a file per question.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `kind` | the ways to write, and what each leaves |
//! | `tables` | the tables that they write to |
//! | `load`, `book` | the writers at work; what they tell |
//! | `audit` | every acknowledged write exactly once, every node of one mind, nothing left |
//! | `how` | whose functions split |
//! | `bed` | a cluster with all of it, and the scenario |
//! | `stand`, `fault`, `matrix` | a split that stands still at a step; what strikes it there; the table of both |
//! | `probe` | a table whose shards are tried one by one |
//! | `words` | what a server says when it refuses |

pub mod audit;
pub mod bed;
pub mod book;
pub mod fault;
pub mod how;
pub mod kind;
pub mod load;
pub mod matrix;
pub mod probe;
pub mod stand;
pub mod tables;
pub mod words;

pub use audit::Audit;
pub use bed::{Bed, OTHER, SOURCE, SPLIT_PATIENCE, Split, replica_of};
pub use book::Book;
pub use fault::{Fault, Victim};
pub use how::{Call, Called, How};
pub use kind::Kind;
pub use load::Load;
pub use stand::Stand;
use std::io::Write as _;
pub use tables::Tables;

pub use test_cluster::{Cluster, Engine, PATIENCE, Result, wait_until};

/// Runs a test on every engine there is, and says on which it failed.
pub fn on_each_engine(test: impl Fn(Engine) -> Result<()>) {
    for engine in Engine::available() {
        if let Err(error) = test(engine) {
            panic!("on {}: {error}", engine.name());
        }
    }
}

/// Whether this extension can split nodes here; says so in one line where it cannot.
pub fn ours_exists(bed: &Bed) -> Result<bool> {
    ours_exists_in(&bed.cluster)
}

/// The same of any cluster.
pub fn ours_exists_in(cluster: &Cluster) -> Result<bool> {
    let exists = How::Ours.exists(cluster)?;
    if !exists {
        // Past the capture of the test runner.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: citus_fence has no citus_promote_clone_and_rebalance() on {}",
            cluster.engine()
        );
    }
    Ok(exists)
}
