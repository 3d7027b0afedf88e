//! `citus-fence list` and `citus-fence verify`: what is in a directory, a backup or a dump, and whether it is whole.
//! No server of the cluster is asked; `verify --full` starts some of its own.

pub mod args;
mod show;
pub mod verify;

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dump::{self, Dump};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::manifest::{self, Backup};
use crate::output::Output;
use crate::restore;
use crate::signals::Stop;
pub use show::lines_of_backup;

use args::{ListArgs, VerifyArgs};

/// What a directory holds, by its manifest. As JSON it is the manifest.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Stored {
    Backup(Box<Backup>),
    Dump(Box<Dump>),
}

impl Stored {
    /// Reads the manifest of either.
    fn read(dir: &Path) -> Result<Stored, Failure> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
        }
        let head = fs::read(dir.join(manifest::FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Head>(&bytes).ok());
        // What a dump that was never completed has left, too; what else is neither is told as no backup.
        if head.is_none() && dir.join("schema").is_dir() && dir.join("data").is_dir() {
            return Ok(Stored::Dump(Box::new(dump::list(dir)?)));
        }
        match head {
            Some(head) if head.format == dump::FORMAT => {
                Ok(Stored::Dump(Box::new(dump::list(dir)?)))
            }
            _ => Ok(Stored::Backup(Box::new(restore::read_backup(dir)?.0))),
        }
    }
}

/// Prints what is there.
pub fn list(args: &ListArgs, output: &Output) -> Result<Exit, Failure> {
    output.result(&Stored::read(&args.dir)?, show::lines)?;
    Ok(Exit::Done)
}

/// Reads all of it; an error if anything is not what was written.
pub fn verify(args: &VerifyArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let bindir = args.bindir.as_deref();
    let mut verified = match Stored::read(&args.dir)? {
        Stored::Dump(_) if args.full => {
            return Err(Failure::Directory {
                dir: args.dir.display().to_string(),
                what: "it holds a dump, and --full restores backups".to_owned(),
                todo: "Without --full all of the dump is read. Its whole test is citus-fence restore-dump into an empty \
                       cluster.",
            });
        }
        Stored::Dump(_) => verify::dump(&args.dir, stop)?,
        Stored::Backup(backup) => {
            if args.full {
                restore::require_trial(&args.dir, &backup, &args.trial, bindir, stop, output)?;
            }
            let mut verified = verify::backup(args, &backup, stop)?;
            if args.full && verified.damaged.is_empty() {
                let tried = restore::try_it(&args.dir, &backup, &args.trial, bindir, stop, output)?;
                verified.full = Some(tried);
            }
            verified
        }
    };
    if !verified.damaged.is_empty() {
        let damaged = std::mem::take(&mut verified.damaged);
        return Err(Failure::Damaged { dir: args.dir.clone(), damaged });
    }
    output.result(&verified, show::verified)?;
    Ok(verified.full.map_or(Exit::Done, |tried| tried.exit()))
}
