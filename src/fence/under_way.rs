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

/// Looks whether an operation is under way in this database.
pub type Look = fn() -> Option<UnderWay>;

static ALL: OnceLock<&'static [Look]> = OnceLock::new();

/// Says which operations there are.
pub fn wire(all: &'static [Look]) {
    let _ = ALL.set(all);
}

/// The first that is under way, if any is.
pub fn look() -> Option<UnderWay> {
    ALL.get()?.iter().find_map(|look| look())
}
