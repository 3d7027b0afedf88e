//! The `citus-fence` command: operations on a Citus cluster that need a write fence.
//!
//! ```text
//! words ──args──> Cli ──status::ask──> Status ──output──> standard output
//!   │ wrong          │      │                │
//!   │                │      └─ Failure       └─ findings
//!   v                v             v                v
//! WrongUse(2)    Done(0)        Failed(1)       Findings(3)
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | `args` | what can be typed, and what `--help` says |
//! | `units` | durations with units |
//! | `exit` | the exit codes |
//! | `failure` | what can go wrong, and how it is told |
//! | `help` | the text below a subcommand's options |
//! | `usage` | words that are no use, told without the secrets in them |
//! | `output` | standard output and standard error: text or JSON, and a reader that goes away |
//! | `progress` | a bar on a terminal, lines elsewhere |
//! | `side_by_side` | the same for each of many things, several at a time |
//! | `signals` | INT, TERM and HUP |
//! | `connection` | from options to libpq's parameters |
//! | `server` | one session: asked within a time, cancelled and closed on every way out |
//! | `rows`, `lsn` | from an answer's text to values; positions in the WAL |
//! | `lease` | a block that is renewed, and ends with this program |
//! | `databases` | which databases of a server have Citus |
//! | `group` | a command and all that it starts, ended together |
//! | `nodes` | the cluster's nodes, and the way to each |
//! | `folder`, `durable` | a directory that is whole or empty in the end; files that are on disk |
//! | `programs` | PostgreSQL's own programs |
//! | `block`, `restore_point`, `backup` | the subcommands of that name |
//! | `dump` | the subcommand of that name: plan, workers, files, manifest |
//! | `restore_dump` | the subcommand of that name: what a dump has, into a cluster of another shape |
//! | `talk` | one session outside of a transaction, for what has to be changed |
//! | `manifest` | what a physical backup says of itself |
//! | `stored` | `list` and `verify`: a backup or a dump that is there |
//! | `status`, `restore`, `check` | the subcommands of that name |
//!
//! A new subcommand is a variant of [`args::Task`], a folder like `status`, a line in [`perform`], and
//! a section of docs/command.md. Only what works is offered.

mod args;
mod backup;
mod block;
mod check;
mod connection;
mod databases;
mod dump;
mod durable;
mod exit;
mod failure;
mod folder;
mod group;
mod help;
mod lease;
mod lsn;
mod manifest;
mod nodes;
mod output;
mod programs;
mod progress;
mod restore;
mod restore_dump;
mod restore_point;
mod rows;
mod server;
mod side_by_side;
mod signals;
mod status;
mod stored;
mod talk;
mod units;
mod usage;

use std::ffi::OsString;

pub use crate::dump::{Dump, DumpError, Verified, list as list_dump, verify as verify_dump};
pub use crate::exit::Exit;

use crate::args::{Cli, Task};
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Stop;

/// The whole program, from the words of the command line to the exit code.
pub fn main(words: impl IntoIterator<Item = OsString>) -> Exit {
    let words: Vec<OsString> = words.into_iter().collect();
    let cli = match usage::parse(&words) {
        Ok(cli) => cli,
        Err(end) => return end,
    };
    let output = Output::new(cli.output.json, cli.output.quiet);
    if cli.output.verbose {
        output::log_to_stderr();
    }
    match perform(&cli, &output) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit()
        }
    }
}

/// What can be typed, for those who write pages and completions of it.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Does what was asked for.
fn perform(cli: &Cli, output: &Output) -> Result<Exit, Failure> {
    let stop = match &cli.task {
        Task::Block(_)
        | Task::RestorePoint(_)
        | Task::Backup(_)
        | Task::RestoreDump(_)
        | Task::Verify(_) => Stop::listen_once(),
        _ => Stop::listen(),
    };
    let stop = stop.map_err(Failure::Signals)?;
    match &cli.task {
        Task::Status(args) => status::run(args, &stop, output),
        Task::Block(args) => block::run(args, &stop, output),
        Task::Backup(args) => backup::run(args, &stop, output),
        Task::RestorePoint(args) => restore_point::run(args, &stop, output),
        Task::Dump(args) => dump::run(args, &stop, output),
        Task::RestoreDump(args) => restore_dump::run(args, &stop, output),
        Task::Restore(args) => restore::run(args, &stop, output),
        Task::Check(args) => check::run(args, &stop, output),
        Task::List(args) => stored::list(args, output),
        Task::Verify(args) => stored::verify(args, &stop, output),
    }
}
