//! How long a clone split keeps writers waiting, beside a bare promotion of the same kind of clone and, where Citus has
//! one, its own split; whether writers of shards that stay notice anything; and what becomes of it with many shards.
//!
//! What a writer notices: one session writes to one moving shard of the source after the other, through the coordinator,
//! and the longest of its statements during the call counts.  A second one does so with the shards that stay.  All are
//! done on the same cluster, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Engine, HOST, PATIENCE, Replica, Result};

use crate::figures::Table;

/// The node that is split.
const SOURCE: usize = 1;
/// Keys enough that every shard has some.
const KEYS: i64 = 64;
/// How long is written before the call: longer than it takes.
const BEFORE: Duration = Duration::from_millis(1_500);
/// Shards of each of many tables.
const PER_TABLE: u32 = 1_000;
/// How the plans are made, so that they are known before.
const STRATEGY: &str = "by_shard_count";

/// What one split was like.
struct Split {
    /// The longest statement on shards that moved.
    held: Duration,
    call: Duration,
    /// The longest on shards that stayed, during the call and in as long a time just before.
    staying: (Duration, Duration),
    /// What the call told of its parts: until writers were held, until the clone had caught up, until they went on.
    parts: Option<[Duration; 3]>,
}

/// Splits as often as it says, on a cluster of its own each time: a split cannot be taken back.
pub fn measure(engine: Engine, rounds: usize, table: &mut Table) -> Result<()> {
    if rounds == 0 {
        return Ok(());
    }
    let (mut ours, mut theirs, mut promotions) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let mut cluster = Cluster::builder(engine).workers(2).build()?;
        cluster.create_distributed(
            "CREATE TABLE t (key bigint NOT NULL, n bigint)",
            "t",
            "key",
            8,
        )?;
        promotions.push(promotion(&cluster)?);
        // Which comes first has more shards to give.
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                ours.push(split(&mut cluster, "public")?);
            } else if has_own(&cluster)? {
                theirs.push(split(&mut cluster, "pg_catalog")?);
            }
        }
    }
    let held = |splits: &[Split]| splits.iter().map(|split| split.held).collect::<Vec<_>>();
    table.times("a clone's promotion alone", &promotions, "");
    let whole: Vec<Duration> =
        ours.iter().filter_map(|split| Some(split.parts.as_ref()?.iter().sum())).collect();
    table.times("split: writers held", &whole, "p50 <= promotion + 100 ms");
    for (part, what) in
        ["writers held, switch prepared", "clone caught up", "promoted, switched, released"]
            .iter()
            .enumerate()
    {
        let times: Vec<Duration> =
            ours.iter().filter_map(|split| Some(split.parts.as_ref()?[part])).collect();
        table.times(&format!("split: of it, {what}"), &times, "");
    }
    // With what comes after that: the first statement connects to the new node.
    table.times("split: longest statement of a writer", &held(&ours), "");
    let calls: Vec<Duration> = ours.iter().map(|split| split.call).collect();
    table.times("split: the call", &calls, "p50 <= 1 s");
    let staying: Vec<Duration> = ours.iter().map(|split| split.staying.0).collect();
    let before: Vec<Duration> = ours.iter().map(|split| split.staying.1).collect();
    table.times("shards that stay: longest statement in the call", &staying, "as before");
    table.times("shards that stay: the same just before", &before, "");
    if !theirs.is_empty() {
        table.times("Citus' own split: longest statement of a writer", &held(&theirs), "");
        let staying: Vec<Duration> = theirs.iter().map(|split| split.staying.0).collect();
        table.times("Citus' own split: longest statement on shards that stay", &staying, "");
        let ratio =
            |(ours, theirs): (&Split, &Split)| ours.held.as_secs_f64() / theirs.held.as_secs_f64();
        let ratios = ours.iter().zip(&theirs).map(ratio).collect();
        table.ratios("split / Citus' own, longest statement", ratios, "p50 <= 0.33");
    }
    Ok(())
}

/// The same once, with so many shards in the catalog.
pub fn measure_many(engine: Engine, shards: u32, table: &mut Table) -> Result<()> {
    let mut cluster = Cluster::builder(engine)
        .workers(2)
        .fsync(false)
        // What a server of so many tables needs for anything that locks them all.
        .setting("max_locks_per_transaction", "4096")
        .setting("log_min_duration_statement", "0")
        .build()?;
    for number in 0..shards.div_ceil(PER_TABLE) {
        let name = format!("many{number}");
        let create = format!("CREATE TABLE {name} (key bigint NOT NULL, n bigint)");
        cluster.create_distributed(&create, &name, "key", PER_TABLE.min(shards))?;
    }
    let replica = replica(&cluster)?;
    let id = register(&cluster, &replica, "public")?;
    let begun = Instant::now();
    let moving = moving(&cluster, &replica)?.len();
    let plan = begun.elapsed();
    let said = cluster.coordinator().log().len();
    let heard = Heard::call(&cluster, "public", &id)?;
    let log = cluster.coordinator().log();
    // Of all that was asked, what was asked under the locks: the list of shards without settings before it.
    let under = log[said..]
        .lines()
        .filter(|line| line.contains("AS lock_id") && line.contains("statement: SELECT s.shardid,"))
        .filter_map(|line| {
            let ms = line.split_once("duration: ")?.1.split_once(" ms")?.0;
            ms.parse::<f64>().ok()
        })
        .fold(0.0, f64::max);
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
    let what = format!("{shards} shards, of which {moving} move");
    table.note(&format!("{what}: the plan before the locks (<= 1 s)"), &ms(plan));
    table.note(
        &format!("{what}: the shards read under the locks (<= 100 ms)"),
        &format!("{under:.0} ms"),
    );
    if let Some([held, caught_up, switched]) = heard.parts {
        let parts = format!("{} + {} + {}", ms(held), ms(caught_up), ms(switched));
        table.note(&format!("{what}: held + caught up + promoted and switched"), &parts);
    }
    table.note(&format!("{what}: the call"), &ms(heard.took));
    cluster.adopt(replica);
    Ok(())
}

fn has_own(cluster: &Cluster) -> Result<bool> {
    let look = "SELECT to_regprocedure('pg_catalog.citus_promote_clone_and_rebalance(int, name, int)') IS NOT NULL";
    Ok(cluster.coordinator().query_value(look)? == "t")
}

fn replica(cluster: &Cluster) -> Result<Replica> {
    let replica = cluster.clone_of(SOURCE)?;
    cluster.wait_streaming(&replica, PATIENCE)?;
    cluster.wait_in_step(&replica, PATIENCE)?;
    Ok(replica)
}

fn register(cluster: &Cluster, replica: &Replica, schema: &str) -> Result<String> {
    cluster.coordinator().query_value(&format!(
        "SELECT {schema}.citus_add_clone_node('{HOST}', {}, '{HOST}', {})",
        replica.catalog_port(),
        cluster.catalog_port(SOURCE)
    ))
}

/// Which shards our split would move.
fn moving(cluster: &Cluster, replica: &Replica) -> Result<Vec<String>> {
    let plan = format!(
        "SELECT shardid FROM public.get_snapshot_based_node_split_plan('{HOST}', {}, '{HOST}', {}, '{STRATEGY}')
          WHERE placement_node = '{HOST}:{1}'",
        cluster.catalog_port(SOURCE),
        replica.catalog_port()
    );
    Ok(cluster.coordinator().query(&plan)?.into_iter().flatten().flatten().collect())
}

/// How long the server takes from being asked to being seen as promoted.
fn promotion(cluster: &Cluster) -> Result<Duration> {
    let replica = replica(cluster)?;
    let mut client = replica.server().connect_params().connect()?;
    let begun = Instant::now();
    client.batch_execute("SELECT pg_promote(false)").expect("a promotion");
    let is_in_recovery = |client: &mut test_cluster::postgres::Client| -> bool {
        client.query_one("SELECT pg_is_in_recovery()", &[]).expect("an answer").get(0)
    };
    while is_in_recovery(&mut client) {
        thread::yield_now();
    }
    Ok(begun.elapsed())
}

/// A call, and what it told of its parts.
struct Heard {
    took: Duration,
    parts: Option<[Duration; 3]>,
}

impl Heard {
    fn call(cluster: &Cluster, schema: &str, id: &str) -> Result<Heard> {
        let notices: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&notices);
        let mut config = cluster.coordinator().connect_params().config();
        config.notice_callback(move |notice| {
            heard.lock().expect("a list").push(notice.message().to_owned());
        });
        let mut client = config.connect(test_cluster::postgres::NoTls).expect("a connection");
        let begun = Instant::now();
        client
            .batch_execute(&format!(
                "SELECT {schema}.citus_promote_clone_and_rebalance({id}, '{STRATEGY}')"
            ))
            .expect("a split");
        let took = begun.elapsed();
        let notices = notices.lock().expect("a list");
        // "… after 22 ms (46 ms)", "… after 27 ms (5 ms)", "released: … (64 ms)".
        let number = |step: &str, before: &str| {
            let line = notices.iter().find(|line| line.starts_with(step))?;
            let text = line.rsplit_once(before)?.1;
            let ms: u64 = text.split(' ').next()?.parse().ok()?;
            Some(Duration::from_millis(ms))
        };
        let parts = || {
            let held = number("prepared:", "after ")?;
            let caught_up = number("caught_up:", "after ")?.saturating_sub(held);
            Some([held, caught_up, number("released:", "(")?])
        };
        Ok(Heard { took, parts: parts() })
    }
}

/// Writes, until it is told that it is over; each statement, when it was sent and how long it took.
fn write(
    cluster: &Cluster,
    keys: &[i64],
    over: &Arc<AtomicBool>,
) -> Result<JoinHandle<Vec<(Instant, Duration)>>> {
    let mut client = cluster.connect(0)?;
    let insert = |key: &i64| {
        cluster.shard_sql("t", *key, &format!("INSERT INTO %s (key, n) VALUES ({key}, 1)"))
    };
    let statements: Vec<String> = keys.iter().map(insert).collect();
    let over = Arc::clone(over);
    Ok(thread::spawn(move || {
        let mut beats = Vec::new();
        for statement in statements.iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let begun = Instant::now();
            client.batch_execute(statement).expect("a write");
            beats.push((begun, begun.elapsed()));
        }
        beats
    }))
}

/// The longest of those that were under way at some moment of a span.
fn longest(beats: &[(Instant, Duration)], from: Instant, to: Instant) -> Duration {
    let within = beats.iter().filter(|(sent, took)| *sent < to && *sent + *took > from);
    within.map(|(_, took)| *took).max().unwrap_or_default()
}

/// One split under two writers.
fn split(cluster: &mut Cluster, schema: &str) -> Result<Split> {
    let replica = replica(cluster)?;
    let id = register(cluster, &replica, schema)?;
    for key in 1..=KEYS {
        let insert = format!("INSERT INTO %s (key, n) VALUES ({key}, 0)");
        cluster.coordinator().execute(&cluster.shard_sql("t", key, &insert))?;
    }
    let placements = cluster.placements("t")?;
    let moves = match schema {
        // What Citus' own moves is seen afterwards, so all of the source's are taken to.
        "public" => moving(cluster, &replica)?,
        _ => {
            let of_source = placements.iter().filter(|place| place.node == SOURCE);
            of_source.map(|place| place.shardid.to_string()).collect()
        }
    };
    let (mut moving, mut staying) = (Vec::new(), Vec::new());
    for row in cluster.read_all_shards("t", "SELECT DISTINCT key FROM %s")? {
        let key: i64 = row.values[0].as_deref().and_then(|key| key.parse().ok()).expect("a key");
        match moves.contains(&row.shardid.to_string()) {
            true => moving.push(key),
            false => staying.push(key),
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    let movers = write(cluster, &moving, &over)?;
    let stayers = write(cluster, &staying, &over)?;
    thread::sleep(BEFORE);
    let begun = Instant::now();
    let heard = Heard::call(cluster, schema, &id)?;
    let ended = Instant::now();
    over.store(true, Ordering::Relaxed);
    let (movers, stayers) = (movers.join().expect("a writer"), stayers.join().expect("a writer"));
    cluster.adopt(replica);
    let call = ended - begun;
    Ok(Split {
        held: longest(&movers, begun, ended),
        call,
        staying: (longest(&stayers, begun, ended), longest(&stayers, begun - call, begun)),
        parts: heard.parts,
    })
}
