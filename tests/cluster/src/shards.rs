//! Distributed tables, the same way on both engines. Citus plans and routes; the embedded engine
//! only has `pg_dist_execute`, which takes a command for one shard. What tests write is a template
//! with `%s` where the table goes, and each engine gets its own form of it.

use std::fmt::Display;

use crate::cluster::{Cluster, quote_name};
use crate::engine::Engine;
use crate::error::{Result, shorten};
use crate::talk::text_rows;

/// Where the table's name goes in a template.
const PLACEHOLDER: &str = "%s";

/// One placement of a shard, on a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The shard.
    pub shardid: i64,
    /// The number of the node that holds it.
    pub node: usize,
    /// The shard's table on that node, quoted and with its schema.
    pub table: String,
}

/// A row that was read from a placement directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardRow {
    /// The shard it is in.
    pub shardid: i64,
    /// The number of the node it was read on.
    pub node: usize,
    /// Its values as text; `None` is NULL.
    pub values: Vec<Option<String>>,
}

impl Engine {
    /// A statement for the one shard that `key` belongs to. In the template `%s` stands for the
    /// table. On Citus its WHERE clause (or its row) has to name the key, as that is how Citus finds
    /// the shard.
    pub fn shard_sql(self, table: &str, key: impl Display, template: &str) -> String {
        match self {
            Engine::Citus => template.replace(PLACEHOLDER, table),
            Engine::Embedded => format!(
                "SELECT pg_dist_execute({}::regclass, {}, {})",
                quote_text(table),
                quote_text(&key.to_string()),
                quote_text(template)
            ),
        }
    }
}

impl Cluster {
    /// Creates a table with `ddl` and spreads it over the nodes by `column`.
    pub fn create_distributed(
        &self,
        ddl: &str,
        table: &str,
        column: &str,
        shards: u32,
    ) -> Result<()> {
        let (table, column) = (quote_text(table), quote_text(column));
        match self.engine() {
            Engine::Citus => {
                // In two steps: Citus is to see the table as any client would have made it.
                self.coordinator().execute(ddl)?;
                self.coordinator().execute(&format!(
                    "SELECT create_distributed_table({table}, {column}, shard_count := {shards})"
                ))
            }
            Engine::Embedded => {
                // It does not carry DDL to the other nodes.
                self.execute_everywhere(ddl)?;
                self.coordinator().execute(&format!(
                    "SELECT create_distributed_table({table}::regclass, {column}, {shards})"
                ))
            }
        }
    }

    /// A statement for the one shard that `key` belongs to, in this cluster's form; see
    /// [`Engine::shard_sql`].
    pub fn shard_sql(&self, table: &str, key: impl Display, template: &str) -> String {
        self.engine().shard_sql(table, key, template)
    }

    /// All placements of a table on primaries, in the order of the shards, as the coordinator's
    /// catalog has them.
    pub fn placements(&self, table: &str) -> Result<Vec<Placement>> {
        let coordinator = self.coordinator();
        let rows = coordinator.query(&format!(
            "SELECT s.shardid, n.nodeport, ns.nspname, c.relname \
             FROM pg_catalog.pg_dist_shard s \
             JOIN pg_catalog.pg_dist_placement p ON p.shardid = s.shardid \
             JOIN pg_catalog.pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary' \
             JOIN pg_catalog.pg_class c ON c.oid = s.logicalrelid \
             JOIN pg_catalog.pg_namespace ns ON ns.oid = c.relnamespace \
             WHERE s.logicalrelid = {}::regclass ORDER BY s.shardid, n.nodeport",
            quote_text(table)
        ))?;
        if rows.is_empty() {
            // An empty answer would make every check on the table pass.
            return Err(coordinator.error(format!("has no shard of {table} in its catalog")));
        }
        let broken = || coordinator.error(format!("has a broken catalog entry for {table}"));
        rows.into_iter()
            .map(|row| {
                let [Some(shardid), Some(port), Some(schema), Some(name)] =
                    <[Option<String>; 4]>::try_from(row).map_err(|_| broken())?
                else {
                    return Err(broken());
                };
                let node = (0..self.nodes().len())
                    .find(|node| self.catalog_port(*node).to_string() == port)
                    .ok_or_else(|| {
                        coordinator.error(format!(
                            "has shard {shardid} of {table} on port {port}, where no node is"
                        ))
                    })?;
                Ok(Placement {
                    table: format!(
                        "{}.{}",
                        quote_name(&schema),
                        quote_name(&format!("{name}_{shardid}"))
                    ),
                    shardid: shardid.parse().map_err(|_| broken())?,
                    node,
                })
            })
            .collect()
    }

    /// Reads every placement of a table on its own node, past any planner. In the template `%s`
    /// stands for the shard's table.
    pub fn read_all_shards(&self, table: &str, template: &str) -> Result<Vec<ShardRow>> {
        self.read_all_shards_as(table, template, |_| "BEGIN".to_owned())
    }

    /// The same under a snapshot of each node, by its number, that somebody has exported there.
    pub fn read_all_shards_under(
        &self,
        snapshots: &[String],
        table: &str,
        template: &str,
    ) -> Result<Vec<ShardRow>> {
        self.read_all_shards_as(table, template, |node| {
            let snapshot = quote_text(&snapshots[node]);
            format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT {snapshot}")
        })
    }

    /// On each node in a transaction that begins so.
    fn read_all_shards_as(
        &self,
        table: &str,
        template: &str,
        begin: impl Fn(usize) -> String,
    ) -> Result<Vec<ShardRow>> {
        let placements = self.placements(table)?;
        let mut found = Vec::new();
        for node in 0..self.nodes().len() {
            let mut here = placements.iter().filter(|placement| placement.node == node).peekable();
            if here.peek().is_none() {
                continue;
            }
            let params = self.node(node).connect_params();
            let mut client = params.connect()?;
            let begin = begin(node);
            client.batch_execute(&begin).map_err(|error| params.sql_error(&begin, &error))?;
            for placement in here {
                let sql = template.replace(PLACEHOLDER, &placement.table);
                let rows = text_rows(&mut client, &sql)
                    .map_err(|error| params.sql_error(&shorten(&sql), &error))?;
                found.extend(rows.into_iter().map(|values| ShardRow {
                    shardid: placement.shardid,
                    node,
                    values,
                }));
            }
        }
        Ok(found)
    }
}

/// A text literal, whatever is in it and whatever `standard_conforming_strings` is.
pub(crate) fn quote_text(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', r"\\"))
    } else {
        format!("'{quoted}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "UPDATE %s SET note = 'it''s' WHERE id = 7";

    #[test]
    fn citus_gets_the_plain_statement() {
        assert_eq!(
            Engine::Citus.shard_sql("accounts", 7, TEMPLATE),
            "UPDATE accounts SET note = 'it''s' WHERE id = 7"
        );
    }

    #[test]
    fn the_embedded_engine_gets_a_call_with_everything_quoted() {
        assert_eq!(
            Engine::Embedded.shard_sql("accounts", 7, TEMPLATE),
            "SELECT pg_dist_execute('accounts'::regclass, '7', \
             'UPDATE %s SET note = ''it''''s'' WHERE id = 7')"
        );
    }

    #[test]
    fn backslashes_survive() {
        assert_eq!(quote_text(r"a\b'c"), r"E'a\\b''c'");
    }
}
