//! The tables that the writers write to.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use test_cluster::{Bank, Cluster, Engine, Result};

use crate::kind::{Kind, SEEDS, TENANTS, Table};

/// Few enough that an audit is quick, and several on each worker.
const SHARDS: u32 = 8;
const ACCOUNTS: u32 = 60;
const OPENING_BALANCE: i64 = 1_000;

/// The tables of a cluster, with the bank's among them.
pub struct Tables {
    engine: Engine,
    /// Whether there are those of [`Kind::more`].
    has_more: bool,
    /// Transfers between accounts on different nodes.
    pub bank: Bank,
    /// Numbers the writers of all loads.
    next_writer: Arc<AtomicI64>,
}

impl Tables {
    /// Creates and fills them.
    pub fn create(cluster: &Cluster) -> Result<Tables> {
        let engine = cluster.engine();
        cluster.create_distributed(
            "CREATE TABLE writes (key bigint NOT NULL, op bigint NOT NULL, part int NOT NULL)",
            "writes",
            "key",
            SHARDS,
        )?;
        cluster.create_distributed(
            "CREATE TABLE counters (key bigint NOT NULL, writer bigint NOT NULL, \
             n bigint NOT NULL DEFAULT 0, PRIMARY KEY (key, writer))",
            "counters",
            "key",
            SHARDS,
        )?;
        if engine == Engine::Citus {
            create_what_only_citus_has(cluster)?;
        }
        let bank = Bank::create(cluster, ACCOUNTS, OPENING_BALANCE)?;
        Ok(Tables { engine, has_more: false, bank, next_writer: Arc::new(AtomicI64::new(1)) })
    }

    /// Creates those of [`Kind::more`], on Citus with `citus.enable_unsafe_triggers`.
    pub fn create_more(&mut self, cluster: &Cluster) -> Result<()> {
        self.has_more = true;
        [
            "CREATE TABLE copied (key bigint NOT NULL, op bigint NOT NULL)",
            "SET citus.shard_replication_factor = 2; \
             SELECT create_distributed_table('copied', 'key', shard_count := 8)",
            "CREATE TABLE fired (key bigint NOT NULL, op bigint NOT NULL, part int NOT NULL)",
            "SELECT create_distributed_table('fired', 'key', colocate_with := 'writes')",
            "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF NEW.part = 0 THEN \
                     EXECUTE format('INSERT INTO %I.%I VALUES ($1, $2, 1)', TG_TABLE_SCHEMA, TG_TABLE_NAME) \
                         USING NEW.key, NEW.op; \
                 END IF; \
                 RETURN NULL; \
             END $$",
            "SELECT create_distributed_function('fire()')",
            "CREATE TRIGGER fire AFTER INSERT ON fired FOR EACH ROW EXECUTE FUNCTION fire()",
        ]
        .into_iter()
        .try_for_each(|statement| cluster.coordinator().execute(statement))
    }

    /// The engine that they are on.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// All tables that any kind of this engine writes to.
    pub fn all(&self) -> Vec<Table> {
        let more = if self.has_more { Kind::more() } else { &[] };
        let kinds = Kind::all(self.engine).iter().chain(more);
        let mut all: Vec<Table> = kinds.map(|kind| kind.table()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A number for a new writer, and the rows that it counts in.
    pub fn new_writer(&self, cluster: &Cluster, kind: Kind) -> Result<i64> {
        let writer = self.next_writer.fetch_add(1, Ordering::Relaxed);
        let coordinator = cluster.coordinator();
        match (kind, self.engine) {
            (Kind::AllShards, Engine::Citus) => coordinator.execute(&format!(
                "INSERT INTO counters (key, writer) \
                 SELECT key, {writer} FROM generate_series(1, {SEEDS}) key"
            ))?,
            (Kind::AllShards, Engine::Embedded) => {
                let inserts: String = (1..=SEEDS)
                    .map(|key| {
                        let insert =
                            format!("INSERT INTO %s (key, writer) VALUES ({key}, {writer})");
                        cluster.shard_sql("counters", key, &insert) + ";"
                    })
                    .collect();
                coordinator.execute(&format!("BEGIN; {inserts} COMMIT"))?;
            }
            (Kind::Reference, _) => coordinator
                .execute(&format!("INSERT INTO ref_sums (writer, n) VALUES ({writer}, 0)"))?,
            _ => {}
        }
        Ok(writer)
    }
}

/// Each in a statement of its own, as a client's.
fn create_what_only_citus_has(cluster: &Cluster) -> Result<()> {
    let mut statements: Vec<String> = [
        "CREATE TABLE seeds (key bigint PRIMARY KEY)",
        "SELECT create_distributed_table('seeds', 'key', colocate_with := 'writes')",
        "CREATE TABLE merged (key bigint NOT NULL, op bigint NOT NULL, PRIMARY KEY (key, op))",
        "SELECT create_distributed_table('merged', 'key', colocate_with := 'writes')",
        "CREATE TABLE ref_entries (op bigint PRIMARY KEY)",
        "SELECT create_reference_table('ref_entries')",
        "CREATE TABLE ref_sums (writer bigint PRIMARY KEY, n bigint NOT NULL)",
        "SELECT create_reference_table('ref_sums')",
        "CREATE TABLE events (key bigint NOT NULL, op bigint NOT NULL, day date NOT NULL) \
         PARTITION BY RANGE (day)",
        "CREATE TABLE events_early PARTITION OF events \
         FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "CREATE TABLE events_late PARTITION OF events \
         FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        // A colocation group of their own.
        "SELECT create_distributed_table('events', 'key', shard_count := 4, colocate_with := 'none')",
        "CREATE TABLE drawn (key bigint NOT NULL, op bigint NOT NULL, id bigserial, \
         number bigint GENERATED BY DEFAULT AS IDENTITY)",
        "SELECT create_distributed_table('drawn', 'key', colocate_with := 'writes')",
        "CREATE FUNCTION put(k bigint, o bigint) RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN INSERT INTO public.writes (key, op, part) VALUES (k, o, 0); END $$",
        "SELECT create_distributed_function('put(bigint, bigint)', 'k', colocate_with := 'writes')",
    ]
    .map(str::to_owned)
    .into();
    statements.push(format!("INSERT INTO seeds SELECT generate_series(0, {})", SEEDS - 1));
    // Before Citus 12 a schema is no tenant: there its table is distributed by itself.
    let setting =
        "SELECT count(*) FROM pg_settings WHERE name = 'citus.enable_schema_based_sharding'";
    let has_tenants = cluster.coordinator().query_value(setting)? != "0";
    for tenant in 1..=TENANTS {
        let sharding =
            if has_tenants { "SET citus.enable_schema_based_sharding = on; " } else { "" };
        statements.push(format!("{sharding}CREATE SCHEMA tenant_{tenant}"));
        statements.push(format!("CREATE TABLE tenant_{tenant}.notes (op bigint PRIMARY KEY)"));
        if !has_tenants {
            statements
                .push(format!("SELECT create_distributed_table('tenant_{tenant}.notes', 'op')"));
        }
    }
    statements.iter().try_for_each(|statement| cluster.coordinator().execute(statement))
}
