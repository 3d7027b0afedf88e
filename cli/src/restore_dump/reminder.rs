//! What is left for somebody to do where a part of a dump was restored: what is left out between that part and the rest.
//!
//! No foreign key is made between what is restored and what is not: it would lock the other table, which may be in use,
//! and fail where rows have gone. Each is named with its statement. One that points to what was restored is of interest
//! where its table is there: whoever dropped the table that it points to has dropped it, too.

use super::choice::Choice;
use super::distribute::{named, quoted};
use crate::dump::{NodeSession, literal};
use crate::failure::Failure;

/// A sentence each.
pub fn remind(choice: &Choice, coordinator: &mut NodeSession) -> Result<Vec<String>, Failure> {
    let mut findings = choice.left_out.clone();
    for key in &choice.pointing {
        let lacks = format!(
            "SELECT c.oid IS NOT NULL AND NOT EXISTS (SELECT FROM pg_constraint k
                     WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conname = {})
               FROM (SELECT to_regclass({})::oid) c (oid)",
            literal(&key.name),
            literal(&quoted(&key.table.schema, &key.table.name))
        );
        if coordinator.ask("look for a foreign key", &lacks)?.single_value()? == "t" {
            findings.push(format!(
                "{} no longer points to {}, as in the dump: {}",
                named(&key.table.schema, &key.table.name),
                named(&key.to.schema, &key.to.name),
                key.statement
            ));
        }
    }
    Ok(findings)
}
