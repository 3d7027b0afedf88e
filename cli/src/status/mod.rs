//! `citus-fence status`: the backup block of a database, as the coordinator knows it.

mod answer;
mod ask;
mod show;

pub use ask::coordinator;

use crate::args::StatusArgs;
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::server::Server;
use crate::signals::Stop;

/// Asks and prints.
pub fn run(args: &StatusArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let destination = Destination::new(&args.connection)?;
    let mut server = Server::open(&destination, stop)?;
    let status = ask::status(&mut server)?;
    server.close();
    output.result(&status, show::lines)?;
    Ok(status.exit())
}
