//! What `list` and `verify` take.

use std::path::PathBuf;

use clap::Args;

use crate::restore::args::TrialArgs;

/// What `list` takes.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// The directory of a backup or a dump
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// What `verify` takes.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// Restore the backup to a temporary place on this machine, too, look at it as `restore finish` does, and take it away
    /// again
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub trial: TrialArgs,
    /// Where PostgreSQL's programs are, for a backup [default: beside this program, else PATH]
    #[arg(long, value_name = "DIRECTORY")]
    pub bindir: Option<PathBuf>,
    /// The directory of a backup or a dump
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// What is at the end of `list --help`.
pub const LIST_EXAMPLES: &str = "\
Examples:
  citus-fence list /backup/shop-monday
  citus-fence list /backup/shop-monday --json | jq -r '.nodes[].name'

With --json it prints the manifest. It reads nothing but that: `citus-fence verify` reads everything.";

/// What is at the end of `verify --help`.
pub const VERIFY_EXAMPLES: &str = "\
Examples:
  citus-fence verify /backup/shop-monday
  citus-fence verify /backup/shop-monday --full --temp-dir /scratch

Every file is read and compared with what was written down about it. It ends with 1 if one is missing or
not what it was, and names it.

With --full a backup is then restored as well: copies of all nodes, recovered, made one cluster, and checked. It says
beforehand how much room that takes. No server listens at a port, nothing of production's is reached, and the backup is
only read. Run it as any user but root who may read the backup. It ends with 0 if nothing was found, with 3 if something
needs a look, and with 1 if the backup cannot be restored. On every way out the copies are gone; what a run has left that
was killed outright is taken away by the next one with the same --temp-dir.";
