//! Sessions that a clone has from before it is a node: they read there as on any replica. Once it is one, what they write and
//! read goes by its own identity, and not to what is left there of its source's shards.

use std::collections::BTreeSet;

use clone_tests::{Bed, Engine, How, Result, Stand, ours_exists};
use test_cluster::postgres::Client;

/// Some in every shard, of those that move and of those that stay.
const KEYS: i64 = 40;
/// As often as it takes for a plan that is kept.
const TIMES: i64 = 8;

fn count(client: &mut Client, key: i64) -> i64 {
    let rows = client.simple_query(&format!("EXECUTE r({key})")).expect("a read");
    let row = rows.iter().find_map(|message| match message {
        test_cluster::postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.and_then(|text| text.parse().ok()).expect("a count")
}

#[test]
fn sessions_of_the_replica_write_and_read_as_the_node_that_it_became() -> Result<()> {
    if !Engine::available().contains(&Engine::Citus) {
        return Ok(());
    }
    let mut bed = Bed::make(Engine::Citus, false)?;
    if !ours_exists(&bed)? {
        return Ok(());
    }
    bed.cluster.coordinator().execute(&format!(
        "INSERT INTO writes (key, op, part) SELECT generate_series(1, {KEYS}), 1, 0"
    ))?;
    let replica = bed.replica()?;
    let id = How::Ours.register(&bed.cluster, &replica)?;
    // The split has ended those that were there; these come while it is reserved and still a replica.
    let mut stand = Stand::before(&bed.cluster, "promoting")?;
    let call = How::Ours.split(&bed.cluster, id);
    stand.wait(&call)?;
    let mut sessions = Vec::new();
    for number in 0..2 {
        let mut client = replica.server().connect()?;
        client
            .batch_execute(
                "PREPARE r (bigint) AS SELECT count(*) FROM writes WHERE key = $1;
                 PREPARE w (bigint, bigint) AS INSERT INTO writes VALUES ($1, $2, -1)",
            )
            .expect("statements");
        for key in 1..=KEYS {
            for _ in 0..TIMES {
                assert_eq!(count(&mut client, key), 1);
            }
        }
        client.batch_execute("EXECUTE w(1, 2)").expect_err("a write on a replica");
        sessions.push((client, 1_000 * (number + 1)));
    }
    stand.let_go()?;
    call.end().outcome.expect("the split");
    bed.cluster.adopt(replica);

    let mut acknowledged = BTreeSet::new();
    for (client, base) in &mut sessions {
        for key in 1..=KEYS {
            let op = *base + key;
            client.batch_execute(&format!("EXECUTE w({key}, {op})")).expect("a write");
            acknowledged.insert(op);
        }
    }
    let rows = bed.cluster.read_all_shards("writes", "SELECT op FROM %s WHERE op > 1")?;
    let there: Vec<i64> =
        rows.iter().filter_map(|row| row.values[0].as_deref()?.parse().ok()).collect();
    let distinct: BTreeSet<i64> = there.iter().copied().collect();
    assert_eq!(distinct, acknowledged);
    assert_eq!(there.len(), acknowledged.len());
    // What comes by another node is seen here, too.
    let more =
        format!("INSERT INTO writes (key, op, part) SELECT generate_series(1, {KEYS}), 9000, 0");
    bed.cluster.coordinator().execute(&more)?;
    for (client, _) in &mut sessions {
        for key in 1..=KEYS {
            assert_eq!(count(client, key), 4, "key {key}");
        }
    }
    Ok(())
}
