//! Blocked is blocked, free is free.

use std::time::Duration;

use fence_tests::{
    BLOCK, Client, Cluster, Engine, Heard, PATIENCE, Result, Spread, UNBLOCK, call, in_background,
    on_each_engine, wait_until,
};

const SHORT: Duration = Duration::from_millis(300);

const LATER: &str = "CREATE TABLE later (id bigint PRIMARY KEY)";

/// Waits until as many sessions wait because of the block, on whichever node; what the function shows.
fn wait_for_waiters(client: &mut Client, count: usize) -> Result<Vec<(i32, i32, String)>> {
    wait_until(&format!("{count} waiters"), PATIENCE, || {
        let rows = client
            .query("SELECT nodeport, pid, query FROM citus_backup_block_waiters()", &[])
            .unwrap_or_else(|error| panic!("waiters: {}", fence_tests::words(&error)));
        (rows.len() >= count)
            .then(|| rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    })
}

#[test]
fn two_phase_writers_wait_on_every_node_and_go_on_without_an_error() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let writers: Vec<_> = (0..cluster.nodes().len())
            .map(|node| in_background(&cluster, node, &spread.two_phase(&cluster)))
            .collect();
        // All three transfers touch the same two rows, so only one of them stands at the fence, the
        // others behind its row locks, on the worker: those are waiters too.
        let waiting = wait_for_waiters(&mut client, 1)?;
        assert!(!waiting.is_empty());
        assert!(writers.iter().all(|writer| !writer.is_finished()), "a writer got through");
        assert_eq!(spread.values(&cluster)?, [0, 0], "a write became visible under the block");
        assert!(call(&mut client, UNBLOCK));
        for writer in writers {
            let result = writer.join().expect("a thread");
            assert!(result.is_ok(), "{:?}", result.err().map(|error| fence_tests::words(&error)));
        }
        assert_eq!(spread.values(&cluster)?, [3, 3]);
        Ok(())
    });
}

#[test]
fn waiters_are_named_on_whichever_node_they_wait() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        for node in 0..cluster.nodes().len() {
            assert!(call(&mut client, BLOCK));
            let writer = in_background(&cluster, node, &spread.two_phase(&cluster));
            // The query's text is a moment older than the wait: it may still be the one before.
            let waiting = wait_until("the COMMIT to be named", PATIENCE, || {
                let waiting = wait_for_waiters(&mut client, 1).ok()?;
                (waiting[0].2 == "COMMIT").then_some(waiting)
            })?;
            assert_eq!(waiting.len(), 1, "{waiting:?}");
            assert_eq!(waiting[0].0, i32::from(cluster.node(node).port()), "{waiting:?}");
            let pids = cluster
                .node(node)
                .query("SELECT pid FROM pg_stat_activity WHERE query = 'COMMIT'")?;
            let pid = waiting[0].1.to_string();
            assert!(pids.iter().any(|row| row[0].as_deref() == Some(&pid)), "{pid} in {pids:?}");
            assert!(call(&mut client, UNBLOCK));
            writer.join().expect("a thread").expect("the write goes on");
        }
        Ok(())
    });
}

#[test]
fn a_waiter_behind_a_blocked_transaction_on_another_node_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let first = in_background(&cluster, 0, &spread.two_phase(&cluster));
        wait_for_waiters(&mut client, 1)?;
        // Begun on a node that has nothing to do with the first, it wants a row that the first keeps
        // on a third: there the first is idle.
        let second = in_background(&cluster, spread.nodes[1], &[spread.update(&cluster, 0)]);
        let waiting = wait_for_waiters(&mut client, 2)?;
        let port = i32::from(cluster.node(spread.nodes[0]).port());
        assert!(waiting.iter().any(|waiter| waiter.0 == port), "{waiting:?}");
        assert!(call(&mut client, UNBLOCK));
        for session in [first, second] {
            session.join().expect("a thread").expect("the write goes on");
        }
        assert_eq!(spread.values(&cluster)?, [2, 1]);
        Ok(())
    });
}

#[test]
fn reads_and_single_shard_writes_go_on() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        for node in 0..cluster.nodes().len() {
            let mut user = cluster.connect(node)?;
            user.batch_execute("SET lock_timeout = '2s'").expect("a setting");
            for key in 0..2 {
                let update = spread.update(&cluster, key);
                user.batch_execute(&update).unwrap_or_else(|error| {
                    panic!("on node {node}: {}", fence_tests::words(&error))
                });
                let read = cluster.shard_sql(
                    "spread",
                    spread.keys[key],
                    &format!("SELECT n FROM %s WHERE id = {}", spread.keys[key]),
                );
                user.batch_execute(&read).expect("a read");
            }
        }
        assert_eq!(spread.values(&cluster)?, [3, 3]);
        assert!(call(&mut client, UNBLOCK));
        Ok(())
    });
}

#[test]
fn ddl_and_node_changes_wait() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spare = cluster.start_spare("spare")?;
        Spread::create(&cluster)?;
        match engine {
            Engine::Citus => cluster.coordinator().execute(LATER)?,
            Engine::Embedded => {
                cluster.execute_everywhere(LATER)?;
                // There the definitions of tables do not come with the catalog.
                spare.execute(&format!("{LATER}; {}", Spread::DDL))?;
            }
        }
        let mut client = cluster.connect(0)?;
        // The control: with no block in the way none of this waits.
        let change = |client: &mut Client, what: &str| {
            let sql = format!(
                "SET lock_timeout = '{}ms'; SELECT {what}('127.0.0.1', {}); RESET lock_timeout",
                SHORT.as_millis(),
                spare.port()
            );
            client
                .batch_execute(&sql)
                .unwrap_or_else(|error| panic!("{}", fence_tests::words(&error)));
        };
        change(&mut client, "citus_add_node");
        change(&mut client, "citus_remove_node");
        assert!(call(&mut client, BLOCK));
        let waiting = [
            format!("SELECT citus_add_node('127.0.0.1', {})", spare.port()),
            "SELECT create_distributed_table('later', 'id')".to_owned(),
        ];
        let sessions: Vec<_> = waiting
            .iter()
            .map(|sql| in_background(&cluster, 0, std::slice::from_ref(sql)))
            .collect();
        let found = wait_for_waiters(&mut client, 2)?;
        assert!(found.iter().any(|(_, _, query)| query.contains("citus_add_node")), "{found:?}");
        assert!(found.iter().any(|(_, _, query)| query.contains("later")), "{found:?}");
        assert!(sessions.iter().all(|session| !session.is_finished()));
        assert!(call(&mut client, UNBLOCK));
        for session in sessions {
            let result = session.join().expect("a thread");
            assert!(result.is_ok(), "{:?}", result.err().map(|error| fence_tests::words(&error)));
        }
        Ok(())
    });
}

/// Somebody else unblocks mine and begins another: unblocking by name leaves that one alone.
#[test]
fn who_names_a_block_releases_no_other() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut mine = Heard::on(&cluster, 0)?;
        let start = "SELECT block_start_time::text FROM citus_backup_block_status()";
        assert!(call(&mut mine.client, BLOCK));
        let began: String = mine.client.query_one(start, &[]).expect("a status").get(0);
        let mut other = cluster.connect(0)?;
        assert!(call(&mut other, UNBLOCK));
        assert!(call(&mut other, BLOCK));
        let unblock = format!("SELECT citus_unblock_backup_block('{began}')");
        assert!(!call(&mut mine.client, &unblock), "mine is over");
        let said = mine.take();
        assert!(
            said.iter().any(|text| text.contains("is over") && text.contains("\"active\"")),
            "{said:?}"
        );
        assert_eq!(fence_tests::state(&mut other), "active", "the other one goes on");
        // The control: without a name it is the other one that goes.
        assert!(call(&mut mine.client, UNBLOCK));
        assert!(mine.take().is_empty());
        Ok(())
    });
}

/// What runs on another node on behalf of a client waits there; the client is named with it.
#[test]
fn the_client_of_a_session_that_waits_on_another_node_is_named() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(2).build()?;
        let spread = Spread::create(&cluster)?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        let first = in_background(&cluster, 0, &spread.two_phase(&cluster));
        wait_for_waiters(&mut client, 1)?;
        // From the coordinator to a row that the first keeps on a worker.
        let second = in_background(&cluster, 0, &[spread.update(&cluster, 0)]);
        let waiting = wait_until("the second client", PATIENCE, || {
            let waiting = wait_for_waiters(&mut client, 3).ok()?;
            waiting
                .iter()
                .any(|row| row.2.starts_with("UPDATE") || row.2.contains("spread"))
                .then_some(waiting)
        })?;
        let ports: Vec<i32> = waiting.iter().map(|row| row.0).collect();
        let here = i32::from(cluster.node(0).port());
        let there = i32::from(cluster.node(spread.nodes[0]).port());
        assert_eq!(ports.iter().filter(|port| **port == here).count(), 2, "{waiting:?}");
        assert_eq!(ports.iter().filter(|port| **port == there).count(), 1, "{waiting:?}");
        let mut seen: Vec<(i32, i32)> = waiting.iter().map(|row| (row.0, row.1)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), waiting.len(), "twice: {waiting:?}");
        let pids = cluster.node(0).query(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'test' AND query ~ 'UPDATE' \
             AND state = 'active' AND pid <> pg_backend_pid()",
        )?;
        let named = waiting.iter().any(|row| {
            row.0 == here && pids.iter().any(|pid| pid[0].as_deref() == Some(&row.1.to_string()))
        });
        assert!(named, "{pids:?} in {waiting:?}");
        assert!(call(&mut client, UNBLOCK));
        for session in [first, second] {
            session.join().expect("a thread").expect("the write goes on");
        }
        Ok(())
    });
}

#[test]
fn the_block_outlives_its_caller() {
    on_each_engine(|engine: Engine| {
        let cluster = Cluster::builder(engine).workers(1).build()?;
        let mut client = cluster.connect(0)?;
        assert!(call(&mut client, BLOCK));
        client.close().expect("a clean end");
        let mut other = cluster.connect(0)?;
        assert_eq!(fence_tests::state(&mut other), "active");
        assert!(call(&mut other, UNBLOCK));
        assert!(!call(&mut other, UNBLOCK), "nothing is left to release");
        Ok(())
    });
}
