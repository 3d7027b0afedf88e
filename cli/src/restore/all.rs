//! `restore all`: all nodes of a backup, on this machine; `prepare` and `promote`: those that are on it.
//!
//! ```text
//! addresses silent ─> files at their place ─> each is who it has to be ─┬─> to the point, on all ─> promoted ─┐
//!                                                                      └─> (no point) ─> recovered ──────────┤
//!                       ready to be started <─ quiet configuration <─ nothing leads to production <──────────┘
//! ```
//! What one node does depends on no other but for two things: nothing is started before all of this host have been found
//! to be what they have to be, and none is promoted before all of all hosts have reached the point.

use std::collections::BTreeSet;
use std::thread;

use serde::Serialize;

use super::args::{HereArgs, PromoteArgs, WhatArgs};
use super::fault::Fault;
use super::first;
use super::place;
use super::plan::{self, Address, Place, Plan};
use super::programs::Programs;
use super::stage::{Progress, Stage};
use super::steps::Work;
use crate::backup::copies::{self, Job};
use crate::backup::links;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::nodes::called;
use crate::output::Output;
use crate::programs::shell_word;
use crate::signals::Stop;

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    pub restore_id: String,
    /// The database that the backup was made of.
    pub database: String,
    /// Where the coordinator is to be.
    pub coordinator: Option<Address>,
    /// A superuser of the copies.
    pub superuser: Option<String>,
    /// The restore point at which all nodes wait for each other.
    pub waits_at: Option<String>,
    /// How many nodes are on other hosts.
    pub elsewhere: usize,
    pub nodes: Vec<Restored>,
    /// What has to be seen to before the nodes are started.
    pub findings: Vec<String>,
}

/// A node that is ready.
#[derive(Debug, Serialize)]
pub struct Restored {
    pub group: i32,
    pub host: String,
    pub port: u16,
    pub data: String,
    /// How to start it.
    pub start: String,
    /// Whether it may be started: nothing of it is among the findings.
    pub ready: bool,
    /// What was changed in it, or may lead to production.
    pub found: Vec<String>,
}

/// Does all of it on this host and prints what was done.
pub fn run(args: &WhatArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    on_this_host(args, None, UpTo::TheEnd, stop, output)
}

/// `restore prepare`: the same for some of the nodes, and no further than to the point.
pub fn prepare(args: &HereArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    on_this_host(&args.what, Some(&args.here), UpTo::ThePoint, stop, output)
}

/// `restore promote`: from the point to the end.
pub fn promote(args: &PromoteArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let all_reached = args.all_reached;
    on_this_host(
        &args.here.what,
        Some(&args.here.here),
        UpTo::EndFromPoint { all_reached },
        stop,
        output,
    )
}

/// How far the nodes of this host are brought.
#[derive(Clone, Copy)]
pub enum UpTo {
    TheEnd,
    /// Nothing in them leads to production any more; they still have no configuration that a server starts with.
    Rewritten,
    /// Where there is a point, and otherwise to the end.
    ThePoint,
    /// Only if all nodes of this host have reached the point, and those of the others are said to.
    EndFromPoint {
        all_reached: bool,
    },
}

fn on_this_host(
    args: &WhatArgs,
    here: Option<&[i32]>,
    to: UpTo,
    stop: &Stop,
    output: &Output,
) -> Result<Exit, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Err(Fault::Root.into());
    }
    first::require_private_directory()?;
    let plan = plan::make(args, here)?;
    let programs = Programs::find(args.bindir.as_deref());
    let private_in = std::env::temp_dir();
    let work =
        Work { plan: &plan, programs: &programs, args, users: users(args), private_in, stop };
    let report = bring(&work, to)?;
    let end = if report.findings.is_empty() { Exit::Done } else { Exit::Findings };
    Ok(output.outcome(&report, lines, end))
}

/// Brings the nodes of this host as far as that.
pub fn bring(work: &Work<'_>, to: UpTo) -> Result<Report, Failure> {
    let Work { plan, programs, args, stop, .. } = *work;
    let places = &plan.places;
    let _locks = places.iter().map(place::lock).collect::<Result<Vec<_>, _>>()?;
    let progress = match to {
        UpTo::TheEnd | UpTo::Rewritten | UpTo::ThePoint => {
            for address in &plan.addresses {
                place::nothing_answers(address)?;
            }
            let look = |place: &Place| place::look(plan, place, programs, stop);
            let former = places.iter().map(look).collect::<Result<Vec<_>, _>>()?;
            if !args.no_verify {
                verify(plan, places.iter().zip(&former), programs, stop)?;
            }
            on_all(places.iter().zip(former), |(place, former)| {
                place::settle(plan, place, former, stop)
            })?
        }
        UpTo::EndFromPoint { all_reached } => reached(plan, all_reached)?,
    };
    let mut nodes: Vec<(&Place, Progress)> = places.iter().zip(progress).collect();
    for (place, progress) in &mut nodes {
        work.check(place, progress)?;
    }
    if plan.point.is_some() {
        on_all(nodes.iter_mut(), |(place, progress)| work.to_the_point(place, progress))?;
    }
    let mut findings = Vec::new();
    let mut not_ready = BTreeSet::new();
    let waits = matches!(to, UpTo::ThePoint) && plan.point.is_some();
    if !waits {
        on_all(nodes.iter_mut(), |(place, progress)| work.bring_up(place, progress))?;
    }
    if !waits && !matches!(to, UpTo::Rewritten) {
        let each = on_all(nodes.iter_mut(), |(place, progress)| work.configure(place, progress))?;
        for ((place, _), hindrances) in nodes.iter().zip(each) {
            if !hindrances.is_empty() {
                not_ready.insert(place.group());
            }
            findings.extend(hindrances);
        }
    }
    for group in &plan.lost {
        findings.push(format!(
            "node {group} is not restored: what is on it alone is lost, and what it had begun stays undecided"
        ));
    }
    Ok(Report {
        restore_id: plan.restore_id.clone(),
        database: plan.backup.database.clone(),
        coordinator: plan.addresses.iter().find(|one| one.group == 0).cloned(),
        superuser: nodes.iter().find_map(|(_, progress)| progress.superuser.clone()),
        waits_at: plan.point.as_ref().filter(|_| waits).map(|point| point.name.clone()),
        elsewhere: plan.addresses.len() - plan.places.len(),
        nodes: nodes
            .iter()
            .map(|(place, progress)| Restored {
                ready: !waits && !not_ready.contains(&place.group()),
                ..restored(programs, place, progress)
            })
            .collect(),
        findings,
    })
}

/// Compares what is about to be copied with what was written.
fn verify<'a>(
    plan: &Plan,
    nodes: impl Iterator<Item = (&'a Place, &'a Option<Progress>)>,
    programs: &Programs,
    stop: &Stop,
) -> Result<(), Failure> {
    let program = programs.path("pg_verifybackup");
    let mut jobs = Vec::new();
    for (place, former) in nodes {
        let is_there = former.as_ref().is_some_and(|former| former.stage > Stage::Copying);
        if let (Some(copy), false) = (&place.node.data, is_there) {
            links::require(&plan.dir, &place.node)?;
            let name = called(&place.node.name, place.node.port, place.group());
            let mut command = copies::verify(&program, &plan.dir.join(copy));
            jobs.push(Job::start(name, "pg_verifybackup", &mut command)?);
        }
    }
    copies::wait(jobs, None, &mut || {}, stop)
}

/// The nodes of this host, all of which are at the point or beyond.
fn reached(plan: &Plan, all_reached: bool) -> Result<Vec<Progress>, Fault> {
    let Some(point) = &plan.point else {
        return Err(Fault::WrongUse {
            what: "without a restore point nothing waits: `restore prepare` has done all"
                .to_owned(),
        });
    };
    let look = |place: &Place| {
        let data = &place.to.data;
        let progress = Progress::read(data)?.filter(|progress| {
            progress.restore_id == plan.restore_id
                && progress.group == place.group()
                && progress.stage >= Stage::Reached
        });
        progress.ok_or_else(|| {
            place.refused(
                format!("{} has not reached the restore point \"{}\"", data.display(), point.name),
                "Run `restore prepare` first, with the same options.",
            )
        })
    };
    let progress = plan.places.iter().map(look).collect::<Result<_, _>>()?;
    if !all_reached && plan.addresses.len() > plan.places.len() {
        return Err(Fault::WrongUse {
            what: "the nodes of the other hosts may not have reached the point, and then none may be promoted: say \
                   --all-reached once `restore prepare` has ended with success on all of them"
                .to_owned(),
        });
    }
    Ok(progress)
}

/// Who may be a superuser of the copies.
pub fn users(args: &WhatArgs) -> Vec<String> {
    if let Some(user) = &args.superuser {
        return vec![user.clone()];
    }
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let mut users = vec!["postgres".to_owned()];
    users.extend(own.map(|user| user.name).filter(|name| name != "postgres"));
    users
}

/// Does something for all at the same time, to the end of each, and gives the first error.
pub fn on_all<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    task: impl Fn(I) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let task = &task;
    thread::scope(|scope| {
        let threads: Vec<_> =
            items.into_iter().map(|item| scope.spawn(move || task(item))).collect();
        let ends: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        ends.into_iter().collect()
    })
}

fn restored(programs: &Programs, place: &Place, progress: &Progress) -> Restored {
    let data = place.to.data.display().to_string();
    let pg_ctl = programs.path("pg_ctl").display().to_string();
    // pg_ctl hands these words to a shell once more.
    let config = match &place.to.config {
        Some(file) => {
            let setting = format!("config_file={}", file.display());
            format!(" -o {}", shell_word(&format!("-c {}", shell_word(&setting))))
        }
        None => String::new(),
    };
    Restored {
        group: place.group(),
        host: place.to.host.clone(),
        port: place.to.port,
        ready: false,
        start: format!(
            "{} -D {}{config} -l {} start",
            shell_word(&pg_ctl),
            shell_word(&data),
            shell_word(&format!("{data}/start.log"))
        ),
        data,
        found: progress.found.iter().chain(&progress.of_configuration).cloned().collect(),
    }
}

/// For people.
fn lines(report: &Report) -> String {
    let mut text = match &report.waits_at {
        None => format!("restore {} is prepared\n", report.restore_id),
        Some(point) => format!("restore {} has reached {point}\n", report.restore_id),
    };
    for node in &report.nodes {
        text.push_str(&format!(
            "node {} is to be at {}:{}: {}\n",
            node.group, node.host, node.port, node.data
        ));
        for found in &node.found {
            text.push_str(&format!("  {found}\n"));
        }
    }
    for finding in &report.findings {
        text.push_str(&format!("look: {finding}\n"));
    }
    if report.waits_at.is_some() {
        text.push_str(
            "once this has ended with success on every host, run there, with the same options: citus-fence restore promote \
             --all-reached\n",
        );
        return text;
    }
    if report.nodes.iter().any(|node| !node.ready) {
        text.push_str(
            "do not start any node yet: see to what is said above, then run the same command again, which says how to go \
             on\n",
        );
        return text;
    }
    text.push_str(match report.elsewhere {
        0 => "keep clients out, start all nodes:\n",
        // What answers at an address keeps the others from being prepared.
        _ => {
            "once this has ended with success on every host, and not before: keep clients out, start the nodes of this \
             host:\n"
        }
    });
    for node in &report.nodes {
        text.push_str(&format!("  {}\n", node.start));
    }
    if let Some(coordinator) = &report.coordinator {
        let when = match report.elsewhere {
            0 => "then",
            _ => "then, once, when those of all hosts have been started",
        };
        text.push_str(&format!(
            "{when}: citus-fence restore finish -h {} -p {} -U {} -d {}\n",
            shell_word(&coordinator.host),
            coordinator.port,
            shell_word(report.superuser.as_deref().unwrap_or("postgres")),
            shell_word(&report.database)
        ));
    }
    text
}
