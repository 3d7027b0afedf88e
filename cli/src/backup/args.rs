//! What `backup`, `list` and `verify` take.

use std::path::PathBuf;

use clap::Args;

use crate::args::ConnectionArgs;
use crate::block::args::HoldArgs;
use crate::nodes::NodeArgs;

/// What `backup` takes.
#[derive(Debug, Args)]
pub struct BackupArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub nodes: NodeArgs,
    #[command(flatten)]
    pub hold: HoldArgs,
    /// How many bytes a second are read from each node at most, as pg_basebackup takes it: 32k to 1024M. With it, the time
    /// that writers will be held is known beforehand, and nothing is begun if that is longer than --max
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub max_rate: Option<Rate>,
    /// Copy each node by this command instead, run by /bin/sh for all nodes at once; {name}, {host}, {port}, {groupid} and
    /// {datadir} stand for the node
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["max_rate", "bindir"], value_parser = command)]
    pub exec: Option<String>,
    /// Where pg_basebackup and pg_verifybackup are [default: PATH, or what pg_config says]
    #[arg(long, value_name = "DIR")]
    pub bindir: Option<PathBuf>,
    /// A directory that does not exist, or is empty
    pub dir: PathBuf,
}

/// Bytes a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// As it was written.
    pub text: String,
    /// In bytes.
    pub bytes: u64,
}

fn command(text: &str) -> Result<String, &'static str> {
    match text.trim().is_empty() {
        true => Err("it says no command"),
        false => Ok(text.to_owned()),
    }
}

fn rate(text: &str) -> Result<Rate, &'static str> {
    const WRONG: &str =
        "a rate is a whole number of kilobytes a second, or of megabytes with M: 32k to 1024M";
    let (number, unit) = match text.strip_suffix(['k', 'M']) {
        Some(number) if text.ends_with('M') => (number, 1024 * 1024),
        Some(number) => (number, 1024),
        None => (text, 1024),
    };
    let bytes =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or(WRONG)?;
    match (32 * 1024..=1024 * 1024 * 1024).contains(&bytes) {
        true => Ok(Rate { text: text.to_owned(), bytes }),
        false => Err(WRONG),
    }
}

pub const EXAMPLES: &str = "\
Examples:
  citus-fence backup -h coordinator -U postgres -d shop /backup/2031-05-01
  citus-fence backup -d shop --max-rate 200M --max 30min /backup/2031-05-01
  citus-fence backup -d shop --node 1='host=worker1.backup.lan' /backup/2031-05-01
  citus-fence backup -d shop --exec 'pgbackrest --stanza=shop-{groupid} backup' /backup/2031-05-01

Every node is copied by pg_basebackup, all at once, while the cluster's writers are held back: the copies agree with
each other as they end under one block. Large clusters should not wait that long: see restore-point.
Afterwards, with writers going on, each copy is checked by pg_verifybackup, and manifest.json is written: a
directory without it holds no backup. If anything fails, what was copied is removed and the block is over.

With --exec the copies are where the command puts them, and the directory has the rest: the manifest, each node's
configuration files, and in nodes/GROUP/output what its command has printed. The command also finds, in its environment,
CITUS_FENCE_BLOCK_ID, CITUS_FENCE_BLOCK_MODE, CITUS_FENCE_BACKUP_DIR and CITUS_FENCE_NODE_ with NAME, HOST, PORT, GROUPID,
DATADIR and WAL_LSN, up to which a copy has to reach. It has to end when its copy has; whether that is good, its exit code
says. One failure fails the whole; what the others have made is theirs to remove.

The user needs REPLICATION and a line for it in pg_hba.conf on every node, and the functions of a block on the
coordinator. Passwords are taken from .pgpass, PGPASSWORD or the connection string.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_pg_basebackups() {
        for (text, bytes) in
            [("32k", 32 << 10), ("100M", 100 << 20), ("32", 32 << 10), ("1024M", 1 << 30)]
        {
            assert_eq!(rate(text).map(|rate| rate.bytes), Ok(bytes), "{text}");
        }
        for text in ["", "31", "1025M", "x", "1G", "99999999999999999999M"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
