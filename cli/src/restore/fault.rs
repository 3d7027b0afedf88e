//! What can go wrong with a restore.

use std::io;
use std::path::{Path, PathBuf};

use crate::exit::Exit;

/// Why a restore does not begin, or does not go on. What has been done stays: the same call goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The options do not fit each other, or the backup.
    #[error("{what}")]
    WrongUse {
        /// What does not fit.
        what: String,
    },
    /// The manifest cannot be used.
    #[error("no backup in {}: {what}", path.display())]
    Manifest {
        /// Its file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The manifest is of a later version of this program.
    #[error("{} is of version {version} of the format, which this program does not know", path.display())]
    Newer {
        /// Its file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// PostgreSQL's programs refuse root, and files made by root would be of no use to the servers.
    #[error("a restore cannot run as root")]
    Root,
    /// A file or directory.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The copy of a file.
    #[error("could not copy {} to {}: {source}", from.display(), to.display())]
    Copy {
        /// Which.
        from: PathBuf,
        /// To where.
        to: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// One of PostgreSQL's programs.
    #[error("node {group}: {program} failed: {outcome}")]
    Program {
        /// Of which node.
        group: i32,
        /// Which.
        program: String,
        /// How it ended.
        outcome: String,
        /// What it said.
        output: String,
    },
    /// The server of a first start has ended before its time.
    #[error("node {group}: {what}")]
    Ended {
        /// Of which node.
        group: i32,
        /// How it ended, and what it had to do.
        what: String,
        /// What its log says of that, a line each.
        lines: Vec<String>,
        /// Where the whole log is; none where it could not be kept.
        log: Option<PathBuf>,
        /// What to do.
        todo: String,
    },
    /// A node is not as it has to be.
    #[error("node {group}: {what}")]
    Refused {
        /// Its group.
        group: i32,
        /// What is wrong, with the object's name.
        what: String,
        /// What to do.
        todo: String,
    },
}

impl Fault {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Fault::WrongUse { .. } => Exit::WrongUse,
            Fault::Manifest { .. }
            | Fault::Newer { .. }
            | Fault::Root
            | Fault::Io { .. }
            | Fault::Copy { .. }
            | Fault::Program { .. }
            | Fault::Ended { .. }
            | Fault::Refused { .. } => Exit::Failed,
        }
    }

    /// What a program said.
    pub fn detail(&self) -> Option<String> {
        match self {
            Fault::Program { output, .. } if !output.is_empty() => Some(output.clone()),
            Fault::Ended { lines, log, .. } => {
                let whole = log.iter().map(|log| format!("The whole log is {}", log.display()));
                let lines: Vec<String> = lines.iter().cloned().chain(whole).collect();
                Some(lines.join("\n")).filter(|lines| !lines.is_empty())
            }
            Fault::Program { .. }
            | Fault::WrongUse { .. }
            | Fault::Manifest { .. }
            | Fault::Newer { .. }
            | Fault::Root
            | Fault::Io { .. }
            | Fault::Copy { .. }
            | Fault::Refused { .. } => None,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Fault::WrongUse { .. } => {
                Some("See the examples of: citus-fence restore all --help".into())
            }
            Fault::Manifest { .. } => {
                Some("Name a directory that `citus-fence backup` has finished.".into())
            }
            Fault::Newer { .. } => {
                Some("It is a backup: use the citus-fence that has made it, or a later one.".into())
            }
            Fault::Root => Some(
                "Run it as the user of the operating system whom the servers run as, such as: \
                 sudo -u postgres citus-fence restore …"
                    .into(),
            ),
            Fault::Refused { todo, .. } | Fault::Ended { todo, .. } => Some(todo.clone()),
            Fault::Io { source, .. } | Fault::Copy { source, .. }
                if [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded]
                    .contains(&source.kind()) =>
            {
                Some("Make room there, and run the same command again: it goes on.".into())
            }
            Fault::Io { .. } | Fault::Copy { .. } | Fault::Program { .. } => None,
        }
    }
}

/// For the error of a file.
pub trait At<T> {
    /// Says what was tried with which file.
    fn at(self, what: &'static str, path: &Path) -> Result<T, Fault>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, Fault> {
        self.map_err(|source| Fault::Io { what, path: path.to_owned(), source })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, Fault> {
        self.map_err(|errno| Fault::Io { what, path: path.to_owned(), source: errno.into() })
    }
}
