//! `citus-fence dump`: a cluster as it was at one moment.
//!
//! ```text
//! lock ─> export ─> keepers ─> plan ─> pg_dump ─> same schema still? ─> workers ─> same types still? ─> manifest
//!   ^                                      │ no, or it waited: again, with another snapshot
//!   └──────────────────────────────────────┘
//! any failure, any signal: workers end, sessions close, what was written is removed
//! ```
//!
//! | module | what is in it |
//! | --- | --- |
//! | `args`, `error` | what can be typed; what can go wrong |
//! | `session` | a session with a node itself, under settings of its own |
//! | `export` | the snapshots and who keeps them |
//! | `leavings` | shards that were moved or split since, which are kept until they are copied |
//! | `plan` | tables, shards and jobs, from the catalogs as of the snapshot |
//! | `job`, `pool` | one job under its lock; all of them |
//! | `select` | which tables, by pg_dump's patterns |
//! | `schema`, `types` | pg_dump; types that changed |
//! | `file`, `manifest`, `read` | files; the manifest; a dump that is there |

mod args;
mod error;
mod export;
mod file;
mod job;
mod leavings;
mod manifest;
mod plan;
mod pool;
mod read;
mod schema;
mod select;
mod session;
mod types;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::{debug, info};

pub use args::{DumpArgs, EXAMPLES};
pub use error::DumpError;
pub use file::measure;
pub use job::{literal, quote};
pub use manifest::{
    Access, DUMP as FORMAT, DataFile, Dump, Kind, Locale, Name, Privilege, Setting, Table,
};
pub use read::{Verified, list, verify, verify_unless};
pub use select::translate;
pub use session::{NodeSession, Reach};

use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::manifest::Sealed;
use crate::output::Output;
use crate::rows::only_row;
use crate::server::Server;
use crate::signals::Stop;
use crate::status::{Answerer, coordinator};
use crate::units::spell;

use args::Compress;
use export::Snapshots;
use file::Directory;
use manifest::{DUMP, VERSION};
use plan::Plan;
use pool::{Pool, Progress};
use schema::{Programs, SchemaEnd};

/// How often a snapshot is taken until one has a schema that stays the same.
const TRIES: u32 = 3;

/// How long one look at the workers lasts, and so a signal may go unseen.
const LOOK: Duration = Duration::from_millis(100);

/// What has been done.
#[derive(Debug, Serialize)]
struct Summary {
    dir: PathBuf,
    nodes: usize,
    tables: usize,
    files: usize,
    rows: u64,
    /// Before compression, and on disk.
    bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    not_dumped: Vec<String>,
}

/// Dumps.
pub fn run(args: &DumpArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    match dump(args, stop, output) {
        Ok(summary) => {
            let end = if summary.not_dumped.is_empty() { Exit::Done } else { Exit::Findings };
            Ok(output.outcome(&summary, lines, end))
        }
        // Whatever a signal has interrupted, it is the signal's doing.
        Err(failure) => Err(match stop.signal() {
            Some(signal) => Failure::ToldToStop { signal },
            None => match failure {
                // insufficient_privilege
                Failure::Remote(error) if error.sqlstate() == Some("42501") => {
                    DumpError::Denied(error).into()
                }
                failure => failure,
            },
        }),
    }
}

fn lines(summary: &Summary) -> String {
    let mut lines = format!(
        "{} tables of {} nodes, {} rows in {} files, {} bytes, {} on disk, in {}: {}\n",
        summary.tables,
        summary.nodes,
        summary.rows,
        summary.files,
        summary.bytes,
        summary.stored_bytes,
        spell(Duration::from_secs_f64(summary.seconds)),
        summary.dir.display()
    );
    for what in &summary.not_dumped {
        lines.push_str(&format!("look: not in the dump: {what}\n"));
    }
    lines
}

/// A snapshot whose schema is on disk.
struct Taken {
    snapshots: Snapshots,
    plan: Plan,
    facts: Facts,
}

/// What the manifest says of the coordinator.
struct Facts {
    citus: Option<String>,
    encoding: String,
    locale: Locale,
    taken_at: DateTime<Utc>,
}

fn dump(args: &DumpArgs, stop: &Stop, output: &Output) -> Result<Summary, Failure> {
    let started = Instant::now();
    let destination = Destination::new(&args.connection)?;
    let mut server = Server::open(&destination, stop)?;
    let who = coordinator(&mut server)?;
    let mut args = args.clone();
    args.selection.search_path =
        server.ask("ask for the search_path", select::SEARCH_PATH)?.single_value()?.to_owned();
    server.close();
    let args = &args;
    let reach = Reach {
        target: destination.target.clone(),
        connect_timeout: destination.connect_timeout,
        group: 0,
    };
    let mut session = NodeSession::open(&reach, &stop.flag())?;
    args.selection.check(&mut session)?;
    drop(session);
    let directory = Directory::create(&args.dir)?;
    let mut taken = take(args, &destination, &reach, &directory, stop)?;

    let jobs = std::mem::take(&mut taken.plan.jobs);
    let files = copy(args, &mut taken.snapshots, jobs, &directory, stop, output)?;
    for keeper in &mut taken.snapshots.keepers {
        let mut present = NodeSession::open(&keeper.reach, &stop.flag())?;
        types::compare(keeper, &mut present)?;
    }
    let dump = manifest(args, who, taken, files, &directory)?;
    if let Some(signal) = stop.signal() {
        return Err(Failure::ToldToStop { signal });
    }
    let dump = dump.sealed();
    directory.keep(&dump)?;
    Ok(Summary {
        dir: args.dir.clone(),
        nodes: dump.nodes.len(),
        tables: dump.tables.len(),
        files: dump.files.len(),
        rows: dump.files.iter().map(|file| file.rows).sum(),
        bytes: dump.files.iter().map(|file| file.bytes).sum(),
        stored_bytes: dump.files.iter().map(|file| file.stored_bytes).sum(),
        seconds: started.elapsed().as_secs_f64(),
        not_dumped: dump.not_dumped,
    })
}

/// Takes a snapshot, makes the plan, and has pg_dump write the schema; again if that changed meanwhile.
fn take(
    args: &DumpArgs,
    destination: &Destination,
    reach: &Reach,
    directory: &Directory,
    stop: &Stop,
) -> Result<Taken, Failure> {
    let flag = stop.flag();
    let mut tries = 0;
    loop {
        tries += 1;
        let mut session = NodeSession::open(reach, &flag)?;
        let mut snapshots = export::take(args, destination, &mut session, reach, &flag)?;
        drop(session);
        let facts = facts(&mut snapshots)?;
        let mut present = |keeper: &export::Keeper| NodeSession::open(&keeper.reach, &flag);
        let mut args = args.clone();
        // COPY's binary form is in its client's encoding, and Citus passes it on as it is to where another is expected.
        if !matches!(facts.locale.encoding.as_str(), "UTF8" | "SQL_ASCII") {
            args.format = args::Format::Text;
        }
        let args = &args;
        let plan = plan::make(args, &mut snapshots, &facts, &mut present)?;
        info!("{} tables in {} parts", plan.tables.len(), plan.jobs.len());
        let encoding = &facts.encoding;
        let what = schema(args, &mut snapshots, &plan, encoding, directory, stop)?;
        let Some(what) = what else {
            return Ok(Taken { snapshots, plan, facts });
        };
        debug!("try {tries}: {what}");
        if tries >= TRIES {
            return Err(DumpError::SchemaChanged { what, tries }.into());
        }
        // With the snapshot goes the lock, and whoever waited for it comes through.
        drop(snapshots);
        directory.empty()?;
    }
}

fn facts(snapshots: &mut Snapshots) -> Result<Facts, Failure> {
    let coordinator = snapshots.keepers.first_mut().ok_or(DumpError::ExportEnded)?;
    let reply = coordinator.ask(
        "ask for versions",
        r#"SELECT (SELECT extversion FROM pg_extension WHERE extname = 'citus') AS citus,
                  CASE current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END
                    AS encoding,
                  pg_encoding_to_char(d.encoding) AS server_encoding, d.datcollate, d.datctype,
                  to_jsonb(d) ->> 'datlocprovider' AS provider,
                  coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale') AS locale,
                  to_jsonb(d) ->> 'daticurules' AS icu_rules,
                  to_char(now(), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS taken_at
             FROM pg_database d WHERE d.datname = current_database()"#,
    )?;
    let row = only_row(&reply)?;
    Ok(Facts {
        citus: row.maybe("citus")?,
        encoding: row.get("encoding")?,
        locale: Locale {
            encoding: row.get("server_encoding")?,
            collate: row.get("datcollate")?,
            ctype: row.get("datctype")?,
            provider: row.maybe("provider")?,
            locale: row.maybe("locale")?,
            icu_rules: row.maybe("icu_rules")?,
        },
        taken_at: row.get("taken_at")?,
    })
}

/// Has the schema written; gives what is wrong with it, if another snapshot may help.
fn schema(
    args: &DumpArgs,
    snapshots: &mut Snapshots,
    plan: &Plan,
    encoding: &str,
    directory: &Directory,
    stop: &Stop,
) -> Result<Option<String>, Failure> {
    let coordinator = snapshots.keepers.first().ok_or(DumpError::ExportEnded)?;
    let reach = &coordinator.reach.clone();
    let programs =
        Programs { bindir: args.bindir.as_deref(), reach, directory: directory.path(), stop };
    let snapshot = coordinator.node.snapshot_id.clone();
    let sections: &[&str] = if args.selection.data_only { &[] } else { &["pre-data", "post-data"] };
    let selected = args.selection.words();
    for section in sections {
        let end =
            programs.section(section, &snapshot, &plan.hidden, &selected, encoding, &mut || {
                snapshots.talk()
            });
        match end {
            Ok(SchemaEnd::Done) => {}
            Ok(SchemaEnd::Waited(said)) => {
                return Ok(Some(format!("pg_dump waited for a lock: {said}")));
            }
            // What the snapshot shows, and is no more when pg_dump comes to lock it, is an error of its.
            Err(failure @ Failure::Dump(DumpError::Program { .. })) => {
                debug!("{failure}");
                return changed(snapshots, stop)?.map_or(Err(failure), |what| Ok(Some(what)));
            }
            Err(failure) => return Err(failure),
        }
    }
    if args.roles
        && let SchemaEnd::Waited(said) = programs.roles(&mut || snapshots.talk())?
    {
        return Ok(Some(format!("pg_dumpall waited for a lock: {said}")));
    }
    changed(snapshots, stop)
}

/// What of the schema is no longer as the snapshot shows it. Asked in a session of its own: one that was silent for as long
/// as pg_dump needs, some links forget.
fn changed(snapshots: &mut Snapshots, stop: &Stop) -> Result<Option<String>, Failure> {
    let coordinator = snapshots.keepers.first_mut().ok_or(DumpError::ExportEnded)?;
    let then = schema::digest(&coordinator.ask("sum up the snapshot's catalogs", schema::DIGEST)?)?;
    let mut present = NodeSession::open(&coordinator.reach, &stop.flag())?;
    let now = schema::digest(&present.ask("sum up the present catalogs", schema::DIGEST)?)?;
    let changed: Vec<&str> = then
        .iter()
        .filter(|(name, sums)| now.get(*name) != Some(sums))
        .map(|(name, _)| name.as_str())
        .collect();
    Ok(Some(changed.join(", ")).filter(|changed| !changed.is_empty()))
}

/// Has all jobs done.
fn copy(
    args: &DumpArgs,
    snapshots: &mut Snapshots,
    jobs: Vec<job::Job>,
    directory: &Directory,
    stop: &Stop,
    output: &Output,
) -> Result<Vec<manifest::DataFile>, Failure> {
    let total = jobs.iter().map(|job| job.size).sum();
    let mut shown = crate::progress::Progress::begin(output, "copying tables", Some(total));
    let nodes = snapshots
        .keepers
        .iter()
        .map(|keeper| (keeper.reach.clone(), keeper.node.snapshot_id.clone()))
        .collect();
    let workers = args.jobs.get().min(jobs.len());
    let halt = Arc::new(AtomicBool::new(false));
    let pool =
        Pool::new(nodes, jobs, directory.path(), args.compress, args.lock_wait, Arc::clone(&halt));
    std::thread::scope(|scope| {
        // Whatever ends this closure, a panic too, ends the workers, for which the scope waits.
        let _halt = HaltOnDrop(Arc::clone(&halt));
        for _ in 0..workers {
            scope.spawn(|| pool.work());
        }
        scope.spawn(|| pool.work_patiently());
        let mut told = usize::MAX;
        loop {
            match pool.wait(LOOK) {
                Progress::Done | Progress::Failed => break,
                Progress::Going { left, done_size } => {
                    if left != told {
                        debug!("{left} parts are left");
                        told = left;
                    }
                    shown.at(done_size, left);
                }
            }
            if let Some(signal) = stop.signal() {
                pool.fail(Failure::ToldToStop { signal });
                break;
            }
            if let Err(failure) = snapshots.talk() {
                pool.fail(failure);
                break;
            }
        }
    });
    match pool.into_files() {
        Ok(files) => Ok(files),
        // The first that was found, for its session is closed by now.
        Err(lost @ Failure::Dump(DumpError::KeeperLost { .. })) => Err(lost),
        // What a lost snapshot makes of a worker's session is the consequence, and no explanation.
        Err(failure) => match snapshots.talk_now() {
            Err(lost @ Failure::Dump(DumpError::KeeperLost { .. })) => Err(lost),
            Ok(()) | Err(_) => Err(failure),
        },
    }
}

/// Ends all waits when it goes.
struct HaltOnDrop(Arc<AtomicBool>);

impl Drop for HaltOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn manifest(
    args: &DumpArgs,
    who: Answerer,
    taken: Taken,
    mut files: Vec<manifest::DataFile>,
    directory: &Directory,
) -> Result<Dump, Failure> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let Taken { snapshots, plan, facts } = taken;
    let compression = match args.compress {
        Compress::None => "none",
        Compress::Zstd(_) => "zstd",
    };
    Ok(Dump {
        format: DUMP.to_owned(),
        version: VERSION,
        citus_fence: env!("CARGO_PKG_VERSION").to_owned(),
        database: who.database,
        encoding: facts.encoding,
        locale: Some(facts.locale),
        postgresql: who.postgresql,
        citus: facts.citus,
        taken_at: facts.taken_at,
        ended_at: std::time::SystemTime::now().into(),
        compression: compression.to_owned(),
        selection: Some(args.selection.clone()).filter(|selection| !selection.is_all()),
        nodes: snapshots.keepers.into_iter().map(|keeper| keeper.node).collect(),
        colocation: plan.colocation,
        tables: plan.tables,
        tenants: plan.tenants,
        functions: plan.functions,
        materialized_views: plan.materialized_views,
        sequences: plan.sequences,
        settings: plan.settings,
        access: plan.access,
        schema: schema::files(directory.path())?,
        files,
        not_dumped: plan.not_dumped,
        checksum: None,
    })
}
