//! `citus-fence restore`: a backup of all nodes becomes a cluster that knows nothing of the one it was taken of.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `args` | what can be typed |
//! | `fault` | what can go wrong |
//! | `plan` | from options and manifest to what is to be where |
//! | `place` | files to their place, and whether they may be started there |
//! | `bounds` | from where to where a copy goes in the WAL |
//! | `guard` | what keeps a copy from being started too early |
//! | `running` | whether a server runs on a directory |
//! | `programs` | PostgreSQL's own programs |
//! | `config` | the configuration of the first start, and that of the second |
//! | `first` | the first start |
//! | `log` | what is told of the log of the first start |
//! | `rewrite` | what is changed in it |
//! | `numbering` | which node of the backup each node of a database is |
//! | `stage` | how far a node has come |
//! | `steps` | what is done with one node, a step at a time |
//! | `all` | `restore all`, `prepare` and `promote`: all of that in order |
//! | `finish` | `restore finish` |
//! | `party` | who was brought to one mind with whom |
//! | `scratch` | a directory for copies that nobody keeps |
//! | `trial` | `verify --full`: all of that in such a directory |

mod all;
pub mod args;
mod bounds;
mod config;
mod fault;
mod finish;
mod first;
mod guard;
mod log;
mod numbering;
mod party;
mod place;
mod plan;
mod programs;
mod rewrite;
mod running;
mod scratch;
mod stage;
mod steps;
mod trial;

pub use fault::Fault;
pub use plan::read as read_backup;
pub use trial::{Tried, require as require_trial, run as try_it};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::restore::args::{RestoreArgs, Step};
use crate::signals::Stop;

/// Does the step.
pub fn run(args: &RestoreArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    match &args.step {
        Step::All(args) => all::run(args, stop, output),
        Step::Prepare(args) => all::prepare(args, stop, output),
        Step::Promote(args) => all::promote(args, stop, output),
        Step::Finish(args) => finish::run(args, stop, output),
    }
}
