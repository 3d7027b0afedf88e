//! `citus_cleanup_orphaned_resources`: drops the shards that `pg_dist_cleanup` lists as orphaned.

use std::collections::BTreeMap;

use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::catalog::{self, Row};
use super::error::EmbeddedError;
use super::nodes::coordinator_only;
use super::transaction::{Peer, Writes, run};
use crate::pg::{elog, text_sql};
use crate::report::Report;
use remote::Command;

/// Drops a table each, if nobody uses it, and gives the names of those that are no longer there.
const DROP: &str =
    "SELECT gone FROM pg_catalog.unnest(pg_catalog.pg_dist_drop_tables($1::text[])) AS t (gone)";

/// On all nodes of the records, in one distributed transaction.  What is in use stays recorded for another
/// call, with a warning.
pub fn drop_orphans() -> Result<(), EmbeddedError> {
    coordinator_only("citus_cleanup_orphaned_resources()")?;
    // One at a time.
    text_sql::execute("LOCK TABLE pg_catalog.pg_dist_cleanup IN SHARE ROW EXCLUSIVE MODE", &[])?;
    // A record of what is a placement again would drop rows that are in use: it is left alone.
    let rows = text_sql::query(
        "SELECT c.record_id, c.node_group_id, c.object_name
           FROM pg_catalog.pg_dist_cleanup c
          WHERE c.object_type OPERATOR(pg_catalog.=) 1
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_dist_placement p
                 WHERE p.groupid OPERATOR(pg_catalog.=) c.node_group_id
                   AND p.shardid::text OPERATOR(pg_catalog.=)
                       pg_catalog.substring(c.object_name, '([0-9]+)\"?$'))
          ORDER BY c.record_id",
        &[],
    )?;
    let mut orphans: BTreeMap<i32, Vec<(String, String)>> = BTreeMap::new();
    for row in &rows {
        let mut row = Row::new(row, "pg_dist_cleanup");
        let (record, group) = (row.text()?, row.number()?);
        orphans.entry(group).or_default().push((record, row.text()?));
    }

    let own_group = catalog::local_group()?;
    let peers = catalog::others(&catalog::nodes()?, own_group);
    let mut done: Vec<String> = Vec::new();
    for (group, records) in &orphans {
        let names: Vec<&str> = records.iter().map(|(_, name)| name.as_str()).collect();
        let peer = peers.iter().find(|peer| peer.group == *group);
        let gone = match peer {
            Some(peer) => drop_on(peer, &names)?,
            None if *group == own_group => text_sql::query(DROP, &[&text_sql::array(&names)])?,
            // A node that is no more, or not active.
            None => Vec::new(),
        };
        let gone: Vec<&str> = gone.iter().filter_map(|row| row.first()?.as_deref()).collect();
        let ended = records.iter().filter(|(_, name)| gone.contains(&name.as_str()));
        done.extend(ended.map(|(record, _)| record.clone()));
    }
    let done: Vec<&str> = done.iter().map(String::as_str).collect();
    text_sql::execute(
        "DELETE FROM pg_catalog.pg_dist_cleanup
          WHERE record_id OPERATOR(pg_catalog.=) ANY ($1::int8[])",
        &[&text_sql::array(&done)],
    )?;
    match rows.len() - done.len() {
        0 => {}
        left => warn_of_left(left),
    }
    Ok(())
}

fn drop_on(peer: &Peer, names: &[&str]) -> Result<text_sql::Rows, EmbeddedError> {
    let replies = run(std::slice::from_ref(peer), Writes::Yes, |_| {
        Command::new("drop orphaned shards", DROP).with_param(text_sql::array(names))
    })?;
    let mut rows = Vec::new();
    for reply in replies {
        rows.extend(reply.last_set()?.rows.iter().cloned());
    }
    Ok(rows)
}

fn warn_of_left(left: usize) {
    elog::emit(
        PgLogLevel::WARNING,
        &Report::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("{left} orphaned shards are in use, or on a node that is not active"),
        )
        .hint("Later, try again: CALL citus_cleanup_orphaned_resources();"),
    );
}
