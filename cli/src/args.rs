//! What can be typed, and what `--help` says of it.

use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::check;
use crate::exit::Exit;
use crate::restore::args::RestoreArgs;
use crate::stored;
use crate::units;

/// How long connecting may take where nobody says.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "citus-fence",
    version,
    about = "Operations on a Citus cluster that need a write fence",
    long_about = "Operations on a Citus cluster that need a write fence.\n\n\
        It talks to the coordinator's extension citus_fence and may run on any machine that reaches it.",
    after_help = after_help(),
    // -h is the host, as in psql.
    disable_help_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Cli {
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(subcommand)]
    pub task: Task,
}

/// How it answers.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print one JSON object on standard output; errors are JSON too, on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no result; errors and the exit code tell
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Tell on standard error what is being done
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Print help
    #[arg(long, short = '?', global = true, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Print the backup block of a database: its state, its nodes, and who waits for it
    #[command(after_help = crate::help::flowed(STATUS_EXAMPLES))]
    Status(StatusArgs),
    /// Run a command while the cluster's writers are held back, so that copies it makes agree with each other
    #[command(after_help = crate::help::flowed(crate::block::args::EXAMPLES))]
    Block(crate::block::args::BlockArgs),
    /// Make a moment that all nodes can be restored to, and wait until every archive has it
    #[command(after_help = crate::help::flowed(crate::restore_point::args::EXAMPLES))]
    RestorePoint(crate::restore_point::args::RestorePointArgs),
    /// Copy all nodes while writers are held back, so that the copies agree with each other
    #[command(after_help = crate::help::flowed(crate::backup::args::EXAMPLES))]
    Backup(crate::backup::args::BackupArgs),
    /// Dump a cluster as it was at one moment, from all nodes side by side
    #[command(after_help = crate::help::flowed(crate::dump::EXAMPLES))]
    Dump(crate::dump::DumpArgs),
    /// Restore a dump into a cluster, of as many nodes as it has
    #[command(after_help = crate::help::flowed(crate::restore_dump::EXAMPLES))]
    RestoreDump(crate::restore_dump::RestoreDumpArgs),
    /// Bring a backup of all nodes up as a cluster of its own
    Restore(RestoreArgs),
    /// Find out whether all nodes of a cluster are of one mind
    #[command(after_help = crate::help::flowed(check::args::EXAMPLES))]
    Check(check::args::CheckArgs),
    /// Print what is in a backup or a dump
    #[command(after_help = crate::help::flowed(stored::args::LIST_EXAMPLES))]
    List(stored::args::ListArgs),
    /// Read all of a backup or a dump, and compare it with what was written
    #[command(after_help = crate::help::flowed(stored::args::VERIFY_EXAMPLES))]
    Verify(stored::args::VerifyArgs),
}

/// What `status` takes.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Which server is the coordinator, as psql takes it.
#[derive(Args, Clone, Default)]
#[command(
    next_help_heading = "Connection to the coordinator (as in psql; PG* variables, service file and .pgpass count)"
)]
pub struct ConnectionArgs {
    /// Host name or address, or the directory of a Unix socket
    #[arg(long, short = 'h', value_name = "HOST")]
    pub host: Option<String>,
    /// Port
    #[arg(long, short = 'p', value_name = "PORT", value_parser = ports)]
    pub port: Option<String>,
    /// User
    #[arg(long, short = 'U', value_name = "NAME")]
    pub username: Option<String>,
    /// Database, or a connection string, which goes over the other options
    #[arg(long, short = 'd', value_name = "DBNAME")]
    pub dbname: Option<String>,
    /// Never ask for a password; the default, and accepted for scripts written for psql
    #[arg(long, short = 'w')]
    pub no_password: bool,
    /// How long connecting may take, all hosts together [default: connect_timeout, PGCONNECT_TIMEOUT, or 10s]
    #[arg(long, value_name = "DURATION", value_parser = units::limit)]
    pub connect_timeout: Option<Duration>,
}

impl std::fmt::Debug for ConnectionArgs {
    /// Not the database, which may be a connection string with a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectionArgs")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A port, or several with commas between, as libpq takes them: an empty one is the default.
fn ports(text: &str) -> Result<String, &'static str> {
    let is_port =
        |part: &str| part.is_empty() || part.trim().parse::<u16>().is_ok_and(|port| port > 0);
    match !text.is_empty() && text.split(',').all(is_port) {
        true => Ok(text.to_owned()),
        false => Err("a port is a number from 1 to 65535"),
    }
}

const STATUS_EXAMPLES: &str = "\
Examples:
  citus-fence status -h coordinator -U backup -d shop
  citus-fence status -d 'service=shop'
  citus-fence status -d 'postgresql://backup@coordinator/shop' --json | jq .block.state

It ends with 0 whether there is a block or not, and with 3 if the last one ended without being asked to.";

fn after_help() -> String {
    format!(
        "Durations have a unit: 500ms, 10s, 5min, 4h, 1d.\n\n\
         Exit codes:\n{}\n\n\
         `citus-fence status --help` shows the options of a subcommand, with examples.",
        Exit::list()
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_the_exit_codes_and_examples() {
        let help = Cli::command().render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(help.contains(exit.meaning()), "{help}");
        }
        let status = parse("citus-fence status --help").unwrap_err().to_string();
        assert!(status.contains("citus-fence status -h coordinator"), "{status}");
    }

    #[test]
    fn connection_options_are_psqls() {
        let cli = parse("citus-fence status -h /run -p 5433 -U me -d db -w").unwrap();
        let Task::Status(args) = cli.task else { panic!("another task") };
        assert_eq!(args.connection.host.as_deref(), Some("/run"));
        assert_eq!(args.connection.port.as_deref(), Some("5433"));
        assert_eq!(args.connection.username.as_deref(), Some("me"));
        assert_eq!(args.connection.dbname.as_deref(), Some("db"));
        assert!(args.connection.no_password);
    }

    #[test]
    fn output_options_may_stand_on_either_side() {
        for line in ["citus-fence --json -q status", "citus-fence status --json -q"] {
            let cli = parse(line).unwrap();
            assert!(cli.output.json && cli.output.quiet, "{line}");
        }
    }

    #[test]
    fn a_database_is_not_in_debug_output() {
        let cli = parse("citus-fence status -d password=hunter2").unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
    }

    #[test]
    fn ports_are_numbers() {
        for good in ["5432", "1", "65535", "5432,5433", ",5433"] {
            assert!(ports(good).is_ok(), "{good}");
        }
        for bad in ["", "0", "65536", "x", "-1", "5432;5433"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
