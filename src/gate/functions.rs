//! Which functions write, by their numbers: those of the server are the same everywhere, and what others are is
//! looked up once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::policy::{Verdict, writing_function, writing_function_of_citus};
use crate::pg::function::{self, Function};

thread_local! {
    /// What is known of functions whose numbers differ from database to database.
    static KNOWN: RefCell<HashMap<u32, Option<(&'static str, Verdict)>>> = RefCell::default();
    /// Up to which change that is true.
    static CHANGES: Cell<u32> = const { Cell::new(0) };
}

/// Whether there may be something to say of a function.  Called for every one in every expression that the
/// executor sets up, and for those that clients call by number.
pub fn may_write(number: u32) -> bool {
    writing_function(number).is_some() || number >= function::FIRST_OF_OTHERS
}

/// A function that writes: its name, and what it means to the gate.
pub fn look_at(number: u32) -> Option<(&'static str, Verdict)> {
    if let Some(name) = writing_function(number) {
        return Some((name, Verdict::Writes));
    }
    if number < function::FIRST_OF_OTHERS {
        return None;
    }
    let changes = function::changes();
    if CHANGES.replace(changes) != changes {
        KNOWN.with_borrow_mut(HashMap::clear);
    }
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&number).copied()) {
        return known;
    }
    let verdict = match function::look_at(number) {
        Function::Internal(number) => writing_function(number).map(|name| (name, Verdict::Writes)),
        Function::InCatalog(name) => writing_function_of_citus(&name),
        Function::Other => None,
    };
    KNOWN.with_borrow_mut(|known| known.insert(number, verdict));
    verdict
}
