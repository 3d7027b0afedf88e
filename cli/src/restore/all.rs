//! `restore all`: all nodes of a backup, on this machine.
//!
//! ```text
//! addresses silent ─> files at their place ─> each is who it has to be ─┬─> to the point, on all ─> promoted ─┐
//!                                                                      └─> (no point) ─> recovered ──────────┤
//!                       ready to be started <─ quiet configuration <─ nothing leads to production <──────────┘
//! ```
//! What one node does depends on no other but for two things: nothing is started before all have been found to be what
//! they have to be, and none is promoted before all have reached the point.

use std::thread;

use serde::Serialize;
use tracing::debug;

use super::args::AllArgs;
use super::config::{self, Recovery};
use super::fault::{At, Fault};
use super::first::{FirstStart, private_directory};
use super::place;
use super::plan::{self, Place, Plan};
use super::programs::Programs;
use super::stage::{Progress, Stage};
use super::{rewrite, running};
use crate::durable;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Stop;

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    pub restore_id: String,
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
    /// What was changed in it, or may lead to production.
    pub found: Vec<String>,
}

/// All that a node's steps need.
struct Work<'a> {
    plan: &'a Plan,
    programs: &'a Programs,
    args: &'a AllArgs,
    users: Vec<String>,
    stop: &'a Stop,
}

/// Does it and prints what was done.
pub fn run(args: &AllArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Err(Fault::Root.into());
    }
    let plan = plan::make(args)?;
    let programs = Programs::find(args.bindir.as_deref());
    let work = Work { plan: &plan, programs: &programs, args, users: users(args), stop };
    let places = &plan.places;
    for place in places {
        place::nothing_answers(place)?;
    }
    let progress = on_all(places, |place| place::settle(&plan, place, stop))?;
    let mut nodes: Vec<(&Place, Progress)> = places.iter().zip(progress).collect();
    for (place, progress) in &mut nodes {
        work.check(place, progress)?;
    }
    if plan.point.is_some() {
        on_all(nodes.iter_mut(), |(place, progress)| work.to_the_point(place, progress))?;
    }
    on_all(nodes.iter_mut(), |(place, progress)| work.bring_up(place, progress))?;
    let mut findings = Vec::new();
    for (place, progress) in &mut nodes {
        findings.extend(work.configure(place, progress)?);
    }
    for group in &plan.lost {
        findings.push(format!(
            "node {group} is not restored: what is on it alone is lost, and what it had begun stays undecided"
        ));
    }
    let report = Report {
        restore_id: plan.restore_id.clone(),
        nodes: nodes.iter().map(|(place, progress)| restored(&programs, place, progress)).collect(),
        findings,
    };
    output.result(&report, lines)?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Findings })
}

/// Who may be a superuser of the copies.
fn users(args: &AllArgs) -> Vec<String> {
    if let Some(user) = &args.superuser {
        return vec![user.clone()];
    }
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    let mut users = vec!["postgres".to_owned()];
    users.extend(own.map(|user| user.name).filter(|name| name != "postgres"));
    users
}

/// Does something for all at the same time, to the end of each, and gives the first error.
fn on_all<I: Send, T: Send>(
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

impl Work<'_> {
    /// Whether a node may be started, or has been brought so far that it need not be.
    fn check(&self, place: &Place, progress: &mut Progress) -> Result<(), Failure> {
        let data = &place.to.data;
        running::refuse_running(place, progress.private.as_deref(), self.stop)?;
        if progress.stage >= Stage::Rewritten {
            return self.leave_private(data, progress);
        }
        place::check_identity(place, self.programs, self.stop)?;
        place::check_links(place, data)?;
        for name in ["postmaster.pid", "standby.signal", "citus_fence.read_only"] {
            place::remove_if_there(&data.join(name))?;
        }
        self.leave_private(data, progress)
    }

    /// Removes the private directory of an interrupted run.
    fn leave_private(
        &self,
        data: &std::path::Path,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let Some(former) = progress.private.take() else { return Ok(()) };
        let is_ours = former
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("citus-fence-"));
        if is_ours && former.is_dir() {
            std::fs::remove_dir_all(&former).at("remove", &former)?;
        }
        progress.write(data)?;
        Ok(())
    }

    /// Starts a node in a private directory, lets something be done with it, and removes the directory.
    fn started<T>(
        &self,
        place: &Place,
        progress: &mut Progress,
        recovery: Recovery<'_>,
        task: impl FnOnce(FirstStart<'_>, &mut Progress) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let data = &place.to.data;
        let major = self.programs.check_version(place.group(), data, self.stop)?;
        let control = self.programs.control(place.group(), data, self.stop)?;
        if matches!(recovery, Recovery::Own) {
            place::give_label_back(data, &control)?;
        }
        let private = private_directory()?;
        progress.private = Some(private.clone());
        // Before the start: whoever comes after a kill has to know whose server that is.
        progress.write(data)?;
        let configuration =
            config::first(place, &private, &control, &self.args.preload, recovery, major)?;
        let server = FirstStart::begin(place, self.programs, &private, &configuration, self.stop)?;
        let end = task(server, progress);
        self.leave_private(data, progress)?;
        end
    }

    /// Recovers a node up to the point, and not one record further.
    fn to_the_point(&self, place: &Place, progress: &mut Progress) -> Result<(), Failure> {
        let (Some(point), Some(command)) = (&self.plan.point, &place.restore_command) else {
            return Ok(());
        };
        if progress.stage >= Stage::Reached {
            return Ok(());
        }
        let data = &place.to.data;
        let signal = data.join("recovery.signal");
        durable::write(&signal, b"").at("write", &signal)?;
        let recovery = Recovery::To {
            restore_command: command,
            point: &point.name,
            timeline: place.node.timeline,
            promote: false,
        };
        self.started(place, progress, recovery, |mut server, _| {
            server.await_end()?;
            let control = self.programs.control(place.group(), data, self.stop)?;
            // It shuts down in recovery at the point, and dies in recovery where the archive ends before it.
            match control.get("Database cluster state")? {
                "shut down in recovery" => Ok(()),
                _ => Err(server.ended(None)),
            }
        })
        .map_err(|failure| self.short_of(place, &point.name, failure))?;
        progress.stage = Stage::Reached;
        progress.write(data)?;
        debug!("node {} has reached {}", place.group(), point.name);
        Ok(())
    }

    /// The error of a node that has not come to the point.
    fn short_of(&self, place: &Place, point: &str, failure: Failure) -> Failure {
        match failure {
            Failure::Restore(Fault::Program { output, .. }) => place
                .refused(
                    format!("recovery has not reached the restore point \"{point}\": {output}"),
                    "Is the point's WAL of this node in the archive, and does --restore-command find it? No node has \
                     been promoted. Empty the data directories and restore to a point that all nodes have.",
                )
                .into(),
            other => other,
        }
    }

    /// Ends recovery, and takes out what leads to production.
    fn bring_up(&self, place: &Place, progress: &mut Progress) -> Result<(), Failure> {
        if progress.stage >= Stage::Rewritten {
            return Ok(());
        }
        let data = &place.to.data;
        let signal = data.join("recovery.signal");
        let own_command = match &place.restore_command {
            Some(command) => Some(command.clone()),
            None => config::settings(&config::former(data)?)
                .into_iter()
                .rfind(|(name, _)| name == "restore_command")
                .map(|(_, value)| value),
        };
        let recovery = match (&self.plan.point, &own_command) {
            (Some(point), Some(command)) => {
                if progress.stage < Stage::Promoting {
                    progress.stage = Stage::Promoting;
                    progress.write(data)?;
                }
                // Who has been promoted already has a timeline that the archive knows nothing of.
                let control = self.programs.control(place.group(), data, self.stop)?;
                if control.is_in_archive_recovery()? {
                    durable::write(&signal, b"").at("write", &signal)?;
                } else {
                    place::remove_if_there(&signal)?;
                }
                Recovery::To {
                    restore_command: command,
                    point: &point.name,
                    timeline: place.node.timeline,
                    promote: true,
                }
            }
            (None, Some(command)) if place.restore_command.is_some() || signal.exists() => {
                if progress.stage < Stage::Promoting && data.join("backup_label").exists() {
                    durable::write(&signal, b"").at("write", &signal)?;
                }
                Recovery::FromArchive(command)
            }
            _ if signal.exists() => {
                let what = format!("{} asks for recovery from an archive", signal.display());
                return Err(place.refused(what, "Name it with --restore-command.").into());
            }
            _ => Recovery::Own,
        };
        self.started(place, progress, recovery, |mut server, progress| {
            server.await_ready()?;
            let mut notes = rewrite::Notes::of(progress, data);
            rewrite::all(self.plan, place, &server, &self.users, &mut notes)?;
            server.shut_down()
        })?;
        for name in ["standby.signal", "recovery.signal"] {
            place::remove_if_there(&data.join(name))?;
        }
        progress.stage = Stage::Rewritten;
        progress.write(data)?;
        Ok(())
    }

    /// Puts production's settings back with what keeps the node quiet, and looks whether a start would be this node's.
    fn configure(&self, place: &Place, progress: &mut Progress) -> Result<Vec<String>, Failure> {
        let data = &place.to.data;
        let group = place.group();
        if progress.stage < Stage::Prepared {
            let text = config::quiet(&config::former(data)?, place, &self.plan.restore_id);
            let path = data.join(place::AUTO_CONF);
            durable::write(&path, text.as_bytes()).at("write", &path)?;
        }
        let own = data.join("postgresql.conf");
        let config_file = match (&place.to.config, own.is_file()) {
            (Some(file), _) => file.clone(),
            (None, true) => own,
            (None, false) => {
                let kept = place.node.config.as_ref().map(|path| self.plan.dir.join(path));
                let kept = kept.map_or(String::new(), |path| {
                    format!(" (the node's former one is in {})", path.display())
                });
                return Ok(vec![format!(
                    "node {group}: {} has no postgresql.conf{kept}: make one, with pg_hba.conf, and run the same \
                     command again with --to {group}={}:{},{},CONFIG_FILE",
                    data.display(),
                    place.to.host,
                    place.to.port,
                    data.display()
                )]);
            }
        };
        let ask = |name: &str| -> Result<String, Failure> {
            let mut command = self.programs.command("postgres");
            command.args(["-C", name, "-D"]).arg(data);
            command.args(["-c", &format!("config_file={}", config_file.display())]);
            Ok(self.programs.ask(group, &mut command, self.stop)?.trim().to_owned())
        };
        let directory = ask("data_directory")?;
        let same = |path: &str| {
            let canonical = std::fs::canonicalize(path);
            canonical.is_ok_and(|path| std::fs::canonicalize(data).is_ok_and(|data| data == path))
        };
        if !same(&directory) {
            let what = format!(
                "{} leads to another data directory, {directory}: a start with it would start that one",
                config_file.display()
            );
            let todo = format!("Set data_directory = '{}' in it, or take it out.", data.display());
            return Err(place.refused(what, todo).into());
        }
        let own_file = config::own_pid_file(place);
        let pid_file = ask("external_pid_file")?;
        if !pid_file.is_empty() && !own_file.contains(&pid_file) {
            let path = data.join(place::AUTO_CONF);
            let text = std::fs::read_to_string(&path).at("read", &path)?;
            durable::write(&path, format!("{text}{own_file}").as_bytes()).at("write", &path)?;
        }
        let mut findings = Vec::new();
        let libraries = ask("shared_preload_libraries")?;
        let has_citus = config::preloads_citus(&libraries);
        if self.plan.backup.citus.is_some() && !has_citus {
            findings.push(format!(
                "node {group}: {} does not preload citus (shared_preload_libraries is '{libraries}'): a distributed \
                 table would look empty and take rows",
                config_file.display()
            ));
        }
        for (name, wanted) in [("archive_mode", "off"), ("port", &place.to.port.to_string())] {
            let value = ask(name)?;
            if value != wanted {
                findings.push(format!("node {group}: {name} is {value} and not {wanted}"));
            }
        }
        progress.stage = Stage::Prepared;
        progress.write(data)?;
        Ok(findings)
    }
}

fn restored(programs: &Programs, place: &Place, progress: &Progress) -> Restored {
    let data = place.to.data.display().to_string();
    let pg_ctl = programs.path("pg_ctl");
    let config = match &place.to.config {
        Some(file) => format!(" -o '-c config_file={}'", file.display()),
        None => String::new(),
    };
    Restored {
        group: place.group(),
        host: place.to.host.clone(),
        port: place.to.port,
        start: format!("{} -D '{data}'{config} -l '{data}/start.log' start", pg_ctl.display()),
        data,
        found: progress.found.clone(),
    }
}

/// For people.
fn lines(report: &Report) -> String {
    let mut text = format!("restore {} is prepared\n", report.restore_id);
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
    text.push_str("keep clients out, start all nodes:\n");
    for node in &report.nodes {
        text.push_str(&format!("  {}\n", node.start));
    }
    if let Some(first) = report.nodes.first() {
        text.push_str(&format!(
            "then: citus-fence restore finish -h {} -p {} -d DATABASE\n",
            first.host, first.port
        ));
    }
    text
}
