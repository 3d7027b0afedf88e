//! Block mode `all`: a backup is one point in causal order, for writes of every kind.  The control is mode
//! `2pc`, which promises less: it breaks each of the invariants at least once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fence_tests::{
    BLOCK, Bank, Cluster, Engine, Load, PATIENCE, Result, Spread, UNBLOCK, call, left_behind,
    on_each_engine, refusal, wait_until, wait_until_free,
};

const ROUNDS: usize = 6;
const CONTROL_ROUNDS: usize = 4;
/// What each writer does between two copies of the control: what makes its damage certain.
const BETWEEN_COPIES: u64 = 40;

/// Three writers, each with an order that a reader of a copy must find kept.
struct Workload {
    spread: Spread,
    writers: Vec<(&'static str, Load)>,
}

/// What a restored cluster says of each of them.
#[derive(Debug)]
struct Found {
    /// B was written after A was acknowledged: it is never ahead.
    causal: [i64; 2],
    /// A row, and the sequence its number came from.
    numbered: [i64; 2],
    /// The coordinator's own table and one shard, written in one transaction.
    halves: [i64; 2],
}

impl Found {
    fn damage(&self) -> Vec<&'static str> {
        let [a, b] = self.causal;
        let [row, sequence] = self.numbered;
        let [local, shard] = self.halves;
        [("causal", b > a), ("numbered", row > sequence), ("halved", local != shard)]
            .into_iter()
            .filter_map(|(what, is_broken)| is_broken.then_some(what))
            .collect()
    }
}

impl Workload {
    fn start(cluster: &Cluster) -> Result<Self> {
        let spread = Spread::create(cluster)?;
        for table in ["numbered", "halved"] {
            let ddl = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, n bigint)");
            cluster.create_distributed(&ddl, table, "id", 1)?;
            cluster.coordinator().execute(&cluster.shard_sql(
                table,
                1,
                "INSERT INTO %s VALUES (1, 0)",
            ))?;
        }
        cluster.coordinator().execute(
            "CREATE TABLE at_home (n bigint); INSERT INTO at_home VALUES (0); CREATE SEQUENCE numbers",
        )?;
        let engine = cluster.engine();
        let set = move |table: &str, id: i64, value: &str| {
            engine.shard_sql(table, id, &format!("UPDATE %s SET n = {value} WHERE id = {id}"))
        };
        let [a, b] = spread.keys;
        let causal = Load::start(cluster, 0, move |turn| {
            let turn = turn.to_string();
            vec![set("spread", a, &turn), set("spread", b, &turn)]
        })?;
        // One statement to draw a number, another to write it where the shard is.
        let numbered = Load::start(cluster, 0, move |_| {
            let draw = "SELECT set_config('test.number', nextval('numbers')::text, false)";
            vec![draw.into(), number_row(engine)]
        })?;
        let halved = Load::start(cluster, 0, move |turn| {
            let turn = turn.to_string();
            vec![
                "BEGIN".into(),
                format!("UPDATE at_home SET n = {turn}"),
                set("halved", 1, &turn),
                "COMMIT".into(),
            ]
        })?;
        let writers = vec![("causal", causal), ("numbered", numbered), ("halved", halved)];
        Ok(Self { spread, writers })
    }

    fn wait_for_more(&self, which: &[&str], more: u64) -> Result<()> {
        let mut chosen = self.writers.iter().filter(|(what, _)| which.contains(what));
        chosen.try_for_each(|(_, writer)| writer.wait_for_more(more))
    }

    /// The order in which copies without protection show the most: what is written first is copied first.
    fn order(&self, cluster: &Cluster) -> Vec<usize> {
        let mut order: Vec<usize> = vec![0, self.spread.nodes[0]];
        order.extend(
            (0..cluster.nodes().len()).filter(|node| ![0, self.spread.nodes[0]].contains(node)),
        );
        order
    }

    fn copy(
        &self,
        cluster: &Cluster,
        round: &str,
        between: impl Fn() -> Result<()>,
    ) -> Result<Vec<PathBuf>> {
        let mut copies = vec![PathBuf::new(); cluster.nodes().len()];
        for (position, node) in self.order(cluster).into_iter().enumerate() {
            if position > 0 {
                between()?;
            }
            copies[node] = cluster.copy_target(round, node)?;
            cluster.node(node).copy_files(&copies[node])?;
        }
        Ok(copies)
    }

    fn look(&self, restored: &Cluster) -> Result<Found> {
        let one = |table: &str| -> Result<i64> {
            let rows = restored.read_all_shards(table, "SELECT n FROM %s")?;
            Ok(rows[0].values[0].as_deref().and_then(|text| text.parse().ok()).expect("a number"))
        };
        let home = |sql: &str| -> Result<i64> {
            Ok(restored.coordinator().query_value(sql)?.parse().expect("a number"))
        };
        Ok(Found {
            causal: self.spread.values(restored)?,
            numbered: [one("numbered")?, home("SELECT last_value FROM numbers")?],
            halves: [home("SELECT n FROM at_home")?, one("halved")?],
        })
    }
}

/// Writes the number drawn before.
fn number_row(engine: Engine) -> String {
    match engine {
        Engine::Citus => "DO $do$ BEGIN EXECUTE format('UPDATE numbered SET n = %s WHERE id = 1', \
             current_setting('test.number')); END $do$"
            .into(),
        Engine::Embedded => "SELECT pg_dist_execute('numbered'::regclass, '1', \
             'UPDATE %s SET n = ' || current_setting('test.number') || ' WHERE id = 1')"
            .into(),
    }
}

#[test]
fn every_order_is_kept_and_mode_2pc_keeps_none() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let work = Workload::start(&cluster)?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.block_mode = 'all'").expect("a setting");
        for round in 0..ROUNDS {
            work.wait_for_more(&["causal", "numbered", "halved"], 20)?;
            assert!(call(&mut client, BLOCK));
            let copies = work.copy(&cluster, &format!("all{round}"), || Ok(()))?;
            assert!(call(&mut client, UNBLOCK), "the block did not last");
            let found = work.look(&cluster.restore(&copies)?)?;
            assert!(found.damage().is_empty(), "round {round}: {found:?}");
        }

        client.batch_execute("SET citus_fence.block_mode = '2pc'").expect("a setting");
        let mut missing = vec!["causal", "numbered"];
        // The embedded engine writes its own node's part in two phases with the other, and so it waits.
        if engine == Engine::Citus {
            missing.push("halved");
        }
        let writes_on = missing.clone();
        for round in 0..CONTROL_ROUNDS {
            assert!(call(&mut client, BLOCK));
            let between = || work.wait_for_more(&writes_on, BETWEEN_COPIES);
            let copies = work.copy(&cluster, &format!("2pc{round}"), between)?;
            assert!(call(&mut client, UNBLOCK));
            let damage = work.look(&cluster.restore(&copies)?)?.damage();
            missing.retain(|what| !damage.contains(what));
            if missing.is_empty() {
                break;
            }
        }
        assert!(missing.is_empty(), "mode 2pc does not break {missing:?}: this test shows nothing");

        for (what, writer) in work.writers {
            let outcome = writer.stop();
            assert!(outcome.errors.is_empty(), "{what}: {:?}", outcome.errors);
        }
        for node in cluster.nodes() {
            let ungated = node.query_value("SELECT ungated_commits FROM citus_fence.stat_gate")?;
            assert_eq!(ungated, "0", "{} has commits that passed no gate", node.name());
        }
        Ok(())
    });
}

/// Every write waits, on every node and of every kind; none gets an error; reads go on.
#[test]
fn all_writers_wait_and_finish() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        cluster.execute_everywhere("CREATE TABLE own (n int)")?;
        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.block_mode = 'all'").expect("a setting");
        assert!(call(&mut client, BLOCK));
        let mut writes = Vec::new();
        for node in 0..cluster.nodes().len() {
            for statement in [
                spread.update(&cluster, 0),
                spread.update(&cluster, 1),
                "INSERT INTO own VALUES (1)".to_owned(),
                format!("CREATE ROLE made_on_{node}"),
                "NOTIFY news".to_owned(),
            ] {
                // Citus lets nobody but the coordinator create roles for all.
                if statement.starts_with("CREATE ROLE") && node > 0 {
                    continue;
                }
                writes.push((
                    statement.clone(),
                    fence_tests::in_background(&cluster, node, &[statement]),
                ));
            }
        }
        let waiting = "SELECT count(*) FROM citus_backup_block_waiters()";
        let expected = writes.len() as i64;
        wait_until("all writes wait", PATIENCE, || {
            let count: i64 = client.query_one(waiting, &[]).expect("waiters").get(0);
            (count >= expected).then_some(())
        })?;
        assert!(writes.iter().all(|(_, thread)| !thread.is_finished()));
        for number in 0..cluster.nodes().len() {
            let mut reader = cluster.connect(number)?;
            reader.batch_execute("SET statement_timeout = '20s'").expect("a setting");
            for read in Spread::reads(engine) {
                reader.batch_execute(read).unwrap_or_else(|error| {
                    panic!("{read}: {}", fence_tests::words(&error));
                });
            }
        }
        for node in cluster.nodes() {
            assert_eq!(node.query_value("SELECT count(*) FROM own")?, "0");
        }
        assert!(call(&mut client, UNBLOCK));
        for (statement, thread) in writes {
            thread.join().expect("a thread").unwrap_or_else(|error| {
                panic!("{statement}: {}", fence_tests::words(&error));
            });
        }
        assert_eq!(spread.values(&cluster)?, [3, 3]);
        wait_until_free(&cluster, Duration::from_secs(1))
    });
}

#[test]
fn a_node_without_the_preload_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).without_fence_preload(2).build()?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK), "mode 2pc needs no preload there");
        assert!(call(&mut client, UNBLOCK));
        client.batch_execute("SET citus_fence.block_mode = 'all'").expect("a setting");
        let error = refusal(&mut client, BLOCK);
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(error.message().contains(&cluster.node(2).port().to_string()), "{error:?}");
        wait_until_free(&cluster, Duration::from_secs(2))
    });
}

const CYCLE_ROUNDS: usize = 200;
/// Longest that one attempt keeps a gate half closed.
const ATTEMPT: Duration = Duration::from_secs(1);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// Writers over several nodes, readers that turn writers and DDL can form a cycle with a gate that is
/// closed on some nodes, which no search for deadlocks sees.  It ends with the attempt.
#[test]
fn no_cycle_lasts_longer_than_an_attempt() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let bank = Bank::create(&cluster, 60, 1_000)?;
        let spread = Spread::create(&cluster)?;
        let writers = bank.start_writers(&cluster, 1)?;
        let mut loads = Vec::new();
        for node in 0..cluster.nodes().len() {
            let [first, second] = spread.keys;
            let shard = move |id: i64, sql: &str| engine.shard_sql("spread", id, sql);
            loads.push(Load::start(&cluster, node, move |_| {
                let read = match engine {
                    Engine::Citus => "SELECT count(*) FROM spread".to_owned(),
                    Engine::Embedded => "SELECT count(*) FROM pg_class".to_owned(),
                };
                let update =
                    |id: i64| shard(id, &format!("UPDATE %s SET n = n + 1 WHERE id = {id}"));
                vec!["BEGIN".into(), read, update(first), update(second), "COMMIT".into()]
            })?);
        }
        loads.push(Load::start(&cluster, 0, move |turn| {
            let ddl = format!("CREATE TABLE made_{turn} (id bigint PRIMARY KEY)");
            let spread = match engine {
                Engine::Citus => format!("SELECT create_distributed_table('made_{turn}', 'id')"),
                Engine::Embedded => format!("ALTER TABLE made_{turn} ADD COLUMN n int"),
            };
            vec![ddl, spread, format!("DROP TABLE made_{turn}")]
        })?);

        let mut client = cluster.connect(0)?;
        client.batch_execute("SET citus_fence.block_mode = 'all'").expect("a setting");
        let mut held = Duration::ZERO;
        for _ in 0..CYCLE_ROUNDS {
            assert!(call(&mut client, BLOCK));
            let active = Instant::now();
            assert!(call(&mut client, UNBLOCK));
            held = held.max(active.elapsed());
        }
        let summary = writers.stop();
        assert!(summary.errors.is_empty(), "{:?}", summary.errors);
        let bound = ATTEMPT + held + SLACK;
        for load in loads {
            let outcome = load.stop();
            assert!(outcome.longest < bound, "a statement took {:?}", outcome.longest);
            // What Citus and the server end as deadlocks of the clients' own making, they may.
            let strange: Vec<&String> =
                outcome.errors.iter().filter(|error| !error.starts_with("40P01")).collect();
            assert!(strange.is_empty(), "{strange:?}");
            assert!(outcome.turns > 0);
        }
        for node in cluster.nodes() {
            assert_eq!(left_behind(node)?, 0);
        }
        Ok(())
    });
}
