//! What the writers tell of their turns.

use std::time::{Duration, Instant};

use test_cluster::Summary;

use crate::kind::Kind;

/// How long one statement took, whatever came of it.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// When it was sent.
    pub sent: Instant,
    /// Until it was answered.
    pub took: Duration,
}

/// A turn that ended with an error.
#[derive(Clone, Debug)]
pub struct Miss {
    /// The turn; none where there was no connection for it.
    pub op: Option<i64>,
    /// When.
    pub at: Instant,
    /// What the server sent, if it sent one.
    pub sqlstate: Option<String>,
    /// The error in full.
    pub message: String,
}

/// One writer's.
#[derive(Clone, Debug)]
pub struct WriterBook {
    /// Its number.
    pub writer: i64,
    /// The node it wrote at.
    pub node: usize,
    /// What it did.
    pub kind: Kind,
    /// Turns that the server acknowledged.
    pub acknowledged: Vec<i64>,
    /// Turns that were refused or rolled back: they are not there.
    pub refused: Vec<Miss>,
    /// Turns of which nobody knows: the answer was lost.
    pub unknown: Vec<Miss>,
    /// Connections that could not be made.
    pub unconnected: Vec<Miss>,
    /// Every statement.
    pub beats: Vec<Beat>,
    /// Whether it came to no end, as on a server that is frozen.
    pub hung: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Book {
    /// The writers', of all loads.
    pub writers: Vec<WriterBook>,
    /// The bank's.
    pub bank: Vec<Summary>,
}

impl Book {
    /// Adds what another load did.
    pub fn add(&mut self, other: Book) {
        self.writers.extend(other.writers);
        self.bank.extend(other.bank);
    }

    /// Acknowledged turns and transfers.
    pub fn acknowledged(&self) -> usize {
        let turns: usize = self.writers.iter().map(|writer| writer.acknowledged.len()).sum();
        let transfers: usize = self.bank.iter().map(|bank| bank.acknowledged.len()).sum();
        turns + transfers
    }

    /// Everything that went wrong for clients, but what `expected` takes for right: kind (none of the
    /// bank's), SQLSTATE.
    pub fn complaints(&self, expected: impl Fn(Option<Kind>, &str) -> bool) -> Vec<String> {
        let mut complaints = Vec::new();
        for writer in &self.writers {
            let WriterBook { kind, node, .. } = writer;
            let misses = [&writer.refused, &writer.unknown, &writer.unconnected];
            for miss in misses.into_iter().flatten() {
                if !expected(Some(*kind), miss.sqlstate.as_deref().unwrap_or_default()) {
                    complaints.push(format!("{kind:?} at node {node}: {}", miss.message));
                }
            }
            if writer.hung {
                complaints.push(format!("{kind:?} at node {node} came to no end"));
            }
        }
        for bank in &self.bank {
            for error in &bank.errors {
                if !expected(None, error.sqlstate.as_deref().unwrap_or_default()) {
                    complaints.push(format!("transfer at node {}: {}", error.node, error.message));
                }
            }
            complaints
                .extend(bank.hung.iter().map(|node| format!("a transfer at node {node} hung")));
        }
        complaints
    }

    /// The longest statement of each kind that was under way at some moment of a span, the worst first.
    pub fn longest_within(&self, from: Instant, to: Instant) -> Vec<(Kind, Duration)> {
        let mut longest: Vec<(Kind, Duration)> = Vec::new();
        for writer in &self.writers {
            let within =
                writer.beats.iter().filter(|beat| beat.sent < to && beat.sent + beat.took > from);
            let Some(worst) = within.map(|beat| beat.took).max() else { continue };
            match longest.iter_mut().find(|(kind, _)| *kind == writer.kind) {
                Some((_, known)) => *known = worst.max(*known),
                None => longest.push((writer.kind, worst)),
            }
        }
        longest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        longest
    }
}
