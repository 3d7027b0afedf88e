//! The split: a replica of a worker becomes a worker and takes half of its shards, while somebody writes to shards that
//! move and somebody to shards that stay, at every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use test_cluster::postgres::Client;
use test_cluster::{Cluster, HOST, PATIENCE, Replica, describe};

use crate::console::Console;
use crate::error::{DemoError, Result};
use crate::psql::{Answer, Session};
use crate::report::{milliseconds, plural};
use crate::split_picture::{Beat, Lane, SplitPicture, Step};

/// The worker that is split.
const SOURCE: usize = 1;
const SHARDS: u32 = 8;
/// Enough for several in each shard.
const KEYS: i64 = 200;
/// How long the writers are watched before and after the call.
const MARGIN: Duration = Duration::from_millis(600);
/// How long a writer thinks between two statements.
const THINKING: Duration = Duration::from_millis(2);
/// The number of a statement, so that each can be looked for: this many per writer at most.
const STATEMENTS: i64 = 1_000_000_000;

/// What came of it.
pub struct Split {
    /// To be drawn.
    pub picture: SplitPicture,
    /// Whether every acknowledged write is there exactly once.
    pub is_whole: bool,
}

/// What a writer did: each statement with its number, when it was sent and when answered; or why it stopped.
type Written = std::result::Result<Vec<(i64, Instant, Instant)>, String>;

/// A writer at work.
struct Writer {
    node: usize,
    moving: bool,
    thread: JoinHandle<Written>,
}

/// Splits the first worker; `subtitle` says what on.
pub fn play(console: &Console, cluster: &mut Cluster, subtitle: &str) -> Result<Split> {
    console.busy("a table to write to");
    cluster.create_distributed(
        "CREATE TABLE ticks (key bigint NOT NULL, op bigint NOT NULL)",
        "ticks",
        "key",
        SHARDS,
    )?;
    console.busy("pg_basebackup of a worker");
    let replica = cluster.clone_of(SOURCE)?;
    cluster.wait_streaming(&replica, PATIENCE)?;
    cluster.wait_in_step(&replica, PATIENCE)?;
    console.say(format!(
        "pg_basebackup -R of {}, started as {} :{}; it streams",
        cluster.node(SOURCE).name(),
        replica.server().name(),
        replica.server().port()
    ));
    let (moving, staying) = keys(cluster, &replica)?;
    let mut session = Session::open(cluster.coordinator(), cluster.database())?;
    let added = session.show(
        console,
        &format!(
            "SELECT public.citus_add_clone_node('{HOST}', {}, '{HOST}', {})",
            replica.catalog_port(),
            cluster.catalog_port(SOURCE)
        ),
    )?;
    let clone = added.rows.first().and_then(|row| row.first()?.clone()).unwrap_or_default();

    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let writers = start(cluster, &moving, &staying, &over)?;
    pause(MARGIN);
    let call =
        format!("SELECT public.citus_promote_clone_and_rebalance({clone}, 'by_shard_count')");
    let answer = session.show(console, &call);
    pause(MARGIN);
    over.store(true, Ordering::Relaxed);
    let ended = Instant::now();
    let mut acknowledged = Vec::new();
    let mut lanes = Vec::new();
    for writer in writers {
        let (node, moving) = (writer.node, writer.moving);
        let beats = writer.thread.join().unwrap_or_else(|_| Err("a writer panicked".into()));
        let beats = beats.map_err(|said| DemoError::Command { words: "a writer".into(), said })?;
        acknowledged.extend(beats.iter().map(|(op, ..)| *op));
        let beat = |(_, sent, answered): &(i64, Instant, Instant)| Beat {
            sent: sent.saturating_duration_since(began),
            took: *answered - *sent,
        };
        let node = cluster.node(node).name().to_owned();
        lanes.push(Lane { node, moving, beats: beats.iter().map(beat).collect() });
    }
    let answer = answer?;
    cluster.adopt(replica);
    session.show(
        console,
        "SELECT nodeid, groupid, nodeport, count(shardid) AS shards FROM pg_dist_node \
         LEFT JOIN pg_dist_placement USING (groupid) GROUP BY 1, 2, 3 ORDER BY 1",
    )?;
    let (lost, doubled) = audit(cluster, &acknowledged)?;
    let picture = SplitPicture {
        title: String::from("A worker is split while every node writes to it"),
        subtitle: subtitle.to_owned(),
        lanes,
        steps: steps(&answer, began),
        call: (answer.sent - began, answer.answered - began),
        length: ended - began,
        is_whole: lost == 0 && doubled == 0,
        verdict: format!(
            "{} acknowledged: {lost} lost, {doubled} doubled",
            plural(acknowledged.len(), "write", "writes")
        ),
    };
    console.say(&picture.verdict);
    for moving in [true, false] {
        let longest = picture.longest(moving).map_or_else(String::new, milliseconds);
        let whose = if moving { "that move" } else { "that stay" };
        console.say(format!("  writers of shards {whose}: the longest statement took {longest}"));
    }
    Ok(Split { is_whole: picture.is_whole, picture })
}

/// Keys of shards that will move, and of those that will not.
fn keys(cluster: &Cluster, replica: &Replica) -> Result<(Vec<i64>, Vec<i64>)> {
    // A row in every shard tells which key is where; they are gone before anything is counted.
    for key in 1..=KEYS {
        let insert = format!("INSERT INTO %s (key, op) VALUES ({key}, 0)");
        cluster.coordinator().execute(&cluster.shard_sql("ticks", key, &insert))?;
    }
    let plan = format!(
        "SELECT shardid FROM public.get_snapshot_based_node_split_plan('{HOST}', {}, '{HOST}', {}, 'by_shard_count') \
          WHERE placement_node = '{HOST}:{1}'",
        cluster.catalog_port(SOURCE),
        replica.catalog_port()
    );
    let moving: BTreeSet<String> =
        cluster.coordinator().query(&plan)?.into_iter().flatten().flatten().collect();
    let mut keys = (Vec::new(), Vec::new());
    for row in cluster.read_all_shards("ticks", "SELECT DISTINCT key FROM %s")? {
        let Some(key) = row.values[0].as_deref().and_then(|key| key.parse().ok()) else { continue };
        match moving.contains(&row.shardid.to_string()) {
            true => keys.0.push(key),
            false => keys.1.push(key),
        }
    }
    Ok(keys)
}

/// Two writers at each node.
fn start(
    cluster: &Cluster,
    moving: &[i64],
    staying: &[i64],
    over: &Arc<AtomicBool>,
) -> Result<Vec<Writer>> {
    let mut writers = Vec::new();
    for node in 0..cluster.nodes().len() {
        for (keys, moving) in [(moving, true), (staying, false)] {
            if keys.is_empty() {
                continue;
            }
            let mut client = cluster.connect(node)?;
            let (keys, over, engine) = (keys.to_vec(), Arc::clone(over), cluster.engine());
            let first = (writers.len() as i64 + 1) * STATEMENTS;
            let thread = thread::spawn(move || {
                let sql = |key: i64, op: i64| {
                    let insert = format!("INSERT INTO %s (key, op) VALUES ({key}, {op})");
                    engine.shard_sql("ticks", key, &insert)
                };
                write(&mut client, &keys, first, &over, &sql)
            });
            writers.push(Writer { node, moving, thread });
        }
    }
    Ok(writers)
}

/// One statement after the other until it is over.
fn write(
    client: &mut Client,
    keys: &[i64],
    first: i64,
    over: &AtomicBool,
    sql: &dyn Fn(i64, i64) -> String,
) -> Written {
    let mut beats = Vec::new();
    for (op, key) in (first..).zip(keys.iter().cycle()) {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let sent = Instant::now();
        client.batch_execute(&sql(*key, op)).map_err(|error| describe(&error))?;
        beats.push((op, sent, Instant::now()));
        pause(THINKING);
    }
    Ok(beats)
}

/// Which steps the call has told of, and when.
fn steps(answer: &Answer, began: Instant) -> Vec<Step> {
    let told = answer.remarks.iter().filter_map(|remark| {
        let (name, _) = remark.text.split_once(':')?;
        let is_step = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_step
            .then(|| Step { name: name.to_owned(), at: remark.at.saturating_duration_since(began) })
    });
    // The first word on each.
    let mut seen = BTreeSet::new();
    told.filter(|step| seen.insert(step.name.clone())).collect()
}

/// How many acknowledged writes are not there, and how many are there more than once.
fn audit(cluster: &Cluster, acknowledged: &[i64]) -> Result<(usize, usize)> {
    let mut found: BTreeMap<i64, usize> = BTreeMap::new();
    for row in cluster.read_all_shards("ticks", "SELECT op FROM %s WHERE op > 0")? {
        if let Some(op) = row.values[0].as_deref().and_then(|op| op.parse().ok()) {
            *found.entry(op).or_default() += 1;
        }
    }
    let lost = acknowledged.iter().filter(|op| !found.contains_key(op)).count();
    Ok((lost, found.values().filter(|count| **count > 1).count()))
}

/// Lets time pass: see `scenario.rs`.
fn pause(length: Duration) {
    thread::sleep(length); // wait: the subject is what happens meanwhile
}
