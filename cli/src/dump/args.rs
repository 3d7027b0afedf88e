//! What `dump` takes.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::select::Selection;
use crate::args::ConnectionArgs;
use crate::nodes::NodeArgs;
use crate::units;

/// What `dump` takes.
#[derive(Args, Clone, Debug)]
pub struct DumpArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// How many tables or parts of tables are copied at the same time, over all nodes together
    #[arg(long, short = 'j', value_name = "N", default_value = "2")]
    pub jobs: NonZeroUsize,
    /// How the files are compressed: none, zstd, or zstd:LEVEL with a level from 1 to 19
    #[arg(long, value_name = "METHOD", default_value = "zstd")]
    pub compress: Compress,
    /// The format of COPY; binary is quicker, and for the same release of PostgreSQL
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Copy tables of more than that many blocks of 8 kB in parts [default: a share of all, 64 MB at least]
    #[arg(long, value_name = "BLOCKS")]
    pub part_blocks: Option<u64>,
    /// How long the lock of a table is waited for that somebody else keeps
    #[arg(long, value_name = "DURATION", default_value = "1min", value_parser = units::limit)]
    pub lock_wait: Duration,
    #[command(flatten)]
    pub nodes: NodeArgs,
    #[command(flatten)]
    pub selection: Selection,
    /// Dump the roles too, without their passwords (pg_dumpall --roles-only)
    #[arg(long)]
    pub roles: bool,
    /// Where pg_dump is [default: PATH]
    #[arg(long, value_name = "DIRECTORY")]
    pub bindir: Option<PathBuf>,
    /// The directory to make; it may exist if it is empty
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// What is at the end of `dump --help`.
pub const EXAMPLES: &str = "\
Examples:
  citus-fence dump -h coordinator -U backup -d shop --jobs 8 /backup/shop-monday
  citus-fence dump -d 'service=shop' --compress zstd:9 --roles /backup/shop-monday
  citus-fence dump -h coordinator -d shop --node 1='host=10.0.0.1' --node 2='host=10.0.0.2' /backup/shop
  citus-fence dump -h coordinator -d shop -n shop -T 'shop.log_*' /backup/shop-without-logs

All nodes are read as they were at one moment, for which writers were held back some milliseconds. A
table that somebody alters or truncates meanwhile makes the dump fail and is named: a dump that ends with
0 is whole, and one without manifest.json is none. It ends with 3 where something is not in it, and says what.";

/// How the files are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compress {
    /// Not at all.
    None,
    /// zstd, with its level.
    Zstd(i32),
}

impl FromStr for Compress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Compress, Self::Err> {
        let level = |text: &str| text.parse().ok().filter(|level| (1..=19).contains(level));
        match text.split_once(':') {
            None if text == "none" => Ok(Compress::None),
            None if text == "zstd" => Ok(Compress::Zstd(1)),
            Some(("zstd", text)) => {
                level(text).map(Compress::Zstd).ok_or("the level is a number from 1 to 19")
            }
            _ => Err("it is none, zstd, or zstd:LEVEL"),
        }
    }
}

/// The format of COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For every release.
    Text,
    /// Quicker.
    Binary,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_none_or_zstd_with_a_level() {
        assert_eq!("none".parse(), Ok(Compress::None));
        assert_eq!("zstd".parse(), Ok(Compress::Zstd(1)));
        assert_eq!("zstd:9".parse(), Ok(Compress::Zstd(9)));
        for bad in ["", "gzip", "zstd:", "zstd:0", "zstd:20", "zstd:x", "none:1"] {
            assert!(bad.parse::<Compress>().is_err(), "{bad}");
        }
    }
}
