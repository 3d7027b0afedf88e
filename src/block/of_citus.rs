//! Functions of Citus that a block would have wait until it ends, and that then would do what nobody means any more: a
//! restore point outside of the block.  They are refused at once, with what to call instead.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::calls;
use super::error::BlockError;
use crate::gate;
use crate::pg::elog;
use crate::pg::function::{self, Function};
use crate::report::Report;

/// A function of Citus, and what to call instead.
type Refused = (&'static str, &'static str);

const REFUSED: [Refused; 2] = [
    (
        "citus_create_restore_point()",
        "Under the block, on all nodes: SELECT * FROM citus_backup_restore_point('name');",
    ),
    (
        "citus_cluster_changes_block()",
        "See citus_backup_block_status(); to end the block: SELECT citus_unblock_writes_for_backup();",
    ),
];

thread_local! {
    /// What is known of functions, by their numbers.
    static KNOWN: RefCell<HashMap<u32, Option<Refused>>> = RefCell::default();
    /// Up to which change that is true.
    static CHANGES: Cell<u32> = const { Cell::new(0) };
}

/// Before a function that may be one of them, and then what the gate has to say.
pub fn before_function(number: u32) {
    if number >= function::FIRST_OF_OTHERS
        && let Some((function, instead)) = look_up(number)
        && calls::under_way().is_some()
    {
        elog::raise(&Report::from(&BlockError::OfCitus { function, instead }));
    }
    (gate::hooks::WATCH.before_function)(number);
}

fn look_up(number: u32) -> Option<Refused> {
    let changes = function::changes();
    if CHANGES.replace(changes) != changes {
        KNOWN.with_borrow_mut(HashMap::clear);
    }
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&number).copied()) {
        return known;
    }
    let found = match function::look_at(number) {
        Function::InCatalog(name) => refused(&name),
        Function::Internal(_) | Function::Other => None,
    };
    KNOWN.with_borrow_mut(|known| known.insert(number, found));
    found
}

fn refused(name: &str) -> Option<Refused> {
    REFUSED.into_iter().find(|(known, _)| known.strip_suffix("()") == Some(name))
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn only_whole_names_are_known() {
        assert!(refused("citus_create_restore_point").is_some());
        assert!(refused("citus_create_restore").is_none());
        assert!(refused("citus_create_restore_point()").is_none());
    }
}
