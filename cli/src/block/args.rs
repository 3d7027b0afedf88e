//! What `block` takes, and what everything takes that holds writers back.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::ConnectionArgs;
use crate::lease::Terms;
use crate::units;

/// The shortest lease: renewals need room for a connection that has to be made anew.
const SHORTEST: Duration = Duration::from_secs(3);
/// The longest that the extension allows.
const LONGEST: Duration = Duration::from_secs(1_800);

/// What `block` takes.
#[derive(Debug, Args)]
pub struct BlockArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub hold: HoldArgs,
    /// Write block number, mode and every node's address and WAL position to this file, as JSON, before the command runs
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Whom to hold back, and for how long.
#[derive(Debug, Args)]
pub struct HoldArgs {
    /// Whose writes are held back: two-phase commits, DDL and node changes, or every write [default: citus_fence.block_mode]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// How long writers stay held if this program, its host or its network is gone; renewed meanwhile. 3s to 30min
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = lease)]
    pub lease: Duration,
    /// How long writers may be held altogether
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = units::limit)]
    pub max: Duration,
    /// Hold the writers of this database alone. Else those of every database of these servers with Citus are held, as a
    /// copy of a server has all of them in it
    #[arg(long)]
    pub only_this_database: bool,
}

/// The modes of a block.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    /// Two-phase commits, DDL and node changes
    #[value(name = "2pc")]
    TwoPhase,
    /// Every write
    #[value(name = "all")]
    All,
}

impl HoldArgs {
    /// As the lease takes it.
    pub fn terms(&self) -> Terms {
        let mode = self.mode.map(|mode| match mode {
            Mode::TwoPhase => "2pc",
            Mode::All => "all",
        });
        let only_this_database = self.only_this_database;
        Terms { mode, lease: self.lease, max: self.max, only_this_database }
    }
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = units::limit(text).map_err(|error| error.to_string())?;
    match (SHORTEST..=LONGEST).contains(&lease) {
        true => Ok(lease),
        false => Err("a lease is from 3s to 30min".to_owned()),
    }
}

pub const EXAMPLES: &str = "\
Examples:
  citus-fence block -h coordinator -d shop -- /usr/local/bin/snapshot-all-volumes
  citus-fence block -d shop --mode all --max 10min -- sh -c 'snapshot a && snapshot b'
  citus-fence block -d shop --manifest /backup/block.json -- rsnapshot daily

The command finds in its environment:
  CITUS_FENCE_BLOCK_ID      the block's number
  CITUS_FENCE_BLOCK_MODE    2pc or all
  CITUS_FENCE_BLOCK_NODES   group=host:port=WAL position of each node, with spaces between

It runs in a process group of its own. This program ends that group (TERM, after 10 s KILL), then the block, when it
is told to stop (INT, TERM, HUP), when the block is lost, and after --max. What the command has left running in its group
when it ends is ended too. Killed outright, the group is ended at once and the block with its lease.

Exit code: the command's own; 125 if the block was lost or never began: do not rely on what was made under it; 126 if the
command cannot be run, 127 if there is none; 128 and the signal's number if a signal ended it.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_what_the_server_takes() {
        for (text, good) in
            [("3s", true), ("30min", true), ("2999ms", false), ("31min", false), ("60", false)]
        {
            assert_eq!(lease(text).is_ok(), good, "{text}");
        }
    }
}
