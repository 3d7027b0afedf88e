//! From what the rounds measured to what the timeline draws.

use std::time::Instant;

use crate::outcome::Outcome;
use crate::report::{cents, plural};
use crate::timeline::{Commit, Lane, Panel, Picture, Span};

/// Both scenarios, above each other. `nodes` are the nodes' names.
pub fn compare(nodes: &[&str], subtitle: String, with: &Outcome, without: &Outcome) -> Picture {
    Picture {
        title: String::from("Copies of a cluster while money moves between its nodes"),
        subtitle,
        panels: vec![
            panel("With the block", nodes, with),
            panel("Without the block", nodes, without),
        ],
    }
}

fn panel(heading: &str, nodes: &[&str], outcome: &Outcome) -> Panel {
    let since = |moment: Instant| moment.saturating_duration_since(outcome.watch.began);
    let span = |from, to| Span { from: since(from), to: since(to) };
    let torn = outcome.torn();
    let mut lanes: Vec<Lane> =
        nodes.iter().map(|node| Lane { node: (*node).to_owned(), ..Lane::default() }).collect();
    for mark in outcome.watch.marks() {
        lanes[mark.node].commits.push(Commit {
            at: since(mark.acknowledged),
            is_torn: torn.contains(mark.transfer.as_str()),
        });
    }
    for wait in outcome.watch.waits() {
        lanes[wait.node].waits.push(span(wait.asked, wait.answered));
    }
    for (lane, copy) in lanes.iter_mut().zip(&outcome.copies) {
        lane.copy = Some(span(copy.began, copy.ended));
    }
    Panel {
        heading: heading.to_owned(),
        block: outcome.watch.block.map(|block| span(block.active, block.release_asked)),
        lanes,
        length: outcome.watch.length(),
        is_whole: outcome.is_whole(),
        verdict: verdict(outcome),
    }
}

/// What the audit of the restored copies found, in one line.
fn verdict(outcome: &Outcome) -> String {
    let audit = &outcome.audit;
    let total = if audit.total == audit.expected_total {
        format!("restored total {}, exact", cents(audit.total))
    } else {
        format!("restored total {} of {}", cents(audit.total), cents(audit.expected_total))
    };
    let mut words = vec![
        total,
        plural(audit.half_transfers.len(), "half transfer", "half transfers"),
        format!("{} left prepared", audit.prepared_left.len()),
    ];
    if !outcome.complaints.is_empty() {
        words.push(plural(outcome.complaints.len(), "complaint", "complaints"));
    }
    words.join(", ")
}
