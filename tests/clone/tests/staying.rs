//! Writers of shards that stay never wait for a split: looked at every few milliseconds, on every node. Control: with
//! writers of all shards the same look sees waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clone_tests::probe::Probe;
use clone_tests::{
    Bed, Call, Engine, How, PATIENCE, Result, SOURCE, on_each_engine, ours_exists_in, replica_of,
    wait_until,
};
use test_cluster::Cluster;

/// How often is looked.
const EVERY: Duration = Duration::from_millis(5);
/// Whoever waits for somebody, but for the split itself and the servers' own processes.
const WAITING: &str = "SELECT a.application_name || ': ' || a.query || ' waits for ' || array_to_string(pg_blocking_pids(a.pid), ',')
    FROM pg_stat_activity a
   WHERE a.wait_event_type = 'Lock' AND a.backend_type = 'client backend'
     AND a.application_name NOT LIKE 'citus_fence%' AND pg_blocking_pids(a.pid) <> '{}'";

/// Writers and lookers of a cluster.
struct Watch {
    over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    lookers: Vec<JoinHandle<BTreeSet<String>>>,
    looks: Arc<AtomicU64>,
}

impl Watch {
    /// At each node one writer, of these statements in turn, and one who looks.
    fn start(cluster: &Cluster, statements: &[String]) -> Result<Watch> {
        let over = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(AtomicU64::new(0));
        let (mut writers, mut lookers) = (Vec::new(), Vec::new());
        for node in 0..cluster.nodes().len() {
            let (mut client, statements, done) =
                (cluster.connect(node)?, statements.to_vec(), Arc::clone(&over));
            writers.push(thread::spawn(move || {
                for statement in statements.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    client.batch_execute(statement).expect("a write");
                }
            }));
            let (mut client, done, count) =
                (cluster.connect(node)?, Arc::clone(&over), Arc::clone(&looks));
            lookers.push(thread::spawn(move || {
                let mut seen = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    let next = Instant::now() + EVERY;
                    for row in client.query(WAITING, &[]).expect("a look") {
                        seen.insert(format!("node {node}: {}", row.get::<_, String>(0)));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(next.saturating_duration_since(Instant::now())); // wait: looks at a steady pace
                }
                seen
            }));
        }
        Ok(Watch { over, writers, lookers, looks })
    }

    /// Whom it has seen waiting.
    fn end(self) -> BTreeSet<String> {
        self.over.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().expect("a writer");
        }
        assert!(self.looks.load(Ordering::Relaxed) > 50, "hardly a look");
        self.lookers.into_iter().flat_map(|looker| looker.join().expect("a looker")).collect()
    }
}

/// Splits while somebody writes to all shards of `probes`, or only to those that stay; who was seen waiting.
fn seen(cluster: &mut Cluster, probe: &Probe, all: bool) -> Result<BTreeSet<String>> {
    let replica = replica_of(cluster, SOURCE)?;
    let id = How::Ours.register(cluster, &replica)?;
    let (split, moving) = Probe::split(cluster, &replica, id)?;
    let inserts: Vec<String> = probe
        .inserts(cluster)
        .into_iter()
        .filter(|(shard, _)| all || !moving.contains(shard))
        .map(|(_, insert)| insert)
        .collect();
    assert!(!inserts.is_empty() && !moving.is_empty());
    let watch = Watch::start(cluster, &inserts)?;
    let call = Call::make(&cluster.coordinator().connect_params(), split);
    wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
    call.end().outcome.expect("the split");
    let seen = watch.end();
    cluster.adopt(replica);
    Ok(seen)
}

#[test]
fn writers_of_shards_that_stay_never_wait() {
    on_each_engine(|engine: Engine| {
        let mut cluster = Bed::builder(engine).build()?;
        if !ours_exists_in(&cluster)? {
            return Ok(());
        }
        let probe = Probe::make(&cluster)?;
        let waiting = seen(&mut cluster, &probe, false)?;
        assert!(waiting.is_empty(), "{waiting:#?}");
        let waiting = seen(&mut cluster, &probe, true)?;
        assert!(!waiting.is_empty(), "nobody was seen waiting: these looks show nothing");
        Ok(())
    });
}
