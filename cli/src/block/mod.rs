//! `citus-fence block`: runs a command while the cluster's writers are held back.

pub mod args;
mod failure;

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

pub use self::failure::BlockFailure;
use crate::block::args::BlockArgs;
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::folder;
use crate::group::{GRACE, Group};
use crate::lease::{self, Held, HeldNode, Trouble};
use crate::output::Output;
use crate::programs;
use crate::signals::Stop;
use crate::units::spell;

/// How often command, block and signals are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What `--manifest` writes.
#[derive(Serialize)]
struct Manifest<'a> {
    block_id: i64,
    mode: &'a str,
    began_at: DateTime<Utc>,
    nodes: &'a [HeldNode],
}

/// What is said at the end.
#[derive(Serialize)]
struct Summary {
    block_id: i64,
    mode: String,
    held_ms: u128,
    exit_code: u8,
}

/// Begins a block, runs the command, ends the block.
pub fn run(args: &BlockArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let destination = Destination::new(&args.connection)?;
    // Nobody is held for a command that is not there.
    if let Some(name) = args.command.first() {
        programs::runnable(name).map_err(|error| BlockFailure::NotRun {
            command: name.to_string_lossy().into_owned(),
            error,
        })?;
    }
    let not_begun = |why| Failure::from(BlockFailure::NotBegun(Box::new(why)));
    let held = lease::begin(&destination, &args.hold.terms(), stop, output).map_err(not_begun)?;
    if let Some(path) = &args.manifest {
        // An early return ends the block.
        write_manifest(path, &held).map_err(not_begun)?;
    }
    let ran = run_command(args, &held, stop);
    let (id, mode) = (held.id, held.mode.clone());
    let verdict = match ran {
        Ok((_, None)) => held.end(stop),
        _ => held.give_up(),
    };
    let (status, trouble) = ran?;
    match trouble {
        Some(Trouble::Over) => return Err(BlockFailure::Over.into()),
        // The server may know more by now.
        Some(Trouble::Lost(why)) => {
            return Err(BlockFailure::Lost { id, why: verdict.why.unwrap_or(why) }.into());
        }
        None => {}
    }
    if !verdict.lasted {
        return Err(BlockFailure::Lost { id, why: verdict.why.unwrap_or_default() }.into());
    }
    let exit_code = code(status, stop);
    let summary = Summary { block_id: id, mode, held_ms: verdict.held.as_millis(), exit_code };
    output.remark(&summary, |summary| {
        format!(
            "block {id} (mode {}) lasted; writers were held for {}",
            summary.mode,
            spell(verdict.held)
        )
    });
    Ok(Exit::Of(exit_code))
}

/// Runs the command to its end, or ends it. Nothing of it runs any more afterwards.
fn run_command(
    args: &BlockArgs,
    held: &Held,
    stop: &Stop,
) -> Result<(Option<ExitStatus>, Option<Trouble>), Failure> {
    let not_run = |error| BlockFailure::NotRun {
        command: args
            .command
            .first()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        error,
    };
    let mut command = command(args, held);
    let mut group = Group::start(&mut command).map_err(not_run)?;
    loop {
        let trouble = held.trouble();
        if trouble.is_some() {
            return Ok((group.end(GRACE), trouble));
        }
        let ended = group.ended().map_err(not_run)?;
        if ended.is_some() && stop.number().is_none() && !group.left_nothing() {
            group.finish(GRACE);
            return Err(BlockFailure::LeftBehind.into());
        }
        if ended.is_some() || stop.number().is_some() {
            return Ok((group.end(GRACE), None));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The command, with what it may want to know in its environment.
fn command(args: &BlockArgs, held: &Held) -> Command {
    let mut words = args.command.iter();
    // clap asks for one word at the least.
    let mut command = Command::new(words.next().cloned().unwrap_or_default());
    command.args(words);
    let nodes: Vec<String> = held
        .nodes
        .iter()
        .map(|node| format!("{}={}:{}={}", node.groupid, node.name, node.port, node.wal_lsn))
        .collect();
    command
        .env("CITUS_FENCE_BLOCK_ID", held.id.to_string())
        .env("CITUS_FENCE_BLOCK_MODE", &held.mode)
        .env("CITUS_FENCE_BLOCK_NODES", nodes.join(" "));
    if std::io::stdin().is_terminal() {
        // It is not the terminal's foreground group: reading from it would stop it, under the block.
        command.stdin(Stdio::null());
    }
    command
}

/// What a shell would say of it. One that was told to stop is never a success.
fn code(status: Option<ExitStatus>, stop: &Stop) -> u8 {
    let of_signal = |signal: i32| u8::try_from(128 + signal).unwrap_or(u8::MAX);
    let code = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal)) => of_signal(signal),
            (None, None) => u8::MAX,
        },
        None => of_signal(9),
    };
    match (code, stop.number()) {
        (0, Some(signal)) => of_signal(signal),
        (code, _) => code,
    }
}

/// Writes it whole or not at all, for its owner alone.
fn write_manifest(path: &Path, held: &Held) -> Result<(), Failure> {
    let manifest = Manifest {
        block_id: held.id,
        mode: &held.mode,
        began_at: held.began_at,
        nodes: &held.nodes,
    };
    folder::write_json(path, &manifest)
}
