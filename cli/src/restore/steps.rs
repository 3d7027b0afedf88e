//! What is done with one node's copy, a step at a time; how far it has come is on disk before the next begins.

use std::path::{Path, PathBuf};

use tracing::debug;

use super::args::WhatArgs;
use super::config::{self, Recovery};
use super::fault::{At, Fault};
use super::first::{FirstStart, is_private, private_directory};
use super::place;
use super::plan::{Place, Plan};
use super::programs::Programs;
use super::stage::{Progress, Stage};
use super::{bounds, guard, rewrite, running};
use crate::durable;
use crate::failure::Failure;
use crate::programs::shell_word;
use crate::signals::Stop;

/// All that a node's steps need.
pub struct Work<'a> {
    pub plan: &'a Plan,
    pub programs: &'a Programs,
    pub args: &'a WhatArgs,
    /// Who may be a superuser of the copies.
    pub users: Vec<String>,
    /// Below which directory the private ones are.
    pub private_in: PathBuf,
    pub stop: &'a Stop,
}

impl Work<'_> {
    /// Whether a node may be started, or has been brought so far that it need not be.
    pub fn check(&self, place: &Place, progress: &mut Progress) -> Result<(), Failure> {
        let data = &place.to.data;
        running::refuse_running(place, progress.private.as_deref(), self.stop)?;
        if progress.stage >= Stage::Rewritten {
            return self.leave_private(data, progress);
        }
        place::check_identity(place, progress.started, self.programs, self.stop)?;
        place::check_links(place, data)?;
        if let Some(point) = &self.plan.point
            && self.restore_command(place)?.is_none()
        {
            let what =
                format!("recovery to the restore point \"{}\" needs its archive", point.name);
            let todo = "Say with --restore-command how a WAL file is brought from there.";
            return Err(place.refused(what, todo).into());
        }
        for name in ["postmaster.pid", "standby.signal", "citus_fence.read_only"] {
            place::remove_if_there(&data.join(name))?;
        }
        self.leave_private(data, progress)
    }

    /// What brings WAL from its archive: what was said, or what a tool has left in the copy.
    fn restore_command(&self, place: &Place) -> Result<Option<String>, Failure> {
        if place.restore_command.is_some() {
            return Ok(place.restore_command.clone());
        }
        let former = config::settings(&config::former(&place.to.data)?);
        let own = former.into_iter().rfind(|(name, _)| name == "restore_command");
        Ok(own.map(|(_, value)| value).filter(|value| !value.is_empty()))
    }

    /// Removes the private directory of an interrupted run.
    fn leave_private(&self, data: &Path, progress: &mut Progress) -> Result<(), Failure> {
        let Some(former) = progress.private.take() else { return Ok(()) };
        if is_private(&former) {
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
            bounds::give_label_back(data, &control)?;
        }
        let private = private_directory(&self.private_in)?;
        progress.private = Some(private.clone());
        progress.started = true;
        // Before the start: whoever comes after a kill has to know whose server that is.
        progress.write(data)?;
        let configuration =
            config::first(place, &private, &control, &self.args.preload, recovery, major)?;
        let opened = guard::open(data)?;
        let server = FirstStart::begin(place, self.programs, &private, &configuration, self.stop)?;
        let end = task(server, progress);
        drop(opened);
        self.leave_private(data, progress)?;
        end
    }

    /// Recovers a node up to the point, and not one record further.
    pub fn to_the_point(&self, place: &Place, progress: &mut Progress) -> Result<(), Failure> {
        let (Some(point), Some(command)) = (&self.plan.point, self.restore_command(place)?) else {
            return Ok(());
        };
        if progress.stage >= Stage::Reached {
            return Ok(());
        }
        let data = &place.to.data;
        let signal = data.join("recovery.signal");
        durable::write_as_server(&signal, b"").at("write", &signal)?;
        let recovery = Recovery::To {
            restore_command: &command,
            point: &point.name,
            timeline: place.node.timeline,
            promote: false,
        };
        self.started(place, progress, recovery, |mut server, _| {
            server.await_end()?;
            let control = self.programs.control(place.group(), data, self.stop)?;
            // It shuts down in recovery at the point, and dies in recovery where the archive ends before it.
            match control.get("Database cluster state")? {
                "shut down in recovery" => Ok(bounds::is_at_the_point(self.plan, place, &control)?),
                _ => Err(server.ended(None)),
            }
        })
        .map_err(|failure| self.short_of(&point.name, failure))?;
        progress.stage = Stage::Reached;
        progress.write(data)?;
        debug!("node {} has reached {}", place.group(), point.name);
        Ok(())
    }

    /// The error of a node that has not come to the point.
    fn short_of(&self, point: &str, failure: Failure) -> Failure {
        match failure {
            Failure::Restore(Fault::Ended { group, lines, log, .. }) => Fault::Ended {
                group,
                what: format!("recovery has not reached the restore point \"{point}\""),
                lines,
                log,
                todo: "Is the point's WAL of this node in the archive, does --restore-command find it, and had the copy \
                       ended before the point was made? No node has been promoted. If it is to be found, mend that and run \
                       the same command again; else empty the data directories and restore to a point that all nodes have."
                    .into(),
            }
            .into(),
            other => other,
        }
    }

    /// Ends recovery, and takes out what leads to production.
    pub fn bring_up(&self, place: &Place, progress: &mut Progress) -> Result<(), Failure> {
        if progress.stage >= Stage::Rewritten {
            return Ok(());
        }
        let data = &place.to.data;
        let signal = data.join("recovery.signal");
        let command = self.restore_command(place)?;
        let recovery = match (&self.plan.point, &command) {
            (Some(point), Some(command)) => {
                if progress.stage < Stage::Promoting {
                    progress.stage = Stage::Promoting;
                    progress.write(data)?;
                }
                // Who has been promoted already has a timeline that the archive knows nothing of.
                let control = self.programs.control(place.group(), data, self.stop)?;
                if control.is_in_archive_recovery()? {
                    durable::write_as_server(&signal, b"").at("write", &signal)?;
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
                    durable::write_as_server(&signal, b"").at("write", &signal)?;
                }
                Recovery::FromArchive(command)
            }
            _ if signal.exists() => {
                let what = format!("{} asks for recovery from an archive", signal.display());
                return Err(place.refused(what, "Name it with --restore-command.").into());
            }
            _ => Recovery::Own,
        };
        let needs_verdict =
            self.plan.point.is_none() && place.node.held_until.is_some() && !progress.in_time;
        if needs_verdict && progress.started {
            let control = self.programs.control(place.group(), data, self.stop)?;
            bounds::is_still_recovering(place, &control)?;
        }
        self.started(place, progress, recovery, |mut server, progress| {
            server.await_ready()?;
            if needs_verdict {
                bounds::ended_in_time(place, server.last_record()?.as_deref())?;
                progress.in_time = true;
                progress.write(data)?;
            }
            let mut notes = rewrite::Notes::of(progress, data);
            let user = rewrite::all(self.plan, place, &server, &self.users, &mut notes)?;
            progress.superuser = Some(user);
            server.shut_down()
        })?;
        for name in ["standby.signal", "recovery.signal"] {
            place::remove_if_there(&data.join(name))?;
        }
        progress.stage = Stage::Rewritten;
        progress.write(data)?;
        Ok(())
    }

    /// Puts production's settings back with what keeps the node quiet, once, and looks whether a start would be this node's.
    /// What is wrong with them on this machine is the administrator's to mend.
    pub fn configure(
        &self,
        place: &Place,
        progress: &mut Progress,
    ) -> Result<Vec<String>, Failure> {
        let data = &place.to.data;
        let group = place.group();
        if progress.stage < Stage::Prepared {
            let text = config::quiet(&config::former(data)?, place, &self.plan.restore_id);
            let path = data.join(guard::AUTO_CONF);
            durable::write_as_server(&path, text.as_bytes()).at("write", &path)?;
            guard::give_conf_back(data)?;
            progress.stage = Stage::Prepared;
            progress.write(data)?;
        }
        match self.look_at_configuration(place, progress) {
            // The server's own words name the file and the setting.
            Err(Failure::Restore(Fault::Program { output, .. })) => Ok(vec![format!(
                "node {group}: no server starts with its configuration on this machine: mend it, and run the same command \
                 again: {}",
                output.replace('\n', "; ")
            )]),
            other => other,
        }
    }

    /// What keeps a server from starting as this node.
    fn look_at_configuration(
        &self,
        place: &Place,
        progress: &mut Progress,
    ) -> Result<Vec<String>, Failure> {
        let data = &place.to.data;
        let group = place.group();
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
                     command again with --to {}",
                    data.display(),
                    shell_word(&format!(
                        "{group}={}:{},{},CONFIG_FILE",
                        match place.to.host.contains(':') {
                            true => format!("[{}]", place.to.host),
                            false => place.to.host.clone(),
                        },
                        place.to.port,
                        data.display()
                    ))
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
            let path = data.join(guard::AUTO_CONF);
            let text = std::fs::read_to_string(&path).at("read", &path)?;
            durable::write_as_server(&path, format!("{text}{own_file}").as_bytes())
                .at("write", &path)?;
        }
        let libraries = ask("shared_preload_libraries")?;
        let log_directory = PathBuf::from(ask("log_directory")?);
        let mut notes = config::acting(&libraries);
        if ask("logging_collector")? == "on"
            && log_directory.is_absolute()
            && !log_directory.starts_with(data)
        {
            notes.push(format!(
                "its log goes to {}, where production's goes, if that is on this machine: log_directory in {}",
                log_directory.display(),
                config_file.display()
            ));
        }
        // What is so of this configuration is found anew each time.
        progress.of_configuration = notes;
        let mut findings = Vec::new();
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
        Ok(findings)
    }
}
