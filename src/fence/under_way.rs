//! Which of the operations that exclude each other is under way in this database.
//!
//! None of them waits for another's locks: who is second is refused at once, with words that name the first.  How an
//! operation is found, its own room says; the library's start-up puts them together.

use std::sync::OnceLock;

/// An operation that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// As it goes on "cannot … while": lower case, no full stop.
    pub what: &'static str,
    /// Where to look and how to end it, with SQL that can be pasted.
    pub hint: &'static str,
}

/// One of the operations.
pub struct Operation {
    /// What it is called here.
    pub name: &'static str,
    /// Looks whether it is under way in this database.
    pub look: fn() -> Option<UnderWay>,
    /// Whom it keeps from beginning.
    pub excludes: Excludes,
}

/// Whom an operation that is under way keeps from beginning.
#[derive(Clone, Copy, Debug)]
pub enum Excludes {
    /// All others.
    All,
    /// That one.
    Only(&'static str),
}

static ALL: OnceLock<&'static [Operation]> = OnceLock::new();

/// Says which operations there are.
pub fn wire(all: &'static [Operation]) {
    let _ = ALL.set(all);
}

/// The first that is under way and keeps that one, which is another, from beginning.
pub fn look_but(name: &str) -> Option<UnderWay> {
    let others = ALL.get()?.iter().filter(|operation| match operation.excludes {
        Excludes::All => operation.name != name,
        Excludes::Only(only) => only == name,
    });
    others.map(|operation| operation.look).find_map(|look| look())
}
