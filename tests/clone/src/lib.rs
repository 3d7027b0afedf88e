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

pub mod audit;
pub mod bed;
pub mod book;
pub mod how;
pub mod kind;
pub mod load;
pub mod tables;

pub use audit::Audit;
pub use bed::{Bed, SOURCE, SPLIT_PATIENCE, Split};
pub use book::Book;
pub use how::{Call, Called, How};
pub use kind::Kind;
pub use load::Load;
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
