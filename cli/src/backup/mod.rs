//! `citus-fence backup`: a copy of every node, all of which ended under one block.
//!
//! ```text
//!  look at all nodes ──> block ──> pg_basebackup of all at once ──> released ──> verified ──> manifest.json
//! ```
//! A base backup is consistent as of its end, so all of them end before the release; whether the block lasted until
//! then is the server's word. Everything that writers need not wait for comes after it. The manifest is last: a
//! directory without one holds no backup. On every other way out copies, processes and block are gone.

pub mod args;
pub mod copies;
mod reached;
mod source;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::args::BackupArgs;
use self::copies::{Job, base_backup, tablespace_folder};
use self::source::Source;
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::folder::{self, Folder, write_json};
use crate::lease::{self, Held};
use crate::manifest::{self, Backup};
use crate::nodes::{self, Node};
use crate::output::Output;
use crate::programs;
use crate::rows::{only_row, rows};
use crate::signals::Stop;
use crate::units::spell;

/// Takes one.
pub fn run(args: &BackupArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let folder = Folder::claim(&args.dir)?;
    let destination = Destination::new(&args.connection)?;
    let nodes = nodes::find(&destination, &args.nodes, stop)?;
    let sources =
        nodes.iter().map(|node| source::look(node, stop)).collect::<Result<Vec<_>, _>>()?;
    foretell(args, &sources, output)?;
    let mut citus_databases = Vec::new();
    if let Some(coordinator) = nodes.iter().find(|node| node.groupid == 0) {
        citus_databases = self::citus_databases(coordinator, stop, output)?;
    }
    for source in &sources {
        prepare(&folder, source)?;
    }

    let (id, mode, began_at, held_nodes, about, verdict) = {
        let held = lease::begin(&destination, &args.hold.terms(), stop)?;
        let copied = copy(args, &folder, &sources, &held, stop);
        let about = copied.and_then(|()| about(&held, stop));
        let (id, mode, began_at, nodes) =
            (held.id, held.mode.clone(), held.began_at, held.nodes.clone());
        let verdict = held.end();
        (id, mode, began_at, nodes, about?, verdict)
    };
    if !verdict.lasted {
        return Err(Failure::NotHeld { id, why: verdict.why.unwrap_or_default() });
    }

    let to_verify = sources
        .iter()
        .map(|source| (source.node.called(), of(&folder, source).join("data")))
        .collect();
    verify(args.bindir.as_deref(), to_verify, stop)?;
    let mut copies = Vec::new();
    for source in &sources {
        let held = held_nodes.iter().find(|held| held.groupid == source.node.groupid);
        // That each of them is held was seen before the copies began.
        let Some(held) = held else { continue };
        let data = of(&folder, source).join("data");
        reached::require(&source.node, &data, held.timeline, &held.wal_lsn)?;
        copies.push(describe(&folder, source, held, &data)?);
    }
    let backup = Backup {
        format: manifest::BACKUP.to_owned(),
        version: manifest::VERSION,
        citus_fence: env!("CARGO_PKG_VERSION").to_owned(),
        database: about.database,
        citus_databases,
        citus: about.citus,
        block: manifest::Block {
            id,
            mode,
            began_at,
            ended_at: verdict.ended_at,
            held_ms: u64::try_from(verdict.held.as_millis()).unwrap_or(u64::MAX),
        },
        nodes: copies,
        missing: Vec::new(),
    };
    folder::sync(&folder.path)?;
    if let Some(signal) = stop.signal() {
        return Err(Failure::ToldToStop { signal });
    }
    write_json(&folder.path.join(manifest::FILE), &backup)?;
    folder.keep();
    output.result(&backup, crate::stored::lines_of_backup)?;
    Ok(Exit::Done)
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

/// Where a node's copy goes.
fn of(folder: &Folder, source: &Source) -> PathBuf {
    folder.path.join(below(source))
}

fn below(source: &Source) -> PathBuf {
    Path::new("nodes").join(source.node.groupid.to_string())
}

/// Makes its directories, and writes its configuration files.
fn prepare(folder: &Folder, source: &Source) -> Result<(), Failure> {
    let place = of(folder, source);
    folder.make(&place)?;
    let Some(config) = &source.config else { return Ok(()) };
    let directory = place.join("config");
    folder.make(&directory)?;
    for (name, text) in config {
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|error| folder::failed("write", &path, error))?;
    }
    folder::sync(&directory)
}

/// Copies all nodes, at once.
fn copy(
    args: &BackupArgs,
    folder: &Folder,
    sources: &[Source],
    held: &Held,
    stop: &Stop,
) -> Result<(), Failure> {
    for source in sources {
        source.node.is_held(&held.nodes, &source.identity.system_identifier)?;
    }
    if let Some(other) = held
        .nodes
        .iter()
        .find(|held| !sources.iter().any(|source| source.node.groupid == held.groupid))
    {
        return Err(Failure::Node {
            node: format!("node {}:{} (group {})", other.name, other.port, other.groupid),
            what: "it was added while the backup began".to_owned(),
            todo: Some("Run it again.".to_owned()),
        });
    }
    let program = programs::find("pg_basebackup", args.bindir.as_deref());
    let rate = args.max_rate.as_ref().map(|rate| rate.text.as_str());
    let mut jobs = Vec::new();
    for source in sources {
        let mut command = base_backup(&program, source, &of(folder, source), rate);
        // Those that have been started are ended if this fails: each by its own Drop.
        jobs.push(Job::start(source.node.called(), "pg_basebackup", &mut command)?);
    }
    copies::wait(jobs, Some(held), stop)
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
    copies::wait(jobs, None, stop)
}

/// What the manifest says of the whole cluster.
struct About {
    database: String,
    citus: Option<String>,
}

fn about(held: &Held, stop: &Stop) -> Result<About, Failure> {
    let reply = held.ask(
        "look at the database",
        "SELECT current_database() AS database, \
                (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus') AS citus",
        stop,
    )?;
    let row = only_row(&reply)?;
    Ok(About { database: row.get("database")?, citus: row.maybe("citus")? })
}

/// The databases of the coordinator that have Citus' catalog. One that cannot be looked into is told of.
fn citus_databases(
    coordinator: &Node,
    stop: &Stop,
    output: &Output,
) -> Result<Vec<String>, Failure> {
    let reply = coordinator.talk(stop)?.ask(
        "list of databases",
        "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname",
    )?;
    let mut found = Vec::new();
    for row in rows(&reply)? {
        let name: String = row.get("datname")?;
        let mut there = coordinator.clone();
        there.destination.target.params.set("dbname", &name);
        let has_citus = there.talk(stop).and_then(|mut talk| {
            let reply = talk.ask(
                "look for Citus' catalog",
                "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_local_group') IS NOT NULL AS has_citus",
            )?;
            Ok(only_row(&reply)?.is_true("has_citus")?)
        });
        match has_citus {
            Ok(true) => found.push(name),
            Ok(false) => {}
            Err(Failure::ToldToStop { signal }) => return Err(Failure::ToldToStop { signal }),
            Err(error) => output.progress(&format!(
                "database \"{name}\": whether it has Citus is not known: {error}"
            )),
        }
    }
    Ok(found)
}

/// A copy's part of the manifest.
fn describe(
    folder: &Folder,
    source: &Source,
    held: &lease::HeldNode,
    data: &Path,
) -> Result<manifest::Node, Failure> {
    let place = below(source);
    let tablespaces = source.tablespaces.iter().map(|tablespace| manifest::Tablespace {
        copy: Some(tablespace_folder(&place, tablespace.oid)),
        ..tablespace.clone()
    });
    Ok(manifest::Node {
        nodeid: source.node.nodeid,
        groupid: source.node.groupid,
        name: source.node.name.clone(),
        port: source.node.port,
        system_identifier: source.identity.system_identifier.clone(),
        timeline: held.timeline,
        forks: reached::forks(data, held.timeline)?,
        wal_lsn: held.wal_lsn.clone(),
        postgresql: source.identity.postgresql.clone(),
        bytes: folder::size(&of(folder, source))?,
        data: Some(place.join("data")),
        config: source.config.as_ref().map(|_| place.join("config")),
        tablespaces: tablespaces.collect(),
        tool: "pg_basebackup".to_owned(),
    })
}
