//! How long a clone split keeps writers waiting, beside a bare promotion of the same kind of clone and, where Citus has
//! one, its own split.
//!
//! What a writer notices: one session writes to one shard of the source after the other, through the coordinator, and the
//! longest of its statements during the call counts.  All three are done on the same cluster, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Engine, HOST, PATIENCE, Replica, Result};

use crate::figures::Table;

/// The node that is split.
const SOURCE: usize = 1;
/// Keys enough that every shard has some.
const KEYS: i64 = 64;

/// Splits as often as it says, on a cluster of its own each time: a split cannot be taken back.
pub fn measure(engine: Engine, rounds: usize, table: &mut Table) -> Result<()> {
    let (mut ours, mut calls, mut theirs, mut promotions) = (vec![], vec![], vec![], vec![]);
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
                let (held, call) = split(&mut cluster, "public")?;
                ours.push(held);
                calls.push(call);
            } else if has_own(&cluster)? {
                theirs.push(split(&mut cluster, "pg_catalog")?.0);
            }
        }
    }
    table.times("a clone's promotion alone", &promotions, "");
    table.times("split: longest wait of a writer", &ours, "p50 <= promotion + 100 ms");
    table.times("split: the call", &calls, "p50 <= 1 s");
    if !theirs.is_empty() {
        table.times("Citus' own split: longest wait of a writer", &theirs, "");
        let ratio =
            |(ours, theirs): (&Duration, &Duration)| ours.as_secs_f64() / theirs.as_secs_f64();
        let ratios = ours.iter().zip(&theirs).map(ratio).collect();
        table.ratios("split / Citus' own, longest wait", ratios, "p50 <= 0.33");
    }
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

/// The longest wait of a writer during a split, and how long the call took.
fn split(cluster: &mut Cluster, schema: &str) -> Result<(Duration, Duration)> {
    let replica = replica(cluster)?;
    let id = cluster.coordinator().query_value(&format!(
        "SELECT {schema}.citus_add_clone_node('{HOST}', {}, '{HOST}', {})",
        replica.catalog_port(),
        cluster.catalog_port(SOURCE)
    ))?;
    let longest = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let mut client = cluster.connect(0)?;
    let statements: Vec<String> = (1..=KEYS)
        .map(|key| {
            cluster.shard_sql("t", key, &format!("INSERT INTO %s (key, n) VALUES ({key}, 1)"))
        })
        .collect();
    let writer = {
        let (longest, over) = (Arc::clone(&longest), Arc::clone(&over));
        thread::spawn(move || {
            for statement in statements.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let begun = Instant::now();
                client.batch_execute(statement).expect("a write");
                longest.fetch_max(begun.elapsed().as_micros() as u64, Ordering::Relaxed);
            }
        })
    };
    let begun = Instant::now();
    cluster
        .coordinator()
        .execute(&format!("SELECT {schema}.citus_promote_clone_and_rebalance({id})"))?;
    let call = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    writer.join().expect("the writer");
    cluster.adopt(replica);
    Ok((Duration::from_micros(longest.load(Ordering::Relaxed)), call))
}
