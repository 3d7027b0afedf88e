//! What COPY writes of an enum or a composite type is as of now, whatever the snapshot: `ALTER TYPE … RENAME VALUE`
//! and `ADD ATTRIBUTE` change it on every shard, under any lock, and no table looks different for it. So the types
//! of every node are compared after the last COPY there.

use std::collections::HashMap;

use super::error::DumpError;
use super::export::Keeper;
use super::session::NodeSession;
use crate::failure::Failure;
use crate::rows::rows;

/// What is in the types, a row per piece. A value that is added to an enum is a new piece, and no difference.
const PIECES: &str = "
SELECT format('%I.%I', n.nspname, t.typname) AS name, 'label ' || e.oid AS piece, e.enumlabel::text AS form
  FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
UNION ALL
SELECT format('%I.%I', n.nspname, t.typname), 'attributes ' || t.oid,
       coalesce(string_agg(concat_ws(':', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attisdropped), ','
                  ORDER BY a.attnum), '')
  FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
  JOIN pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 GROUP BY n.nspname, t.typname, t.oid
UNION ALL
SELECT format('%I.%I', n.nspname, t.typname), 'base ' || t.oid, t.typbasetype || ':' || t.typtypmod
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'd'";

/// Fails, with its name, if a type is no longer what the snapshot shows.
pub fn compare(keeper: &mut Keeper, present: &mut NodeSession) -> Result<(), Failure> {
    let then = keeper.ask("look at the snapshot's types", PIECES)?;
    let now = present.ask("look at the present types", PIECES)?;
    let mut forms: HashMap<String, String> = HashMap::new();
    for row in rows(&now)? {
        forms.insert(row.get("piece")?, row.get("form")?);
    }
    for row in rows(&then)? {
        if forms.get(&row.get::<String>("piece")?) != Some(&row.get::<String>("form")?) {
            let node = keeper.session.node().to_string();
            return Err(DumpError::TypeChanged { name: row.get("name")?, node }.into());
        }
    }
    Ok(())
}
