//! Sessions that had touched a row before it moved: in an open transaction, on a connection between nodes that they
//! have kept, with a prepared statement. What they write later is in the new place, or refused; it is never lost.
//! Control: Citus' own split, after which the sessions of some nodes go on in the old place.

use std::collections::BTreeSet;

use clone_tests::{Bed, Engine, How, PATIENCE, Result, on_each_engine, ours_exists, wait_until};
use test_cluster::postgres::Client;

/// Keys that each session writes: some in every shard.
const KEYS: i64 = 40;

/// Splits the source between what sessions read and what they write; the acknowledged writes that are lost.
fn lost(bed: &mut Bed, engine: Engine, how: How) -> Result<usize> {
    let read =
        |key: i64| engine.shard_sql("writes", key, &format!("SELECT 1 FROM %s WHERE key = {key}"));
    let write = |key: i64, op: i64| {
        let insert = format!("INSERT INTO %s (key, op, part) VALUES ({key}, {op}, 0)");
        engine.shard_sql("writes", key, &insert)
    };
    let replica = bed.replica()?;
    let id = how.register(&bed.cluster, &replica)?;
    let mut next = 1;
    // In a transaction that is open since before, and in one of their own after plans and connections are kept.
    let mut sessions: Vec<(Client, i64, bool)> = Vec::new();
    for node in 0..bed.cluster.nodes().len() {
        for open in [true, false] {
            let mut client = bed.cluster.connect(node)?;
            if engine == Engine::Citus && !open {
                client
                    .batch_execute(
                        "PREPARE w (bigint, bigint) AS INSERT INTO writes VALUES ($1, $2, -1)",
                    )
                    .expect("a statement");
                // As often as it takes for a plan that is kept.
                for key in 1..=KEYS {
                    client.batch_execute(&format!("EXECUTE w({key}, 0)")).expect("a write");
                }
            }
            // A read of the embedded engine holds the shard to the end of its transaction, as a write does.
            let open = open && engine == Engine::Citus;
            if open {
                client.batch_execute("BEGIN").expect("a transaction");
            }
            for key in 1..=KEYS {
                client.batch_execute(&read(key)).expect("a read");
            }
            sessions.push((client, next * 1_000, open));
            next += 1;
        }
    }
    let call = how.split(&bed.cluster, id);
    wait_until("the split", PATIENCE, || call.has_ended().then_some(()))?;
    call.end().outcome.expect("the split");
    bed.cluster.adopt(replica);

    let mut acknowledged = BTreeSet::new();
    for (client, base, open) in &mut sessions {
        let mut written = Vec::new();
        for key in 1..=KEYS {
            let op = *base + key;
            let sql = if engine == Engine::Citus && !*open {
                format!("EXECUTE w({key}, {op})")
            } else {
                write(key, op)
            };
            if client.batch_execute(&sql).is_ok() {
                written.push(op);
            } else if *open {
                written.clear();
                break;
            }
        }
        if !*open || client.batch_execute("COMMIT").is_ok() {
            acknowledged.extend(written);
        }
    }
    let rows = bed.cluster.read_all_shards("writes", "SELECT op FROM %s WHERE op > 0")?;
    let there: BTreeSet<i64> =
        rows.iter().filter_map(|row| row.values[0].as_deref()?.parse().ok()).collect();
    assert!(!acknowledged.is_empty(), "nothing was acknowledged");
    let lost = acknowledged.difference(&there).count();
    println!("{engine}, {how:?}: {lost} of {} acknowledged writes are lost", acknowledged.len());
    Ok(lost)
}

#[test]
fn what_kept_sessions_write_is_in_the_new_place() {
    on_each_engine(|engine: Engine| {
        let mut bed = Bed::make(engine, false)?;
        if !ours_exists(&bed)? {
            return Ok(());
        }
        assert_eq!(lost(&mut bed, engine, How::Ours)?, 0);
        Ok(())
    });
}

#[test]
fn after_citus_own_split_some_of_it_is_lost() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let mut bed = Bed::make(Engine::Citus, false)?;
    if How::CitusOwn.exists(&bed.cluster)? {
        let lost = lost(&mut bed, Engine::Citus, How::CitusOwn)?;
        assert!(lost > 0, "nothing is lost: this test shows nothing");
    }
    Ok(())
}
