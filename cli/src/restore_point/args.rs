//! What `restore-point` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::args::ConnectionArgs;
use crate::nodes::NodeArgs;
use crate::units;

/// What `restore-point` takes.
#[derive(Debug, Args)]
pub struct RestorePointArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Hold the writers of this database alone, not those of every database of these servers with Citus
    #[arg(long)]
    pub only_this_database: bool,
    /// The name; the time is added to it, as recovery stops at the first point of a name
    pub name: String,
    /// Add no time to the name: it has never been used before on this cluster
    #[arg(long)]
    pub exact_name: bool,
    /// Write manifest.json and each node's configuration files into this directory, which does not exist or is empty:
    /// what `restore all` needs to bring copies, of any tool, to this point
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How long every node may take to archive the point
    #[arg(long, value_name = "DURATION", default_value = "5min", value_parser = units::limit)]
    pub archived_within: Duration,
}

pub const EXAMPLES: &str = "\
Examples:
  citus-fence restore-point -h coordinator -d shop nightly
  citus-fence restore-point -d shop before-release-42 --exact-name --archived-within 30min
  citus-fence restore-point -d shop nightly --dir /backup/points/monday

Writers are held back for milliseconds. The command then waits until every node has archived the WAL that holds
the point. It prints the whole name, which is what recovery_target_name has to be on every node. Any copy that was begun
before can be brought to it: by your tool, or, with the directory of --dir, by citus-fence restore all.

The user needs the functions of a block and citus_backup_restore_point() on the coordinator, and
EXECUTE on pg_switch_wal() on every node.";
