//! What must be true of a cluster at rest, whatever was done to it: every acknowledged write is there exactly once,
//! every node says the same, and nothing is left behind. Rows are read from the placements on their own nodes, past
//! any planner.

mod catalog;
pub mod left;
mod rows;

use std::collections::BTreeMap;
use std::fmt;

use test_cluster::{Cluster, Result};

use crate::book::Book;
use crate::kind::Kind;
use crate::tables::Tables;

/// How many examples of each kind of damage are printed.
const EXAMPLES: usize = 6;

/// What was wrong with turns, by kind.
pub type Turns = BTreeMap<Kind, Vec<i64>>;

/// What an audit found.
#[derive(Debug, Default)]
pub struct Audit {
    /// Acknowledged turns and transfers that it looked for.
    pub acknowledged: usize,
    /// Acknowledged turns of which rows are missing.
    pub lost: Turns,
    /// Turns of which there are more rows than they wrote.
    pub doubled: Turns,
    /// Turns without an answer of which some rows are there.
    pub half: Turns,
    /// Turns that were refused and are there all the same.
    pub undead: Turns,
    /// Acknowledged transfers that are missing.
    pub lost_transfers: usize,
    /// Values that were drawn from a sequence more than once.
    pub drawn_twice: usize,
    /// Everything else, in words.
    pub wrong: Vec<String>,
}

impl Audit {
    /// Looks at the rows, the answers, the catalog and what is left.
    pub fn of(cluster: &Cluster, tables: &Tables, book: &Book) -> Result<Audit> {
        let mut audit = Audit { acknowledged: book.acknowledged(), ..Audit::default() };
        rows::check(cluster, tables, book, &mut audit)?;
        catalog::check(cluster, tables, &mut audit)?;
        left::check(cluster, &mut audit)?;
        Ok(audit)
    }

    /// Whether there is nothing to complain of.
    pub fn is_clean(&self) -> bool {
        self.lost_writes() == 0
            && [&self.doubled, &self.half, &self.undead].iter().all(|turns| turns.is_empty())
            && self.drawn_twice == 0
            && self.wrong.is_empty()
    }

    /// Acknowledged turns and transfers that are not whole there.
    pub fn lost_writes(&self) -> usize {
        self.lost.values().map(Vec::len).sum::<usize>() + self.lost_transfers
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acknowledged", self.acknowledged)?;
        let turns = [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("half there", &self.half),
            ("refused, but there", &self.undead),
        ];
        for (what, turns) in turns {
            for (kind, ops) in turns {
                let examples = &ops[..ops.len().min(EXAMPLES)];
                write!(f, "\n  {what}: {} of {kind:?}, such as {examples:?}", ops.len())?;
            }
        }
        if self.lost_transfers > 0 {
            write!(f, "\n  lost: {} transfers", self.lost_transfers)?;
        }
        if self.drawn_twice > 0 {
            write!(f, "\n  drawn twice: {} values of sequences", self.drawn_twice)?;
        }
        for wrong in self.wrong.iter().take(4 * EXAMPLES) {
            write!(f, "\n  {wrong}")?;
        }
        if self.wrong.len() > 4 * EXAMPLES {
            write!(f, "\n  and {} more", self.wrong.len() - 4 * EXAMPLES)?;
        }
        Ok(())
    }
}
