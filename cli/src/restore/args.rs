//! What `restore` takes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::ConnectionArgs;
use crate::nodes::NodeArgs;
use crate::units;

/// `restore`.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct RestoreArgs {
    #[command(subcommand)]
    pub step: Step,
}

/// Its steps.
#[derive(Debug, Subcommand)]
pub enum Step {
    /// Bring copies of all nodes to places of their own on this machine, ready to be started
    ///
    /// A copy knows production's addresses and would act there. So every copy is started first without Citus, on a
    /// private socket, with a configuration of this program's own; there it is recovered, and all that leads to
    /// production is rewritten. It ends with all nodes stopped. Interrupted, the same call goes on.
    #[command(after_help = crate::help::flowed(ALL_EXAMPLES))]
    All(Box<WhatArgs>),
    /// The same on one of several hosts: bring the copies that are here to their places
    ///
    /// Run it on every host, with the same options, all addresses among them. Without a restore point each copy is then
    /// ready to be started. With one, each has been recovered to it and goes no further: `restore promote` comes next.
    #[command(after_help = crate::help::flowed(PREPARE_EXAMPLES))]
    Prepare(Box<HereArgs>),
    /// On each host, once all nodes have reached the restore point: bring the copies that are here up from there
    ///
    /// A node that is promoted cannot go back: where another one cannot reach the point, all have to be copied again.
    #[command(after_help = crate::help::flowed(PREPARE_EXAMPLES))]
    Promote(Box<PromoteArgs>),
    /// Once all restored nodes have been started: find out that each is who it has to be, and bring them to one mind
    ///
    /// Nothing is decided before every address has answered with its group of this restore. Then every node finishes
    /// its own two-phase commits in every Citus database, sequences are raised to what is stored, the cluster is
    /// checked, and the background work that `restore all` has switched off comes back. Keep clients out until then.
    #[command(after_help = crate::help::flowed(FINISH_EXAMPLES))]
    Finish(FinishArgs),
}

/// What is to be restored, and where to.
#[derive(Debug, Args)]
pub struct WhatArgs {
    /// The directory of the backup, or of restore-point's --dir
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where a node is to be: its address for the other nodes, its data directory, and its configuration file where
    /// that lies elsewhere. Once for every node of the backup; of one on another host the address is enough
    #[arg(long, value_name = "GROUP=HOST:PORT,DATADIR[,CONFIG_FILE]", required = true, value_parser = to)]
    pub to: Vec<Target>,
    /// Restore without this node: what is on it alone is lost, and what it had begun stays undecided
    #[arg(long, value_name = "GROUP")]
    pub without: Vec<i32>,
    /// Recover up to this restore point [default: that of restore-point --dir, else the end of each copy]
    #[arg(long, value_name = "NAME")]
    pub point: Option<String>,
    /// PostgreSQL's restore_command for that; {groupid}, {name} and {port} stand for the node that was backed up [default:
    /// what a tool has left in the copy's postgresql.auto.conf]
    #[arg(long, value_name = "COMMAND")]
    pub restore_command: Option<String>,
    /// Where a tablespace goes, or a link that the copy has; with GROUP: for that node alone. A = in OLD is written \=
    #[arg(long, value_name = "[GROUP:]OLD=NEW", value_parser = mapping)]
    pub tablespace: Vec<Mapping>,
    /// A library that recovery needs for WAL of its own kind; never citus, citus_fence, pg_cron or pglogical
    #[arg(long, value_name = "LIB", value_parser = library)]
    pub preload: Vec<String>,
    /// Where PostgreSQL's programs are [default: beside this program, else in PATH]
    #[arg(long, value_name = "DIRECTORY")]
    pub bindir: Option<PathBuf>,
    /// Do not compare each copy in DIR with its checksums before it is copied
    #[arg(long)]
    pub no_verify: bool,
    /// A superuser of the copies [default: postgres, else this user's name]
    #[arg(long, value_name = "NAME")]
    pub superuser: Option<String>,
}

/// What `verify --full` takes.
#[derive(Args, Clone, Debug)]
pub struct TrialArgs {
    /// With --full: the directory below which the temporary copies go, which need as much room as the backup [default:
    /// TMPDIR, else /tmp]
    #[arg(long, value_name = "DIRECTORY", requires = "full")]
    pub temp_dir: Option<PathBuf>,
    /// With --full: a library that the copies need, as in `restore all`
    #[arg(long, value_name = "LIB", value_parser = library, requires = "full")]
    pub preload: Vec<String>,
    /// With --full: a superuser of the copies [default: postgres, else this user's name]
    #[arg(long, value_name = "NAME", requires = "full")]
    pub superuser: Option<String>,
}

/// `restore prepare`.
#[derive(Debug, Args)]
pub struct HereArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// The group of a node whose copy is, or is to be, on this host. May be repeated
    #[arg(long = "node", value_name = "GROUP", required = true)]
    pub here: Vec<i32>,
}

/// `restore promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    #[command(flatten)]
    pub here: HereArgs,
    /// `restore prepare` has ended with success on all other hosts, so that all nodes have reached the point
    #[arg(long)]
    pub all_reached: bool,
}

/// `restore finish`.
#[derive(Debug, Args)]
pub struct FinishArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    pub nodes: NodeArgs,
    /// How long nodes that do not answer are waited for
    #[arg(long, value_name = "DURATION", default_value = "1min", value_parser = units::duration)]
    pub wait: Duration,
}

/// A `--to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub group: i32,
    pub host: String,
    pub port: u16,
    /// None of a node on another host.
    pub data: Option<PathBuf>,
    pub config: Option<PathBuf>,
}

/// One whose files are to be on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    pub group: i32,
    pub host: String,
    pub port: u16,
    pub data: PathBuf,
    pub config: Option<PathBuf>,
}

/// A `--tablespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub group: Option<i32>,
    pub old: PathBuf,
    pub new: PathBuf,
}

fn to(text: &str) -> Result<Target, String> {
    let (group, rest) = text.split_once('=').ok_or("it lacks the group and a =")?;
    let group = group.parse::<i32>().ok().filter(|group| *group >= 0);
    let group = group.ok_or("what stands before the = is no group")?;
    let mut parts = rest.splitn(3, ',');
    let address = parts.next().unwrap_or_default();
    let (host, port) = address.rsplit_once(':').ok_or("it lacks HOST:PORT")?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    let port = port.ok_or("a port is a number from 1 to 65535")?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    // Of ::1 nobody knows whether the 1 is its end or a port.
    if bracketed.is_none() && host.contains([':', '[', ']']) {
        return Err("an IPv6 address stands in brackets: GROUP=[ADDRESS]:PORT".into());
    }
    let host = bracketed.unwrap_or(host);
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("it lacks the host, as the other nodes are to reach it".into());
    }
    let path = |text: &str| {
        let path = PathBuf::from(text);
        // PostgreSQL takes its own settings apart at quotes and line ends.
        match path.is_absolute() && !text.chars().any(char::is_control) {
            true => Ok(path),
            false => Err(format!("not an absolute path: {text}")),
        }
    };
    let data = parts.next().map(path).transpose()?;
    let config = parts.next().map(path).transpose()?;
    Ok(Target { group, host: host.to_owned(), port, data, config })
}

fn mapping(text: &str) -> Result<Mapping, String> {
    let has_group = |(group, _): &(&str, &str)| group.chars().all(|c| c.is_ascii_digit());
    let (group, rest) = match text.split_once(':').filter(has_group) {
        Some((group, rest)) => {
            (Some(group.parse().map_err(|_| format!("no group: {group}"))?), rest)
        }
        None => (None, text),
    };
    // As pg_basebackup has it: a \= is no end of the old place.
    let mut old = String::new();
    let mut letters = rest.chars();
    loop {
        match letters.next() {
            None => return Err("it lacks the = between the old and the new place".into()),
            Some('=') => break,
            Some('\\') if letters.as_str().starts_with(['=', '\\']) => old.extend(letters.next()),
            Some(letter) => old.push(letter),
        }
    }
    let (old, new) = (PathBuf::from(old), PathBuf::from(letters.as_str()));
    if !old.is_absolute() || !new.is_absolute() {
        return Err("both places are absolute paths; a = in the old one is written \\=".into());
    }
    Ok(Mapping { group, old, new })
}

/// An old place as [`mapping`] takes it.
pub fn escaped(old: &std::path::Path) -> String {
    old.display().to_string().replace('\\', r"\\").replace('=', r"\=")
}

/// The libraries that would act on their own, or on production.
const NEVER: [&str; 4] = ["citus", "citus_fence", "pg_cron", "pglogical"];

fn library(text: &str) -> Result<String, String> {
    let name = text.rsplit('/').next().unwrap_or(text).trim_end_matches(".so");
    let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./$".contains(c));
    match (is_name && !text.is_empty(), NEVER.contains(&name)) {
        (false, _) => Err("not the name of a library".into()),
        (true, true) => Err("the first start of a copy is never with this one".into()),
        (true, false) => Ok(text.to_owned()),
    }
}

const ALL_EXAMPLES: &str = "\
Examples, as the servers' user:
  citus-fence restore all /backup/monday \\
      --to 0=10.0.0.5:5432,/data/coordinator --to 1=10.0.0.5:5433,/data/worker1
  then start each: pg_ctl -D /data/coordinator start …
  then:            citus-fence restore finish -h 10.0.0.5 -d shop
Up to a restore point, from an archive with a directory for each node:
  citus-fence restore all /backup/monday --to … --point before_upgrade \\
      --restore-command 'cp /archive/{groupid}/%f %p'

Nothing may answer at any of the addresses while it runs. Data directories are missing or empty, except where the
manifest says that a tool keeps the copies: then each of them has to be that copy already.";

const PREPARE_EXAMPLES: &str = "\
Example, of a backup that both hosts see under /backup, as the servers' user:
  on 10.0.0.5:  citus-fence restore prepare /backup/monday --node 0 \\
                    --to 0=10.0.0.5:5432,/data/coordinator --to 1=10.0.0.6:5432
  on 10.0.0.6:  citus-fence restore prepare /backup/monday --node 1 \\
                    --to 0=10.0.0.5:5432 --to 1=10.0.0.6:5432,/data/worker1
  with a restore point, once both have ended: the same on each with promote in the place of prepare, and --all-reached
  then start all nodes, and once, anywhere:  citus-fence restore finish -h 10.0.0.5 -d shop

All hosts need the same manifest.json; DIR may be a copy of the directory with only the nodes of that host in it.";

const FINISH_EXAMPLES: &str = "\
Examples:
  citus-fence restore finish -h 10.0.0.5 -p 5432 -d shop
  citus-fence restore finish -h coordinator -d shop --wait 10min --json

It connects as a superuser. It ends with 3 where something was found that needs a look.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_group_an_address_and_a_directory() {
        let place = to("1=[::1]:5433,/data,/etc/pg.conf").expect("a place");
        assert_eq!((place.group, place.host.as_str(), place.port), (1, "::1", 5433));
        assert_eq!(place.data, Some(PathBuf::from("/data")));
        assert_eq!(place.config, Some(PathBuf::from("/etc/pg.conf")));
        assert_eq!(to("1=h:1").expect("an address").data, None);
        for bare in ["1=::1,/d", "1=::1:5433,/d", "1=[::1:5433,/d", "1=::1]:5433,/d"] {
            assert!(to(bare).is_err_and(|error| error.contains("brackets")), "{bare}");
        }
        for bad in ["", "1", "x=h:1,/d", "-1=h:1,/d", "1=h,/d", "1=h:0,/d", "1=:1,/d", "1=h:1,d"] {
            assert!(to(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mappings_are_of_all_nodes_or_of_one() {
        assert_eq!(mapping("/a=/b").expect("a mapping").group, None);
        assert_eq!(mapping("2:/a=/b").expect("a mapping").group, Some(2));
        let odd = mapping(r"2:/a:b\=c\\d=/n=w").expect("a mapping");
        assert_eq!((odd.old.as_path(), odd.new.as_path()), (r"/a:b=c\d".as_ref(), "/n=w".as_ref()));
        assert_eq!(escaped(&odd.old), r"/a:b\=c\\d");
        assert_eq!(mapping("/a:b=/c").expect("a mapping").old, PathBuf::from("/a:b"));
        assert!(mapping("a=/b").is_err() && mapping("/a").is_err() && mapping("x:/a=/b").is_err());
    }

    #[test]
    fn libraries_that_act_on_their_own_are_never_preloaded() {
        for bad in [
            "citus",
            "$libdir/citus_fence",
            "pg_cron.so",
            "/lib/pglogical.so",
            "",
            "a'b",
            "a,citus",
        ] {
            assert!(library(bad).is_err(), "{bad}");
        }
        assert!(library("my_rmgr").is_ok());
    }
}
