//! A part of a schema may need what does not come with it: a type, a function, a table that a view reads. So before
//! anything stays, all of it is made once on each node that makes it, in one transaction that is rolled back: an error
//! in it is one before anything is written.

use std::fs;
use std::path::Path;

use super::schema::{Pieces, Psql, beginning, content, folder, in_entry, put, word};
use super::statement;
use super::target::{AS_WRITTEN, Node};
use crate::failure::Failure;

impl Psql<'_> {
    /// Makes all but event triggers, and leaves nothing of it. Citus carries none of it to other nodes.
    pub fn rehearse(&self, node: &Node, before: &Path, after: &Pieces) -> Result<(), Failure> {
        let folder = folder()?;
        let mut script = format!(
            "{}BEGIN;\nSET LOCAL citus.enable_ddl_propagation = off;\n{};\n\\i {}\n",
            beginning(),
            AS_WRITTEN.join(";\n"),
            word(before)
        );
        let head = self.head(&folder, after)?;
        script.push_str(&format!("\\i {}\n", word(&head)));
        for (number, entry) in after.entries.iter().enumerate().take(after.last) {
            let path = put(&folder, &number.to_string(), &content(entry, after.is_bytes))?;
            script.push_str(&format!("\\i {}\n", word(&path)));
        }
        script.push_str("ROLLBACK;\n");
        let find = |at: &Path, line: usize| match at == before {
            true => statement::at_line(&fs::read_to_string(before).ok()?, line),
            false => in_entry(after, at, line),
        };
        self.run(node, &script, true, &find).map(drop)
    }
}
