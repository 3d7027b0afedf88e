//! `verify --full`: a backup is restored to a place that nobody keeps, and looked at as `restore finish` does.
//!
//! ```text
//! room? ─> copies of all nodes ─> recovered and rewritten, as by `restore all` ─> all started with Citus ─> finished,
//!   │ no                                                                                                  checked
//!   v                                        on every way out: servers ended, copies gone <───────────────────┘
//! ```
//! The nodes know each other by sockets in a directory that only this user reaches. None of them listens at a port, none
//! is started with anything of production's configuration, and what leads to production has been taken out of them before
//! Citus is loaded. The backup is only read.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use remote::{NodeLabel, Target as Server, base_params};
use serde::Serialize;

use super::all::{UpTo, bring, on_all, users};
use super::args::{Mapping, Target, TrialArgs, WhatArgs};
use super::config::{self, Recovery};
use super::fault::{At, Fault};
use super::first::{self, FirstStart};
use super::plan::{self, Place, Plan};
use super::programs::Programs;
use super::scratch::{self, Scratch};
use super::steps::Work;
use super::{finish, guard};
use crate::check::{self, Finding};
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::folder;
use crate::manifest::{Backup, Node};
use crate::nodes::{NodeArgs, called};
use crate::output::Output;
use crate::signals::Stop;

/// The number of the first socket.
const FIRST_PORT: u16 = 5432;
/// How long nodes that have been started are waited for.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a connection on a socket may take.
const CONNECT: Duration = Duration::from_secs(30);
/// What a node's servers write beside what is copied: logs, two-phase state, what a checkpoint leaves; at the least.
const BESIDE: u64 = 64 << 20;
/// How many WAL files more there may be.
const WAL_FILES: u64 = 4;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    pub nodes: usize,
    /// How many bytes were copied, and then removed again.
    pub bytes: u64,
    pub databases: Vec<String>,
    /// Two-phase commits that were finished.
    pub recovered: i64,
    /// Sequences that a restore raises.
    pub mended: Vec<String>,
    pub findings: Vec<Finding>,
    pub not_checked: Vec<Finding>,
    /// Nodes that the backup has no copy of.
    pub lost: Vec<String>,
}

impl Tried {
    /// As `restore all` and `restore finish` end.
    pub fn exit(&self) -> Exit {
        let is_fine =
            self.findings.is_empty() && self.not_checked.is_empty() && self.lost.is_empty();
        if is_fine { Exit::Done } else { Exit::Findings }
    }

    /// For people.
    pub fn lines(&self) -> String {
        let mut text = format!(
            "restored as a temporary cluster, and taken away again: {} two-phase commits finished, in database {}\n",
            self.recovered,
            self.databases.join(", ")
        );
        for lost in &self.lost {
            text.push_str(&format!("look: {lost}\n"));
        }
        text + &check::lines(&check::Report {
            nodes: self.nodes,
            findings: self.findings.clone(),
            not_checked: self.not_checked.clone(),
            mended: self.mended.clone(),
        })
    }
}

/// Refuses what cannot be tried, before anything else takes its time.
pub fn require(
    dir: &Path,
    backup: &Backup,
    args: &TrialArgs,
    bindir: Option<&Path>,
    stop: &Stop,
    output: &Output,
) -> Result<(), Failure> {
    let elsewhere: Vec<&Node> = backup.nodes.iter().filter(|node| node.data.is_none()).collect();
    if let Some(first) = elsewhere.first() {
        let names: Vec<String> = elsewhere.iter().map(|node| name_of(node)).collect();
        return Err(Failure::Unfit {
            what: format!(
                "{} has no copy of {}, which is kept by {}: there is nothing to restore here",
                dir.display(),
                names.join(", "),
                first.tool
            ),
            todo: "Bring the copies to places of their own with that tool; then citus-fence restore all, restore finish and \
                   check are the whole test."
                .into(),
        });
    }
    if nix::unistd::geteuid().is_root() {
        return Err(Fault::Root.into());
    }
    first::require_private_directory()?;
    let temp = temp(args)?;
    let programs = Programs::find(bindir);
    let mut beside = 0;
    for node in &backup.nodes {
        if let Some(copy) = &node.data {
            let data = dir.join(copy);
            programs.check_version(node.groupid, &data, stop)?;
            let control = programs.control(node.groupid, &data, stop)?;
            beside += beside_copy(control.number("Bytes per WAL segment")?);
        }
    }
    scratch::require_room(&temp, bytes(dir, backup)? + beside, stop, output)
}

/// Does it.
pub fn run(
    dir: &Path,
    backup: &Backup,
    args: &TrialArgs,
    bindir: Option<&Path>,
    stop: &Stop,
    output: &Output,
) -> Result<Tried, Failure> {
    let bytes = bytes(dir, backup)?;
    let scratch = Scratch::make(&temp(args)?)?;
    let tried = among_copies(dir, backup, args, bindir, &scratch, stop, output);
    let tried = tried.map_err(without_log).map(|tried| Tried { bytes, ..tried });
    match (tried, scratch.close()) {
        (Ok(tried), closed) => closed.map(|()| tried).map_err(Failure::from),
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(left)) => {
            output.progress(&left.to_string());
            Err(failure)
        }
    }
}

/// How much a node's servers write, by the size of a WAL file.
fn beside_copy(wal_file: u64) -> u64 {
    BESIDE.max(WAL_FILES * wal_file)
}

/// Below which directory.
fn temp(args: &TrialArgs) -> Result<PathBuf, Fault> {
    let temp = args.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
    // Servers stand elsewhere than their caller.
    fs::canonicalize(&temp).at("find", &temp)
}

/// How much is to be copied.
fn bytes(dir: &Path, backup: &Backup) -> Result<u64, Failure> {
    let copies = backup.nodes.iter().flat_map(|node| {
        node.data.iter().chain(node.tablespaces.iter().filter_map(|one| one.copy.as_ref()))
    });
    copies.map(|copy| folder::size(&dir.join(copy))).sum()
}

fn name_of(node: &Node) -> String {
    called(&node.name, node.port, node.groupid)
}

/// What names a file that is gone by the time that it is read.
fn without_log(failure: Failure) -> Failure {
    match failure {
        Failure::Restore(Fault::Ended { group, what, lines, todo, .. }) => {
            Fault::Ended { group, what, lines, log: None, todo }.into()
        }
        other => other,
    }
}

/// What `restore all` would have been called with.
fn as_restore(
    dir: &Path,
    backup: &Backup,
    args: &TrialArgs,
    bindir: Option<&Path>,
    scratch: &Scratch,
) -> Result<WhatArgs, Failure> {
    let (mut to, mut tablespace) = (Vec::new(), Vec::new());
    for (port, node) in (FIRST_PORT..).zip(&backup.nodes) {
        let place = scratch.root().join("nodes").join(node.groupid.to_string());
        let below = place.join("tablespaces");
        DirBuilder::new().mode(0o700).recursive(true).create(&below).at("make", &below)?;
        tablespace.extend(node.tablespaces.iter().map(|one| Mapping {
            group: Some(node.groupid),
            old: one.location.clone(),
            new: below.join(one.oid.to_string()),
        }));
        to.push(Target {
            group: node.groupid,
            host: scratch.sockets().display().to_string(),
            port,
            data: Some(place.join("data")),
            config: None,
        });
    }
    Ok(WhatArgs {
        dir: dir.to_owned(),
        to,
        without: Vec::new(),
        point: None,
        restore_command: None,
        tablespace,
        preload: args.preload.clone(),
        bindir: bindir.map(Path::to_owned),
        // Whoever comes here has just done that.
        no_verify: true,
        superuser: args.superuser.clone(),
    })
}

/// Restores, starts, finishes and checks; all servers have ended when it returns.
fn among_copies(
    dir: &Path,
    backup: &Backup,
    args: &TrialArgs,
    bindir: Option<&Path>,
    scratch: &Scratch,
    stop: &Stop,
    output: &Output,
) -> Result<Tried, Failure> {
    let what = as_restore(dir, backup, args, bindir, scratch)?;
    let plan = plan::make(&what, None)?;
    let programs = Programs::find(bindir);
    let private_in = scratch.sockets().to_owned();
    let (plan, programs) = (&plan, &programs);
    let work = Work { plan, programs, args: &what, users: users(&what), private_in, stop };
    let brought = bring(&work, UpTo::Rewritten)?;
    output.progress("all nodes are recovered: starting them with Citus, on sockets of their own");
    let start = |place| start(plan, place, args, programs, stop);
    let privates = plan.places.iter().map(|place| private(place, scratch));
    let privates = privates.collect::<Result<Vec<_>, _>>()?;
    let servers = on_all(plan.places.iter().zip(&privates), start)?;
    let user = brought.superuser.as_deref().unwrap_or("postgres");
    let destination = destination(plan, user)?;
    let (report, sessions) = finish::together(&destination, &NodeArgs::default(), ANSWER, stop)?;
    drop((sessions, servers));
    let named = |finding: Finding| Finding {
        node: in_words(plan, &finding.node),
        what: in_words(plan, &finding.what),
        ..finding
    };
    let check = report.check;
    Ok(Tried {
        nodes: check.nodes,
        bytes: 0,
        databases: report.databases,
        recovered: report.recovered,
        mended: check.mended.iter().map(|text| in_words(plan, text)).collect(),
        findings: check.findings.into_iter().map(named).collect(),
        not_checked: check.not_checked.into_iter().map(named).collect(),
        lost: brought.findings,
    })
}

/// Where the configuration of a node's server is.
fn private(place: &Place, scratch: &Scratch) -> Result<PathBuf, Fault> {
    let private = scratch.sockets().join(place.group().to_string());
    DirBuilder::new().mode(0o700).create(&private).at("make", &private)?;
    Ok(private)
}

/// Starts a node with what its catalog needs, and with nothing of production's.
fn start<'a>(
    plan: &Plan,
    (place, private): (&'a Place, &'a PathBuf),
    args: &TrialArgs,
    programs: &Programs,
    stop: &'a Stop,
) -> Result<FirstStart<'a>, Failure> {
    let data = &place.to.data;
    let catalog = if plan.backup.citus.is_some() { "citus" } else { "citus_fence" };
    let libraries: Vec<String> =
        [catalog.to_owned()].into_iter().chain(args.preload.iter().cloned()).collect();
    let major = programs.check_version(place.group(), data, stop)?;
    let control = programs.control(place.group(), data, stop)?;
    let alone = config::first(place, private, &control, &libraries, Recovery::Own, major)?;
    let configuration = alone + &config::among_copies(place);
    // It is closed again as soon as this server has read it.
    let _opened = guard::open(data)?;
    let server = FirstStart::begin(place, programs, private, &configuration, stop)?;
    let mut server = server.called("its server with Citus");
    server.await_ready()?;
    Ok(server)
}

/// The way to the coordinator's copy, whatever `PG*` says.
fn destination(plan: &Plan, user: &str) -> Result<Destination, Failure> {
    let coordinator = plan.addresses.iter().find(|address| address.group == 0);
    let coordinator = coordinator.ok_or_else(|| Failure::Unfit {
        what: "the backup has no copy of the coordinator, and nothing can be decided without it"
            .into(),
        todo: "Take another one.".into(),
    })?;
    let (host, port) = (&coordinator.host, i32::from(coordinator.port));
    let database = &plan.backup.database;
    let mut params = base_params(host, port, database, user, "citus-fence verify", CONNECT);
    params.set("sslmode", "disable");
    let node = NodeLabel::unregistered(host, port);
    Ok(Destination { target: Server { node, params }, connect_timeout: CONNECT })
}

/// A text with the names that the backup has for its nodes in the place of sockets.
fn in_words(plan: &Plan, text: &str) -> String {
    let nodes: BTreeMap<i32, &Node> =
        plan.backup.nodes.iter().map(|node| (node.groupid, node)).collect();
    plan.addresses.iter().fold(text.to_owned(), |text, address| match nodes.get(&address.group) {
        Some(node) => text.replace(&format!("{}:{}", address.host, address.port), &name_of(node)),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::beside_copy;

    #[test]
    fn large_wal_files_take_more_room() {
        assert_eq!(beside_copy(1 << 20), 64 << 20);
        assert_eq!(beside_copy(16 << 20), 64 << 20);
        assert_eq!(beside_copy(1 << 30), 4 << 30);
    }
}
