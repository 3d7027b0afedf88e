//! What `restore-dump` takes.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::select::Selection;
use crate::args::ConnectionArgs;
use crate::nodes::NodeArgs;

/// What `restore-dump` takes.
#[derive(Args, Clone, Debug)]
pub struct RestoreDumpArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// How many files are loaded at the same time, over all nodes together, and indexes of local tables made
    #[arg(long, short = 'j', value_name = "N", default_value = "2")]
    pub jobs: NonZeroUsize,
    /// Make the dump's database first, on all nodes of the cluster in the database that -d names
    #[arg(long)]
    pub create: bool,
    /// Make the roles too that the dump has; those that are there get the dump's attributes
    #[arg(long)]
    pub roles: bool,
    /// Go on with a restore of this dump that was interrupted
    #[arg(long)]
    pub resume: bool,
    /// Restore although there is something in the database already; nothing of that is removed or replaced
    #[arg(long)]
    pub into_non_empty: bool,
    /// What pg_restore has and this has not, for whoever types it out of habit.
    #[arg(long, short = 'c', hide = true)]
    pub clean: bool,
    /// The same.
    #[arg(long, hide = true)]
    pub if_exists: bool,
    /// The search_path of functions that set none themselves, in checks, generated columns, indexes, materialized
    /// views and triggers [default: empty, as pg_restore's]
    #[arg(long, value_name = "SCHEMAS")]
    pub search_path: Option<String>,
    #[command(flatten)]
    pub nodes: NodeArgs,
    #[command(flatten)]
    pub selection: Selection,
    /// Where psql is [default: PATH]
    #[arg(long, value_name = "DIRECTORY")]
    pub bindir: Option<PathBuf>,
    /// The directory of the dump
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// What is at the end of `restore-dump --help`.
pub const EXAMPLES: &str = "\
Examples:
  citus-fence restore-dump -h coordinator -U postgres -d shop --jobs 8 /backup/shop-monday
  citus-fence restore-dump -d 'service=copy' --roles /backup/shop-monday
  citus-fence restore-dump -h new-coordinator -U postgres -d postgres --create /backup/shop-monday
  citus-fence restore-dump -d 'service=copy' --resume /backup/shop-monday
  citus-fence restore-dump -h coordinator -U postgres -d shop -t shop.orders --into-non-empty /backup/shop-monday

The database is there, empty, with the extension citus and its nodes; how many nodes does not matter. All
checksums are compared before anything is written, all row counts after everything is. Interrupted, it
goes on with --resume, and loads no row twice. With -t, -T, -n and -N a part of the dump is restored, also
into a database that is in use (--into-non-empty): what is there stays as it is.";
