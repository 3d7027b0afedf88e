//! `citus-fence backup`: a copy of every node, all of which ended under one block.
//!
//! ```text
//!  look at all nodes ──> block ──> pg_basebackup of all at once ──> released ──> verified ──> manifest.json
//!                                └> or the command of --exec, whose copies it keeps itself ────────┘
//! ```
//! A base backup is consistent as of its end, so all of them end before the release; whether the block lasted until
//! then is the server's word. Everything that writers need not wait for comes after it. The manifest is last: a
//! directory without one holds no backup. On every other way out copies, processes and block are gone.

pub mod args;
pub mod copies;
pub mod describe;
mod exec;
pub mod links;
mod reached;
pub mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::args::BackupArgs;
use self::copies::{Job, base_backup};
use self::source::Source;
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::folder::Folder;
use crate::lease::{self, Held};
use crate::manifest::Backup;
use crate::nodes;
use crate::output::Output;
use crate::programs;
use crate::signals::Stop;
use crate::units::spell;

/// Takes one.
pub fn run(args: &BackupArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let folder = Folder::claim(&args.dir)?;
    let destination = Destination::new(&args.connection)?;
    lease::require(&destination, stop)?;
    let nodes = nodes::find(&destination, &args.nodes, stop)?;
    let (mut sources, mut missing) = source::look_at_all(&nodes, stop)?;
    let tool = match &args.exec {
        None => Tool::BaseBackup(args),
        Some(text) => {
            let each = sources
                .iter()
                .map(|source| Ok((source.node.groupid, exec::filled_in(text, source)?)));
            Tool::Command(each.collect::<Result<_, Failure>>()?)
        }
    };
    foretell(args, &sources, output)?;
    let citus_databases = describe::citus_databases(&nodes, stop, output)?;
    if !args.hold.terms().only_this_database {
        describe::require_no_other_coordinator(&nodes, stop, output)?;
        let own = |source: &Source| source.identity.system_identifier.clone();
        let identifiers: Vec<String> = sources.iter().map(own).collect();
        describe::require_no_other_nodes(&nodes, &identifiers, stop)?;
    }
    for source in &sources {
        source.keep_config(&folder)?;
    }

    let (block, held_nodes, about, positions) = {
        let held = lease::begin(&destination, &args.hold.terms(), stop, output)?;
        let left_out = sources.extract_if(.., |source| source.node.is_left_out(&held.nodes));
        missing.extend(left_out.map(|source| source.node.missing(&NOT_HELD)));
        let about = describe::about(&held, stop)?;
        let added = held.nodes.iter().find(|held| {
            let is = |group: i32| held.groupid == group;
            !sources.iter().any(|source| is(source.node.groupid))
                && !missing.iter().any(|node| is(node.groupid))
        });
        let copied = match added {
            Some(other) => Err(Failure::Node {
                node: nodes::called(&other.name, other.port, other.groupid),
                what: "it was added while the backup began".to_owned(),
                todo: Some("Run it again.".to_owned()),
            }),
            None => copy(&tool, &folder, &sources, &held, stop, output),
        };
        let positions = copied.and_then(|()| match &tool {
            // How far its copies go stands in them.
            Tool::BaseBackup(_) => Ok(BTreeMap::new()),
            Tool::Command(_) => source::positions(&sources, stop),
        });
        let positions = match positions {
            Ok(positions) => positions,
            Err(failure) => return Err(describe::give_up(held, failure)),
        };
        let nodes = held.nodes.clone();
        (describe::end(held, stop)?, nodes, about, positions)
    };

    if let Tool::BaseBackup(_) = tool {
        for source in &sources {
            let place = source.place(&folder);
            let one = |oid| (oid, copies::tablespace_folder(&place, oid));
            let tablespaces: Vec<_> = source.tablespaces.iter().map(|each| one(each.oid)).collect();
            links::make_relative(&place.join("data"), &tablespaces)?;
        }
        let place = |source: &Source| (source.node.called(), source.place(&folder).join("data"));
        verify(args.bindir.as_deref(), sources.iter().map(place).collect(), stop)?;
    }
    let mut copies = Vec::new();
    for source in &sources {
        let held = held_nodes.iter().find(|held| held.groupid == source.node.groupid);
        // That each of them is held was seen before the copies began.
        let Some(held) = held else { continue };
        copies.push(match &args.exec {
            None => {
                let data = source.place(&folder).join("data");
                reached::require(&source.node, &data, held.timeline, &held.wal_lsn)?;
                describe::copy(&folder, source, held, &data)?
            }
            Some(command) => {
                let until = positions.get(&source.node.groupid).cloned();
                describe::elsewhere(source, held, until, &exec::shown(command), stop)?
            }
        });
    }
    let backup =
        Backup { missing, ..describe::backup(about, citus_databases, block, None, copies) };
    describe::finish(folder, &backup, stop)?;
    let end = if backup.missing.is_empty() { Exit::Done } else { Exit::Findings };
    Ok(output.outcome(&backup, crate::stored::lines_of_backup, end))
}

/// Why an inactive node that answers here has no copy.
pub const NOT_HELD: &str = "the coordinator does not reach it: it was not under the block";

/// What makes the copies.
enum Tool<'a> {
    BaseBackup(&'a BackupArgs),
    /// A command for each node, by group.
    Command(BTreeMap<i32, String>),
}

/// Says how much is to be copied; refuses what would hold writers for longer than they may be.
fn foretell(args: &BackupArgs, sources: &[Source], output: &Output) -> Result<(), Failure> {
    for source in sources {
        let size = source
            .bytes
            .map_or("of unknown size".to_owned(), |bytes| format!("{} MB", bytes >> 20));
        output.progress(&format!("{}: {size}", source.node.called()));
        for remark in &source.remarks {
            output.progress(&format!("{}: {remark}", source.node.called()));
        }
    }
    let Some(rate) = &args.max_rate else { return Ok(()) };
    for source in sources {
        let hold = Duration::from_secs(source.bytes.unwrap_or(0) / rate.bytes);
        if hold > args.hold.max {
            return Err(source.node.unfit(
                format!(
                    "its {} MB at {} a second would hold writers for {}, and --max is {}",
                    source.bytes.unwrap_or(0) >> 20,
                    rate.text,
                    spell(hold),
                    spell(args.hold.max)
                ),
                "Nothing was done. Allow more with --max or --max-rate, or back the nodes up without a block and make a \
                 citus-fence restore-point.",
            ));
        }
    }
    Ok(())
}

/// Copies all nodes, at once.
fn copy(
    tool: &Tool<'_>,
    folder: &Folder,
    sources: &[Source],
    held: &Held,
    stop: &Stop,
    output: &Output,
) -> Result<(), Failure> {
    for source in sources {
        source.node.is_held(&held.nodes, &source.identity.system_identifier)?;
    }
    let mut jobs = Vec::new();
    // Those that have been started are ended if one cannot be: each by its own Drop.
    match tool {
        Tool::BaseBackup(args) => {
            let program = programs::find("pg_basebackup", args.bindir.as_deref());
            let rate = args.max_rate.as_ref().map(|rate| rate.text.as_str());
            for source in sources {
                let mut command = base_backup(&program, source, &source.place(folder), rate);
                jobs.push(Job::start(source.node.called(), "pg_basebackup", &mut command)?);
            }
        }
        Tool::Command(texts) => {
            for source in sources {
                let Some(text) = texts.get(&source.node.groupid) else { continue };
                let place = source.place(folder);
                let mut command = exec::command(text, source, held, &folder.path);
                let words = place.join("output");
                jobs.push(Job::start_kept(
                    source.node.called(),
                    exec::PROGRAM,
                    &mut command,
                    words,
                )?);
            }
        }
    }
    // Where another tool keeps the copies, nobody here sees them grow.
    let mut watched = match tool {
        Tool::BaseBackup(_) => {
            let places = sources.iter().map(|source| source.place(folder)).collect();
            let total = sources.iter().map(|source| source.bytes).sum::<Option<u64>>();
            Some(copies::Watched::begin(output, places, total))
        }
        Tool::Command(_) => None,
    };
    let mut look = || {
        if let Some(watched) = &mut watched {
            watched.look();
        }
    };
    copies::wait(jobs, Some(held), &mut look, stop)
}

/// Checks copies, all at once.
fn verify(
    bindir: Option<&Path>,
    copies: Vec<(String, PathBuf)>,
    stop: &Stop,
) -> Result<(), Failure> {
    let program = programs::find("pg_verifybackup", bindir);
    let mut jobs = Vec::new();
    for (node, data) in copies {
        jobs.push(Job::start(node, "pg_verifybackup", &mut copies::verify(&program, &data))?);
    }
    copies::wait(jobs, None, &mut || {}, stop)
}
