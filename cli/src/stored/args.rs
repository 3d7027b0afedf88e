//! What `list` and `verify` take.

use std::path::PathBuf;

use clap::Args;

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
    /// Where pg_verifybackup is, for a backup [default: beside this program, else PATH]
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

Every file is read and compared with what was written down about it. It ends with 1 if one is missing or
not what it was, and names it.";
