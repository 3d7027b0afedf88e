//! What `check` takes.

use clap::Args;

use crate::args::ConnectionArgs;
use crate::nodes::NodeArgs;

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// Raise sequences that lag behind what is stored, each within its own node's range; keep clients out meanwhile
    #[arg(long)]
    pub fix: bool,
}

pub const EXAMPLES: &str = "\
Examples:
  citus-fence check -h coordinator -d shop
  citus-fence check -h coordinator -d shop --json | jq .findings
  citus-fence check -h coordinator -d shop --fix

It looks at one database, and ends with 3 where something was found. For sequences it reads the tables that they feed, which
takes a superuser or pg_read_all_data on every node, and on Citus it reads a setting that takes pg_read_all_settings; what the
user may not look at is said to be not checked.";
