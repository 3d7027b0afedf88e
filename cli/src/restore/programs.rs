//! PostgreSQL's own programs: found, run in an environment of ours, and ended on every way out.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::fault::{At, Fault};
use crate::failure::Failure;
use crate::signals::Stop;

/// How often a process is looked after.
pub const LOOK: Duration = Duration::from_millis(20);

/// How long a program may take that only looks something up.
const SHORT: Duration = Duration::from_secs(60);

/// Where they are.
#[derive(Clone, Debug)]
pub struct Programs {
    bindir: Option<PathBuf>,
}

impl Programs {
    /// In the directory that was named, else beside this program, else in PATH, else where `pg_config` says.
    pub fn find(bindir: Option<&Path>) -> Programs {
        let beside = || {
            let own = std::env::current_exe().ok()?;
            own.parent()
                .map(Path::to_owned)
                .filter(|directory| directory.join("postgres").is_file())
        };
        // They run in another directory than the one that the caller's path starts from.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Programs { bindir: bindir.map(absolute).or_else(beside) }
    }

    /// One of them, to be shown.
    pub fn path(&self, name: &str) -> PathBuf {
        crate::programs::find(name, self.bindir.as_deref())
    }

    /// A command, without anything of the caller's `PG*`, in a process group of its own: a Ctrl-C is for this
    /// program, which then ends it.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.path(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command.env("LC_ALL", "C").stdin(Stdio::null()).current_dir("/").process_group(0);
        command
    }

    /// What a program prints that ends soon.
    pub fn ask(&self, group: i32, command: &mut Command, stop: &Stop) -> Result<String, Failure> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |outcome: String, output: String| Fault::Program {
            group,
            program: program.clone(),
            outcome,
            output,
        };
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
                failed(format!("{error}; --bindir names the directory"), String::new())
            })?;
        let began = Instant::now();
        // Most of them take some milliseconds, and there are several for each node.
        let mut pause = Duration::from_millis(1);
        // What these print fits into a pipe, so nobody has to read meanwhile.
        let ended = loop {
            match child.try_wait() {
                Ok(None) if stop.signal().is_none() && began.elapsed() < SHORT => {
                    thread::sleep(pause);
                    pause = LOOK.min(pause * 2);
                }
                other => break other.ok().flatten(),
            }
        };
        if ended.is_none() {
            // It may have ended by now, and is collected either way.
            let _ = child.kill();
            let _ = child.wait();
            if let Some(signal) = stop.signal() {
                return Err(Failure::ToldToStop { signal });
            }
        }
        let mut text = String::new();
        let mut complaint = String::new();
        let read = |pipe: &mut dyn Read, to: &mut String| {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            *to = String::from_utf8_lossy(&bytes).into_owned();
        };
        if let Some(pipe) = child.stdout.as_mut() {
            read(pipe, &mut text);
        }
        if let Some(pipe) = child.stderr.as_mut() {
            read(pipe, &mut complaint);
        }
        match ended {
            Some(status) if status.success() => Ok(text),
            Some(status) => Err(failed(status.to_string(), complaint.trim().to_owned()).into()),
            None => Err(failed("it does not end".into(), complaint.trim().to_owned()).into()),
        }
    }

    /// The control file.
    pub fn control(&self, group: i32, data: &Path, stop: &Stop) -> Result<Control, Failure> {
        let text = self.ask(group, self.command("pg_controldata").arg("-D").arg(data), stop)?;
        let pairs = text.lines().filter_map(|line| line.split_once(':'));
        Ok(Control {
            group,
            values: pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
        })
    }

    /// Refuses programs of another major version than the data directory's: their server would not start, and
    /// their pg_controldata could read nonsense.
    pub fn check_version(&self, group: i32, data: &Path, stop: &Stop) -> Result<u32, Failure> {
        let path = data.join("PG_VERSION");
        let wanted = std::fs::read_to_string(&path).at("read", &path)?.trim().to_owned();
        let text = self.ask(group, self.command("postgres").arg("--version"), stop)?;
        let number =
            text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let digits: String =
            number.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        if digits != wanted {
            return Err(Fault::Refused {
                group,
                what: format!(
                    "{} is of PostgreSQL {wanted}, and the programs are of {digits}",
                    data.display()
                ),
                todo: "Name the directory of the right ones with --bindir.".into(),
            }
            .into());
        }
        Ok(digits.parse().unwrap_or_default())
    }
}

/// What pg_controldata says.
#[derive(Debug)]
pub struct Control {
    group: i32,
    values: HashMap<String, String>,
}

impl Control {
    /// One value.
    pub fn get(&self, name: &str) -> Result<&str, Fault> {
        self.values.get(name).map(String::as_str).ok_or_else(|| Fault::Program {
            group: self.group,
            program: "pg_controldata".into(),
            outcome: format!("it says nothing of \"{name}\""),
            output: String::new(),
        })
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<u64, Fault> {
        let text = self.get(name)?;
        text.parse().map_err(|_| Fault::Program {
            group: self.group,
            program: "pg_controldata".into(),
            outcome: format!("\"{name}\" is no number: {text}"),
            output: String::new(),
        })
    }

    /// Whether its recovery from an archive has begun and not ended.
    pub fn is_in_archive_recovery(&self) -> Result<bool, Fault> {
        let state = self.get("Database cluster state")?;
        Ok(["in archive recovery", "shut down in recovery"].contains(&state))
    }
}
