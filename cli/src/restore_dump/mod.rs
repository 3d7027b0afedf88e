//! `citus-fence restore-dump`: what a dump has, into a cluster of as many nodes as there are.
//!
//! ```text
//! verify ─> fit? empty? ─┬─> roles ─> schema before the data ─> distribution ─> data ─> sequences
//!  (nothing is written)  │    ─> schema after it ─> functions ─> views ─> ANALYZE ─> the same? ─> event triggers, end
//!                        └─> begun before: --resume goes on where it was
//! ```
//! | module | what is in it |
//! | --- | --- |
//! | `args`, `error` | what can be typed; what can go wrong |
//! | `select`, `entry`, `words`, `choice` | a part of a dump: patterns; what an entry of the schema belongs to, by its words; the dump without the rest |
//! | `rehearsal`, `neighbours`, `reminder` | what that part needs; what it joins; what points to it |
//! | `create` | the database, where that is asked for |
//! | `target` | the nodes, and whether they are fit |
//! | `progress` | how far it is, in the database itself; why nothing is done twice |
//! | `schema`, `statement` | pg_dump's files, by psql; which statement has failed |
//! | `distribute` | what each table was to Citus |
//! | `route`, `load`, `freeze` | where each file goes; loading them; rows that no vacuum has to look at |
//! | `indexes` | indexes and keys of local tables, side by side |
//! | `settings`, `access` | what the database's sessions begin with; whose it is, and who may use it |
//! | `silence` | sessions that wait while something long is done |
//! | `finish` | sequences, functions, views, statistics |
//! | `compare` | whether all is there |

mod access;
mod args;
mod choice;
mod compare;
mod create;
mod distribute;
mod entry;
mod error;
mod finish;
mod freeze;
mod indexes;
mod load;
mod neighbours;
mod progress;
mod rehearsal;
mod reminder;
mod route;
mod schema;
mod select;
mod settings;
mod silence;
mod statement;
mod target;
mod words;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::info;

pub use args::{EXAMPLES, RestoreDumpArgs};
pub use error::RestoreDumpError;

use crate::check;
use crate::connection::Destination;
use crate::dump::{self, Dump, NodeSession};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Stop;
use crate::units::spell;

use choice::Choice;
use schema::{Pieces, Psql, Text};
use settings::When;
use silence::while_talking;
use target::Target;

/// What has been done.
#[derive(Debug, Serialize)]
struct Summary {
    dir: PathBuf,
    database: String,
    nodes: usize,
    tables: usize,
    files: usize,
    /// Files that went straight to their shards.
    direct: usize,
    rows: u64,
    seconds: f64,
    /// Whether it went on with a former run.
    resumed: bool,
    /// A sentence for each thing that needs a look.
    findings: Vec<String>,
}

/// Restores.
pub fn run(args: &RestoreDumpArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let mut began = false;
    let end = restore(args, stop, output, &mut began);
    let end = end.map_err(|failure| match stop.signal() {
        // Whatever a signal has interrupted, it is the signal's doing.
        Some(signal) => Failure::ToldToStop { signal },
        None => failure,
    });
    match end {
        Ok(summary) => {
            let end = if summary.findings.is_empty() { Exit::Done } else { Exit::Findings };
            Ok(output.outcome(&summary, lines, end))
        }
        Err(failure @ Failure::RestoreDump(RestoreDumpError::Differs { .. })) => Err(failure),
        Err(failure) if began => Err(RestoreDumpError::Partway(Box::new(failure)).into()),
        Err(failure) => Err(failure),
    }
}

fn lines(summary: &Summary) -> String {
    let mut lines = format!(
        "{} tables, {} rows in {} files ({} straight to their shards) into {} nodes, in {}: database \"{}\"\n",
        summary.tables,
        summary.rows,
        summary.files,
        summary.direct,
        summary.nodes,
        spell(Duration::from_secs_f64(summary.seconds)),
        summary.database
    );
    for what in &summary.findings {
        lines.push_str(&format!("look: {what}\n"));
    }
    lines
}

/// A dump that is whole.
struct Source {
    dump: Dump,
    schema: Schema,
    /// Its manifest's hash, and what is selected.
    id: String,
    choice: Choice,
}

/// The schema's files of a dump.
struct Schema {
    roles: Option<PathBuf>,
    before: Option<PathBuf>,
    after_path: Option<PathBuf>,
    after: Pieces,
    /// Both as they are, to look something up.
    text: String,
}

impl Schema {
    fn read(dir: &Path, dump: &Dump) -> Result<Schema, Failure> {
        let path = |name: &str| {
            let found = dump.schema.iter().find(|file| file.path.ends_with(name));
            let whole = found.map(|file| dir.join(&file.path)).map(std::path::absolute);
            whole
                .transpose()
                .map_err(|error| RestoreDumpError::File { path: dir.to_owned(), error })
        };
        let read = |path: &Option<PathBuf>| match path {
            None => Ok(Text::of(Vec::new())),
            Some(path) => fs::read(path)
                .map(Text::of)
                .map_err(|error| RestoreDumpError::File { path: path.clone(), error }),
        };
        let (before, after_path) = (path("pre-data.sql")?, path("post-data.sql")?);
        let after = read(&after_path)?;
        let text = read(&before)?.text + &after.text;
        let (roles, after) = (path("roles.sql")?, schema::pieces(&after));
        Ok(Schema { roles, before, after_path, after, text })
    }
}

fn restore(
    args: &RestoreDumpArgs,
    stop: &Stop,
    output: &Output,
    began: &mut bool,
) -> Result<Summary, Failure> {
    if args.clean || args.if_exists {
        return Err(RestoreDumpError::NoClean.into());
    }
    let dump = dump::list(&args.dir)?;
    output.progress("comparing the dump with its checksums");
    let verified = crate::stored::verify::dump(&args.dir, stop)?;
    if !verified.damaged.is_empty() {
        return Err(Failure::Damaged { dir: args.dir.clone(), damaged: verified.damaged });
    }
    let manifest = args.dir.join(crate::manifest::FILE);
    let (_, id) = dump::measure(&manifest)
        .map_err(|error| RestoreDumpError::File { path: manifest.clone(), error })?;
    let schema = Schema::read(&args.dir, &dump)?;
    if args.roles && schema.roles.is_none() {
        let dir = args.dir.display().to_string();
        let what = "the dump has no roles".to_owned();
        return Err(Failure::Directory {
            dir,
            what,
            todo: "Dump with --roles, or restore without.",
        });
    }
    let source = Source { dump, schema, id, choice: Choice::default() };
    let source = choice::choose(source, &args.selection, &args.dir)?;
    let destination = Destination::new(&args.connection)?;
    if !args.create {
        return restore_into(args, &destination, &source, stop, output, began);
    }
    let made = create::create(args, &destination, &source.dump, stop)?;
    let into = create::destination(&destination, &source.dump);
    let end = restore_into(args, &into, &source, stop, output, began);
    if end.is_err() && made && !*began {
        create::remove(args, &destination, &source.dump);
    }
    end
}

fn restore_into(
    args: &RestoreDumpArgs,
    destination: &Destination,
    Source { dump, schema, id, choice }: &Source,
    stop: &Stop,
    output: &Output,
    began: &mut bool,
) -> Result<Summary, Failure> {
    let started = Instant::now();
    let target = target::find(args, destination, dump, stop)?;
    let halt = stop.flag();
    let mut sessions = Vec::new();
    for node in &target.nodes {
        sessions.push(node.session(&halt)?);
    }
    for (node, session) in target.nodes.iter().zip(&mut sessions) {
        if !progress::claim(session)? {
            return Err(RestoreDumpError::AtWork { node: node.called() }.into());
        }
    }
    let resumed = progress::begun(&mut sessions[0])?.is_some();
    for (node, session) in target.nodes.iter().zip(&mut sessions) {
        target::check(node, session, id, args, resumed, schema.before.is_some())?;
    }
    if let Some(path) = &args.search_path {
        let try_it = format!("BEGIN; {}; ROLLBACK", target::set_search_path(path));
        sessions[0].ask("try the search_path", &try_it)?;
    }
    if schema.before.is_none() && !resumed {
        are_empty(dump, &target, &mut sessions[0], &halt)?;
    }
    for (node, session) in target.nodes.iter().zip(&mut sessions) {
        target::can_write(node, session, &target, stop)?;
    }
    *began = true;
    for session in &mut sessions {
        progress::begin(session, id)?;
    }
    if resumed {
        info!("a former run has begun it");
        sessions.iter_mut().try_for_each(progress::await_script)?;
        progress::recover(&mut sessions[0])?;
    }
    let mut work = Work { args, dump, schema, choice, target: &target, sessions, stop, output };
    let (direct, mut findings) = match work.perform(destination) {
        Ok(found) => found,
        Err(failure) => {
            // What has failed before it has done anything leaves nothing.
            *began = !progress::forget(&mut work.sessions);
            return Err(failure);
        }
    };
    let missing = dump.not_dumped.iter().map(|what| format!("it was not in the dump: {what}"));
    findings.extend(missing);
    Ok(Summary {
        dir: args.dir.clone(),
        database: target.database,
        nodes: target.nodes.len(),
        tables: dump.tables.len(),
        files: dump.files.len(),
        direct,
        rows: dump.files.iter().map(|file| file.rows).sum(),
        seconds: started.elapsed().as_secs_f64(),
        resumed,
        findings,
    })
}

/// A dump of data alone goes into tables that are there, and have no rows.
fn are_empty(
    dump: &Dump,
    target: &Target,
    coordinator: &mut NodeSession,
    halt: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    let node = target.coordinator().called();
    let hashed = route::hashed_tables(target, coordinator)?;
    let mut sessions = target.sessions(halt);
    for table in &dump.tables {
        let called = distribute::named(&table.schema, &table.name);
        let name = dump::literal(&distribute::quoted(&table.schema, &table.name));
        let there = format!("SELECT to_regclass({name}) IS NOT NULL");
        if coordinator.ask("look for a table", &there)?.single_value()? != "t" {
            return Err(RestoreDumpError::NoTable { table: called, node }.into());
        }
        if !table.partitioned && compare::rows_of(table, target, &hashed, &mut sessions)? > 0 {
            return Err(RestoreDumpError::HasRows { table: called, node }.into());
        }
    }
    Ok(())
}

/// All that is needed from the first thing written to the last.
struct Work<'a> {
    args: &'a RestoreDumpArgs,
    dump: &'a Dump,
    schema: &'a Schema,
    choice: &'a Choice,
    target: &'a Target,
    /// One of each node, that nothing goes on from to others.
    sessions: Vec<NodeSession>,
    stop: &'a Stop,
    output: &'a Output,
}

impl Work<'_> {
    /// All of it; how many files went straight to their shards, and what needs a look.
    fn perform(&mut self, destination: &Destination) -> Result<(usize, Vec<String>), Failure> {
        let psql = Psql {
            bindir: self.args.bindir.as_deref(),
            stop: self.stop,
            search_path: self.args.search_path.as_deref(),
        };
        let mut found = (0, Vec::new());
        // Once all is there, other nodes may know nothing of it any more.
        if !self.done(0)?.contains(progress::WHOLE) {
            if self.schema.before.is_some() {
                found.1 = self.make(&psql)?;
            }
            found.0 = self.load()?;
            found.1.extend(self.numbers(destination)?);
            found.1.extend(self.complete(&psql)?);
            self.compare()?;
            progress::note(&mut self.sessions[0], progress::WHOLE)?;
        }
        found.1.extend(self.settings(When::Last)?);
        if self.args.create {
            found.1.extend(access::make(self.dump, self.target, &mut self.sessions)?);
        }
        progress::end_elsewhere(&mut self.sessions)?;
        psql.end(self.target.coordinator(), &self.schema.after)?;
        Ok(found)
    }

    /// What the database's sessions begin with, where this program makes the database.
    fn settings(&mut self, when: When) -> Result<Vec<String>, Failure> {
        match self.args.create {
            true => settings::make(self.dump, self.target, &mut self.sessions, when),
            false => Ok(Vec::new()),
        }
    }

    /// What comes before the data; what needs a look.
    fn make(&mut self, psql: &Psql<'_>) -> Result<Vec<String>, Failure> {
        let (dump, schema, target) = (self.dump, self.schema, self.target);
        if let (true, Some(roles)) = (self.args.roles, &schema.roles) {
            for node in target.makers() {
                psql.roles(node, roles)?;
            }
        }
        let mut findings = self.settings(When::BeforeTheSchema)?;
        let tried = if self.choice.is_part { target.makers() } else { &[] };
        for node in tried {
            if let Some(before) = &schema.before
                && !self.done(node.group)?.contains("before the data")
            {
                self.output.progress(&format!("trying the schema on {}", node.called()));
                while_talking(&mut self.sessions, || psql.rehearse(node, before, &schema.after))?;
            }
        }
        for node in target.makers() {
            if let Some(before) = &schema.before
                && !self.done(node.group)?.contains("before the data")
            {
                self.output.progress(&format!("making the schema on {}", node.called()));
                while_talking(&mut self.sessions, || psql.before(node, before))?;
            }
        }
        let mut making = self.making()?;
        distribute::columnar(dump, &mut making)?;
        self.output.progress("distributing tables");
        let joined = neighbours::find(self.choice, dump, &mut making)?;
        findings.extend(joined.findings);
        while_talking(&mut self.sessions, || {
            distribute::distribute(dump, target, &joined.of_group, &mut making)
        })?;
        if !target.citus {
            for (node, session) in target.nodes.iter().zip(&mut self.sessions).skip(1) {
                distribute::number_ranges(node, session)?;
            }
        }
        Ok(findings)
    }

    /// The rows; how many files go straight to their shards.
    fn load(&mut self) -> Result<usize, Failure> {
        let (dump, target) = (self.dump, self.target);
        let hashed = route::hashed_tables(target, &mut self.sessions[0])?;
        let roots = route::roots(&mut self.sessions[0])?;
        let loads = route::plan(dump, target, &hashed, &roots)?;
        let direct: HashSet<usize> =
            loads.iter().filter(|load| load.direct).map(|load| load.file).collect();
        let mut done = Vec::new();
        for node in &target.nodes {
            done.push(self.done(node.group)?);
        }
        // What a node remembers of the rows it has is of no use once these are elsewhere.
        let layout = format!("layout {}", route::layout(dump, target, &loads));
        let known = done[0].iter().find(|what| what.starts_with("layout "));
        match known {
            Some(known) if *known != layout => {
                let node = target.coordinator().called();
                return Err(RestoreDumpError::Moved { node }.into());
            }
            Some(_) => {}
            None => progress::note(&mut self.sessions[0], &layout)?,
        }
        let name = |load: &route::Load| load::name_of(&dump.files[load.file], load);
        let left: Vec<route::Load> =
            loads.into_iter().filter(|load| !done[load.node].contains(&name(load))).collect();
        let (args, stop, output) = (self.args, self.stop, self.output);
        output.progress(&format!("loading {} files", left.len()));
        while_talking(&mut self.sessions, || {
            load::load(&args.dir, dump, target, left, args.jobs.get(), stop, output)
        })?;
        Ok(direct.len())
    }

    /// What comes after the data, but event triggers.
    fn complete(&mut self, psql: &Psql<'_>) -> Result<Vec<String>, Failure> {
        let (dump, target) = (self.dump, self.target);
        let (halt, jobs) = (self.stop.flag(), self.args.jobs.get());
        for node in target.makers() {
            let entries = &self.schema.after;
            self.output.progress(&format!("making indexes and keys on {}", node.called()));
            if node.group == 0 {
                let done = self.done(node.group)?;
                while_talking(&mut self.sessions, || {
                    indexes::make(dump, node, entries, &done, jobs, &halt)
                })?;
            }
            let done = self.done(node.group)?;
            while_talking(&mut self.sessions, || psql.after(node, entries, &done))?;
        }
        let mut findings = Vec::new();
        if self.schema.before.is_some() {
            if !target.citus {
                self.sessions.iter_mut().try_for_each(distribute::shards_as_their_tables)?;
            }
            let done = self.done(0)?;
            let mut making = self.making()?;
            findings = finish::functions(dump, &mut making, &done)?;
            target.coordinator().widen(&mut making)?;
            while_talking(&mut self.sessions, || {
                finish::materialized_views(dump, &mut making, &done)
            })?;
        }
        if self.schema.before.is_none() {
            findings.extend(finish::triggers(dump, &mut self.sessions[0])?);
        }
        findings.extend(self.schema.after.left_out.iter().cloned());
        findings.extend(reminder::remind(self.choice, &mut self.sessions[0])?);
        self.output.progress("gathering statistics");
        let analyze = || finish::analyze(dump, self.choice.is_part, target, jobs, &halt);
        findings.extend(while_talking(&mut self.sessions, analyze)?);
        Ok(findings)
    }

    /// A session whose work Citus carries to the other nodes. What it is at, when this program is killed, the next run
    /// waits for, as for psql's.
    fn making(&self) -> Result<NodeSession, Failure> {
        let coordinator = self.target.coordinator();
        let mut making =
            NodeSession::open_with(&coordinator.reach, &coordinator.making, &self.stop.flag())?;
        progress::hold_script(&mut making)?;
        Ok(making)
    }

    /// What is done on a group's node.
    fn done(&mut self, group: i32) -> Result<HashSet<String>, Failure> {
        let position = self.target.position(group).unwrap_or(0);
        progress::done(&mut self.sessions[position])
    }

    /// Sequences give no number that a row or a node of the source has used.
    fn numbers(&mut self, destination: &Destination) -> Result<Vec<String>, Failure> {
        finish::sequences(self.dump, self.target, &mut self.sessions)?;
        let is_ours = |table: &str| self.choice.means(self.dump, table);
        let largest = finish::groups(self.dump, self.target, &is_ours, &mut self.sessions[0])?;
        let mut findings: Vec<String> = largest.into_iter().collect();
        let place = &destination.target;
        let mut first = check::open(&place.node, &place.params, destination, self.stop)?;
        let mut cluster = check::Cluster::of(&mut first, destination, &self.args.nodes, self.stop)?;
        let mut report = check::Report::default();
        check::look_at_sequences(&mut cluster, true, &is_ours, &mut report)?;
        findings.extend(
            report.findings.iter().map(|finding| format!("{}: {}", finding.node, finding.what)),
        );
        Ok(findings)
    }

    /// Partitions whose rows were given to the root of them, in this run or a former one.
    fn by_root(&mut self) -> Result<HashSet<(String, String)>, Failure> {
        let mut paths = HashSet::new();
        for session in &mut self.sessions {
            paths.extend(progress::done(session)?);
        }
        let is_it = |file: &&dump::DataFile| {
            paths.contains(&format!("{}{}", load::BY_ROOT, file.path.display()))
        };
        let files = self.dump.files.iter().filter(is_it);
        Ok(files.map(|file| (file.schema.clone(), file.table.clone())).collect())
    }

    /// An error names what is not as it was.
    fn compare(&mut self) -> Result<(), Failure> {
        let (dump, target) = (self.dump, self.target);
        self.output.progress("counting rows");
        let hashed = &route::hashed_tables(target, &mut self.sessions[0])?;
        let by_root = self.by_root()?;
        let (halt, jobs) = (self.stop.flag(), self.args.jobs.get());
        let mut differences = while_talking(&mut self.sessions, || {
            let mut found = compare::compare(dump, target, hashed, &by_root, jobs, &halt)?;
            found.extend(compare::misplaced(dump, target, hashed, &halt)?);
            Ok(found)
        })?;
        // Those of tables that were there before are as they were.
        let made = self.schema.before.is_some();
        let invalid =
            if made { finish::unvalidated(dump, &mut self.sessions[0])? } else { Vec::new() };
        for name in invalid {
            let is_said = |line: &str| line.contains(&name) && line.contains(" NOT VALID");
            if !self.schema.text.lines().any(is_said) {
                differences.push(format!("constraint {name} is not valid"));
            }
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(RestoreDumpError::Differs { differences }.into()),
        }
    }
}
