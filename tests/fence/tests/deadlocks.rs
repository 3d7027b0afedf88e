//! Deadlock detection goes on under the block.  Citus' own stands still there, in its maintenance
//! daemon's two-phase recovery; the control holds the same locks without the fence's search.

use std::time::{Duration, Instant};

use fence_tests::{
    BLOCK, Client, Cluster, Engine, PATIENCE, Result, Spread, UNBLOCK, call, on_each_engine,
    wait_until,
};

/// Citus looks every two seconds.
const RESOLVED: Duration = Duration::from_secs(10);
/// Longer than it takes where something looks.
const UNRESOLVED: Duration = Duration::from_secs(12);

const LOCKS: &str = "BEGIN; LOCK TABLE pg_catalog.pg_dist_node, pg_catalog.pg_dist_partition, \
     pg_catalog.pg_dist_transaction IN EXCLUSIVE MODE";

/// Two transactions, begun on `nodes`, that wait for each other over two nodes.
struct Cycle(Vec<std::thread::JoinHandle<Option<String>>>);

impl Cycle {
    fn begin(cluster: &Cluster, spread: &Spread, nodes: [usize; 2]) -> Result<Self> {
        let mut sessions: Vec<Client> = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let mut session = cluster.connect(*node)?;
            session.batch_execute("BEGIN").expect("a transaction");
            session.batch_execute(&spread.update(cluster, number)).expect("the first row");
            sessions.push(session);
        }
        let threads = sessions
            .into_iter()
            .enumerate()
            .map(|(number, mut session)| {
                let crosswise = spread.update(cluster, 1 - number);
                std::thread::spawn(move || {
                    let error = session.batch_execute(&crosswise).err();
                    session.batch_execute("ROLLBACK").expect("a rollback");
                    error.and_then(|error| error.code().map(|code| code.code().to_owned()))
                })
            })
            .collect();
        Ok(Self(threads))
    }

    fn is_resolved(&self) -> bool {
        self.0.iter().all(std::thread::JoinHandle::is_finished)
    }

    /// One of the two was the victim.
    fn end(self) {
        let codes: Vec<_> =
            self.0.into_iter().map(|thread| thread.join().expect("a thread")).collect();
        let victims = codes.iter().flatten().count();
        assert_eq!(victims, 1, "{codes:?}");
        assert!(codes.contains(&Some("40P01".to_owned())), "{codes:?}");
    }
}

/// Waits until the maintenance daemon of every node stands at the block.
fn wait_for_daemons(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        wait_until("the maintenance daemon to wait for the block", PATIENCE, || {
            let waiting = node
                .query_value(
                    "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
                      WHERE a.backend_type LIKE 'Citus Maintenance Daemon%' AND NOT l.granted",
                )
                .ok()?;
            (waiting != "0").then_some(())
        })?;
    }
    Ok(())
}

#[test]
fn a_distributed_deadlock_is_resolved_under_the_block() {
    on_each_engine(|engine: Engine| {
        if engine == Engine::Embedded {
            // It has no deadlock detection that could stand still.
            return Ok(());
        }
        let cluster = Cluster::builder(engine)
            .workers(2)
            .setting("citus.recover_2pc_interval", "500ms")
            .build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        for nodes in [[0, 0], [1, 2], [0, 2]] {
            assert!(call(&mut client, BLOCK));
            wait_for_daemons(&cluster)?;
            // The sessions that search may be lost; they come back.
            for node in cluster.nodes() {
                node.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE application_name = 'citus_fence helper'",
                )?;
            }
            let begun = Instant::now();
            let cycle = Cycle::begin(&cluster, &spread, nodes)?;
            wait_until(&format!("an end of the deadlock from {nodes:?}"), RESOLVED, || {
                cycle.is_resolved().then_some(())
            })?;
            assert!(begun.elapsed() < RESOLVED);
            cycle.end();
            assert_eq!(fence_tests::state(&mut client), "active");
            assert!(call(&mut client, UNBLOCK));
        }

        let mut holders = Vec::new();
        for node in 0..cluster.nodes().len() {
            let mut holder = cluster.connect(node)?;
            holder.batch_execute(LOCKS).expect("the locks");
            holders.push(holder);
        }
        wait_for_daemons(&cluster)?;
        let cycle = Cycle::begin(&cluster, &spread, [0, 0])?;
        let resolved = wait_until("a resolution", UNRESOLVED, || cycle.is_resolved().then_some(()));
        assert!(resolved.is_err(), "the locks alone do not stop Citus' search: this shows nothing");
        for mut holder in holders {
            holder.batch_execute("ROLLBACK").expect("a rollback");
        }
        wait_until("the end of the deadlock after the release", PATIENCE, || {
            cycle.is_resolved().then_some(())
        })?;
        cycle.end();
        Ok(())
    });
}
