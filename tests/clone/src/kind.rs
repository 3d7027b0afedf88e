//! The ways in which clients write, one kind of writer each. Every turn of a writer has a number of its own, `op`,
//! which stands in all rows that the turn writes: so each acknowledged turn can be looked for afterwards.

use test_cluster::Engine;

/// What a prepared INSERT is prepared from.
pub const PREPARED: &str = "INSERT INTO writes (key, op, part) VALUES ($1, $2, 0)";
/// How many keys a turn over many shards writes; `seeds` has more.
const KEYS: i64 = 8;
/// The keys of `seeds`.
pub const SEEDS: i64 = 64;
/// Schemas that are tenants.
pub const TENANTS: i64 = 4;
/// For how long a slow transaction does nothing, in seconds.
const SLOW: &str = "0.2";

/// A kind of writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// INSERT of one row.
    Insert,
    /// The same, prepared once in a session.
    Prepared,
    /// One statement for rows in many shards.
    MultiRow,
    /// COPY into many shards.
    Copy,
    /// MERGE into one shard: Citus takes no lock on the shard's metadata for it.
    Merge,
    /// INSERT .. SELECT from and to the same shards.
    SelectColocated,
    /// INSERT .. SELECT with another key, which moves rows between workers.
    SelectRepartitioned,
    /// INSERT .. SELECT through the node that was asked.
    SelectPulled,
    /// A transaction that writes to two reference tables.
    Reference,
    /// INSERT into a table of a schema that is a tenant.
    Tenant,
    /// A function that Citus runs where its argument's shard is.
    Delegated,
    /// UPDATE of a row in every shard.
    AllShards,
    /// A transaction that goes back to a shard after a pause, on the connection that it has.
    Slow,
    /// INSERT into two partitions.
    Partitioned,
    /// A DO block with two INSERTs.
    Block,
    /// INSERT that draws from two sequences.
    Drawn,
    /// INSERT .. ON CONFLICT.
    Upsert,
    /// Two INSERTs in WITH.
    With,
    /// One statement for rows in many shards, in a transaction that takes them one after the other.
    Sequential,
    /// A transaction that takes back a part of itself.
    Savepoint,
    /// A transaction that reads by a cursor while it writes.
    Cursor,
    /// A transaction that writes to two shards of which there are two copies each.
    Copies,
    /// INSERT into shards with a trigger that writes a second row there.
    Triggered,
}

/// Where the rows of a kind are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Most kinds' table, spread by `key`.
    Writes,
    /// The target of MERGE.
    Merged,
    /// Two partitions.
    Events,
    /// `id` and `number` come from sequences.
    Drawn,
    /// A table in each tenant's schema.
    Notes,
    /// A reference table, a row per turn.
    Entries,
    /// One row per writer and key, which counts turns.
    Counters,
    /// Two copies of each shard.
    Copied,
    /// Its shards have a trigger.
    Fired,
}

impl Table {
    /// The names of its tables in the catalog.
    pub fn names(self) -> Vec<String> {
        let one = match self {
            Table::Writes => "writes",
            Table::Merged => "merged",
            Table::Events => return vec!["events_early".into(), "events_late".into()],
            Table::Drawn => "drawn",
            Table::Notes => {
                return (1..=TENANTS).map(|tenant| format!("tenant_{tenant}.notes")).collect();
            }
            Table::Entries => "ref_entries",
            Table::Counters => "counters",
            Table::Copied => "copied",
            Table::Fired => "fired",
        };
        vec![one.to_owned()]
    }
}

/// What a writer says to its server.
#[derive(Debug)]
pub enum Say {
    /// Statements as text.
    Sql(String),
    /// COPY FROM STDIN and its rows.
    Copy(&'static str, String),
    /// The prepared INSERT.
    Prepared { key: i64, op: i64 },
}

impl Kind {
    /// All that an engine has.
    pub fn all(engine: Engine) -> &'static [Kind] {
        use Kind::*;
        match engine {
            Engine::Citus => &[
                Insert,
                Prepared,
                MultiRow,
                Copy,
                Merge,
                SelectColocated,
                SelectRepartitioned,
                SelectPulled,
                Reference,
                Tenant,
                Delegated,
                AllShards,
                Slow,
                Partitioned,
                Block,
                Drawn,
            ],
            // It has no planner: commands for one shard or for all of them.
            Engine::Embedded => &[Insert, Prepared, MultiRow, AllShards, Slow, Block],
        }
    }

    /// Those that are tried apart from the others, which are enough for a machine: Citus alone has them.
    pub fn more() -> &'static [Kind] {
        use Kind::*;
        &[Upsert, With, Sequential, Savepoint, Cursor, Copies, Triggered]
    }

    /// Where its rows are.
    pub fn table(self) -> Table {
        match self {
            Kind::Merge | Kind::Upsert => Table::Merged,
            Kind::Copies => Table::Copied,
            Kind::Triggered => Table::Fired,
            Kind::Reference => Table::Entries,
            Kind::Tenant => Table::Notes,
            Kind::AllShards => Table::Counters,
            Kind::Partitioned => Table::Events,
            Kind::Drawn => Table::Drawn,
            Kind::Insert
            | Kind::Prepared
            | Kind::MultiRow
            | Kind::Copy
            | Kind::SelectColocated
            | Kind::SelectRepartitioned
            | Kind::SelectPulled
            | Kind::Delegated
            | Kind::Slow
            | Kind::Block
            | Kind::With
            | Kind::Sequential
            | Kind::Savepoint
            | Kind::Cursor => Table::Writes,
        }
    }

    /// How many rows a turn leaves. Those that count in rows of their own leave none.
    pub fn rows(self) -> u64 {
        match self {
            Kind::Insert
            | Kind::Prepared
            | Kind::Merge
            | Kind::Reference
            | Kind::Tenant
            | Kind::Delegated
            | Kind::Drawn
            | Kind::Upsert => 1,
            Kind::Partitioned
            | Kind::Block
            | Kind::With
            | Kind::Savepoint
            | Kind::Cursor
            | Kind::Triggered => 2,
            Kind::Slow => 3,
            // Two rows, and two copies of each.
            Kind::Copies => 4,
            Kind::MultiRow
            | Kind::Sequential
            | Kind::Copy
            | Kind::SelectColocated
            | Kind::SelectRepartitioned
            | Kind::SelectPulled => KEYS.unsigned_abs(),
            Kind::AllShards => 0,
        }
    }

    /// The statements of one turn of a writer, in a transaction where they say so.
    pub fn turn(self, engine: Engine, writer: i64, op: i64) -> Vec<Say> {
        match engine {
            Engine::Citus => self.turn_on_citus(writer, op),
            Engine::Embedded => self.turn_on_embedded(writer, op),
        }
    }

    fn turn_on_citus(self, writer: i64, op: i64) -> Vec<Say> {
        let (key, other) = (any_key(), any_key());
        let insert = |key: i64, part: u8| {
            format!("INSERT INTO writes (key, op, part) VALUES ({key}, {op}, {part})")
        };
        let statements = match self {
            Kind::Insert => vec![insert(key, 0)],
            Kind::Prepared => return vec![Say::Prepared { key, op }],
            Kind::MultiRow => {
                let rows: Vec<String> =
                    (0..KEYS).map(|part| format!("({}, {op}, {part})", any_key())).collect();
                vec![format!("INSERT INTO writes (key, op, part) VALUES {}", rows.join(", "))]
            }
            Kind::Copy => {
                let rows: String =
                    (0..KEYS).map(|part| format!("{}\t{op}\t{part}\n", any_key())).collect();
                return vec![Say::Copy("COPY writes (key, op, part) FROM STDIN", rows)];
            }
            Kind::Merge => {
                let seed = key % SEEDS;
                vec![format!(
                    "MERGE INTO merged m USING (SELECT key FROM seeds WHERE key = {seed}) s \
                     ON m.key = s.key AND m.key = {seed} AND m.op = {op} \
                     WHEN NOT MATCHED THEN INSERT (key, op) VALUES (s.key, {op})"
                )]
            }
            Kind::SelectColocated => vec![format!(
                "INSERT INTO writes (key, op, part) SELECT key, {op}, 0 FROM seeds WHERE key < {KEYS}"
            )],
            Kind::SelectRepartitioned => vec![format!(
                "INSERT INTO writes (key, op, part) \
                 SELECT key + {key}, {op}, 0 FROM seeds WHERE key < {KEYS}"
            )],
            Kind::SelectPulled => vec![format!(
                "INSERT INTO writes (key, op, part) \
                 SELECT key, {op}, 0 FROM seeds ORDER BY key LIMIT {KEYS}"
            )],
            Kind::Reference => transaction([
                format!("INSERT INTO ref_entries (op) VALUES ({op})"),
                format!("UPDATE ref_sums SET n = n + 1 WHERE writer = {writer}"),
            ]),
            Kind::Tenant => {
                let tenant = 1 + key % TENANTS;
                vec![format!("INSERT INTO tenant_{tenant}.notes (op) VALUES ({op})")]
            }
            Kind::Delegated => vec![format!("SELECT put({key}, {op})")],
            Kind::AllShards => {
                vec![format!("UPDATE counters SET n = n + 1 WHERE writer = {writer}")]
            }
            Kind::Slow => slow([insert(key, 0), insert(key, 1), insert(other, 2)]),
            Kind::Partitioned => vec![format!(
                "INSERT INTO events (key, op, day) \
                 VALUES ({key}, {op}, '2026-01-15'), ({key}, {op}, '2026-02-15')"
            )],
            Kind::Block => {
                vec![format!("DO $do$ BEGIN {}; {}; END $do$", insert(key, 0), insert(other, 1))]
            }
            Kind::Drawn => vec![format!("INSERT INTO drawn (key, op) VALUES ({key}, {op})")],
            Kind::Upsert => vec![format!(
                "INSERT INTO merged (key, op) VALUES ({key}, {op}) \
                 ON CONFLICT (key, op) DO UPDATE SET op = excluded.op"
            )],
            Kind::With => vec![format!(
                "WITH one AS ({} RETURNING op), two AS ({} RETURNING op) SELECT count(*) FROM one, two",
                insert(key, 0),
                insert(other, 1)
            )],
            Kind::Sequential => transaction([
                String::from("SET LOCAL citus.multi_shard_modify_mode = 'sequential'"),
                format!(
                    "INSERT INTO writes (key, op, part) \
                     SELECT key + {key}, {op}, 0 FROM generate_series(1, {KEYS}) AS key"
                ),
            ]),
            Kind::Savepoint => transaction([
                insert(key, 0),
                String::from("SAVEPOINT s"),
                insert(other, 1),
                String::from("ROLLBACK TO SAVEPOINT s"),
                insert(any_key(), 2),
            ]),
            Kind::Cursor => transaction([
                String::from("DECLARE c CURSOR FOR SELECT key FROM seeds ORDER BY key"),
                String::from("FETCH 3 FROM c"),
                insert(key, 0),
                String::from("FETCH 3 FROM c"),
                insert(other, 1),
            ]),
            Kind::Copies => transaction(
                [key, other]
                    .map(|key| format!("INSERT INTO copied (key, op) VALUES ({key}, {op})")),
            ),
            Kind::Triggered => {
                vec![format!("INSERT INTO fired (key, op, part) VALUES ({key}, {op}, 0)")]
            }
        };
        statements.into_iter().map(Say::Sql).collect()
    }

    fn turn_on_embedded(self, writer: i64, op: i64) -> Vec<Say> {
        let (key, other) = (any_key(), any_key());
        let insert = |key: i64, part: i64| {
            Engine::Embedded.shard_sql(
                "writes",
                key,
                &format!("INSERT INTO %s (key, op, part) VALUES ({key}, {op}, {part})"),
            )
        };
        let in_block = |key, part| insert(key, part).replacen("SELECT", "PERFORM", 1);
        let statements = match self {
            Kind::Prepared => return vec![Say::Prepared { key, op }],
            Kind::MultiRow => {
                let calls: Vec<String> = (0..KEYS)
                    .map(|part| insert(any_key(), part).replacen("SELECT ", "", 1))
                    .collect();
                vec![format!("SELECT {}", calls.join(", "))]
            }
            Kind::AllShards => vec![format!(
                "SELECT pg_dist_execute_all('counters', 'UPDATE %s SET n = n + 1 WHERE writer = {writer}')"
            )],
            Kind::Slow => slow([insert(key, 0), insert(key, 1), insert(other, 2)]),
            Kind::Block => {
                vec![format!(
                    "DO $do$ BEGIN {}; {}; END $do$",
                    in_block(key, 0),
                    in_block(other, 1)
                )]
            }
            Kind::Insert
            | Kind::Copy
            | Kind::Merge
            | Kind::SelectColocated
            | Kind::SelectRepartitioned
            | Kind::SelectPulled
            | Kind::Reference
            | Kind::Tenant
            | Kind::Delegated
            | Kind::Partitioned
            | Kind::Drawn
            | Kind::Upsert
            | Kind::With
            | Kind::Sequential
            | Kind::Savepoint
            | Kind::Cursor
            | Kind::Copies
            | Kind::Triggered => vec![insert(key, 0)],
        };
        statements.into_iter().map(Say::Sql).collect()
    }
}

/// A key in any shard.
fn any_key() -> i64 {
    fastrand::i64(0..1_000_000)
}

fn transaction(statements: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut all = vec![String::from("BEGIN")];
    all.extend(statements);
    all.push(String::from("COMMIT"));
    all
}

/// A pause after the first statement.
fn slow([first, second, third]: [String; 3]) -> Vec<String> {
    // wait: the pause of a client who thinks, which is what this kind of writer is.
    let pause = format!("SELECT pg_sleep({SLOW})"); // wait: the same
    transaction([first, pause, second, third])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_says_something_of_its_own() {
        for engine in [Engine::Embedded, Engine::Citus] {
            let mut firsts: Vec<String> = Kind::all(engine)
                .iter()
                .map(|kind| format!("{kind:?}: {:?}", kind.turn(engine, 1, 2)))
                .collect();
            let count = firsts.len();
            firsts.sort();
            firsts.dedup();
            assert_eq!(firsts.len(), count);
        }
    }

    #[test]
    fn transactions_end_with_a_commit() {
        for engine in [Engine::Embedded, Engine::Citus] {
            for kind in Kind::all(engine) {
                let turn = kind.turn(engine, 1, 2);
                let is_sql = |say: Option<&Say>, text: &str| matches!(say, Some(Say::Sql(sql)) if sql == text);
                assert_eq!(
                    is_sql(turn.first(), "BEGIN"),
                    is_sql(turn.last(), "COMMIT"),
                    "{kind:?}"
                );
            }
        }
    }
}
