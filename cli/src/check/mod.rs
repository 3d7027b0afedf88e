//! `citus-fence check`: whether all nodes of a cluster are of one mind. What `restore finish` ends with, by itself.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `args` | what can be typed |
//! | `members` | the nodes of a database, and sessions with them |
//! | `looks` | what is looked at on each |
//! | `settings` | settings without which something of Citus fails later |
//! | `sequences` | whether sequences are behind what is stored, and raising them |

pub mod args;
mod looks;
mod members;
mod sequences;
mod settings;

use serde::Serialize;

use crate::check::args::CheckArgs;
use crate::connection::Destination;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Stop;

pub use looks::{Age, look};
pub use members::{Cluster, Member, ask, has_citus, open, params, tell};
pub use sequences::look as look_at_sequences;

/// Something that needs a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check.
    pub check: &'static str,
    /// Which node: its address.
    pub node: String,
    /// What, with the object's name.
    pub what: String,
}

/// What was found and done.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub nodes: usize,
    pub findings: Vec<Finding>,
    /// What this user may not look at: nothing is known of it.
    pub not_checked: Vec<Finding>,
    /// What was mended.
    pub mended: Vec<String>,
}

/// Looks and prints.
pub fn run(args: &CheckArgs, stop: &Stop, output: &Output) -> Result<Exit, Failure> {
    let destination = Destination::new(&args.connection)?;
    let mut first = open(&destination.target.node, &destination.target.params, &destination, stop)?;
    let mut cluster = Cluster::of(&mut first, &destination, &args.nodes, stop)?;
    let mut report = Report { nodes: cluster.members.len(), ..Report::default() };
    look(&mut cluster, Age::Settled, args.fix, &mut report)?;
    settings::output_plugins(&mut cluster, &mut report)?;
    if report.mended.is_empty() {
        output.result(&report, lines)?;
        return Ok(report.exit());
    }
    let end = report.exit();
    Ok(output.outcome(&report, lines, end))
}

impl Report {
    /// Findings need a look, and so does what nobody has looked at.
    pub fn exit(&self) -> Exit {
        match self.findings.is_empty() && self.not_checked.is_empty() {
            true => Exit::Done,
            false => Exit::Findings,
        }
    }
}

/// For people.
pub fn lines(report: &Report) -> String {
    let mut text = String::new();
    for mended in &report.mended {
        text.push_str(&format!("mended: {mended}\n"));
    }
    for finding in &report.findings {
        text.push_str(&format!("look: {}: {}: {}\n", finding.check, finding.node, finding.what));
    }
    for Finding { check, node, what } in &report.not_checked {
        text.push_str(&format!("not checked: {check}: {node}: {what}\n"));
    }
    text.push_str(&format!("{} findings on {} nodes", report.findings.len(), report.nodes));
    text.push_str(match report.not_checked.is_empty() {
        true => "\n",
        false => "; not all could be looked at\n",
    });
    text
}
