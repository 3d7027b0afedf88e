//! How long a dump of many shards needs for its plan, and how many locks it holds: empty shards of one table.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use test_cluster::{Cluster, Engine, Error, Result};

use crate::figures::Table;
use crate::program::{Room, fence};

/// Numbers of shards that nobody else draws here.
const FIRST: u32 = 50_000_000;

/// Shards made in one transaction.
const AT_ONCE: u32 = 1000;

const WORKERS: u32 = 2;

/// How many shards are copied while the locks are counted.
const COPIED: u32 = 100;

/// One dump for each number of shards.
pub fn measure(engine: Engine, counts: &[u32], table: &mut Table) -> Result<()> {
    for shards in counts {
        let cluster = Cluster::builder(engine)
            .workers(WORKERS as usize)
            .fsync(false)
            .setting("autovacuum", "off")
            .build()?;
        create(&cluster, *shards)?;
        let dump = dump(&cluster, *shards)?;
        let target = if *shards > 1000 { " (<= 5)" } else { "" };
        table.note(
            &format!("{shards} empty shards"),
            &format!(
                "planned {:.2} s after the command began{target}, at most {} locks at once",
                dump.planned.as_secs_f64(),
                dump.locks
            ),
        );
    }
    Ok(())
}

/// Rows of the catalog, and tables, without the way that they usually come to be.
fn create(cluster: &Cluster, shards: u32) -> Result<()> {
    cluster.create_distributed("CREATE TABLE many (id bigint)", "many", "id", 1)?;
    let last = FIRST + shards - 1;
    let coordinator = cluster.coordinator();
    coordinator.execute("DELETE FROM pg_dist_placement; DELETE FROM pg_dist_shard")?;
    coordinator.execute(&format!(
        "INSERT INTO pg_dist_shard (logicalrelid, shardid, shardstorage, shardminvalue, shardmaxvalue)
         SELECT 'many'::regclass, n, 't', low::text, (low + width - 1)::text
           FROM generate_series({FIRST}, {last}) n, LATERAL (SELECT (1::bigint << 32) / {shards} AS width) w,
                LATERAL (SELECT -2147483648 + (n - {FIRST}) * width AS low) l;
         INSERT INTO pg_dist_placement (placementid, shardid, shardstate, shardlength, groupid)
         SELECT n, n, 1, 0, 1 + n % {WORKERS} FROM generate_series({FIRST}, {last}) n; ANALYZE"
    ))?;
    std::thread::scope(|scope| {
        let make = |worker: u32| {
            let server = cluster.worker(worker as usize);
            (FIRST..=last).step_by(AT_ONCE as usize).try_for_each(|first| {
                let end = (first + AT_ONCE - 1).min(last);
                server.execute(&format!(
                    "DO $$BEGIN FOR n IN {first}..{end} LOOP IF 1 + n % {WORKERS} = {worker} THEN
                       EXECUTE format('CREATE TABLE many_%s (id bigint)', n); END IF; END LOOP; END$$"
                ))
            })
        };
        let threads: Vec<_> =
            (1..=WORKERS).map(|worker| scope.spawn(move || make(worker))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

struct Dump {
    planned: Duration,
    locks: i64,
}

/// Begins one, and ends it once some shards are copied.
fn dump(cluster: &Cluster, shards: u32) -> Result<Dump> {
    let failed = |error: std::io::Error| Error::Environment(error.to_string());
    let room = Room::new()?;
    let dir = room.path("dump");
    let mut command = fence("dump", cluster)?;
    command.args(["-v", "-q"]).arg(&dir).stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    let (over, pid) = (AtomicBool::new(false), child.id().to_string());
    let (planned, locks, said) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| most_locks(cluster, &over));
        let (mut planned, mut said) = (None, String::new());
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        for line in lines.map_while(std::result::Result::ok) {
            if line.contains(&format!("tables in {shards} parts")) {
                planned = Some(began.elapsed());
            }
            let left = line.split(" parts are left").next().unwrap_or_default();
            let left = left.rsplit(' ').next().and_then(|left| left.parse().ok());
            if planned.is_some() && left.is_some_and(|left: u32| left + COPIED <= shards) {
                let _ = Command::new("kill").args(["-INT", &pid]).status();
            }
            said = line;
        }
        over.store(true, Ordering::Relaxed);
        let locks = watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (planned, locks, said)
    });
    child.wait().map_err(failed)?;
    let planned = planned.ok_or_else(|| Error::Environment(format!("no plan: {said}")))?;
    Ok(Dump { planned, locks: locks? })
}

/// All locks of all sessions of the command on all nodes, but on catalogs and on transactions themselves, at the moment when there were most.
fn most_locks(cluster: &Cluster, over: &AtomicBool) -> Result<i64> {
    let sql = "SELECT count(*)::text FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                WHERE a.application_name LIKE '%citus-fence%' AND l.relation >= 16384";
    let mut most = 0;
    while !over.load(Ordering::Relaxed) {
        let mut now = 0;
        for node in cluster.nodes() {
            now += node.query_value(sql)?.parse::<i64>().unwrap_or(0);
        }
        most = most.max(now);
    }
    Ok(most)
}
